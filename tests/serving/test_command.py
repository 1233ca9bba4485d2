"""The command: real processes, real sockets, real signals."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.serving.conftest import DEADLINE, Server, group_is_gone, launch, start, told_url, until, workers_of
from tests.toy import GRAPH, RECORD, seal, toy_answer, write_bundle

BODY = json.dumps({"records": [RECORD]}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ASK = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
ANSWER = toy_answer(**RECORD)
MANY = json.dumps({"records": [{"origin": None, "wind": "x" * 80, "start": "y" * 80}] * 1000}).encode()
MUCH = HEAD + b"Content-Length: %d\r\n\r\n" % len(MANY) + MANY  # each record is told what is wrong with it


def exchange(server: Server, *parts: bytes) -> bytes:
    """All that the server says to some bytes, until it closes."""
    with server.connect() as wire:
        for part in parts:
            wire.sendall(part)
        return rest(wire)


def rest(wire: socket.socket) -> bytes:
    """All that comes until the end of a connection."""
    found = b""
    while part := wire.recv(1 << 16):
        found += part
    return found


def one_reply(wire: socket.socket) -> tuple[int, bytes, bytes]:
    """Status, head and body of one reply on a connection that stays open."""
    found = b""
    while b"\r\n\r\n" not in found:
        part = wire.recv(1 << 16)
        assert part, f"closed after {found!r}"
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += wire.recv(1 << 16)
    return int(head.split()[1]), head.lower(), body


def status(reply: bytes) -> int:
    """The status of a reply."""
    return int(reply.split()[1])


def said(*flags: str, config: str | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code of a server that cannot begin, and what it says."""
    process, log = launch(*flags, config=config, env=env)
    code = process.wait(DEADLINE)
    until(lambda: group_is_gone(process.pid))
    return code, log.read_text()


def test_the_command_answers(server: Server) -> None:
    reply = server.ask([RECORD])
    assert reply.status == 200
    assert reply.json["predictions"][0]["probability"] == ANSWER


# What a connection may send


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: \r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"X: a\r\n folded\r\n",
        b"X: a\0b\r\n",
        b"X: a\nY: b\r\n",
    ],
)
def test_a_head_that_two_readers_could_read_in_two_ways_is_refused(server: Server, head: bytes) -> None:
    reply = exchange(server, HEAD + head + b"\r\nhello")
    assert status(reply) == 400
    assert reply.count(b"HTTP/1.1") == 1
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"


