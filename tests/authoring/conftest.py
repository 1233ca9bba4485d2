"""Helpers for tests that edit notebooks and modules of the toy project."""

import json
import subprocess
from pathlib import Path

from mlops_pkg.proof.sync import check_sync
from tests.conftest import IDENTITY, contents
from tests.proof.conftest import template

__all__ = ["template"]


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that occurs once in a file; in a notebook, quotes and line ends are escaped."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        old, new = (json.dumps(part, ensure_ascii=False)[1:-1] for part in (old, new))
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def sources_and_modules(root: Path) -> dict[str, bytes]:
    """Return the contents of the notebooks and of the package by path."""
    return contents(root, "nbs", "mlops_pkg")


def lines(root: Path) -> list[str]:
    """Return the findings of `sync`."""
    return [finding for check in check_sync(root) for finding in check.findings]


def git(root: Path, *arguments: str) -> None:
    """Run git; it must succeed."""
    subprocess.run(["git", *IDENTITY, *arguments], cwd=root, check=True, capture_output=True)


def commit(root: Path, *paths: str) -> None:
    """Commit the paths, or all files, in a repository that is made if there is none."""
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", *(paths or ["--all"]))
    git(root, "commit", "--quiet", "--message", "A commit")
