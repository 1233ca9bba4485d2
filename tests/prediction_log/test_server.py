"""A real server logs what it has answered, once each, and never at the price of an answer."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.prediction_log.segments import list_days
from mlops_pkg.prediction_log.verify import verify
from mlops_pkg.serving.settings import new_key
from tests.prediction_log.conftest import PERSONAL, logged, open_predictor
from tests.serving.conftest import JSON, Server, start, until, workers_of
from tests.toy import GRAPH, RECORD, write_bundle

SECONDS = "0.3"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the toy model."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder of a prediction log, which is not there yet."""
    return tmp_path / "predictions"


@pytest.fixture
def server(bundle: Path, log: Path) -> Iterator[Server]:
    """A server that logs its predictions."""
    with start(bundle, "--prediction-log", str(log), env={"SERVE_PREDICTION_LOG_SECONDS": SECONDS}) as running:
        yield running


def _rows(log: Path, count: int) -> list[dict[str, Any]]:
    """The rows of a log, once there are so many."""
    until(lambda: log.is_dir() and len(logged(log)) >= count)
    return logged(log)


def _verified(log: Path, *bundles: Path) -> tuple[int, int]:
    """The number of equal answers, and of findings."""
    predictors = {predictor.identity: predictor for predictor in map(open_predictor, bundles)}
    verdict = verify(list_days(log), predictors)
    return verdict.equal, verdict.wrong


def test_an_answer_is_logged_with_all_that_belongs_to_it(server: Server, log: Path, bundle: Path) -> None:
    before = time.time()
    reply = server.ask([RECORD, RECORD | {"wind": "strong"}], {"x-request-id": "order-17"}).json

    first, second = _rows(log, 2)

    assert (first["request_id"], first["record"], second["record"]) == ("order-17", 0, 1)
    assert (first["answer"], first["label"]) == (reply["predictions"][0]["probability"], "1")
    assert (second["answer"], second["label"]) == (None, None)
    assert second["error"] == "wind: expected a number, found text"
    assert first["inputs"] == {"origin": "EWR", "wind": 2.0, "start": first["inputs"]["start"]}
    assert (first["version"], first["role"], first["key"]) == (reply["model"]["version"], "champion", "")
    assert before - 1 < first["time"].timestamp() < time.time() + 1
    assert 0 < first["seconds"] < 5
    assert _verified(log, bundle) == (1, 0)


