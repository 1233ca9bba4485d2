"""git shows notebooks as a person reads them, and keeps them as they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IDENTITY, ROOT

NOTEBOOK = "nbs/pipeline/22_train.ipynb"
MODULE = "mlops_pkg/authoring/textconv.py"
SYSTEM = os.pathsep.join((str(Path(sys.base_prefix, "bin")), os.defpath))
PLAIN = {"PATH": SYSTEM, "HOME": "/nonexistent", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}  # nothing is activated

Notebook = dict[str, Any]


def git(root: Path, *arguments: str, given: str | None = None) -> str:
    """What git said, in a shell where nothing is activated; it must end well."""
    command = ["git", *IDENTITY, *arguments]
    done = subprocess.run(command, cwd=root, env=PLAIN, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(root: Path, message: str) -> None:
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", message)


def set_up(root: Path) -> None:
    """What `make setup` does once the environment is there."""
    command = ["make", "--old-file=.venv/.ready", "setup"]
    done = subprocess.run(command, cwd=root, env=PLAIN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def read(root: Path) -> Notebook:
    return json.loads((root / NOTEBOOK).read_text())


def write(root: Path, notebook: Notebook) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (root / NOTEBOOK).write_text(text)


def code_cell(name: str, source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    made = {"id": name, "metadata": {}, "source": source.splitlines(keepends=True)}
    return {"cell_type": "code", "execution_count": None, "outputs": list(outputs), **made}


def picture(content: str) -> dict[str, Any]:
    data = {"image/png": content * 500, "text/plain": ["<Figure size 640x480>"]}
    return {"output_type": "display_data", "data": data, "metadata": {}}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one notebook, committed, and what makes git show it as text, not yet set up."""
    root = tmp_path / "repository"
    for name in (MODULE, ".gitattributes", "Makefile", NOTEBOOK):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    notebook = read(root)
    notebook["cells"] += [code_cell("plot-it", "plot(model)", picture("iVBOR")), code_cell("end", "print('end')")]
    write(root, notebook)
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root, "A notebook")
    return root


@pytest.fixture
def clone(repository: Path) -> Path:
    """The repository after `make setup`."""
    set_up(repository)
    return repository


def changed(diff: str) -> list[str]:
    """The lines that a diff takes away and adds."""
    return [line for line in diff.splitlines() if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]


def change_a_line(notebook: Notebook) -> None:
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "plot-it")
    cell["source"] = ["plot(model, log=True)"]
    cell["execution_count"] = 7


def move_a_cell(notebook: Notebook) -> None:
    notebook["cells"][-2:] = reversed(notebook["cells"][-2:])


def add_a_cell(notebook: Notebook) -> None:
    notebook["cells"].insert(1, code_cell("look-again", "model.head()\nmodel.tail()"))


def change_a_picture(notebook: Notebook) -> None:
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "plot-it")
    cell["outputs"] = [picture("iVBOX")]


def change_the_kernel(notebook: Notebook) -> None:
    notebook["metadata"]["kernelspec"] = {"display_name": "conda", "language": "python", "name": "conda-base"}


def count_executions(notebook: Notebook) -> None:
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        cell["execution_count"] = number


END = ["# %% end", "print('end')", ""]
CASES = {
    change_a_line: ["-plot(model)", "+plot(model, log=True)"],
    move_a_cell: [*(f"+{line}" for line in END), *(f"-{line}" for line in END)],
    add_a_cell: ["+# %% look-again", "+model.head()", "+model.tail()", "+"],
    change_a_picture: ["-#> [image/png, 2,500 characters, 885cbb68]", "+#> [image/png, 2,500 characters, 080a9946]"],
    change_the_kernel: ["-# kernel python3, notebook format 4.5", "+# kernel conda-base, notebook format 4.5"],
    count_executions: [],
}


@pytest.mark.parametrize("edit", CASES, ids=lambda edit: edit.__name__)
def test_diff_show_and_log_show_what_a_person_changed(clone: Path, edit: Any) -> None:
    notebook = read(clone)
    edit(notebook)
    write(clone, notebook)

    before = git(clone, "diff")
    commit(clone, "An edit")

    assert changed(before) == CASES[edit]
    assert changed(git(clone, "show")) == CASES[edit]
    assert changed(git(clone, "log", "-p", "-1")) == CASES[edit]


