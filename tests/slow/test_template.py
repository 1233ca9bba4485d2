"""A project made by copier, edited, brought to a newer version of the template, built, tested and proved: all for real.

It has an environment of its own. `make test` and `make prove` find what `make run` has built, so each stage runs once.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.template.conftest import clone, copy, git, release, update
from tests.template.test_update import commit, in_conflict, replace

pytestmark = pytest.mark.slow


def make(project: Path, target: str) -> str:
    """What `make` printed, in a shell that has no environment; it must end well."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTEST", "COV")
    alone = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    alone["PATH"] = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if ".venv" not in part)
    started = time.monotonic()
    done = subprocess.run(["make", target], cwd=project, env=alone, capture_output=True, text=True, check=False)
    print(f"make {target}: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, f"make {target}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_a_project_that_was_edited_and_updated_runs_is_tested_and_is_proved(tmp_path: Path) -> None:
    template = clone(tmp_path / "template")
    project = copy(template, tmp_path / "delays", package="zz_delays", title="Delays", task="regression", floors=[])
    replace(project, "nbs/pipeline/22_train.ipynb", '"# ', '"# Our ')
    replace(project, "params.yaml", "max_iter: 300", "max_iter: 60")
    for name in ("nbs/core/06_differences.ipynb", "zz_delays/core/differences.py"):
        replace(project, name, "names where the first", "says where the first")
    commit(project)
    for name in ("nbs/core/01_workspace.ipynb", "mlops_pkg/core/workspace.py"):
        replace(template, name, "The project around", "This project, around")
    (template / "docs" / "news.md").write_text("What is new.\n")
    release(template, "v0.2.0")

    update(project)

    assert in_conflict(project) == []
    assert (project / "docs" / "news.md").exists()
    commit(project)
    summary = make(project, "run")
    assert "parity: green" in summary
    assert "rmse" in summary
    assert git(project, "status", "--porcelain").split() == ["??", "artifacts/", "??", "dvc.lock"]
    assert " passed" in make(project, "test")
    assert "green" in make(project, "prove")
    commit(project)
