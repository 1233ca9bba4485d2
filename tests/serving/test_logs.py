"""Lines of the log, and what becomes of those that cannot be written."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from mlops_pkg.serving.logs import Log, capture_logging, log_line
from tests.serving.conftest import until


def test_each_line_is_json_whatever_a_stranger_sends(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    strange = 'a"\n{"event": "forged"}\r\u2028\ud800'
    log.write("request", path=strange)
    log.close()

    [line] = (tmp_path / "log").read_bytes().splitlines()

    assert json.loads(line)["path"] == strange


def test_the_time_is_utc_with_milliseconds() -> None:
    assert json.loads(log_line(1.5, "ready", {}))["time"] == "1970-01-01T00:00:01.500Z"


def test_lines_keep_their_order_and_all_are_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for number in range(5_000):
        log.write("request", number=number)
    log.close()

    written = [json.loads(line)["number"] for line in (tmp_path / "log").read_text().splitlines()]

    assert written == list(range(5_000))
    assert log.pop_lost() == 0


def test_a_full_disk_loses_lines_and_counts_them() -> None:
    log = Log(Path("/dev/full"))
    log.write("request")
    log.write("request")
    log.close()

    assert log.pop_lost() == 2
    assert log.pop_lost() == 0, "a line is counted twice"


def test_a_pipe_that_nobody_reads_holds_up_neither_the_server_nor_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    log = Log(tmp_path / "pipe")
    for _ in range(30_000):
        log.write("request", text="x" * 100)

    assert until(lambda: log.lost > 0)
    log.close()
    os.close(reader)


@pytest.mark.parametrize("values", [False, True])
def test_what_libraries_log_becomes_lines_and_an_error_keeps_its_message_to_itself(
    tmp_path: Path, values: bool
) -> None:
    kept = logging.root.handlers
    log = Log(tmp_path / "log")
    try:
        capture_logging(log, values)
        try:
            raise ValueError("what a client sent")
        except ValueError:
            logging.getLogger("library").exception("one\ntwo")
    finally:
        logging.captureWarnings(False)
        logging.root.handlers = kept
    log.close()

    [line] = map(json.loads, (tmp_path / "log").read_text().splitlines())

    assert (line["event"], line["level"], line["message"]) == ("logged", "error", "one\ntwo")
    assert line["error"] == ("ValueError: what a client sent" if values else "ValueError")
    assert line["at"][0].startswith("test_logs.py:")


def test_no_thread_is_left_after_the_end(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    log = Log(tmp_path / "log")
    [thread] = set(threading.enumerate()) - before
    log.close()

    assert not thread.is_alive()