def test_a_hunk_is_headed_by_its_cell(clone: Path) -> None:
    notebook = read(clone)
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "plot-it")
    cell["source"] = [f"step_{number}()\n" for number in range(20)]
    write(clone, notebook)
    commit(clone, "A long cell")
    cell["source"][15] = "stride()\n"
    write(clone, notebook)

    assert "@@ # %% plot-it" in git(clone, "diff")


def test_a_clone_without_setup_shows_the_file_itself(repository: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(clone))
    notebook = read(clone)
    change_a_line(notebook)
    write(clone, notebook)

    assert any("plot(model, log=True)" in line for line in changed(git(clone, "diff")))


def test_setup_is_repeated_without_a_trace(clone: Path) -> None:
    before = (clone / ".git" / "config").read_bytes()

    set_up(clone)

    assert (clone / ".git" / "config").read_bytes() == before
    assert git(clone, "status", "--porcelain") == ""


def test_setup_ends_well_where_there_is_no_git(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)

    set_up(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_a_commit_without_the_module_still_has_a_diff(clone: Path) -> None:
    (clone / MODULE).unlink()
    notebook = read(clone)
    change_a_line(notebook)
    write(clone, notebook)

    assert any("plot(model, log=True)" in line for line in changed(git(clone, "diff", "--", "nbs")))


def test_a_notebook_with_marks_of_a_conflict_is_shown_as_it_is(clone: Path) -> None:
    (clone / NOTEBOOK).write_text("<<<<<<< ours\n{}\n=======\n[]\n>>>>>>> theirs\n")

    assert "+<<<<<<< ours" in changed(git(clone, "diff"))


def test_a_worktree_and_a_folder_below_show_text_too(clone: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    git(clone, "worktree", "add", "--quiet", str(tree))
    notebook = read(tree)
    change_a_line(notebook)
    write(tree, notebook)

    assert changed(git(tree, "diff")) == CASES[change_a_line]
    assert changed(git(tree / "nbs" / "pipeline", "diff")) == CASES[change_a_line]


def test_what_is_staged_stashed_and_applied_is_the_notebook_itself(clone: Path) -> None:
    notebook = read(clone)
    add_a_cell(notebook)
    change_a_picture(notebook)
    write(clone, notebook)
    edited = (clone / NOTEBOOK).read_bytes()

    git(clone, "add", "--patch", given="y\n" * 9)
    assert git(clone, "diff", "--name-only") == "", "not all of it was staged"
    assert git(clone, "show", f":{NOTEBOOK}").encode() == edited
    git(clone, "stash")
    git(clone, "stash", "pop")
    assert (clone / NOTEBOOK).read_bytes() == edited
    commit(clone, "An edit")
    patch = git(clone, "format-patch", "--stdout", "-1")
    git(clone, "reset", "--quiet", "--hard", "HEAD~1")
    git(clone, "apply", given=patch)
    assert (clone / NOTEBOOK).read_bytes() == edited


def test_every_notebook_of_the_project_becomes_text() -> None:
    from mlops_pkg.authoring.textconv import notebook_text
    from mlops_pkg.project.files import notebooks, read_notebook

    for path in notebooks(ROOT):
        text = notebook_text(path.read_text())
        headers = [line.split()[-1] for line in text.splitlines() if line.startswith("# %%") and "{" not in line]
        ids = [cell["id"] for cell in read_notebook(path)["cells"] if not cell["metadata"]]
        assert set(ids) <= set(headers), path.name
        assert max(map(len, text.splitlines())) < 1000, f"{path.name}: something is shown at length"


def test_a_clone_of_somebody_whose_git_converts_line_endings_has_the_same_bytes(tmp_path: Path) -> None:
    command = [
        "git",
        "-c",
        "core.autocrlf=true",
        "clone",
        "--quiet",
        "--depth",
        "1",
        f"file://{ROOT}",
        str(tmp_path / "clone"),
    ]
    subprocess.run(command, capture_output=True, check=True)

    changed = [
        path.relative_to(tmp_path / "clone").as_posix()
        for pattern in ("*.py", "*.ipynb", "*.yaml", "*.txt", "*.json", "*.ini", "*.jinja", "Makefile")
        for path in (tmp_path / "clone").rglob(pattern)
        if b"\r\n" in path.read_bytes()
    ]

    assert changed == []
