"""Merging: two branches end as one consistent project, or the merge stops and nothing is lost. Real git throughout."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("nbdev")

from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.history import merging
from mlops_pkg.history.merging import abort, continue_merge, merge, merge_locks, merge_notebooks, unmerged
from mlops_pkg.project.files import read_notebook, source
from mlops_pkg.proof.sync import check_sync, fresh_export
from tests.proof.conftest import notebook

RATES = "nbs/core/00_rates.ipynb"
TRAIN = "nbs/pipeline/22_train.ipynb"

# What stands in for the pipeline: it says what it sees, writes what a pipeline writes, and fails or hangs when told.
STEPS = """
import json, os, sys, time
from pathlib import Path

lock = Path("dvc.lock")
if lock.exists():
    Path("seen.txt").write_text(lock.read_text())
    lock.write_text("schema: '2.0'\\nstages: {made: {md5: anew}}\\n")
Path("artifacts/evaluate").mkdir(parents=True, exist_ok=True)
Path("artifacts/evaluate/metrics.json").write_text("{\\"made\\": \\"anew\\"}")
word = sys.argv[1]
if word == "data":
    Path("data.dvc").write_text("outs: [{md5: other}]\\n")
if word == "fail":
    sys.exit(1)
if word == "hang":
    os.mkfifo("hanging")
    open("hanging", "w").close()
    time.sleep(600)
"""


class Repository:
    """A toy project under git."""

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, Workspace(root)

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, text: str = "A change") -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", text)

    def on(self, branch: str) -> "Repository":
        """Check out a branch; it is made at the first commit where it is not there."""
        there = branch in self.git("branch", "--format=%(refname:short)").split()
        self.git("checkout", "--quiet", *([branch] if there else ["-b", branch, "first"]))
        return self

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def cells(self, path: str = RATES) -> list[dict[str, Any]]:
        return read_notebook(self.root / path)["cells"]

    def save(self, path: str, cells: list[dict[str, Any]]) -> None:
        content = json.loads(self.read(path)) | {"cells": cells}
        self.write(path, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text in the sources of a notebook, and in its module if it is there."""
        cells = self.cells(path)
        assert sum(source(cell).count(old) for cell in cells) == 1, f"{old!r} does not stand once in {path}"
        self.save(path, [{**c, "source": source(c).replace(old, new).splitlines(keepends=True)} for c in cells])
        module = f"mlops_pkg/{Path(path).parent.name}/{Path(path).stem[3:]}.py"
        self.write(module, self.read(module).replace(old, new))

    def export(self) -> None:
        fresh = self.root.parent / "fresh"
        fresh.mkdir()
        fresh_export(self.root, fresh)
        shutil.rmtree(self.root / "mlops_pkg")
        shutil.copytree(fresh / "mlops_pkg", self.root / "mlops_pkg")
        shutil.rmtree(fresh)

    def snapshot(self) -> dict[str, bytes]:
        """All files that git does not ignore, with their bytes, the commit, and what git has to say about the tree."""
        names = self.git("ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate").splitlines()
        held = {name: (self.root / name).read_bytes() for name in names if (self.root / name).is_file()}
        said = self.git("status", "--porcelain", "--branch") + self.git("rev-parse", "HEAD")
        return {**held, "": said.encode()}

    def merge(self, commands: Sequence[Sequence[str]] = ()) -> None:
        merge("topic", self.workspace, commands)

    def go_on(self, commands: Sequence[Sequence[str]] = ()) -> None:
        continue_merge(self.workspace, commands)


