"""The way forward is open: nbdev 3 exports the notebooks to the same bytes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the package by its path within it."""
    paths = (path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_nbdev_3_exports_the_same_bytes(tmp_path: Path) -> None:
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [*uv, "pip", "install", "--quiet", "--python", str(python), "nbdev>=3,<4"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("nbdev 3 cannot be installed here")
    project = tmp_path / "project"
    project.mkdir()
    for name in ("settings.ini", "pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "nbs", project / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (project / "mlops_pkg").mkdir()
    shutil.copy(ROOT / "mlops_pkg" / "__init__.py", project / "mlops_pkg")

    subprocess.run([python.with_name("nbdev-export")], cwd=project, check=True, capture_output=True)

    exported, committed = contents(project / "mlops_pkg"), contents(ROOT / "mlops_pkg")
    assert exported.keys() == committed.keys()
    assert [name for name in committed if exported[name] != committed[name]] == []
