"""Send requests of all kinds by the hundred thousand; the short form is tests/fuzz/test_endpoint.py.

Each core has a server of its own.

    python -m benchmarks.serving.fuzz [REQUESTS]

The figures go to benchmarks/serving/fuzz.json.
"""

import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mlops_pkg.bundle.predictor import Predictor
from tests.conftest import ROOT
from tests.fuzz.test_endpoint import Attack, Requests, example, send_all
from tests.serving.conftest import start
from tests.serving.wire import rss

BUNDLE = ROOT / "artifacts" / "package"
APART = 1_000_000  # turns between two servers


def attack_one(server_number: int, number: int) -> tuple[Attack, dict[str, Any]]:
    """So many requests to one server, and its memory; it ends with the smallest request that fails, if there is one."""
    predictor = Predictor.load(BUNDLE)
    with start(BUNDLE) as server:
        requests = Requests(predictor, server.get("/openapi.json").json)
        attack = Attack(server, predictor, example(predictor))
        turn = send_all(attack, requests, number // 10, APART * server_number)
        warm = rss(server.process.pid)
        send_all(attack, requests, number - number // 10, turn)
        attack.check_end()
        end = rss(server.process.pid)
    assert end < 1.1 * warm, f"memory has grown from {warm:,} to {end:,} bytes"
    return attack, {"after_a_tenth": round(warm / 1e6, 1), "at_the_end": round(end / 1e6, 1)}


def figures_of(server_number: int, number: int) -> dict[str, Any]:
    """What came of the requests to one server."""
    attack, memory = attack_one(server_number, number)
    return {
        "records": attack.records,
        "by_kind": attack.kinds,
        "by_status": attack.statuses,
        "memory_mb": memory,
    }


def main(number: int) -> None:
    """The campaign."""
    began, servers = time.monotonic(), os.cpu_count() or 1
    with ProcessPoolExecutor(servers) as pool:
        parts = list(pool.map(figures_of, range(servers), [-(-number // servers)] * servers))
    kinds: Counter[str] = sum((part["by_kind"] for part in parts), Counter())
    statuses: Counter[str] = sum((part["by_status"] for part in parts), Counter())
    figures = {
        "requests": kinds.total(),
        "failures": 0,
        "by_kind": dict(sorted(kinds.items())),
        "by_status": dict(sorted(statuses.items())),
        "records_compared": sum(part["records"] for part in parts),
        "memory_mb": [part["memory_mb"] for part in parts],
        "seconds": round(time.monotonic() - began),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{kinds.total():,} requests, no 5xx, no wrong answer; memory in MB: {figures['memory_mb']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 110_000)