@pytest.fixture(scope="session")
def versioned(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with a notebook of three exported cells, a lock and metrics, at its first commit."""
    repository = Repository(Path(shutil.copytree(template, tmp_path_factory.mktemp("versioned") / "toy")))
    text = ("markdown", "# rates"), ("code", "#| default_exp core.rates"), ("code", "#| export\nRATE = 0.1")
    more = ("code", "#| export\nCOUNT = 3"), ("code", "#| export\ndef price():\n    low = 1\n\n\n    return low")
    repository.write(RATES, notebook(*text, *more))
    shutil.rmtree(repository.root / "nbs" / "project")
    dvc = json.loads(repository.read("dvc.yaml"))
    dvc["stages"] = {
        name: {**stage, "deps": [dep for dep in stage["deps"] if "/project/" not in dep]}
        for name, stage in dvc["stages"].items()
        if not name.startswith("notebook-")
    }
    repository.write("dvc.yaml", json.dumps(dvc, indent=1))
    repository.write("steps.py", STEPS)
    repository.write(".gitignore", "__pycache__/\nseen.txt\nhanging\n")
    repository.write("artifacts/evaluate/metrics.json", '{"auc": 0}')
    repository.write("dvc.lock", lock_text(ingest="1", train="1", package="1"))
    repository.export()
    repository.git("init", "--quiet", "--initial-branch", "main")
    repository.git("config", "user.name", "test")
    repository.git("config", "user.email", "test@example.invalid")
    repository.commit("A toy")
    repository.git("tag", "first")
    return repository.root


@pytest.fixture
def toy(versioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A copy of it, away from the git configuration of whoever runs the tests."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    return Repository(Path(shutil.copytree(versioned, tmp_path / "toy")))


def lock_text(**stages: str) -> str:
    return yaml.safe_dump({"schema": "2.0", "stages": {name: {"md5": md5} for name, md5 in stages.items()}})


def inconsistencies(repository: Repository) -> list[str]:
    """What sync says of the package and the notebooks; the toy has no walks in its dvc.yaml."""
    checks = {check.name: check.findings for check in check_sync(repository.root)}
    return [finding for name in ("package", "notebooks", "order", "params") for finding in checks[name]]


def diverge(toy: Repository, ours: tuple[str, str], theirs: tuple[str, str], path: str = RATES) -> None:
    """Replace a text on each branch; main is checked out."""
    toy.on("topic").edit(path, *theirs)
    toy.commit()
    toy.on("main").edit(path, *ours)
    toy.commit()


# Cells


def cell(name: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    made = {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None}
    return made | {"source": [text or f"{name} = 0"]} | more


def printed(text: str) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": "stdout", "text": [text]}]


def book(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


A, B, C = cell("a"), cell("b"), cell("c")
TAGGED = {"tags": ["parameters"]}


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        ([cell("a", "a = 1"), B, C], [A, B, cell("c", "c = 3")], [cell("a", "a = 1"), B, cell("c", "c = 3")]),
        ([cell("a", "a = 1"), B, C], [A, cell("b", "b = 2"), C], [cell("a", "a = 1"), cell("b", "b = 2"), C]),
        ([A, cell("x"), B, C], [A, cell("y"), cell("z"), B, C], [A, cell("x"), cell("y"), cell("z"), B, C]),
        ([A, B, C, cell("x")], [A, B, C, cell("y")], [A, B, C, cell("x"), cell("y")]),
        ([cell("x"), A, B, C], [cell("y"), A, B, C], [cell("x"), cell("y"), A, B, C]),
        ([A, B, C, cell("x")], [A, B, C, cell("x")], [A, B, C, cell("x")]),
        ([A, C], [A, B, cell("y"), C], [A, cell("y"), C]),
        ([A, B], [B, C], [B]),
        ([B, C, A], [cell("a", "a = 3"), B, C], [B, C, cell("a", "a = 3")]),
        ([A, cell("x"), B, C], [C, A, B], [C, A, cell("x"), B]),
        ([cell("a", metadata=TAGGED), B, C], [cell("a", "a = 1"), B, C], [cell("a", "a = 1", metadata=TAGGED), B, C]),
    ],
    ids=[
        "different",
        "adjacent",
        "added-same-place",
        "added-at-end",
        "added-first",
        "added-alike",
        "deleted-and-added",
        "both-deleted",
        "moved-and-edited",
        "moved-and-added",
        "tags-and-text",
    ],
)
def test_edits_of_different_cells_are_joined(ours: list[Any], theirs: list[Any], merged: list[Any]) -> None:
    assert merge_notebooks(book(A, B, C), book(*ours), book(*theirs)) == (book(*merged), [])


@pytest.mark.parametrize(
    ("ours", "theirs", "outputs"),
    [
        (cell("a", outputs=printed("1")), cell("a", outputs=printed("2")), "1"),
        (cell("a"), cell("a", outputs=printed("2")), "2"),
        (cell("a", outputs=printed("1")), cell("a", "a = 2", outputs=printed("2")), "2"),
        (cell("a", "a = 1", outputs=printed("1")), cell("a", outputs=printed("2")), "1"),
    ],
    ids=["both-made-anew", "theirs-made-anew", "theirs-follow-their-text", "ours-follow-our-text"],
)
def test_outputs_are_never_a_conflict(ours: dict[str, Any], theirs: dict[str, Any], outputs: str) -> None:
    merged, conflicts = merge_notebooks(book(A), book(ours), book(theirs))

    assert conflicts == []
    assert merged["cells"][0]["outputs"] == printed(outputs)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason", "shown"),
    [
        ([cell("a", "a = 1")], [cell("a", "a = 2")], "cell a: edited on both branches", ("a = 1", "a = 2")),
        ([], [cell("a", "a = 2")], "cell a: deleted on one branch, edited on the other", ("(deleted)", "a = 2")),
        ([cell("a", "a = 1")], [], "cell a: deleted on one branch, edited on the other", ("a = 1", "(deleted)")),
        ([A, cell("x", "1")], [A, cell("x", "2")], "cell x: added on both branches", ("1", "2")),
        (
            [cell("a", metadata={"tags": ["one"]})],
            [cell("a", metadata={"tags": ["two"]})],
            "cell a: edited on both branches",
            ('a = 0\n# code, {"tags": ["one"]}', 'a = 0\n# code, {"tags": ["two"]}'),
        ),
    ],
    ids=["edited", "ours-deleted", "theirs-deleted", "added", "tags"],
)
def test_two_edits_of_one_cell_stand_in_it_side_by_side(
    ours: list[Any], theirs: list[Any], reason: str, shown: tuple[str, str]
) -> None:
    merged, conflicts = merge_notebooks(book(A), book(*ours), book(*theirs))

    assert conflicts == [reason]
    name = reason.split()[1].rstrip(":")
    text = next(source(one) for one in merged["cells"] if one["id"] == name)
    assert text == f"<<<<<<< ours\n{shown[0]}\n=======\n{shown[1]}\n>>>>>>> theirs"


def test_cells_moved_on_both_branches_keep_our_order_and_say_so() -> None:
    merged, conflicts = merge_notebooks(book(A, B, C), book(B, A, C), book(A, C, B))

    assert conflicts == ["cell order-of-cells: both branches moved cells, and not in the same way"]
    assert [one["id"] for one in merged["cells"]] == ["order-of-cells", "b", "a", "c"]
    assert "b, a, c\n=======\na, c, b" in source(merged["cells"][0])


def scrambled(generator: random.Random, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells after some edits, deletions, moves and additions, drawn at random."""
    cells = deepcopy(cells)
    for _ in range(generator.randrange(5)):
        place = generator.randrange(len(cells) + 1)
        kind = generator.choice(("edit", "delete", "move", "add", "run", "tag"))
        if kind == "add":
            cells.insert(place, cell(f"n{generator.randrange(10**9)}"))
        elif place < len(cells):
            one = cells.pop(place)
            changes = {"edit": {"source": [f"{generator.random()}"]}, "tag": {"metadata": TAGGED}}
            changes["run"] = {"outputs": printed(f"{generator.random()}")}
            there = generator.randrange(len(cells) + 1) if kind == "move" else place
            cells[there:there] = [] if kind == "delete" else [one | changes.get(kind, {})]
    return cells


def test_a_merge_with_a_branch_that_did_nothing_is_the_other_branch() -> None:
    generator = random.Random(0)
    for _ in range(500):
        base = book(*(cell(f"c{number}") for number in range(6)))
        other = book(*scrambled(generator, base["cells"]))

        assert merge_notebooks(base, other, base) == (other, [])
        assert merge_notebooks(base, base, other) == (other, [])
        assert merge_notebooks(base, other, other) == (other, [])


def test_a_merge_loses_no_edit_of_either_branch() -> None:
    generator = random.Random(1)
    seen = 0
    for _ in range(500):
        base = book(*(cell(f"c{number}") for number in range(6)))
        ours, theirs = (book(*scrambled(generator, base["cells"])) for _ in range(2))

        merged, conflicts = merge_notebooks(base, ours, theirs)

        text = "\n".join(source(one) for one in merged["cells"])
        known = {source(one) for one in base["cells"]}
        written = {source(one) for side in (ours, theirs) for one in side["cells"]} - known
        assert [line for line in written if line not in text] == []
        names = [one["id"] for one in merged["cells"]]
        assert len(names) == len(set(names))
        seen += bool(conflicts)
    assert 50 < seen < 450, "the draw has hardly any conflicts, or hardly any clean merges"


def test_a_notebook_without_ids_is_refused() -> None:
    nameless = {key: value for key, value in A.items() if key != "id"}

    with pytest.raises(UserError, match="a cell has no id of its own"):
        merge_notebooks(book(A), book(nameless), book(cell("a", "a = 2")))


# The lock


def test_a_lock_takes_each_stage_from_the_side_that_renewed_it() -> None:
    base, ours, theirs = (
        yaml.safe_load(lock_text(**stages))
        for stages in (
            {"kept": "1", "mine": "1", "other": "1", "alike": "1", "both": "1", "gone": "1", "lost": "1"},
            {"kept": "1", "mine": "2", "other": "1", "alike": "2", "both": "2", "lost": "2", "new": "2"},
            {"kept": "1", "mine": "1", "other": "3", "alike": "2", "both": "3", "gone": "1", "late": "3"},
        )
    )

    merged, left = merge_locks(base, ours, theirs)

    found = {name: stage["md5"] for name, stage in merged["stages"].items()}
    assert found == {"kept": "1", "mine": "2", "other": "3", "alike": "2", "new": "2", "late": "3"}
    assert left == ["both", "lost"]


# Git


def test_different_cells_and_different_params_end_consistent(toy: Repository) -> None:
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.write("params.yaml", toy.read("params.yaml").replace("learning_rate: 0.05", "learning_rate: 0.04"))
    toy.write("dvc.lock", lock_text(ingest="1", train="3", package="3"))
    toy.write("artifacts/evaluate/metrics.json", '{"auc": 3}')
    toy.commit()
    toy.on("main").edit(RATES, "RATE = 0.1", "RATE = 0.2")
    toy.write("params.yaml", toy.read("params.yaml").replace("\nseed: 0", "\nseed: 7"))
    toy.write("dvc.lock", lock_text(ingest="2", train="1", package="2"))
    toy.write("artifacts/evaluate/metrics.json", '{"auc": 2}')
    toy.commit()
    configured = toy.read(".git/config")

    toy.merge([("steps", "well")])

    texts = [source(one) for one in toy.cells()]
    assert "#| export\nRATE = 0.2" in texts
    assert "#| export\nCOUNT = 4" in texts
    assert {"RATE = 0.2", "COUNT = 4"} <= set(toy.read("mlops_pkg/core/rates.py").splitlines())
    assert "seed: 7" in toy.read("params.yaml")
    assert "learning_rate: 0.04" in toy.read("params.yaml")
    assert yaml.safe_load(toy.read("seen.txt"))["stages"] == {"ingest": {"md5": "2"}, "train": {"md5": "3"}}
    assert inconsistencies(toy) == []
    assert toy.git("status", "--porcelain") == ""
    assert toy.git("log", "-1", "--format=%s|%b|%P").split("|") == [
        "Merge branch 'topic'",
        "",
        f"{toy.git('rev-parse', 'HEAD^1')} {toy.git('rev-parse', 'topic')}",
    ]
    assert toy.git("show", "HEAD:artifacts/evaluate/metrics.json") == '{"made": "anew"}'
    assert "anew" in toy.git("show", "HEAD:dvc.lock")
    assert toy.read(".git/config") == configured


def test_two_edits_of_one_cell_stop_the_merge_until_they_are_mended(toy: Repository) -> None:
    nbformat = pytest.importorskip("nbformat")
    diverge(toy, ("low = 1", "low = 2"), ("return low", "return 3 * low"))  # lines apart, in one function
    former = toy.git("rev-parse", "HEAD")

    with pytest.raises(UserError) as stopped:
        toy.merge()

    first, *rest = str(stopped.value).splitlines()
    assert first == f"{RATES}: cell step-4: edited on both branches"
    assert "mlops_pkg merge --continue" in rest[-1]
    assert "mlops_pkg merge --abort" in rest[-1]
    nbformat.validate(nbformat.read(toy.root / RATES, as_version=4))
    text = source(next(one for one in toy.cells() if one["id"] == "step-4"))
    assert "low = 2\n\n\n    return low\n=======\n" in text
    assert "low = 1\n\n\n    return 3 * low\n>>>>>>> theirs" in text
    assert toy.git("rev-parse", "HEAD") == former

    with pytest.raises(UserError, match=f"{RATES}: cell step-4: the marks of the conflict still stand"):
        toy.go_on()
    assert source(next(one for one in toy.cells() if one["id"] == "step-4")) == text

    mended = "#| export\ndef price():\n    low = 2\n\n\n    return 3 * low"
    toy.save(RATES, [one | ({"source": [mended]} if one["id"] == "step-4" else {}) for one in toy.cells()])
    toy.go_on()

    assert "    low = 2\n\n\n    return 3 * low" in toy.read("mlops_pkg/core/rates.py")
    assert toy.git("rev-list", "--count", "--merges", "HEAD") == "1"


def test_the_package_stays_as_it_was_while_a_conflict_waits(toy: Repository) -> None:
    toy.on("topic").edit(RATES, "RATE = 0.1", "RATE = 0.3")
    toy.edit(TRAIN, "import json", "import json, csv")
    toy.commit()
    toy.on("main").edit(RATES, "RATE = 0.1", "RATE = 0.2")
    toy.commit()
    before = {path: path.read_bytes() for path in (toy.root / "mlops_pkg").rglob("*.py")}

    with pytest.raises(UserError):
        toy.merge()

    assert {path: path.read_bytes() for path in (toy.root / "mlops_pkg").rglob("*.py")} == before


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_notebook_can_be_taken_whole(toy: Repository, side: str) -> None:
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("RATE = 0.1", "RATE = 0.3"))
    with pytest.raises(UserError):
        toy.merge()

    toy.git("checkout", f"--{side}", RATES)
    toy.git("add", RATES)
    toy.go_on()

    assert f"RATE = {'0.2' if side == 'ours' else '0.3'}" in toy.read("mlops_pkg/core/rates.py")
    assert inconsistencies(toy) == []


