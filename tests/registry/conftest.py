"""A team's project on the sample: a working copy, a bare repository and a DVC remote, and models to release."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_pkg.core.params import merge, read_yaml
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.project.files import params_of, paths_of, read_stages
from mlops_pkg.project.lock import lookup, path_digest
from tests.conftest import STAGES

MODELS = {  # what is laid over params.yaml
    "first": {},
    "better": {"train": {"options": {"max_iter": 60}}},
    "worse": {"train": {"options": {"max_iter": 1, "learning_rate": 0.01}}},
}

BOUNDS = {"promotion": {"margin": 0.06}}  # a thousand test rows tell less than fifty thousand


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def models(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A built project for each of `MODELS`."""
    found = {"first": built}
    for name in ("better", "worse"):
        root = Path(shutil.copytree(built, tmp_path_factory.mktemp(name) / "project"))
        values = merge(read_yaml(root / "params.yaml"), MODELS[name])
        (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        for stage in STAGES[2:]:
            run_stage(stage, Workspace(root))
        found[name] = root
    return found


def record(root: Path, storage: Path | None) -> None:
    """Write dvc.lock and DVC's cache for what is built, as `dvc repro` would, and push it if there is a `storage`."""
    stages, lock = read_stages(root), {}
    for name in STAGES:
        stage, params = stages[name], {}
        for file, keys in params_of(stage).items():
            values = read_yaml(root / file)
            params[file] = {key: lookup(values, key)[1] for key in keys}
        deps, outs = paths_of(stage, "deps"), paths_of(stage, "outs", "metrics", "plots")
        entries = [[{"path": path, "md5": path_digest(root / path)} for path in paths] for paths in (deps, outs)]
        lock[name] = {"cmd": stage["cmd"], "deps": entries[0], "params": params, "outs": entries[1]}
        for entry in entries[1]:
            for store in filter(None, (root / ".dvc" / "cache", storage)):
                place = store / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / entry["path"], place)
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False))
    (root / "reports").mkdir(exist_ok=True)
    for proof in ("sync", "rebuild", "parity"):
        stages = [{"stage": name, "outputs": []} for name in STAGES]
        (root / "reports" / f"{proof}.json").write_text(json.dumps({"ok": True, "stages": stages}))


@dataclass
class Team:
    """A working copy, the bare repository that it pushes to, and the DVC remote."""

    root: Path
    hub: Path
    storage: Path
    models: dict[str, Path]

    def build(self, model: str, push: bool = True) -> str:
        """Commit a model with its outputs, and return the commit."""
        shutil.copytree(self.models[model] / "artifacts", self.root / "artifacts", dirs_exist_ok=True)
        values = merge(read_yaml(self.models[model] / "params.yaml"), BOUNDS)
        (self.root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        record(self.root, self.storage if push else None)
        git(self.root, "add", "params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config", ".gitignore")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message", f"The model {model}")
        git(self.root, "push", "--quiet", "origin", "HEAD:main")
        return git(self.root, "rev-parse", "HEAD")

    def clone(self, name: str) -> Path:
        """A colleague's working copy, with DVC's cache as after a pull."""
        root = self.hub.parent / name
        git(self.hub.parent, "clone", "--quiet", str(self.hub), str(root))
        git(root, "config", "user.name", name)
        git(root, "config", "user.email", f"{name}@example.invalid")
        return root


@pytest.fixture
def team(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """A team with nothing built."""
    monkeypatch.setenv("MLOPS_PKG_CACHE", str(tmp_path / "bundles"))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    root, hub, storage = tmp_path / "ada", tmp_path / "hub.git", tmp_path / "storage"
    ignore = shutil.ignore_patterns("artifacts", "reports")
    shutil.copytree(models["first"], root, ignore=ignore)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(hub))
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "ada")
    git(root, "config", "user.email", "ada@example.invalid")
    git(root, "remote", "add", "origin", str(hub))
    (root / ".gitignore").write_text("/artifacts\n/reports\n/data\n/mlops_pkg\n/.dvc/cache\n/.dvc/tmp\n")
    (root / ".dvc").mkdir()
    config = f"[core]\n    remote = storage\n    analytics = false\n['remote \"storage\"']\n    url = {storage}\n"
    (root / ".dvc" / "config").write_text(config)
    return Team(root, hub, storage, models)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `mlops_pkg registry` in a folder: the exit code, what it printed, what it said on standard error."""
    from click.testing import CliRunner

    from mlops_pkg.cli import commands

    def run(root: Path, *arguments: str) -> Any:
        monkeypatch.chdir(root)
        return CliRunner().invoke(commands, ["registry", *arguments], catch_exceptions=False)

    return run
