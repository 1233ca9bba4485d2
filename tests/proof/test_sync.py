"""The proof sync: green on a sound project, red for each fault that it should find."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("nbdev")

from mlops_pkg.core.environment import write_environment
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.project.files import stage_notebook
from mlops_pkg.proof.sync import (
    Check,
    check_dependencies,
    check_environment,
    check_order,
    check_parameters,
    check_stages,
    check_sync,
    output_findings,
    sync,
)
from tests.proof.conftest import only, replace


def findings(root: Path) -> list[str]:
    """Return all findings, each after the name of its check."""
    return [f"{check.name}: {finding}" for check in check_sync(root) for finding in check.findings]


def of(check: Check) -> list[str]:
    """Return the findings of one check, each after its name; quicker than all checks, which export the project."""
    return [f"{check.name}: {finding}" for finding in check.findings]


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
    stray = ("core/stray.py", "core/stray.css", "core/static/stray.py")
    (toy / "mlops_pkg" / "core" / "static").mkdir()
    for name in (*stray, "core/static/page.css"):
        (toy / "mlops_pkg" / name).write_text("")

    found = findings(toy)

    assert any("pipeline/train.py: missing" in finding for finding in found), found
    for name in stray:
        assert any(f"{name}: no notebook exports it" in finding for finding in found), found
    assert not any("page.css" in finding for finding in found), "data in a folder named static is no module"


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

    package, *found = findings(toy)

    assert only([package], "package: nbs: nbdev cannot export", "SyntaxError"), package
    assert only(found, "order: nbs/core/00_rates.ipynb: cell step-2: not valid Python", "(line 2)"), found


def test_module_that_does_not_parse_is_a_finding_with_its_line(toy: Path) -> None:
    replace(toy / "mlops_pkg" / "pipeline" / "train.py", "import json", "<<<<<<< ours\nimport json")

    found = of(check_dependencies(toy))

    assert only(found, "mlops_pkg/pipeline/train.py: not valid Python", "(line "), found


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
        ("dvc.yaml", "research train", "parity", "dvc.yaml: stage notebook-train calls"),
        ("dvc.yaml", '"notebook-ingest"', '"notebook-ingst"', "there is no stage notebook-ingest"),
        ("dvc.yaml", '"notebook-ingest"', '"notebook@ingest"', "there is no stage notebook-ingest"),
        ("params.yaml", "\ntrain:", "\ntrian:", "params.yaml: there is no section train"),
        ("params.yaml", "\n  linear_alpha: ", "\n  linear_alpha: many  # ", "params: params.yaml: train.linear_alpha"),
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


@pytest.mark.parametrize(
    ("stage", "dep", "why"),
    [
        ("train", "mlops_pkg/core/rates.py", "imported"),
        ("train", "mlops_pkg/core/stage.py", "imported"),
        ("notebook-train", "mlops_pkg/core/rates.py", "imported"),
        ("notebook-train", "mlops_pkg/project/research.py", "imported"),
        ("notebook-train", "nbs/pipeline/22_train.ipynb", "read"),
    ],
)
def test_undeclared_dependency_is_red(toy: Path, stage: str, dep: str, why: str) -> None:
    pipeline = json.loads((toy / "dvc.yaml").read_text())
    pipeline["stages"][stage]["deps"].remove(dep)
    (toy / "dvc.yaml").write_text(json.dumps(pipeline))

    found = of(check_dependencies(toy))

    assert only(found, f"dependencies: dvc.yaml: {stage}: add the dep {dep}: it is {why}"), found


@pytest.mark.parametrize(
    ("name", "module"), [("parity", "mlops_pkg/proof/parity.py"), ("report", "mlops_pkg/report/page.py")]
)
def test_proofs_declare_their_modules(toy: Path, name: str, module: str) -> None:
    pipeline = json.loads((toy / "dvc.yaml").read_text())
    pipeline["stages"][name] = {
        "cmd": f"python -m mlops_pkg {name}",
        "deps": [module, "mlops_pkg/core/rates.py", "mlops_pkg/pipeline/params.py"],
    }
    (toy / "dvc.yaml").write_text(json.dumps(pipeline))
    (toy / module).parent.mkdir()
    (toy / module).write_text("from ..core import rates, stage\nfrom ..pipeline import params\n")

    found = of(check_dependencies(toy))

    assert only(found, f"dvc.yaml: {name}: add the dep mlops_pkg/core/stage.py"), found


def test_output_that_a_walk_reads_undeclared_is_red(toy: Path) -> None:
    replace(stage_notebook(toy, "train"), "print('rate', RATE)", "workspace.input('ingest', 'train.parquet')")

    found = of(check_dependencies(toy))

    assert only(found, "notebook-train: add the dep artifacts/ingest/train.parquet: it is read"), found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("stages: [1]", "stages: expected a mapping from names to stages, found list"),
        ("stages:", "stages: expected a mapping from names to stages, found nothing"),
        ("stages: {train: }", "stages.train: expected a mapping with cmd, deps and outs, found nothing"),
        ("stages: {train: {cmd: x, deps: data}}", "stages.train.deps: expected a list of paths"),
        ("stages: {train: {cmd: x, outs: [1]}}", "stages.train.outs: expected a list of paths"),
    ],
)
def test_dvc_yaml_of_another_shape_is_a_finding_and_no_traceback(toy: Path, text: str, word: str) -> None:
    (toy / "dvc.yaml").write_text(text)

    assert of(check_dependencies(toy)) == [f"dependencies: dvc.yaml: {word}"]
    assert f"dvc.yaml: {word}" in check_stages(toy).findings


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ({"cell_type": "code", "id": "load"}, "cell 1 (load) has no source"),
        ({"cell_type": "code", "source": [1]}, "cell 1 (without an id) has no source"),
        ({"source": ""}, "has no cell_type"),
        ({"cell_type": "code", "id": "load", "source": "", "metadata": []}, "cell 1 (load) has no metadata"),
        ({"cell_type": "code", "id": "load", "source": "", "outputs": 1}, "cell 1 (load) has no list of outputs"),
        (5, "cell 1 (of another kind) has no cell_type"),
    ],
)
def test_cell_of_another_shape_is_a_finding_that_names_it(toy: Path, cell: object, word: str) -> None:
    stage_notebook(toy, "train").write_text(json.dumps({"cells": [cell]}))

    found = findings(toy)

    assert any("nbs/pipeline/22_train.ipynb: not a notebook" in finding and word in finding for finding in found), found


@pytest.mark.parametrize("module", ["mlops_pkg.pipeline.evaluate", "mlops_pkg.pipeline.train"])
def test_import_from_a_later_notebook_is_red(toy: Path, module: str) -> None:
    package, _, name = module.rpartition(".")
    replace(stage_notebook(toy, "train"), "print('rate', RATE)", f"from {package} import {name}")

    found = of(check_order(toy))

    assert only(found, "order: nbs/pipeline/22_train.ipynb", f"imports {module}, which comes later"), found


def test_import_for_type_checkers_alone_may_come_from_later(toy: Path) -> None:
    late = "from mlops_pkg.pipeline import evaluate"
    replace(stage_notebook(toy, "train"), "print('rate', RATE)", f"if TYPE_CHECKING:\\n    {late}")

    assert of(check_order(toy)) == []


def test_notebook_without_a_number_is_red_and_the_tour_is_not(toy: Path) -> None:
    shutil.copyfile(stage_notebook(toy, "train"), toy / "nbs" / "scratch.ipynb")
    shutil.copyfile(toy / "nbs" / "core" / "00_rates.ipynb", toy / "nbs" / "index.ipynb")

    found = of(check_order(toy))

    assert only(found, "order: nbs/scratch.ipynb: name it NN_name.ipynb"), found


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda cells: cells.pop(0), "the first cell does not begin with `# ` and a title"),
        (lambda cells: cells[0].update(source=["## train"]), "the first cell does not begin with `# ` and a title"),
        (lambda cells: cells[-1].update(source=["1\n"] * 41), "cell step-5: 41 lines, more than 40"),
        (lambda cells: cells.extend({**cells[0], "id": f"x{n}"} for n in range(40)), "46 cells, more than 45"),
    ],
)
def test_notebook_that_is_hard_to_read_is_red(
    toy: Path, change: Callable[[list[dict[str, object]]], None], word: str
) -> None:
    path = stage_notebook(toy, "train")
    content = json.loads(path.read_text())
    change(content["cells"])
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

    found = findings(toy)

    assert any(f.startswith("notebooks: nbs/pipeline/22_train.ipynb") and word in f for f in found), found


def test_full_parameters_cell_is_told_the_other_way(toy: Path) -> None:
    replace(stage_notebook(toy, "train"), "overrides = {}", "overrides = {'seed': 2}")

    found = of(check_parameters(toy))

    assert only(found, "empty it again, or walk with `mlops_pkg research STAGE --set key=value`"), found


def test_declared_module_that_nothing_imports_is_red(toy: Path) -> None:
    (toy / "mlops_pkg" / "core" / "idle.py").write_text("")
    replace(toy / "dvc.yaml", '"mlops_pkg/core/rates.py"', '"mlops_pkg/core/rates.py", "mlops_pkg/core/idle.py"')

    found = of(check_dependencies(toy))

    assert only(found, "ingest: drop the dep mlops_pkg/core/idle.py"), found


def test_declared_folder_covers_its_modules(toy: Path) -> None:
    text = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(text.replace('"mlops_pkg/core/rates.py"', '"mlops_pkg/core"'))

    assert not any("add the dep mlops_pkg/core" in finding for finding in findings(toy))


def test_environment_that_is_not_the_lock_is_red(toy: Path) -> None:
    environment = json.loads((toy / "environment.json").read_text())
    environment["numpy"] = "2.4.0"
    del environment["pandas"]
    environment["idle"] = "1.0"
    (toy / "environment.json").write_text(json.dumps(environment))

    idle, numpy, pandas = of(check_environment(toy))

    mend = "run `python -m mlops_pkg.core.environment`"
    assert idle == f"environment: environment.json: idle is 1.0, no lock file pins it; {mend}"
    assert only([numpy], "environment.json: numpy is 2.4.0, 2.", f" is locked; {mend}"), numpy
    assert only([pandas], "environment.json: pandas is missing, 3.", f" is locked; {mend}"), pandas


def test_library_that_is_installed_in_another_version_is_red(toy: Path) -> None:
    import numpy

    locks = [toy / f"requirements-{extra}.txt" for extra in ("pipeline", "serve")]
    for lock in locks:
        replace(lock, f"numpy=={numpy.__version__}", "numpy==2.0.0")
    replace(locks[0], "six==", "no-such-library==")
    write_environment(toy)

    found = of(check_environment(toy))

    mend = "is locked; run `make -B setup`"
    assert only(found[:1], "environment: no-such-library is not installed, 1.", mend), found
    assert only(found[1:], f"environment: numpy {numpy.__version__} is installed, 2.0.0 {mend}"), found


def test_a_library_of_the_endpoint_that_was_locked_anew_alone_is_red(toy: Path) -> None:
    lock = toy / "requirements-serve.txt"
    lock.write_text(re.sub(r"^uvicorn==\S+", "uvicorn==0.99.0", lock.read_text(), flags=re.MULTILINE))

    found = of(check_environment(toy))

    assert only(found[:1], "environment: environment.json: uvicorn is 0.", "0.99.0 is locked; run `python -m"), found
    assert only(found[1:], "environment: uvicorn 0.", "is installed, 0.99.0 is locked; run `make -B setup`"), found


@pytest.mark.parametrize("content", [None, "{", "[]", '{"numpy": 2}'])
def test_environment_that_cannot_be_read_is_a_finding_and_no_traceback(toy: Path, content: str | None) -> None:
    (toy / "environment.json").unlink()
    if content is not None:
        (toy / "environment.json").write_text(content)

    found = of(check_environment(toy))

    assert only(found, "environment.json: ", "run `python -m mlops_pkg.core.environment`"), found


def test_declared_library_that_is_unknown_or_not_the_walks_is_red(toy: Path) -> None:
    pipeline = json.loads((toy / "dvc.yaml").read_text())
    pipeline["stages"]["train"]["params"] = ["seed", {"environment.json": ["scikit-lern"]}]
    (toy / "dvc.yaml").write_text(json.dumps(pipeline))

    unknown, walk = of(check_environment(toy))

    assert only([unknown], "dvc.yaml: train: scikit-lern is not in environment.json", "'scikit-learn'"), unknown
    assert only([walk], "dvc.yaml: notebook-train: its libraries are not those of train: scikit-lern"), walk


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


def test_other_line_endings_are_one_line(toy: Path) -> None:
    for path in (*(toy / "nbs").rglob("*.ipynb"), *(toy / "mlops_pkg").rglob("*.py"), toy / "params.yaml"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    found = findings(toy)

    assert only(found, "endings: nbs/", " more files: lines end with CR LF; keep `* text=auto eol=lf`"), found


def test_two_cells_of_one_id_are_red(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    replace(path, '"id": "step-5"', '"id": "step-4"')

    found = findings(toy)

    assert any("22_train.ipynb: 2 cells have the id step-4; cut all but one" in finding for finding in found), found


def test_a_copy_of_a_notebook_is_red(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    shutil.copy(path, path.with_name("22_train-Copy1.ipynb"))
    text = path.read_text().replace("#| default_exp pipeline.train", "").replace("#| export", "")
    (toy / "nbs" / "notes-Copy2.ipynb").write_text(text)

    found = [finding for finding in findings(toy) if "Copy" in finding and "is a copy" not in finding]

    assert any("22_train-Copy1.ipynb: exports pipeline.train as 22_train.ipynb does" in one for one in found), found
    assert any("notes-Copy2.ipynb: a copy; delete it" in one for one in found), found


def test_an_unfinished_merge_is_told_as_such(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    replace(path, ' "cells": [', '<<<<<<< HEAD\n "cells": [')

    found = findings(toy)

    told = "22_train.ipynb: an unfinished merge: conflict marks from line 2 on; `git merge --abort`"
    assert any(told in finding for finding in found), found
