"""Saving cleans and exports one notebook: the bytes of nbdev's own commands, and no edit is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbdev")

from mlops_pkg.authoring.saving import (
    RUNTIME,
    after_save,
    before_save,
    clean_content,
    committed_content,
    export,
    export_all,
    find_unsaved,
    is_edited,
    make_module,
    process_saved,
    record_export,
)
from mlops_pkg.core.params import UserError
from mlops_pkg.project.files import notebooks, read_notebook
from mlops_pkg.proof.sync import fresh_export
from tests.authoring.conftest import commit, edit, lines, sources_and_modules
from tests.conftest import ROOT

NAME, MODULE = "nbs/core/00_rates.ipynb", "mlops_pkg/core/rates.py"


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the toy project with recorded exports, and make it the current folder."""
    root = Path(shutil.copytree(template, tmp_path / "toy"))
    monkeypatch.chdir(root)
    assert export_all(root) == ([], [])
    return root


def as_browser(path: Path) -> dict[str, Any]:
    """Return a notebook as JupyterLab sends it: joined texts, execution counts and its own metadata."""
    import nbformat

    sent: dict[str, Any] = json.loads(json.dumps(nbformat.read(path, as_version=4)))
    sent["metadata"]["language_info"] = {"name": "python", "version": "3.11.7"}
    for number, cell in enumerate(sent["cells"]):
        cell["metadata"] |= {"scrolled": True, "editable": True}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number + 1
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = number + 1
    return sent


def test_a_save_in_jupyterlab_writes_the_bytes_of_nbdev_clean(tmp_path: Path) -> None:
    import nbformat

    shutil.copy(ROOT / "settings.ini", tmp_path)
    different, before = [], {}
    for path in notebooks(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        sent = as_browser(path)
        before_save(tmp_path, copy, sent)
        with copy.open("w", encoding="utf-8") as file:
            nbformat.write(nbformat.from_dict(sent), file, version=nbformat.NO_CONVERT)
        before[copy] = copy.read_bytes()
        if clean_content(tmp_path, read_notebook(copy)) != before[copy]:
            different.append(path.name)
    assert different == [], "the file would change under the browser's feet"
    done = subprocess.run(
        [Path(sys.executable).with_name("nbdev_clean")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert [path.name for path, content in before.items() if path.read_bytes() != content] == []
    (parameters,) = (
        cell for cell in read_notebook(tmp_path / "nbs/pipeline/22_train.ipynb")["cells"] if cell["metadata"]
    )
    assert parameters["metadata"] == {"tags": ["parameters"]}


def test_each_module_of_this_package_is_what_a_save_would_write() -> None:
    made = {path.name: make_module(ROOT, path) for path in notebooks(ROOT)}

    assert [
        name for name, module in made.items() if module and (ROOT / module.path).read_bytes() != module.content
    ] == []
    assert made["index.ipynb"] is None
    assert sum(module is not None for module in made.values()) >= 45


def test_a_save_exports_what_nbdev_export_would(toy: Path, tmp_path: Path) -> None:
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2\n\n\ndef doubled():\n    return 2 * RATE")

    told = process_saved(toy, toy / NAME)

    fresh_export(toy, tmp_path / "fresh")
    assert told == f"{MODULE}: exported from {NAME}"
    assert sources_and_modules(toy) == sources_and_modules(tmp_path / "fresh")
    assert "__all__ = ['RATE', 'doubled']" in (toy / MODULE).read_text()
    assert "doubled" in (toy / "mlops_pkg" / "_modidx.py").read_text()
    assert lines(toy) == []


def test_a_first_save_of_a_new_notebook_makes_its_folder_a_package(toy: Path, tmp_path: Path) -> None:
    new = toy / "nbs" / "fresh" / "40_ideas.ipynb"
    new.parent.mkdir()
    new.write_text((toy / NAME).read_text().replace("core.rates", "fresh.ideas").replace("RATE", "IDEA"))

    process_saved(toy, new)

    fresh_export(toy, tmp_path / "fresh")
    assert sources_and_modules(toy) == sources_and_modules(tmp_path / "fresh")
    assert (toy / "mlops_pkg" / "fresh" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("RATE = = 0.1", "invalid syntax (line 2)"),
        ("def rate()\n    return 1", "expected ':' (line 2)"),
        ("RATE = 0.1\nreturn RATE", "'return' outside function (line 3)"),
        ("%time RATE = 0.1", "invalid syntax (line 2)"),
    ],
)
def test_a_broken_cell_leaves_the_last_good_module_and_is_named(toy: Path, broken: str, said: str) -> None:
    before = sources_and_modules(toy)
    edit(toy / NAME, "RATE = 0.1", broken)
    told: list[tuple[str, bool]] = []

    after_save(toy, toy / NAME, lambda line, well: told.append((line, well)))

    assert told == [(f"{NAME}: cell step-2: not valid Python: {said}", False)]
    assert sources_and_modules(toy) == before | {NAME: (toy / NAME).read_bytes()}


def test_sync_names_the_cell_that_cannot_be_exported(toy: Path) -> None:
    edit(toy / NAME, "RATE = 0.1", "%time RATE = 0.1")

    assert f"{NAME}: cell step-2: not valid Python: invalid syntax (line 2)" in lines(toy)


def test_a_cell_of_the_walk_may_be_half_written(toy: Path) -> None:
    walk = toy / "nbs" / "pipeline" / "22_train.ipynb"
    edit(walk, "print('rate', RATE)", "print('rate',")

    assert process_saved(toy, walk) == ""


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "scratch.ipynb",
        "research/train.ipynb",
        "nbs/core/.ipynb_checkpoints/00_rates-checkpoint.ipynb",
        "nbs/_drafts/00_rates.ipynb",
        "nbs/core/notes.txt",
        "nbs/core/99_gone.ipynb",
    ],
)
def test_what_is_no_source_is_left_alone(toy: Path, name: str) -> None:
    place = toy / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if "gone" not in name:
        place.write_text((toy / NAME).read_text().replace("RATE = 0.1", "RATE = 0.9").replace("null", "7"))
    before = sources_and_modules(toy)

    assert process_saved(toy, place) == ""
    assert sources_and_modules(toy) == before


