"""Requests as bytes, sent as they are, and the replies to them."""

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOSED = "the server has hung up"


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body; `ValueError` for one that is no strict JSON."""
        return json.loads(self.body, parse_constant=_no_constant)

    @property
    def code(self) -> str:
        """The word for programs of an error; it must have its documented form."""
        error = self.json["error"]
        assert set(self.json) == {"error"}, self
        assert set(error) >= {"code", "message"}, self
        assert error["message"], self
        assert "\n" not in error["message"], self
        return str(error["code"])


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class Wire:
    """One connection."""

    def __init__(self, port: int, seconds: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, content: bytes) -> None:
        """Send this; a server that has hung up takes nothing."""
        with suppress(BrokenPipeError, ConnectionResetError):  # what it said before is still to be read
            self.socket.sendall(content)

    def reply(self, method: str = "POST") -> Reply:
        """The next reply; `ConnectionError` where the server has hung up before it."""
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            version, status = lines[0].split(" ")[:2]
            assert version == "HTTP/1.1", lines[0]
            if status != "100":
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        assert "transfer-encoding" not in headers, "a reply has its length"
        length = 0 if method == "HEAD" or status in ("204", "304") else int(headers["content-length"])
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return Reply(int(status), headers, body)

    def _until(self, end: bytes) -> bytes:
        while end not in self._rest:
            self._more()
        found, _, self._rest = self._rest.partition(end)
        return found

    def _more(self) -> None:
        block = self.socket.recv(1 << 16)
        if not block:
            raise ConnectionError(CLOSED)
        self._rest += block

    def is_closed(self) -> bool:
        """Whether the server hangs up, and says nothing before it."""
        try:
            return not self._rest and not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> bytes:
    """A request as a careful client writes it."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *(f"{name}: {it}" for name, it in (headers or {}).items())]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def asking(records: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """A request for the answers to some records."""
    body = json.dumps({"records": records}).encode()
    return request("POST", "/predict", {"content-type": "application/json", **(headers or {})}, body)


def rss(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def ask(port: int, content: bytes, method: str = "POST") -> Reply:
    """The reply of whoever listens at a port."""
    with Wire(port) as wire:
        wire.send(content)
        return wire.reply(method)