def test_outputs_alone_do_not_stop_a_merge(toy: Repository) -> None:
    for branch in ("topic", "main"):
        toy.on(branch).save(RATES, [*toy.cells()[:-1], toy.cells()[-1] | {"outputs": printed(f"{branch}\n")}])
        toy.commit()

    toy.merge()

    assert toy.cells()[-1]["outputs"] == printed("main\n")


def test_a_cell_deleted_here_and_edited_there_is_named(toy: Repository) -> None:
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.commit()
    toy.on("main").save(RATES, [one for one in toy.cells() if one["id"] != "step-3"])
    toy.export()
    toy.commit()

    with pytest.raises(UserError, match="cell step-3: deleted on one branch, edited on the other"):
        toy.merge()

    toy.save(RATES, [one for one in toy.cells() if one["id"] != "step-3"])
    toy.go_on()
    assert "COUNT" not in toy.read("mlops_pkg/core/rates.py")


def test_a_notebook_added_there_and_one_renamed_here_are_exported(toy: Repository) -> None:
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    new = (("markdown", "# taxes"), ("code", "#| default_exp core.taxes"), ("code", "#| export\nTAX = 0.2"))
    toy.write("nbs/core/05_taxes.ipynb", notebook(*new))
    toy.export()
    toy.commit()
    toy.on("main").git("mv", RATES, "nbs/core/04_rates.ipynb")
    toy.save("nbs/core/04_rates.ipynb", [one for one in toy.cells("nbs/core/04_rates.ipynb") if one["id"] != "step-4"])
    toy.export()
    toy.commit()

    toy.merge()

    assert "COUNT = 4" in toy.read("mlops_pkg/core/rates.py")
    assert "price" not in toy.read("mlops_pkg/core/rates.py")
    assert "TAX = 0.2" in toy.read("mlops_pkg/core/taxes.py")
    assert [check.findings for check in check_sync(toy.root) if check.name == "package"] == [()]


