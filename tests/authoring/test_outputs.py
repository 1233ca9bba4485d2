"""Notebooks run in place: their outputs are stored, and nothing else in them changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlops_pkg.authoring.outputs import outputs, run_in_place
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace, read_json

KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


def write(path: Path, *sources: str, **more: Any) -> Path:
    """Write a notebook of code cells; the first is tagged."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{n}",
            "metadata": {},
            "outputs": [],
            "source": [text],
        }
        for n, text in enumerate(sources)
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5, **more}))
    return path


def shown(path: Path) -> list[str]:
    """Return the text that each cell shows."""
    cells = read_json(path)["cells"]
    return [
        "".join("".join(out.get("text", out.get("data", {}).get("text/plain", ""))) for out in cell["outputs"])
        for cell in cells
    ]


def test_a_notebook_shows_what_its_cells_show_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path / "one.ipynb",
        "out = 'research'",
        "import sys\nprint('a'); print('b', file=sys.stderr); print('c')",
        "6 * 7",
    )

    assert run_in_place(path)

    after = read_json(path)
    assert shown(path) == ["", "a\nc\nb\n", "42"]
    assert [cell["metadata"] for cell in after["cells"]] == [{"tags": ["parameters"]}, {}, {}]
    assert [cell["id"] for cell in after["cells"]] == ["cell-0", "cell-1", "cell-2"]
    assert after["metadata"] == KERNEL
    assert '"execution_count": 3' not in path.read_text()


def test_a_second_run_leaves_every_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ipynb", "0", "{'b': 1, 'a': 2}")
    run_in_place(path)
    before = path.read_bytes()

    assert not run_in_place(path)

    assert path.read_bytes() == before


def test_a_cell_that_fails_leaves_the_notebook_and_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ipynb", "1", "1 / 0")
    before = path.read_bytes()

    with pytest.raises(UserError, match=r"^one\.ipynb: stopped in cell cell-1: ZeroDivisionError: division by zero$"):
        run_in_place(path)

    assert path.read_bytes() == before


def test_one_notebook_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "nbs" / "00_bad.ipynb", "missing")
    good = write(tmp_path / "nbs" / "core" / "01_good.ipynb", "import os", "os.path.basename(os.getcwd())")

    with pytest.raises(UserError, match=r"00_bad\.ipynb: stopped in cell cell-0: NameError"):
        outputs(workspace=Workspace(tmp_path))

    assert shown(good) == ["", "'core'"]  # it ran in its own folder
    assert outputs([good], Workspace(tmp_path)) == []


def test_a_name_that_is_no_notebook_is_told_before_anything_runs(tmp_path: Path) -> None:
    good = write(tmp_path / "nbs" / "01_good.ipynb", "1")
    before = good.read_bytes()

    with pytest.raises(UserError, match=r"^02_train\.ipynb: there is no such notebook"):
        outputs([good, tmp_path / "nbs" / "02_train.ipynb"], Workspace(tmp_path))

    assert good.read_bytes() == before
