"""Segments appear whole, are joined, pruned and forgotten without losing or doubling another row."""

import datetime
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.prediction_log.rows import row_checks
from mlops_pkg.prediction_log.segments import (
    PredictionLogError,
    forget,
    join_segments,
    list_days,
    list_segments,
    lock_log,
    prune,
    read_secret,
    read_segment,
)
from tests.prediction_log.conftest import DAY, logged, write_log
from tests.toy import write_bundle


def test_joining_keeps_every_row_once(toy: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 5)
    before = logged(tmp_path)

    assert join_segments(tmp_path / DAY) == (5, 1)
    assert logged(tmp_path) == before
    [path] = list_segments(tmp_path / DAY)
    assert all((row_checks(batch) == batch["check"].to_numpy()).all() for batch in read_segment(path))

    write_log(tmp_path, toy, 2)
    assert join_segments(tmp_path / DAY) == (3, 1)
    names = [row["request_id"] for row in logged(tmp_path)]
    assert sorted(names) == ["a-0", "a-0", "a-1", "a-1", "a-2", "a-3", "a-4"]


def test_bundles_are_joined_by_themselves(toy: Predictor, personal: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 3)
    write_log(tmp_path, personal, 3)

    assert join_segments(tmp_path / DAY) == (6, 2)
    assert len(logged(tmp_path)) == 6


def test_parts_that_a_killed_join_has_left_are_not_read_again(toy: Predictor, tmp_path: Path) -> None:
    parts = {path: path.read_bytes() for path in write_log(tmp_path, toy, 3)}
    join_segments(tmp_path / DAY)
    for path, content in parts.items():
        path.write_bytes(content)

    assert len(logged(tmp_path)) == 3
    assert join_segments(tmp_path / DAY) == (1, 1)
    assert not any(path.exists() for path in parts)


def test_halves_of_killed_writers_are_not_read_and_later_removed(toy: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 1)
    old, new = tmp_path / DAY / ".old.parquet.1.tmp", tmp_path / DAY / ".new.parquet.2.tmp"
    for half in (old, new):
        half.write_bytes(b"PAR1")
    os.utime(old, (time.time() - 3600,) * 2)

    assert len(logged(tmp_path)) == 1
    join_segments(tmp_path / DAY)
    assert not old.exists()
    assert new.exists()  # its writer may be alive


WRITER = """
import sys
from pathlib import Path
from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.bundle.predictor import Predictor
from tests.prediction_log.conftest import write_log
from mlops_pkg.prediction_log.segments import join_segments, lock_log
from tests.prediction_log.conftest import DAY
log = Path(sys.argv[2])
predictor = Predictor(read_bundle(Path(sys.argv[1])), keep_inputs=True)
print("ready", flush=True)
while True:
    write_log(log, predictor, 20)
    print("written", flush=True)
    with lock_log(log, exclusive=True):
        join_segments(log / DAY)
"""