def _arrow(rows: int) -> bytes:
    """An Arrow stream of the same record again and again."""
    table = pa.Table.from_pylist([RECORD] * rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


CSV = b"origin,wind,start\nEWR,2.0,2013-01-01T21:00\nJFK,,2013-01-01T05:00\n"
INFER = {"inputs": [{"name": name, "shape": [1], "datatype": kind, "data": [RECORD[name]]}
                    for name, kind in (("origin", "BYTES"), ("wind", "FP64"), ("start", "BYTES"))]}  # fmt: skip
BODIES = {
    "json": ("/predict", JSON, json.dumps({"records": [RECORD] * 3}).encode(), 3),
    "json of a large batch": ("/predict", JSON, json.dumps({"records": [RECORD] * 300}).encode(), 300),
    "arrow": ("/predict", "application/vnd.apache.arrow.stream", _arrow(9000), 9000),
    "csv": ("/predict", "text/csv", CSV, 2),
    "invocations": ("/invocations", JSON, json.dumps({"dataframe_records": [RECORD] * 2}).encode(), 2),
    "infer": ("/v2/models/toy/infer", JSON, json.dumps(INFER).encode(), 1),
}


@pytest.mark.parametrize("body", BODIES)
def test_every_kind_of_body_is_logged_once(server: Server, log: Path, bundle: Path, body: str) -> None:
    path, kind, content, count = BODIES[body]
    assert server.get(path, {"content-type": kind}, content).status == 200

    rows = _rows(log, count)

    assert server.end() == 0
    assert len(logged(log)) == count
    assert [row["record"] for row in rows] == list(range(count))
    assert _verified(log, bundle) == (count, 0)


@pytest.mark.parametrize(
    ("path", "content"),
    [("/predict", b"{"), ("/predict", b'{"records": []}'), ("/predict", b'{"records": [{}], "x": 1}'),
     ("/nothing", b"{}"), ("/v2/models/toy/infer", json.dumps({"inputs": [{**INFER["inputs"][0]}]}).encode())],
)  # fmt: skip
def test_what_was_refused_as_a_whole_is_not_logged(server: Server, log: Path, path: str, content: bytes) -> None:
    assert server.get(path, {"content-type": JSON}, content).status >= 400

    assert server.end() == 0
    assert logged(log) == []


def test_keys_are_logged_by_name_and_never_themselves(bundle: Path, log: Path) -> None:
    key, stored = new_key("planning")
    config = f'keys = [{{name = "planning", sha256 = "{stored.sha256}"}}]\nprediction_log = "{log}"\n'
    with start(bundle, config=config) as server:
        assert server.ask([RECORD], {"authorization": f"Bearer {key}"}).status == 200
        assert server.ask([RECORD], {"authorization": f"Bearer {key}x"}).status == 401
        server.end()

    [row] = logged(log)
    assert row["key"] == "planning"
    assert not any(key.encode() in path.read_bytes() for path in log.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["drop", "mask", "keep"])
def test_personal_data_is_logged_as_the_setting_says(tmp_path: Path, log: Path, how: str) -> None:
    bundle = write_bundle(tmp_path / "bundle", signature=PERSONAL)
    env = {"SERVE_PREDICTION_LOG": str(log), "SERVE_PERSONAL_DATA": how}
    with start(bundle, env=env) as server:
        server.ask([RECORD, RECORD])
        server.end()

    [first, second] = [row["inputs"]["origin"] for row in logged(log)]
    assert first == second
    assert (first is None, first == "EWR") == (how == "drop", how == "keep")


def test_under_load_every_request_of_two_workers_is_logged_once(bundle: Path, log: Path) -> None:
    def ask(number: int) -> float:
        record = RECORD | {"wind": float(number % 250)}
        reply = server.ask([record], {"x-request-id": f"r-{number}"})
        return float(reply.json["predictions"][0]["probability"])

    env = {"SERVE_PREDICTION_LOG": str(log), "SERVE_PREDICTION_LOG_SECONDS": SECONDS, "SERVE_WORKERS": "2"}
    with start(bundle, env=env) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(1000)))
        assert server.end() == 0

    rows = {row["request_id"]: row["answer"] for row in logged(log)}
    assert Counter(row["request_id"] for row in logged(log)) == Counter(f"r-{number}" for number in range(1000))
    assert [rows[f"r-{number}"] for number in range(1000)] == answers
    assert _verified(log, bundle) == (1000, 0)


def test_a_killed_worker_loses_no_more_than_the_stated_seconds(bundle: Path, log: Path) -> None:
    env = {"SERVE_PREDICTION_LOG": str(log), "SERVE_PREDICTION_LOG_SECONDS": SECONDS, "SERVE_WORKERS": "2"}
    with start(bundle, env=env) as server:
        for number in range(100):
            server.ask([RECORD], {"x-request-id": f"r-{number}"})
        _rows(log, 100)  # what is older than the seconds is there
        os.kill(workers_of(server.process)[0], signal.SIGKILL)
        until(lambda: server.events("worker_ended"))
        assert server.ask([RECORD], {"x-request-id": "after"}).status == 200
        server.end()

    assert Counter(row["request_id"] for row in logged(log)) == Counter([*(f"r-{n}" for n in range(100)), "after"])
    assert not list(log.rglob("*.tmp"))


