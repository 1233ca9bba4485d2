"""What code reaches: imports and reads, told from the text alone."""

import ast
from pathlib import Path

import pytest

from mlops_pkg.project.imports import import_closure, reads_of


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
