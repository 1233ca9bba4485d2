"""nginx in front of the server: what it passes on, and what ends there and never reaches the server."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_pkg.serving.settings import Settings
from tests.serving.conftest import DEADLINE, Server, start, until
from tests.serving.proxy import behind_nginx
from tests.serving.test_command import ASK, BODY, HEAD, MUCH, one_reply, pour, rest, send_some, status
from tests.serving.test_security import stream
from tests.serving.wire import Wire, ask, asking, request, rss
from tests.slow.servers import free_port
from tests.slow.test_serving_faults import loaded
from tests.toy import RECORD, toy_answer, write_bundle

pytestmark = pytest.mark.slow
ANSWER = toy_answer(**RECORD)
SETTINGS = Settings(header_seconds=1, body_seconds=1, idle_seconds=2, max_connections=32, retry_seconds=7)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose own limits are far away: what holds is nginx."""
    bundle = write_bundle(tmp_path_factory.mktemp("served") / "bundle")
    env = {"SERVE_BODY_SECONDS": "600", "SERVE_IDLE_SECONDS": "600"}
    with start(bundle, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def front(served: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with behind_nginx(SETTINGS, tmp_path_factory.mktemp("front"), served.port) as port:
        yield port


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A connection to a port."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as wire:
        yield wire


def test_nginx_passes_json_and_arrow_unchanged(front: int, served: Server) -> None:
    import pyarrow as pa

    table = stream(pa.table({name: [value] * 50_000 for name, value in RECORD.items()}))
    arrow = request("POST", "/predict", {"content-type": "application/vnd.apache.arrow.stream"}, table)
    for content in (asking([RECORD] * 100), arrow):
        direct, passed = ask(served.port, content), ask(front, content)
        assert direct.status == passed.status == 200
        assert direct.body == passed.body
    assert "x-request-id" in passed.headers


def test_connections_to_nginx_are_kept(front: int) -> None:
    with Wire(front) as wire:
        for _ in range(5):
            wire.send(asking([RECORD]))
            assert wire.reply().json["predictions"][0]["probability"] == toy_answer(**RECORD)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_slow_client_ends_at_nginx_and_never_reaches_the_server(front: int, served: Server, part: str) -> None:
    content = asking([RECORD])
    cut = content.index(b"\r\n\r\n") + (4 if part == "body" else -20)
    with Wire(front) as wire:
        wire.send(content[:cut])
        began = time.monotonic()
        left = wire.socket.recv(1 << 16)  # nginx hangs up, with a word or without
        assert 0.5 < time.monotonic() - began < 10
    assert left == b"" or (left.startswith(b"HTTP/1.1 408") and b'"timeout"' in left)
    assert served.metric("in_flight") == 1


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", (431,)),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", (431,)),
        (b"hello\r\n\r\n", (400,)),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", (400,)),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello", (400,)),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 501)),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n", (413,)),
    ],
)
def test_what_is_malformed_or_too_large_ends_at_nginx(
    front: int, served: Server, content: bytes, statuses: tuple[int, ...]
) -> None:
    reply = ask(front, content)
    assert reply.status in statuses
    assert reply.status == 501 or reply.code in ("headers", "not_http", "too_large")
    assert {line["path"] for line in served.events("request")} <= {"/predict", "/metrics"}
    assert {line["status"] for line in served.events("request")} <= {200, 422, 499}


def test_more_requests_at_once_than_one_address_may_have_are_refused(front: int, served: Server) -> None:
    limit = SETTINGS.max_connections // 4
    with Wire(served.port):
        slow = [Wire(front) for _ in range(limit)]
        for wire in slow:
            wire.send(asking([RECORD])[:-10])
        until(lambda: ask(front, asking([RECORD])).status == 503, 1)
        reply = ask(front, asking([RECORD]))
        for wire in slow:
            wire.close()
    assert reply.code == "overloaded"
    assert reply.headers["retry-after"] == "7"
    until(lambda: ask(front, asking([RECORD])).status == 200)


def test_without_a_server_nginx_says_when_to_try_again(tmp_path: Path) -> None:
    with behind_nginx(SETTINGS, tmp_path, free_port()) as port:
        reply = ask(port, asking([RECORD]))
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "overloaded", "7")


# What a connection may send


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(front: int, text: bytes) -> None:
    with connected(front) as wire:
        wire.sendall(text)
        assert status(rest(wire)) == 400