def test_a_notebook_deleted_here_and_edited_there_waits_for_a_choice(toy: Repository) -> None:
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.commit()
    toy.on("main").git("rm", "--quiet", RATES)
    toy.export()
    toy.commit()

    with pytest.raises(UserError, match=f"{RATES}: deleted or renamed on one branch, changed on the other"):
        toy.merge()

    toy.git("rm", "--quiet", RATES)
    toy.go_on()
    assert not (toy.root / "mlops_pkg" / "core" / "rates.py").exists()


def test_every_conflict_is_told_at_once(toy: Repository) -> None:
    for branch, number in (("topic", 3), ("main", 2)):
        toy.on(branch).edit(RATES, "RATE = 0.1", f"RATE = 0.{number}")
        toy.write("params.yaml", toy.read("params.yaml").replace("\nseed: 0", f"\nseed: {number}"))
        toy.write("data.dvc", f"outs: [{{md5: '{number}'}}]\n")
        toy.commit()

    with pytest.raises(UserError) as stopped:
        toy.merge()

    assert str(stopped.value).splitlines()[:3] == [
        "data.dvc: changed on both branches in the same place",
        f"{RATES}: cell step-2: edited on both branches",
        "params.yaml: changed on both branches in the same place",
    ]


def test_a_tree_that_is_not_committed_is_refused(toy: Repository) -> None:
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("COUNT = 3", "COUNT = 4"))
    toy.write("params.yaml", toy.read("params.yaml") + "\n# a thought\n")
    before = toy.snapshot()

    with pytest.raises(UserError, match=r"^params.yaml: changed and not committed[^\n]*$"):
        toy.merge()
    assert toy.snapshot() == before

    toy.git("checkout", "params.yaml")
    toy.write("nbs/core/09_draft.ipynb", "{}")
    with pytest.raises(UserError, match=r"^nbs/core/09_draft.ipynb: not known to git[^\n]*$"):
        toy.merge()
    assert toy.git("status", "--porcelain") == "?? nbs/core/09_draft.ipynb"


