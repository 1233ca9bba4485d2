"""A stage is added, renamed and removed in every place, and nothing is lost."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlops_pkg.authoring.stages import (
    add_stage,
    declare_section,
    drop_block,
    insert_block,
    remove_stage,
    rename_stage,
    undeclare_section,
)
from mlops_pkg.core.stage import stage_names
from mlops_pkg.core.workspace import Workspace, read_json, read_table
from mlops_pkg.project.files import declared_outputs
from mlops_pkg.proof.parity import compare_output
from mlops_pkg.proof.sync import fresh_export
from tests.authoring.conftest import commit
from tests.conftest import ROOT, contents, said_by

TEXTS = ("README.md", "dvc.yaml", "params.yaml")
SIDES = ("nbs", "shed", "tests")


def run(root: Path, *words: str) -> str:
    """Run a module in the project, in a process of its own, and return its output; it must succeed."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=root / "nbs", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def findings(root: Path) -> list[str]:
    """Return the findings of `sync`."""
    subprocess.run([sys.executable, "-m", "mlops_pkg", "sync"], cwd=root, capture_output=True, check=False)
    checks = read_json(root / "reports" / "sync.json")["checks"]
    return [f"{check['check']}: {text}" for check in checks for text in check["findings"]]


@pytest.fixture(scope="session")
def shed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project whose package is `shed`, built on the sample, with the library installed beside it."""
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("shed") / "project")).resolve()
    shutil.rmtree(root / "mlops_pkg")
    for name in ("README.md", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, root)
    (root / "nbs" / "pipeline").mkdir(parents=True)
    for path in (ROOT / "nbs" / "pipeline").glob("*.ipynb"):
        text = path.read_text().replace("mlops_pkg.pipeline", "shed.pipeline")
        (root / "nbs" / "pipeline" / path.name).write_text(text)
    settings = (ROOT / "settings.ini").read_text()
    (root / "settings.ini").write_text(re.sub(r"^(lib_name|lib_path) = .*$", r"\1 = shed", settings, flags=re.M))
    lines = (ROOT / "dvc.yaml").read_text().replace("mlops_pkg/pipeline", "shed/pipeline").splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith("- mlops_pkg")]
    (root / "dvc.yaml").write_text("".join(kept))
    fresh = tmp_path_factory.mktemp("fresh")
    fresh_export(root, fresh)
    shutil.copytree(fresh / "shed", root / "shed")
    shutil.copytree(fresh / "nbs", root / "nbs", dirs_exist_ok=True)
    (root / "tests").mkdir()
    commit(root)
    return root


@pytest.fixture
def stages(shed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy that project, and make it the current folder, from which nbdev reads the settings."""
    root = Path(shutil.copytree(shed, tmp_path / "project")).resolve()
    monkeypatch.chdir(root)
    return root


def test_an_added_stage_stands_everywhere_and_runs_and_walks_alike(stages: Path) -> None:
    assert findings(stages) == []

    add_stage(stages, "bands", "features")
    run(stages, "mlops_pkg.core.stage", "bands")
    run(stages, "mlops_pkg", "research", "bands")

    assert stage_names(stages) == ("ingest", "features", "bands", "train", "evaluate", "package")
    assert findings(stages) == []
    rows = len(read_table(stages / "artifacts" / "features" / "train.parquet"))
    assert read_json(stages / "artifacts" / "bands" / "bands.json")["rows"] == rows
    assert declared_outputs(stages)["bands"] == ["bands.json"]
    assert compare_output("bands", "bands.json", Workspace(stages)).equal
    assert yaml.safe_load((stages / "params.yaml").read_text())["bands"] == {}


def test_its_removal_leaves_no_trace(stages: Path) -> None:
    before = contents(stages, *SIDES) | {name: (stages / name).read_bytes() for name in TEXTS}
    add_stage(stages, "bands", "features")
    run(stages, "mlops_pkg.core.stage", "bands")

    told = said_by(lambda: remove_stage(stages, "bands"))
    remove_stage(stages, "bands", force=True)

    assert "21a_bands.ipynb: it is not committed and would be lost" in told
    after = contents(stages, *SIDES) | {name: (stages / name).read_bytes() for name in TEXTS}
    assert after == before
    assert not (stages / "artifacts" / "bands").exists()


def test_a_search_begins_with_the_present_settings_and_its_removal_puts_them_back(stages: Path) -> None:
    before = contents(stages, *SIDES) | {name: (stages / name).read_bytes() for name in ("README.md", "dvc.yaml")}
    values = yaml.safe_load((stages / "params.yaml").read_text())
    present = {name: values["train"][name] for name in ("estimator", "options")}

    add_stage(stages, "search", "features")
    added = yaml.safe_load((stages / "params.yaml").read_text())
    plots = yaml.safe_load((stages / "dvc.yaml").read_text())["stages"]["search"]["plots"]
    templates = {options["template"] for plot in plots for options in plot.values()}
    assert {path.stem for path in (stages / ".dvc" / "plots").iterdir()} >= templates
    remove_stage(stages, "search", force=True)

    assert added["search"]["first"] == [present]
    assert "options" not in added["train"]
    after = contents(stages, *SIDES) | {name: (stages / name).read_bytes() for name in ("README.md", "dvc.yaml")}
    assert after == before
    assert yaml.safe_load((stages / "params.yaml").read_text()) == values
    assert not (stages / ".dvc" / "plots" / "history.json").exists()


