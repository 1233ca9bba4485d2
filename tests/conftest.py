"""Small real projects for the tests."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mlops_pkg.core.params import UserError, read_yaml
from mlops_pkg.core.stage import fix_threads

fix_threads()  # before numpy is imported, as the stages do

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = "mlops_pkg"
STAGES = ("ingest", "features", "train", "evaluate", "package")  # of the flights
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]  # of git, for commits

# What the tests predict.
TASK = {"task": "classification", "data": {"target": {"name": "late", "positive_above": 15, "unit": None}}}
# What keeps a run on six thousand flights quick; everything else is as in params.yaml.
QUICK = {
    **TASK,
    "promotion": {"margin": 0.02},  # no stage reads it, and none may need to declare it
    "train": {"options": {"max_iter": 20}},
    "evaluate": {"bootstrap": 20, "importance_rows": 200, "importance_repeats": 1, "min_slice_rows": 100},
}


def contents(root: Path, *folders: str) -> dict[str, bytes]:
    """Every file of a folder, or of some folders in it, by its path; bytecode is left out."""
    paths = (path for name in folders or ("",) for path in (root / name).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


def said_by(work: Callable[[], object]) -> str:
    """The one line that the user is told."""
    with pytest.raises(UserError) as caught:
        work()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def lay_out(root: Path) -> Path:
    """A project on the small real sample: params.yaml, the five raw tables, the package's modules, the locks."""
    import mlops_pkg
    from mlops_pkg.core.params import merge

    root.mkdir(parents=True, exist_ok=True)
    params = merge(read_yaml(ROOT / "params.yaml"), QUICK)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    locks = ("requirements.txt", "requirements-pipeline.txt", "requirements-serve.txt", "environment.json")
    for name in ("settings.ini", "dvc.yaml", *locks):
        shutil.copy(ROOT / name, root)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(mlops_pkg.__file__).parent, root / "mlops_pkg", ignore=ignored, dirs_exist_ok=True)
    data = root / "data"
    with zipfile.ZipFile(TESTS / "sample.zip") as archive:
        archive.extractall(data)
    with zipfile.ZipFile(data / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(data / "flights.csv", "flights.csv")
    (data / "flights.csv").unlink()
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh project on the sample, with nothing built."""
    return lay_out(tmp_path / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on the sample with all five stages built. Read it; copy it before changing anything."""
    from mlops_pkg.core.stage import run_stage
    from mlops_pkg.core.workspace import Workspace

    root = lay_out(tmp_path_factory.mktemp("built") / "project")
    for stage in STAGES:
        run_stage(stage, Workspace(root))
    return root


@pytest.fixture
def copy_of_built(built: Path, tmp_path: Path) -> Path:
    """A copy of the built project that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "copy"))
