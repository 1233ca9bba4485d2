"""Errors of a day: a real command in a real small project ends with one line that helps, and nothing is written."""

import contextlib
import difflib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IDENTITY, ROOT, contents, lay_out

COPIED = ("README.md", "dvc.yaml", "dvc.lock", "data.dvc", "settings.ini", ".gitignore", ".dvcignore", "nbs")
# root may write everywhere, unless it gives that right up
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.geteuid() == 0 else ()
STAGE = "nbs/pipeline/22_train.ipynb"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as a clone gives it: code, notebooks, records and raw tables, and nothing built."""
    root = lay_out(tmp_path_factory.mktemp("day") / "project")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    return root


@pytest.fixture
def project(laid_out: Path, tmp_path: Path) -> Path:
    """A copy, to make mistakes in."""
    return Path(shutil.copytree(laid_out, tmp_path / "project"))


@pytest.fixture
def made(built: Path, project: Path) -> Path:
    """The same with production's outputs."""
    shutil.copytree(built / "artifacts", project / "artifacts")
    return project


def command(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line, run in a folder."""
    unprivileged = UNPRIVILEGED if shutil.which("setpriv") else ()
    found = folder if (folder / "mlops_pkg").is_dir() else ROOT
    line = [*unprivileged, sys.executable, "-m", "mlops_pkg", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(found), **more}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def one_line(root: Path, *arguments: str, code: int = 1, folder: Path | None = None) -> str:
    """The one line on standard error with which a mistake ends; nothing may have been written."""
    before = contents(root)

    done = command(folder or root, *arguments)

    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]  # what takes long says so
    assert len(lines) == 1, done.stderr
    assert len(lines[0]) < 250, lines[0]
    assert contents(root) == before, "something was written"
    return lines[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "research train",
            "artifacts/features/train.parquet: missing; get it with `dvc pull`, or make it with `dvc repro features`",
        ),
        ("research", "artifacts/ingest/train.parquet: missing; get it with `dvc pull`"),
        ("stage evaluate", "artifacts/ingest/train.parquet: missing; get it with `dvc pull`"),
        ("parity", "artifacts/: none of the 40 outputs of dvc.yaml is there; get them with `dvc pull`, or make them"),
        ("predict data/weather.csv scored.csv", "artifacts/package: there is no such folder; get it with `dvc pull`"),
    ],
)
def test_before_any_run_each_command_says_what_to_do(project: Path, line: str, told: str) -> None:
    (project / "data" / "weather.csv").write_text("origin\nEWR\n")

    assert one_line(project, *line.split()).startswith(told)


def test_before_any_walk_parity_says_how_to_walk(made: Path) -> None:
    told = one_line(made, "parity")

    assert told.startswith("research/: none of the 40 outputs of dvc.yaml is there; walk the stages with")


def test_before_any_run_the_summary_and_the_report_name_the_command(project: Path) -> None:
    summary = command(project, "summary")
    report = command(project, "report")

    assert (summary.returncode, report.returncode) == (0, 0)
    assert "rows: not counted yet; run `dvc repro`" in summary.stdout
    assert "dvc repro" in (project / "reports" / "index.html").read_text()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "rebuild",
            "dvc.lock: there is no such file; make it with `dvc repro`, or get it with `git checkout dvc.lock`",
        ),
        (
            "lineage",
            "dvc.lock: there is no such file; make it with `dvc repro`, or get it with `git checkout dvc.lock`",
        ),
    ],
)
def test_without_a_lock_what_reads_it_says_how_to_get_it(project: Path, line: str, told: str) -> None:
    (project / "dvc.lock").unlink()

    assert one_line(project, line) == told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stage trian", "no stage is named 'trian'; did you mean 'train'?"),
        ("research trian", "no stage is named 'trian'; did you mean 'train'?"),
        ("rebuild trian", "no stage is named 'trian'; did you mean 'train'?"),
        ("reserch", "No such command 'reserch'"),
    ],
)
def test_an_unknown_stage_or_command_is_wrong_usage(project: Path, line: str, told: str) -> None:
    before = contents(project)

    done = command(project, *line.split())

    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert contents(project) == before


@pytest.mark.parametrize("line", ["research train --set evaluate.bootstrp=50", "stage train", "research train", "sync"])
def test_an_unknown_parameter_is_named_with_the_nearest(made: Path, line: str) -> None:
    told = "params.yaml: evaluate.bootstrp: unknown key; did you mean 'bootstrap'?"
    if "--set" not in line:
        params = made / "params.yaml"
        params.write_text(params.read_text().replace("bootstrap:", "bootstrp:"))

    if line == "sync":
        assert told in command(made, line).stdout
    else:
        assert one_line(made, *line.split()) == told


def test_overrides_that_stand_in_a_notebook_are_named_with_what_to_do(made: Path) -> None:
    path = made / STAGE
    path.write_text(path.read_text().replace("overrides = {}", "overrides = {'train': {'max_iter': 5}}"))

    told = one_line(made, "research", "train")

    assert told.startswith(
        f"{STAGE}: `overrides = {{'train': {{'max_iter': 5}}}}` stands in the parameters cell; empty"
    )


def test_a_cell_that_fails_is_named_with_its_error(made: Path) -> None:
    path = made / STAGE
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "use-imports")
    cell["source"].append("\nno_such_name")
    path.write_text(json.dumps(notebook))
    before = contents(made)

    done = command(made, "research", "train")

    told = f"train: the walk through {STAGE} failed in cell use-imports: NameError: name 'no_such_name' is not defined"
    assert done.returncode == 1
    assert done.stderr == f"{told}; see research/train.failed.ipynb\n"
    assert contents(made).keys() - before.keys() == {"research/train.failed.ipynb"}


@pytest.mark.parametrize("kernel", [{"display_name": "base", "name": "conda-base"}, None])
def test_a_notebook_of_another_kernel_is_walked_by_the_kernel_of_the_project(made: Path, kernel: object) -> None:
    path = made / STAGE
    notebook = json.loads(path.read_text())
    notebook["metadata"] = {"kernelspec": kernel} if kernel else {}
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    write = "from pathlib import Path\nPath(out, 'train').mkdir(parents=True)"
    cells.append({"cell_type": "code", "id": "write", "metadata": {}, "outputs": [], "execution_count": None})
    cells[-1]["source"] = write.splitlines(keepends=True)
    path.write_text(json.dumps(notebook | {"cells": cells}))

    done = command(made, "research", "train")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["summary", "stage train", "rebuild", "verify"])
def test_outside_a_project_one_line_says_so(tmp_path: Path, line: str) -> None:
    told = one_line(tmp_path, *line.split())

    assert told.endswith(f"params.yaml: not found in {tmp_path} or above it; run this inside the project")


def test_below_the_project_commands_work_as_at_its_top(made: Path) -> None:
    above, below = (command(folder, "summary") for folder in (made, made / "nbs" / "pipeline"))

    assert below.returncode == 0
    assert below.stdout == above.stdout


@pytest.fixture
def closed(made: Path) -> Iterator[Path]:
    """The project in a folder in which nobody may write."""
    folders = [made, *(path for path in made.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield made
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root may write everywhere")
@pytest.mark.parametrize("line", ["stage train", "research train", "report"])
def test_a_folder_in_which_one_may_not_write_is_named(closed: Path, line: str) -> None:
    told = one_line(closed, *line.split())

    assert "give yourself the right to write there and run it again; nothing was changed" in told


# What `dvc exp run -S` and `dvc exp apply` make of params.yaml


def by_dvc(root: Path, *pairs: str) -> str:
    """The params.yaml that an experiment leaves, over a committed one, under git and DVC."""
    from dvc.utils.hydra import apply_overrides

    for line in (["init", "--quiet"], ["add", "params.yaml"], [*IDENTITY, "commit", "--quiet", "--message", "Values"]):
        subprocess.run(["git", *line], cwd=root, check=True)
    (root / ".dvc").mkdir()
    apply_overrides(root / "params.yaml", list(pairs))
    return (root / "params.yaml").read_text()


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """A folder with the project's params.yaml alone."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("more", [(), ("train.options.max_iter=50",)], ids=["one experiment", "another on top of it"])
def test_after_an_experiment_params_yaml_differs_in_the_values_alone(values: Path, more: tuple[str, ...]) -> None:
    from dvc.utils.hydra import apply_overrides

    before = (values / "params.yaml").read_text()
    by_dvc(values, "train.options.learning_rate=0.1")
    for pair in more:
        apply_overrides(values / "params.yaml", [pair])

    done = command(values, "mend")

    assert done.stdout.startswith("params.yaml: `dvc exp` had written it in another format"), done.stderr
    after = (values / "params.yaml").read_text()
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] == "+"]
    assert lines == ["+     learning_rate: 0.1", *("+     max_iter: 50" for _ in more)]
    assert command(values, "mend").stdout == ""


