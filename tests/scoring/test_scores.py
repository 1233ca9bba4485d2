"""Scores: each block gets its answers, in its turn, from however many processes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.records import Reject
from mlops_pkg.scoring.blocks import Source
from mlops_pkg.scoring.scores import Scored, score_blocks, score_in_processes
from tests.conftest import ROOT
from tests.toy import TOY, write_bundle

NAMES = ["wind", "note", "origin", "start"]


@pytest.fixture(scope="session")
def toy(bundle: Path) -> Predictor:
    """The toy bundle, loaded."""
    return Predictor.load(bundle)


def source_of(*blocks: Any) -> Source:
    """A source of these blocks."""
    return Source(NAMES, {}, iter([(block, number) for number, block in enumerate(blocks)]))


def score_one(toy: Predictor, block: Any, keep: list[str] | None = None) -> Scored:
    """The answers to one block."""
    ((scored, _),) = score_blocks(source_of(block), toy, keep or [])
    return scored


@pytest.mark.parametrize(
    ("cell", "wind"),
    [("2", 2), ("", None), ("NA", None), ("2.5", 2.5), ("1e2", 100), ("0.1", 0.1), ("+7", 7)],
)
def test_a_cell_is_the_number_that_it_writes(cell: str, wind: float | None, toy: Predictor) -> None:
    scored = score_one(toy, f"{cell},,EWR,2013-01-01T21:00\n".encode())

    expected = toy.predict([{"origin": "EWR", "wind": wind, "start": "2013-01-01T21:00"}])
    assert scored.answers.answer.tolist() == expected.answer.tolist()
    assert scored.answers.rejects == ()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("abc", "expected a number, found text"),
        ("1_000", "expected a number, found text"),
        ("٣", "expected a number, found text"),
        ("1,5", "expected 4 cells, found 5"),
        (" ", "expected a number, found text"),
        ("inf", "expected a number, found text"),
        ("nan", "expected a number, found text"),
        (" 2.5 ", "expected a number, found text"),
        ("1e999", "not a finite number"),
        ("251", "above the maximum of 250 miles per hour"),
    ],
)
def test_a_cell_that_is_no_such_number_rejects_its_row_alone(cell: str, reason: str, toy: Predictor) -> None:
    rows = ["2,,EWR,2013-01-01T21:00", f"{cell},,EWR,2013-01-01T21:00", "2,,EWR,2013-01-01T21:00"]

    scored = score_one(toy, "\n".join(rows).encode())

    assert [(reject.record, reject.reason) for reject in scored.answers.rejects] == [(1, reason)]
    assert np.isnan(scored.answers.answer).tolist() == [False, True, False]


def test_a_row_of_another_length_is_rejected_and_never_dropped(toy: Predictor) -> None:
    block = b"2,a,EWR,2013-01-01T21:00\n2,b,EWR\nfar,c,,\n2,d,EWR,2013-01-01T21:00,more\n"

    scored = score_one(toy, block, ["note"])

    assert scored.answers.rejects == (
        Reject(1, "", "2,b,EWR", "expected 4 cells, found 3"),
        Reject(2, "origin", "", "missing"),
        Reject(2, "wind", "'far'", "expected a number, found text"),
        Reject(2, "start", "", "missing"),
        Reject(3, "", "2,d,EWR,2013-01-01T21:00,more", "expected 4 cells, found 5"),
    )
    assert scored.answers.label is not None
    assert scored.answers.label.tolist() == [1, -1, -1, -1]
    assert scored.kept == [["a", "", "c", ""]]


def test_a_row_of_another_length_is_not_answered_even_where_all_may_be_missing(tmp_path: Path) -> None:
    fields = tuple(dataclasses.replace(field, nullable=True) for field in TOY.fields)
    lenient = Predictor.load(write_bundle(tmp_path, signature=dataclasses.replace(TOY, fields=fields)))

    scored = score_one(lenient, b",,,\n,,\n")

    assert scored.answers.label is not None
    assert scored.answers.label.tolist()[1] == -1
    assert np.isnan(scored.answers.answer).tolist() == [False, True]
    assert [reject.record for reject in scored.answers.rejects] == [1]


def test_a_block_without_records_has_no_answers(toy: Predictor) -> None:
    scored = score_one(toy, b"\n\n", ["note"])

    assert scored.answers.answer.shape == (0,)
    assert scored.kept == [[]]


def test_a_batch_of_parquet_keeps_its_types(toy: Predictor) -> None:
    batch = pa.RecordBatch.from_pydict({"wind": [2], "note": [7], "origin": ["EWR"], "start": ["2013-01-01T21:00"]})

    scored = score_one(toy, batch, ["note"])

    assert scored.kept == [batch["note"]]
    assert scored.answers.answer.tolist() == score_one(toy, b"2,,EWR,2013-01-01T21:00\n").answers.answer.tolist()


def test_several_processes_give_the_same_answers_in_the_same_order(toy: Predictor, bundle: Path) -> None:
    blocks = [f"{wind},{wind},EWR,2013-01-01T21:00\n".encode() * (30 - wind) for wind in range(1, 30)]

    alone = list(score_blocks(source_of(*blocks), toy, ["note"]))
    together = list(score_in_processes(source_of(*blocks), read_bundle(bundle), ["note"], 2))

    assert [share for _, share in together] == list(range(29))
    assert [scored.kept for scored, _ in together] == [scored.kept for scored, _ in alone]
    assert [scored.answers.answer.tolist() for scored, _ in together] == [
        scored.answers.answer.tolist() for scored, _ in alone
    ]


def test_only_a_few_blocks_are_under_way_at_a_time(bundle: Path) -> None:
    taken = 0

    def blocks() -> Iterator[tuple[bytes, float]]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"2,,EWR,2013-01-01T21:00\n", 0.0

    scores = score_in_processes(Source(NAMES, {}, blocks()), read_bundle(bundle), [], 2)

    for done, _ in enumerate(scores, 1):
        assert taken - done <= 4, "blocks pile up"
    assert taken == 100


KILLED = """
import multiprocessing, sys, time
from pathlib import Path
from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.scoring.blocks import Source
from mlops_pkg.scoring.scores import score_in_processes

def blocks():
    while True:
        time.sleep(0.01)
        yield b"2,,EWR,2013-01-01T21:00\\n", 0.0

if __name__ == "__main__":
    source = Source(["wind", "note", "origin", "start"], {}, blocks())
    for number, _ in enumerate(score_in_processes(source, read_bundle(Path(sys.argv[1])), [], 2)):
        if number == 20:
            print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
"""


def start(bundle: Path, folder: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that scores without an end, and its workers."""
    (folder / "endless.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, folder / "endless.py", bundle],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_end_with_their_parent_even_where_it_is_killed(bundle: Path, tmp_path: Path) -> None:
    process, workers = start(bundle, tmp_path)
    assert len(workers) == 2

    process.kill()
    process.wait()

    for _ in range(100):
        if not any(map(is_running, workers)):
            return
        time.sleep(0.1)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    pytest.fail("a worker outlives its parent")


def test_a_worker_that_is_killed_ends_the_scoring_with_a_reason(bundle: Path, tmp_path: Path) -> None:
    process, workers = start(bundle, tmp_path)

    os.kill(workers[0], signal.SIGKILL)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 1
    assert told.strip().endswith(
        "ChildProcessError: a scoring process was ended from outside; is there memory for so many?"
    )
