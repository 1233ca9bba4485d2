"""What answering costs: the fitted pipeline against its graph and the predictor, on the project's own bundle.

    python -m benchmarks.inference

Run it after `make run`, on a quiet machine. The ways are timed in turns within one run: ratios count, single times do
not. Memory is the largest that the process ever held (VmHWM of /proc, so Linux alone). The figures go to
benchmarks/inference.json, the chart to benchmarks/inference.svg.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # per core

import pandas as pd

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.params import load_params
from mlops_pkg.core.workspace import Workspace, read_table
from mlops_pkg.modelling.models import read_model
from mlops_pkg.portable.export import feeds, graph_scores
from mlops_pkg.portable.graph import open_session

HERE = Path(__file__).parent
ROWS = 100_000
SMALL, TIMES = 10_000, 30  # rows of a small file, and how many times larger the large one is
WAYS = {"pipeline": "fitted pipeline", "graph": "graph", "predictor": "predictor"}

PEAK = """
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
"""
LOADED = f"""
import time; started = time.perf_counter()
import json, sys
from pathlib import Path
from mlops_pkg.bundle.predictor import Predictor
predictor = Predictor.load(Path(sys.argv[1]))
predictor.predict([json.loads(sys.argv[2])])
seconds = time.perf_counter() - started
{PEAK}
print(json.dumps([seconds, peak]))
"""
FITTED = f"""
import time; started = time.perf_counter()
import json, sys, warnings
from pathlib import Path
import pandas as pd
from mlops_pkg.portable.persistence import load_model
warnings.simplefilter("ignore")
model = load_model(Path(sys.argv[1]))
record = json.loads(sys.argv[2])
frame = pd.DataFrame([record])
for name in json.loads(sys.argv[3]):
    frame[name] = pd.to_datetime(frame[name]).astype("datetime64[us]")
model.predict(frame)
seconds = time.perf_counter() - started
{PEAK}
print(json.dumps([seconds, peak]))
"""
PREDICT = f"""
import sys
from mlops_pkg.cli import commands
commands(sys.argv[1:], standalone_mode=False)
{PEAK}
print(peak)
"""


def seconds(ask: Callable[[], Any], times: int) -> float:
    """Wall time of one call, averaged over several in a row."""
    started = time.perf_counter()
    for _ in range(times):
        ask()
    return (time.perf_counter() - started) / times


def in_turns(ways: dict[str, Callable[[], Any]], times: dict[str, int], rounds: int) -> dict[str, float]:
    """The median seconds of each way over several rounds in turns."""
    for ask in ways.values():
        ask()
    measured = [{name: seconds(ask, times[name]) for name, ask in ways.items()} for _ in range(rounds)]
    return {name: median(one[name] for one in measured) for name in ways}


def child(code: str, *arguments: str, rounds: int = 7) -> dict[str, float]:
    """Median seconds from the first line to the first answer, and peak memory in MB, of a fresh process."""
    command = [sys.executable, "-c", code, *arguments]
    told = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(rounds)]
    starts, peaks = zip(*told, strict=True)
    return {"cold_start_seconds": round(median(starts), 3), "memory_mb": round(median(peaks), 1)}


def peak_of_predict(bundle: Path, source: Path) -> float:
    """Peak memory in MB of `mlops_pkg predict` on a file."""
    arguments = ["predict", "--bundle", str(bundle), str(source), f"{source}.out.csv"]
    done = subprocess.run([sys.executable, "-c", PREDICT, *arguments], check=True, capture_output=True)
    return round(float(done.stdout.split()[-1]), 1)


def draw(figures: dict[str, Any]) -> None:
    """The chart: time of one record, and rows a second of one core."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "inference", "font.size": 9}
    plain = {"axes.spines.top": False, "axes.spines.right": False, "axes.spines.bottom": False}
    charts = {
        "one_record_ms": ("One record, milliseconds", "{:,.3g}"),
        "rows_per_second": ("Rows a second, one core", "{:,.0f}"),
    }
    with rc_context({**style, **plain}):
        canvas = Figure(figsize=(8, 1.8), layout="constrained")
        for ax, (key, (title, unit)) in zip(canvas.subplots(1, 2), charts.items(), strict=True):
            values = [figures[key][name] for name in WAYS]
            bars = ax.barh(list(WAYS.values()), values, color=["#9ca3af", "#3b82f6", "#2563eb"])
            ax.bar_label(bars, [unit.format(value) for value in values], padding=4)
            ax.set(xlim=(0, max(values) * 1.3), xticks=[])
            ax.set_title(title, loc="left")
            ax.invert_yaxis()
        canvas.savefig(HERE / "inference.svg", metadata={"Date": None})


def main() -> None:
    """Measure, write the figures and the chart."""
    workspace = Workspace.find()
    params, bundle = load_params(workspace.params), workspace.root / "artifacts" / "package"
    inputs = params.data.kinds
    parts = [read_table(workspace.input("ingest", f"{name}.parquet")) for name in ("test", "live")]
    rows = pd.concat(parts, ignore_index=True)[list(inputs)].head(ROWS)
    model_file = workspace.input("train", "model.skops")
    model, predictor = read_model(model_file, params), Predictor.load(bundle)
    session = open_session((bundle / "model.onnx").read_bytes())
    one, fed = rows.iloc[[0]], feeds(rows.iloc[[0]], inputs)
    record = {name: None if pd.isna(value) else value for name, value in one.iloc[0].items()}
    record = {name: value.isoformat() if inputs[name] == "datetime" else value for name, value in record.items()}
    single = in_turns(
        {
            "pipeline": lambda: model.predict_proba(one),
            "graph": lambda: session.run(["answer"], fed),
            "predictor": lambda: predictor.predict([record]),
        },
        {"pipeline": 10, "graph": 1000, "predictor": 1000},
        rounds=15,
    )
    columns = {name: rows[name].to_numpy() for name in inputs}
    many = in_turns(
        {
            "pipeline": lambda: model.predict_proba(rows),
            "graph": lambda: graph_scores(session, rows, inputs),
            "predictor": lambda: predictor.predict(columns),
        },
        dict.fromkeys(WAYS, 1),
        rounds=7,
    )
    times = [name for name, kind in inputs.items() if kind == "datetime"]
    with tempfile.TemporaryDirectory() as folder:
        files = {"1x": Path(folder) / "small.csv", f"{TIMES}x": Path(folder) / "large.csv"}
        rows.head(SMALL).to_csv(files["1x"], index=False)
        pd.concat([rows.head(SMALL)] * TIMES).to_csv(files[f"{TIMES}x"], index=False)
        peaks = {name: peak_of_predict(bundle, file) for name, file in files.items()}
    figures = {
        "one_record_ms": {name: round(value * 1e3, 4) for name, value in single.items()},
        "one_record_times_faster": {n: round(single["pipeline"] / single[n], 1) for n in ("graph", "predictor")},
        "rows": len(rows),
        "rows_per_second": {name: round(len(rows) / value) for name, value in many.items()},
        "rows_times_faster": {n: round(many["pipeline"] / many[n], 2) for n in ("graph", "predictor")},
        "fitted_pipeline": child(FITTED, str(model_file), json.dumps(record), json.dumps(times)),
        "predictor": child(LOADED, str(bundle), json.dumps(record)),
        "predict_memory_mb": {**peaks, "rows": {"1x": SMALL, f"{TIMES}x": SMALL * TIMES}},
    }
    (HERE / "inference.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    draw(figures)


if __name__ == "__main__":
    main()
