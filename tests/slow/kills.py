"""Commands that are killed at a random moment, what they leave, and whether the next command goes on well."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import IDENTITY, STAGES
from tests.slow.conftest import Project

FORMER = b"what stood there before\n"


@dataclass(frozen=True)
class Kill:
    """What became of one kill."""

    command: str
    left: str  # former, new, part, missing or half
    mended: tuple[str, ...]  # what `mend` said, and what else had to be done
    lost: str  # what was lost for good; empty where nothing was


def files(folder: Path) -> dict[str, bytes]:
    """Each file below a folder by its path within it; scratch is left out."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    seen = {name: path for name, path in found.items() if not any(scratch(part) for part in name.parts)}
    return {name.as_posix(): path.read_bytes() for name, path in seen.items()}


def scratch(name: str) -> bool:
    """Whether this is the name of something temporary."""
    return name.startswith(".") and name.endswith(".tmp")


class Victim:
    """A command, how to set the scene for it, and how to see what it left."""

    name = ""
    stages: tuple[str, ...] = ("",)  # that the command may be called with

    def __init__(self, project: Project) -> None:
        self.project = project
        self.stage = self.stages[0]  # that it is called with
        self.notes: list[str] = []  # what had to be done beside `mend`

    def command(self) -> list[str]:
        """The command that is killed, and that is run again afterwards."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What stands there before the command."""

    def state(self) -> str:
        """What stands there now: former, new, part (some of each, each whole), missing, or half."""
        raise NotImplementedError

    def again(self) -> str:
        """Go on as a user would; what is then not as it must be."""
        done = self.project.run(*self.command(), check=False)
        return self.told(done.returncode, done.stdout + done.stderr) or self.difference()

    def difference(self) -> str:
        """Where the result differs from that of a command that was not killed."""
        return "" if self.state() == "new" else f"after the next command: {self.state()}"

    def told(self, code: int, output: str) -> str:
        """The last words of a command that failed."""
        return f"exit {code}: {output.strip()[-500:]}" if code else ""


class Repro(Victim):
    """`dvc repro` of one production stage, whether or not it is stale."""

    name = "dvc repro"
    stages = STAGES

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.digests = project.digests()
        self.wanted = {stage: files(project.root / "artifacts" / stage) for stage in STAGES}

    def command(self) -> list[str]:
        return ["dvc", "repro", "--force", "--single-item", self.stage]

    def prepare(self) -> None:
        (self.project.root / "artifacts" / self.stage / "former").write_bytes(FORMER)

    def state(self) -> str:
        found = files(self.project.root / "artifacts" / self.stage)
        former = found.pop("former", None)
        if found != self.wanted[self.stage]:
            return "missing" if found.items() < self.wanted[self.stage].items() else "half"
        return "former" if former else "new"

    def again(self) -> str:
        (self.project.root / "artifacts" / self.stage / "former").unlink(missing_ok=True)
        done = self.project.run("dvc", "repro", "package", check=False)
        return self.told(done.returncode, done.stdout + done.stderr) or self.difference()

    def difference(self) -> str:
        found = {stage: files(self.project.root / "artifacts" / stage) for stage in STAGES}
        wrong = [f"{stage}: other files" for stage in STAGES if found[stage] != self.wanted[stage]]
        wrong += ["dvc.lock: other digests"] if self.project.digests() != self.digests else []
        return ", ".join(wrong)


class Walk(Victim):
    """`mlops_pkg research` of one stage."""

    name = "mlops_pkg research"

    def __init__(self, project: Project, stages: tuple[str, ...] = ("ingest", "features")) -> None:
        self.stages = stages
        super().__init__(project)
        self.home = project.root / "research"
        self.wanted = {}
        for stage in self.stages:
            self.stage = stage
            project.run(*self.command())
            self.wanted[stage] = self.found()

    def found(self) -> dict[str, bytes]:
        """The walk's outputs, and its executed notebook."""
        notebook = self.home / f"{self.stage}.ipynb"
        return files(self.home / self.stage) | ({"": notebook.read_bytes()} if notebook.exists() else {})

    def command(self) -> list[str]:
        return ["python", "-m", "mlops_pkg", "research", self.stage]

    def prepare(self) -> None:
        (self.home / self.stage / "former").write_bytes(FORMER)
        (self.home / f"{self.stage}.ipynb").write_bytes(FORMER)

    def state(self) -> str:
        found = self.found()
        former, notebook = found.pop("former", None), found.pop("", None)
        outputs = {name: content for name, content in self.wanted[self.stage].items() if name}
        if found != outputs or notebook not in (FORMER, self.wanted[self.stage][""]):
            return "missing" if not found and notebook else "half"
        return "part" if bool(former) != (notebook == FORMER) else "former" if former else "new"


