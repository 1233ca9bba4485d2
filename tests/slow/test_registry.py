"""The registry on a git server behind OpenSSH: promoted, rolled back, fetched, and nothing half done when it dies."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.workspace import read_table
from mlops_pkg.registry.references import fetch
from mlops_pkg.registry.releases import promote, register, rollback
from mlops_pkg.registry.tags import read_registry
from tests.conftest import said_by
from tests.registry.conftest import Team, git, models, team
from tests.slow.servers import Shell

__all__ = ["models", "team"]
pytestmark = pytest.mark.slow
NAME = "late-flights"


@pytest.fixture
def server(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """The team's git server, reached through SSH alone."""
    (tmp_path / "ssh").mkdir()
    server = Shell(tmp_path / "ssh")
    monkeypatch.setenv("GIT_SSH_COMMAND", server.command())
    git(team.root, "remote", "set-url", "origin", server.address(team.hub))
    yield server
    server.stop()


def test_versions_go_there_and_back_and_a_third_machine_has_the_champion(team: Team, server: Shell) -> None:
    for model in ("first", "better"):
        team.build(model)
        version = register(team.root).tag.partition("@")[2]
        assert promote(team.root, NAME, version, "prod").tag
    rollback(team.root, NAME, "prod")

    folder = fetch(f"{NAME}#prod", server.address(team.hub))

    rows = read_table(team.models["first"] / "artifacts" / "ingest" / "test.parquet")
    expected = Predictor.load(team.models["first"] / "artifacts" / "package").predict(rows).answer
    assert np.array_equal(Predictor.load(folder).predict(rows).answer, expected)
    assert git(team.hub, "tag").split() == [
        *(f"{NAME}#prod#{n}" for n in (1, 2, 3)),
        f"{NAME}@v1.0.0",
        f"{NAME}@v1.1.0",
    ]


def test_a_server_that_is_gone_is_one_line_and_leaves_no_tag(team: Team, server: Shell) -> None:
    team.build("first")
    register(team.root)
    server.vanish()

    told = said_by(lambda: promote(team.root, NAME, "v1.0.0", "prod"))

    assert told.startswith("git ls-remote: ")
    assert read_registry(team.root, NAME).assignments == []


def test_a_server_that_dies_before_the_push_takes_the_tag_back(
    team: Team, server: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlops_pkg.registry import gates

    team.build("first")
    register(team.root)
    real = gates.check_pushed

    def die(*given: object) -> object:
        server.vanish()
        return real(*given)

    monkeypatch.setattr(gates, "check_pushed", die)

    told = said_by(lambda: promote(team.root, NAME, "v1.0.0", "prod"))

    assert told.startswith("git ")
    assert git(team.root, "tag") == f"{NAME}@v1.0.0"
