"""A real server on a free port, in processes of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.toy import write_bundle

JSON = "application/json"
DEADLINE = 20.0  # seconds for whatever a test waits for


@dataclass(frozen=True)
class Reply:
    """What a server has said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, where it is JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path  # what it writes to standard error

    @property
    def port(self) -> int:
        """The port that it has found."""
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Reply:
        """The reply to a request, whatever its status; POST where there is a body."""
        request = urllib.request.Request(self.url + path, body, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
                return Reply(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    def ask(self, records: Sequence[Any] | bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """The reply to some records, or to a body as it is."""
        body = records if isinstance(records, bytes) else json.dumps({"records": records}).encode()
        return self.get("/predict", {"content-type": JSON, **(headers or {})}, body)

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of its log; those of one event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if event in (None, line["event"])]

    def metric(self, sample: str) -> float:
        """A sample of its metrics, such as `records_total`; 0 where it is not there."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code, after the signal."""
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)


def until(true: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """What the function gives as soon as it is true; fails after the deadline."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not true within {seconds:g} s"
        time.sleep(0.02)
    return found


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found, parents = [], [process.pid]
    while parents:
        parent = parents.pop()
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found += map(int, children)
        parents += map(int, children)
    return found


def group_is_gone(group: int) -> bool:
    """Whether no process of the group is at work; one that has ended may wait for its parent."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in ("Z", "X"):
            return False
    return True


def launch(
    *flags: str,
    config: str | None = None,  # TOML
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,  # for the log and the file of settings
) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that begins to serve, in a group of its own, and its log."""
    folder = Path(mkdtemp()) if folder is None else folder
    command = [sys.executable, "-m", "mlops_pkg", "serve", *flags]
    if config is not None:
        (folder / "serve.toml").write_text(config)
        command += ["--config", str(folder / "serve.toml")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    log = folder / "stderr.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=file, env=environ | dict(env or {}), start_new_session=True
        )
    return process, log


def told_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the first line of the log tells."""

    def found() -> str:
        assert process.poll() is None, log.read_text()
        first = log.read_text().partition("\n")
        return first[0].split(" ")[0] if first[1] else ""

    return str(until(found))


@contextmanager
def start(
    bundle: Path,
    *flags: str,
    config: str | None = None,  # TOML
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that is ready; it is ended by SIGTERM, if the test has not done so, and must leave no process."""
    process, log = launch("--bundle", str(bundle), "--port", "0", *flags, config=config, env=env)
    try:
        server = Server(told_url(process, log), process, log)

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return server.get("/ready").status == 200
            except OSError:
                return False

        until(ready)
        yield server
        if process.poll() is None:
            server.end()
        until(lambda: group_is_gone(process.pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the toy model; copy it before changing it."""
    return write_bundle(tmp_path_factory.mktemp("serving") / "bundle")


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[Server]:
    """A server of the toy model with default settings, for tests that leave it as it is."""
    with start(bundle) as running:
        yield running
