"""The proof sync: green on a sound project, red for each fault it exists for."""

import json
from pathlib import Path

import pytest

pytest.importorskip("nbdev")

from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.proof.sync import check_sync, import_closure, output_findings, stage_notebook, sync


def findings(root: Path) -> list[str]:
    """All findings, each after the name of its check."""
    return [f"{check.name}: {finding}" for check in check_sync(root) for finding in check.findings]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"the fault cannot be planted: {old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def only(found: list[str], *words: str) -> bool:
    """Whether there is one finding, and it holds all the words."""
    return len(found) == 1 and all(word in found[0] for word in words)


def test_sound_project_is_green_and_untouched(toy: Path) -> None:
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}

    assert findings(toy) == []

    after = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    assert after == before, "sync wrote to the tree"


def test_hand_edited_module_is_red_with_its_line(toy: Path) -> None:
    replace(toy / "mlops_pkg" / "core" / "rates.py", "RATE = 0.1", "RATE = 0.2")

    found = findings(toy)

    assert only(found, "package: mlops_pkg/core/rates.py", "RATE = 0.2", "RATE = 0.1"), found


def test_comment_added_by_hand_is_red(toy: Path) -> None:
    with (toy / "mlops_pkg" / "core" / "rates.py").open("a") as file:
        file.write("# mended by hand\n")

    found = findings(toy)

    assert only(found, "core/rates.py", "# mended by hand", "(end of file)"), found


def test_missing_and_extra_modules_are_red(toy: Path) -> None:
    (toy / "mlops_pkg" / "pipeline" / "train.py").unlink()
    (toy / "mlops_pkg" / "core" / "stray.py").write_text("")

    found = findings(toy)

    assert any("pipeline/train.py: missing" in finding for finding in found), found
    assert any("core/stray.py: no notebook exports it" in finding for finding in found), found


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ('overrides = {}\nout = "research"\nmax_iter = 200', "max_iter = 200"),
        ('overrides = {"train": {"max_iter": 200}}\nout = "research"', "overrides"),
        ('overrides = {}\nout = "artifacts"', "out = 'artifacts'"),
        ('overrides: dict = {}\nout = "research"', "overrides: dict = {}"),
        ("overrides = {}", "lacks `out = 'research'`"),
        ("overrides = {", "not valid Python"),
    ],
)
def test_parameters_cell_with_a_value_of_its_own_is_red(toy: Path, source: str, word: str) -> None:
    path = stage_notebook(toy, "train")
    content = json.loads(path.read_text())
    cell = next(cell for cell in content["cells"] if cell["metadata"].get("tags"))
    cell["source"] = source.splitlines(keepends=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

    found = findings(toy)

    assert any(f.startswith("parameters: nbs/pipeline/22_train.ipynb") and word in f for f in found), found


def test_lost_parameters_tag_is_red(toy: Path) -> None:
    replace(stage_notebook(toy, "train"), '"parameters"', '"parameter"')

    found = findings(toy)

    assert only(found, "0 cells are tagged `parameters`"), found


def test_unclean_notebook_is_red(toy: Path) -> None:
    replace(stage_notebook(toy, "train"), '"execution_count": null', '"execution_count": 7')

    found = findings(toy)

    assert only(found, "notebooks: nbs/pipeline/22_train.ipynb: not clean from line"), found


def test_torn_notebook_is_named(toy: Path) -> None:
    stage_notebook(toy, "train").write_text('{"cells": [')

    found = findings(toy)

    assert any("nbs/pipeline/22_train.ipynb: not a notebook" in finding for finding in found), found


def test_code_that_does_not_parse_is_a_finding_and_no_traceback(toy: Path) -> None:
    replace(toy / "nbs" / "core" / "00_rates.ipynb", "RATE = 0.1", "RATE = = 0.1")

    found = findings(toy)

    assert only(found, "package: nbs: nbdev cannot export", "SyntaxError"), found


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ({"text": ["wrote /a/project/artifacts"]}, "path /a/project"),
        ({"text": "x" * 50_001}, "50,001 bytes"),
        ({"data": {"text/html": ["y" * 60_000]}}, "bytes, more than 50,000"),
        ({"data": {"image/png": "z" * 200_001}}, "an image of 200,001 bytes"),
    ],
)
def test_stored_output_that_is_large_or_local_is_red(output: dict[str, object], word: str) -> None:
    assert word in " ".join(output_findings(output, Path("/a/project")))


