"""What befalls a server that is in use: each fault in a short form; the long one is benchmarks/serving/faults.py."""

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlops_pkg.bundle.manifest import CARD, MODEL, SIGNATURE
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.serving.settings import Settings
from tests.serving.conftest import Server, start, until
from tests.serving.load import Load, beside, closed_loop, open_loop, quantiles
from tests.serving.proxy import behind_nginx
from tests.serving.test_security import FORGERIES
from tests.serving.wire import Wire, asking, request, rss
from tests.toy import GRAPH, RECORD, TOY, seal, toy_answer, write_bundle

pytestmark = pytest.mark.slow
ONE, MANY = asking([RECORD]), asking([RECORD] * 256)
Figures = dict[str, Any]


def are_right(body: bytes) -> bool:
    """Whether all that is answered is right."""
    answer = toy_answer(**RECORD)
    return all(one["probability"] == answer for one in json.loads(body)["predictions"])


def check_answers(server: Server) -> None:
    """The server answers as ever."""
    with Wire(server.port) as wire:
        wire.send(ONE)
        assert are_right(wire.reply().body)


def loaded(port: int, lines: int, work: Callable[[], Any], content: bytes = ONE) -> tuple[Load, Any]:
    """What comes of a steady load while something is done, and what that gives."""
    ended, found = threading.Event(), []

    def run() -> None:
        found.append(asyncio.run(closed_loop(port, content, are_right, lines, ended.is_set)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        given = work()
    finally:
        ended.set()
        thread.join()
    return found[0], given


# Too much


def ten_times_too_much(bundle: Path, seconds: float) -> Figures:
    """Requests at ten times the rate that can be answered."""
    with start(bundle, env={"SERVE_MAX_WAITING": "64"}) as server:
        end = time.monotonic() + 2
        before = asyncio.run(closed_loop(server.port, MANY, are_right, 16, lambda: time.monotonic() > end))
        capacity = len(before.right) / 2
        memory, most, ended = rss(server.process.pid), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                most[0] = max(most[0], rss(server.process.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        work = open_loop(server.port, MANY, are_right, (10 * capacity, seconds))
        load, health = asyncio.run(_beside(work, server.port))
        ended.set()
        watching.join()
        check_answers(server)
        assert (load.wrong, load.lost, health.wrong, health.lost) == ([], [], [], [])
        assert load.right
        assert load.refused
        assert most[0] < 1.5 * memory
        return {
            "seconds": seconds,
            "capacity_per_second": round(capacity),
            "offered_per_second": round((len(load.right) + len(load.refused) + load.not_sent) / seconds),
            "answered": {"requests": len(load.right), **quantiles(load.right)},
            "refused_with_503": {"requests": len(load.refused), **quantiles(load.refused)},
            "kept_back_by_the_client": load.not_sent,
            "wrong": len(load.wrong),
            "lost": len(load.lost),
            "health": {"requests": len(health.right), "failed": len(health.lost), **quantiles(health.right)},
            "memory_mb": {"before": round(memory / 1e6, 1), "most": round(most[0] / 1e6, 1)},
        }


async def _beside(work: Any, port: int) -> tuple[Load, Load]:
    return await beside(work, port)


# Bad clients


def slow_clients(bundle: Path, clients: int) -> Figures:
    """Clients of nginx that dribble headers, dribble a body, or never read a reply, while good ones ask."""
    settings = Settings(header_seconds=2, body_seconds=2, idle_seconds=2)
    with start(bundle) as server, behind_nginx(settings, bundle.parent, server.port) as front:
        memory = rss(server.process.pid)
        slow, ended = [Wire(front) for _ in range(clients)], threading.Event()
        ports = {wire.socket.getsockname()[1] for wire in slow}
        for number, wire in enumerate(slow):
            if number % 3 == 2:  # never reads
                wire.socket.setblocking(False)
                with suppress(BlockingIOError):
                    for _ in range(200):
                        wire.socket.send(MANY)

        def dribble() -> None:
            for at in range(10_000):
                for number, wire in enumerate(slow):
                    with suppress(OSError):
                        whole = ONE if number % 3 else request(headers={"x-long": "x" * 10_000})
                        head = whole.index(b"\r\n\r\n") + 4 if number % 3 == 1 else 0
                        if number % 3 < 2:
                            wire.socket.send(
                                whole[:head] + whole[head : head + 1] if at == 0 else whole[head + at :][:1]
                            )
                if ended.wait(0.1):
                    return

        dribbling = threading.Thread(target=dribble)
        dribbling.start()

        def wait() -> float:
            began = time.monotonic()
            until(lambda: not ports & _held(front), 60)
            return time.monotonic() - began

        try:
            load, seconds = loaded(front, 4, wait)
        finally:
            ended.set()
            dribbling.join()
            for wire in slow:
                wire.close()
        check_answers(server)
        assert load.right
        assert (load.wrong, load.lost, load.refused) == ([], [], [])
        return {
            "slow_clients": clients,
            "all_hung_up_on_after_seconds": round(seconds, 1),
            "good_requests": {"answered": len(load.right), "lost": len(load.lost), **quantiles(load.right)},
            "memory_mb": {"before": round(memory / 1e6, 1), "after": round(rss(server.process.pid) / 1e6, 1)},
        }


def _held(port: int) -> set[int]:
    """The ports of the clients whose connections whoever listens at a port holds."""
    held = [one for one in psutil.net_connections("tcp") if one.laddr.port == port and one.raddr]
    return {one.raddr.port for one in held if one.status == psutil.CONN_ESTABLISHED}


def clients_that_hang_up(bundle: Path, clients: int) -> Figures:
    """Clients that go in the middle of the request, or of the reply."""
    with start(bundle) as server:

        def come_and_go() -> None:
            for number in range(clients):
                content = MANY if number % 2 else ONE
                wire = Wire(server.port)
                wire.send(content[: len(content) * (number % 7) // 6])
                if number % 3 == 0:  # and hard: what is under way is thrown away
                    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                wire.close()

        load, _ = loaded(server.port, 4, come_and_go)
        until(lambda: server.metric("in_flight") == 1)
        check_answers(server)
        assert (load.wrong, load.lost, load.refused) == ([], [], [])
        assert "trace" not in server.log.read_text().lower()
        return {
            "clients": clients,
            "good_requests": {"answered": len(load.right), "lost": len(load.lost), **quantiles(load.right)},
        }


# Processes that end


def killed_worker(bundle: Path, seconds: float) -> Figures:
    """`kill -9` of one of two workers, while both are asked."""
    with start(bundle, "--workers", "2") as server:
        until(lambda: len(server.events("ready")) == 2)
        lines = 16

        def kill() -> float:
            time.sleep(seconds / 2)
            began, readies = time.monotonic(), len(server.events("ready"))
            os.kill(server.events("ready")[0]["pid"], signal.SIGKILL)
            until(lambda: len(server.events("ready")) == readies + 1)
            took = time.monotonic() - began
            time.sleep(seconds / 2)
            return took

        load, took = loaded(server.port, lines, kill)
        assert (load.wrong, load.refused, load.not_sent) == ([], [], 0)
        assert len(load.lost) <= lines
        assert load.right
        check_answers(server)
        return {
            "clients": lines,
            "answered": len(load.right),
            "lost": len(load.lost),
            "refused": 0,
            "seconds_until_two_workers_again": round(took, 2),
        }


def ended_under_load(bundle: Path, workers: int, lines: int, seconds: float) -> Figures:
    """SIGTERM while many ask. Lost is a request that was sent before the signal and has no reply, or half a reply."""
    with start(bundle, "--workers", str(workers)) as server:
        until(lambda: len(server.events("ready")) == workers)

        def end() -> tuple[float, float, int]:
            time.sleep(seconds)
            began = time.monotonic()
            code = server.end()
            return began, time.monotonic() - began, code

        load, (began, took, code) = loaded(server.port, lines, end)
        lost = [why for sent, why in load.lost if sent < began or why == "half a reply"]
        assert code == 0
        assert load.wrong == []
        assert lost == []
        return {
            "workers": workers,
            "clients": lines,
            "answered": len(load.right),
            "answered_after_the_signal": sum(sent > began for sent, _ in load.right),
            "lost": len(lost),
            "sent_after_the_signal_on_a_connection_that_was_being_closed": len(load.lost) - len(lost),
            "exit_code": code,
            "seconds_to_end": round(took, 2),
        }


# Bundles


def half_written(bundle: Path) -> None:
    content = (bundle / MODEL).read_bytes()
    (bundle / MODEL).write_bytes(content[: len(content) // 2])


def other_fields(bundle: Path) -> None:
    fields = (*TOY.fields, Field("more", "number", nullable=True))
    signature = Signature(TOY.task, TOY.target, TOY.threshold, fields)
    (bundle / SIGNATURE).write_text(json.dumps({"name": "toy", "description": "x", **signature.to_dict()}))
    seal(bundle)


def odd_signature(bundle: Path) -> None:
    told = json.loads((bundle / SIGNATURE).read_text())
    told["fields"][0] |= {"kind": "picture"}
    told["threshold"] = "high"
    (bundle / SIGNATURE).write_text(json.dumps(told))
    seal(bundle)


def no_answers(bundle: Path) -> None:
    """A graph that opens, and fails when it is asked."""
    write_bundle(
        bundle,
        GRAPH.replace(
            "answer = Div(whole, nines)", "two = Constant <value_ints = [2, 3]> ()\n answer = Reshape(whole, two)"
        ),
    )


def removed(bundle: Path) -> None:
    shutil.rmtree(bundle)


def emptied(bundle: Path) -> None:
    for path in bundle.iterdir():
        path.unlink()


BROKEN = (half_written, other_fields, removed, odd_signature, no_answers, emptied, *FORGERIES)


def broken_bundles(folder: Path) -> Figures:
    """A bundle that is broken in each of many ways while it is served, and a good one at the end.

    What is served is a link, so that one bundle takes the place of another in one step.
    """
    link = folder / "served"

    def serve_now(target: Path) -> None:
        (folder / "next").symlink_to(target)
        (folder / "next").replace(link)

    good = write_bundle(folder / "good")
    serve_now(good)
    with start(link, env={"SERVE_RELOAD_SECONDS": "0.1"}) as server:

        def break_it() -> float:
            for number, change in enumerate(BROKEN):
                change(shutil.copytree(good, folder / f"{number}" / "bundle"))
                serve_now(folder / f"{number}" / "bundle")
                told = until(lambda number=number: server.events("bundle_refused")[number:])
                assert told[0]["reason"], change.__name__
                check_answers(server)
            other = Path(shutil.copytree(good, folder / "other"))
            (other / CARD).write_text("a new card\n")
            began, digest = time.monotonic(), Predictor.load(seal(other)).identity
            serve_now(other)
            until(lambda: server.get("/ready").json["digest"] == digest)
            return time.monotonic() - began

        load, seconds = loaded(server.port, 4, break_it)
        assert (load.wrong, load.lost, load.refused) == ([], [], [])
        refused = server.metric("bundles_refused_total")
        assert refused == len(BROKEN)
        assert server.metric("bundles_taken_total") == 1
        assert "Traceback" not in server.log.read_text()
        return {
            "ways_to_break": len(BROKEN),
            "refused": int(refused),
            "good_one_taken_after_seconds": round(seconds, 2),
            "requests": {"answered": len(load.right), "failed": 0, **quantiles(load.right)},
        }


# The log


def full_disk(bundle: Path, requests: int) -> Figures:
    """A log that takes nothing any more: a full device, and a file that may not grow."""
    figures: Figures = {}
    for name in ("full device", "file at its limit"):
        log = Path("/dev/full") if name == "full device" else bundle.parent / "log.jsonl"
        with start(bundle, env={"SERVE_LOG": str(log)}) as server:
            if log.is_file():
                size = log.stat().st_size + 4096
                resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, size))
            with Wire(server.port) as wire:
                for _ in range(requests):
                    wire.send(ONE)
                    assert are_right(wire.reply().body)
            lost = until(lambda server=server: server.metric("log_lines_lost_total"))
            assert server.end() == 0
            if log.is_file():
                written = log.read_text().splitlines()
                assert all(json.loads(line) for line in written[:-1]), "what is there is whole"
            figures[name] = {"requests_answered": requests, "lines_lost": int(lost)}
    return figures


def unread_errors(bundle: Path, requests: int) -> Figures:
    """Standard error is a pipe that nobody reads."""
    command = [sys.executable, "-m", "mlops_pkg", "serve", "--bundle", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().decode().split(" ")[0]
            server = Server(url, process, bundle.parent / "none")
            with Wire(server.port) as wire:
                for number in range(requests):
                    wire.send(ONE)
                    assert are_right(wire.reply().body)
                    if number % 10 == 0:
                        with Wire(server.port) as bad:
                            bad.send(b"\x00 no HTTP\r\n\r\n")
                            assert bad.reply().status == 400
            lost = server.metric("log_lines_lost_total")
            began = time.monotonic()
            assert server.end() == 0
            return {
                "requests_answered": requests,
                "lines_lost": int(lost),
                "seconds_to_end": round(time.monotonic() - began, 2),
            }
        finally:
            process.kill()


# The short form


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the toy model."""
    return write_bundle(tmp_path / "bundle")


def test_ten_times_too_much_is_refused_at_once_and_the_rest_is_answered(bundle: Path) -> None:
    ten_times_too_much(bundle, 8)


def test_good_clients_are_answered_beside_slow_ones_who_are_hung_up_on(bundle: Path) -> None:
    slow_clients(bundle, 60)


def test_clients_that_hang_up_leave_nothing_behind(bundle: Path) -> None:
    clients_that_hang_up(bundle, 300)


def test_a_killed_worker_takes_its_own_requests_along_and_comes_back(bundle: Path) -> None:
    killed_worker(bundle, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_when_the_server_is_told_to_end(bundle: Path, workers: int) -> None:
    for _ in range(3):
        ended_under_load(bundle, workers, 32, 1)


def test_a_broken_bundle_changes_nothing_and_a_good_one_is_taken_without_a_request_lost(tmp_path: Path) -> None:
    broken_bundles(tmp_path)


def test_a_full_disk_stops_the_log_and_nothing_else(bundle: Path) -> None:
    full_disk(bundle, 500)


def test_a_log_that_nobody_reads_stops_nothing(bundle: Path) -> None:
    unread_errors(bundle, 3000)
