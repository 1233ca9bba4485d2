"""Send requests of all kinds to a server by the hundred thousand; the short form is tests/fuzz/test_endpoint.py.

    python -m benchmarks.serving.fuzz [REQUESTS]

The figures go to benchmarks/serving/fuzz.json.
"""

import json
import sys
import time
from pathlib import Path

from mlops_pkg.bundle.predictor import Predictor
from tests.conftest import ROOT
from tests.fuzz.test_endpoint import Attack, Requests, example, send_all
from tests.serving.conftest import start
from tests.serving.wire import rss


def main(number: int) -> None:
    """Run the campaign; it ends with the smallest request that fails, if there is one."""
    bundle = ROOT / "artifacts" / "package"
    predictor = Predictor.load(bundle)
    began = time.monotonic()
    with start(bundle) as server:
        requests = Requests(predictor, server.get("/openapi.json").json)
        attack = Attack(server, predictor, example(predictor))
        turn = send_all(attack, requests, number // 10)
        warm = rss(server.process.pid)
        send_all(attack, requests, number - number // 10, turn)
        attack.check_end()
        end = rss(server.process.pid)
    assert end < 1.1 * warm, f"memory has grown from {warm:,} to {end:,} bytes"
    figures = {
        "requests": attack.kinds.total(),
        "failures": 0,
        "by_kind": dict(sorted(attack.kinds.items())),
        "by_status": dict(sorted(attack.statuses.items())),
        "records_compared": attack.records,
        "memory_mb": {"after_a_tenth": round(warm / 1e6, 1), "at_the_end": round(end / 1e6, 1)},
        "seconds": round(time.monotonic() - began),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    memory = f"{warm / 1e6:.1f} MB, then {end / 1e6:.1f} MB"
    print(f"{attack.kinds.total():,} requests, no 5xx, no wrong answer; {memory}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 110_000)
