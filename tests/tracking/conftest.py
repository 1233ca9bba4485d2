"""The team of the registry's tests, and its experiments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlops_pkg.cli import commands
from tests.registry.conftest import Team, git, models, team

__all__ = ["Run", "as_experiment", "models", "run", "team"]
Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def invoke(root: Path, *arguments: str) -> Any:
        monkeypatch.chdir(root)
        return CliRunner().invoke(commands, list(arguments), catch_exceptions=False)

    return invoke


def as_experiment(team: Team, name: str, model: str) -> str:
    """Keep a model as `dvc exp run` would: a commit that no branch shows."""
    before = git(team.root, "rev-parse", "HEAD")
    commit = team.build(model)
    git(team.root, "update-ref", f"refs/exps/{before[:2]}/{before[2:]}/{name}", commit)
    git(team.root, "reset", "--quiet", "--hard", before)
    git(team.root, "push", "--quiet", "--force", "origin", "HEAD:main")
    return commit
