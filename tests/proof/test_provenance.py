"""The graph: what is recorded, what is declared, what is there now."""

import json
import shutil
from pathlib import Path

import pytest

from mlops_pkg.history.provenance import (
    Edge,
    Graph,
    classify,
    compare,
    exported_cells,
    read_commits,
    read_graph,
    stage_edges,
)
from mlops_pkg.project.lock import Locked, read_lock
from tests.proof.origins import PROJECT, commit, git, rewrite

TRACKED = ("settings.ini", "dvc.yaml", "dvc.lock", "params.yaml", "data.dvc", "requirements-pipeline.txt")


def states(graph: Graph) -> dict[tuple[str, str], str]:
    return {(edge.node, edge.stage): edge.state for edge in graph.edges if edge.state}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real project without its data and its artifacts, as git gives it."""
    root = tmp_path_factory.mktemp("clone").resolve()
    for name in TRACKED:
        shutil.copy(PROJECT / name, root)
    for name in ("nbs", "mlops_pkg"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return root


def test_every_stage_data_and_every_notebook_of_the_pipeline_lead_to_the_bundle(clone: Path) -> None:
    graph = read_graph(clone, read_lock(clone))

    before = graph.ancestors("artifacts/package")

    notebooks = {path.relative_to(clone).as_posix() for path in (clone / "nbs" / "pipeline").glob("*.ipynb")}
    assert {"ingest", "features", "train", "evaluate", "package", "data", "params.yaml:train", *notebooks} <= set(
        before
    )
    assert not [name for name in before if graph.nodes[name].kind in ("walk", "proof")], "production reads no walk"


def test_every_thing_of_the_real_project_has_a_kind_of_its_own(clone: Path) -> None:
    graph = read_graph(clone, read_lock(clone))

    strange = {name for name, node in graph.nodes.items() if node.kind == "file"}
    assert strange <= {"README.md", "pyproject.toml", "settings.ini"}
    assert graph.nodes["notebook-train"].kind == "walk"
    assert {graph.nodes[name].kind for name in ("sync", "parity", "report")} == {"proof"}


def test_a_clone_without_data_differs_in_nothing_of_data(clone: Path) -> None:
    found = states(compare(read_graph(clone, read_lock(clone)), clone))

    assert not [thing for thing, _ in found if thing.startswith(("data", "artifacts", "research", "reports"))]


def test_every_exported_cell_of_a_module_is_found_in_its_notebook(clone: Path) -> None:
    found = exported_cells(clone, "mlops_pkg/pipeline/train.py")

    notebook = json.loads((clone / "nbs/pipeline/22_train.ipynb").read_text())
    exporting = [cell["id"] for cell in notebook["cells"] if "".join(cell["source"]).startswith("#| export")]
    assert found == {"nbs/pipeline/22_train.ipynb": tuple(exporting)}


def test_what_two_stages_read_at_different_times_is_told_of_each(toy_origins: Path) -> None:
    rewrite(toy_origins, "train", "deps", "mlops_pkg/core/stage.py")

    found = states(compare(read_graph(toy_origins, read_lock(toy_origins)), toy_origins))

    assert found == {("mlops_pkg/core/stage.py", "train"): "changed since"}


def test_an_output_that_was_read_before_it_was_made_anew_is_told_without_the_file(toy_origins: Path) -> None:
    path = "artifacts/train/model.skops"
    rewrite(toy_origins, "train", "outs", path)
    (toy_origins / path).unlink()

    found = states(compare(read_graph(toy_origins, read_lock(toy_origins)), toy_origins))

    assert found[path, "evaluate"] == "changed since"
    assert (path, "train") not in found


def test_true_record_differs_in_nothing(toy_origins: Path) -> None:
    assert states(compare(read_graph(toy_origins, read_lock(toy_origins)), toy_origins)) == {}


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("mlops_pkg/pipeline/train.py", "x = 1\n", ("mlops_pkg/pipeline/train.py", "train")),
        ("environment.json", '{"numpy": "2.4.0", "ruamel.yaml": "1"}', ("environment.json:ruamel.yaml", "train")),
        ("requirements-pipeline.txt", "numpy==3\n", ("requirements-pipeline.txt", "package")),
        ("data/rows.csv", "other\n", ("data", "ingest")),
        ("artifacts/train/model.skops", "other", ("artifacts/train/model.skops", "train")),
    ],
)
def test_a_change_is_told_with_the_stage_that_saw_something_else(
    toy_origins: Path, path: str, text: str, told: tuple[str, str]
) -> None:
    (toy_origins / path).write_text(text)

    found = states(compare(read_graph(toy_origins, read_lock(toy_origins)), toy_origins))

    assert found[told] == "changed since"
    assert ("mlops_pkg/pipeline/features.py", "features") not in found


def test_a_param_that_is_gone_and_an_environment_that_is_not_there_are_told(toy_origins: Path) -> None:
    (toy_origins / "environment.json").unlink()

    found = states(compare(read_graph(toy_origins, read_lock(toy_origins)), toy_origins))

    assert found["environment.json:numpy", "train"] == "gone since"


def test_declaration_and_record_are_told_apart() -> None:
    record = Locked("run", {"old.csv": "a"}, {"params.yaml": {"seed": 0}}, {"model": "b"})

    declared = {"cmd": "run", "deps": ["new.csv"], "params": [{"params.yaml": None}], "outs": ["model"]}

    told = {edge.node: edge.state for edge in stage_edges("train", record, declared)}
    whole = {"old.csv": "no longer declared", "new.csv": "declared since", "params.yaml:seed": "", "model": ""}
    assert told == whole
    assert {edge.state for edge in stage_edges("train", None, declared)} == {""}
    assert {edge.state for edge in stage_edges("train", record, None)} == {""}


def test_stages_that_never_ran_that_are_gone_and_that_a_template_makes(toy_origins: Path) -> None:
    stages = {
        "fit": {"foreach": ["a"], "do": {"cmd": "fit ${item}", "deps": ["${item}.csv"]}},
        "new": {"cmd": "new", "deps": ["x.csv"]},
        "train": {"cmd": "another", "deps": []},
    }
    (toy_origins / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    fitted = Locked("fit a", {"a.csv": "0"}, {}, {"a.model": "1"})
    lock = {"fit@a": fitted, "old": Locked("old", {}, {}, {}), "train": Locked("fit", {}, {}, {})}

    graph = read_graph(toy_origins, lock)

    told = {name: graph.nodes[name].state for name in ("fit@a", "new", "old", "train")}
    changed = {"fit@a": "", "new": "never run", "old": "no longer declared", "train": "command changed since"}
    assert told == changed
    assert "fit" not in graph.nodes
    assert not [edge.state for edge in graph.edges if edge.state]


def test_a_circle_ends() -> None:
    circle = Graph({}, (Edge("a", "b", "read"), Edge("b", "a", "write")))

    assert circle.ancestors("a") == circle.descendants("a") == ["b"]


def test_kinds() -> None:
    outputs = ["artifacts/train/model.skops", "artifacts/package/manifest.json", "research/train"]
    kinds = {
        "artifacts/package": "bundle",
        "artifacts": "output",
        "research/train/model.skops": "output",
        "data/rows.csv": "data",
        "requirements-edge.txt": "environment",
        "environment.json:numpy": "environment",
        "params.yaml": "params",
        "settings.json:rate": "params",
        "mlops_pkg": "module",
        "nbs/index.ipynb": "notebook",
        "README.md": "file",
    }
    assert {name: classify(name, outputs, ["data"], ["mlops_pkg"]) for name in kinds} == kinds


def test_first_commit_of_a_digest_is_found_even_where_it_comes_back(toy_origins: Path) -> None:
    lock, path = toy_origins / "dvc.lock", "artifacts/train/model.skops"
    md5 = read_lock(toy_origins)["train"].outs[path]
    text = lock.read_text()
    first = commit(toy_origins, "First")
    lock.write_text(text.replace(md5, "2" * 32))
    second = commit(toy_origins, "Second")
    lock.write_text(text)
    commit(toy_origins, "First again")

    found = read_commits(toy_origins) or {}

    assert (found[md5].hash, found[md5].path, found[md5].earlier) == (first, path, False)
    assert found["2" * 32].hash == second


def test_a_digest_that_a_merge_brought_belongs_to_the_branch(toy_origins: Path) -> None:
    lock = toy_origins / "dvc.lock"
    md5 = read_lock(toy_origins)["train"].outs["artifacts/train/model.skops"]
    commit(toy_origins, "First")
    git(toy_origins, "switch", "--quiet", "--create", "branch")
    lock.write_text(lock.read_text().replace(md5, "3" * 32))
    on_branch = commit(toy_origins, "On the branch")
    git(toy_origins, "switch", "--quiet", "main")
    (toy_origins / "README.md").write_text("meanwhile\n")
    commit(toy_origins, "Meanwhile")
    git(toy_origins, "merge", "--quiet", "--no-ff", "--message", "Merge", "branch")

    assert (read_commits(toy_origins) or {})["3" * 32].hash == on_branch


def test_a_shallow_clone_says_or_earlier(toy_origins: Path, tmp_path: Path) -> None:
    md5 = read_lock(toy_origins)["train"].outs["artifacts/train/model.skops"]
    commit(toy_origins, "First")
    (toy_origins / "README.md").write_text("more\n")
    commit(toy_origins, "Second")
    git(tmp_path, "clone", "--quiet", "--depth", "1", toy_origins.as_uri(), "shallow")

    found = read_commits(tmp_path / "shallow") or {}

    assert found[md5].subject == "Second"
    assert "or earlier" in str(found[md5])
    assert "or earlier" not in str((read_commits(toy_origins) or {})[md5])


def test_without_git_there_is_no_history_and_without_commits_an_empty_one(
    toy_origins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_commits(toy_origins) is None
    git(toy_origins, "init", "--quiet")
    assert read_commits(toy_origins) == {}
    monkeypatch.setenv("PATH", "")
    assert read_commits(toy_origins) is None


def test_a_project_within_a_repository_has_its_own_history(toy_origins: Path) -> None:
    md5 = read_lock(toy_origins)["train"].outs["artifacts/train/model.skops"]
    git(toy_origins.parent, "init", "--quiet", "--initial-branch", "main")
    (toy_origins.parent / "dvc.lock").write_text(f"- path: other\n  md5: {'4' * 32}\n")
    git(toy_origins.parent, "add", "--all")
    git(toy_origins.parent, "commit", "--quiet", "--message", "Two projects")

    found = read_commits(toy_origins) or {}

    assert found[md5].subject == "Two projects"
    assert "4" * 32 not in found
