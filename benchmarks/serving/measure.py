"""What one server does under load, and how its answers compare."""

import base64
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.peers import ROOT
from benchmarks.serving.questions import Questions, read_answers, wrong
from benchmarks.serving.report import OURS
from benchmarks.serving.servers import BenchmarkError, Server, Way, ask, cores, on_core

CHECKED = 20  # records whose answers are compared before the load
ARROW_CLIENTS = (1, 4)
JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


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


def measure_json(way: Way, server: Server, questions: Questions, clients: int, *, seconds: float) -> dict[str, Any]:
    """The server under some clients, each asking for one record at a time."""
    bodies = [json.dumps({way.envelope: [record]}).encode() for record in questions.records]
    found = load(server, way.path, JSON, bodies, clients, seconds=seconds)
    good = [(number, base64.b64decode(body)) for number, status, body in found.pop("kept") if status == "200"]
    digits = None if way.name == OURS else 9
    faults = [wrong(questions, number, body, digits) for number, body in good] if way.model else []
    first = next((fault for fault in faults if fault), None)
    if first:
        raise BenchmarkError(f"{way.name}: a wrong answer under load: {first}")
    found["answers_compared"] = len(faults)
    rate, p50, p99 = found["requests_per_second"], found["p50_ms"] or 0, found["p99_ms"] or 0
    failed = f", {found['failed']} failed {found['statuses']}" if found["failed"] else ""
    many = f"{clients} client{'s' * (clients > 1)}"
    say(f"{way.name}, {many}: {rate:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms{failed}")
    return found


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
    bare = [graph_rate(questions, seconds / 2)]
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
        bare.append(graph_rate(questions, seconds / 2))
        found["graph_rows_per_second"] = (bare[-2] + bare[-1]) / 2
        many = f"{clients} client{'s' * (clients > 1)}"
        both = f"{found['rows_per_second']:,.0f} rows/s, the bare graph {found['graph_rows_per_second']:,.0f}"
        say(f"{OURS}, Arrow, {many}: {both}")
    return figures


def graph_rate(questions: Questions, seconds: float) -> float:
    """Rows a second of the bare graph, on the core of the servers."""
    from mlops_pkg.portable.export import feeds
    from mlops_pkg.portable.graph import open_session

    session, part, cut = open_session((ROOT / "artifacts" / "package" / "model.onnx").read_bytes()), 8192, []
    for sent in questions.tables:
        fed = feeds(sent, questions.inputs)
        cut += [{name: values[at : at + part] for name, values in fed.items()} for at in range(0, len(sent), part)]
    with on_core(cores()[0]):
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
