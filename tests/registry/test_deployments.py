"""A deployment takes versions from the registry, and none that no gate has let through."""

from pathlib import Path

import pytest

from mlops_pkg.deployment.plan import DeploymentError
from mlops_pkg.deployment.starting import start
from mlops_pkg.registry.releases import promote, register
from tests.registry.conftest import Team
from tests.registry.test_releases import NAME, release


def test_a_version_is_deployed_once_a_gate_has_let_it_through(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    release(team, "first")
    team.build("better")
    version = register(team.root).tag.partition("@")[2]
    monkeypatch.chdir(team.root)
    file = team.root / "deployment.yaml"
    file.write_text(f"{{champion: '{NAME}#prod', challenger: {NAME}@{version}, mode: canary}}")

    with pytest.raises(DeploymentError, match=f"{NAME}@{version}: no gate has let it through; promote it"):
        start(file, Path("deployment"), "ada")
    assert promote(team.root, NAME, version, "canary").tag
    state = start(file, Path("deployment"), "ada")

    assert [one.name for one in state.bundles] == [f"{NAME}#prod", f"{NAME}@{version}"]
    assert len({one.identity for one in state.bundles}) == 2
    assert all(Path(one.folder).is_absolute() and Path(one.folder).is_dir() for one in state.bundles)
