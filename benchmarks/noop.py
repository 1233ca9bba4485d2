"""How long nothing takes: a second `make run` against a bare `dvc repro`, pair by pair, and the command line's start.

    python -m benchmarks.noop [PAIRS]

Run it after `make run`, on a quiet machine. Ratios within one run count, single times do not. The figures go to
benchmarks/noop.json.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(*command: str) -> float:
    """Wall time of a command that must end well."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(pairs: int) -> None:
    """Measure and write the figures."""
    binaries = Path(sys.executable).parent
    dvc, program = str(binaries / "dvc"), str(binaries / "mlops_pkg")
    seconds(dvc, "repro"), seconds("make", "run"), seconds(program, "--help")
    bare, make, start = [], [], []
    for _ in range(pairs):
        bare.append(seconds(dvc, "repro"))
        make.append(seconds("make", "run"))
        start.append(seconds(program, "--help"))
    figures = {
        "pairs": pairs,
        "dvc_repro_seconds": round(statistics.median(bare), 3),
        "make_run_seconds": round(statistics.median(make), 3),
        "ratio": round(statistics.median(m / b for m, b in zip(make, bare, strict=True)), 3),
        "help_seconds": round(statistics.median(start), 3),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
