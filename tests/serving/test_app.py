"""The endpoint, asked as a client asks it."""

import base64
import csv
import gzip
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.scoring.files import score_file
from mlops_pkg.serving.settings import new_key
from tests.serving.conftest import JSON, Reply, Server, start, until
from tests.serving.test_models import OTHER, replaced
from tests.toy import GRAPH, RECORD, TOY, toy_answer, write_bundle

CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
FAR = {**RECORD, "wind": "far"}


def error(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


def stream(**columns: Any) -> bytes:
    sink = io.BytesIO()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table(reply: Reply) -> pa.Table:
    with pa.ipc.open_stream(reply.body) as reader:
        return reader.read_all()


# Answers


def test_a_record_has_its_answer_to_the_last_digit_and_the_model_that_gave_it(server: Server, bundle: Path) -> None:
    reply = server.ask([RECORD])

    answer, digest = toy_answer(**RECORD), verify(bundle)
    assert reply.status == 200
    assert reply.json == {
        "predictions": [
            {"prediction": 1, "probability": answer, "probabilities": {"0": round(1 - answer, 9), "1": answer}}
        ],
        "model": {"name": "toy", "version": digest[:12], "digest": digest},
    }


def test_answers_come_in_the_order_of_the_records(server: Server) -> None:
    records = [{**RECORD, "start": f"2013-01-01T{hour:02}:00"} for hour in (5, 23, 0, 12)]

    found = [one["probability"] for one in server.ask(records).json["predictions"]]

    assert found == [toy_answer(**record) for record in records]


def test_a_bad_record_has_its_reasons_and_the_rest_have_answers(server: Server) -> None:
    reply = server.ask([RECORD, FAR, RECORD])

    good, bad, last = reply.json["predictions"]
    assert reply.status == 200
    assert good == last
    assert bad == {
        "prediction": None,
        "probability": None,
        "probabilities": None,
        "errors": [{"field": "wind", "value": "'far'", "reason": "expected a number, found text"}],
    }


def test_a_request_without_a_good_record_is_422_with_all_reasons(server: Server) -> None:
    reply = server.ask([FAR, {}])

    assert reply.status == 422
    assert [[one["field"] for one in found["errors"]] for found in reply.json["predictions"]] == [
        ["wind"],
        ["origin", "start"],
    ]


def test_an_arrow_stream_is_answered_by_one(server: Server) -> None:
    body = stream(origin=["EWR", "JFK", "EWR"], wind=[2.0, None, 999.0], start=["2013-01-01T21:00"] * 3)

    reply = server.get("/predict", {"content-type": ARROW}, body)

    found = table(reply)
    assert reply.status == 200
    assert found.column("probability").to_pylist() == [
        toy_answer(**RECORD),
        toy_answer("JFK", None, "2013-01-01T21:00"),
        None,
    ]
    [wrong] = found.column("errors").to_pylist()[2]
    assert wrong["reason"] == "above the maximum of 250 miles per hour"
    assert found.schema.metadata[b"name"] == b"toy"


def test_many_clients_at_once_get_their_own_answers(server: Server) -> None:
    records = [{**RECORD, "start": f"2013-01-{day:02}T{hour:02}:00"} for day in range(1, 9) for hour in range(24)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda record: server.ask([record]), records))

    assert [reply.json["predictions"][0]["probability"] for reply in replies] == [toy_answer(**one) for one in records]


def test_partial_off_refuses_a_request_with_one_bad_record(bundle: Path) -> None:
    with start(bundle, env={"SERVE_PARTIAL": "false"}) as server:
        assert server.ask([RECORD, FAR]).status == 422
        assert server.ask([RECORD]).status == 200


