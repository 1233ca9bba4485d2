"""Explanations over HTTP: beside the predictions where a client asks for them, and no part of them elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from mlops_pkg.bundle.explanation import Explanation
from mlops_pkg.bundle.predictor import Answers, Extras
from mlops_pkg.bundle.records import Reject
from mlops_pkg.bundle.signature import Interval
from mlops_pkg.serving.messages import (
    ARROW,
    MAX_EXPLAINED,
    ModelInfo,
    RefusedError,
    arrow_answers,
    json_predictions,
    read_json,
)
from mlops_pkg.serving.schema import explanation_schema
from tests.serving.conftest import Reply, Server, start
from tests.toy import RECORD, TOY, explained_bundle


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model that can be explained."""
    with start(explained_bundle(tmp_path_factory.mktemp("explained"))) as server:
        yield server


def explain(server: Server, records: Any, value: Any = True) -> Reply:
    """The reply to records that are to be explained."""
    return server.ask(json.dumps({"records": records, "explain": value}).encode())


def test_each_prediction_stands_beside_its_explanation(explaining: Server) -> None:
    records = [RECORD, {**RECORD, "wind": "far"}, {**RECORD, "origin": "JFK", "wind": None}]

    plain, explained = explaining.ask(records).json["predictions"], explain(explaining, records).json["predictions"]

    assert [{name: value for name, value in one.items() if name != "explanation"} for one in explained] == plain
    assert ["explanation" in one for one in explained] == [True, False, True]
    for one in (explained[0], explained[2]):
        contributions = one["explanation"]["contributions"]
        assert list(contributions) == ["origin", "wind", "start"]
        margin = one["explanation"]["base"] + sum(contributions.values())
        assert 1 / (1 + np.exp(-margin)) == pytest.approx(one["probability"], abs=2e-9)
        Draft202012Validator(explanation_schema(TOY)).validate(one["explanation"])
    assert explained[0]["explanation"]["contributions"]["origin"] == 0.25


def test_who_does_not_ask_gets_the_same_bytes(explaining: Server) -> None:
    assert explain(explaining, [RECORD], False).body == explaining.ask([RECORD]).body
    assert b"explanation" not in explaining.ask([RECORD]).body


@pytest.mark.parametrize(
    ("records", "value", "code", "said"),
    [
        ([RECORD], 1, "explain", "explain: expected a boolean, found a number"),
        ([RECORD], None, "explain", "explain: expected a boolean, found null"),
        ([], True, "records", "expected 1 to 1,000 records to explain, found 0"),
        ([{}] * 1001, True, "records", "expected 1 to 1,000 records to explain, found 1,001"),
    ],
)
def test_a_request_that_cannot_be_explained_is_refused(records: list[Any], value: Any, code: str, said: str) -> None:
    body = json.dumps({"records": records, "explain": value}).encode()

    with pytest.raises(RefusedError, match=f"^{said}$") as refusal:
        read_json(body, 10 * MAX_EXPLAINED)

    assert (refusal.value.status, refusal.value.code) == (422, code)


def test_more_records_than_can_be_explained_may_be_predicted() -> None:
    body = json.dumps({"records": [{}] * (MAX_EXPLAINED + 1)}).encode()

    assert read_json(body, 10 * MAX_EXPLAINED) == ([{}] * (MAX_EXPLAINED + 1), Extras())
    with pytest.raises(RefusedError, match="found the key 'explian'; did you mean 'explain'"):
        read_json(b'{"records": [{}], "explian": true}', 10)


def test_a_model_without_an_explanation_says_so_and_predicts_on(server: Server) -> None:
    before = server.metric('refused_total{code="explain"}')
    reply = explain(server, [RECORD])

    assert (reply.status, reply.json["error"]["code"]) == (422, "explain")
    assert reply.json["error"]["message"] == "explanation.npz: no explanation: the bundle has no such file"
    assert server.ask([RECORD]).status == 200
    assert server.metric('refused_total{code="explain"}') == before + 1


def test_explained_records_are_counted_like_others(explaining: Server) -> None:
    before = explaining.metric("records_total"), explaining.metric("records_rejected_total")

    explain(explaining, [RECORD, {**RECORD, "wind": "far"}])

    assert explaining.metric("records_total") - before[0] == 2
    assert explaining.metric("records_rejected_total") - before[1] == 1


def read_arrow_reply(reply: Reply) -> pa.Table:
    """The table of a reply in Arrow."""
    return pa.ipc.open_stream(reply.body).read_all()