def test_a_notebook_without_a_module_is_cleaned_and_exports_nothing(toy: Path) -> None:
    notes = toy / "nbs" / "notes.ipynb"
    notes.write_text((toy / NAME).read_text().replace("#| ", "# ").replace("null", "7"))
    before = sources_and_modules(toy)

    assert process_saved(toy, notes) == ""
    assert sources_and_modules(toy) == before | {"nbs/notes.ipynb": notes.read_bytes()}
    assert b'"execution_count": null' in notes.read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"cells": [', "not a notebook"),
        ("[]", "not a notebook: it has no list of cells"),
        ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}', "saved in notebook format 4.4"),
    ],
)
def test_a_half_written_notebook_is_harmless(toy: Path, content: str, said: str) -> None:
    before = sources_and_modules(toy)
    (toy / NAME).write_text(content)

    with pytest.raises(UserError, match=re.escape(said)):
        process_saved(toy, toy / NAME)

    assert sources_and_modules(toy) == before | {NAME: content.encode()}


@pytest.mark.parametrize("target", ["../../evil", "core..rates", "/etc/rates", "core.1rates"])
def test_a_module_cannot_be_written_outside_the_package(toy: Path, target: str) -> None:
    before = sources_and_modules(toy)
    edit(toy / NAME, "#| default_exp core.rates", f"#| default_exp {target}")

    with pytest.raises(UserError, match="is not a module's name"):
        process_saved(toy, toy / NAME)

    assert sources_and_modules(toy).keys() == before.keys()


def test_an_export_without_a_module_is_told(toy: Path) -> None:
    edit(toy / NAME, "#| default_exp core.rates", "# nothing")

    with pytest.raises(UserError, match=f"{NAME}: no `#| default_exp` names its module".replace("|", r"\|")):
        process_saved(toy, toy / NAME)


def test_a_copy_of_a_notebook_does_not_write_over_its_module(toy: Path) -> None:
    copy = toy / "nbs" / "core" / "00_rates-Copy1.ipynb"
    copy.write_text((toy / NAME).read_text().replace("RATE = 0.1", "RATE = 0.9"))
    before = (toy / MODULE).read_bytes()

    with pytest.raises(UserError, match=f"Copy1.ipynb: exports {MODULE} as {NAME} does"):
        process_saved(toy, copy)

    assert (toy / MODULE).read_bytes() == before


def test_a_renamed_notebook_exports_under_its_new_name_and_sync_names_the_stale_mark(toy: Path) -> None:
    renamed = (toy / NAME).rename(toy / "nbs" / "core" / "00_tariffs.ipynb")
    assert any(line.startswith(f"{MODULE}: line") for line in lines(toy))

    assert process_saved(toy, renamed) == f"{MODULE}: exported from nbs/core/00_tariffs.ipynb"
    assert lines(toy) == []


def test_the_module_of_a_deleted_notebook_is_named_by_sync(toy: Path) -> None:
    (toy / "nbs" / "core" / "01_stage.ipynb").unlink()

    assert "mlops_pkg/core/stage.py: no notebook exports it; remove it" in lines(toy)