class Predict(Victim):
    """`mlops_pkg predict` from csv to csv, with a row that is rejected."""

    name = "mlops_pkg predict"

    def __init__(self, project: Project, rows: int) -> None:
        from mlops_pkg.core.workspace import read_table

        super().__init__(project)
        self.place = project.root / "scored"
        self.place.mkdir()
        table = read_table(project.root / "artifacts" / "ingest" / "test.parquet")
        lines = table.to_csv(index=False, lineterminator="\n").splitlines(keepends=True)
        body = (lines[1:] * (1 + rows // len(lines)))[:rows]
        body[0] = "," * (len(table.columns) - 1) + "\n"
        (self.place / "in.csv").write_text("".join([lines[0], *body]))
        project.run(*self.command())
        self.wanted = {name: (self.place / name).read_bytes() for name in ("out.csv", "out.rejects.csv")}

    def command(self) -> list[str]:
        return ["python", "-m", "mlops_pkg", "predict", "scored/in.csv", "scored/out.csv"]

    def prepare(self) -> None:
        for name in self.wanted:
            (self.place / name).write_bytes(FORMER)

    def state(self) -> str:
        found = {name: (self.place / name).read_bytes() for name in self.wanted if (self.place / name).exists()}
        if len(found) < len(self.wanted):
            return "missing"
        kinds = {
            "former" if text == FORMER else "new" if text == self.wanted[name] else "half"
            for name, text in found.items()
        }
        return "half" if "half" in kinds else kinds.pop() if len(kinds) == 1 else "part"

    def difference(self) -> str:
        left = [path.name for path in self.place.iterdir() if scratch(path.name)]
        return super().difference() or (f"scratch is left: {left}" if left else "")


class Push(Victim):
    """`dvc push` of everything to a folder that is new each time, as DVC notes which folder holds what."""

    name = "dvc push"

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.number = 0
        self.prepare()
        project.run(*self.command())
        self.wanted = files(self.storage)

    @property
    def storage(self) -> Path:
        """The folder of this round."""
        return self.project.root.parent / f"storage-{self.number}"

    def command(self) -> list[str]:
        return ["dvc", "push"]

    def prepare(self) -> None:
        shutil.rmtree(self.storage, ignore_errors=True)
        self.number += 1
        text = f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {self.storage}\n"
        (self.project.root / ".dvc" / "config.local").write_text(text)

    def again(self) -> str:
        """Push again, and once more after `verify` where it names what DVC left out, or left empty: DVC makes an
        object's file before it has its bytes (a reflink), and pushes none that is there.
        """
        told = super().again()
        if not told:
            return told
        self.project.run("python", "-m", "mlops_pkg", "verify", check=False)
        verdict = json.loads((self.project.root / "reports" / "verify.json").read_text())
        findings = [one for check in verdict["checks"] if check["check"] == "remote" for one in check["findings"]]
        if not findings:
            return f"{told}, and verify does not see it"
        for one in re.findall(r"delete its object (\S+) there", "\n".join(findings)):
            (self.storage / "files" / "md5" / one).unlink()
        self.notes.append("verify named what the push after a killed one had left out")
        return super().again()

    def difference(self) -> str:
        found = files(self.storage) if self.storage.exists() else {}
        lacking, strange = sorted(self.wanted.keys() - found), sorted(found.keys() - self.wanted)
        return (
            f"after the next command: lacking {lacking}, strange {strange}"
            if lacking or strange
            else super().difference()
        )

    def state(self) -> str:
        found = files(self.storage) if self.storage.exists() else {}
        for name, content in found.items():
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if name.removeprefix("files/md5/").replace("/", "").removesuffix(".dir") != digest:
                return "half"
        return "new" if found == self.wanted else "part" if found else "former"


def kill(victim: Victim, durations: dict[tuple[str, str], float], generator: random.Random) -> Kill:
    """Kill the command's whole process group at a random moment of its life, mend, and go on."""
    victim.stage = generator.choice(victim.stages)
    key = (victim.name, victim.stage)
    if key not in durations:
        durations[key] = _duration(lambda: victim.project.run(*victim.command()))
    while True:
        victim.prepare()
        running = victim.project.start(*victim.command())
        time.sleep(generator.uniform(0.05, durations[key]))
        alive = running.poll() is None
        if alive:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        if alive:
            break
        durations[key] *= 0.9
    left = victim.state()
    victim.notes.clear()
    mend = victim.project.run("python", "-m", "mlops_pkg", "mend", check=False)
    lost = victim.told(mend.returncode, mend.stdout + mend.stderr) or _left_by(victim, left)
    lost = lost or victim.again()
    return Kill(victim.name, left, (*mend.stdout.splitlines(), *victim.notes), lost)


def _left_by(victim: Victim, left: str) -> str:
    """What is lost before the next command has begun: a part of a file, or a file that `mend` does not bring back."""
    after = victim.state()
    if "half" in (left, after) and not isinstance(victim, Push):  # of a push, `verify` has to name it
        return "a part of a file, or a folder of two runs"
    stray = [path for name in ("artifacts", "research") for path in (victim.project.root / name).rglob(".*.tmp")]
    if stray:
        return f"scratch that `mend` leaves: {stray}"
    return "the former files do not come back" if after == "missing" and not isinstance(victim, Repro) else ""


def _duration(run: Callable[[], object]) -> float:
    started = time.monotonic()
    run()
    return time.monotonic() - started


def commit(project: Project) -> None:
    """Commit what was built, so that git has a former version of each record."""
    project.run("git", "add", "--all")
    project.run("git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "Built")
