"""The template as copier sees it: a clone of this repository's last commit, with versions of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest
from copier import run_copy, run_update

from tests.conftest import IDENTITY, ROOT

ANSWERS = {
    "title": "House prices",
    "package": "house_prices",
    "author": "Ann Author",
    "author_email": "ann@example.invalid",
    "task": "classification",
    "floors": ["scoring", "serving"],
}


def git(root: Path, *words: str) -> str:
    """What git printed; it must end well."""
    done = subprocess.run(["git", *IDENTITY, *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {words}: {done.stderr}"
    return done.stdout


def copy(template: Path, project: Path, **answers: object) -> Path:
    """A new project, as `copier copy --trust` makes it from these answers."""
    run_copy(str(template), project, data={**ANSWERS, **answers}, defaults=True, unsafe=True, quiet=True)
    return project


def update(project: Path, **answers: object) -> None:
    """What `copier update --trust` does in the project."""
    run_update(project, data=answers, defaults=True, overwrite=True, unsafe=True, quiet=True)


def clone(folder: Path) -> Path:
    """A clone of this repository with what is committed, tagged as its first version."""
    git(ROOT, "clone", "--quiet", "--no-tags", str(ROOT), str(folder))
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@example.invalid")
    git(folder, "tag", "v0.1.0")
    return folder


def release(template: Path, version: str) -> None:
    """Commit what has changed in the template as a new version."""
    git(template, "add", "--all")
    git(template, "commit", "--quiet", "--message", version)
    git(template, "tag", version)


def readable(root: Path) -> dict[str, str]:
    """Every file under git that is text, by its name."""
    found = {}
    for name in git(root, "ls-files").splitlines():
        try:
            found[name] = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            found[name] = ""
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, version 0.1.0. Read it; copy it before changing anything."""
    if not (ROOT / ".git").exists():
        pytest.skip("the template is tested from its own git repository")
    return clone(tmp_path_factory.mktemp("template") / "template")


@pytest.fixture(scope="session")
def generated(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that copier has made. Read it; copy it before changing anything."""
    return copy(template, tmp_path_factory.mktemp("generated") / "project")


@pytest.fixture
def project(generated: Path, tmp_path: Path) -> Path:
    """A copy of the project that copier has made."""
    return Path(shutil.copytree(generated, tmp_path / "project"))
