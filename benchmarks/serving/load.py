"""The load: connections that each ask, wait for the whole reply, and ask again, from a process of its own.

    python -m benchmarks.serving.load < PLAN.json

The plan names port, path, content type, bodies, clients, seconds, and seconds before the clock starts. Bodies are sent
in turns, ready made. The reply's status is looked at each time; every so often a reply is kept, so that whoever reads
the result can compare it with the answer that was expected.
"""

import asyncio
import base64
import json
import resource
import sys
import time
from array import array
from itertools import cycle
from typing import Any

import uvloop

KEEP_EVERY, KEEP_MOST = 29, 300  # replies that are kept; 29, so that they come from all bodies
PATIENCE = 90  # seconds for what is under way at the end


class Replies:
    """What came back, from all connections."""

    def __init__(self, bodies: list[bytes], head: str) -> None:
        """Make the requests ready."""
        self.requests = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.turns = cycle(range(len(bodies)))
        self.seconds = array("d")  # of the requests that were sent while the clock ran
        self.statuses: dict[str, int] = {}
        self.kept: list[tuple[int, str, str]] = []  # number of the body, content type, reply
        self.asked = self.done = self.broken = 0  # done: within the time
        self.began = self.end = 0.0

    def take(self, turn: int, sent: float, head: bytes, body: bytes) -> None:
        """Note a reply."""
        now = time.perf_counter()
        self.asked += 1
        status = head[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if sent >= self.began:
            self.seconds.append(now - sent)
        self.done += self.began <= now < self.end
        if (self.asked % KEEP_EVERY == 0 or self.asked <= len(self.requests)) and len(self.kept) < KEEP_MOST:
            self.kept.append((turn, status, base64.b64encode(body).decode()))


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, replies: Replies) -> None:
        """Ready to be connected."""
        self.replies, self.read, self.gone = replies, b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Ask for the first time."""
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.sent = time.perf_counter()
        if self.sent >= self.replies.end:
            self.transport.close()
            return
        self.turn = next(self.replies.turns)
        self.transport.write(self.replies.requests[self.turn])

    def data_received(self, data: bytes) -> None:
        """Take the reply once it is whole."""
        self.read = self.read + data if self.read else data
        end = self.read.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.read[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:  # a reply in chunks, or without a body's length: nobody here sends one
            self.transport.close()
            return
        stop = head.find(b"\r\n", at)
        length = int(head[at + 15 : stop if stop > 0 else None])
        if len(self.read) - end - 4 < length:
            return
        body, self.read = self.read[end + 4 :], b""
        self.replies.take(self.turn, self.sent, head, body)
        self._ask()

    def connection_lost(self, _: Exception | None) -> None:
        """A connection that ends early is counted."""
        self.replies.broken += time.perf_counter() < self.replies.end or bool(self.read)
        if not self.gone.done():
            self.gone.set_result(None)


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the sorted values lies."""
    return values[min(len(values) - 1, int(share * len(values)))]


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Load the server as planned."""
    head = f"POST {plan['path']} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {plan['type']}\r\n"
    replies = Replies([base64.b64decode(body) for body in plan["bodies"]], head)
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    replies.began = started + plan["before"]
    replies.end = replies.began + plan["seconds"]
    opened = [
        await loop.create_connection(lambda: Client(replies), "127.0.0.1", plan["port"])
        for _ in range(plan["clients"])
    ]  # fmt: skip
    waiting = [client.gone for _, client in opened]
    _, late = await asyncio.wait(waiting, timeout=replies.end - time.perf_counter() + PATIENCE)
    times, used = sorted(replies.seconds), resource.getrusage(resource.RUSAGE_SELF)
    return {
        "requests_per_second": replies.done / plan["seconds"],
        "p50_ms": 1e3 * quantile(times, 0.5) if times else None,
        "p99_ms": 1e3 * quantile(times, 0.99) if times else None,
        "asked": replies.asked,
        "measured": len(times),
        "statuses": replies.statuses,
        "broken": replies.broken + len(late),
        "generator_busy": (used.ru_utime + used.ru_stime) / (time.perf_counter() - started),
        "kept": replies.kept,
    }


if __name__ == "__main__":
    measured = json.dumps(uvloop.run(run(json.load(sys.stdin))))
    # Buffered, because PYTHONUNBUFFERED=1 can lose half of a long write.
    with open(sys.stdout.fileno(), "w", closefd=False) as output:
        output.write(measured)
