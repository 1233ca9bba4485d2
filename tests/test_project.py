"""The project itself keeps the rules that it checks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_pkg.core.stage import stage_names
from mlops_pkg.proof.sync import check_sync
from tests.conftest import ROOT

BUNDLE = "artifacts/package"  # where every project has its bundle
TEMPLATE = {  # what writes the default project, or offers it
    "authoring/command.py",
    "authoring/proposal.py",
    "authoring/single_table.py",
}
SPLIT_OR_CHECK = {"train", "package", "features"}  # the names of a split, of a check of sync, and of a graph's output


def test_this_project_is_in_sync() -> None:
    checks = check_sync(ROOT)

    assert len(checks) >= 6
    assert [f"{check.name}: {finding}" for check in checks for finding in check.findings] == []


def named_stages(code: str) -> Iterator[tuple[int, str]]:
    """The lines of a module at which it names a stage of the flights: in a text, as an import, or of the params."""
    stages = "|".join(stage_names(ROOT))
    tree = ast.parse(code)
    told = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and documented(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            text = node.value.replace(BUNDLE, "")
            placed = re.search(rf"(artifacts|research|pipeline)[/.]({stages})\b|\bflights\b", text)
            if placed or (re.fullmatch(stages, text) and text not in SPLIT_OR_CHECK):
                yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and re.search(r"(^|mlops_pkg\.)pipeline(\.|$)", node.module or ""):
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Attribute) and re.fullmatch(rf"params\.({stages})", ast.unparse(node)):
            yield node.lineno, ast.unparse(node)


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documented(node: ast.AST) -> bool:
    return ast.get_docstring(node, clean=False) is not None  # type: ignore[arg-type]


def test_no_module_of_the_library_names_a_stage_of_the_flights() -> None:
    package = ROOT / "mlops_pkg"
    modules = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "pipeline"]
    library = {path.relative_to(package).as_posix(): path for path in modules if path.name != "_modidx.py"}

    found = [
        f"{name}: line {line}: {text}"
        for name, path in library.items()
        if name not in TEMPLATE
        for line, text in named_stages(Path(path).read_text(encoding="utf-8"))
    ]

    assert len(library) > 80
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "path = 'artifacts/train/model.skops'",
        "from mlops_pkg.pipeline.train import run",
        "stage = 'evaluate'",
        "share = params.ingest.max_reject_share",
        "file = 'flights.csv'",
    ],
)
def test_a_stage_that_is_named_is_found(code: str) -> None:
    assert len(list(named_stages(code))) == 1
