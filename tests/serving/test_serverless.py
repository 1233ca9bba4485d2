"""The endpoint as a function of AWS Lambda: the events of each service before it, and the answers of `/predict`."""

import base64
import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlops_pkg.serving import serverless
from mlops_pkg.serving.serverless import handler
from mlops_pkg.serving.settings import new_key
from tests.serving.conftest import JSON
from tests.toy import RECORD, toy_answer

Event = dict[str, Any]
TEXT = json.dumps({"records": [RECORD]})
CALL = """
import json, sys
from mlops_pkg.serving.serverless import handler
for line in sys.stdin:
    print(json.dumps(handler(json.loads(line))))
"""


def rest_api(method: str, path: str, body: str | None = None, **more: Any) -> Event:
    """An event of a REST API, payload 1.0: https://docs.aws.amazon.com/lambda/latest/dg/services-apigateway.html."""
    headers = {"Content-Type": JSON, "Host": "abc.execute-api.eu-west-1.amazonaws.com", "X-Forwarded-Port": "443"}
    listed = {name: [value] for name, value in headers.items()}
    context = {
        "resourcePath": path,
        "httpMethod": method,
        "path": f"/prod{path}",
        "stage": "prod",
        "protocol": "HTTP/1.1",
    }
    event = {"resource": path, "path": path, "httpMethod": method, "headers": headers, "multiValueHeaders": listed}
    event |= {"queryStringParameters": None, "multiValueQueryStringParameters": None, "stageVariables": None}
    return {**event, "requestContext": context, "body": body, "isBase64Encoded": False, **more}