def test_what_is_merged_or_only_behind_is_said(toy: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.commit()
    toy.on("main")

    toy.merge()
    assert "nothing to merge, moved forward to it" in capsys.readouterr().out
    assert toy.git("rev-parse", "main") == toy.git("rev-parse", "topic")

    toy.merge()
    assert capsys.readouterr().out == "topic: already merged\n"


def test_a_wrong_word_is_one_line(toy: Repository) -> None:
    toy.on("topic")
    toy.on("main")

    with pytest.raises(UserError, match=r"^topik: there is no such branch; did you mean 'topic'\?$"):
        merge("topik", toy.workspace)
    with pytest.raises(UserError, match=r"^no merge is under way; begin one"):
        toy.go_on()
    with pytest.raises(UserError, match=r"^no merge is under way; there is nothing to abort$"):
        abort(toy.workspace)


def test_a_second_merge_waits_for_the_first(toy: Repository) -> None:
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("RATE = 0.1", "RATE = 0.3"))
    with pytest.raises(UserError):
        toy.merge()

    with pytest.raises(UserError, match=r"^a merge is under way; end it with[^\n]*$"):
        toy.merge()


def everything_differs(toy: Repository) -> None:
    """Two branches that differ in whatever a merge makes again; nothing is in conflict."""
    toy.on("topic").edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.write("dvc.lock", lock_text(ingest="1", train="3", package="3"))
    toy.write("artifacts/evaluate/metrics.json", '{"auc": 3}')
    toy.write("nbs/core/05_taxes.ipynb", notebook(("markdown", "# taxes"), ("code", "#| default_exp core.taxes")))
    toy.export()
    toy.commit()
    toy.on("main").edit(RATES, "RATE = 0.1", "RATE = 0.2")
    toy.commit()


