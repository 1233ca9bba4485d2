"""Kill `dvc repro` at random moments and see what is left; the short form is tests/slow/test_repro.py.

    python -m benchmarks.kills [KILLS]

Each round forces the five production stages to run again on the small real sample, kills the whole process group with
SIGKILL at a random moment, and asks three things: no stage's folder holds half of its outputs, every file in it is one
that a finished stage wrote, and the next `dvc repro` gives the same digests. DVC writes dvc.lock in place, so a kill in
that moment tears it; such a round is counted, and goes on with the dvc.lock that git would restore. The figures go to
benchmarks/kills.json.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlops_pkg.core.stage import STAGES
from tests.slow.conftest import Project, make_project


def state(project: Project, stage: str, expected: dict[str, str]) -> str:
    """What is left of a stage's outputs: none, complete, or half."""
    folder = project.root / "artifacts" / stage
    wanted = {Path(path).name: md5 for path, md5 in expected.items() if Path(path).parent.name == stage}
    files = folder.iterdir() if folder.exists() else ()
    found = {path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}
    return "none" if not found else "complete" if found == wanted else "half"


def main(kills: int) -> int:
    """Run the campaign; 0 when nothing was lost."""
    generator = random.Random(0)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    project = make_project(folder / "project")
    started = time.monotonic()
    project.repro("package")
    whole, expected = time.monotonic() - started, project.digests()
    lock = project.root / "dvc.lock"
    committed = lock.read_bytes()
    left, lost, torn = Counter[str](), 0, 0
    for number in range(1, kills + 1):
        running = project.start("dvc", "repro", "--force", "package")
        time.sleep(generator.uniform(0.3, whole))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        states = [state(project, stage, expected) for stage in STAGES]
        left.update(states)
        again = project.run("dvc", "repro", "package", check=False)
        if again.returncode and "dvc.lock" in again.stderr:
            torn += 1
            lock.write_bytes(committed)
            project.repro("package")
        same = project.digests() == expected
        lost += not same or "half" in states
        print(
            f"{number}/{kills}: {dict(zip(STAGES, states, strict=True))}, same digests afterwards: {same}", flush=True
        )
    figures = {"kills": kills, "left": dict(sorted(left.items())), "torn_dvc_lock": torn, "lost": lost}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
