"""The proof rebuild on the real stages, with the small sample under DVC."""

import pytest

from mlops_pkg.core.workspace import read_json
from tests.conftest import STAGES
from tests.slow.conftest import Project

pytestmark = pytest.mark.slow


def test_every_real_stage_is_made_again_from_what_it_declares(reproduced: Project) -> None:
    done = reproduced.run("mlops_pkg", "rebuild")

    found = read_json(reproduced.root / "reports" / "rebuild.json")
    assert found["ok"], done.stdout
    assert [stage["stage"] for stage in found["stages"]] == list(STAGES)
    assert sum(len(stage["outputs"]) for stage in found["stages"]) == len(reproduced.digests()) == 40
    assert reproduced.run("git", "status", "--porcelain", "--", "mlops_pkg", "params.yaml").stdout == ""


def test_dvc_yaml_has_no_line_too_many_and_none_too_few(reproduced: Project) -> None:
    done = reproduced.run("mlops_pkg", "declared")

    assert done.stdout.count("dvc.yaml says so") == len(STAGES), done.stdout


def test_a_line_that_is_lost_is_red_in_rebuild_and_told_by_declared(reproduced: Project) -> None:
    path = reproduced.root / "dvc.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("params: [task, seed, data, train,", "params: [task, data, train,", 1))
    try:
        reproduced.run("dvc", "commit", "--force", "train")
        red = reproduced.run("mlops_pkg", "rebuild", "train", check=False)
        told = reproduced.run("mlops_pkg", "declared", "train", check=False)
    finally:
        path.write_text(whole)

    assert (red.returncode, told.returncode) == (1, 1)
    assert "params.yaml: seed: not declared; add `seed` to the params of this stage in dvc.yaml" in red.stdout
    assert "+ params: seed" in told.stdout
