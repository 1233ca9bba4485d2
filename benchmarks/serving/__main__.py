"""The server beside MLflow's, BentoML's and the same route without a model, on the same fitted pipeline, in one run.

    python -m benchmarks.serving [--seconds S] [--rounds N] [--no-peers] [--out FOLDER]

Run it after `make run`, on a quiet machine with two cores or more, under Linux. Each server runs on one core, the load
on another. In each round the servers are started, asked, loaded in turns and ended; what counts are the medians over
the rounds, and for ratios those within a round. A load of the peers takes half the time. The first run fetches them
into .venv/peers. The figures go to figures.json, the chart to chart.svg, a table to standard output.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one core

from mlops_pkg.core.params import UserError
from benchmarks.serving.measure import compare, measure_arrow, measure_json, say, wrk_rate
from benchmarks.serving.peers import ROOT, make_environment, save_models, versions
from benchmarks.serving.questions import Questions, constant_bundle, read_questions
from benchmarks.serving.report import BARE, CONSTANT, EMPTY, OURS, draw, goals, table
from benchmarks.serving.servers import BenchmarkError, Server, Way, cores, started

HERE = Path(__file__).parent
CLIENTS = (1, 16, 256)
CLIENTS = (1, 16, 256)


def own_ways(folder: Path) -> list[Way]:
    """The project's server, the empty route, and the server with a constant for a model."""
    bundle, here = ROOT / "artifacts" / "package", {"PYTHONPATH": str(ROOT)}
    here["SIGNATURE"] = str(bundle / "signature.json")
    serve = (sys.executable, "-m", "mlops_pkg", "serve", "--workers", "1", "--port", "{port}")
    uvicorn = (sys.executable, "-m", "uvicorn", "--host", "127.0.0.1")
    plain = ("--port", "{port}", "--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning")
    constant = constant_bundle(bundle, folder / "constant")
    return [
        Way(OURS, (*serve, "--bundle", str(bundle))),
        Way(EMPTY, (*uvicorn, *plain, "benchmarks.serving.empty:app"), env=here, model=False),
        Way(BARE, (*uvicorn, *plain, "benchmarks.serving.empty:bare"), env=here, model=False),
        Way(CONSTANT, (*serve, "--bundle", str(constant)), model=False),
    ]


def measure(ways: list[Way], questions: Questions, seconds: float, folder: Path) -> dict[str, dict[str, Any]]:
    """All figures of some servers in one round; those that are compared closely run side by side, loaded in turns."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        running: dict[str, tuple[Way, Server, ExitStack]] = {}
        for way in ways:
            alone = stack.enter_context(ExitStack())
            server = alone.enter_context(started(way, folder / f"{way.name}.log"))
            say(f"{way.name}: ready after {server.start_seconds:.2f} s")
            running[way.name] = way, server, alone
            found[way.name] = {"start_seconds": server.start_seconds, "clients": {}}
            if way.model:
                found[way.name]["answers"] = compare(way, server, questions)
        for clients in CLIENTS:
            for name, (way, server, _) in running.items():
                figures = measure_json(way, server, questions, clients, seconds=seconds)
                found[name]["clients"][str(clients)] = figures
            if clients == 16 and OURS in running:
                way, server, _ = running[OURS]
                found[OURS]["wrk_requests_per_second"] = wrk_rate(server, way, questions, seconds, folder)
        for name, (_, server, alone) in reversed(running.items()):  # the first is alone at last, with its memory
            found[name] |= server.memory_mb()
            if name == OURS:
                found[OURS]["arrow"] = measure_arrow(server, questions, seconds)
                found[OURS]["after_arrow"] = server.memory_mb()
            alone.close()
    return found


def several_workers(way: Way, questions: Questions, folder: Path) -> dict[str, float]:
    """Memory of a worker that shares the machine with another one."""
    with started(replace(way, command=(*way.command, "--workers", "2")), folder / "workers.log") as server:
        measure_json(way, server, questions, 16, seconds=2)
        return {"workers": 2, "start_seconds": server.start_seconds, **server.memory_mb()}


def middle(rounds: list[Any]) -> Any:
    """The median of each number over the rounds, whatever it stands in; the last of what is no number."""
    if isinstance(rounds[-1], dict):
        keys = dict.fromkeys(key for one in rounds for key in one)
        return {key: middle([one[key] for one in rounds if key in one]) for key in keys}
    numbers = [one for one in rounds if isinstance(one, (int, float))]
    if not numbers:
        return rounds[-1]
    found = median(numbers)
    return round(found) if abs(found) >= 1000 or found == round(found) else float(f"{found:.4g}")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}",
        "load_average_at_the_start": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def run(seconds: float, rounds: int, with_peers: bool) -> dict[str, Any]:
    """Measure everything."""
    figures: dict[str, Any] = {"machine": machine(), "seconds": seconds, "rounds": rounds}
    names = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "onnxruntime", "numpy", "pyarrow")
    figures["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    cores()
    with tempfile.TemporaryDirectory(prefix="serving-") as temporary:
        folder = Path(temporary)
        say("asking the fitted pipeline")
        questions, ways, peers = read_questions(), own_ways(folder), list[Way]()
        if with_peers:
            say("the peers: an environment of their own, and the fitted pipeline saved their way")
            files = (ROOT / "artifacts/train/model.skops", ROOT / "artifacts/package/signature.json")
            peers = save_models(make_environment(), *files, folder)
            figures["versions_of_peers"] = versions()
        found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in [*ways, *peers]}
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            for group, time_ in ((ways, seconds), *(([peer], seconds / 2) for peer in peers)):
                for name, one in measure(group, questions, time_, folder).items():
                    found[name].append(one)
        figures["several_workers"] = middle([several_workers(ways[0], questions, folder)])
    figures["goals"] = goals(found)
    figures["servers"] = {name: middle(all_rounds) for name, all_rounds in found.items()}
    return figures


def main() -> None:
    """Measure, write figures and chart, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each load (10)")
    parser.add_argument("--rounds", type=int, default=3, help="in which all servers take their turn (3)")
    parser.add_argument("--no-peers", action="store_true", help="leave MLflow and BentoML out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the figures and the chart")
    told = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        figures = run(told.seconds, told.rounds, not told.no_peers)
    except (BenchmarkError, UserError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; all servers have ended")
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(figures, told.out / "chart.svg")
    print(table(figures))


if __name__ == "__main__":
    main()