def test_a_params_yaml_that_was_edited_after_the_experiment_is_left_alone(values: Path) -> None:
    edited = by_dvc(values, "train.options.learning_rate=0.1") + "# a note of mine\n"
    (values / "params.yaml").write_text(edited)

    assert command(values, "mend").stdout == ""
    assert (values / "params.yaml").read_text() == edited


# Colour


def at_a_terminal(folder: Path, *arguments: str, **more: str) -> str:
    """What a command writes for a person at a terminal."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}
    mine, theirs = pty.openpty()
    line = [sys.executable, "-m", "mlops_pkg", *arguments]
    running = subprocess.Popen(line, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while more_of_it := os.read(mine, 65536):
            said += more_of_it
    running.wait()
    os.close(mine)
    return said.decode()


@pytest.mark.parametrize("line", ["summary", "lineage params.yaml:seed"])
def test_colours_are_for_those_who_want_them(made: Path, line: str) -> None:
    (made / "reports").mkdir(exist_ok=True)
    (made / "reports" / "parity.json").write_text('{"ok": true, "outputs": [{"equal": true}]}')

    painted = at_a_terminal(made, *line.split())
    plain = at_a_terminal(made, *line.split(), NO_COLOR="1")
    dumb = at_a_terminal(made, *line.split(), TERM="dumb")

    assert re.search(r"\033\[\d+m", painted), painted
    assert not re.search(r"\033\[\d*m", plain), plain
    assert "\033" not in dumb, dumb
    assert "\033" not in command(made, *line.split()).stdout


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_pkg.project.research import Progress

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert Progress(["train"]).live
    monkeypatch.setenv("TERM", "dumb")
    assert not Progress(["train"]).live


def test_colours_come_from_one_place() -> None:
    package = ROOT / "mlops_pkg"
    coloured = [
        path for path in package.rglob("*.py") if re.search(r"\\033\[|\\x1b|click\.(style|secho)", path.read_text())
    ]

    assert {path.stem for path in coloured} <= {"terminal", "research", "sources", "textconv"}


# The report in a browser


def test_the_report_opens_in_the_browser_of_the_user(project: Path, tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)

    done = command(project, "report", "--open", BROWSER=f"{browser} %s")

    assert (done.returncode, done.stdout) == (0, "reports/index.html\n")
    assert "No browser" not in done.stderr
    assert opened.read_text().strip() == (project / "reports" / "index.html").as_uri()


def test_without_a_browser_the_report_says_where_it_is(project: Path) -> None:
    done = command(project, "report", "--open", BROWSER="/bin/false %s", DISPLAY="", WAYLAND_DISPLAY="", TERM="")

    assert done.returncode == 0
    assert done.stdout == "reports/index.html\n"
    assert done.stderr.endswith(f"No browser opens here; open {project / 'reports' / 'index.html'}\n")