@pytest.mark.parametrize("way", ["mlops_pkg", "git"])
def test_a_pipeline_that_fails_leaves_the_merge_open_and_both_ways_back_are_exact(toy: Repository, way: str) -> None:
    everything_differs(toy)
    before = toy.snapshot()

    with pytest.raises(UserError, match="`steps fail` failed; the lines above say why\nNothing is committed"):
        toy.merge([("steps", "fail")])
    assert "anew" in toy.read("dvc.lock")
    with pytest.raises(subprocess.CalledProcessError):
        toy.git("commit", "--quiet", "--message", "Half a merge")

    if way == "mlops_pkg":
        toy.write("params.yaml", toy.read("params.yaml") + "\n# mended, and given up\n")
        toy.git("add", "params.yaml")
        toy.write("params.yaml", toy.read("params.yaml") + "\n# and once more\n")
        abort(toy.workspace)
    else:
        toy.git("merge", "--abort")
    assert toy.snapshot() == before

    with pytest.raises(UserError):
        toy.merge([("steps", "fail")])
    toy.go_on([("steps", "well")])
    assert inconsistencies(toy) == []


def test_a_module_that_neither_branch_had_goes_with_the_abort(toy: Repository) -> None:
    new = (("markdown", "# taxes"), ("code", "#| default_exp core.taxes"), ("code", "#| export\nTAX = 0.2"))
    toy.on("topic").write("nbs/core/05_taxes.ipynb", notebook(*new))
    toy.commit("A notebook, not exported")
    toy.on("main").edit(RATES, "RATE = 0.1", "RATE = 0.2")
    toy.commit()
    before = toy.snapshot()
    with pytest.raises(UserError):
        toy.merge([("steps", "fail")])
    assert (toy.root / "mlops_pkg" / "core" / "taxes.py").is_file()

    toy.git("merge", "--abort")

    assert toy.snapshot() == before