def test_killed_at_any_moment_no_row_is_lost_doubled_or_torn(toy: Predictor, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    for number in range(6):
        log = tmp_path / str(number)
        log.mkdir()
        command = [sys.executable, "-c", WRITER, str(bundle), str(log)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(1 + number % 3)]
            time.sleep(random.Random(number).uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        rounds = lines.count("written\n")
        rows = logged(log)
        counts = [sum(row["request_id"] == f"a-{at}" for row in rows) for at in range(20)]
        assert all(rounds <= count <= rounds + 1 for count in counts), counts
        assert counts == sorted(counts, reverse=True)
        with lock_log(log, exclusive=True):
            for day in list_days(log):
                join_segments(day)
        assert len(logged(log)) == len(rows)


def test_who_joins_and_who_reads_exclude_each_other(toy: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 1)

    busy = pytest.raises(PredictionLogError, match="another command is at work")
    with lock_log(tmp_path), lock_log(tmp_path), busy, lock_log(tmp_path, exclusive=True):  # two may read
        pass
    with lock_log(tmp_path, exclusive=True), busy, lock_log(tmp_path):
        pass


def test_forgetting_deletes_from_every_segment_and_looks_again(toy: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 4)
    join_segments(tmp_path / DAY)
    write_log(tmp_path, toy, 3)

    found = forget(tmp_path, {"wind": "2"})

    assert (found.rows, found.segments, found.left, found.unsearchable) == (2, 2, 0, 0)
    assert sorted(row["inputs"]["wind"] for row in logged(tmp_path)) == [0, 0, 1, 1, 3]
    assert forget(tmp_path, {"wind": "2"}).rows == 0
    for path in list_segments(tmp_path / DAY):
        assert all((row_checks(batch) == batch["check"].to_numpy()).all() for batch in read_segment(path))


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ({"request_id": "a-1"}, 2),
        ({"key": "planning"}, 0),
        ({"origin": "EWR"}, 0),
        ({"start": "2013-01-01T21:00"}, 0),
        ({"origin": "EWR", "wind": "1"}, 2),
        ({"origin": "JFK", "wind": "1"}, 3),
    ],
)
def test_a_condition_may_name_a_request_a_key_or_fields(
    toy: Predictor, tmp_path: Path, conditions: dict[str, str], left: int
) -> None:
    write_log(tmp_path, toy, 3)

    found = forget(tmp_path, conditions)

    assert (found.rows, found.left, len(logged(tmp_path))) == (3 - left, 0, left)


def test_masked_values_are_found_by_the_value_itself(personal: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, personal, 3, "mask", read_secret(tmp_path))

    assert forget(tmp_path, {"origin": "JFK"}).rows == 0
    assert forget(tmp_path, {"origin": "EWR"}).rows == 3


def test_values_that_were_dropped_cannot_be_looked_for(personal: Predictor, toy: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, personal, 2, "drop")
    with pytest.raises(PredictionLogError, match="origin: no segment has values of it; personal data was dropped"):
        forget(tmp_path, {"origin": "EWR"})

    write_log(tmp_path, toy, 1)
    found = forget(tmp_path, {"origin": "EWR"})
    assert (found.rows, found.unsearchable) == (1, 2)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"orign": "EWR"}, "orign: not a column of the log; did you mean 'origin'"),
        ({"wind": "strong"}, "wind = strong: expected a number"),
        ({"start": "soon"}, "start = soon: expected a datetime"),
    ],
)
def test_a_wrong_condition_is_told_and_deletes_nothing(
    toy: Predictor, tmp_path: Path, conditions: dict[str, str], message: str
) -> None:
    write_log(tmp_path, toy, 1)

    with pytest.raises(PredictionLogError, match=message):
        forget(tmp_path, conditions)
    assert len(logged(tmp_path)) == 1


def test_a_damaged_segment_is_named(toy: Predictor, tmp_path: Path) -> None:
    first, second = write_log(tmp_path, toy, 2)
    first.write_bytes(first.read_bytes()[:-5])
    content = bytearray(second.read_bytes())
    content[len(content) // 4] ^= 1
    second.write_bytes(content)

    for path in (first, second):
        with pytest.raises(PredictionLogError, match=f"{path.name}: damaged"):
            list(read_segment(path))


def test_days_are_pruned_by_their_date(toy: Predictor, tmp_path: Path) -> None:
    [path] = write_log(tmp_path, toy, 1)
    for day in ("2013-04-29", "2013-04-30", "notes"):
        (tmp_path / day).mkdir()
        (tmp_path / day / path.name).write_bytes(path.read_bytes())

    assert prune(tmp_path, 2, datetime.date(2013, 5, 1)) == ["2013-04-29"]
    assert [day.name for day in list_days(tmp_path)] == ["2013-04-30", DAY]
    assert (tmp_path / "notes" / path.name).exists()


@pytest.mark.parametrize(("since", "until"), [("May", ""), ("", "2013-5-1")])
def test_a_date_that_is_none_is_told(tmp_path: Path, since: str, until: str) -> None:
    with pytest.raises(PredictionLogError, match="expected a date such as 2013-01-31"):
        list_days(tmp_path, since, until)


def test_the_key_of_masks_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    first = read_secret(tmp_path / "log")

    assert read_secret(tmp_path / "log") == first
    assert (tmp_path / "log" / "mask.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["mask.key"]
