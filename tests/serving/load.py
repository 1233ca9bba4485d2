"""Load on a server: many connections from one process, each request with its moment, its reply and its fate."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.serving.wire import request


class Line(asyncio.Protocol):
    """One connection that holds one request at a time."""

    def __init__(self) -> None:
        self._came, self._reply = b"", asyncio.get_running_loop().create_future()
        self._reply.cancel()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    async def ask(self, content: bytes) -> tuple[int, bytes, bytes]:
        """Status, headers and body of the reply; `ConnectionError` where the server hangs up."""
        self._reply = asyncio.get_running_loop().create_future()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("closed")
        self.transport.write(content)
        return await self._reply

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, end, rest = self._came.partition(b"\r\n\r\n")
        if not end:
            return
        told = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(rest) >= int(told):
            self._came = b""
            if b"connection: close" in head.lower() and self.transport:
                self.transport.close()
            if not self._reply.done():
                self._reply.set_result((int(head[9:12]), head.lower(), rest))

    def connection_lost(self, _: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_exception(ConnectionResetError("half a reply" if self._came else "no reply"))

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self.transport is not None and not self.transport.is_closing()


async def connect(port: int) -> Line:
    """A connection; `OSError` where nobody listens."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line


@dataclass
class Load:
    """What came of the requests: moments in seconds."""

    right: list[tuple[float, float]] = field(default_factory=list)  # sent, seconds until the reply
    refused: list[tuple[float, float]] = field(default_factory=list)  # with 503 and Retry-After
    lost: list[tuple[float, str]] = field(default_factory=list)  # sent, what happened instead of a reply
    wrong: list[tuple[int, bytes]] = field(default_factory=list)  # any other reply
    not_sent: int = 0  # nobody took the connection

    def take(self, sent: float, reply: tuple[int, bytes, bytes], right: Callable[[bytes], bool]) -> None:
        """Note a reply."""
        status, head, body = reply
        seconds = time.monotonic() - sent
        if status == 200 and right(body):
            self.right.append((sent, seconds))
        elif status == 503 and b"retry-after: " in head:
            self.refused.append((sent, seconds))
        else:
            self.wrong.append((status, body[:500]))

    async def ask(self, line: Line, content: bytes, right: Callable[[bytes], bool]) -> None:
        """Ask once, and note what comes of it."""
        sent = time.monotonic()
        try:
            self.take(sent, await line.ask(content), right)
        except ConnectionError as error:
            self.lost.append((sent, str(error)))


def quantiles(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median, 99th percentile and maximum of seconds, in ms."""
    ordered = sorted(seconds for _, seconds in times) or [0.0]
    return {
        name: round(1000 * ordered[min(int(part * len(ordered)), len(ordered) - 1)], 1)
        for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))
    }


async def closed_loop(
    port: int,
    content: bytes,
    right: Callable[[bytes], bool],
    lines: int,
    until: Callable[[], bool],
) -> Load:
    """So many clients, each of which asks anew when it has its reply, until told to end."""
    load = Load()

    async def client() -> None:
        line = None
        while not until():
            if line is None or not line.is_open:
                try:
                    line = await connect(port)
                except OSError:
                    load.not_sent += 1
                    await asyncio.sleep(0.02)
                    continue
            await load.ask(line, content, right)
        if line and line.transport:
            line.transport.close()

    await asyncio.gather(*(client() for _ in range(lines)))
    return load


async def open_loop(
    port: int,
    content: bytes,
    right: Callable[[bytes], bool],
    pace: tuple[float, float],  # requests a second, whatever comes back, and for how many seconds
    most: int = 900,  # connections
) -> Load:
    """Requests at a fixed rate; a connection is opened where none is idle."""
    load, idle, count = Load(), [], 0
    rate, seconds = pace
    began, tasks = time.monotonic(), set()

    async def one() -> None:
        nonlocal count
        line = idle.pop() if idle else None
        if line is None or not line.is_open:
            if count >= most:
                load.not_sent += 1
                return
            count += 1
            try:
                line = await connect(port)
            except OSError:
                load.not_sent += 1
                count -= 1
                return
        await load.ask(line, content, right)
        if line.is_open:
            idle.append(line)
        else:
            count -= 1

    sent = 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    for line in idle:
        line.transport.close()
    return load


async def beside(work: Awaitable[Any], port: int, path: str = "/health") -> tuple[Any, Load]:
    """What the work gives, and how a path was answered all the while."""
    load, ended = Load(), False

    async def look() -> None:
        line = await connect(port)
        while not ended:
            if not line.is_open:
                line = await connect(port)
            await load.ask(line, request(path=path), lambda body: b"alive" in body)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        found = await work
    finally:
        ended = True
        with suppress(OSError):
            await looking
    return found, load
