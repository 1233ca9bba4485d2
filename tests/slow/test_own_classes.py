"""A project with classes of its own, in a notebook: exported, declared, trained, proven; one that is random is red."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_pkg.core.params import merge, read_yaml
from mlops_pkg.core.workspace import read_table
from tests.conftest import PACKAGE
from tests.modelling.test_classes import OWN
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow
RANDOM = '''

class Guess(Frequent):
    """Answer with a share that nobody has seeded."""

    def fit(self, X, y):
        super().fit(X, y)
        self.share_ = float(np.random.default_rng().random())
        return self
'''
MODULE = f"{PACKAGE}/own.py"
STAGES = ("features", "train", "evaluate")


def write_notebook(path: Path, code: str) -> None:
    """Write a notebook that exports the code as the module `own`."""
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Own\n\n> Own"}]
    for name, source in (("default-exp", "#| default_exp own"), ("classes", f"#| export\n{code.strip()}")):
        cell = {"cell_type": "code", "id": name, "metadata": {}, "source": source}
        cells.append({**cell, "execution_count": None, "outputs": []})
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def edit(project: Project, **sections: Any) -> None:
    values = merge(read_yaml(project.root / "params.yaml"), sections)
    (project.root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def declare(project: Project, *stages: str) -> set[str]:
    """Add to dvc.yaml what `declared` prints for stages, and return its lines."""
    said = project.run("mlops_pkg", "declared", *stages, check=False).stdout
    path, added = project.root / "dvc.yaml", set()
    content = yaml.safe_load(path.read_text())
    for stage, lines in re.findall(r"^(\w+): uses .*\n((?:  [+-] .*\n)*)", said, re.MULTILINE):
        for kind, name in re.findall(r"\+ (deps|params): (\S+)", lines):
            content["stages"][stage][kind].append(name)
            added.add(f"{stage}: {kind}: {name}")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return added


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on the sample whose first step and whose estimator are classes of a notebook of its own."""
    project = make_project(tmp_path_factory.mktemp("own") / "project")
    write_notebook(project.root / "nbs" / "99_own.ipynb", OWN + RANDOM)
    project.run("nbdev_export")
    steps = read_yaml(project.root / "params.yaml")["features"]["steps"]
    clip = {"use": f"{PACKAGE}.own.ClipToSeen", "variables": ["distance"]}
    edit(project, features={"steps": [clip, *steps]}, train={"estimator": f"{PACKAGE}.own.Frequent", "options": None})
    return project


def test_a_class_whose_notebook_is_not_exported_is_one_line(project: Project) -> None:
    module = project.root / MODULE
    code = module.read_text()
    project.run("python", "-m", "mlops_pkg.core.stage", "ingest")
    module.unlink()

    done = project.run("python", "-m", "mlops_pkg.core.stage", "features", check=False)

    module.write_text(code)
    assert done.returncode == 1
    assert done.stderr == (
        f"params.yaml: features.steps[0].use = {PACKAGE}.own.ClipToSeen: no module {PACKAGE}.own; "
        "export its notebook with `make export`, and declare it in dvc.yaml\n"
    )


def test_sync_and_declared_tell_what_dvc_yaml_lacks_and_then_rebuild_is_green(project: Project) -> None:
    before = project.run("mlops_pkg", "sync", check=False).stdout
    project.repro("evaluate")
    red = project.run("mlops_pkg", "rebuild", "train", check=False).stdout
    added = declare(project, *STAGES)
    project.repro("evaluate")
    green = project.run("mlops_pkg", "rebuild", *STAGES)
    after = project.run("mlops_pkg", "sync", check=False).stdout

    for stage in (*STAGES, *(f"notebook-{stage}" for stage in STAGES), "parity"):
        assert f"dvc.yaml: {stage}: add the dep {MODULE}: it is imported" in before
    assert f"dvc.yaml: ingest: add the dep {MODULE}" not in before
    assert f"no module {PACKAGE}.own" in red
    assert {f"{stage}: deps: {MODULE}" for stage in STAGES} <= added
    assert "evaluate: params: features.steps" in added
    assert not any(f"dvc.yaml: {stage}: add the dep {MODULE}" in after for stage in STAGES)
    assert "what dvc.yaml declares makes the same bytes again" in green.stdout


def test_a_model_without_a_graph_is_packed_as_objects_and_proven(project: Project) -> None:
    refused = project.run("dvc", "repro", "package", check=False).stderr
    edit(project, package={"runtime": "python"})
    path = project.root / "dvc.yaml"
    lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.strip() == "- artifacts/package/model.onnx")
    lines[place : place + 1] = [
        lines[place].replace("model.onnx", name) for name in ("model.skops", "requirements.txt")
    ]
    path.write_text("".join(lines))
    declare(project, "package")
    project.repro("package")
    ours = ("python", "-m", "mlops_pkg")  # that of the project, which holds the classes
    project.run(*ours, "research", "package")
    parity = project.run(*ours, "parity", check=False).stdout
    rebuild = project.run(*ours, "rebuild", "package", check=False).stdout

    assert "replace artifacts/package/model.onnx by model.skops and requirements.txt" in refused
    assert re.search(r"objects, in batches +[\d,]+ +green", parity), parity
    assert re.search(r"objects, row by row +500 +green", parity), parity
    assert re.search(r"predictor, its requirements alone +[\d,]+ +green", parity), parity
    assert re.search(r"endpoint, Arrow +[\d,]+ +green", parity), parity
    assert re.search(r"package +model\.skops +green", parity), parity
    assert "makes the same bytes again" in rebuild, rebuild


def test_a_bundle_of_objects_is_read_by_who_trusts_its_types(project: Project) -> None:
    read_table(project.root / "artifacts" / "ingest" / "test.parquet").head(50).to_parquet(project.root / "in.parquet")
    trust = [part for name in ("ClipToSeen", "Frequent") for part in ("--trust", f"{PACKAGE}.own.{name}")]

    predict = ("python", "-m", "mlops_pkg", "predict", "in.parquet", "out.csv")
    refused = project.run(*predict, check=False)
    read = project.run(*predict, *trust, "--processes", "2")

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"model.skops: it holds types that are not trusted: {PACKAGE}.own.ClipToSeen, ")
    assert refused.stderr.count("\n") == 1
    assert read.stdout == "50 rows: 50 answered, 0 rejected\n"


def test_an_estimator_that_is_random_without_the_seed_is_red_by_the_name_of_its_file(project: Project) -> None:
    edit(project, train={"estimator": f"{PACKAGE}.own.Guess"})
    project.repro("train")

    done = project.run("mlops_pkg", "rebuild", "train", check=False)

    assert done.returncode == 1
    assert re.search(r"train +model\.skops +red", done.stdout), done.stdout
    assert re.search(r"train +baseline\.skops +green", done.stdout), done.stdout
