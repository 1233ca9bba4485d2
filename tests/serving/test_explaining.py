"""Explanations over HTTP: beside the predictions where a client asks for them, and no part of them elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mlops_pkg.bundle.explanation import Explanation
from mlops_pkg.bundle.predictor import Answers, Extras
from mlops_pkg.serving.messages import MAX_EXPLAINED, ModelInfo, RefusedError, json_answers, read_json
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
    reply = explain(server, [RECORD])

    assert (reply.status, reply.json["error"]["code"]) == (422, "explain")
    assert reply.json["error"]["message"] == "explanation.npz: no explanation: the bundle has no such file"
    assert server.ask([RECORD]).status == 200
    assert server.metric('refused_total{code="explain"}') == 1


def test_explained_records_are_counted_like_others(explaining: Server) -> None:
    before = explaining.metric("records_total"), explaining.metric("records_rejected_total")

    explain(explaining, [RECORD, {**RECORD, "wind": "far"}])

    assert explaining.metric("records_total") - before[0] == 2
    assert explaining.metric("records_rejected_total") - before[1] == 1


def test_of_several_classes_each_has_a_number() -> None:
    classes = ("late", "on time", "never")
    answers = Answers(np.array([[0.2, 0.3, 0.5]]), np.array([2]), (), classes)
    explanation = Explanation(("wind",), np.array([0.1, 0.2, 0.3]), np.array([[[1.0, 2.0, 1 / 3]]]), np.zeros((1, 3)))

    (one,) = json.loads(json_answers(answers, ModelInfo("a", "b", "c"), explanation=explanation))["predictions"]

    assert one["explanation"]["base"] == {"late": 0.1, "on time": 0.2, "never": 0.3}
    assert one["explanation"]["contributions"] == {"wind": {"late": 1.0, "on time": 2.0, "never": 0.333333333}}
    signature = replace(TOY, threshold=None, labels=classes, fields=TOY.fields[1:2])
    Draft202012Validator(explanation_schema(signature)).validate(one["explanation"])
