"""Clients of MLflow and of the Open Inference Protocol: the digits of `/predict`, and every broken request refused."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.bundle.predictor import Answers
from mlops_pkg.bundle.records import Reject
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.serving.messages import ModelInfo, RefusedError, slice_answers
from mlops_pkg.serving.protocols import (
    InferRequest,
    check_no_rejects,
    describe_tensors,
    read_infer,
    read_invocations,
    write_infer,
    write_invocations,
)
from mlops_pkg.serving.settings import new_key
from tests.serving.conftest import JSON, Reply, Server, start
from tests.toy import RECORD, TOY, toy_answer

RECORDS = [RECORD, {"origin": "JFK", "wind": None, "start": "2013-01-01T05:00"}]
ANSWERS = [toy_answer(**record) for record in RECORDS]
COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORD}
INFER = "/v2/models/toy/infer"
LENGTH = "Inference-Header-Content-Length"


def post(server: Server, path: str, content: Any, headers: dict[str, str] | None = None) -> Reply:
    """The reply to a JSON body, or to one as it is."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return server.get(path, {"content-type": JSON, **(headers or {})}, body)


# MLflow


FRAMES: dict[str, Any] = {
    "dataframe_split": {"columns": list(RECORD), "index": [0, 1], "data": [list(one.values()) for one in RECORDS]},
    "dataframe_records": RECORDS,
    "instances": RECORDS,
    "inputs": COLUMNS,
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_of_mlflow_has_the_answers_of_predict(server: Server, name: str) -> None:
    reply = post(server, "/invocations", {name: FRAMES[name]})

    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    expected = [{"prediction": int(one >= 0.5), "probability": one, "error": None} for one in ANSWERS]
    assert reply.json == {"predictions": expected}


def test_unknown_columns_are_passed_over_and_absent_ones_are_missing_as_mlflow_does(server: Server) -> None:
    record = {"origin": "EWR", "start": RECORD["start"], "tail": "N1"}

    [found] = post(server, "/invocations", {"dataframe_records": [record]}).json["predictions"]

    assert found["probability"] == toy_answer("EWR", None, str(RECORD["start"]))


def test_a_rejected_row_has_its_error_and_the_others_their_answers(server: Server) -> None:
    reply = post(server, "/invocations", {"instances": [RECORD, {**RECORD, "wind": 999, "origin": None}]})

    good, bad = reply.json["predictions"]
    assert reply.status == 200
    assert good["probability"] == ANSWERS[0]
    assert bad["prediction"] is bad["probability"] is None
    assert bad["error"] == "origin: missing; wind: above the maximum of 250 miles per hour"
    assert server.metric("records_rejected_total") >= 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected a JSON object with one of dataframe_split"),
        ({"inputs": {}, "instances": []}, "expected a JSON object with one of dataframe_split"),
        ([], "expected a JSON object with one of dataframe_split"),
        ({"instances": []}, "instances: expected 1 to 1,000 records, found 0"),
        ({"instances": [1]}, "instances: expected a list of objects"),
        ({"instances": "a"}, "instances: expected a list of objects"),
        ({"inputs": {"wind": 1}}, "inputs: expected a list of values for each column"),
        ({"inputs": {"wind": [1], "origin": []}}, "inputs: expected columns of one length"),
        ({"inputs": {}}, "inputs: expected columns of one length"),
        ({"inputs": {"wind": [1] * 2000}}, "inputs: expected 1 to 1,000 records, found 2,000"),
        (
            {"dataframe_split": {"columns": ["wind", "wind"], "data": [[1, 2]]}},
            "dataframe_split: columns: expected names, each once",
        ),
        ({"dataframe_split": {"columns": [None], "data": [[1]]}}, "dataframe_split: columns: expected names"),
        ({"dataframe_split": [1]}, "dataframe_split: expected {"),
        ({"dataframe_split": {"columns": ["wind"], "data": [[1, 2]]}}, "dataframe_split: data: expected rows of 1"),
        (b"{", "not JSON: "),
        (b'{"instances": [], "instances": []}', "the key 'instances' stands twice"),
    ],
)
def test_a_broken_frame_is_refused_in_mlflows_words(server: Server, body: Any, said: str) -> None:
    reply = post(server, "/invocations", body)

    assert (reply.status, reply.json["error_code"]) == (400, "BAD_REQUEST")
    assert reply.json["message"].startswith(said)


