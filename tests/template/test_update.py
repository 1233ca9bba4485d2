"""`copier update` brings what is new in the template into a project that was edited, and shows a conflict as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.conftest import clone, copy, git, release, update

MARKS = ("<<<<<<< before updating", ">>>>>>> after updating")


def replace(root: Path, name: str, old: str, new: str) -> None:
    """Edit a file; the text must stand there once."""
    text = (root / name).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name}: {text.count(old)} times {old!r}"
    (root / name).write_text(text.replace(old, new), encoding="utf-8")


def commit(root: Path) -> None:
    """Commit everything."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "An edit")


def ran(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of this environment on the project's own package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)


def in_conflict(project: Path) -> list[str]:
    """The files that git calls unmerged."""
    return sorted({line.split("\t")[1] for line in git(project, "ls-files", "--unmerged").splitlines()})


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A template that a test may release new versions of."""
    return clone(tmp_path / "versions")


@pytest.fixture
def mine(versions: Path, tmp_path: Path) -> Path:
    """A project of that template's first version."""
    return copy(versions, tmp_path / "mine")


def test_an_edited_project_takes_over_what_is_new(versions: Path, mine: Path) -> None:
    replace(mine, "nbs/core/01_workspace.ipynb", '"# Workspace', '"# Our workspace')
    replace(mine, "params.yaml", "max_iter: 300", "max_iter: 200")
    replace(mine, "README.md", "A second `make run` finds nothing to do.", "Our second `make run` finds nothing to do.")
    (mine / "benchmarks" / "noop.json").unlink()
    (mine / "ours.md").write_text("Ours.\n")
    commit(mine)
    for name in ("nbs/core/01_workspace.ipynb", "mlops_pkg/core/workspace.py"):
        replace(versions, name, "run `mlops_pkg mend`, then", "run `mlops_pkg mend` first, then")
    replace(versions, "README.md", "## Where things are", "## Where all things are")
    (versions / "docs" / "news.md").write_text("What is new in mlops_pkg.\n")
    (versions / "benchmarks" / "noop.py").unlink()
    release(versions, "v0.2.0")

    update(mine)

    text = {name: (mine / name).read_text() for name in ("params.yaml", "README.md", ".copier-answers.yml")}
    assert in_conflict(mine) == []
    for name in ("nbs/core/01_workspace.ipynb", "house_prices/core/workspace.py"):
        assert "run `house_prices mend` first, then" in (mine / name).read_text()
    assert '"# Our workspace' in (mine / "nbs" / "core" / "01_workspace.ipynb").read_text()
    assert "max_iter: 200" in text["params.yaml"]
    assert "Our second `make run`" in text["README.md"]
    assert "## Where all things are" in text["README.md"]
    assert (mine / "docs" / "news.md").read_text() == "What is new in house_prices.\n"
    assert (mine / "ours.md").exists()
    assert not (mine / "benchmarks" / "noop.py").exists(), "the template has it no longer"
    assert not (mine / "benchmarks" / "noop.json").exists(), "it was removed on purpose"
    assert '_commit: "v0.2.0"' in text[".copier-answers.yml"]
    assert 'title: "House prices"' in text[".copier-answers.yml"]


def test_an_update_to_the_same_version_changes_nothing(project: Path) -> None:
    update(project)

    assert git(project, "status", "--porcelain") == ""


def test_a_floor_comes_with_the_answer(template: Path, tmp_path: Path) -> None:
    project = copy(template, tmp_path / "bare", floors=[])
    assert not (project / "nbs" / "scoring").exists()
    assert not (project / "nbs" / "serving").exists()

    update(project, floors=["scoring", "serving"])

    assert (project / "house_prices" / "scoring" / "command.py").exists()
    assert (project / "house_prices" / "serving" / "command.py").exists()
    contracts = (project / "pyproject.toml").read_text()
    assert "scoring is built on the bundle alone" in contracts
    assert "serving is built on the bundle alone" in contracts


def test_an_edit_on_both_sides_is_shown_as_a_conflict_and_can_be_settled(versions: Path, mine: Path) -> None:
    notebook, module = "nbs/core/01_workspace.ipynb", "core/workspace.py"
    for root, package, word in ((mine, "house_prices", "lost"), (versions, "mlops_pkg", "broken")):
        for name in (notebook, f"{package}/{module}"):
            replace(root, name, ": damaged ({said})", f": {word} ({{said}})")
        replace(root, "README.md", "## Where things are", f"## Where {word} things are")
    commit(mine)
    release(versions, "v0.2.0")

    update(mine)

    assert in_conflict(mine) == sorted(["README.md", f"house_prices/{module}", notebook])
    text = (mine / "README.md").read_text()
    assert all(part in text for part in (*MARKS, "## Where lost things are", "## Where broken things are"))
    git(mine, "checkout", "--merge", "--", notebook)  # as the message after an update says
    assert "conflict remains" in ran(mine, "nbdev_fix", notebook).stdout
    fixed = json.loads((mine / notebook).read_text())
    told = ["".join(cell["source"]) for cell in fixed["cells"]]
    assert [sum(f": {word} ({{said}})" in one for one in told) for word in ("lost", "broken")] == [1, 1]
    left = [not (": lost (" in one or one.startswith(("`<<<<<<<", "`=======", "`>>>>>>>"))) for one in told]
    fixed["cells"] = [cell for cell, kept in zip(fixed["cells"], left, strict=True) if kept]
    (mine / notebook).write_text(json.dumps(fixed))
    for command in ("nbdev_export", "nbdev_clean"):
        assert ran(mine, command).returncode == 0
    synced = ran(mine, sys.executable, "-m", "house_prices", "sync")
    assert synced.returncode == 0, synced.stdout
    assert ": broken ({said})" in (mine / "house_prices" / module).read_text()
