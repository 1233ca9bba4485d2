"""Experiments at the level of a day: one value, a small grid, and a walk with the same value gives the same bytes."""

import json
import re
import shutil
import time

import pytest
import yaml

from tests.conftest import QUICK, ROOT
from tests.slow.conftest import Project, make_project
from tests.slow.kills import commit

pytestmark = pytest.mark.slow

VALUE = "train.options.learning_rate=0.1"
METRICS = "artifacts/evaluate/metrics.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline ends where an experiment does, built and committed, as `make run` leaves it.

    Its module tells where it is run from: an experiment in a folder of its own must run the code of that folder.
    """
    project = make_project(tmp_path_factory.mktemp("experiments") / "project")
    identity = {"NAME": "test", "EMAIL": "test@example.invalid"}
    project.environment |= {
        f"GIT_{who}_{key}": text for who in ("AUTHOR", "COMMITTER") for key, text in identity.items()
    }
    module = project.root / "mlops_pkg" / "pipeline" / "train.py"
    module.write_text(module.read_text() + '\nprint("the code of", __file__)\n')
    shutil.copy(ROOT / "params.yaml", project.root)
    text = (project.root / "params.yaml").read_text()
    for name, value in {**QUICK["train"]["options"], **QUICK["evaluate"]}.items():
        text = re.sub(rf"(?m)^( +{name}): .*", rf"\1: {value}", text)
    (project.root / "params.yaml").write_text(text)
    pipeline = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    short = {name: pipeline[name] for name in ("ingest", "features", "train", "evaluate", "notebook-train")}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": short}))
    project.repro()
    commit(project)
    return project


def metrics(project: Project, *of: str) -> dict[str, dict[str, float]]:
    """The metrics of a revision, or of the workspace."""
    text = project.run("git", "show", f"{of[0]}:{METRICS}").stdout if of else (project.root / METRICS).read_text()
    return json.loads(text)


def shown(project: Project) -> dict[str, dict[str, str]]:
    """The experiments that `dvc exp show` lists, by name: its columns where anything differs."""
    header, *rows = project.run("dvc", "exp", "show", "--only-changed", "--csv").stdout.splitlines()
    cells = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    return {row["Experiment"] or row["rev"]: row for row in cells}


def restore(project: Project) -> None:
    """Back to the commit, as a user goes back."""
    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "checkout", "--quiet", "--force")


def test_one_value_changes_one_line_and_runs_what_depends_on_it(project: Project) -> None:
    before = metrics(project)

    done = project.run("dvc", "exp", "run", "--name", "one", "--set-param", VALUE, "evaluate")

    ran = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["train", "evaluate"]
    project.run("python", "-m", "mlops_pkg", "mend")
    changed = project.run("git", "diff", "--unified=0", "params.yaml").stdout.splitlines()[5:]
    assert changed == ["-    learning_rate: 0.05", "+    learning_rate: 0.1"]
    assert metrics(project)["test"] != before["test"]
    assert project.run("git", "status", "--porcelain").stdout.split() == [
        *("M", METRICS, "M", "dvc.lock", "M", "params.yaml")
    ]
    restore(project)


def test_a_walk_with_the_same_value_gives_the_same_bytes(project: Project) -> None:
    project.run("python", "-m", "mlops_pkg", "research", "train", "--set", VALUE)
    walked = {path.name: path.read_bytes() for path in (project.root / "research" / "train").iterdir()}
    project.run("dvc", "exp", "apply", "one")
    made = {path.name: path.read_bytes() for path in (project.root / "artifacts" / "train").iterdir()}
    restore(project)
    former = {path.name: path.read_bytes() for path in (project.root / "artifacts" / "train").iterdir()}

    assert walked == made
    assert walked["validation.json"] != former["validation.json"], "the value changes nothing"


def test_a_grid_runs_in_the_queue_with_the_code_of_its_own_folder(project: Project) -> None:
    before = project.run("git", "status", "--porcelain").stdout
    queued = project.run(
        "dvc", "exp", "run", "--queue", "-S", "train.options.max_iter=range(5,15,5)", "evaluate"
    ).stdout
    names = [line.split("'")[1] for line in queued.splitlines() if line.startswith("Queued experiment")]
    assert len(names) == 2

    project.run("dvc", "queue", "start")
    deadline = time.monotonic() + 300
    while "Queued" in (status := project.run("dvc", "queue", "status").stdout) or "Running" in status:
        assert time.monotonic() < deadline, status

    rows = shown(project)
    assert sorted(rows[name]["train.options.max_iter"] for name in names) == ["10", "5"]
    assert len({rows[name]["model.roc_auc"] for name in names}) == 2
    for name in names:
        log = project.run("dvc", "queue", "logs", name).stdout
        assert f"the code of {project.root}/.dvc/tmp/exps/" in log
    assert project.run("git", "status", "--porcelain").stdout == before, "the workspace was touched"


def test_experiments_are_listed_compared_and_kept(project: Project) -> None:
    rows = shown(project)
    compared = json.loads(project.run("dvc", "exp", "diff", "--json", "main", "one").stdout)
    project.run("dvc", "exp", "branch", "one", "faster")

    assert {"main", "one"} < rows.keys()
    values = {name for name in rows["one"] if name.startswith(("train.", "data.", "evaluate.", "features."))}
    assert "train.options.learning_rate" in values
    assert values <= {"train.options.learning_rate", "train.options.max_iter"}, (
        "values that are the same everywhere are listed"
    )
    assert compared["params"]["params.yaml"] == {"train.options.learning_rate": {"old": 0.05, "new": 0.1, "diff": 0.05}}
    assert metrics(project, "faster")["test"]["roc_auc"] == compared["metrics"][METRICS]["test.roc_auc"]["new"]


def test_removed_experiments_leave_nothing_in_git(project: Project) -> None:
    project.run("dvc", "exp", "remove", "--all-commits")
    project.run("git", "branch", "--quiet", "--delete", "--force", "faster")

    left = [line.split()[-1] for line in project.run("git", "for-each-ref").stdout.splitlines()]
    assert [name for name in left if not name.startswith(("refs/exps/exec/", "refs/exps/apply/"))] == [
        "refs/heads/main"
    ]
    assert project.run("dvc", "exp", "list", "--all-commits", "--name-only").stdout.strip() == ""
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert project.repro() <= {"notebook-train"}, "more than the walk with another value is stale"
