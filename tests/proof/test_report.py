"""The report: answers first, loads nothing from anywhere, and says what is missing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("nbconvert")

from mlops_pkg.core.workspace import Workspace, write_bytes, write_json
from mlops_pkg.report.page import report

MEASURED = {"value": 0.696, "low": 0.69, "high": 0.702}
OUTPUT = {
    "stage": "train",
    "output": "model.skops",
    "equal": True,
    "production": "a",
    "research": "a",
    "difference": None,
}
VOID = {"meta", "br", "img", "use", "path", "rect", "input", "hr", "link"}


class Balanced(HTMLParser):
    """Assert that each closed element is the one opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """A project that has everything that the page shows."""
    (tmp_path / "params.yaml").write_text("data: {split: {by: month}}\n")
    outs = {
        "ingest": ["artifacts/ingest/rows.json"],
        "train": ["artifacts/train/model.skops"],
        "evaluate": ["artifacts/evaluate/comparison.json", "artifacts/evaluate/validation.json"],
    }
    stages = {name: {"cmd": f"python -m mlops_pkg.core.stage {name}", "outs": files} for name, files in outs.items()}
    write_json(tmp_path / "dvc.yaml", {"stages": stages})
    evaluate = tmp_path / "artifacts" / "evaluate"
    models = {
        "model": {"roc_auc": MEASURED},
        "linear": {"roc_auc": {"value": 0.68}},
        "prior": {"roc_auc": {"value": 0.5}},
    }
    write_json(
        evaluate / "comparison.json", {"task": "classification", "threshold": 0.2, "test": models, "live": models}
    )
    tables = {
        "roc": "model,false_positive_rate,true_positive_rate\nmodel,0.0,0.0\nmodel,1.0,1.0\n",
        "pr": "model,recall,precision\nmodel,0.0,1.0\nmodel,1.0,0.2\n",
        "calibration": "model,predicted,observed,rows\nmodel,0.1,0.12,50\nmodel,0.4,0.38,50\n",
        "slices": "split,slice,value,rows,roc_auc,roc_auc_low,roc_auc_high\ntest,month,9,50,0.7,0.6,0.8\n"
        "live,month,11,50,0.68,0.6,0.7\ntest,carrier,UA,50,0.7,0.6,0.8\n",
        "importance": "column,drop,low,high\nwind_gust,0.02,0.01,0.03\n",
        "shap_points": "label,column,rank,contribution,offset\n1,wind_gust,0.5,0.2,-1\n1,carrier,,-0.1,1\n",
    }
    for name, text in tables.items():
        write_bytes(evaluate / f"{name}.csv", text.encode())
    counts = {"flights": {"read": 336776, "rejected": 2, "kept": 336774}}
    steps = [{"step": "drop_cancelled", "before": 336774, "after": 327346, "why": "no <arrival>"}]
    rows = {"tables": counts, "steps": steps, "splits": {"train": 188971}}
    write_json(tmp_path / "artifacts" / "ingest" / "rows.json", rows)
    write_bytes(tmp_path / "artifacts" / "train" / "model.skops", b"model")
    write_json(tmp_path / "reports" / "parity.json", {"ok": True, "outputs": [OUTPUT] * 23})
    write_json(
        tmp_path / "reports" / "sync.json", {"ok": True, "checks": [{"check": "package", "ok": True, "findings": []}]}
    )
    outputs = [{"name": "stdout", "output_type": "stream", "text": "fitted\n"}]
    code = {
        "cell_type": "code",
        "id": "b",
        "metadata": {},
        "execution_count": 1,
        "source": "print('fitted')",
        "outputs": outputs,
    }
    prose = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Train"}
    executed = {
        "cells": [prose, code],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    write_json(tmp_path / "research" / "train.ipynb", executed)
    return Workspace(tmp_path)


def test_the_answer_comes_first(project: Workspace) -> None:
    text = report(project).read_text()

    answer = text.index("Research equals production: 23 of 23 outputs")
    assert answer < text.index("<h2>"), "something stands before the answer"


def test_page_shows_metrics_rows_plots_digests_and_walks(project: Workspace) -> None:
    text = report(project).read_text()

    for shown in (
        "0.696 <small>0.690 to 0.702</small>",
        "336,774",
        "no &lt;arrival&gt;",
        "ROC curve",
        "Precision and recall",
        "Calibration",
        "ROC-AUC by month",
        "ROC-AUC by carrier",
        "Which columns matter",
        "9372c470eead",  # the start of the digest of b"model"
        'href="notebooks/train.html"',
    ):
        assert shown in text, f"{shown} is not on the page"


def test_pages_load_nothing_from_anywhere(project: Workspace) -> None:
    path = report(project)

    for page in (path, path.parent / "notebooks" / "train.html"):
        text = page.read_text()
        assert not re.search(r"https?:|//[a-z]+\.|<script|<link|@import|\burl\((?!#)", text), (
            f"{page.name} loads something"
        )


def test_pages_are_well_formed(project: Workspace) -> None:
    path = report(project)

    for page in (path, path.parent / "notebooks" / "train.html"):
        parser = Balanced()
        parser.feed(page.read_text())
        assert parser.open == [], f"{page.name} leaves elements open"


def test_equal_projects_give_equal_pages(project: Workspace) -> None:
    before = report(project).read_bytes()

    assert report(project).read_bytes() == before


def test_executed_notebook_is_a_page(project: Workspace) -> None:
    report(project)

    text = (project.reports / "notebooks" / "train.html").read_text()
    assert "<h1>train, walked</h1>" in text
    assert "fitted" in text
    assert 'href="../index.html"' in text


def test_red_parity_is_the_answer_and_its_difference_is_shown(project: Workspace) -> None:
    red = {**OUTPUT, "equal": False, "difference": "column <late>, row 3"}
    write_json(project.reports / "parity.json", {"ok": False, "outputs": [OUTPUT, red]})
    write_json(
        project.reports / "sync.json", {"ok": False, "checks": [{"check": "package", "ok": False, "findings": ["x"]}]}
    )

    text = report(project).read_text()

    assert "Research differs from production: 1 of 2 outputs" in text
    assert "The package is not what the notebooks say" in text
    assert "column &lt;late&gt;, row 3" in text


def test_empty_project_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {}\n")

    text = report(Workspace(tmp_path)).read_text()

    assert "have not been compared yet" in text
    for command in ("dvc repro", "mlops_pkg sync"):
        assert f"<code>{command}</code>" in text, f"{command} is not offered"


def test_a_better_baseline_is_told_in_red(project: Workspace) -> None:
    assert 'class="red"' not in report(project).read_text()
    scores = {"model": {"roc_auc": 0.6}, "linear": {"roc_auc": 0.7}}
    write_json(project.root / "artifacts" / "evaluate" / "validation.json", scores)

    assert '<p class="red">The model is worse than linear on validation' in report(project).read_text()


def test_regression_has_its_metrics_and_no_curves(project: Workspace) -> None:
    evaluate = project.root / "artifacts" / "evaluate"
    for name in ("roc", "pr", "calibration"):
        (evaluate / f"{name}.csv").unlink()
    test = {"model": {"mae": {"value": 12.5, "low": 12.0, "high": 13.0}, "r2": {"value": -0.1}}}
    write_json(evaluate / "comparison.json", {"task": "regression", "threshold": None, "test": test})
    (evaluate / "slices.csv").write_text("split,slice,value,rows,mae\ntest,month,9,50,12.0\n")

    text = report(project).read_text()

    assert "12.500 <small>12.000 to 13.000</small>" in text
    assert "-0.100" in text
    assert "MAE by month" in text
    assert "ROC curve" not in text


@pytest.mark.parametrize("text", ["data: 5\n", "data: {split: month}\n", "data:\n", "seed: 1\n", "", "data: ["])
def test_params_of_another_shape_are_no_traceback(project: Workspace, text: str) -> None:
    project.params.write_text(text)

    assert "Research equals production" in report(project).read_text()


def test_page_alone_keeps_the_notebooks_that_are_there(project: Workspace) -> None:
    report(project)
    walk = project.reports / "notebooks" / "train.html"
    walk.write_text("as it was")

    text = report(project, convert=False).read_text()

    assert 'href="notebooks/train.html"' in text
    assert walk.read_text() == "as it was"


def test_walk_that_is_gone_is_not_linked(project: Workspace) -> None:
    report(project)
    (project.root / "research" / "train.ipynb").unlink()

    assert 'href="notebooks/train.html"' not in report(project).read_text()


def test_torn_files_count_as_missing(project: Workspace) -> None:
    (project.root / "artifacts" / "evaluate" / "comparison.json").write_text("{")
    (project.reports / "parity.json").write_text("")

    text = report(project).read_text()

    assert "have not been compared yet" in text
    assert "<code>dvc repro</code>" in text


def test_what_rebuild_found_is_shown_and_a_former_one_is_told(project: Workspace) -> None:
    output = {"output": "artifacts/train/model.skops", "equal": False, "recorded": "ab", "rebuilt": "cd"}
    stage = {"stage": "train", "ok": False, "findings": ["numpy: loaded, but not <declared>"]}
    stage["outputs"] = [{**output, "difference": "member schema.json: depth: 3 recorded, 4 rebuilt"}]
    write_json(project.reports / "rebuild.json", {"ok": False, "confined": True, "stages": [stage]})
    locked = {
        "cmd": "python -m mlops_pkg.core.stage train",
        "outs": [{"path": "artifacts/train/model.skops", "md5": "ab"}],
    }
    write_json(project.root / "dvc.lock", {"stages": {"train": locked}})

    text = report(project).read_text()

    assert "not <declared>" not in text
    assert "numpy: loaded, but not &lt;declared&gt;" in text
    assert "depth: 3 recorded, 4 rebuilt" in text
    assert "Not the same again from what dvc.yaml declares: train" in text
    write_json(project.root / "dvc.lock", {"stages": {"train": {**locked, "outs": []}}})
    assert "Stale: changed since: train." in (later := report(project).read_text())
    assert "Not the same again" not in later
