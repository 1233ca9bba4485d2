"""The predictor: it answers from a verified bundle alone, and what is no bundle of its kind is refused by name."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_pkg.bundle import predictor as module
from mlops_pkg.bundle.manifest import MODEL, SIGNATURE, BundleError, verify
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.records import RecordsError, Reject
from tests.toy import GRAPH, RECORD, TOY, seal, toy_answer, write_bundle

RECORDS: list[dict[str, Any]] = [
    RECORD,
    {**RECORD, "origin": "JFK", "start": "2013-01-01T03:00"},
    {**RECORD, "origin": "unseen", "wind": None},
    {"origin": "JFK", "start": "2013-07-01T00:59"},
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle; read it."""
    return write_bundle(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy(folder: Path) -> Predictor:
    """The toy bundle, loaded."""
    return Predictor.load(folder)


def test_a_loaded_bundle_says_what_it_is(folder: Path, toy: Predictor) -> None:
    assert (toy.name, toy.description) == ("toy", "Late in the day")
    assert toy.identity == verify(folder)
    assert toy.signature == TOY


def test_each_record_gets_the_answer_of_the_model(toy: Predictor) -> None:
    answers = toy.predict(RECORDS)

    expected = [toy_answer(record["origin"], record.get("wind"), record["start"]) for record in RECORDS]
    assert answers.answer.tolist() == expected
    assert answers.label is not None
    assert answers.label.tolist() == [int(value >= 0.5) for value in expected]
    assert 0 < sum(answers.label) < len(RECORDS), "one class alone proves little"
    assert answers.rejects == ()


def test_an_answer_at_the_threshold_is_of_class_1(tmp_path: Path, toy: Predictor) -> None:
    answer = toy.predict([RECORD]).answer[0]
    for threshold, label in ((answer, 1), (np.nextafter(answer, 1), 0)):
        signature = dataclasses.replace(TOY, threshold=float(threshold))

        answers = Predictor.load(write_bundle(tmp_path / str(label), signature=signature)).predict([RECORD])

        assert answers.label is not None
        assert answers.label.tolist() == [label]


def test_a_regression_has_no_labels(tmp_path: Path) -> None:
    signature = dataclasses.replace(TOY, task="regression", threshold=None)

    answers = Predictor.load(write_bundle(tmp_path, signature=signature)).predict([RECORD])

    assert answers.label is None
    assert answers.answer.tolist() == [toy_answer("EWR", 2.0, RECORD["start"])]


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pa.table], ids=["columns", "pandas", "pyarrow"])
def test_columns_get_the_same_answers_as_records(toy: Predictor, kind: Any) -> None:
    columns = {name: [record.get(name) for record in RECORDS] for name in RECORD}

    np.testing.assert_array_equal(toy.predict(kind(columns)).answer, toy.predict(RECORDS).answer)


def test_rejected_records_have_no_answer_and_do_not_touch_the_others(toy: Predictor) -> None:
    bad = [{**RECORD, "origin": None}, {**RECORD, "wind": -1.0}, {**RECORD, "wind": "strong", "start": 5}]
    mixed = [RECORDS[0], bad[0], RECORDS[1], bad[1], bad[2], RECORDS[2]]

    answers = toy.predict(mixed)

    assert np.isnan(answers.answer).tolist() == [False, True, False, True, True, False]
    np.testing.assert_array_equal(answers.answer[[0, 2, 5]], toy.predict(RECORDS[:3]).answer)
    assert answers.label is not None
    assert answers.label[[1, 3, 4]].tolist() == [-1, -1, -1]
    assert answers.rejects == (
        Reject(1, "origin", "", "missing"),
        Reject(3, "", "", "the model has no answer to this record"),
        Reject(4, "wind", "'strong'", "expected a number, found text"),
        Reject(4, "start", "5", "expected a date and time, found int"),
    )