def ask_arrow(server: Server, query: str, rows: int = 2) -> Reply:
    """The reply to a table of records, of which the second has no wind that the model can take."""
    table = pa.table(
        {"origin": ["EWR"] * rows, "wind": ([2.0, -99.0] * rows)[:rows], "start": [RECORD["start"]] * rows}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return server.get(f"/predict{query}", {"content-type": ARROW}, sink.getvalue().to_pybytes())


def test_a_table_is_explained_in_the_columns_that_files_have(explaining: Server) -> None:
    (one,) = explain(explaining, [RECORD]).json["predictions"]

    found = read_arrow_reply(ask_arrow(explaining, "?explain=true"))

    names = ["base", "contribution_origin", "contribution_wind", "contribution_start"]
    assert found.column_names == ["prediction", "probability", "probabilities", *names, "errors"]
    first, second = found.select(names).to_pylist()
    assert list(first.values()) == [one["explanation"]["base"], *one["explanation"]["contributions"].values()]
    assert second == dict.fromkeys(names)
    assert ask_arrow(explaining, "?explain=false").body == ask_arrow(explaining, "").body


def test_a_query_asks_for_json_too_and_the_body_has_the_last_word(explaining: Server) -> None:
    head = {"content-type": "application/json"}
    plain, off = (json.dumps({"records": [RECORD], **more}).encode() for more in ({}, {"explain": False}))

    assert explaining.get("/predict?explain=true", head, plain).body == explain(explaining, [RECORD]).body
    assert explaining.get("/predict?explain=true", head, off).body == explaining.ask([RECORD]).body


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("explian=true", "query", "query: expected interval or explain, found 'explian'"),
        ("explain=1", "explain", "query: explain: expected true or false, found '1'"),
        ("explain", "explain", "query: explain: expected true or false, found ''"),
        ("interval=true&explain=true", "interval", "signature.json: interval: the model has no intervals"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(explaining: Server, query: str, code: str, said: str) -> None:
    reply = ask_arrow(explaining, f"?{query}")

    assert (reply.status, reply.json["error"]["code"]) == (422, code)
    assert reply.json["error"]["message"].startswith(said)


def test_a_table_of_more_rows_than_can_be_explained_is_refused(explaining: Server) -> None:
    reply = ask_arrow(explaining, "?explain=true", rows=MAX_EXPLAINED + 1)

    assert (reply.status, reply.json["error"]["message"]) == (413, "expected at most 1,000 rows")


@pytest.mark.parametrize("classes", [(), ("no", "yes"), (False, True), (1, 2, 7)])
def test_intervals_in_arrow_are_those_in_json(classes: tuple[Any, ...]) -> None:
    generator = np.random.default_rng(0)
    values = generator.dirichlet(np.ones(3), 9) if len(classes) > 2 else generator.random(9)
    values[4] = np.nan
    label = np.where(np.isnan(values).reshape(9, -1)[:, 0], -1, 0) if classes else None
    answers, info = Answers(values, label, (Reject(4, "wind", "", "missing"),), classes), ModelInfo("a", "b", "c")

    table = pa.ipc.open_stream(arrow_answers(answers, info, interval=Interval(0.9, 0.3))).read_all()
    lines = list(map(json.loads, json_predictions(answers, Interval(0.9, 0.3))))

    if classes:
        assert table["set"].to_pylist() == [line.get("set") for line in lines]
    else:
        ends = zip(table["low"].to_pylist(), table["high"].to_pylist(), strict=True)
        assert [None if low is None else [low, high] for low, high in ends] == [line.get("interval") for line in lines]
    assert table.column_names[-1] == "errors"


def test_of_several_classes_each_has_a_number() -> None:
    classes = ("late", "on time", "never")
    answers = Answers(np.array([[0.2, 0.3, 0.5]]), np.array([2]), (), classes)
    explanation = Explanation(("wind",), np.array([0.1, 0.2, 0.3]), np.array([[[1.0, 2.0, 1 / 3]]]), np.zeros((1, 3)))

    (one,) = list(map(json.loads, json_predictions(answers, explanation=explanation)))
    table = pa.ipc.open_stream(arrow_answers(answers, ModelInfo("a", "b", "c"), explanation=explanation)).read_all()

    assert one["explanation"]["base"] == {"late": 0.1, "on time": 0.2, "never": 0.3}
    assert one["explanation"]["contributions"] == {"wind": {"late": 1.0, "on time": 2.0, "never": 0.333333333}}
    assert table["contribution_wind_never"].to_pylist() == [0.333333333]
    assert table["base_on time"].to_pylist() == [0.2]
    signature = replace(TOY, threshold=None, labels=classes, fields=TOY.fields[1:2])
    Draft202012Validator(explanation_schema(signature)).validate(one["explanation"])