# Refusals


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"content-type": "text/plain"}, b"origin", (415, "media_type")),
        ({"content-type": JSON, "content-encoding": "br"}, b"{}", (415, "encoding")),
        ({"content-type": JSON, "content-encoding": "gzip"}, b"{}", (400, "encoding")),
        ({"content-type": JSON, "content-encoding": "gzip"}, gzip.compress(b"{}")[:-1], (400, "encoding")),
        ({"content-type": JSON, "content-encoding": "gzip"}, gzip.compress(b"{}") * 2, (400, "encoding")),
        ({"content-type": JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 30_000_000), (413, "too_large")),
        ({"content-type": CSV}, b"origin", (422, "columns")),
        ({"content-type": CSV}, b"origin,wind,start\n", (422, "columns")),
        ({"content-type": CSV}, b'origin,wind,start\n"EWR,1', (400, "not_csv")),
        ({"content-type": CSV}, b"origin,wind,start\n\xff,1,2013-01-01\n", (400, "not_csv")),
        ({"content-type": JSON}, b"{", (400, "not_json")),
        ({"content-type": ARROW}, b"ARROW1", (400, "not_arrow")),
        ({"content-type": ARROW}, stream(origin=["EWR"]), (422, "columns")),
        ({"content-type": JSON}, b" " * (1 << 20) + b"{}", (413, "too_large")),
    ],
    ids=[
        *("plain", "brotli", "no gzip", "gzip cut off", "gzip twice", "bomb"),
        *("csv header", "csv without rows", "csv quote", "csv bytes", "json", "arrow", "columns", "large"),
    ],
)
def test_a_body_that_holds_no_records_is_refused_with_a_code(
    server: Server, headers: dict[str, str], body: bytes, expected: tuple[int, str]
) -> None:
    assert error(server.get("/predict", headers, body)) == expected
    assert server.ask([RECORD]).status == 200


def test_a_path_and_a_method_that_are_none_are_refused_in_the_same_form(server: Server) -> None:
    assert error(server.get("/nowhere")) == (404, "not_found")
    assert error(server.get("/predict")) == (405, "method")
    posted = server.get("/model", body=b"")
    assert (error(posted), posted.headers["allow"]) == ((405, "method"), "GET, HEAD")
    assert error(server.get("/predict/")) == (404, "not_found")


def test_a_body_that_does_not_come_is_given_up(bundle: Path) -> None:
    with start(bundle, env={"SERVE_BODY_SECONDS": "0.3"}) as server, server.connect() as line:
        head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\ncontent-length: 50\r\n\r\n"
        line.sendall(head.encode() + b'{"rec')
        reply = line.makefile("rb").read()

        assert reply.startswith(b"HTTP/1.1 408 "), reply
        assert server.ask([RECORD]).status == 200


