"""What the prediction log costs the server, and whether a million requests are all in it, each once.

    python -m benchmarks.prediction_log [ROUNDS [REQUESTS]]

Run it after `make run`, on a quiet machine. Servers with the log, without it, and with the log and a shadow answer real
rows in turns, one worker each, 16 clients; then one server answers so many requests, whose log is verified, joined and
forgotten from. The figures go to benchmarks/prediction_log.json.
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.deployment.starting import start as begin
from mlops_pkg.prediction_log.segments import forget, join_segments, list_days, list_segments, lock_log
from mlops_pkg.prediction_log.verify import verify
from tests.prediction_log.conftest import real_records
from tests.serving.conftest import Server, start
from tests.serving.load import Line, connect
from tests.serving.wire import request

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "artifacts" / "package"
CLIENTS, SECONDS, ROWS = 16, 12.0, 10_000


def bodies() -> list[bytes]:
    """A request for each record."""
    headers = {"content-type": "application/json"}
    return [
        request("POST", "/predict", headers, json.dumps({"records": [one]}).encode())
        for one in real_records(BUNDLE, ROWS)
    ]


async def drive(port: int, contents: list[bytes], until: float, most: float = float("inf")) -> list[float]:
    """The latency of each request, in ms, of 16 clients until a moment or so many requests; all must be answered."""
    found: list[float] = []

    async def client(line: Line, number: int) -> None:
        while time.perf_counter() < until and len(found) < most:
            sent = time.perf_counter()
            status, _, body = await line.ask(contents[number % len(contents)])
            assert status == 200, body
            found.append(1000 * (time.perf_counter() - sent))
            number += CLIENTS

    lines = [await connect(port) for _ in range(CLIENTS)]
    await asyncio.gather(*(client(line, number) for number, line in enumerate(lines)))
    return found


def figures(times: list[float], seconds: float) -> dict[str, float]:
    """Rate and percentiles."""
    p50, p99 = np.percentile(times, [50, 99])
    return {"rate": round(len(times) / seconds), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def overhead(folder: Path, rounds: int) -> dict[str, Any]:
    """Rate and latency of the three servers, medians of rounds in turns, and the ratios to the one without a log."""
    shutil.copytree(BUNDLE, folder / "champion")
    (folder / "deployment.yaml").write_text("{champion: champion, shadows: [champion]}")
    begin(folder / "deployment.yaml", folder / "deployment", "benchmark")
    logged = {"SERVE_PREDICTION_LOG": str(folder / "log")}
    with_shadow = logged | {"SERVE_DEPLOYMENT": str(folder / "deployment")}
    kinds = {"plain": {}, "log": logged, "log and shadow": with_shadow}
    contents, seen = bodies(), {kind: list[dict[str, float]]() for kind in kinds}
    for turn in range(rounds):
        for kind in sorted(kinds, reverse=turn % 2 == 1):
            with start(BUNDLE, env=kinds[kind]) as server:
                asyncio.run(drive(server.port, contents, time.perf_counter() + 1))
                times = asyncio.run(drive(server.port, contents, time.perf_counter() + SECONDS))
                seen[kind].append(figures(times, SECONDS))
            print(turn, kind, seen[kind][-1], flush=True)
    medians = {
        kind: {name: statistics.median(one[name] for one in found) for name in found[0]} for kind, found in seen.items()
    }
    plain = medians["plain"]
    ratios = {
        kind: {name: round(values[name] / plain[name], 3) for name in plain}
        for kind, values in medians.items()
        if kind != "plain"
    }
    return {"medians": medians, "to plain": ratios}


def million(folder: Path, requests: int) -> dict[str, Any]:
    """What the log of so many requests holds, and how long it takes to verify, join and forget from it."""
    log, contents = folder / "million", bodies()
    with start(BUNDLE, env={"SERVE_PREDICTION_LOG": str(log)}) as server:
        began = time.perf_counter()
        answered = len(asyncio.run(drive(server.port, contents, float("inf"), requests)))
        seconds = time.perf_counter() - began
        lost = ended(server)
    days = list_days(log)
    ids = np.concatenate([column for day in days for path in list_segments(day) for column in read_ids(path)])
    found: dict[str, Any] = {"requests": answered, "rows": len(ids), "lost": lost, "rate": round(answered / seconds)}
    found["distinct request ids"] = len(np.unique(ids))
    found["MB"] = round(sum(path.stat().st_size for day in days for path in list_segments(day)) / 1e6, 1)
    predictor = Predictor.load(BUNDLE)
    began = time.perf_counter()
    verdict = verify(days, {predictor.identity: predictor})
    found |= {"equal": verdict.equal, "findings": verdict.wrong, "verify_s": round(time.perf_counter() - began, 1)}
    with lock_log(log, exclusive=True):
        began = time.perf_counter()
        joined = [join_segments(day) for day in days]
        found |= {"segments": sum(one for one, _ in joined), "joined": sum(other for _, other in joined)}
        found |= {"join_s": round(time.perf_counter() - began, 1)}
        began = time.perf_counter()
        gone = forget(log, {"request_id": str(ids[len(ids) // 2])})
        found |= {"forgotten": gone.rows, "left": gone.left, "forget_s": round(time.perf_counter() - began, 1)}
    return found


def ended(server: Server) -> float:
    """The rows that a server has lost, once it has ended."""
    lost = server.metric("predictions_lost_total")
    assert server.end() == 0
    return lost


def read_ids(path: Path) -> list[Any]:
    """The request ids of a segment."""
    return [pq.read_table(path, columns=["request_id"])["request_id"].to_numpy()]


def main() -> None:
    """Measure, print and write the figures."""
    rounds, requests = [*map(int, sys.argv[1:]), *(5, 1_000_000)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        found = {"overhead": overhead(Path(folder), rounds), "requests": million(Path(folder), requests)}
    text = json.dumps(found, indent=1)
    print(text)
    if requests >= 1_000_000:
        (ROOT / "benchmarks" / "prediction_log.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
