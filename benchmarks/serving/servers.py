"""Servers that are started on one core, watched by what /proc says of them, and ended."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 120  # seconds until a server must answer, and until it must have ended
TICKS = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """Why there is nothing to measure; one line."""


def cores() -> tuple[int, int]:
    """A core for the server and another for the load; `BenchmarkError` where there is one alone."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise BenchmarkError("one core alone: the server and the load need one each")
    return found[0], found[-1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Whatever this thread does or starts meanwhile runs on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Way:
    """A server that is measured, and how it is asked."""

    name: str  # for people
    command: tuple[str, ...]  # {port} stands for the port
    path: str = "/predict"
    envelope: str = "records"  # the key under which a request holds its records
    env: dict[str, str] = field(default_factory=dict)
    ready: str = "/ready"  # replies with 200 once it answers
    model: bool = True  # whether its answers are the model's


def tree(root: int) -> list[int]:
    """A process and all that it has started, and these again."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


@dataclass
class Server:
    """A server that runs."""

    process: "subprocess.Popen[bytes]"
    port: int
    start_seconds: float

    def cpu_seconds(self) -> float:
        """What all its processes have used so far."""
        used = 0
        for process in tree(self.process.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                used += int(fields[11]) + int(fields[12])
        return used / TICKS

    def memory_mb(self) -> dict[str, float]:
        """RSS and PSS of the largest of its processes, and the PSS of all."""
        found = []
        for process in tree(self.process.pid):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
                sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
                found.append((sizes["Rss"], sizes["Pss"]))
        return {
            "rss_mb": max(rss for rss, _ in found),
            "pss_mb": max(pss for _, pss in found),
            "all_processes_pss_mb": sum(pss for _, pss in found),
        }


def ask(port: int, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
    """Status and body of one reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, {"Content-Type": kind})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@contextlib.contextmanager
def started(way: Way, log: Path) -> Iterator[Server]:
    """The server, once it is ready, until the end of the block; `BenchmarkError` where it does not come up."""
    port = free_port()
    command = [part.format(port=port) for part in way.command]
    with log.open("wb") as written, on_core(cores()[0]):
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **way.env}, stdin=subprocess.DEVNULL, stdout=written, stderr=written,
            start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(port, "GET", way.ready)[0] == 200:
                    break
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise BenchmarkError(f"{way.name} did not start: {_last_line(log)}")
            time.sleep(0.01)
        yield Server(process, port, time.perf_counter() - began)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and whatever it has started."""
    family = []
    for one in tree(process.pid):
        with contextlib.suppress(ProcessLookupError):
            family.append(os.pidfd_open(one))
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for one in family:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(one, signal.SIGKILL)
        os.close(one)
    process.wait()


def _last_line(log: Path) -> str:
    """What a server said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