def test_an_output_that_git_holds_and_no_branch_had_is_committed(toy: Repository) -> None:
    toy.git("rm", "--quiet", "artifacts/evaluate/metrics.json")
    toy.commit("Not evaluated yet")
    toy.git("tag", "--force", "first")
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("COUNT = 3", "COUNT = 4"))

    toy.merge([("steps", "well")])

    assert toy.git("show", "HEAD:artifacts/evaluate/metrics.json") == '{"made": "anew"}'


def test_a_cell_that_is_no_python_is_named_and_can_be_mended(toy: Repository) -> None:
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("COUNT = 3", "COUNT = = 4"))

    with pytest.raises(UserError, match="nbs/core/00_rates.ipynb: cell step-3: not valid Python.*\nNothing is comm"):
        toy.merge()

    cells = toy.cells()
    toy.save(RATES, [one | {"source": [source(one).replace("= =", "=")]} for one in cells])
    toy.go_on()
    assert "COUNT = 4" in toy.read("mlops_pkg/core/rates.py")
    assert inconsistencies(toy) == []


def test_data_that_neither_branch_has_are_not_recorded(toy: Repository) -> None:
    toy.write("data.dvc", "outs: [{md5: ours}]\n")
    toy.commit()
    toy.git("tag", "--force", "first")
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("COUNT = 3", "COUNT = 4"))

    with pytest.raises(UserError, match="^data.dvc: neither branch has the data that lie here"):
        toy.merge([("steps", "data")])

    assert toy.read("data.dvc") == "outs: [{md5: ours}]\n"


def test_a_record_is_never_joined_from_two_runs(toy: Repository) -> None:
    """By lines it would be: the record of a run that never was."""
    deps = "".join(f"    - path: data/{number}.csv\n      md5: old\n" for number in range(9))
    toy.write("dvc.lock", f"schema: '2.0'\nstages:\n  train:\n    cmd: python\n    deps:\n{deps}")
    toy.commit("A lock")
    toy.git("tag", "--force", "first")
    for branch, number in (("topic", 8), ("main", 0)):
        path = f"data/{number}.csv\n      md5: "
        toy.on(branch).write("dvc.lock", toy.read("dvc.lock").replace(f"{path}old", f"{path}{branch}"))
        toy.commit()

    toy.merge([("steps", "well")])

    assert yaml.safe_load(toy.read("seen.txt"))["stages"] == {}


