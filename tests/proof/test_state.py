"""A verdict is about the present state: what has changed since is told, for walks, runs and proofs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_pkg.core.workspace import Workspace
from mlops_pkg.project.state import changed_inputs, changed_since, inputs_of, outdated_rebuilds, stale_stages
from mlops_pkg.report.page import read_proofs
from tests.conftest import ROOT

TRAIN = "nbs/pipeline/22_train.ipynb"


@pytest.fixture
def walked(tmp_path: Path) -> Path:
    """This project as `make run` has left it: built, walked and recorded."""
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".*.tmp", "*.failed.ipynb")
    for name in ("nbs", "mlops_pkg", "artifacts", "research", "data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_record(root: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = root / "research" / "train.ipynb"
    walked = json.loads(path.read_text())
    change(walked["metadata"])
    path.write_text(json.dumps(walked))


def nothing(_: Path) -> None:
    """Leave everything as it is."""


def another_notebook(root: Path) -> None:
    edit(root / TRAIN, "How many trees are enough?", "How many trees suffice?")


def another_param(root: Path) -> None:
    edit(root / "params.yaml", "max_iter: ", "max_iter: 1")


def another_module(root: Path) -> None:
    edit(root / "mlops_pkg" / "modelling" / "estimators.py", "import", "import json  # noqa\nimport")


def a_failed_walk(root: Path) -> None:
    (root / "research" / "train.failed.ipynb").write_text("{}")


def a_walk_without_a_record(root: Path) -> None:
    edit_record(root, lambda metadata: metadata.pop("made_from"))


def a_walk_with_overrides(root: Path) -> None:
    edit_record(root, lambda metadata: metadata["made_from"].update(overrides="{}"))  # type: ignore[attr-defined]


MODULE = "mlops_pkg/modelling/estimators.py"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (nothing, []),
        (another_notebook, ["not what it was when it was walked: nbs/pipeline/22_train.ipynb"]),
        (
            another_param,
            ["production: train.options.max_iter was", "not what it was when it was walked: params.yaml: train"],
        ),
        (another_module, [f"production: {MODULE} has changed", f"not what it was when it was walked: {MODULE}"]),
        (a_failed_walk, ["its last walk failed, and what is in research/ is of one before"]),
        (a_walk_without_a_record, ["does not say what it was made from; run `mlops_pkg research train`"]),
        (a_walk_with_overrides, ["not what it was when it was walked: overrides"]),
    ],
)
def test_a_stage_that_is_out_of_date_on_either_side_is_told(
    change: Callable[[Path], None], told: list[str], walked: Path
) -> None:
    change(walked)

    found = [text for stage, text in stale_stages(walked) if stage == "train"]

    assert len(found) == len(told), found
    assert all(part in text for part, text in zip(told, found, strict=True)), found


def test_a_kept_verdict_is_stale_once_something_has_changed(walked: Path) -> None:
    root = walked
    kept = {name: {"made_from": inputs_of(root, name)} for name in ("sync", "parity")}
    assert [changed_since(root, name, found) for name, found in kept.items()] == [[], []]

    another_notebook(root)

    assert changed_since(root, "sync", kept["sync"]) == ["nbs"]
    assert changed_since(root, "parity", kept["parity"]) == ["train"]
    (root / "dvc.yaml").write_text("stages: 5")
    assert changed_since(root, "parity", kept["parity"]) == ["dvc.yaml"]


def test_an_input_that_is_gone_or_new_has_changed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("late\n1\n")
    (tmp_path / "dvc.yaml").write_text("stages: {count: {cmd: count, deps: [rows.csv]}}")
    recorded = inputs_of(tmp_path, "count")

    (tmp_path / "rows.csv").unlink()
    assert changed_inputs(tmp_path, "count", recorded) == ["rows.csv"]
    (tmp_path / "more.csv").write_text("late\n")
    (tmp_path / "dvc.yaml").write_text("stages: {count: {cmd: count, deps: [more.csv]}}")
    assert changed_inputs(tmp_path, "count", recorded) == ["more.csv", "rows.csv"]


def test_a_rebuild_of_a_former_state_names_its_stages(walked: Path) -> None:
    root = walked
    rebuilt = {"stages": [{"stage": "train", "outputs": []}, {"stage": "ingest", "outputs": []}]}
    assert outdated_rebuilds(root, rebuilt) == []

    another_param(root)

    assert outdated_rebuilds(root, rebuilt) == ["train"]
    (root / "reports").mkdir(exist_ok=True)
    (root / "reports" / "rebuild.json").write_text(json.dumps({"ok": True, "confined": True, **rebuilt}))
    assert (read_proofs(Workspace(root))["rebuild"] or {})["former"] == ["train"]
