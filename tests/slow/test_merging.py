"""Merging on a real DVC project: the pipeline, the proofs and the record after it, and the data."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import STAGES
from tests.slow.conftest import Project, make_project
from tests.slow.test_repro import edit_cell

pytestmark = pytest.mark.slow


def commit(project: Project, text: str) -> None:
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", text)


def start(root: Path) -> Project:
    project = make_project(root)
    project.run("git", "config", "user.name", "test")
    project.run("git", "config", "user.email", "test@example.invalid")
    return project


def merge(project: Project, *commands: tuple[str, ...]) -> str:
    """What the merge of topic tells, with the project's own package."""
    code = f"from mlops_pkg.history.merging import merge; merge('topic', commands={commands!r})"
    return project.run(sys.executable, "-c", code).stdout


def test_a_merge_ends_with_a_green_pipeline_and_the_digests_of_a_fresh_build(tmp_path: Path) -> None:
    project = start(tmp_path / "project")
    train, params = project.root / "nbs" / "pipeline" / "22_train.ipynb", project.root / "params.yaml"
    project.repro("features")
    commit(project, "Built so far")

    project.run("git", "checkout", "--quiet", "-b", "topic")
    old = 'loss_curve(models["model"], *validation, params.task)'
    edit_cell(train, old, 'loss_curve(models["model"], *validation, params.task, every=10)')
    params.write_text(params.read_text().replace("max_iter: 20", "max_iter: 15"))
    project.run("nbdev_export")
    project.repro("train")
    commit(project, "Fewer trees")

    project.run("git", "checkout", "--quiet", "main")
    edit_cell(train, "An estimator is never saved alone.", "Never save an estimator alone.")
    params.write_text(params.read_text().replace("bootstrap: 20", "bootstrap: 30"))
    project.repro("train")
    commit(project, "More resamples")

    told = merge(project, ("dvc", "repro"))

    assert "nbs/pipeline/22_train.ipynb: merged by cells" in told
    assert "dvc.lock: merged by stages; renewed on both branches, so to run again: train\n" in told
    assert "Stage 'features' didn't change, skipping" in told
    assert "max_iter: 15" in params.read_text()
    assert "bootstrap: 30" in params.read_text()
    assert "params.task, every=10)" in (project.root / "mlops_pkg" / "pipeline" / "train.py").read_text()
    assert project.run("git", "status", "--porcelain").stdout == ""
    for proof in ("sync", "parity"):
        assert json.loads((project.root / "reports" / f"{proof}.json").read_text())["ok"], proof
    assert project.repro() == set()

    fresh = Project(tmp_path / "fresh")
    project.run("git", "clone", "--quiet", str(project.root), str(fresh.root))
    shutil.copytree(project.root / "data", fresh.root / "data")
    (fresh.root / "dvc.lock").unlink()
    assert fresh.repro("package") == set(STAGES)
    assert fresh.digests() == project.digests()


def test_data_of_the_other_branch_are_laid_out_before_the_pipeline(tmp_path: Path) -> None:
    project = start(tmp_path / "project")
    project.run("git", "checkout", "--quiet", "-b", "topic")
    (project.root / "data" / "more.csv").write_text("a,b\n1,2\n")
    project.run("dvc", "add", "--quiet", "data")
    commit(project, "More data")
    project.run("git", "checkout", "--quiet", "main")
    project.run("dvc", "checkout", "--quiet", "data.dvc")
    (project.root / "README.md").write_text((project.root / "README.md").read_text() + "\nMore words.\n")
    commit(project, "More words")
    assert not (project.root / "data" / "more.csv").exists()

    merge(project)

    assert (project.root / "data" / "more.csv").read_text() == "a,b\n1,2\n"
    assert project.run("git", "diff", "topic", "--", "data.dvc").stdout == ""