def test_a_torn_lock_of_a_branch_costs_runs_and_nothing_else(toy: Repository) -> None:
    toy.on("topic").write("dvc.lock", "stages:\n  train:\n    cmd: [")
    toy.edit(RATES, "COUNT = 3", "COUNT = 4")
    toy.commit()
    toy.on("main").write("dvc.lock", lock_text(ingest="2", train="1", package="1"))
    toy.edit(RATES, "RATE = 0.1", "RATE = 0.2")
    toy.commit()

    toy.merge([("steps", "well")])

    assert yaml.safe_load(toy.read("seen.txt"))["stages"] == {}


@pytest.mark.parametrize("way", ["abort", "continue"])
def test_a_merge_that_is_killed_goes_back_exactly_or_on(toy: Repository, way: str) -> None:
    everything_differs(toy)
    before = toy.snapshot()
    code = "from mlops_pkg.history.merging import merge; merge('topic', commands=[('steps', 'hang')])"
    running = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.pop(0); {code}"],
        cwd=toy.root,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    while "running" not in running.stdout.readline() and running.poll() is None:
        pass
    while not (toy.root / "hanging").exists() and running.poll() is None:
        os.sched_yield()
    (toy.root / "hanging").open().close()  # waits until the command has written all that it writes
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert RATES not in unmerged(toy.root)

    if way == "abort":
        toy.git("merge", "--abort")
        assert toy.snapshot() == before
    else:
        toy.go_on([("steps", "well")])
        assert inconsistencies(toy) == []
        assert {"RATE = 0.2", "COUNT = 4"} <= set(toy.read("mlops_pkg/core/rates.py").splitlines())


def merge_until(step: int, repository: Repository) -> bool:
    """Merge in a process that kills itself before a step, be it a git command or a file written; whether it ended."""
    if child := os.fork():
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, -signal.SIGKILL)
        return ended == 0
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("_git", "_run", "write_bytes"):
        setattr(merging, name, counted(getattr(merging, name)))
    try:
        repository.merge([("steps", "well")])
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "stride"), [("abort", 2), ("continue", 5)])
def test_a_merge_killed_at_any_step_goes_back_exactly_or_on(
    toy: Repository, tmp_path: Path, way: str, stride: int
) -> None:
    everything_differs(toy)
    before = toy.snapshot()
    whole = Repository(Path(shutil.copytree(toy.root, tmp_path / "whole")))
    whole.merge([("steps", "well")])
    merged = whole.git("rev-parse", "HEAD^{tree}")

    for step in range(0, 100, stride):
        hurt = Repository(Path(shutil.copytree(toy.root, tmp_path / "hurt")))
        if merge_until(step, hurt):
            break
        merging_now = (hurt.root / ".git" / "MERGE_HEAD").exists()
        if way == "abort" and merging_now:
            hurt.git("merge", "--abort")
        elif way == "continue":
            (hurt.go_on if merging_now else hurt.merge)([("steps", "well")])
        if hurt.git("rev-list", "--count", "--merges", "HEAD") == "1":
            assert hurt.git("rev-parse", "HEAD^{tree}") == merged, step
            assert hurt.git("status", "--porcelain") == "", step
        else:
            assert way == "abort", step
            assert hurt.snapshot() == before, step
        shutil.rmtree(hurt.root)

    assert 20 < step < 95


def test_a_file_that_is_no_text_is_not_chosen_in_silence(toy: Repository) -> None:
    for branch in ("topic", "main"):
        (toy.on(branch).root / "logo.png").write_bytes(b"\x89PNG\0" + branch.encode())
        toy.commit()
    for attempt in (toy.merge, toy.go_on):
        with pytest.raises(UserError, match="^logo.png: changed on both branches"):
            attempt()

    toy.git("add", "logo.png")
    toy.go_on()
    assert (toy.root / "logo.png").read_bytes().endswith(b"main")


def test_a_plain_git_merge_is_as_it_was(toy: Repository) -> None:
    diverge(toy, ("RATE = 0.1", "RATE = 0.2"), ("price():\n    low = 1", "price():\n    low = 5"))

    toy.git("merge", "--quiet", "--no-edit", "topic")

    assert {"RATE = 0.2", "    low = 5"} <= set(toy.read("mlops_pkg/core/rates.py").splitlines())