def test_ping_answers_as_mlflow_does(server: Server) -> None:
    assert (server.get("/ping").status, server.get("/ping").body) == (200, b"\n")


# The Open Inference Protocol


def tensors(**changes: Any) -> list[dict[str, Any]]:
    """The records as tensors of JSON, with some of them changed, or left out where that is None."""
    kinds = {"origin": "BYTES", "wind": "FP64", "start": "BYTES"}
    made = {name: {"name": name, "datatype": kind, "shape": [2], "data": COLUMNS[name]} for name, kind in kinds.items()}
    return [{**made[name], **changes.get(name, {})} for name in made if changes.get(name, {}) is not None]


def outputs(reply: Reply) -> dict[str, Any]:
    return {one["name"]: one for one in reply.json["outputs"]}


def test_the_server_and_its_model_describe_themselves(server: Server, bundle: Path) -> None:
    version = verify(bundle)[:12]

    assert server.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}
    model = server.get("/v2/models/toy").json
    assert model == server.get(f"/v2/models/toy/versions/{version}").json
    assert (model["name"], model["versions"]) == ("toy", [version])
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]] == [
        ("origin", "BYTES", [-1]),
        ("wind", "FP64", [-1]),
        ("start", "BYTES", [-1]),
    ]
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        ("prediction", "INT64", [-1]),
        ("probability", "FP64", [-1]),
        ("probabilities", "FP64", [-1, 2]),
    ]
    assert server.get("/v2/models/toy/ready").json == {"name": "toy", "ready": True}
    for path in ("/v2/models/other", "/v2/models/toy/versions/7", "/v2/models/other/ready", "/v2/nothing"):
        assert server.get(path).status == 404
        assert list(server.get(path).json) == ["error"]


def test_tensors_have_the_answers_of_predict(server: Server, bundle: Path) -> None:
    for path in (INFER, f"/v2/models/toy/versions/{verify(bundle)}/infer"):
        reply = post(server, path, {"id": "seven", "inputs": tensors()})

        assert reply.status == 200
        assert reply.json["id"] == "seven"
        found = outputs(reply)
        assert found["probability"] == {"name": "probability", "datatype": "FP64", "shape": [2], "data": ANSWERS}
        assert found["prediction"]["data"] == [int(one >= 0.5) for one in ANSWERS]
        assert found["probabilities"]["shape"] == [2, 2]
        assert found["probabilities"]["data"][1::2] == ANSWERS


def test_rows_of_one_value_other_numbers_and_some_outputs_alone(server: Server) -> None:
    nested = {"shape": [2, 1], "data": [[2], [3]], "datatype": "INT32"}
    wanted = [{"name": "probability"}]

    reply = post(server, INFER, {"inputs": tensors(wind=nested), "outputs": wanted})

    assert [one["name"] for one in reply.json["outputs"]] == ["probability"]
    assert reply.json["outputs"][0]["data"] == [ANSWERS[0], toy_answer("JFK", 3, "2013-01-01T05:00")]


