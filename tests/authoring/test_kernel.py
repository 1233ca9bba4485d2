"""An error is one line under its cell, in a real kernel."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import mlops_pkg
from tests.conftest import ROOT

FIND = "from mlops_pkg.core.workspace import Workspace\nworkspace = Workspace.find()"
MISSING = 'workspace.input("train", "model.skops")'
MISSPELT = (
    'from mlops_pkg.core.params import load_params\nload_params(workspace.params, {"evaluate": {"bootstrp": 50}})'
)


def shown(folder: Path, *cells: str) -> list[Any]:
    """Return the traceback that a kernel in this folder shows for each cell, or None."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    client = NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=60)
    client.execute(cwd=str(folder))
    errors = [[output["traceback"] for output in cell["outputs"] if "traceback" in output] for cell in notebook.cells]
    return [found[0] if found else None for found in errors]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Make a project without outputs, whose package is `shed`."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = shed\n")
    (tmp_path / "shed" / "pipeline").mkdir(parents=True)
    (tmp_path / "shed" / "pipeline" / "params.py").write_text("from mlops_pkg.pipeline.params import Params\n")
    (tmp_path / "nbs" / "pipeline").mkdir(parents=True)
    return tmp_path


def test_a_mistake_is_one_line_under_the_cell_and_a_bug_keeps_its_traceback(elsewhere: Path) -> None:
    found, missing, misspelt, bug = shown(elsewhere / "nbs" / "pipeline", FIND, MISSING, MISSPELT, "1 / 0")

    assert found is None
    assert missing == [
        "artifacts/train/model.skops: missing; get it with `dvc pull`, or make it with `dvc repro train`"
    ]
    assert misspelt == ["params.yaml: evaluate.bootstrp: unknown key; did you mean 'bootstrap'?"]
    assert "ZeroDivisionError" in "".join(bug)


def test_a_kernel_with_another_projects_package_is_told_which_to_choose(elsewhere: Path) -> None:
    shutil.copy(ROOT / "settings.ini", elsewhere)
    ours = Path(mlops_pkg.__file__).parent
    shutil.copytree(ours, elsewhere / "mlops_pkg", ignore=shutil.ignore_patterns("__pycache__"))

    (found,) = shown(elsewhere / "nbs" / "pipeline", FIND)

    assert found == [f"mlops_pkg: this kernel has it from {ours}; choose the kernel of .venv in {elsewhere}"]
