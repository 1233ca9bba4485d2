"""What must hold of this project, whatever its table: it reads what the last `make run` wrote."""

from pathlib import Path

import numpy as np
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.params import load_params
from mlops_pkg.core.stage import stage_names
from mlops_pkg.core.workspace import Workspace, project_root, read_json, read_table
from mlops_pkg.pipeline import features, package

WORKSPACE = Workspace(project_root(Path(__file__).parent))
PARAMS = load_params(WORKSPACE.params)
SPLITS = ("train", "validation", "test", "live")


@pytest.mark.parametrize("split", SPLITS)
def test_no_column_is_known_only_later(split: str) -> None:
    table = read_table(WORKSPACE.input("ingest", f"{split}.parquet"))

    assert not set(PARAMS.data.known_later) & set(table.columns)
    assert list(table.columns) == [*PARAMS.data.keys, *PARAMS.data.columns, PARAMS.data.target.name]


def test_no_row_is_in_two_splits_or_lost() -> None:
    tables = {split: read_table(WORKSPACE.input("ingest", f"{split}.parquet")) for split in SPLITS}
    counts = read_json(WORKSPACE.input("ingest", "rows.json"))

    lines = np.concatenate([table["line"].to_numpy() for table in tables.values()])
    assert len(np.unique(lines)) == len(lines) == counts["steps"][-1]["after"]
    assert {split: len(table) for split, table in tables.items()} == counts["splits"]


def test_a_stage_run_again_writes_the_same_bytes(tmp_path: Path) -> None:
    features.run(PARAMS, Workspace(WORKSPACE.root, str(tmp_path)))

    for name in ("features.skops", "steps.json", "train.parquet", "live.parquet"):
        assert (tmp_path / "features" / name).read_bytes() == WORKSPACE.input("features", name).read_bytes(), name


def test_the_bundle_predicts_what_was_evaluated() -> None:
    rows = read_table(WORKSPACE.input("ingest", "test.parquet")).head(200)
    stored = read_table(WORKSPACE.input("evaluate", "predictions.parquet")).head(len(rows))
    columns = {name: rows[name].to_numpy(dtype=object) for name in PARAMS.data.columns}

    found = Predictor.load(WORKSPACE.input("package", "manifest.json").parent).predict(columns)

    assert found.rejects == ()
    np.testing.assert_array_equal(found.answer, stored["model"].to_numpy())


def test_lineage_covers_what_the_bundle_is_made_from() -> None:
    stages = stage_names(WORKSPACE.root)

    assert {"ingest", "train", "evaluate"} <= set(package.INPUTS) <= set(stages[: stages.index("package")])
    assert all(WORKSPACE.input(stage, name).is_file() for stage, names in package.INPUTS.items() for name in names)
