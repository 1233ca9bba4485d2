"""The command `predict`: it answers a file, tells what became of it, and imports nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlops_pkg.bundle.predictor import Extras
from mlops_pkg.cli import commands
from mlops_pkg.scoring.files import Tally
from tests.toy import write_bundle


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, list(arguments), prog_name="mlops_pkg")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("predict in.csv", "Missing argument 'OUT'"),
        ("predict in.csv out.csv --processes 0", "0 is not in the range"),
        ("predict in.csv out.csv --column note", "--column"),
    ],
)
def test_a_mistake_in_typing_is_wrong_usage_with_a_hint(line: str, hint: str) -> None:
    result = run(*line.split())

    assert result.exit_code == 2
    assert hint in result.output


def test_help_lists_it_under_use_without_importing_what_scores() -> None:
    code = "import sys; from mlops_pkg.cli import commands\ncommands(['--help'], standalone_mode=False)\n"
    code += "print('mlops_pkg.scoring.files' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "\nUse:\n  predict " in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.fixture
def to_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside any project, with a bundle where it is looked for and a file of three rows."""
    write_bundle(tmp_path / "artifacts" / "package")
    (tmp_path / "in.csv").write_text(
        "note,origin,wind,start\na,EWR,2,2013-01-01\nb,,2,2013-01-01\nc,JFK,far,2013-01-01\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_predict_answers_a_file_and_tells_what_became_of_it(to_score: Path) -> None:
    result = run("predict", "in.csv", "out.csv", "--keep", "note")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "3 rows: 1 answered, 2 rejected; see out.rejects.csv\n"
    assert [line[-2:] for line in (to_score / "out.csv").read_text().splitlines()] == ["te", ",a", ",b", ",c"]


def test_predict_hands_over_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []

    def score(*given: object, processes: int, keep: tuple[str, ...], extras: Extras, **more: object) -> Tally:
        handed.extend([*given, processes, keep, extras, more["trusted"]])
        return Tally(1_000_000, 0, None)

    monkeypatch.setattr("mlops_pkg.scoring.files.score_file", score)

    options = ("--bundle", "c", "--processes", "3", "--keep", "d", "--keep", "e", "--explain", "--trust", "own.Clip")

    result = run("predict", "a.csv", "b.parquet", *options)

    given = [Path("c"), Path("a.csv"), Path("b.parquet"), 3, ("d", "e"), Extras(explain=True), ("own.Clip",)]
    assert handed == given
    assert result.output == "1,000,000 rows: 1,000,000 answered, 0 rejected\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("predict none.csv out.csv", "none.csv: there is no such file"),
        ("predict in.csv none/out.csv", "none: there is no such folder"),
        ("predict in.csv in.csv", "in.csv: this would write over the input; choose another name for the output"),
        ("predict in.xls out.csv", "in.xls: expected a name that ends in .csv, .parquet, .arrow, .feather or .xlsx"),
        ("predict in.csv out.xlsx", "out.xlsx: expected a name that ends in .csv or .parquet"),
        ("predict in.csv out.csv --keep nots", "in.csv: column 'nots' is missing; is it 'note'?"),
        ("predict in.csv out.csv --bundle .", ".: no manifest.json, so this is no bundle"),
    ],
)
def test_a_mistake_in_scoring_is_one_line_and_ends_with_1(line: str, told: str, to_score: Path) -> None:
    result = run(*line.split())

    assert (result.exit_code, result.output) == (1, f"{told}\n")
    assert sorted(path.name for path in to_score.iterdir()) == ["artifacts", "in.csv"]


def test_a_bundle_that_was_tampered_with_is_one_line_and_ends_with_1(to_score: Path) -> None:
    (to_score / "artifacts" / "package" / "model.pkl").touch()

    result = run("predict", "in.csv", "out.csv")

    assert result.exit_code == 1
    assert result.stderr == "artifacts/package/model.pkl: extra; the manifest does not list it\n"


def test_a_full_disk_is_one_line_and_ends_with_1(to_score: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlops_pkg.scoring.files.score_file", full)

    result = run("predict", "in.csv", "out.csv")

    assert (result.exit_code, result.stderr) == (1, "out.csv: No space left on device\n")


@pytest.mark.usefixtures("to_score")
def test_predict_imports_nothing_that_the_bare_wheel_lacks() -> None:
    code = (
        "import sys; from mlops_pkg.cli import commands\n"
        "commands(['predict', 'in.csv', 'out.csv'], standalone_mode=False)\n"
        "print(sorted({'pandas', 'pyarrow', 'pydantic', 'yaml', 'sklearn', 'onnx'} & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_progress_is_shown_to_who_watches(to_score: Path) -> None:
    import pty

    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlops_pkg", "predict", "in.csv", "out.csv"]

    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)

    os.close(theirs)
    shown = os.read(mine, 10_000).decode()
    assert done.stdout == "3 rows: 1 answered, 2 rejected; see out.rejects.csv\n"
    assert "100%" in shown
    assert "3 rows" in shown


def test_a_file_without_an_answer_ends_with_1(to_score: Path) -> None:
    (to_score / "in.csv").write_text("origin,wind,start\n,2,2013-01-01\nJFK,far,2013-01-01\n")

    result = run("predict", "in.csv", "out.csv")

    assert result.exit_code == 1
    assert result.stderr == "in.csv: no row has an answer; the reasons are in out.rejects.csv\n"
    assert len((to_score / "out.csv").read_text().splitlines()) == 3, "every row is accounted for all the same"


@pytest.mark.parametrize(("share", "code"), [("0.7", 0), ("0.5", 1), ("0", 1)])
def test_too_many_rejected_rows_end_with_1(share: str, code: int, to_score: Path) -> None:
    result = run("predict", "in.csv", "out.csv", "--max-reject-share", share)

    assert result.exit_code == code
    assert ("of the rows are rejected" in result.stderr) == bool(code)


def test_another_separator_than_in_training_is_told(to_score: Path) -> None:
    text = (to_score / "in.csv").read_text()
    (to_score / "in.csv").write_text(text.replace(",", ";"))

    result = run("predict", "in.csv", "out.csv")

    assert result.exit_code == 1
    assert "in.csv: the cells of a file are separated by ',' here, as in training, and these by ';'" in result.output
