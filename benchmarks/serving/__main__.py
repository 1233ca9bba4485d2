"""The server beside MLflow's, BentoML's and the same route without a model, on the same fitted pipeline, in one run.

    python -m benchmarks.serving [--seconds S] [--rounds N] [--no-peers] [--out FOLDER]

Run it after `make run`, on a quiet machine with two cores or more, under Linux. Each server runs on one core, the load
on another. In each round all servers are started, asked, loaded and ended in turns; the medians over the rounds count,
and ratios are those within a round. The first run fetches the peers into .venv/peers. The figures go to figures.json,
the chart to chart.svg, a table to standard output.
"""

import argparse
import base64
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one core

import numpy as np

from benchmarks.serving.peers import ROOT, make_environment, save_models, versions
from benchmarks.serving.questions import Questions, constant_bundle, read_answers, read_questions, wrong
from benchmarks.serving.report import CONSTANT, EMPTY, OURS, draw, goals, table
from benchmarks.serving.servers import BenchmarkError, Server, Way, ask, cores, on_core, started

HERE = Path(__file__).parent
CLIENTS = (1, 16, 256)
CHECKED = 20  # records whose answers are compared before the load
ARROW_CLIENTS = (1, 4)
JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def own_ways(folder: Path) -> list[Way]:
    """The project's server, the empty route, and the server with a constant for a model."""
    bundle, here = ROOT / "artifacts" / "package", {"PYTHONPATH": str(ROOT)}
    serve = (sys.executable, "-m", "mlops_pkg", "serve", "--workers", "1", "--port", "{port}", "--bundle")
    uvicorn = (sys.executable, "-m", "uvicorn", "benchmarks.serving.empty:app", "--host", "127.0.0.1")
    plain = ("--port", "{port}", "--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning")
    constant = constant_bundle(bundle, folder / "constant")
    return [
        Way(OURS, (*serve, str(bundle))),
        Way(EMPTY, (*uvicorn, *plain), env={**here, "SIGNATURE": str(bundle / "signature.json")}, model=False),
        Way(CONSTANT, (*serve, str(constant)), model=False),
    ]


def compare(way: Way, server: Server, questions: Questions) -> dict[str, Any]:
    """How the first answers of a server compare with those of the fitted pipeline."""
    gaps, labels = [], 0
    for record, expected in list(zip(questions.records, questions.answers, strict=True))[:CHECKED]:
        status, body = ask(server.port, "POST", way.path, json.dumps({way.envelope: [record]}).encode())
        if status != 200:
            raise BenchmarkError(f"{way.name}: {status} {body[:200].decode(errors='replace')}")
        [(answer, label)] = read_answers(body)
        gaps.append(abs(answer - expected))
        mine = int(answer >= questions.threshold) if label is None and questions.threshold is not None else label
        labels += questions.threshold is None or mine == int(expected >= questions.threshold)
    return {"records": len(gaps), "equal": gaps.count(0), "labels_equal": labels, "largest_difference": max(gaps)}


def load(server: Server, path: str, kind: str, bodies: list[bytes], clients: int, *, seconds: float) -> dict[str, Any]:
    """What the load measured, the processor time of the server with it."""
    plan = {
        "port": server.port, "path": path, "type": kind, "bodies": [base64.b64encode(body).decode() for body in bodies],
        "clients": clients, "seconds": seconds, "before": max(0.5, seconds / 5),
    }  # fmt: skip
    before = server.cpu_seconds()
    with on_core(cores()[1]):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving.load"], input=json.dumps(plan), cwd=ROOT, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"the load failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    asked = max(1, found["asked"])
    found["cpu_seconds_per_1000_requests"] = 1000 * (server.cpu_seconds() - before) / asked
    found["failed"] = asked - found["statuses"].get("200", 0) + found["broken"]
    return found


def measure_json(way: Way, server: Server, questions: Questions, seconds: float) -> dict[str, Any]:
    """The server under one, some and many clients, each asking for one record at a time."""
    bodies = [json.dumps({way.envelope: [record]}).encode() for record in questions.records]
    figures = {}
    for clients in CLIENTS:
        found = load(server, way.path, JSON, bodies, clients, seconds=seconds)
        kept = found.pop("kept")
        digits = None if way.name == OURS else 9
        good = [(number, base64.b64decode(body)) for number, status, body in kept if status == "200"]
        faults = [wrong(questions, number, body, digits) for number, body in good] if way.model else []
        first = next((fault for fault in faults if fault), None)
        if first:
            raise BenchmarkError(f"{way.name}: a wrong answer under load: {first}")
        figures[str(clients)] = {**found, "answers_compared": len(faults)}
        rate, p50, p99 = found["requests_per_second"], found["p50_ms"] or 0, found["p99_ms"] or 0
        failed = f", {found['failed']} failed {found['statuses']}" if found["failed"] else ""
        say(f"{way.name}, {clients} clients: {rate:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms{failed}")
    return figures


