"""Bundles beside a deployment.yaml, and servers that follow it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_pkg.deployment.ledger import State
from mlops_pkg.deployment.starting import start as begin
from tests.toy import GRAPH, write_bundle

PACES = {"old": "0.1", "new": "0.11", "other": "0.3"}  # how much an hour of the day counts


def write_project(folder: Path) -> Path:
    """A folder with bundles of the toy model that answer differently."""
    for name, pace in PACES.items():
        write_bundle(folder / name, GRAPH.replace("pace = {0.1}", f"pace = {{{pace}}}"))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with bundles of the toy model."""
    return write_project(tmp_path)


@pytest.fixture
def start(project: Path) -> Callable[..., State]:
    """Begin a deployment in the project's folder `deployment`, with these values of deployment.yaml."""

    def started(**values: Any) -> State:
        file = project / "deployment.yaml"
        file.write_text(yaml.safe_dump({"champion": "old", **values}))
        return begin(file, project / "deployment", "ann")

    return started
