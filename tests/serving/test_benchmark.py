"""The benchmark of the servers: what its figures rest on."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.serving.peers import LOCK, ROOT, versions
from benchmarks.serving.questions import Questions, read_answers, wrong
from benchmarks.serving.report import goals, verdict
from benchmarks.serving.servers import BenchmarkError, Way, ask, started

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
two_cores = pytest.mark.skipif(CORES < 2, reason="the server and the load have a core each, which Linux can tell")
SIGNATURE = {
    "name": "toy",
    "fields": [
        {"name": "origin", "kind": "category", "nullable": False},
        {"name": "wind", "kind": "number", "nullable": True},
    ],
}


def loaded(port: int, body: bytes, clients: int = 4, seconds: float = 0.5) -> dict:
    plan = {
        "port": port, "path": "/predict", "type": "application/json", "bodies": [base64.b64encode(body).decode()],
        "clients": clients, "seconds": seconds, "before": 0.1,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.serving.load"]
    done = subprocess.run(command, input=json.dumps(plan), cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_peers_are_locked_to_the_libraries_that_fitted_the_pipeline() -> None:
    locked = dict(
        line.split(" ")[0].split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line
    )
    names = ("scikit-learn", "feature-engine", "pandas", "numpy", "scipy", "skops")
    assert versions(names) == {name: locked[name] for name in names}
    assert "mlflow==" in LOCK.read_text()
    assert "bentoml==" in LOCK.read_text()


@pytest.fixture
def empty(tmp_path: Path) -> Way:
    signature = tmp_path / "signature.json"
    signature.write_text(json.dumps(SIGNATURE))
    uvicorn = (sys.executable, "-m", "uvicorn", "benchmarks.serving.empty:app", "--port", "{port}", "--no-access-log")
    return Way("empty route", uvicorn, env={"SIGNATURE": str(signature), "PYTHONPATH": str(ROOT)}, model=False)


@two_cores
def test_the_load_counts_good_replies_and_bad_ones_and_the_server_ends_with_the_block(
    empty: Way, tmp_path: Path
) -> None:
    with started(empty, tmp_path / "log") as server:
        good = loaded(server.port, b'{"records": [{"origin": "JFK", "wind": null}]}')
        bad = loaded(server.port, b'{"records": [{"wind": "much"}]}')
        assert server.memory_mb()["rss_mb"] > server.memory_mb()["pss_mb"] > 1
        assert server.cpu_seconds() > 0
    assert set(good["statuses"]) == {"200"}
    assert good["statuses"]["200"] == good["asked"] >= good["measured"] > 100
    assert good["broken"] == bad["broken"] == 0
    assert 0 < good["p50_ms"] <= good["p99_ms"]
    number, status, body = good["kept"][0]
    assert (number, status) == (0, "200")
    assert read_answers(base64.b64decode(body)) == [(0.123456789, 0)]
    assert set(bad["statuses"]) == {"422"}
    with pytest.raises(OSError, match="refused"):
        ask(server.port, "GET", "/ready")


def test_a_connection_that_the_server_drops_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            for _ in range(4):
                listener.accept()[0].close()

        dropping = threading.Thread(target=drop)
        dropping.start()
        found = loaded(listener.getsockname()[1], b"{}")
        dropping.join()
    assert found["broken"] == 4
    assert found["asked"] == 0


@two_cores
def test_a_server_that_does_not_come_up_is_named_with_what_it_said_last(tmp_path: Path) -> None:
    way = Way("fragile", (sys.executable, "-c", "raise SystemExit('no model here')"))
    with pytest.raises(BenchmarkError, match="^fragile did not start: no model here$"), started(way, tmp_path / "log"):
        pass


def test_a_wrong_answer_is_told_from_a_right_one_whichever_server_gives_it() -> None:
    asked = Questions([{}], [0.123456789], 0.1, [], [], {})
    ours = b'{"predictions": [{"probability": %s, "prediction": %s, "probabilities": {}}]}'
    assert wrong(asked, 0, ours % (b"0.123456789", b"1"), None) is None
    assert "fitted pipeline" in str(wrong(asked, 0, ours % (b"0.1234567891", b"1"), None))
    assert wrong(asked, 0, ours % (b"0.123456789", b"0"), None) == "record 0: label 0"
    assert wrong(asked, 0, b'{"predictions": [[0.8765432109, 0.12345678904]]}', 9) is None
    assert "fitted pipeline" in str(wrong(asked, 0, b'[{"probability": 0.2, "label": 1}]', 9))


def test_a_goal_is_reached_missed_by_how_much_or_not_measured() -> None:
    def one(rate: float, p99: float) -> dict:
        arrow = {
            clients: {"rows_per_second": rows, "graph_rows_per_second": 100} for clients, rows in (("1", 90), ("4", 70))
        }
        clients = {count: {"requests_per_second": rate, "p50_ms": p99, "p99_ms": p99} for count in ("1", "16")}
        return {"clients": clients, "arrow": arrow, "rss_mb": 110.0, "start_seconds": 0.9}

    found = goals({"this server": [one(50, 4)], "empty route": [one(100, 2)]})
    assert [goal["found"] for goal in found] == [None, 0.5, 2, None, None, 0.9, 110, 0.9]
    assert [verdict(goal) for goal in found] == [
        "not measured", "missed by 17%", "reached", "not measured", "not measured", "reached", "missed by 10%",
        "reached",
    ]  # fmt: skip
