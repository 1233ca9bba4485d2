"""What the command `log` says, and its exit codes."""

import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.cli import commands
from mlops_pkg.prediction_log.segments import list_segments
from tests.prediction_log.conftest import DAY, logged, write_log
from tests.toy import write_bundle


def _run(*words: str) -> Result:
    return CliRunner().invoke(commands, ["log", *words])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle that has answered."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def log(toy: Predictor, tmp_path: Path) -> Path:
    """A log of one day with three requests."""
    write_log(tmp_path / "log", toy, 3)
    return tmp_path / "log"


def test_show_counts_by_day(log: Path, toy: Predictor) -> None:
    done = _run("show", str(log))

    assert done.exit_code == 0
    [line, total] = done.output.splitlines()
    assert line.split() == [DAY, "3", "records", "3", "segments", toy.identity[:12]]
    assert total == "3 records"
    assert _run("show", str(log), "--since", "2013-05-02").output == "0 records\n"


def test_verify_is_green_or_red(log: Path, bundle: Path) -> None:
    green = _run("verify", str(log), "--bundle", str(bundle))
    assert (green.exit_code, green.output.splitlines()[-1]) == (
        0, "log: green; 3 of 3 answers computed again with the same bits",
    )  # fmt: skip

    path = list_segments(log / DAY)[0]
    path.write_bytes(path.read_bytes()[:-1])
    red = _run("verify", str(log), "--bundle", str(bundle))
    assert red.exit_code == 1
    assert f"{path}: damaged" in red.output
    assert red.output.splitlines()[-1] == "log: red; 2 of 2 answers computed again with the same bits"


def test_join_leaves_the_present_day_alone(log: Path) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    (log / DAY).rename(log / today)

    assert _run("join", str(log)).output == ""
    assert _run("join", str(log), "--until", today).output == f"{today}: 3 segments -> 1\n"


def test_forget_says_what_is_left(log: Path) -> None:
    done = _run("forget", str(log), "--where", "request_id=a-1")

    assert (done.exit_code, done.output) == (0, "1 records deleted from 1 segments; 0 left\n")
    assert [row["request_id"] for row in logged(log)] == ["a-0", "a-2"]


def test_prune_keeps_the_last_days(log: Path) -> None:
    assert _run("prune", str(log), "--days", "30").output == f"1 days deleted: {DAY}\n"
    assert _run("prune", str(log), "--days", "30").output == "0 days deleted\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nowhere"], "nowhere: no such folder; name that of the setting `prediction_log`"),
        (["forget", ".", "--where", "wind"], "--where wind: expected NAME=VALUE"),
        (["verify", ".", "--bundle", "nowhere"], "nowhere"),
        (["show", ".", "--since", "May"], "May: expected a date such as 2013-01-31"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = _run(*words)

    assert done.exit_code == 1
    assert done.output.startswith(message)
    assert len(done.output.splitlines()) == 1