@pytest.mark.parametrize(
    "output", [{"text": "/a/project-two is another place"}, {"data": {"image/png": "z" * 60_000}}, {"text": ""}]
)
def test_stored_output_that_is_small_and_placeless_is_fine(output: dict[str, object]) -> None:
    assert list(output_findings(output, Path("/a/project"))) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "word"),
    [
        ("README.md", "| `train`", "| train", "README.md: the table of stages has no row"),
        ("dvc.yaml", "mlops_pkg.core.stage train", "mlops_pkg.core.stage package", "dvc.yaml: stage train calls"),
        ("dvc.yaml", '"train": {', '"trian": {', "dvc.yaml: there is no stage train"),
        ("dvc.yaml", "research ${item}", "parity", "dvc.yaml: the walk of train calls"),
        ("dvc.yaml", '"foreach": [\n    "ingest"', '"foreach": [\n    "ingst"', "there is no stage notebook-ingest"),
        ("params.yaml", "\ntrain:", "\ntrian:", "params.yaml: there is no section train"),
        ("params.yaml", "\n  max_iter: ", "\n  max_iter: many  # ", "params: params.yaml: train.max_iter"),
    ],
)
def test_stage_that_is_missing_somewhere_is_red(toy: Path, file: str, old: str, new: str, word: str) -> None:
    replace(toy / file, old, new)

    found = findings(toy)

    assert any(word in finding for finding in found), found


def test_stage_without_its_notebook_is_red(toy: Path) -> None:
    stage_notebook(toy, "train").rename(toy / "nbs" / "pipeline" / "22_trian.ipynb")

    found = findings(toy)

    assert any("expected one notebook named NN_train.ipynb" in finding for finding in found), found


def test_imported_module_that_dvc_does_not_know_is_red(toy: Path) -> None:
    replace(toy / "dvc.yaml", '"mlops_pkg/core/rates.py",', "")

    found = findings(toy)

    assert only(found, "dependencies: dvc.yaml: ingest: add the dep mlops_pkg/core/rates.py"), found


def test_declared_module_that_nothing_imports_is_red(toy: Path) -> None:
    (toy / "mlops_pkg" / "core" / "idle.py").write_text("")
    replace(toy / "dvc.yaml", '"mlops_pkg/core/rates.py"', '"mlops_pkg/core/rates.py", "mlops_pkg/core/idle.py"')

    found = [finding for finding in findings(toy) if finding.startswith("dependencies")]

    assert only(found, "ingest: drop the dep mlops_pkg/core/idle.py"), found


def test_declared_folder_covers_its_modules(toy: Path) -> None:
    text = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(text.replace('"mlops_pkg/core/rates.py"', '"mlops_pkg/core"'))

    assert not any("add the dep mlops_pkg/core" in finding for finding in findings(toy))


def test_walk_may_be_a_stage_of_its_own(toy: Path) -> None:
    pipeline = json.loads((toy / "dvc.yaml").read_text())
    walk = pipeline["stages"].pop("notebook")
    for stage in walk["foreach"]:
        pipeline["stages"][f"notebook-{stage}"] = {"cmd": f"python -m mlops_pkg research {stage}"}
    (toy / "dvc.yaml").write_text(json.dumps(pipeline))

    assert findings(toy) == []


def test_closure_follows_imports_in_functions_and_not_those_for_type_checkers(tmp_path: Path) -> None:
    package = tmp_path / "mlops_pkg"
    for folder in ("core", "pipeline"):
        (package / folder).mkdir(parents=True)
    (package / "core" / "stage.py").write_text("import mlops_pkg.core.direct\n")
    (package / "pipeline" / "train.py").write_text(
        "def run():\n    from ..core.late import x\n    from ..core import alias\n"
    )
    (package / "core" / "late.py").write_text("if TYPE_CHECKING:\n    from .typed import y\nfrom .deep import z\n")
    for name in ("direct", "alias", "deep", "typed"):
        (package / "core" / f"{name}.py").write_text("")

    closure = import_closure("train", tmp_path)

    names = {"core/stage", "pipeline/train", "core/direct", "core/late", "core/alias", "core/deep"}
    assert closure == {f"mlops_pkg/{name}.py" for name in names}


def test_project_without_dvc_yaml_is_red_and_no_traceback(toy: Path) -> None:
    (toy / "dvc.yaml").unlink()

    found = findings(toy)

    assert any(finding.startswith("dependencies: dvc.yaml: there is no such file") for finding in found), found


def test_two_notebooks_of_one_stage_are_an_error(toy: Path) -> None:
    (toy / "nbs" / "pipeline" / "29_train.ipynb").write_text("{}")

    with pytest.raises(UserError, match=r"22_train.ipynb, 29_train.ipynb"):
        stage_notebook(toy, "train")


def test_report_is_written_and_the_table_names_each_finding(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(toy / "mlops_pkg" / "core" / "rates.py", "RATE = 0.1", "RATE = 0.2")

    ok = sync(Workspace(toy))

    written = json.loads((toy / "reports" / "sync.json").read_text())
    assert not ok
    assert not written["ok"]
    assert written["checks"][0].keys() == {"check", "ok", "findings"}
    printed = capsys.readouterr().out
    assert "red: 1 finding\n" in printed
    assert "RATE = 0.2" in printed
