"""The wheel in clean environments: the edge install, and the extra `pipeline` with all five stages on real rows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, TESTS

pytestmark = pytest.mark.slow

TESTED = ("core", "bundle", "portable", "pipeline")


def run(*command: str, cwd: Path) -> str:
    """What the command printed; it must end well."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mlops_pkg", source / "mlops_pkg", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--out-dir", str(folder), cwd=source)
    return next(folder.glob("*.whl"))


def environment(folder: Path, wheel: Path, lock: str, *more: str) -> Path:
    """The python of a new environment that holds the wheel, one lock file, and nothing else."""
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "venv", "--quiet", "--python", sys.executable, str(folder), cwd=ROOT)
    python = str(folder / "bin" / "python")
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    run(*install, "--require-hashes", "--requirement", str(ROOT / lock), cwd=ROOT)
    run(*install, "--no-deps", str(wheel), *more, cwd=ROOT)
    return Path(python)


def pinned(*names: str) -> list[str]:
    """The locked versions of packages."""
    lock = (ROOT / "requirements.txt").read_text()
    return [re.search(rf"^{name}==[^ ;]+", lock, re.MULTILINE)[0] for name in names]


def test_the_exported_package_passes_its_tests_with_the_extra_pipeline_alone(wheel: Path, tmp_path: Path) -> None:
    pytest_alone = pinned("pytest", "iniconfig", "packaging", "pluggy", "pygments")
    python = environment(tmp_path / "venv", wheel, "requirements-pipeline.txt", *pytest_alone)
    project = tmp_path / "project"
    project.mkdir()
    for name in ("params.yaml", "pyproject.toml", "requirements-pipeline.txt"):
        shutil.copy(ROOT / name, project)
    (project / "tests").mkdir()
    for name in ("conftest.py", "sample.zip"):
        shutil.copy(TESTS / name, project / "tests")
    for name in TESTED:
        shutil.copytree(TESTS / name, project / "tests" / name)

    printed = run(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=project)

    assert re.search(r"\d+ passed", printed)
    assert " failed" not in printed
    assert run(str(python), "-c", "import mlops_pkg; print(mlops_pkg.__file__)", cwd=tmp_path).startswith(str(tmp_path))


def test_the_bare_wheel_reads_a_bundle_and_knows_its_commands(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "requirements-edge.txt")
    code = (
        "import sys, mlops_pkg.bundle.manifest, mlops_pkg.bundle.signature;"
        "heavy = {'pandas', 'sklearn', 'pydantic', 'yaml', 'pyarrow'} & sys.modules.keys(); print(sorted(heavy))"
    )

    assert run(str(python), "-c", code, cwd=tmp_path).strip() == "[]"
    assert "notebook to production" in run(str(python), "-m", "mlops_pkg", "--help", cwd=tmp_path)