@pytest.mark.parametrize("text", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n"])
def test_what_is_not_http_is_refused(server: Server, text: bytes) -> None:
    reply = exchange(server, text)
    assert status(reply) == 400
    assert b"connection: close" in reply


def test_a_proxy_it_is_not(server: Server) -> None:
    assert status(exchange(server, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")) == 400


def test_a_chunk_that_is_none_is_refused(server: Server) -> None:
    assert status(exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")) == 400


def test_requests_that_are_sent_ahead_are_answered_in_order(server: Server) -> None:
    winds = [1.0 + number for number in range(32)]
    bodies = [json.dumps({"records": [RECORD | {"wind": wind}]}).encode() for wind in winds]
    with server.connect() as wire:
        wire.sendall(b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies))
        found = b""
        while found.count(b'"digest"') < len(winds):
            found += wire.recv(1 << 16)
    answers = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in found.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    wanted = [toy_answer(RECORD["origin"], wind, RECORD["start"]) for wind in winds]
    assert [answer["predictions"][0]["probability"] for answer in answers] == wanted


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(3000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 5_000_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 5_000_000,
        b"\r\n" * 1_000_000,
    ],
)
def test_a_head_or_trailer_without_end_is_refused_to_a_client_that_reads_late(server: Server, head: bytes) -> None:
    with server.connect() as wire:
        send_some(wire, head)
        code, told, _ = one_reply(wire)
        assert code == (200 if head.startswith(ASK) else 431)
        assert b"connection: close" in told or code == 200


def send_some(wire: socket.socket, data: bytes) -> None:
    """Send as much as is taken."""
    with contextlib.suppress(OSError):
        wire.sendall(data)


def test_a_body_that_is_too_large_is_refused_while_it_is_still_sent(server: Server) -> None:
    for _ in range(5):
        with server.connect() as wire:
            send_some(wire, HEAD + b"Content-Length: 20000000\r\n\r\n" + b"a" * 20_000_000)
            assert one_reply(wire)[0] == 413


# In time


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(bundle: Path) -> None:
    with start(bundle, env={"SERVE_IDLE_SECONDS": "1"}) as server, server.connect() as idle, server.connect() as busy:
        for wire in (idle, busy):
            wire.sendall(ASK)
            assert one_reply(wire)[0] == 200

        def closed() -> bool:
            busy.sendall(ASK)
            assert one_reply(busy)[0] == 200
            idle.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                return idle.recv(1) == b""
            return False

        until(closed)


def test_a_body_that_does_not_come_in_time_is_refused(bundle: Path) -> None:
    with start(bundle, env={"SERVE_BODY_SECONDS": "0.5"}) as server, server.connect() as wire:
        wire.sendall(ASK[:-10])
        assert status(rest(wire)) == 408


def pour(wire: socket.socket, request: bytes) -> bool:
    """Send requests without reading a reply, as long as they are taken; whether the connection has ended."""
    wire.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            sent = 0
            while sent < len(request):
                try:
                    sent += wire.send(request[sent:])
                except (BrokenPipeError, ConnectionResetError):
                    return True
    return False


# How many


def test_one_connection_too_many_is_told_when_to_try_again(bundle: Path) -> None:
    with start(bundle, env={"SERVE_MAX_CONNECTIONS": "3", "SERVE_RETRY_SECONDS": "7"}) as server:
        until(lambda: server.metric("in_flight") == 1)  # the last request's connection is closed
        open_ones = [server.connect() for _ in range(3)]
        for wire in open_ones:
            wire.sendall(ASK)
            assert one_reply(wire)[0] == 200
        for _ in range(10):
            with server.connect() as turned_away:
                send_some(turned_away, ASK)
                code, head, body = one_reply(turned_away)
                assert code == 503
                assert b"retry-after: 7" in head
                assert json.loads(body)["error"]["code"] == "overloaded"
        for wire in open_ones:
            wire.sendall(ASK)
            assert one_reply(wire)[0] == 200
            wire.close()
        until(lambda: server.ask([RECORD]).status == 200)
        assert server.metric('refused_total{code="overloaded"}') >= 10


def test_more_connections_than_open_files_are_refused_at_the_start(bundle: Path) -> None:
    told = "SERVE_MAX_CONNECTIONS=100000 exec python -m mlops_pkg serve --port 0 --bundle"
    command = ["bash", "-c", f'ulimit -n 300; {told.replace("python", sys.executable)} "$0"', str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    told = "a process may open 300 files here; set it to 236 or less, or allow more with `ulimit -n`"
    assert done.stderr == f"max_connections = 100000: {told}\n"


# The start


def test_a_port_that_is_taken_is_told_in_one_line(server: Server, bundle: Path) -> None:
    line = f"127.0.0.1:{server.port}: in use; choose another with --port\n"
    assert said("--bundle", str(bundle), "--port", str(server.port)) == (1, line)


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("192.0.2.1", "192.0.2.1:8000: not an address of this machine; choose another with --host"),
        ("nowhere.invalid", "host: nowhere.invalid: neither an address nor the name of one"),
    ],
)
def test_a_host_that_is_not_this_machine_is_told_in_one_line(bundle: Path, host: str, line: str) -> None:
    keys = {"SERVE_KEYS": "a:" + "0" * 64}
    assert said("--bundle", str(bundle), "--host", host, env=keys) == (1, line + "\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_that_cannot_answer_ends_the_start_with_one_line(tmp_path: Path, workers: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").write_bytes(b"no graph")
    seal(bundle)
    code, log = said("--bundle", str(bundle), "--port", "0", "--workers", workers)
    lines = [line for line in log.splitlines() if not line.startswith(("http://", "{"))]
    assert (code, len(lines)) == (1, 1), log
    assert lines[0].startswith(f"{bundle}/model.onnx: ")


def test_a_bundle_that_was_changed_ends_the_start_with_one_line(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "card.md").write_text("better than it is\n")
    assert said("--bundle", str(bundle)) == (1, f"{bundle / 'card.md'}: changed since it was packed\n")


def test_a_log_that_cannot_be_opened_ends_the_start_with_one_line(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "log"
    code, log = said("--bundle", str(bundle), "--port", "0", env={"SERVE_LOG": str(path)})
    assert (code, log.splitlines()[-1]) == (1, f"log: {path}: no such file or directory")


def test_all_mistakes_of_the_settings_are_told(bundle: Path) -> None:
    code, log = said("--bundle", str(bundle), "--port", "99999", config="prot = 1\n", env={"SERVE_WORKER": "2"})
    assert code == 1
    assert len(log.splitlines()) == 3


@pytest.mark.parametrize("host", ["::1", "localhost", "127.0.0.2"])
def test_every_address_of_this_machine_alone_needs_no_key(bundle: Path, host: str) -> None:
    process, log = launch("--bundle", str(bundle), "--port", "0", "--host", host)
    try:
        url = told_url(process, log)
        port = int(url.rpartition(":")[2])
        with socket.create_connection((host, port), DEADLINE) as wire:
            wire.sendall(ASK)
            assert one_reply(wire)[0] == 200
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


# Keys and settings


def test_a_new_key_opens_the_server_and_no_other_does(bundle: Path) -> None:
    command = [sys.executable, "-m", "mlops_pkg", "serve", "--new-key", "planning"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    key, line = made.stdout.strip(), made.stderr.splitlines()[-1]
    assert key not in made.stderr
    with start(bundle, config=line + "\n") as server:
        assert server.ask([RECORD]).status == 401
        assert server.ask([RECORD], {"authorization": f"Bearer {key[:-1]}"}).status == 401
        assert server.ask([RECORD], {"authorization": f"Bearer {key}"}).status == 200
        assert key not in server.log.read_text()


def test_what_is_shown_are_the_settings_in_force(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlops_pkg", "serve", "--show", "--bundle", str(bundle), "--port", "0"]
    env = os.environ | {"SERVE_KEYS": "a:" + "0" * 64, "SERVE_HOST": "0.0.0.0"}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True, env=env).stdout
    assert "0" * 64 not in shown
    settings = tomllib.loads(shown)
    assert (settings["bundle"], settings["port"], settings["host"]) == (str(bundle), 0, "0.0.0.0")


# The end


@pytest.fixture(params=["1", "2"])
def running(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Server]:
    """A server of one worker, and of two."""
    with start(bundle, "--workers", request.param) as server:
        yield server


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_bundle_is_taken_when_it_is_told_to_and_a_broken_one_is_not(tmp_path: Path, workers: int) -> None:
    write_bundle(tmp_path / "other", GRAPH.replace("effect = {0.5", "effect = {1.5"))
    folder = write_bundle(tmp_path / "bundle")
    with start(folder, "--workers", str(workers), env={"SERVE_RELOAD_SECONDS": "0"}) as server:
        until(lambda: len(server.events("ready")) == workers)
        (folder / "card.md").write_text("broken\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.events("bundle_refused")) == workers)
        assert server.ask([RECORD]).json["predictions"][0]["probability"] == ANSWER
        for path in (tmp_path / "other").iterdir():
            shutil.copy(path, folder)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.events("bundle_taken")) == workers)
        assert server.ask([RECORD]).json["predictions"][0]["probability"] != ANSWER
        assert server.end() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_end_answers_what_is_in_flight(running: Server, how: signal.Signals) -> None:
    with running.connect() as wire, running.connect() as idle:
        wire.sendall(ASK[:-10])
        until(lambda: running.metric("in_flight") == 2)
        running.process.send_signal(how)
        until(lambda: not _accepts(running))
        wire.sendall(ASK[-10:])
        idle.sendall(ASK)  # on its way when the end was told
        for one in (wire, idle):
            reply = rest(one)
            assert status(reply) == 200
            assert b"connection: close" in reply
    assert running.process.wait(DEADLINE) == 0


def _accepts(server: Server) -> bool:
    """Whether it takes another connection."""
    try:
        server.connect().close()
    except OSError:
        return False
    return True


def test_a_signal_to_all_processes_ends_in_order_too(running: Server) -> None:
    with running.connect() as wire:
        wire.sendall(ASK[:-10])
        until(lambda: running.metric("in_flight") == 2)
        if workers_of(running.process):  # alone, it cannot tell this from a second signal
            os.killpg(running.process.pid, signal.SIGINT)
        else:
            running.process.send_signal(signal.SIGINT)
        until(lambda: not _accepts(running))
        wire.sendall(ASK[-10:])
        assert status(rest(wire)) == 200
    assert running.process.wait(DEADLINE) == 0


def test_a_second_signal_ends_at_once(running: Server) -> None:
    with running.connect() as wire:
        wire.sendall(ASK[:-10])
        until(lambda: running.metric("in_flight") == 2)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not _accepts(running))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 1
    until(lambda: group_is_gone(running.process.pid))


def test_requests_that_never_end_are_given_up_at_the_end(bundle: Path) -> None:
    with start(bundle, env={"SERVE_SHUTDOWN_SECONDS": "1"}) as server, server.connect() as wire:
        wire.sendall(ASK[:-10])
        until(lambda: server.metric("in_flight") == 2)
        assert server.end() == 0


def test_no_request_is_lost_when_the_server_ends_under_load(running: Server) -> None:
    asked = threading.Event()

    def client(_: int) -> tuple[int, list[str]]:
        answered, lost = 0, []
        while True:
            try:
                line = HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
                line.connect()
            except OSError:
                return answered, lost
            try:
                keeps = True
                while keeps:
                    line.request("POST", "/predict", BODY, {"content-type": "application/json"})
                    reply = line.getresponse()
                    keeps = reply.getheader("connection") != "close"
                    assert json.loads(reply.read())["predictions"][0]["probability"] == ANSWER
                    answered += 1
                    if answered == 20:
                        asked.set()
            except (OSError, HTTPException) as error:
                lost.append(repr(error))
            finally:
                line.close()

    with ThreadPoolExecutor(16) as pool:
        clients = pool.map(client, range(16))
        assert asked.wait(DEADLINE)
        running.process.send_signal(signal.SIGTERM)
        found = list(clients)
    assert running.process.wait(DEADLINE) == 0
    assert sum(answered for answered, _ in found) > 20
    assert [lost for _, lost in found if lost] == []


# Workers


def test_all_workers_answer_on_one_port(bundle: Path) -> None:
    with start(bundle, "--workers", "2") as server:
        until(lambda: len(server.events("ready")) == 2)
        pids = set()

        def both() -> bool:
            pids.add(server.ask([RECORD]).headers["x-request-id"].partition("-")[0])
            return len(pids) == 2

        until(both)
        assert {int(pid, 16) for pid in pids} == set(workers_of(server.process))


def test_a_worker_that_is_killed_is_replaced(bundle: Path) -> None:
    with start(bundle, "--workers", "2") as server:
        until(lambda: len(server.events("ready")) == 2)
        asked = server.metric('requests_total{path="/predict",status="200"}')
        assert asked == 0
        first = workers_of(server.process)
        server.ask([RECORD])
        until(
            lambda: server.metric('requests_total{path="/predict",status="200"}') == 1
        )  # it is counted after the reply
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        assert server.ask([RECORD]).status == 200  # by a worker that was not there
        until(lambda: len(server.events("ready")) == 4)
        assert not set(first) & set(workers_of(server.process))
        assert [event["code"] for event in server.events("worker_ended")] == [-9, -9]
        assert server.metric('requests_total{path="/predict",status="200"}') == 2
        assert server.end() == 0


def test_workers_end_with_a_parent_that_is_killed(bundle: Path) -> None:
    with start(bundle, "--workers", "2") as server:
        until(lambda: len(server.events("ready")) == 2)
        server.process.kill()
        server.process.wait(DEADLINE)
        until(lambda: group_is_gone(server.process.pid))


def test_a_worker_that_cannot_be_replaced_is_tried_again_while_the_others_answer(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with start(bundle, "--workers", "2", env={"SERVE_RELOAD_SECONDS": "0"}) as server:
        until(lambda: len(server.events("ready")) == 2)
        card = (bundle / "card.md").read_bytes()
        (bundle / "card.md").write_bytes(b"half writ")
        os.kill(workers_of(server.process)[0], signal.SIGKILL)
        until(lambda: any("card.md" in event["reason"] for event in server.events("worker_ended")))
        assert server.ask([RECORD]).status == 200
        (bundle / "card.md").write_bytes(card)
        until(lambda: len(server.events("ready")) == 3)
        assert server.end() == 0


def test_what_is_written_to_standard_error_is_json(bundle: Path) -> None:
    with start(bundle, "--workers", "2") as server:
        until(lambda: len(server.events("ready")) == 2)
        exchange(server, b"nonsense\r\n\r\n")
        server.ask(b"nonsense")
        until(
            lambda: [line for line in server.events("request") if line.get("path") == "/predict"]
        )  # written a moment later
        os.kill(workers_of(server.process)[0], signal.SIGKILL)
        until(lambda: len(server.events("ready")) == 3)
        assert server.end() == 0
        first, *lines = server.log.read_text().splitlines()
    assert first.startswith("http://127.0.0.1:")
    assert {"ready", "ended", "request", "worker_ended"} <= {json.loads(line)["event"] for line in lines}
