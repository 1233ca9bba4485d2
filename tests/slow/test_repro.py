"""dvc repro: what an edit re-runs, what a mistake leaves, what a kill leaves."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import IDENTITY, ROOT, STAGES, contents
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow


def edit_cell(notebook: Path, old: str, new: str) -> None:
    """Replace a text that stands once in the notebook's sources."""
    content = json.loads(notebook.read_text())
    found = 0
    for cell in content["cells"]:
        source = "".join(cell["source"])
        found += source.count(old)
        cell["source"] = source.replace(old, new).splitlines(keepends=True)
    assert found == 1, f"{old!r} stands {found} times in {notebook.name}"
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with every stage, walk and proof built."""
    project = make_project(tmp_path_factory.mktemp("everything") / "project")
    project.repro()
    return project


def test_research_equals_production_on_the_sample(everything: Project) -> None:
    verdicts = json.loads((everything.root / "reports" / "parity.json").read_text())

    assert verdicts["ok"], [output for output in verdicts["outputs"] if not output["equal"]]
    assert len(verdicts["outputs"]) == 40
    assert len(verdicts["runtimes"]) == 5 + 3 * (ROOT / "nbs" / "serving").is_dir()
    assert all(one["equal"] for one in verdicts["runtimes"])


def test_nothing_changed_runs_nothing(everything: Project) -> None:
    assert everything.repro() == set()


def test_a_colleague_who_pulls_has_nothing_to_run(everything: Project, tmp_path: Path) -> None:
    everything.run("dvc", "remote", "add", "--default", "--force", "storage", str(tmp_path / "storage"))
    everything.run("dvc", "push", "--quiet", "--run-cache")
    everything.run("git", "add", "--all")
    everything.run("git", *IDENTITY, "commit", "--quiet", "--message", "Built and pushed")

    everything.run("git", "clone", "--quiet", str(everything.root), str(tmp_path / "colleague"))
    colleague = Project(tmp_path / "colleague")
    colleague.run("dvc", "pull", "--quiet", "--run-cache")

    assert colleague.repro() == set()
    assert colleague.digests() == everything.digests()
    assert colleague.run("git", "status", "--porcelain").stdout == ""
    for name in ("artifacts", "research", "reports/parity.json", "reports/sync.json"):
        ours, theirs = everything.root / name, colleague.root / name
        files = [path for path in (ours, *ours.rglob("*")) if path.is_file()]
        assert files
        assert [path for path in files if (theirs / path.relative_to(ours)).read_bytes() != path.read_bytes()] == []


def test_dvc_shows_metrics_and_plots(everything: Project, tmp_path: Path) -> None:
    shown = json.loads(everything.run("dvc", "metrics", "show", "--json").stdout)
    plots = everything.run("dvc", "plots", "show", "--out", str(tmp_path)).stdout

    assert shown[""]["data"]["artifacts/evaluate/metrics.json"]["data"]["test"]["roc_auc"] > 0.5
    assert plots.strip().endswith("index.html")
    page = (tmp_path / "index.html").read_text()
    assert [
        name
        for name in ("roc", "pr", "calibration", "confusion", "importance", "shap", "shap_points")
        if f"artifacts_evaluate_{name}_csv" not in page
    ] == []


def test_dvc_shows_how_an_edit_changed_the_metrics(everything: Project) -> None:
    params = everything.root / "params.yaml"
    everything.run("git", "add", ".")
    everything.run("git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "Built")

    params.write_text(params.read_text().replace("max_iter: 20", "max_iter: 5"))
    everything.repro("evaluate")
    changed = json.loads(everything.run("dvc", "metrics", "diff", "--json").stdout)
    everything.run("git", "checkout", "params.yaml")
    everything.repro()

    roc_auc = changed["artifacts/evaluate/metrics.json"]["test.roc_auc"]
    assert roc_auc["old"] != roc_auc["new"]


def test_editing_prose_runs_that_walk_and_no_production_stage(everything: Project) -> None:
    notebook = everything.root / "nbs" / "pipeline" / "22_train.ipynb"

    edit_cell(notebook, "An estimator is never saved alone.", "Never save an estimator alone.")
    ran = everything.repro()

    assert not ran & set(STAGES), "prose re-ran production"
    assert {stage for stage in ran if stage.startswith("notebook-")} == {"notebook-train"}


def test_editing_train_runs_train_and_what_follows(everything: Project) -> None:
    notebook = everything.root / "nbs" / "pipeline" / "22_train.ipynb"

    for name in ("name", "settings.estimator", '"linear"'):  # in the run, and twice in the walk
        given = f"fit_estimator({name}, params, settings, "
        edit_cell(notebook, f"{given}X, y)", f"{given}X.round(6), y)")
    everything.run("nbdev_export")
    ran = everything.repro()

    assert ran >= {"train", "evaluate", "package", "notebook-train"}
    assert not ran & {"ingest", "features", "notebook-ingest", "notebook-features"}


def test_a_walk_that_differs_from_its_run_is_red(everything: Project) -> None:
    notebook = everything.root / "nbs" / "pipeline" / "22_train.ipynb"

    edit_cell(notebook, ", y)\nweights = ", ", 1 - y)\nweights = ")
    done = everything.run("dvc", "repro", check=False)

    assert done.returncode != 0
    verdicts = json.loads((everything.root / "reports" / "parity.json").read_text())
    red = {(output["stage"], output["output"]) for output in verdicts["outputs"] if not output["equal"]}
    assert red == {("train", "baseline.skops"), ("train", "validation.json")}


def test_a_mistake_in_params_stops_dvc_with_one_line(reproduced: Project) -> None:
    params, before = reproduced.root / "params.yaml", reproduced.digests()
    good = params.read_text()

    params.write_text(good.replace("max_leaf_nodes:", "max_leaf_node:"))
    done = reproduced.run("dvc", "repro", "package", check=False)
    params.write_text(good)

    assert done.returncode != 0
    where = "params.yaml: train.options.max_leaf_node: HistGradientBoostingClassifier has no such option"
    assert f"{where}; did you mean 'max_leaf_nodes'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert reproduced.repro("package") == set(), "the former output is back without a run"
    assert reproduced.digests() == before


def test_run_that_fails_brings_back_what_stood_before(reproduced: Project) -> None:
    params = reproduced.root / "params.yaml"
    good, before = params.read_text(), contents(reproduced.root / "artifacts")
    command = (sys.executable, "-m", "mlops_pkg", "run", "package")

    params.write_text(good.replace("- wind_gust", "- gust"))
    failed = reproduced.run(*command, check=False)
    params.write_text(good)

    assert failed.returncode == 1
    assert "gust" in failed.stderr
    assert failed.stderr.endswith("Stopped: the lines above say why. What stood before is back.\n")
    assert contents(reproduced.root / "artifacts") == before
    assert "Running stage" not in reproduced.run(*command).stdout, "what is back makes a stage stale"


def test_run_that_is_interrupted_brings_back_what_stood_before(reproduced: Project) -> None:
    params = reproduced.root / "params.yaml"
    good, before = params.read_text(), contents(reproduced.root / "artifacts")

    params.write_text(good.replace("bootstrap: 20", "bootstrap: 2000"))  # seconds of work after the first output
    running = reproduced.start(sys.executable, "-m", "mlops_pkg", "run", "package")
    deadline = time.monotonic() + 120
    while not (reproduced.root / "artifacts" / ".evaluate.tmp").exists():
        assert running.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "no output within two minutes"
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGINT)

    assert running.wait(60) == 1
    params.write_text(good)
    assert contents(reproduced.root / "artifacts") == before


def test_a_killed_walk_leaves_the_former_one_whole(everything: Project) -> None:
    folder, executed = everything.root / "research" / "package", everything.root / "research" / "package.ipynb"
    before = {path.name: path.read_bytes() for path in [*folder.iterdir(), executed]}
    scratch = folder.with_name(".package.tmp")

    running = everything.start(sys.executable, "-m", "mlops_pkg", "research", "package")
    deadline = time.monotonic() + 60
    while not (scratch / "package").exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()

    assert {path.name: path.read_bytes() for path in [*folder.iterdir(), executed]} == before
    everything.run(sys.executable, "-m", "mlops_pkg", "research", "package")
    assert {path.name: path.read_bytes() for path in [*folder.iterdir(), executed]} == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_leaves_nothing_half_written(reproduced: Project, stage: str) -> None:
    before, folder = reproduced.digests(), reproduced.root / "artifacts" / stage
    complete = {Path(path).name for path in before if Path(path).parent.name == stage}
    scratch = folder.with_name(f".{stage}.tmp")
    generator = random.Random(stage)

    running = reproduced.start("dvc", "repro", "--force", "--single-item", stage)
    deadline = time.monotonic() + 60
    while not scratch.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(generator.uniform(0, 0.3))
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()

    reproduced.run(sys.executable, "-m", "mlops_pkg", "mend")  # DVC writes dvc.lock in place: a kill may tear it
    left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert left in (set(), complete), "half an output"
    assert not scratch.exists()
    reproduced.repro("package")
    assert reproduced.digests() == before
    assert reproduced.repro("package") == set(), "what the kill left makes a stage stale"


def test_a_regression_needs_another_params_yaml_and_nothing_else(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    params = project.root / "params.yaml"
    text = params.read_text().replace("task: classification", "task: regression")
    text = text.replace("name: late", "name: delay").replace("positive_above: 15", "positive_above: null")
    params.write_text(text)

    project.repro()

    metrics = json.loads((project.root / "artifacts" / "evaluate" / "comparison.json").read_text())
    assert metrics["task"] == "regression"
    assert metrics["test"]["model"]["rmse"]["value"] < metrics["test"]["prior"]["rmse"]["high"]
    assert json.loads((project.root / "reports" / "parity.json").read_text())["ok"]
    assert project.run("git", "status", "--porcelain", "--untracked-files=no").stdout.split() == ["M", "params.yaml"]