def test_an_edit_of_a_module_is_never_written_over(toy: Path) -> None:
    edit(toy / MODULE, "RATE = 0.1", "RATE = 0.15")
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    before = sources_and_modules(toy)

    with pytest.raises(UserError, match=f"{MODULE}: edited since its last export, .*`mlops_pkg update`") as raised:
        process_saved(toy, toy / NAME)
    done, failed = export_all(toy)

    assert "\n" not in str(raised.value)
    assert (done, failed) == ([], [str(raised.value)])
    assert sources_and_modules(toy) == before
    (toy / MODULE).unlink()
    assert process_saved(toy, toy / NAME) == f"{MODULE}: exported from {NAME}"


def test_what_git_brought_is_no_edit(toy: Path) -> None:
    commit(toy, "nbs", "mlops_pkg")
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    shutil.copytree(toy / ".venv", toy / "former")
    process_saved(toy, toy / NAME)
    commit(toy, "nbs", "mlops_pkg")  # as a colleague exported it
    shutil.rmtree(toy / ".venv")
    (toy / "former").rename(toy / ".venv")  # the record of this clone is from before the pull

    edit(toy / NAME, "RATE = 0.2", "RATE = 0.3")
    assert committed_content(toy, NAME) != (toy / NAME).read_bytes()
    assert process_saved(toy, toy / NAME) == f"{MODULE}: exported from {NAME}"


def test_what_another_tool_exported_is_no_edit_to_the_hook_of_jupyterlab(toy: Path) -> None:
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    module = make_module(toy, toy / NAME)
    assert module
    (toy / MODULE).write_bytes(module.content)  # nbdev_export in a terminal; the record is from before
    sent = as_browser(toy / NAME)

    before_save(toy, toy / NAME, sent)
    edit(toy / NAME, "RATE = 0.2", "RATE = 0.3")

    assert export(toy, toy / NAME) == f"{MODULE}: exported from {NAME}"


def test_the_marks_of_a_merge_are_nobodys_edit(toy: Path) -> None:
    edit(toy / MODULE, "RATE = 0.1", "<<<<<<< ours\nRATE = 0.1\n=======\nRATE = 0.2\n>>>>>>> theirs")

    assert process_saved(toy, toy / NAME) == f"{MODULE}: exported from {NAME}"
    assert lines(toy) == []


def test_a_module_of_which_nothing_is_known_counts_as_edited(toy: Path) -> None:
    shutil.rmtree(toy / ".venv")
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    module = make_module(toy, toy / NAME)
    assert module

    assert is_edited(toy, module)
    record_export(toy, module)
    assert is_edited(toy, module)


def test_an_export_keeps_every_other_waiting(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from mlops_pkg.authoring import saving

    def look(root: Path) -> None:
        with saving.record_path(root, "lock").open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        looked.append(root)

    looked: list[Path] = []
    monkeypatch.setattr(saving, "write_index", look)
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")

    process_saved(toy, toy / NAME)

    assert looked == [toy]


SAVE = """
import sys
from pathlib import Path
from mlops_pkg.authoring.saving import process_saved
root, name = Path(sys.argv[1]), sys.argv[2]
for number in range(3):
    path = root / name
    text = path.read_text()
    process_saved(root, path)
"""


def test_saves_at_once_leave_no_torn_module(toy: Path) -> None:
    """Two processes save two notebooks, a third reads the package all the while."""
    other = "nbs/core/01_stage.ipynb"
    edit(toy / NAME, "RATE = 0.1", "RATE = (" + "\n0.1," * 30 + "\n)")
    process_saved(toy, toy / NAME)
    script = SAVE.replace("process_saved(root, path)", "process_saved(root, path); (root / sys.argv[3]).unlink()")
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(toy), name, module], cwd=toy / "nbs", env=calm())
        for name, module in ((NAME, MODULE), (other, "mlops_pkg/core/stage.py"))
    ]
    seen, torn = 0, []
    while any(process.poll() is None for process in running):
        for path in (toy / MODULE, toy / "mlops_pkg" / "_modidx.py"):
            try:
                text = path.read_text()
            except FileNotFoundError:
                continue
            seen += 1
            if not text.endswith((")\n", "}\n")):
                torn.append(text[-80:])

    assert [process.wait() for process in running] == [0, 0]
    assert seen > 10
    assert torn == []
    for name in (NAME, other):
        process_saved(toy, toy / name)
    assert lines(toy) == []


