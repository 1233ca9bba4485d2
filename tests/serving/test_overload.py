"""More is asked than can be answered: some is answered as ever, the rest is refused at once, and nothing grows."""

import asyncio
import json
import select
from pathlib import Path

from tests.serving.conftest import DEADLINE, Server, start
from tests.serving.load import Load, open_loop
from tests.serving.wire import Wire, asking, request, rss
from tests.toy import RECORD, toy_answer

MANY = asking([RECORD] * 200)


def is_right(body: bytes) -> bool:
    """Whether the body answers `MANY`."""
    answers = [one["probability"] for one in json.loads(body)["predictions"]]
    return answers == [toy_answer(**RECORD)] * 200


def overload(server: Server, seconds: float) -> Load:
    """What comes of requests that come faster than they can be answered."""
    return asyncio.run(open_loop(server.port, MANY, is_right, (2000, seconds)))


def test_what_has_no_room_is_refused_with_503_and_a_time_to_try_again_and_the_rest_is_answered(bundle: Path) -> None:
    with start(bundle, env={"SERVE_MAX_WAITING": "8"}) as server:
        load = overload(server, 2)

        assert load.right
        assert load.refused
        assert (load.wrong, load.lost) == ([], [])
        assert server.metric('refused_total{code="overloaded"}') == len(load.refused)
        assert server.ask([RECORD]).status == 200, "and then all is as before"


def test_what_waits_takes_no_more_memory_than_there_is_room_for(bundle: Path) -> None:
    with start(bundle, env={"SERVE_MAX_WAITING": "8"}) as server:
        overload(server, 1)
        before = rss(server.process.pid)
        overload(server, 2)
        assert rss(server.process.pid) < 1.2 * before + (8 << 20)


def test_bodies_that_come_slowly_have_so_much_room_and_no_more(bundle: Path) -> None:
    body, room = b" " * (1 << 20), 7 << 19
    with start(bundle, config=f"max_waiting_bytes = {room}\nmax_arrow_bytes = {room}") as server:
        part = request("POST", "/predict", {"content-type": "application/json"}, body)[:-100]
        waiting = [Wire(server.port) for _ in range(4)]
        for wire in waiting:
            wire.send(part)
        [told], _, _ = select.select([wire.socket for wire in waiting], [], [], DEADLINE)  # whose last part came last
        [refused] = [wire for wire in waiting if wire.socket is told]
        reply = refused.reply()
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["retry-after"]
        with Wire(server.port) as small:
            small.send(asking([RECORD]))
            assert small.reply().status == 200, "there is room for a small one"
        for wire in waiting:
            wire.close()
