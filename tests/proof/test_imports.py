"""What code reaches: imports and reads, told from the text alone."""

import ast
from pathlib import Path

import pytest
import yaml

from mlops_pkg.project.imports import dependency_findings, import_closure, named_modules, needs_of, reads_of


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

    closure = import_closure([package / "core" / "stage.py", package / "pipeline" / "train.py"], tmp_path)

    names = {"core/stage", "pipeline/train", "core/direct", "core/late", "core/alias", "core/deep"}
    assert closure == {f"mlops_pkg/{name}.py" for name in names}


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ('workspace.input("ingest", "train.parquet")', {"artifacts/ingest/train.parquet"}),
        ('workspace.input("ingest", f"{name}.parquet")', set()),
        ("workspace.input(stage, name)", set()),
        ('form.input("a")', set()),
        ("listing(workspace.data)", {"data"}),
        ("params.data.target", set()),
    ],
)
def test_reads_are_those_that_are_written_out(code: str, read: set[str]) -> None:
    assert reads_of(ast.parse(code)) == read


OWN = {
    "features": {"steps": [{"use": "OneHotEncoder"}, {"use": "shed.own.ClipToSeen"}]},
    "train": {"estimator": "shed.guess.Frequent", "options": {"note": "a shed. An own.one/"}},
    "search": {"space": {"shed.tree.Tree": {}}, "first": [{"estimator": "shed.first.Tree"}]},
    "data": {"source": {"package": "shed.missing.Class"}},
}


ALL = {f"shed/{name}.py" for name in ("own", "helper", "guess", "tree", "first")}


@pytest.fixture
def shed(tmp_path: Path) -> Path:
    """A project with three stages, two modules of its own that only params.yaml names, and one that they import."""
    (tmp_path / "shed" / "pipeline").mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = shed\n")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(OWN))
    for name, code in {
        "own": "from shed.helper import x\n",
        "guess": "",
        "tree": "",
        "first": "",
        "helper": "",
        "pipeline/params": "",
        "pipeline/ingest": "from mlops_pkg.core.splits import write\n",
        "pipeline/features": "from mlops_pkg.modelling.features import transform\n",
        "pipeline/evaluate": "from mlops_pkg.modelling.models import read_model\n",
        "pipeline/search": "from mlops_pkg.modelling.search import run_search\n",
    }.items():
        (tmp_path / "shed" / f"{name}.py").write_text(code)
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("ingest", set()),
        ("features", {"shed/own.py", "shed/helper.py"}),
        ("evaluate", ALL),
        ("search", ALL),
        ("parity", ALL),
    ],
)
def test_a_module_that_params_yaml_names_belongs_to_each_stage_that_loads_models(
    shed: Path, stage: str, own: set[str]
) -> None:
    needs = needs_of(stage, ["ingest", "features", "search", "evaluate"], shed)

    assert needs is not None
    assert {name for name in needs[0] if "pipeline" not in name} == own
    found = list(dependency_findings({"deps": sorted(needs[0] - own)}, *needs))
    assert found == [f"add the dep {name}: it is imported" for name in sorted(own)]


def test_names_of_classes_are_those_of_modules_in_the_project(shed: Path) -> None:
    assert {path.name for path in named_modules(OWN, shed)} == {
        "own.py",
        "guess.py",
        "tree.py",
        "first.py",
    }
