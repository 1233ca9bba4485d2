"""A toy project with five tiny stages: enough for every proof, and quick."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import STAGES

PROJECT = Path(__file__).parents[2]


def replace(path: Path, old: str, new: str) -> None:
    """Plant a fault: the first place of a text in a file becomes another."""
    text = path.read_text()
    assert old in text, f"the fault cannot be planted: {old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def only(found: list[str], *words: str) -> bool:
    """Return whether there is exactly one finding, and it contains all the words."""
    return len(found) == 1 and all(word in found[0] for word in words)


def notebook(*cells: tuple[str, str]) -> str:
    """A notebook of the given cells, each a kind (markdown, code or parameters) and its source."""
    written = []
    for number, (kind, source) in enumerate(cells):
        cell = {"cell_type": "markdown" if kind == "markdown" else "code", "id": f"step-{number}", "metadata": {}}
        cell["source"] = source.splitlines(keepends=True)
        if kind != "markdown":
            cell |= {"outputs": [], "execution_count": None}
        if kind == "parameters":
            cell["metadata"] = {"tags": ["parameters"]}
        written.append(cell)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    content = {"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def stage_cells(stage: str) -> list[tuple[str, str]]:
    """A stage that writes one small file."""
    return [
        ("markdown", f"# {stage}\n\n> A toy stage"),
        ("code", f"#| default_exp pipeline.{stage}"),
        ("code", "#| export\nimport json\nfrom pathlib import Path\n\nfrom mlops_pkg.core.rates import RATE"),
        ("parameters", 'overrides = {}\nout = "research"'),
        ("code", f"folder = Path(out) / '{stage}'\nfolder.mkdir(parents=True)"),
        ("code", "(folder / 'rates.json').write_text(json.dumps({'rate': RATE}))\nprint('rate', RATE)"),
    ]


def pipeline() -> str:
    """The toy's dvc.yaml."""
    modules = ["mlops_pkg/core/rates.py", "mlops_pkg/core/stage.py", "mlops_pkg/pipeline/params.py"]
    walked = [*modules, "mlops_pkg/project/research.py"]
    stages = {
        stage: {
            "cmd": f"python -m mlops_pkg.core.stage {stage}",
            "deps": [*modules, f"mlops_pkg/pipeline/{stage}.py"],
            "outs": [f"artifacts/{stage}/rates.json"],
        }
        for stage in STAGES
    }
    walks = {
        f"notebook-{stage}": {
            "cmd": f"python -m mlops_pkg research {stage}",
            "deps": [*walked, f"nbs/pipeline/{number}_{stage}.ipynb"],
        }
        for number, stage in enumerate(STAGES, start=20)
    }
    return json.dumps({"stages": {**stages, **walks}}, indent=1)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nbdev")
    from mlops_pkg.proof.sync import fresh_export

    root, fresh = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("fresh")
    for name in (
        "settings.ini",
        "params.yaml",
        "requirements-pipeline.txt",
        "requirements-serve.txt",
        "environment.json",
    ):
        shutil.copyfile(PROJECT / name, root / name)
    for folder in ("core", "pipeline"):
        (root / "nbs" / folder).mkdir(parents=True)
    (root / "nbs" / "project").mkdir()
    modules = (
        ("core", "00", "rates", "RATE = 0.1"),
        ("core", "01", "stage", "STAGES = 5"),
        ("project", "32", "research", "WALKS = True"),
    )
    for folder, number, name, source in modules:
        cells = [
            ("markdown", f"# {name}"),
            ("code", f"#| default_exp {folder}.{name}"),
            ("code", f"#| export\n{source}"),
        ]
        (root / "nbs" / folder / f"{number}_{name}.ipynb").write_text(notebook(*cells))
    shutil.copy(PROJECT / "nbs" / "pipeline" / "10_params.ipynb", root / "nbs" / "pipeline")
    for number, stage in enumerate(STAGES, start=20):
        (root / "nbs" / "pipeline" / f"{number}_{stage}.ipynb").write_text(notebook(*stage_cells(stage)))
    (root / "dvc.yaml").write_text(pipeline())
    (root / "README.md").write_text("| stage | does |\n| --- | --- |\n" + "".join(f"| `{s}` | it |\n" for s in STAGES))
    fresh_export(root, fresh)
    shutil.copytree(fresh / "mlops_pkg", root / "mlops_pkg")
    shutil.copytree(fresh / "nbs", root / "nbs", dirs_exist_ok=True)
    return root


@pytest.fixture
def toy(template: Path, tmp_path: Path) -> Path:
    """A copy of the toy project, to plant faults in."""
    return Path(shutil.copytree(template, tmp_path / "toy"))


@pytest.fixture(scope="session")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a true record. Read it; copy it before changing anything."""
    pytest.importorskip("onnx")
    from tests.proof.origins import lay_out_toy

    return lay_out_toy(tmp_path_factory.mktemp("origins") / "project")


@pytest.fixture
def toy_origins(origins: Path, tmp_path: Path) -> Path:
    """A copy of the project with a true record, to plant faults in."""
    return Path(shutil.copytree(origins, tmp_path / "origins" / "project")).resolve()


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of the built project with a tenth of its test and live rows."""
    import pandas as pd

    from mlops_pkg.core.workspace import read_table, write_table

    root = Path(shutil.copytree(built, tmp_path / "project"))
    stored = read_table(root / "artifacts" / "evaluate" / "predictions.parquet")
    kept = []
    for split in ("test", "live"):
        path = root / "artifacts" / "ingest" / f"{split}.parquet"
        rows = read_table(path).head(60)
        kept.append(stored[(stored["split"] == split) & stored["line"].isin(rows["line"])])
        write_table(path, rows)
    write_table(root / "artifacts" / "evaluate" / "predictions.parquet", pd.concat(kept, ignore_index=True))
    return root