def test_a_body_in_chunks_is_read_and_its_trailer_adds_no_header(front: int) -> None:
    chunks = b"".join(b"%x;name=value\r\n%c\r\n" % (1, byte) for byte in BODY)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nContent-Type: text/plain\r\n\r\n"
    with connected(front) as wire:
        for _ in range(2):  # on one connection, so that its end is found
            wire.sendall(chunked)
            code, _, body = one_reply(wire)
            assert (code, json.loads(body)["predictions"][0]["probability"]) == (200, ANSWER)


def test_five_hundred_requests_that_are_sent_ahead_are_answered_one_after_the_other(front: int) -> None:
    with connected(front) as wire:
        send_some(wire, ASK * 500)
        found = b""
        while found.count(b'"digest"') < 500:
            part = wire.recv(1 << 16)
            assert part, f"closed after {found.count(b'digest')} replies"
            found += part
    assert found.count(b"HTTP/1.1 200 OK") == 500


def test_a_request_is_answered_before_the_nonsense_behind_it_ends_the_connection(front: int) -> None:
    with connected(front) as wire:
        wire.sendall(ASK + b"nonsense\r\n\r\n")
        first, second = rest(wire).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert f"{ANSWER}".encode() in first
    assert second.startswith(b"400")


@pytest.mark.parametrize("body", [b"", BODY])
def test_a_client_that_asks_for_http_2_is_answered_in_http_1(front: int, body: bytes) -> None:
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    asked = HEAD + asks + length + b"\r\n" if body else b"GET /health HTTP/1.1\r\nHost: a\r\n" + asks + b"\r\n"
    with connected(front) as wire:
        wire.sendall(asked)
        wire.sendall(body)
        code, _, told = one_reply(wire)
        assert (code, b"0." in told) == (200, bool(body))
        wire.sendall(ASK)
        assert one_reply(wire)[0] == 200


def test_a_client_that_has_said_all_is_answered(front: int) -> None:
    with connected(front) as wire:
        wire.sendall(ASK)
        wire.shutdown(socket.SHUT_WR)
        assert one_reply(wire)[0] == 200


@pytest.mark.parametrize("part", [ASK[:-10], ASK[:30]])
def test_a_request_that_is_cut_off_never_reaches_the_server(front: int, served: Server, part: bytes) -> None:
    before = served.metric('requests_total{path="/predict",status="200"}')
    with connected(front) as wire:
        wire.sendall(part)
        wire.shutdown(socket.SHUT_WR)
        reply = rest(wire)
    assert not reply or status(reply) == 400
    assert served.metric('requests_total{path="/predict",status="200"}') == before


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 5_000_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(300_000)),
        ASK + b"GET / HTTP/1.1\r\nX: " + b"a" * 5_000_000,
    ],
)
def test_a_head_without_end_is_refused_to_a_client_that_reads_late(front: int, served: Server, head: bytes) -> None:
    before = rss(served.process.pid)
    with connected(front) as wire:
        send_some(wire, head)
        assert one_reply(wire)[0] == (200 if head.startswith(ASK) else 431)
    assert rss(served.process.pid) < before + (4 << 20)


# In time


def test_a_slow_second_request_is_ended_too(front: int) -> None:
    with connected(front) as wire:
        wire.sendall(ASK)
        assert one_reply(wire)[0] == 200
        began = time.monotonic()
        wire.sendall(ASK[:30])
        reply = rest(wire)
    assert not reply or status(reply) == 408
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("end", [b"", b"nonsense\r\n\r\n"])
def test_a_reply_that_nobody_reads_is_given_up(front: int, served: Server, end: bytes) -> None:
    with connected(front) as wire:
        pour(wire, MUCH)
        send_some(wire, end)
        until(lambda: pour(wire, b"a"))
    assert served.ask([RECORD]).status == 200


def test_replies_that_nobody_reads_do_not_fill_the_memory_of_the_server(front: int, served: Server) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connected(front)) for _ in range(8)]
        for wire in wires:
            pour(wire, MUCH)
        before = rss(served.process.pid)
        until(lambda: sum(pour(wire, MUCH) for wire in wires) == len(wires))
        assert rss(served.process.pid) < before + (64 << 20)
    assert served.ask([RECORD]).status == 200


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_loses_no_request_where_there_is_another(tmp_path: Path, how: signal.Signals) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    settings = Settings(max_connections=1024)
    with start(bundle) as first, start(bundle) as second:
        with behind_nginx(settings, tmp_path, first.port, second.port) as front:

            def end() -> None:
                time.sleep(1)
                first.process.send_signal(how)
                first.process.wait(DEADLINE)
                time.sleep(1)

            load, _ = loaded(front, 16, end)
        assert load.right
        assert (load.wrong, load.lost, load.refused) == ([], [], [])
        assert second.metric('requests_total{path="/predict",status="200"}') > 0