def as_bytes(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def binary(inputs: list[dict[str, Any]], parts: list[bytes], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A body with the bytes of tensors behind its JSON text, and its headers."""
    described = [
        {**{key: value for key, value in one.items() if key != "data"}, "parameters": {"binary_data_size": len(part)}}
        for one, part in zip(inputs, parts, strict=True)
    ]
    text = json.dumps({"inputs": described, **more}).encode()
    return text + b"".join(parts), {LENGTH: str(len(text)), "content-type": "application/octet-stream"}


PARTS = [as_bytes(COLUMNS["origin"]), np.array([2.0, np.nan]).tobytes(), as_bytes(COLUMNS["start"])]


def test_bytes_behind_the_text_are_read_and_written(server: Server) -> None:
    body, headers = binary(tensors(), PARTS, parameters={"binary_data_output": True})

    reply = post(server, INFER, body, headers)

    length = int(reply.headers[LENGTH])
    found, rest = json.loads(reply.body[:length]), reply.body[length:]
    assert reply.headers["content-type"] == "application/octet-stream"
    sizes = [one["parameters"]["binary_data_size"] for one in found["outputs"]]
    assert sizes == [16, 16, 32]
    assert np.frombuffer(rest[:16], "<i8").tolist() == [int(one >= 0.5) for one in ANSWERS]
    assert np.frombuffer(rest[16:32], "<f8").tolist() == ANSWERS
    assert np.frombuffer(rest[32:], "<f8").reshape(2, 2)[:, 1].tolist() == ANSWERS


def test_what_pandas_and_numpy_write_for_missing_values_is_missing(server: Server) -> None:
    frame = b'{"dataframe_split": {"columns": ["origin", "wind", "start"], "data": [["EWR", NaN, "2013-01-01T21:00"]]}}'
    expected = toy_answer("EWR", None, "2013-01-01T21:00")

    assert post(server, "/invocations", frame).json["predictions"][0]["probability"] == expected
    times = {"instances": [{**RECORD, "start": "NaT"}]}
    assert post(server, "/invocations", times).json["predictions"][0]["error"] == "start: missing"
    body = json.dumps({"inputs": tensors(wind={"data": [float("nan"), 2.0]})}).encode()
    assert outputs(post(server, INFER, body))["probability"]["data"][0] == expected
    assert outputs(post(server, INFER, {"inputs": tensors(wind=None)}))["probability"]["data"][0] == expected
    assert post(server, INFER, body.replace(b"NaN", b"Infinity")).status == 400


def test_a_long_text_before_the_bytes_is_as_limited_as_any_other(server: Server) -> None:
    reply = post(server, INFER, b" " * 100, {LENGTH: str(2 << 20)})

    assert (reply.status, "at most 1,048,576 are accepted" in reply.json["error"]) == (413, True)


def test_a_rejected_record_refuses_the_request_by_its_number(server: Server) -> None:
    reply = post(server, INFER, {"inputs": tensors(wind={"data": [2.0, 999.0]})})

    assert (reply.status, reply.json) == (400, {"error": "record 1: wind: above the maximum of 250 miles per hour"})


BROKEN: dict[str, tuple[Any, str]] = {
    "no inputs": ({}, 'expected {"inputs"'),
    "a list": ([], 'expected {"inputs"'),
    "a number for a tensor": ({"inputs": [7]}, "inputs: expected a list of tensors"),
    "an input left out": ({"inputs": tensors(origin=None)}, "inputs: origin: missing"),
    "a type of a list": ({"inputs": tensors(wind={"datatype": []})}, "wind: datatype: expected BYTES or a type"),
    "half a character": ({"inputs": [{**tensors()[0], "name": "\ud800"}]}, "\ud800: the model has no such input"),
    "an input twice": ({"inputs": [*tensors(), tensors()[0]]}, "origin: a duplicate input"),
    "an unknown input": ({"inputs": [{**tensors()[0], "name": "x"}]}, "x: the model has no such input"),
    "another type": ({"inputs": tensors(wind={"datatype": "BYTES"})}, "wind: datatype: expected FP64, found BYTES"),
    "no type": ({"inputs": tensors(wind={"datatype": "FP128"})}, "wind: datatype: expected BYTES or a type"),
    "another length": ({"inputs": tensors(wind={"data": [1.0]})}, "wind: expected 2 values"),
    "no list": ({"inputs": tensors(wind={"data": 1.0})}, "wind: data: expected a list"),
    "another shape": ({"inputs": tensors(wind={"shape": [2, 2]})}, "wind: shape: expected [ROWS] or [ROWS, 1]"),
    "a shape below zero": ({"inputs": tensors(wind={"shape": [-2]})}, "wind: shape: expected"),
    "a shape of truth": ({"inputs": tensors(wind={"shape": [True]})}, "wind: shape: expected"),
    "unequal rows": (
        {"inputs": tensors(wind={"shape": [1], "data": [1.0]})},
        "inputs: they have different numbers of rows",
    ),
    "no rows": (
        {"inputs": tensors(**{name: {"shape": [0], "data": []} for name in COLUMNS})},
        "origin: shape: expected 1 to 1,000 rows, found 0",
    ),
    "an unknown output": ({"inputs": tensors(), "outputs": [{"name": "x"}]}, "outputs: expected some of prediction"),
    "outputs that are none": ({"inputs": tensors(), "outputs": 7}, "outputs: expected some of prediction"),
    "an output of a list": ({"inputs": tensors(), "outputs": [{"name": []}]}, "outputs: expected some of"),
    "bytes that are not there": (
        {"inputs": tensors(wind={"parameters": {"binary_data_size": 16}})},
        "wind: binary_data_size: the body has 0 bytes left",
    ),
    "no JSON": (b"{", "not JSON: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tensors_are_refused(server: Server, name: str) -> None:
    body, said = BROKEN[name]

    reply = post(server, INFER, body)

    assert (reply.status, list(reply.json)) == (400, ["error"])
    assert reply.json["error"].startswith(said)


@pytest.mark.parametrize(
    ("parts", "headers", "said"),
    [
        ([*PARTS[:2], PARTS[2][:-1]], {}, "start: a text goes beyond the end"),
        ([*PARTS[:2], PARTS[2] + b"\1"], {}, "start: more than 2 texts"),
        ([as_bytes(["EWR"]) + b"\1\0\0\0\xff", *PARTS[1:]], {}, "origin: a text is not UTF-8"),
        ([bytes(4_000_000), *PARTS[1:]], {}, "origin: more than 2 texts"),
        ([PARTS[0], PARTS[1][:-1], PARTS[2]], {}, "wind: binary_data_size: not a number of FP64 values"),
        (PARTS, {LENGTH: "-1"}, "Inference-Header-Content-Length: expected"),
        (PARTS, {LENGTH: "99999"}, "Inference-Header-Content-Length: the body has "),
        (PARTS, {LENGTH: "0"}, "the body is empty"),
    ],
)
def test_broken_bytes_are_refused(server: Server, parts: list[bytes], headers: dict[str, str], said: str) -> None:
    body, own = binary(tensors(), parts)

    reply = post(server, INFER, body, {**own, **headers})

    assert reply.status == 400
    assert reply.json["error"].startswith(said)


def test_bytes_that_belong_to_no_tensor_are_refused(server: Server) -> None:
    body, headers = binary(tensors(), PARTS)

    assert post(server, INFER, body + b"more", headers).json == {"error": "the body has 4 bytes more than its tensors"}


def test_another_model_and_another_method_are_refused(server: Server) -> None:
    assert post(server, "/v2/models/other/infer", {"inputs": tensors()}).status == 404
    assert post(server, "/v2/models/toy/versions/7/infer", {"inputs": tensors()}).status == 404
    assert server.get(INFER).status == server.get("/invocations").status == 405


def test_both_are_counted_limited_and_need_the_key(bundle: Path) -> None:
    key, stored = new_key("planning")
    settings = f'keys = [{{name = "planning", sha256 = "{stored.sha256}"}}]\nmax_records = 1\nmax_json_bytes = 2000\n'
    (bundle.parent / "serve.toml").write_text(settings)
    with start(bundle, "--config", str(bundle.parent / "serve.toml")) as server:
        known = {"authorization": f"Bearer {key}"}
        for path, body in (("/invocations", {"instances": RECORDS}), (INFER, {"inputs": tensors()})):
            assert post(server, path, body).status == 401
            assert post(server, path, body, known).status == 400, "two records are more than one"
            assert post(server, path, b" " * 3000, known).status == 413
        assert post(server, "/invocations", {"instances": [RECORD]}, known).status == 200
        assert server.get("/v2/health/ready").status == server.get("/ping").status == 200
        assert server.get("/v2/models/toy").status == 401
        metrics = server.get("/metrics", known).body.decode()
        assert 'requests_total{path="/invocations",status="200"} 1' in metrics
        assert 'requests_total{path="/v2",status="413"} 1' in metrics


def test_three_classes_with_names_and_a_number_are_written_too() -> None:
    fields, info = (Field("a", "number", True),), ModelInfo("toy", "1", "1")
    chances = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    signature = Signature("classification", "y", None, fields, labels=("a", "b", "ü"))
    answers = Answers(chances, np.array([2, 0]), (), ("a", "b", "ü"))

    wanted = InferRequest({}, {"prediction": True, "probabilities": True})
    content, length = write_infer(answers, info, signature, wanted)

    described = {one["name"]: one for one in json.loads(content[:length])["outputs"]}
    assert (described["prediction"]["datatype"], described["probabilities"]["shape"]) == ("BYTES", [2, 3])
    assert content[length:] == as_bytes(["ü", "a"]) + chances.tobytes()
    number = Answers(np.array([1.5]), None, ())
    signature = Signature("regression", "y", None, fields)
    content, length = write_infer(number, info, signature, InferRequest({}, {"prediction": False}))
    assert length == 0
    assert json.loads(content)["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [1], "data": [1.5]}]


def test_several_rejected_records_are_told_by_the_first() -> None:
    rejects = (Reject(0, "a", "", "missing"), Reject(1, "a", "", "missing"))
    answers = Answers(np.array([np.nan, np.nan]), None, rejects)

    with pytest.raises(RefusedError, match=r"^record 0: a: missing \(and 1 more\)$"):
        check_no_rejects(answers.rejects)
    with pytest.raises(RefusedError, match="^record 1: no answer$"):
        check_no_rejects((Reject(1, "", "", "no answer"),))


# The reader and the writer alone


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_is_read_as_the_same_records(name: str) -> None:
    assert read_invocations(json.dumps({name: FRAMES[name]}).encode(), TOY, 2) == RECORDS


@pytest.mark.parametrize("name", BROKEN)
def test_the_reader_names_what_is_broken(name: str) -> None:
    body, said = BROKEN[name]
    with pytest.raises(RefusedError, match=f"^{re.escape(said)}"):
        read_infer(body if isinstance(body, bytes) else json.dumps(body).encode(), None, TOY, 1000)


def test_tensors_are_read_alike_from_the_text_and_from_bytes() -> None:
    wanted = {"outputs": [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "prediction"}]}
    body, headers = binary(tensors(), PARTS, **wanted, id="seven")
    text = json.dumps({"inputs": tensors(), **wanted, "id": "seven"}).encode()

    found = [read_infer(body, int(headers[LENGTH]), TOY, 2), read_infer(text, None, TOY, 2)]

    for request in found:
        assert (request.id, request.outputs) == ("seven", {"probability": True, "prediction": False})
        assert request.columns["origin"].tolist() == COLUMNS["origin"]
        assert request.columns["start"].tolist() == COLUMNS["start"]
    assert np.array_equal(found[0].columns["wind"], np.array([2.0, np.nan]), equal_nan=True)
    assert found[1].columns["wind"].tolist() == [2.0, None]


def test_rejected_rows_are_written_with_their_errors() -> None:
    rejects = (Reject(1, "a", "9", "bad"), Reject(1, "b", "", "missing"))
    answers = Answers(np.array([0.25, np.nan]), np.array([0, -1]), rejects, (0, 1))

    content = json.loads(write_invocations(answers, TOY))

    bad = {"prediction": None, "probability": None, "error": "a: bad; b: missing"}
    assert content["predictions"] == [{"prediction": 0, "probability": 0.25, "error": None}, bad]
    assert json.loads(write_invocations(slice_answers(answers, 1, 1), TOY))["predictions"] == [bad]
    assert slice_answers(answers, 0, 1).rejects == ()


def test_the_model_describes_its_tensors() -> None:
    found = describe_tensors(ModelInfo("toy", "1", "1"), TOY)

    assert [one["datatype"] for one in found["inputs"]] == ["BYTES", "FP64", "BYTES"]
    assert [one["shape"] for one in found["outputs"]] == [[-1], [-1], [-1, 2]]