def test_chunks_change_no_answer_and_no_row_number(toy: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [*RECORDS, {**RECORD, "wind": 1e9}, {**RECORD, "wind": -1}] * 7
    whole = toy.predict(records)
    monkeypatch.setattr(module, "CHUNK", 5)

    for data in (records, {name: [record.get(name) for record in records] for name in RECORD}):
        chunks = toy.predict(data)

        np.testing.assert_array_equal(chunks.answer, whole.answer)
        assert chunks.rejects == whole.rejects
    assert len(whole.rejects) == 14


@pytest.mark.parametrize(
    "data", [[], {"origin": [], "wind": np.empty(0), "start": []}, pd.DataFrame(columns=list(RECORD))]
)
def test_no_records_are_no_answers(toy: Predictor, data: Any) -> None:
    answers = toy.predict(data)

    assert answers.answer.shape == (0,)
    assert answers.label is not None
    assert answers.label.shape == (0,)
    assert answers.rejects == ()


def test_a_missing_column_is_refused(toy: Predictor) -> None:
    with pytest.raises(RecordsError, match="column 'wind' is missing; is it 'windy'"):
        toy.predict({"origin": [], "windy": [], "start": []})


def test_one_thread_answers(toy: Predictor) -> None:
    options = toy._session.get_session_options()

    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert toy._session.get_providers() == ["CPUExecutionProvider"]


def test_a_tampered_bundle_is_not_opened(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL).write_bytes(content)

    with pytest.raises(BundleError, match="model.onnx: changed since it was packed"):
        Predictor.load(folder)


class Boom:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (sys.exit, ("a pickle was loaded",))


@pytest.mark.parametrize("forged", [False, True], ids=["added", "with a forged manifest"])
@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "__init__.py"])
def test_a_pickle_in_a_bundle_is_refused_unread(tmp_path: Path, name: str, forged: bool) -> None:
    folder = write_bundle(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Boom()))
    if forged:
        seal(folder)

    with pytest.raises(BundleError, match="no part of a bundle" if forged else "extra; the manifest does not list it"):
        Predictor.load(folder)


@pytest.mark.parametrize("name", [MODEL, SIGNATURE])
def test_a_pickle_under_a_good_name_is_not_loaded(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Boom()))
    seal(folder)

    with pytest.raises(BundleError, match=name):
        Predictor.load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": "toy"}', "[" * 100_000, "\ud800"])
def test_what_is_no_signature_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_bundle(tmp_path)
    (folder / SIGNATURE).write_bytes(content.encode("utf-8", "surrogatepass"))
    seal(folder)

    with pytest.raises(BundleError, match=r"signature\.json: not a signature"):
        Predictor.load(folder)


OF_FLOATS = GRAPH.replace("double[n] wind", "float[n] wind").replace("calm, wind", "calm, read")
OF_FLOATS = OF_FLOATS.replace("missing = IsNaN(wind)", "read = Cast <to = 11> (wind)\n    missing = IsNaN(read)")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (GRAPH.replace("origin", "dest"), "input 'dest': expected none, the model has tensor"),
        (OF_FLOATS, "input 'wind': expected tensor(double), the model has tensor(float)"),
        (
            GRAPH.replace("string[n]", "string[n, 1]"),
            "input 'origin': expected tensor(string), the model",
        ),
        (GRAPH.replace("(double[n] margin, double[n] answer)", "(double[n] answer)"), "output 'margin'"),
        (GRAPH.replace("double[n] margin,", "double[n] margin, double[n] known,"), "output 'known'"),
    ],
    ids=["another field", "floats", "another shape", "no margin", "more outputs"],
)
def test_a_graph_that_does_not_fit_the_signature_is_refused(tmp_path: Path, graph: str, said: str) -> None:
    folder = write_bundle(tmp_path, graph)

    with pytest.raises(BundleError) as caught:
        Predictor.load(folder)

    assert str(caught.value).startswith(f"{MODEL}: {said}")


def test_a_swapped_kind_is_refused(tmp_path: Path) -> None:
    fields = (TOY.fields[0], dataclasses.replace(TOY.fields[1], kind="datetime"), TOY.fields[2])
    folder = write_bundle(tmp_path, signature=dataclasses.replace(TOY, fields=fields))

    with pytest.raises(BundleError, match=r"input 'wind': expected tensor\(int64\), the model has"):
        Predictor.load(folder)


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "sklearn", "feature_engine", "skops", "pyarrow", "pydantic", "yaml",
                                      "joblib", "cloudpickle", "onnx", "scipy"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Refuse())
import pickle
pickle.load = pickle.loads = pickle.Unpickler = None
import json
from mlops_pkg.bundle.predictor import Predictor
answers = Predictor.load(sys.argv[1]).predict(json.loads(sys.argv[2]))
print(json.dumps(answers.answer.tolist()))
"""


def test_numpy_and_onnxruntime_alone_answer_and_nothing_is_unpickled(folder: Path, toy: Predictor) -> None:
    command = [sys.executable, "-c", ALONE, str(folder), json.dumps(RECORDS)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == toy.predict(RECORDS).answer.tolist()


def test_loading_and_answering_say_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Predictor.load(folder).predict(RECORDS)

    assert capfd.readouterr() == ("", "")
