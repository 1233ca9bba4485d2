"""What the proofs cost: one cold `dvc repro`, then each proof, then `verify` on a clone without data.

    python -m benchmarks.prove

In a fresh clone of the last commit, with a cache of its own and a folder as remote. Ratios within one run count, single
times do not. The figures go to benchmarks/prove.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def seconds(root: Path, *command: str) -> float:
    """Wall time of a command that must end well."""
    started = time.perf_counter()
    subprocess.run(command, cwd=root, env={**os.environ, "PATH": PATH}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def clone(source: Path, root: Path, remote: Path) -> None:
    """A clone that shares through a folder."""
    seconds(source, "git", "clone", "--quiet", str(source), str(root))
    seconds(root, "dvc", "remote", "modify", "--local", "storage", "url", str(remote))


def main() -> None:
    """Measure and write the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        built, bare, remote = (Path(temporary) / name for name in ("built", "bare", "remote"))
        clone(ROOT, built, remote)
        seconds(built, sys.executable, "-m", "mlops_pkg", "data")
        figures = {"dvc_repro": seconds(built, "dvc", "repro")}
        for proof in ("sync", "rebuild", "parity", "prove"):
            figures[proof] = seconds(built, sys.executable, "-m", "mlops_pkg", proof)
        seconds(built, "dvc", "push")
        clone(ROOT, bare, remote)
        figures["verify"] = min(seconds(bare, sys.executable, "-m", "mlops_pkg", "verify") for _ in range(3))
    told = {f"{name}_seconds": round(value, 1) for name, value in figures.items()}
    told["prove_to_dvc_repro"] = round(figures["prove"] / figures["dvc_repro"], 2)
    Path(__file__).with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
