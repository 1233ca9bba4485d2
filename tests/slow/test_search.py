"""The stage `search` in a project under DVC: it repeats, it is made again, it goes on after a kill."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from pandas import read_csv

from mlops_pkg.core.params import read_yaml
from mlops_pkg.core.workspace import read_json
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow
SPACE = {
    "hist_gradient_boosting": {
        "learning_rate": {"low": 0.02, "high": 0.5, "log": True},
        "max_leaf_nodes": {"low": 4, "high": 31},
        "max_iter": 10,
    },
    "random_forest": {"max_depth": {"low": 2, "high": 12}, "criterion": ["gini", "entropy"], "n_estimators": 10},
}
SEARCH = {"trials": 14, "metric": "roc_auc", "folds": 3, "rows": 1500, "space": SPACE}
JOURNAL = Path("artifacts") / ".search-trials.tmp"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a search, whose production stages are built."""
    project = make_project(tmp_path_factory.mktemp("search") / "project")
    project.run("mlops_pkg", "add", "stage", "search", "--after", "features")
    values = read_yaml(project.root / "params.yaml")
    assert values["train"]["estimator"] == "search", "the command says who takes the chosen settings"
    values["search"] = {**SEARCH, "first": values["search"]["first"]}
    (project.root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    project.repro("package")
    return project


def outputs(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.root / "artifacts" / "search").iterdir()}


def test_the_chosen_settings_are_trained_and_named_by_the_bundle(searched: Project) -> None:
    artifacts = searched.root / "artifacts"
    chosen = read_json(artifacts / "search" / "chosen.json")

    assert set(outputs(searched)) >= {"chosen.json", "trials.csv", "importance.csv", "parallel.csv"}
    assert chosen["estimator"] in SPACE
    assert read_json(artifacts / "package" / "metrics.json")["estimator"] == chosen["estimator"]
    assert f"Estimator: {chosen['estimator']}." in (artifacts / "package" / "card.md").read_text()
    assert not (searched.root / JOURNAL).exists()
    first = read_csv(artifacts / "search" / "trials.csv").iloc[0]
    assert (first["estimator"], first["state"]) == ("hist_gradient_boosting", "complete"), "the present settings"
    assert chosen["value"] >= first["value"]


def test_it_is_made_again_from_what_it_declares_and_nothing_is_declared_in_vain(searched: Project) -> None:
    rebuilt = searched.run("python", "-m", "mlops_pkg", "rebuild", "search", "train", "package", check=False)
    declared = searched.run("python", "-m", "mlops_pkg", "declared", "search", "train", check=False)

    assert rebuilt.returncode == 0, rebuilt.stdout
    assert declared.stdout.count("dvc.yaml says so") == 2, declared.stdout


def test_its_walk_writes_the_same_bytes(searched: Project) -> None:
    searched.repro("notebook-search")

    walked = searched.root / "research" / "search"
    assert {name: (walked / name).read_bytes() for name in outputs(searched) if name != ".gitignore"} == {
        path.name: path.read_bytes() for path in walked.iterdir()
    }


def test_after_a_kill_it_goes_on_and_ends_as_if_there_had_been_none(searched: Project) -> None:
    before, command = outputs(searched), ("python", "-m", "mlops_pkg.core.stage", "search")
    running = searched.start(*command)
    until = time.monotonic() + 300
    while not (searched.root / JOURNAL).exists() or len(read_json(searched.root / JOURNAL)["trials"]) < 3:
        assert time.monotonic() < until, "no third trial"
        assert running.poll() is None, "the search has ended"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    left = len(read_json(searched.root / JOURNAL)["trials"])

    told = searched.run(*command).stdout

    assert 3 <= left < SEARCH["trials"]
    assert len(re.findall(r"trial \d+ of 14", told)) == SEARCH["trials"] - left, "finished trials are not tried again"
    assert outputs(searched).items() >= {name: text for name, text in before.items() if name != ".gitignore"}.items()


def test_a_journal_of_other_values_is_not_used(searched: Project, tmp_path: Path) -> None:
    root = Path(shutil.copytree(searched.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".dvc", ".git")))
    other = Project(root)
    other.run("python", "-c", f"import pathlib; pathlib.Path('{JOURNAL}').write_text('{{\"inputs\": 1, \"trials\": [')")

    told = other.run("python", "-m", "mlops_pkg.core.stage", "search").stdout

    assert "trial 1 of 14" in told


def test_a_search_that_reads_test_rows_is_red(searched: Project) -> None:
    module = searched.root / "mlops_pkg" / "pipeline" / "search.py"
    whole = module.read_text()
    read = 'workspace.input("ingest", "train.parquet")), params'
    assert whole.count(read) == 1
    module.write_text(whole.replace(read, read.replace('"train', '"test')))
    try:
        searched.run("dvc", "commit", "--force", "search")
        red = searched.run("python", "-m", "mlops_pkg", "rebuild", "search", check=False)
    finally:
        module.write_text(whole)

    assert red.returncode == 1
    assert "artifacts/ingest/test.parquet: missing" in red.stdout
