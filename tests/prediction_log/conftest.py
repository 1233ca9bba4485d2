"""Predictors of toy models, and requests that they have answered."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.prediction_log.rows import Entry, to_rows
from mlops_pkg.prediction_log.segments import list_days, list_segments, read_segment, write_segment
from tests.conftest import ROOT
from tests.toy import RECORD, TOY, write_bundle

PERSONAL = replace(TOY, fields=(replace(TOY.fields[0], personal=True), *TOY.fields[1:]))
THREE = Signature(
    "classification", "size", None, (Field("wind", "number", nullable=False, maximum=250),), labels=("S", "M", "L")
)
THREE_GRAPH = """
<ir_version: 10, opset_import: ["": 19]>
three (double[rows] wind) => (double[rows,3] margin, double[rows,3] answer)
<double[1,3] pace = {0.1, 0.2, 0.3}, int64[1] axis = {1}>
{
    column = Unsqueeze(wind, axis)
    margin = Mul(column, pace)
    answer = Softmax <axis = 1> (margin)
}
"""
DAY = "2013-05-01"
NOON = 1367409600.0  # of that day, in seconds since 1970


def open_predictor(folder: Path) -> Predictor:
    """A predictor that keeps its inputs."""
    return Predictor(read_bundle(folder), keep_inputs=True)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The toy model, which has two classes."""
    return open_predictor(write_bundle(tmp_path_factory.mktemp("toy") / "bundle"))


@pytest.fixture(scope="session")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The toy model, whose origin is personal data."""
    return open_predictor(write_bundle(tmp_path_factory.mktemp("personal") / "bundle", signature=PERSONAL))


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A toy model of three classes."""
    return open_predictor(write_bundle(tmp_path_factory.mktemp("three") / "bundle", THREE_GRAPH, THREE))


def entry_of(predictor: Predictor, records: Sequence[Any], name: str = "a-1", moment: float = NOON) -> Entry:
    """A request with these records, alone in its batch."""
    answers = predictor.predict(list(records))
    return Entry(predictor, answers, 0, len(records), name, "planning", "champion", moment, 0.002)


def write_log(log: Path, predictor: Predictor, requests: int, how: Any = "drop", secret: bytes = b"") -> list[Path]:
    """Segments of one request each, a second apart; the wind of each is its number."""
    found = []
    for number in range(requests):
        entry = entry_of(predictor, [RECORD | {"wind": float(number)}], f"a-{number}", NOON + number)
        found.append(write_segment(log, DAY, [to_rows([entry], how, secret)]))
    return found


def logged(log: Path) -> list[dict[str, Any]]:
    """All rows of a log."""
    paths = [path for day in list_days(log) for path in list_segments(day)]
    return [row for path in paths for batch in read_segment(path) for row in batch.to_pylist()]


def real_records(bundle: Path, rows: int) -> list[dict[str, Any]]:
    """The first rows of the test months, as JSON values."""
    fields = [field.name for field in Predictor.load(bundle).signature.fields]
    frame = pd.read_parquet(ROOT / "artifacts" / "ingest" / "test.parquet")[fields].head(rows)
    for name in frame.select_dtypes("datetime"):
        frame[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%S")
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return found
