"""`mlops_pkg convert`: a file, and how far its answers lie from the bundle's; a mistake writes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.bundle.predictor import Predictor, open_session
from mlops_pkg.bundle.records import read
from mlops_pkg.bundle.signature import Signature
from mlops_pkg.cli import commands
from mlops_pkg.conversion.convert import compare_answers
from mlops_pkg.conversion.single_precision import single_precision_feeds
from mlops_pkg.core.workspace import read_table

Convert = Callable[..., Any]


@pytest.fixture
def convert(built: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Run `mlops_pkg convert` in a built project."""
    monkeypatch.chdir(built)
    return lambda *arguments: CliRunner().invoke(commands, ["convert", *map(str, arguments)], catch_exceptions=False)


def test_the_float_model_differs_by_what_it_says(built: Path, convert: Convert, tmp_path: Path) -> None:
    said = convert(tmp_path / "small.onnx", "--to", "onnx-float32", "--limit", 500)

    assert said.exit_code == 0, said.output
    predictor = Predictor.load(built / "artifacts" / "package")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet").head(500)
    expected = predictor.predict(rows).answer
    session = open_session((tmp_path / "small.onnx").read_bytes())
    inputs = single_precision_feeds(next(read(rows, predictor.signature, 500)).feeds)
    found = session.run(["answer"], inputs)[0].astype(np.float64)
    answered = ~np.isnan(expected)
    assert str(compare_answers(expected[answered], found[answered], predictor.signature)) in said.stdout
    assert 0 < np.nanmax(np.abs(found - expected)) < 0.1


def test_exact_writes_nothing_where_answers_differ(convert: Convert, tmp_path: Path) -> None:
    said = convert(tmp_path / "small.onnx", "--to", "onnx-float32", "--exact")

    assert said.exit_code == 1
    assert said.stderr.startswith(f"{tmp_path / 'small.onnx'}: not written: ")
    assert "rows differ, by " in said.stderr
    assert not (tmp_path / "small.onnx").exists()


def test_pmml_without_an_engine_says_that_it_was_not_compared(convert: Convert, tmp_path: Path) -> None:
    said = convert(tmp_path / "late.pmml", "--to", "pmml")
    exact = convert(tmp_path / "exact.pmml", "--to", "pmml", "--exact")

    assert said.exit_code == 0, said.output
    assert "not compared: that needs the package pypmml, and Java 8 or newer" in said.stdout
    assert ET.parse(tmp_path / "late.pmml").getroot().tag.endswith("PMML")
    assert exact.exit_code == 1
    assert not (tmp_path / "exact.pmml").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rows", "none.parquet"], "none.parquet: there is no such file; name a Parquet file of records with --rows"),
        (["--rows", "params.yaml"], "params.yaml: not a Parquet file that can be read"),
        (["--bundle", "artifacts/ingest"], "artifacts/ingest"),
        (["--bundle", "late-flights@v9.9.9"], "git for-each-ref: fatal: not a git repository"),
    ],
)
def test_a_mistake_is_one_line(convert: Convert, tmp_path: Path, arguments: list[str], expected: str) -> None:
    for target in ("pmml", "onnx-float32"):
        said = convert(tmp_path / "out", "--to", target, *arguments)

        assert said.exit_code == 1
        assert said.stderr.startswith(expected)
        assert said.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_rows_without_an_answer_are_nothing_to_compare(built: Path, convert: Convert, tmp_path: Path) -> None:
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet").head(3)
    for name, frame in (("none", rows.head(0)), ("rejected", rows.assign(distance=-1.0))):
        frame.to_parquet(tmp_path / f"{name}.parquet")

        said = convert(tmp_path / "out", "--to", "onnx-float32", "--rows", tmp_path / f"{name}.parquet")

        assert said.exit_code == 1
        assert said.stderr == "the bundle answers none of these rows, so there is nothing to compare\n"


def test_nothing_is_written_into_a_bundle_or_over_a_folder(built: Path, convert: Convert) -> None:
    before = verify(built / "artifacts" / "package")
    for place in ("artifacts/package/model.onnx", "artifacts/package/more.pmml", "artifacts", "."):
        said = convert(place, "--to", "pmml")

        assert (said.exit_code, said.stderr) == (1, f"{place}: name a file outside of the bundle to write to\n")
    assert verify(built / "artifacts" / "package") == before


def test_rows_that_only_the_bundle_answers_are_counted() -> None:
    signature = Signature("regression", "y", None, ())

    found = compare_answers(np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 3.5]), signature)

    assert str(found) == "2 of 3 rows differ, by 0.5 at most; 1 have no answer"
