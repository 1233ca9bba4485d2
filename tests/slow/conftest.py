"""A whole project on the small real sample, under git and DVC, as a user would have it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import IDENTITY, ROOT, lay_out

LONGEST = (
    "test_new_project.py",
    "test_repro.py",
    "test_wheel.py",
    "test_processors.py",
    "test_own_classes.py",
    "test_team.py",
    "test_mlflow.py",
)
COPIED = ("README.md", "dvc.yaml", "settings.ini", "setup.py", "pyproject.toml", ".gitignore", ".dvcignore", "nbs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: the others run beside them, and none is left alone at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


class Project:
    """One project and its commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        bin_folder = str(Path(sys.executable).parent)
        self.environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The finished command; it must end well unless `check` is off."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """The running command, in a process group of its own."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def repro(self, *arguments: str) -> set[str]:
        """The stages that `dvc repro` ran."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        return {line.split("'")[1] for line in lines if line.startswith("Running stage")}

    def digests(self) -> dict[str, str]:
        """Each production output's digest in dvc.lock, by its path."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        outputs = [out for stage in stages.values() for out in stage.get("outs", [])]
        return {out["path"]: out["md5"] for out in outputs if out["path"].startswith("artifacts/")}


def make_project(root: Path) -> Project:
    """Lay out a project and put it under git and DVC; nothing is built."""
    project = Project(lay_out(root))
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        else:
            shutil.copy(source, root / name)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("dvc", "init", "--quiet")
    project.run("dvc", "config", "core.analytics", "false")
    shutil.copytree(ROOT / ".dvc" / "plots", root / ".dvc" / "plots", dirs_exist_ok=True)
    project.run("dvc", "add", "--quiet", "data")
    project.run("git", "add", ".")
    project.run("git", *IDENTITY, "commit", "--quiet", "--message", "A project on the sample")
    return project


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose production stages are built by DVC."""
    project = make_project(tmp_path_factory.mktemp("dvc") / "project")
    project.repro("package")
    return project