def test_a_log_that_cannot_be_written_costs_rows_and_no_answer(server: Server, log: Path) -> None:
    server.ask([RECORD], {"x-request-id": "before"})
    _rows(log, 1)
    shutil.rmtree(log)
    log.write_text("a file where the folder was")

    assert server.ask([RECORD] * 2, {"x-request-id": "lost"}).status == 200
    until(lambda: server.metric("predictions_lost_total") == 2)
    [line] = until(lambda: server.events("predictions_lost"))
    assert line["rows"] == 2

    log.unlink()
    assert server.ask([RECORD], {"x-request-id": "after"}).status == 200
    assert [row["request_id"] for row in _rows(log, 1)] == ["after"]
    until(lambda: server.metric("predictions_logged_total") == 2)


def test_a_full_disk_costs_rows_and_no_answer(bundle: Path, log: Path) -> None:
    """The limit on the size of a file is an error of the system at the same call as a full disk."""
    import resource
    import subprocess
    import sys

    script = f"""
import json, resource, sys
from pathlib import Path
from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.prediction_log.rows import Entry
from mlops_pkg.prediction_log.writer import PredictionLog, Target
predictor, seen = Predictor(read_bundle(Path({str(bundle)!r})), True), []
log = PredictionLog(Target.open(Path({str(log)!r}), "drop", lambda *facts: seen.append(facts)), 0.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
log.add(Entry(predictor, predictor.predict([{json.dumps(RECORD)}] * 3), 0, 3, "a", "", "champion", 1.7e9, 0.1))
log.close()
print(json.dumps(seen))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    [[written, lost, reason]] = json.loads(done.stdout)
    assert (written, lost) == (0, 3)
    assert "File too large" in reason
    assert logged(log) == []
    assert not list(log.rglob("*.tmp"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_answers_of_a_new_bundle_are_logged_as_its_own(tmp_path: Path, log: Path) -> None:
    served = write_bundle(tmp_path / "served")
    old, new = write_bundle(tmp_path / "old"), write_bundle(tmp_path / "new", GRAPH.replace("{0.1}", "{0.2}"))
    env = {"SERVE_PREDICTION_LOG": str(log), "SERVE_RELOAD_SECONDS": "0.05"}
    with start(served, env=env) as server:
        server.ask([RECORD])
        for path in new.iterdir():
            shutil.copy(path, served / path.name)
        until(lambda: server.events("bundle_taken"))
        server.ask([RECORD])
        server.end()

    assert len({row["version"] for row in logged(log)}) == 2
    assert _verified(log, old) == (1, 1)
    assert _verified(log, old, new) == (2, 0)


def test_a_folder_that_cannot_be_used_is_told_at_the_start(bundle: Path) -> None:
    from tests.serving.conftest import launch

    process, log = launch("--bundle", str(bundle), "--port", "0", "--prediction-log", "/dev/null/predictions")

    assert process.wait(20) == 1
    assert log.read_text().splitlines()[-1] == "/dev/null/predictions: not a directory"


def test_without_the_setting_nothing_is_kept(bundle: Path) -> None:
    predictor = Predictor.load(bundle)

    assert predictor.predict([RECORD]).inputs == ()


def test_the_process_that_writes_may_die_or_hang_without_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_pkg.prediction_log import writer

    def die() -> Iterator[writer.Written]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 1, 0, ""

    def hang() -> Iterator[writer.Written]:
        time.sleep(60)
        yield 1, 0, ""

    assert writer.run_in_child(die) is None
    monkeypatch.setattr(writer, "_MAX_SECONDS", 0.2)
    start_time = time.monotonic()
    assert writer.run_in_child(hang) is None
    assert time.monotonic() - start_time < 30


def test_the_process_that_writes_holds_no_connection_open(tmp_path: Path) -> None:
    """A reply that ends with its connection would otherwise wait for the child."""
    import socket

    from mlops_pkg.prediction_log.writer import run_in_child

    here, there = socket.socketpair()

    def wait() -> Iterator[tuple[int, int, str]]:
        (tmp_path / "begun").touch()
        time.sleep(5)
        yield 1, 0, ""

    thread = threading.Thread(target=run_in_child, args=[wait])
    thread.start()
    until((tmp_path / "begun").exists)
    there.close()
    here.settimeout(3)
    assert here.recv(1) == b""
    thread.join()