def http_api(method: str, path: str, body: str | None = None, **more: Any) -> Event:
    """An event of an HTTP API, payload 2.0."""
    asked = {"method": method, "path": f"/prod{path}", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"}
    context = {"http": asked, "stage": "prod", "apiId": "abc"}
    event = {"version": "2.0", "routeKey": "$default", "rawPath": f"/prod{path}", "rawQueryString": ""}
    event |= {"headers": {"content-type": JSON}, "requestContext": context, "isBase64Encoded": False}
    return {**event, **({} if body is None else {"body": body}), **more}


def function_url(method: str, path: str, body: str | None = None, **more: Any) -> Event:
    """An event of a function URL."""
    event = http_api(method, path, body)
    context = {"http": {**event["requestContext"]["http"], "path": path}, "stage": "$default"}
    return {**event, "rawPath": path, "requestContext": context, **more}


def load_balancer(method: str, path: str, body: str | None = None, **more: Any) -> Event:
    """An event of an application load balancer."""
    event = {"requestContext": {"elb": {"targetGroupArn": "arn:aws:x"}}, "httpMethod": method, "path": path}
    event |= {"queryStringParameters": {}, "headers": {"content-type": JSON, "x-amzn-trace-id": "Root=1"}}
    return {**event, "body": body or "", "isBase64Encoded": False, **more}


SERVICES: list[Callable[..., Event]] = [rest_api, http_api, function_url, load_balancer]


@pytest.fixture
def function(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A function that has just been started with the toy model."""
    monkeypatch.setenv("SERVE_BUNDLE", str(bundle))
    monkeypatch.setenv("SERVE_LOG", str(tmp_path / "log"))
    serverless._app.cache_clear()
    yield
    serverless._app.cache_clear()


@pytest.mark.parametrize("service", SERVICES)
def test_an_event_has_the_answer_of_predict(function: None, service: Callable[..., Event]) -> None:
    for event in (
        service("POST", "/predict", TEXT),
        service("POST", "/predict", base64.b64encode(TEXT.encode()).decode(), isBase64Encoded=True),
    ):
        reply = handler(event)

        assert (reply["statusCode"], reply["isBase64Encoded"]) == (200, False)
        assert json.loads(reply["body"])["predictions"][0]["probability"] == toy_answer(**RECORD)
        headers = reply.get("headers") or {name: one for name, (one,) in reply["multiValueHeaders"].items()}
        assert headers["content-type"] == JSON


@pytest.mark.parametrize("service", SERVICES)
def test_other_paths_and_refusals_are_those_of_the_endpoint(function: None, service: Callable[..., Event]) -> None:
    assert json.loads(handler(service("GET", "/health"))["body"]) == {"status": "alive"}
    assert json.loads(handler(service("GET", "/v2/models/toy"))["body"])["name"] == "toy"
    assert handler(service("GET", "/nothing"))["statusCode"] == 404
    assert handler(service("GET", "/predict"))["statusCode"] == 405
    refused = handler(service("POST", "/predict", "{"))
    assert (refused["statusCode"], json.loads(refused["body"])["error"]["code"]) == (400, "not_json")


def test_the_other_protocols_are_spoken_as_well(function: None) -> None:
    answer, path = toy_answer(**RECORD), "/v2/models/toy/infer"
    frame = handler(http_api("POST", "/invocations", json.dumps({"instances": [RECORD]})))
    kinds = {"origin": "BYTES", "wind": "FP64", "start": "BYTES"}
    inputs = [{"name": name, "datatype": kind, "shape": [1], "data": [RECORD[name]]} for name, kind in kinds.items()]
    wanted = {"parameters": {"binary_data_output": True}, "outputs": [{"name": "probability"}]}
    asked = json.dumps({"inputs": inputs, **wanted})
    length = {"content-type": JSON, "inference-header-content-length": str(len(asked))}

    tensors = handler(http_api("POST", path, asked, headers=length))

    assert json.loads(frame["body"])["predictions"][0]["probability"] == answer
    text = int(tensors["headers"]["inference-header-content-length"])
    assert struct.unpack("<d", base64.b64decode(tensors["body"])[text:]) == (answer,)
    for wrong in ("/v2/models/other/infer", "/v2/models/toy/versions/7/infer"):
        assert handler(http_api("POST", wrong, asked))["statusCode"] == 404
    length["inference-header-content-length"] = "x"
    assert handler(http_api("POST", path, asked, headers=length))["statusCode"] == 400
    assert handler(http_api("POST", path, "{}"))["statusCode"] == 400
    assert handler(http_api("POST", "/invocations", "{}"))["statusCode"] == 400
    for extra in ("explain=maybe", "more=true"):
        assert handler(http_api("POST", "/predict", TEXT, rawQueryString=extra))["statusCode"] == 422
    for kind, status in (("text/csv", 422), ("text/plain", 415), ("", 415)):
        assert handler(http_api("POST", "/predict", TEXT, headers={"content-type": kind}))["statusCode"] == status


def test_an_arrow_stream_comes_and_goes_as_base64(function: None) -> None:
    sink = io.BytesIO()
    table = pa.table({"origin": ["EWR"], "wind": [2.0], "start": ["2013-01-01T21:00"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kind = "application/vnd.apache.arrow.stream"
    event = http_api("POST", "/predict", base64.b64encode(sink.getvalue()).decode(), isBase64Encoded=True)

    reply = handler({**event, "headers": {"content-type": kind}})

    assert (reply["statusCode"], reply["isBase64Encoded"]) == (200, True)
    with pa.ipc.open_stream(base64.b64decode(reply["body"])) as reader:
        assert reader.read_all().column("probability").to_pylist() == [toy_answer(**RECORD)]


@pytest.mark.parametrize("path", ["/page.css", "/page.js", "/docs"])
def test_pages_and_their_files_are_served(function: None, path: str) -> None:
    reply = handler(http_api("GET", path))

    assert reply["statusCode"] == 200
    assert len(reply["body"]) > 300


def test_a_length_that_the_sender_claims_is_not_believed(function: None) -> None:
    event = http_api("POST", "/predict", TEXT, headers={"content-type": JSON, "content-length": "1"})

    assert handler(event)["statusCode"] == 200


def test_keys_are_asked_for_where_they_are_set(bundle: Path, tmp_path: Path) -> None:
    key, stored = new_key("planning")
    events = [http_api("POST", "/predict", TEXT)]
    events.append({**events[0], "headers": {"content-type": JSON, "authorization": f"Bearer {key}"}})
    environment = {"SERVE_BUNDLE": str(bundle), "SERVE_LOG": str(tmp_path / "log"), "PATH": ""}
    environment["SERVE_KEYS"] = f"planning:{stored.sha256}"
    lines = "\n".join(map(json.dumps, events))

    done = subprocess.run(
        [sys.executable, "-c", CALL], input=lines, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    locked, opened = map(json.loads, done.stdout.splitlines())
    assert (locked["statusCode"], opened["statusCode"]) == (401, 200)
    assert locked["headers"]["www-authenticate"] == 'Basic realm="any name, and the key",Bearer'


@pytest.mark.parametrize("service", SERVICES)
def test_a_query_reaches_the_endpoint(function: None, service: Callable[..., Event]) -> None:
    asked = {"queryStringParameters": {"explain": "maybe"}, "rawQueryString": "explain=maybe"}

    reply = handler(service("POST", "/predict", TEXT, **asked))

    assert (reply["statusCode"], json.loads(reply["body"])["error"]["code"]) == (422, "explain")