def test_who_hangs_up_in_the_middle_is_counted_and_leaves_nothing_behind(server: Server) -> None:
    before = server.metric('requests_total{path="/predict",status="499"}')
    with server.connect() as line:
        line.sendall(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 50\r\n\r\n{"
        )

    until(lambda: server.metric('requests_total{path="/predict",status="499"}') == before + 1)
    assert server.metric("in_flight") == 1, "only the request for the metrics is under way"
    assert not server.events("failed")


# Who may ask


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def locked(bundle: Path, keys: dict[str, str]) -> Iterator[Server]:
    lines = []
    for name in ("old", "new"):
        keys[name], stored = new_key(name)
        lines.append(f'{{name = "{name}", sha256 = "{stored.sha256}"}}')
    with start(bundle, config=f"keys = [{', '.join(lines)}]") as server:
        yield server


@pytest.mark.parametrize("path", ["/predict", "/model", "/metrics", "/", "/docs", "/openapi.json", "/nowhere"])
def test_without_a_key_nothing_is_told(locked: Server, path: str) -> None:
    reply = locked.get(path, body=b"{}" if path == "/predict" else None)

    assert error(reply) == (401, "no_key")
    assert reply.headers["www-authenticate"]


def test_health_needs_no_key(locked: Server) -> None:
    assert locked.get("/health").status == locked.get("/ready").status == 200


@pytest.mark.parametrize("name", ["old", "new"])
def test_each_key_is_good_in_either_form(locked: Server, keys: dict[str, str], name: str) -> None:
    bearer = {"authorization": f"Bearer {keys[name]}"}
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{keys[name]}".encode()).decode()}

    assert locked.ask([RECORD], bearer).status == locked.ask([RECORD], basic).status == 200
    until(lambda: name in {line.get("key") for line in locked.events("request")})
    assert keys[name] not in locked.log.read_text()


@pytest.mark.parametrize(
    "told", ["Bearer guess", "Basic guess", "Basic bWU6Z3Vlc3M=", "Digest guess", "guess", "Bearer"]
)
def test_a_wrong_key_is_refused(locked: Server, told: str) -> None:
    assert locked.ask([RECORD], {"authorization": told}).status == 401


# Numbers and lines


def test_counts_tell_what_was_asked_and_what_was_wrong_with_it(bundle: Path) -> None:
    with start(bundle) as server:
        server.ask([RECORD, {**RECORD, "wind": None}, FAR, {**RECORD, "wind": 999}])
        server.ask(b"{")

        found = {
            name: server.metric(name)
            for name in (
                'requests_total{path="/predict",status="200"}',
                'requests_total{path="/predict",status="400"}',
                'refused_total{code="not_json"}',
                "records_total",
                "records_rejected_total",
                'field_missing_total{field="wind"}',
                'field_out_of_range_total{field="wind"}',
                'field_refused_total{field="wind"}',
                "answers_count",
                "predict_seconds_count",
            )
        }

    assert list(found.values()) == [1, 1, 1, 4, 2, 1, 1, 1, 2, 2], found


def test_answers_are_counted_in_tenths(bundle: Path) -> None:
    with start(bundle) as server:
        server.ask([RECORD, RECORD])
        answer = toy_answer(**RECORD)
        tenth = int(10 * answer) / 10

        assert server.metric(f'answers_bucket{{le="{tenth}"}}') == 0
        assert server.metric(f'answers_bucket{{le="{round(tenth + 0.1, 1)}"}}') == 2
        assert server.metric("answers_sum") == pytest.approx(2 * answer)


def test_a_request_is_one_line_without_its_values(server: Server) -> None:
    number = "mine-1"
    reply = server.ask([RECORD, FAR], {"x-request-id": number})

    assert reply.headers["x-request-id"] == number
    [line] = until(lambda: [line for line in server.events("request") if line.get("id") == number])
    assert (line["path"], line["status"], line["records"], line["rejected"]) == ("/predict", 200, 2, 1)
    assert "far" not in server.log.read_text()


def test_a_trace_is_continued_in_the_reply_and_in_the_log(server: Server) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    reply = server.ask([RECORD], {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "traced-1"})

    version, found, span, flags = reply.headers["traceparent"].split("-")
    assert (version, found, flags) == ("00", trace, "01")
    assert span != "00f067aa0ba902b7"
    assert len(span) == 16
    [line] = until(lambda: [line for line in server.events("request") if line.get("id") == "traced-1"])
    assert line["trace"] == trace


def test_csv_is_answered_as_predict_writes_it_with_the_reasons(server: Server, bundle: Path, tmp_path: Path) -> None:
    text = "start,note,wind,origin\n2013-01-01T21:00,a,2,EWR\n2013-01-01,b,,JFK\nno time,c,1000,EWR\n2013-01-01,d\n"
    (tmp_path / "in.csv").write_text(text)
    score_file(bundle, tmp_path / "in.csv", tmp_path / "out.csv")
    before = server.metric('field_missing_total{field="wind"}')
    plain = server.get("/predict", {"content-type": "text/csv; charset=utf-8"}, text.encode())
    packed = server.get("/predict", {"content-type": CSV, "content-encoding": "gzip"}, gzip.compress(text.encode()))
    rows = list(csv.reader(io.StringIO(plain.body.decode())))

    assert plain.status == packed.status == 200
    assert plain.headers["content-type"] == CSV
    assert plain.body == packed.body
    assert [row[:-1] for row in rows] == list(csv.reader((tmp_path / "out.csv").open()))
    assert [row[-1] for row in rows] == [
        "error",
        "",
        "",
        "start: not a time (ISO 8601, such as 2013-01-31T05:15:00); wind: above the maximum of 250 miles per hour",
        ": expected 4 cells, found 2",
    ]
    assert server.metric('field_missing_total{field="wind"}') - before >= 2
    explained = server.get("/predict?explain=true", {"content-type": CSV}, text.encode())
    assert error(explained) == (422, "explain")


def test_a_gzip_body_is_answered_as_the_plain_one(server: Server) -> None:
    body = json.dumps({"records": [RECORD] * 50}).encode()
    packed = server.get("/predict", {"content-type": JSON, "content-encoding": "gzip"}, gzip.compress(body))

    assert packed.status == 200
    assert packed.body == server.ask(body).body


def test_values_of_rejected_fields_are_in_the_log_where_that_is_asked_for(bundle: Path) -> None:
    with start(bundle, env={"SERVE_LOG_VALUES": "true"}) as server:
        server.ask([RECORD, FAR])
        [line] = until(lambda: [line for line in server.events("request") if line["path"] == "/predict"])

    assert line["rejects"] == [["wind", "'far'", "expected a number, found text"]]


@pytest.mark.parametrize("number", ["a b", "x" * 65, "é", 'a"'])
def test_a_number_that_is_no_plain_one_is_not_taken_over(server: Server, number: str) -> None:
    assert server.ask([RECORD], {"x-request-id": number}).headers["x-request-id"] != number


def test_the_model_tells_of_itself(server: Server, bundle: Path) -> None:
    found = server.get("/model").json

    assert found["model"]["digest"] == verify(bundle)
    assert [field["name"] for field in found["signature"]["fields"]] == ["origin", "wind", "start"]
    assert found["card"] == (bundle / "card.md").read_text()


# A new bundle


def test_a_new_bundle_takes_over_while_clients_ask_and_none_is_lost(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    old, new = verify(folder), verify(write_bundle(tmp_path / "other", OTHER))
    found: list[tuple[int, str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            reply = server.ask([RECORD])
            found.append((reply.status, reply.json["model"]["digest"], reply.json["predictions"][0]["probability"]))

    with start(folder, env={"SERVE_RELOAD_SECONDS": "0.1"}) as server, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        until(lambda: len(found) > 20)
        replaced(folder, tmp_path / "other")
        until(lambda: found[-1][1] == new)
        stop.set()
        for one in asking:
            one.result()

    assert {status for status, _, _ in found} == {200}
    assert len({(digest, answer) for _, digest, answer in found}) == 2, "an answer under another model's name"
    assert {digest for _, digest, _ in found} == {old, new}


def test_a_new_bundle_may_ask_for_other_fields(tmp_path: Path) -> None:
    fields = tuple(replace(field, name="gust") if field.name == "wind" else field for field in TOY.fields)
    other = write_bundle(tmp_path / "other", GRAPH.replace("wind", "gust"), replace(TOY, fields=fields))
    record = {"gust" if name == "wind" else name: value for name, value in RECORD.items()}
    folder = write_bundle(tmp_path / "bundle")
    with start(folder, env={"SERVE_RELOAD_SECONDS": "0.1"}) as server:
        replaced(folder, other)
        until(lambda: server.metric("bundles_taken_total") == 1)

        assert server.ask([record]).json["predictions"][0]["probability"] == toy_answer(**RECORD)
        body = stream(**{name: [value] for name, value in record.items()})
        assert server.get("/predict", {"content-type": ARROW}, body).status == 200
        assert server.ask([RECORD]).status == 422
        assert not server.events("failed")


def test_a_broken_bundle_is_refused_and_the_old_one_answers_on(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    with start(folder, env={"SERVE_RELOAD_SECONDS": "0.1"}) as server:
        (folder / "model.onnx").write_bytes(b"broken")
        until(lambda: server.metric("bundles_refused_total") == 1)

        assert server.ask([RECORD]).json["predictions"][0]["probability"] == toy_answer(**RECORD)
        [line] = until(lambda: server.events("bundle_refused"))
        assert line["reason"].endswith("model.onnx: changed since it was packed")


def test_cross_origin_requests_are_allowed_where_the_settings_name_them_alone(bundle: Path) -> None:
    asked = {"origin": "https://planning.example"}
    with start(bundle) as server:
        assert "access-control-allow-origin" not in server.ask([RECORD], asked).headers
    with start(bundle, config='cors = ["https://planning.example"]') as server:
        assert server.ask([RECORD], asked).headers["access-control-allow-origin"] == "https://planning.example"
        other = server.ask([RECORD], {"origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in other.headers
    assert json.loads(other.body)