def measure_arrow(server: Server, questions: Questions, seconds: float) -> dict[str, Any]:
    """The server asked for tables, and beside it the bare graph on the same core, its inputs ready made."""
    import pyarrow as pa

    bodies = []
    for rows in questions.tables:
        sink, sent = pa.BufferOutputStream(), pa.Table.from_pandas(rows, preserve_index=False)
        with pa.ipc.new_stream(sink, sent.schema) as writer:
            writer.write_table(sent)
        bodies.append(bytes(sink.getvalue()))
    figures: dict[str, Any] = {"rows_a_body": len(questions.tables[0]), "bytes_a_body": len(bodies[0])}
    for clients in ARROW_CLIENTS:
        found = load(server, "/predict", ARROW, bodies, clients, seconds=seconds)
        for number, status, body in found.pop("kept"):
            if status != "200":
                raise BenchmarkError(f"{OURS}: an Arrow body: {status} {base64.b64decode(body)[:200]!r}")
            told = pa.ipc.open_stream(base64.b64decode(body)).read_all()
            column = "probability" if "probability" in told.column_names else "prediction"
            if not np.array_equal(told[column].to_numpy(), questions.table_answers[number]):
                raise BenchmarkError(f"{OURS}: wrong answers to Arrow body {number}")
        found["rows_per_second"] = found["requests_per_second"] * len(questions.tables[0])
        figures[str(clients)] = found
        say(f"{OURS}, Arrow, {clients} clients: {found['rows_per_second']:,.0f} rows/s, {found['failed']} failed")
    with on_core(cores()[0]):
        figures["graph_rows_per_second"] = graph_rate(questions, seconds)
    say(f"the bare graph: {figures['graph_rows_per_second']:,.0f} rows/s")
    return figures


def graph_rate(questions: Questions, seconds: float) -> float:
    """Rows a second of the bare graph."""
    from mlops_pkg.portable.export import feeds
    from mlops_pkg.portable.graph import open_session

    session, part, cut = open_session((ROOT / "artifacts" / "package" / "model.onnx").read_bytes()), 8192, []
    for sent in questions.tables:
        fed = feeds(sent, questions.inputs)
        cut += [{name: values[at : at + part] for name, values in fed.items()} for at in range(0, len(sent), part)]
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for one in cut:
            rows += len(session.run(["answer"], one)[0])
    return rows / (time.perf_counter() - began)


def wrk_rate(server: Server, way: Way, questions: Questions, seconds: float, folder: Path) -> float | None:
    """Requests a second as wrk finds them with 16 clients; None where wrk is not installed."""
    if shutil.which("wrk") is None:
        return None
    body, script = folder / "body.json", folder / "post.lua"
    body.write_text(json.dumps({way.envelope: questions.records[:1]}))
    script.write_text(
        f'wrk.method = "POST"; wrk.headers["Content-Type"] = "{JSON}"; wrk.body = io.open("{body}"):read("*a")'
    )
    url = f"http://127.0.0.1:{server.port}{way.path}"
    with on_core(cores()[1]):
        told = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{max(1, round(seconds))}s", "-s", str(script), url],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
    return next((float(line.split()[1]) for line in told.splitlines() if line.startswith("Requests/sec")), None)


def measure(way: Way, questions: Questions, seconds: float, folder: Path) -> dict[str, Any]:
    """All figures of one server in one round."""
    say(f"{way.name}: starting")
    with started(way, folder / "server.log") as server:
        figures: dict[str, Any] = {"start_seconds": server.start_seconds}
        if way.model:
            figures["answers"] = compare(way, server, questions)
        figures["clients"] = measure_json(way, server, questions, seconds)
        figures |= server.memory_mb()
        if way.name == OURS:
            figures["wrk_requests_per_second"] = wrk_rate(server, way, questions, seconds, folder)
            figures["arrow"] = measure_arrow(server, questions, seconds)
            figures["after_arrow"] = server.memory_mb()
    return figures


def middle(rounds: list[Any]) -> Any:
    """The median of each number over the rounds, whatever it stands in; the last of what is no number."""
    first = rounds[-1]
    if isinstance(first, dict):
        return {key: middle([one[key] for one in rounds if key in one]) for key in first}
    numbers = [one for one in rounds if isinstance(one, (int, float))]
    if not numbers:
        return first
    found = median(numbers)
    return float(f"{found:.4g}") if abs(found) < 1000 else round(found)


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
        questions, ways = read_questions(), own_ways(folder)
        if with_peers:
            say("the peers: an environment of their own, and the fitted pipeline saved their way")
            files = (ROOT / "artifacts/train/model.skops", ROOT / "artifacts/package/signature.json")
            ways += save_models(make_environment(), *files, folder)
            figures["versions_of_peers"] = versions()
        found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            for way in ways:
                found[way.name].append(measure(way, questions, seconds, folder))
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
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; all servers have ended")
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(figures, told.out / "chart.svg")
    print(table(figures))


if __name__ == "__main__":
    main()
