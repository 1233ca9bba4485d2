"""What was tried, as a table and side by side: params that differ, paired differences, verdicts and stages."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mlops_pkg.core.workspace import read_json, read_table, write_table
from mlops_pkg.modelling.metrics import weighted_metrics
from mlops_pkg.registry.releases import promote, register
from mlops_pkg.tracking.comparison import compare, find_snapshot, find_table_changes
from mlops_pkg.tracking.drift import population_stability_index
from mlops_pkg.tracking.experiments import read_experiments
from tests.conftest import said_by
from tests.registry.conftest import Team, git, record
from tests.tracking.conftest import Run, as_experiment


def test_experiments_branches_and_versions_stand_in_one_table_sorted_by_a_metric(team: Team, run: Run) -> None:
    team.build("first")
    register(team.root)
    promote(team.root, "late-flights", "v1.0.0", "prod")
    as_experiment(team, "more-trees", "better")
    as_experiment(team, "one-tree", "worse")

    rows = json.loads(run(team.root, "experiments", "--sort", "roc_auc", "--json").stdout)
    shown = run(team.root, "experiments", "--sort", "roc_auc").stdout
    written = list(csv.DictReader(io.StringIO(run(team.root, "experiments", "*-tree*", "--csv").stdout)))

    assert {one["name"]: (one["kind"], one["stage"]) for one in rows} == {
        "main": ("branch", ""),
        "late-flights@v1.0.0": ("version", "prod"),
        "more-trees": ("experiment", ""),
        "one-tree": ("experiment", ""),
    }
    scores = [one["test.roc_auc"] for one in rows]
    assert scores == sorted(scores, reverse=True)
    assert rows[-1]["name"] == "one-tree"
    assert rows[-1]["train.options.max_iter"] == 1
    stored = read_json(team.models["worse"] / "artifacts" / "evaluate" / "comparison.json")["test"]["model"]["roc_auc"]
    assert [rows[-1][f"test.roc_auc{end}"] for end in ("", "_low", "_high")] == [*stored.values()]
    assert "train.options.max_iter" in shown.splitlines()[0]
    assert "data." not in shown, "params that do not differ have no column"
    assert [one["name"] for one in written] == ["more-trees", "one-tree"]
    assert "nothing is called zzz*" in run(team.root, "experiments", "zzz*").stderr
    assert run(team.root, "experiments", "--sort", "auc").stderr.startswith("auc: no experiment has this metric; known")


def test_a_comparison_is_paired_and_says_what_is_beyond_chance(team: Team, run: Run) -> None:
    team.build("first")
    as_experiment(team, "more-trees", "better")
    as_experiment(team, "one-tree", "worse")

    shown = run(team.root, "compare", "more-trees", "one-tree", "main").stdout
    told = json.loads(run(team.root, "compare", "more-trees", "one-tree", "--json").stdout)["one-tree"]

    assert told["params"] == [["train.options.learning_rate", 0.05, 0.01], ["train.options.max_iter", 60, 1]]
    assert told["changes"] == {"params": ["train.options.learning_rate", "train.options.max_iter"]}
    found = {one["metric"]: one for one in told["metrics"]}
    tables = [
        read_table(team.models[name] / "artifacts" / "evaluate" / "predictions.parquet") for name in ("better", "worse")
    ]
    test = [table[table["split"] == "test"] for table in tables]
    expected = [
        weighted_metrics(one["late"].to_numpy(), one["model"].to_numpy(), 0.5)(np.ones(len(one))) for one in test
    ]
    assert found["roc_auc"]["better"] == pytest.approx(expected[1]["roc_auc"] - expected[0]["roc_auc"])
    assert found["log_loss"]["better"] == pytest.approx(expected[0]["log_loss"] - expected[1]["log_loss"])
    assert told["rows"] == len(test[0])
    assert found["log_loss"]["high"] < 0
    assert "worse" in shown
    rows = read_table(team.models["first"] / "artifacts" / "ingest" / "test.parquet")
    newark = (rows["origin"] == "EWR").to_numpy()
    scores = [roc_auc_score(one["late"][newark], one["model"][newark]) for one in test]
    assert told["slices"]["origin = EWR"]["better"] == pytest.approx(scores[1] - scores[0])
    certain = [name for name, one in told["slices"].items() if one["high"] < 0 or one["low"] > 0]
    assert f"{len(certain)} of {len(told['slices'])} slices" in shown if certain else "slices" not in shown


def test_a_model_does_not_differ_from_itself(team: Team) -> None:
    commit = team.build("first")
    snapshot = find_snapshot(team.root, commit)
    found = compare(snapshot, snapshot)
    differences = [*found.metrics, *found.slices.values()]
    assert len(found.slices) > 3
    assert {(one.better, one.low, one.high) for one in differences} == {(0.0, 0.0, 0.0)}
    assert not found.slice_cells()
    assert not found.changes


def test_fields_and_rows_that_differ_are_named(team: Team) -> None:
    commit = team.build("first")
    signature, counts = (team.root / "artifacts" / name for name in ("package/signature.json", "ingest/rows.json"))
    values, rows = read_json(signature), read_json(counts)
    del values["fields"][0]
    values["fields"][0]["nullable"] = True
    rows["splits"]["test"] += 10
    for path, content in ((signature, values), (counts, rows)):
        path.write_text(json.dumps(content))
    record(team.root, None)
    git(team.root, "commit", "--quiet", "--message", "Other fields and rows", "dvc.lock")

    found = find_table_changes(find_snapshot(team.root, commit), find_snapshot(team.root, "HEAD"))

    assert found == {"fields": ["carrier removed", "origin changed"], "rows": ["test 987 to 997"]}


@pytest.mark.parametrize("name", ["main", "HEAD", "late-flights@v1.0.0", "late-flights#prod"])
def test_each_kind_of_name_is_found(team: Team, name: str) -> None:
    commit = team.build("first")
    register(team.root)
    promote(team.root, "late-flights", "v1.0.0", "prod")
    assert find_snapshot(team.root, name).commit == commit


def test_what_is_not_there_is_named(team: Team) -> None:
    team.build("first")
    assert said_by(lambda: find_snapshot(team.root, "nonsense")) == (
        "nonsense: neither an experiment, nor a branch, a commit or a version; "
        "`mlops_pkg experiments` lists what there is"
    )


def test_two_hundred_experiments_are_read_by_one_process_of_git(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_pkg.tracking import experiments

    commit = team.build("first")
    refs = [f"create refs/exps/{commit[:2]}/{commit[2:]}/try-{number} {commit}" for number in range(200)]
    subprocess.run(["git", "update-ref", "--stdin"], cwd=team.root, input="\n".join(refs) + "\n", text=True, check=True)
    calls = []
    real = subprocess.run
    monkeypatch.setattr(
        experiments.subprocess, "run", lambda *given, **named: calls.append(given) or real(*given, **named)
    )
    found = read_experiments(team.root, names=["try-*"])

    assert len(found) == 200
    assert all(one.metrics for one in found)
    assert len(calls) <= 6


def write_notebook(root: Path, **cells: str) -> None:
    content = [{"cell_type": "code", "id": name, "metadata": {}, "source": text} for name, text in cells.items()]
    (root / "nbs").mkdir(exist_ok=True)
    (root / "nbs" / "22_train.ipynb").write_text(json.dumps({"cells": content, "nbformat": 4, "nbformat_minor": 5}))
    git(root, "add", "nbs")


def test_what_a_branch_changes_is_told_with_its_proofs_figures_params_and_cells(team: Team, run: Run) -> None:
    write_notebook(team.root, fit="model.fit(X)", look="model")
    team.build("better")
    git(team.root, "checkout", "--quiet", "-b", "topic")
    write_notebook(team.root, fit="model.fit(X, y)", score="model.score(X, y)")
    team.build("worse")
    (team.root / "reports" / "parity.json").write_text(json.dumps({"ok": False}))

    shown = run(team.root, "pr-report").stdout
    run(team.root, "pr-report", "--out", "report.md")

    assert (team.root / "report.md").read_text() == shown
    assert shown.startswith("# What this branch changes since `main`\n")
    assert "- ✅ `sync`\n- ✅ `rebuild`\n- ❌ `parity`: red\n" in shown
    assert "| `train.options.max_iter` | `60` | `1` |" in shown
    assert "- `nbs/22_train.ipynb`: added `score`; changed `fit`; removed `look`" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("| log_loss ")]
    assert line.endswith("| worse |")
    assert "❌ does not hold: -0." in shown
    assert run(team.root, "pr-report", "--base", "nonsense").stderr.startswith("git merge-base: fatal: ")


def test_the_page_shows_params_and_curves_of_what_was_tried(team: Team, run: Run) -> None:
    team.build("first")
    as_experiment(team, "more-trees", "better")
    as_experiment(team, "one-tree", "worse")

    said = run(team.root, "experiments", "--page", "tried.html").stdout

    page = (team.root / "tried.html").read_text()
    assert said == "tried.html: 3 experiments\n"
    plots = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert plots == [
        "All params, and test.roc_auc",
        "test.roc_auc by train.options.learning_rate",
        "test.roc_auc by train.options.max_iter",
        "ROC curve",
        "Precision and recall",
        "Calibration",
    ]
    for name in ("main", "more-trees", "one-tree"):
        assert page.count(f">{name}<") >= 4, "in the table, and beside each curve"
    order = [page.index(f"<td>{name}</td>") for name in ("more-trees", "main", "one-tree")]
    assert order == sorted(order), "the best first"
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", page), "it loads nothing"


def test_a_page_without_metrics_is_told_and_an_earlier_one_stays(team: Team, run: Run) -> None:
    team.build("first")
    shutil.rmtree(team.root / ".dvc" / "cache")
    (team.root / "tried.html").write_text("an earlier page")

    told = run(team.root, "experiments", "--page", "tried.html")

    assert told.exit_code == 1
    assert told.stderr.startswith("nothing to show: no experiment has metrics here")
    assert (team.root / "tried.html").read_text() == "an earlier page"


def test_other_data_are_told_by_column_and_the_curves_are_drawn(team: Team, run: Run) -> None:
    team.build("first")
    git(team.root, "switch", "--quiet", "--create", "topic")
    path = team.root / "artifacts" / "ingest" / "train.parquet"
    rows = read_table(path)
    rows.loc[rows.index[::2], "carrier"] = "UA"
    rows.loc[rows.index[::3], "visib"] = None
    write_table(path, rows)
    flights = team.root / "data" / "flights.csv.zip"
    flights.write_bytes(flights.read_bytes() + b"\0")
    record(team.root, None)
    git(team.root, "commit", "--quiet", "--message", "Other data", "dvc.lock")

    shown = run(team.root, "pr-report", "--pictures", "pictures").stdout

    drift = shown[shown.index("## Training rows: columns with other values") : shown.index("## Pictures")]
    lines = {line.split("`")[1]: line.split("|")[2:-1] for line in drift.splitlines() if line.startswith("| `")}
    assert set(lines) == {"carrier", "visib"}
    assert float(lines["carrier"][0]) > 0.25
    assert [cell.strip() for cell in lines["visib"][1:]] == ["0.1%", "33.5%"]
    names = sorted(path.name for path in (team.root / "pictures").iterdir())
    assert names == ["calibration.svg", "precision_and_recall.svg", "roc_curve.svg"]
    assert all(f"- `{name}`" in shown for name in names)
    for name in names:
        picture = ElementTree.parse(team.root / "pictures" / name).getroot()
        assert float(picture.attrib["width"]) > 300
        assert "this branch" in (team.root / "pictures" / name).read_text()


def test_the_stability_index_is_that_of_its_formula() -> None:
    old, new = pd.Series(["a"] * 60 + ["b"] * 40), pd.Series(["a"] * 30 + ["b"] * 70)
    expected = (0.3 - 0.6) * np.log(0.3 / 0.6) + (0.7 - 0.4) * np.log(0.7 / 0.4)

    assert population_stability_index(old, new) == pytest.approx(expected)
    assert population_stability_index(old, old) == 0.0
    assert population_stability_index(pd.Series(range(1_000)), pd.Series(range(1_000))) == 0.0
    assert population_stability_index(pd.Series(range(1_000)), pd.Series(range(500, 1_500))) > 0.25
    assert population_stability_index(old, old.mask(old == "b")) > 0.25, "missing is a value"
