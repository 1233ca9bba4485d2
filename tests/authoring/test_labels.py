"""More than two classes, from the raw labels to every runtime: penguins by species."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_pkg.bundle.manifest import MANIFEST, SIGNATURE, BundleError, manifest_bytes
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.params import load_params
from mlops_pkg.core.workspace import Workspace, read_json, read_table
from mlops_pkg.modelling.models import predict, read_model
from mlops_pkg.proof.runtimes import compare_runtimes, read_subject
from mlops_pkg.scoring.files import score_file
from mlops_pkg.serving.messages import ModelInfo, arrow_answers, json_predictions
from tests.authoring.test_proposal import lay_out_for
from tests.conftest import ROOT, STAGES

SPECIES = ("Adelie", "Chinstrap", "Gentoo")


def run(root: Path, *stages: str) -> str:
    """Run stages of a project in a process of their own, as DVC does, and return what they say if they fail."""
    command = [sys.executable, "-m", "mlops_pkg.core.stage", *stages]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == bool(done.stderr), done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def penguins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that has run for the proposed params, with the species as the target."""
    pytest.importorskip("nbdev")
    folder = tmp_path_factory.mktemp("penguins") / "project"
    root = lay_out_for(ROOT / "tests" / "authoring" / "penguins.csv", "species", folder)
    assert not run(root, *STAGES)
    return root


@pytest.fixture
def copied(penguins: Path, tmp_path: Path) -> Path:
    """Return a copy of the project that a test may change."""
    return Path(shutil.copytree(penguins, tmp_path / "project"))


def change_labels(root: Path, labels: list[str]) -> None:
    """Write other labels into the signature of the bundle, and a manifest that fits."""
    folder = root / "artifacts" / "package"
    signature = read_json(folder / SIGNATURE)
    (folder / SIGNATURE).write_text(json.dumps({**signature, "labels": labels}))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))


def verdicts(root: Path) -> dict[str, str | None]:
    """Return the difference of each runtime from the fitted pipeline, None if there is none."""
    subject = read_subject(root)
    assert subject is not None
    return {one.runtime: one.difference for one in compare_runtimes(Workspace(root), subject)}


def test_the_model_knows_the_species(penguins: Path) -> None:
    metrics = read_json(penguins / "artifacts" / "evaluate" / "comparison.json")
    classes = pd.read_csv(penguins / "artifacts" / "evaluate" / "classes.csv")

    assert metrics["threshold"] is None
    assert metrics["test"]["model"]["balanced_accuracy"]["value"] > 0.9
    assert metrics["test"]["prior"]["roc_auc"]["value"] == 0.5
    assert tuple(classes["label"]) == SPECIES
    assert classes["rows"].sum() == len(read_table(penguins / "artifacts" / "ingest" / "test.parquet"))


def test_every_runtime_answers_as_the_fitted_pipeline(penguins: Path) -> None:
    found = verdicts(penguins)

    assert set(found.values()) == {None}
    assert {"source file penguins.csv", "endpoint, Arrow"} <= found.keys()


def test_the_answers_name_the_classes(penguins: Path, tmp_path: Path) -> None:
    bundle, params = penguins / "artifacts" / "package", load_params(penguins / "params.yaml")
    rows = read_table(penguins / "artifacts" / "ingest" / "test.parquet")[list(params.data.columns)].head(9)
    chances = predict(read_model(penguins / "artifacts" / "train" / "model.skops"), rows, "classification")
    expected = [SPECIES[code] for code in chances.argmax(axis=1)]
    rows.to_csv(tmp_path / "in.csv", index=False, na_rep="NA")

    answers = Predictor.load(bundle).predict([*rows.to_dict("records"), {}])
    told = list(map(json.loads, json_predictions(answers)))
    table = _read_stream(arrow_answers(answers, ModelInfo("a", "b", "c")))
    score_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
    score_file(bundle, tmp_path / "in.csv", tmp_path / "out.parquet")

    assert [one["prediction"] for one in told] == [*expected, None]
    assert [list(one["probabilities"].values()) for one in told[:-1]] == chances.tolist()
    assert set(told[0]["probabilities"]) == set(SPECIES)
    assert told[-1]["probabilities"] is None
    assert [one["prediction"] for one in table] == [*expected, None]
    assert [one["probabilities"] for one in table] == [one["probabilities"] for one in told]
    names = [f"probability_{name}" for name in SPECIES]
    with (tmp_path / "out.csv").open() as file:
        scored = list(csv.DictReader(file))
    assert [one["prediction"] for one in scored] == expected
    assert [[float(one[name]) for name in names] for one in scored] == chances.tolist()
    of_parquet = pq.read_table(tmp_path / "out.parquet")
    assert of_parquet.column_names == ["row", "prediction", *names]
    assert of_parquet["prediction"].to_pylist() == expected


def _read_stream(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of an Arrow stream."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = pa.ipc.open_stream(body).read_all().to_pylist()
    return rows


def test_the_card_lists_the_classes(penguins: Path) -> None:
    card = (penguins / "artifacts" / "package" / "card.md").read_text()

    assert "## What it tells apart" in card
    for name in SPECIES:
        assert f"| {name} |" in card


def test_labels_in_another_order_are_red(copied: Path) -> None:
    change_labels(copied, ["Chinstrap", "Adelie", "Gentoo"])

    found = verdicts(copied)

    reason = (
        "signature.json: labels: expected ['Adelie', 'Chinstrap', 'Gentoo'], found ['Chinstrap', 'Adelie', 'Gentoo']"
    )
    assert found["predictor, numpy and onnxruntime alone"] == reason
    for runtime in ("source file penguins.csv", "endpoint, JSON in batches", "endpoint, Arrow"):
        difference = found[runtime]
        assert difference is not None, runtime
        assert "answer of '" in difference


def test_a_label_too_few_is_no_bundle(copied: Path) -> None:
    change_labels(copied, ["Adelie", "Gentoo", "Chinstrap", "Emperor"])

    with pytest.raises(
        BundleError, match=r"output 'answer': expected tensor\(double\) of \['rows', 4\], the model has"
    ):
        Predictor.load(copied / "artifacts" / "package")


def test_a_label_that_params_do_not_name_is_rejected_with_its_line(copied: Path) -> None:
    path = copied / "data" / "penguins.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1].replace("Chinstrap", "Emperor")]))

    assert not run(copied, "ingest")
    rejects = read_table(copied / "artifacts" / "ingest" / "rejects.parquet").iloc[0]
    path.write_text("".join([*lines, *[lines[-1].replace("Chinstrap", "Emperor")] * 9]))
    said = run(copied, "ingest")

    assert "9 of 353 rows break the contract" in said
    assert "line 346: species 'Emperor' is not among data.target.labels" in said

    assert (rejects["line"], rejects["value"]) == (346, "Emperor")
    assert rejects["reason"] == "is not among data.target.labels"


def test_a_class_that_is_in_no_training_row_is_one_line(copied: Path) -> None:
    path = copied / "params.yaml"
    path.write_text(path.read_text().replace("[Adelie, Chinstrap, Gentoo]", "[Adelie, Chinstrap, Emperor, Gentoo]"))

    said = run(copied, "ingest", "features", "train")

    assert "data.target.labels: 'Emperor' has 0 training rows, and needs 2; " in said


def test_probabilities_of_all_classes_are_stored(penguins: Path) -> None:
    stored = read_table(penguins / "artifacts" / "evaluate" / "predictions.parquet")

    chances = stored[["model_0", "model_1", "model_2"]].to_numpy()
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-8)