def test_a_search_stays_where_nothing_could_take_its_place(stages: Path) -> None:
    add_stage(stages, "search", "features")
    params = stages / "params.yaml"
    params.write_text(re.sub(r"(?m)^  first: .*\n", "", params.read_text()))

    told = said_by(lambda: remove_stage(stages, "search", force=True))
    params.write_text(params.read_text().replace("  estimator: search ", "  estimator: linear "))
    remove_stage(stages, "search", force=True)

    assert told == "search is still used: params.yaml: train.estimator = search; name an estimator instead"
    assert yaml.safe_load(params.read_text())["train"]["estimator"] == "linear"


def test_a_stage_that_others_read_stays_and_its_readers_are_named(stages: Path) -> None:
    before = contents(stages)

    with pytest.raises(Exception, match="features is still used") as caught:
        remove_stage(stages, "features")

    lines = str(caught.value).splitlines()
    assert "features is still used: dvc.yaml: train: artifacts/features/features.skops" in lines
    assert any("22_train.ipynb: cell" in line for line in lines)
    assert contents(stages) == before


def test_a_renamed_stage_is_green_under_its_new_name(stages: Path) -> None:
    add_stage(stages, "bands", "features")

    left = rename_stage(stages, "bands", "segments")
    run(stages, "mlops_pkg.core.stage", "segments")

    assert "bands" not in stage_names(stages)
    assert findings(stages) == []
    assert [path.name for path in (stages / "nbs" / "pipeline").glob("21a*")] == ["21a_segments.ipynb"]
    assert any(line.startswith("tests/test_bands.py: line") for line in left)


def test_a_stage_of_the_middle_can_be_renamed_for_all_its_readers(stages: Path) -> None:
    rename_stage(stages, "features", "columns")

    assert stage_names(stages) == ("ingest", "columns", "train", "evaluate", "package")
    assert [text for text in findings(stages) if "README" not in text] == []
    read = yaml.safe_load((stages / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    assert "artifacts/columns/features.skops" in read


@pytest.mark.parametrize(
    ("name", "after", "told"),
    [
        ("bands", "feature", "no stage is named 'feature'; did you mean 'features'?"),
        ("train", "features", "'train': dvc.yaml has this stage already"),
        ("Bands", "features", "'Bands': a stage is named by a word of Python, in lower case"),
        ("class", "features", "'class': a stage is named by a word of Python"),
        ("params", "features", "'params': the project uses this name for something else"),
        ("parity", "features", "'parity': the project uses this name for something else"),
        ("bands", "train", "train writes no table (.parquet)"),
    ],
)
def test_a_name_that_does_not_fit_is_one_line_and_nothing_is_written(
    stages: Path, name: str, after: str, told: str
) -> None:
    before = contents(stages)

    assert told in said_by(lambda: add_stage(stages, name, after))
    assert contents(stages) == before


def test_a_readme_without_the_row_is_told_before_anything_is_written(stages: Path) -> None:
    (stages / "README.md").write_text("# Nothing\n")
    before = contents(stages)

    assert "README.md: the table of stages has no row" in said_by(lambda: add_stage(stages, "bands", "features"))
    assert contents(stages) == before


def test_blocks_keep_comments_and_order() -> None:
    text = "# all\na:\n  x: 1\n\n# of b\nb:\n  y: 2\n"

    added = insert_block(text, "a", "c: {}")

    assert added == "# all\na:\n  x: 1\n\nc: {}\n\n# of b\nb:\n  y: 2\n"
    assert drop_block(added, "c") == text
    assert json.dumps(yaml.safe_load(added)) == '{"a": {"x": 1}, "c": {}, "b": {"y": 2}}'


def test_a_section_is_declared_where_all_are_in_a_list_of_either_form(stages: Path) -> None:
    text = (stages / "dvc.yaml").read_text()
    flow = next(
        line for line in text.splitlines() if line.startswith("    params: [task, seed, data, ingest, features,")
    )
    keys = flow.partition("[")[2].partition(", environment")[0].split(", ")
    rest = flow.partition("environment.json: ")[2].removesuffix("]")
    block = "\n".join(["    params:", *(f"      - {key}" for key in keys), f"      - environment.json: {rest}"])
    (stages / "dvc.yaml").write_text(text.replace(flow, block, 1))

    added = declare_section(stages, (stages / "dvc.yaml").read_text(), "bands", "features")

    assert "      - features\n      - bands\n      - train\n" in added
    assert added.count("features, bands, train") == text.count("features, train,") - 1 == 1, "and in its walk"
    assert undeclare_section(added, "bands") == (stages / "dvc.yaml").read_text()
