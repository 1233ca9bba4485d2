"""A model's way through a team: tried, compared, reviewed, released, refused, rolled back, fetched elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.workspace import read_table
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow
NAME = "late-flights"
TRIED = {"ten": 10, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}  # trees


def mlops_pkg(project: Project, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return project.run(sys.executable, "-m", "mlops_pkg", *words, check=check)


def person(root: Path, name: str) -> Project:
    project = Project(root)
    project.run("git", "config", "user.name", name)
    project.run("git", "config", "user.email", f"{name}@example.invalid")
    project.environment["MLOPS_PKG_CACHE"] = str(root.parent / f"bundles-of-{name}")
    return project


def share(project: Project, message: str) -> None:
    """Commit what there is and push it, with its bytes."""
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", message)
    project.run("git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
    project.run("dvc", "push", "--quiet")


def try_out(project: Project, trees: int, *words: str) -> None:
    project.run("dvc", "exp", "run", "--quiet", "package", "--set-param", f"train.options.max_iter={trees}", *words)


def try_five(project: Project) -> str:
    """Try five numbers of trees; return the best of the experiments, which is better than the worst one."""
    for name, trees in TRIED.items():
        try_out(project, trees, "--name", name)
    rows: list[dict[str, Any]] = json.loads(mlops_pkg(project, "experiments", "--sort", "log_loss", "--json").stdout)
    assert {row["name"]: row["train.options.max_iter"] for row in rows} == {"main": 20, **TRIED}
    best, worst = [row["name"] for row in rows if row["name"] != "main"][:: len(TRIED) - 1]
    compared = json.loads(mlops_pkg(project, "compare", worst, best, "--json").stdout)[best]
    assert compared["params"] == [["train.options.max_iter", TRIED[worst], TRIED[best]]]
    assert next(one for one in compared["metrics"] if one["metric"] == "log_loss")["better"] > 0
    return str(best)


def refuse_and_override(project: Project) -> None:
    """Register a worse version; it is refused with its figures, and promoted all the same for a reason."""
    try_out(project, 1)
    share(project, "One tree")
    assert f"{NAME}@v1.1.0" in mlops_pkg(project, "registry", "register", "--unproven").stdout
    promote = ("registry", "promote", f"{NAME}@v1.1.0", "prod")
    refused = mlops_pkg(project, *promote, check=False)
    assert refused.returncode == 1
    figures = next(line for line in refused.stdout.splitlines() if line.startswith("metric "))
    assert re.search(r"red +roc_auc 0\.\d+, champion 0\.\d+, better by -0\.\d+", figures)
    mlops_pkg(project, *promote, "--override", "a trial of one day")


def test_from_a_tried_idea_to_production_and_back(tmp_path: Path) -> None:
    hub, storage = tmp_path / "hub.git", tmp_path / "storage"
    make_project(tmp_path / "ada")
    ada = person(tmp_path / "ada", "ada")
    ada.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(hub))
    ada.run("git", "remote", "add", "origin", str(hub))
    ada.run("dvc", "remote", "add", "--default", "storage", str(storage))
    ada.repro("package")
    share(ada, "A model")
    best = try_five(ada)

    # The best one becomes a branch, with walks, proofs, and a report of what it changes; it is merged and released.
    ada.run("dvc", "exp", "branch", "--quiet", best, "more")
    ada.run("git", "switch", "--quiet", "--discard-changes", "more")
    ada.run("dvc", "checkout", "--quiet", "--allow-missing")
    mlops_pkg(ada, "run")
    mlops_pkg(ada, "rebuild")
    share(ada, "Its walks and proofs")
    report = mlops_pkg(ada, "pr-report", "--base", "main").stdout
    assert report.count("✅ `") == 3
    assert f"| `train.options.max_iter` | `20` | `{TRIED[best]}` |" in report
    ada.run("git", "push", "--quiet", "origin", "more:main")
    assert f"{NAME}@v1.0.0" in mlops_pkg(ada, "registry", "register").stdout
    mlops_pkg(ada, "registry", "promote", f"{NAME}@v1.0.0", "prod")

    ada.run("git", "clone", "--quiet", str(hub), str(tmp_path / "bob"))
    bob = person(tmp_path / "bob", "bob")
    bob.run("dvc", "pull", "--quiet", "--allow-missing")
    refuse_and_override(bob)
    mlops_pkg(ada, "registry", "rollback", NAME, "prod", "--reason", "late calls doubled")
    assert "a trial of one day" in mlops_pkg(ada, "registry", "history").stdout
    assert "late calls doubled" in mlops_pkg(ada, "registry", "card", f"{NAME}#prod").stdout

    # A third machine has the address of the repository and the remote, and no working copy.
    (elsewhere := tmp_path / "elsewhere").mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere), "MLOPS_PKG_REGISTRY": str(hub)}
    command = [sys.executable, "-m", "mlops_pkg", "registry", "fetch", f"{NAME}#prod"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = read_table(ada.root / "artifacts" / "ingest" / "test.parquet")
    expected = Predictor.load(ada.root / "artifacts" / "package").predict(rows)
    assert not expected.rejects
    assert np.array_equal(Predictor.load(done.stdout.strip()).predict(rows).answer, expected.answer)
