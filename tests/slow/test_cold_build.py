"""A clone in another folder, built from nothing on the full data, gives the digests that dvc.lock records."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slow.conftest import Project

pytestmark = pytest.mark.slow


def test_a_cold_build_in_another_folder_gives_the_recorded_digests(tmp_path: Path) -> None:
    here = Project(ROOT)
    here.run("git", "clone", "--quiet", str(ROOT), str(tmp_path / "somewhere" / "else"))
    clone = Project(tmp_path / "somewhere" / "else")
    recorded = clone.digests()

    clone.run("python", "-m", "mlops_pkg", "data")
    ran = clone.repro("package")

    assert ran == {"ingest", "features", "train", "evaluate", "package"}
    assert clone.digests() == recorded
    assert clone.run("git", "status", "--porcelain").stdout == "", "a cold build changed a tracked file"
