"""The production path: whole outputs or none, and one line for a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlops_pkg.core import stage
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace, read_json
from tests.conftest import STAGES

OUTPUTS = {
    "ingest": {
        "train.parquet",
        "validation.parquet",
        "test.parquet",
        "live.parquet",
        "rejects.parquet",
        "rows.json",
        "data_card.md",
    },
    "features": {"train.parquet", "validation.parquet", "test.parquet", "live.parquet", "features.skops", "steps.json"},
    "train": {"model.skops", "baseline.skops", "validation.json", "iterations.csv"},
    "evaluate": {
        "comparison.json",
        "metrics.json",
        "predictions.parquet",
        "roc.csv",
        "pr.csv",
        "classes.csv",
        "errors.csv",
        "fairness.csv",
        "residuals.csv",
        "calibration.csv",
        "confusion.csv",
        "slices.csv",
        "importance.csv",
        "shap.csv",
        "shap_points.csv",
    },
    "package": {
        "model.onnx",
        "card.md",
        "signature.json",
        "metrics.json",
        "reference.json",
        "lineage.json",
        "explanation.npz",
        "manifest.json",
    },
}


def run_command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The stage runner as DVC calls it."""
    command = [sys.executable, "-m", "mlops_pkg.core.stage", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_writes_its_outputs_and_nothing_else(built: Path, name: str) -> None:
    found = {path.name for path in (built / "artifacts" / name).iterdir()}

    assert found == OUTPUTS[name], f"{name} wrote {sorted(found)}"


def test_no_scratch_folder_is_left(built: Path) -> None:
    assert {path.name for path in (built / "artifacts").iterdir()} == set(STAGES)


def test_an_unknown_stage_is_named_with_the_nearest(project: Path) -> None:
    with pytest.raises(UserError, match="no stage is named 'trian'; did you mean 'train'"):
        stage.run_stage("trian", Workspace(project))


def test_a_stage_without_its_inputs_says_how_to_get_them(project: Path) -> None:
    done = run_command(project, "features")

    assert done.returncode == 1
    assert done.stderr == (
        "artifacts/ingest/train.parquet: missing; get it with `dvc pull`, or make it with `dvc repro ingest`\n"
    )


def test_no_arguments_is_wrong_usage(project: Path) -> None:
    done = run_command(project)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m mlops_pkg.core.stage")


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("bootstrp: 20", "params.yaml: evaluate.bootstrp: unknown key; did you mean 'bootstrap'?"),
        ("bootstrap: '20'", 'params.yaml: evaluate.bootstrap = "20": input should be a valid integer'),
        ("bootstrap: 0", "params.yaml: evaluate.bootstrap = 0: input should be greater than or equal to 20"),
    ],
)
def test_a_mistake_in_params_is_one_line_and_nothing_is_written(project: Path, written: str, line: str) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("bootstrap: 20", written))

    done = run_command(project, "ingest")

    assert done.returncode == 1
    assert done.stderr == line + "\n"
    assert not (project / "artifacts").exists(), "a stage wrote although its parameters are wrong"


def test_a_failing_stage_leaves_the_former_output(copy_of_built: Path) -> None:
    before = (copy_of_built / "artifacts" / "ingest" / "rows.json").read_bytes()
    (copy_of_built / "data" / "planes.csv").write_text("tailnum\n")

    done = run_command(copy_of_built, "ingest")

    assert done.returncode == 1
    assert (copy_of_built / "artifacts" / "ingest" / "rows.json").read_bytes() == before


def test_the_command_runs_a_stage(copy_of_built: Path) -> None:
    done = run_command(copy_of_built, "package")

    assert done.returncode == 0, done.stderr
    assert ": 21 fields" in done.stdout
    assert read_json(copy_of_built / "artifacts" / "package" / "manifest.json")["format"] == 4