def calm() -> dict[str, str]:
    """Return an environment in which this package can be imported from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_all_notebooks_are_exported_but_the_broken_one(toy: Path) -> None:
    walk = toy / "nbs" / "pipeline" / "22_train.ipynb"
    edit(walk, "import json", "import json as")
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")

    done = subprocess.run(
        [sys.executable, "-m", "mlops_pkg.authoring.saving"],
        cwd=toy / "nbs",
        env=calm(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == f"{MODULE}: exported from {NAME}\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("nbs/pipeline/22_train.ipynb: cell step-2: not valid Python")
    assert "RATE = 0.2" in (toy / MODULE).read_text()


def test_a_notebook_of_an_old_format_stops_the_export_before_anything_is_written(toy: Path) -> None:
    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    old = toy / "nbs" / "pipeline" / "22_train.ipynb"
    old.write_text(old.read_text().replace('"nbformat_minor": 5', '"nbformat_minor": 4'))
    before = sources_and_modules(toy)

    done, failed = export_all(toy)

    assert done == []
    assert len(failed) == 1
    assert "nbs/pipeline/22_train.ipynb: saved in notebook format 4.4" in failed[0]
    assert sources_and_modules(toy) == before


WATCH = """
import sys
from pathlib import Path
from mlops_pkg.authoring.saving import watch
watch(Path.cwd().parent, lambda line, well: print(line, flush=True), lambda: print("ready", flush=True))
"""


@pytest.fixture
def watching(toy: Path) -> Iterator[subprocess.Popen[str]]:
    edit(toy / "nbs" / "core" / "01_stage.ipynb", "STAGES = ", "STAGES = list() or ")
    running = subprocess.Popen(
        [sys.executable, "-c", WATCH], cwd=toy / "nbs", env=calm(), stdout=subprocess.PIPE, text=True
    )
    yield running
    running.kill()
    running.wait()


def test_the_watch_exports_each_change_tells_a_broken_cell_and_ends_quietly(
    toy: Path, watching: subprocess.Popen[str]
) -> None:
    assert watching.stdout
    assert watching.stdout.readline() == "mlops_pkg/core/stage.py: exported from nbs/core/01_stage.ipynb\n", "catch up"
    assert watching.stdout.readline() == "ready\n"

    edit(toy / NAME, "RATE = 0.1", "RATE = 0.2")
    assert watching.stdout.readline() == f"{MODULE}: exported from {NAME}\n"
    edit(toy / NAME, "RATE = 0.2", "RATE = = 0.2")
    assert watching.stdout.readline() == f"{NAME}: cell step-2: not valid Python: invalid syntax (line 2)\n"
    edit(toy / NAME, "RATE = = 0.2", "RATE = 0.3")
    assert watching.stdout.readline() == f"{MODULE}: exported from {NAME}\n"
    watching.send_signal(signal.SIGINT)

    assert watching.wait(timeout=60) == 0
    assert lines(toy) == []


@pytest.fixture
def server(toy: Path) -> Iterator[dict[str, Any]]:
    """Run a server that responds with `sessions`, as JupyterLab does."""
    state: dict[str, Any] = {"sessions": []}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state["asked"] = (self.path, self.headers["Authorization"])
            body = json.dumps(state["sessions"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.server_port}/"
        told = {"url": url, "token": "secret", "pid": os.getpid(), "root_dir": str(toy)}
        place = toy / RUNTIME / "jpserver-1.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(told))
        yield state
        listening.shutdown()


def test_a_notebook_that_ran_after_its_last_save_is_told(toy: Path, server: dict[str, Any]) -> None:
    later = datetime.fromtimestamp((toy / NAME).stat().st_mtime + 5, UTC).isoformat().replace("+00:00", "Z")
    before = datetime.fromtimestamp((toy / NAME).stat().st_mtime - 5, UTC).isoformat()
    server["sessions"] = [
        {"path": NAME, "kernel": {"last_activity": later}},
        {"path": "nbs/core/01_stage.ipynb", "kernel": {"last_activity": before}},
        {"path": "scratch.ipynb", "kernel": {"last_activity": later}},
    ]

    assert find_unsaved(toy) == ["00_rates.ipynb is open and ran after it was last saved; save it if you edited it"]
    assert server["asked"] == ("/api/sessions", "token secret")


@pytest.mark.parametrize("answer", [None, {"message": "Forbidden"}, [{"path": NAME}], [{"path": NAME, "kernel": None}]])
def test_a_server_that_answers_strangely_is_passed_over(toy: Path, server: dict[str, Any], answer: Any) -> None:
    server["sessions"] = answer

    assert find_unsaved(toy) == []


def test_a_server_that_does_not_answer_costs_a_moment(toy: Path) -> None:
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        told = {
            "url": f"http://127.0.0.1:{deaf.getsockname()[1]}/",
            "token": "",
            "pid": os.getpid(),
            "root_dir": str(toy),
        }
        place = toy / RUNTIME / "jpserver-1.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(told))
        started = time.monotonic()
        assert find_unsaved(toy, seconds=0.2) == []
        assert time.monotonic() - started < 2
