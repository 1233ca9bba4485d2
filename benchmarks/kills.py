"""Kill commands at random moments and see what is left; the short form is tests/slow/test_faults.py.

    python -m benchmarks.kills [KILLS]

Each round starts a command that writes (`victims` below) on the small real sample, kills its whole process group with
SIGKILL at a random moment, and asks three things. Is any file half written? Does
`mlops_pkg mend` set right what DVC left torn, and is everything back that stood there before? Does the next command
succeed, with the results of one that nothing disturbed? The figures go to benchmarks/kills.json.
"""

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.slow.conftest import Project, make_project
from tests.slow.kills import (
    Kill,
    Predict,
    Push,
    Repro,
    Victim,
    Walk,
    commit,
    kill,
)


def summary(kills: list[Kill]) -> dict[str, object]:
    """The figures of one command."""
    torn = [line for one in kills for line in one.mended if "torn" in line]
    back = [line for one in kills for line in one.mended if "former output is back" in line]
    return {
        "kills": len(kills),
        "left": dict(sorted(Counter(one.left for one in kills).items())),
        "torn_dvc_lock_mended": sum("dvc.lock" in line for line in torn),
        "torn_rwlock_mended": sum("rwlock" in line for line in torn),
        "former_output_put_back": len(back),
        "pushes_completed_after_verify": sum("verify named" in line for one in kills for line in one.mended),
        "lost": sum(bool(one.lost) for one in kills),
    }


def write(done: list[Kill]) -> None:
    """Write the figures of all kills so far."""
    names = sorted({one.command for one in done})
    commands = {name: summary([one for one in done if one.command == name]) for name in names}
    figures = {"kills": len(done), "lost": sum(bool(one.lost) for one in done), "commands": commands}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


def build() -> Project:
    """A project on the small sample whose production stages are built and committed."""
    project = make_project(Path(tempfile.mkdtemp(prefix="kills-")) / "project")
    project.repro("package")
    commit(project)
    return project


def campaign(project: Project, kills: int) -> bool:
    """Kill that many times; whether nothing was lost."""
    generator = random.Random(0)
    victims: dict[Victim, int] = {  # and how often each is chosen; a walk takes longest
        Repro(project): 6,
        Walk(project): 3,
        Predict(project, 15_000): 7,
        Push(project): 7,
    }
    durations: dict[tuple[str, str], float] = {}
    done: list[Kill] = []
    for number in range(1, kills + 1):
        one = kill(generator.choices([*victims], [*victims.values()])[0], durations, generator)
        done.append(one)
        print(f"{number}/{kills}: {one.command}: {one.left}; {'; '.join(one.mended)}; {one.lost}", flush=True)
        write(done)  # after each, so that a campaign that is stopped has figures too
    return not any(one.lost for one in done)


if __name__ == "__main__":
    sys.exit(0 if campaign(build(), int(sys.argv[1]) if len(sys.argv) > 1 else 200) else 1)
