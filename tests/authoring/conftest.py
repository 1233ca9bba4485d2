"""The toy project of the proofs, for what edits notebooks and modules."""

import json
from pathlib import Path

from mlops_pkg.proof.sync import check_sync
from tests.conftest import contents
from tests.proof.conftest import template

__all__ = ["template"]


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that stands once in a file, quotes and line ends as in JSON."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        old, new = (json.dumps(part, ensure_ascii=False)[1:-1] for part in (old, new))
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def sources_and_modules(root: Path) -> dict[str, bytes]:
    """Every file of notebooks and package by its path."""
    return contents(root, "nbs", "mlops_pkg")


def lines(root: Path) -> list[str]:
    """All that `sync` finds."""
    return [finding for check in check_sync(root) for finding in check.findings]
