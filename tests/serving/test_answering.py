"""The queue before the model."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from mlops_pkg.bundle.predictor import Answers
from mlops_pkg.serving.answering import BATCH_ROWS, BatchSlice, PredictionQueue
from mlops_pkg.serving.messages import RefusedError
from mlops_pkg.serving.models import Model, Models
from tests.toy import RECORD, toy_answer


@pytest.fixture(scope="module")
def models(bundle: Path) -> Models:
    return Models(bundle, print)


class Watch:
    """What the queue has passed on, turn by turn."""

    def __init__(self) -> None:
        self.turns: list[int] = []

    def __call__(self, _: Model, data: Any, answers: Answers) -> None:
        assert len(data) == len(answers.answer)
        self.turns.append(len(data))


def records(hours: list[int]) -> list[dict[str, Any]]:
    return [{**RECORD, "start": f"2013-01-01T{hour:02}:00"} for hour in hours]


def answers(batch: BatchSlice) -> list[float]:
    found: list[float] = batch.answers.answer.tolist()
    return found


def expected(hours: list[int]) -> list[float]:
    return [toy_answer("EWR", 2.0, f"2013-01-01T{hour:02}:00") for hour in hours]


def test_each_request_gets_its_own_answers_in_order(models: Models) -> None:
    asked = [[hour] * (hour % 3 + 1) + [23 - hour] for hour in range(24)]

    async def crowd() -> list[BatchSlice]:
        queue = PredictionQueue(models, 100, Watch())
        return await asyncio.gather(*(queue.predict(records(hours)) for hours in asked))

    assert [answers(one) for one in asyncio.run(crowd())] == [expected(hours) for hours in asked]


def test_what_comes_together_is_answered_together(models: Models) -> None:
    watch = Watch()

    async def crowd() -> None:
        queue = PredictionQueue(models, 100, watch)
        await asyncio.gather(*(queue.predict(records([hour])) for hour in range(16)))
        await queue.predict(records([1]))

    asyncio.run(crowd())

    assert watch.turns == [16, 1]


def test_a_turn_has_an_end(models: Models) -> None:
    watch, size = Watch(), BATCH_ROWS // 2 + 1

    async def crowd() -> list[BatchSlice]:
        queue = PredictionQueue(models, 100, watch)
        return await asyncio.gather(*(queue.predict(records([hour] * size)) for hour in range(4)))

    found = asyncio.run(crowd())

    assert watch.turns == [size] * 4
    assert [answers(one) for one in found] == [expected([hour] * size) for hour in range(4)]


def test_many_records_are_answered_in_a_thread_while_others_are_answered(models: Models) -> None:
    threads = set()

    def work(_: Any) -> None:
        threads.add(threading.current_thread().name)
        assert free.wait(20), "nobody was answered meanwhile"

    free = threading.Event()

    async def crowd() -> list[float]:
        queue = PredictionQueue(models, 100, Watch())
        slow = asyncio.create_task(queue.run_in_thread(work))
        await asyncio.sleep(0)
        quick = answers(await queue.predict(records([5])))
        free.set()
        await slow
        many = await queue.predict(records([7] * (BATCH_ROWS + 1)))
        assert answers(many) == expected([7] * (BATCH_ROWS + 1))
        return quick

    assert asyncio.run(crowd()) == expected([5])
    assert threads == {"predicting_0"}


def test_a_full_queue_refuses_at_once_and_has_room_again_afterwards(models: Models) -> None:
    async def crowd() -> tuple[list[Any], list[float], int]:
        queue = PredictionQueue(models, 3, Watch())
        found = await asyncio.gather(*(queue.predict(records([1])) for _ in range(5)), return_exceptions=True)
        return found, answers(await queue.predict(records([2]))), queue.limiter.waiting

    found, later, waiting = asyncio.run(crowd())

    refused = [one for one in found if isinstance(one, RefusedError)]
    assert [(one.status, one.code) for one in refused] == [(503, "overloaded")] * 2
    assert (later, waiting) == (expected([2]), 0)


def test_who_hangs_up_takes_nobody_elses_answer(models: Models) -> None:
    async def crowd() -> tuple[list[float], int]:
        queue = PredictionQueue(models, 10, Watch())
        first, second = (asyncio.create_task(queue.predict(records([hour]))) for hour in (1, 2))
        await asyncio.sleep(0)
        first.cancel()
        return answers(await second), queue.limiter.waiting

    assert asyncio.run(crowd()) == (expected([2]), 0)


def test_a_failure_reaches_all_who_wait_and_the_next_are_answered(models: Models) -> None:
    class Broken(Watch):
        def __call__(self, _: Model, data: Any, answers: Answers) -> None:
            super().__call__(_, data, answers)
            if len(self.turns) == 1:
                raise OSError("no room")

    async def crowd() -> tuple[list[Any], list[float]]:
        queue = PredictionQueue(models, 10, Broken())
        failed = await asyncio.gather(*(queue.predict(records([1])) for _ in range(2)), return_exceptions=True)
        return failed, answers(await queue.predict(records([2])))

    failed, later = asyncio.run(crowd())

    assert [str(error) for error in failed] == ["no room"] * 2
    assert later == expected([2])
