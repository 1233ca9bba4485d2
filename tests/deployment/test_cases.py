"""Cases wait on the disk; two people never get the same one; a label survives every kill."""

import csv
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score

from mlops_pkg.cli import commands
from mlops_pkg.deployment.cases import LEASE_SECONDS, CaseQueue, NewCase, kappa_of, progress, read_labels
from mlops_pkg.deployment.plan import DeploymentError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a queue."""
    return tmp_path / "cases.sqlite"


def fill(path: Path, count: int, twice: float = 0.0) -> CaseQueue:
    """A queue with so many cases."""
    queue = CaseQueue(path)
    queue.add([NewCase(f"r-{number}", 0, "v1", {"wind": number}, {"prediction": 1}) for number in range(count)], twice)
    return queue


def test_a_case_comes_back_as_it_was_referred(path: Path) -> None:
    queue = CaseQueue(path)
    queue.add([NewCase("order-17", 3, "v1", {"origin": "Zürich", "wind": None}, None)])

    case = queue.take("ann")

    assert case is not None
    assert case._asdict() == {
        "number": 1, "request_id": "order-17", "record": 3, "version": "v1",
        "inputs": {"origin": "Zürich", "wind": None}, "shown": None,
    }  # fmt: skip


def test_a_person_keeps_a_case_until_it_is_labelled(path: Path) -> None:
    queue = fill(path, 3)
    first = queue.take("ann")

    assert first == queue.take("ann")
    assert first
    queue.label("ann", first.number, "1")
    second = queue.take("ann")
    assert second
    assert second.number == first.number + 1
    assert progress(path)[:2] == (2, 1)


def test_two_people_at_once_never_have_the_same_case(path: Path) -> None:
    queue = fill(path, 200)

    def work(who: str) -> list[int]:
        mine = CaseQueue(path)
        done = []
        while (case := mine.take(who)) is not None:
            mine.label(who, case.number, "0")
            done.append(case.number)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, ["ann", "bob", "cleo", "dan"]))

    assert sorted(number for one in done for number in one) == list(range(1, 201))
    assert queue.take("eve") is None


def test_a_case_that_somebody_has_left_is_given_to_the_next(path: Path) -> None:
    queue = fill(path, 1)
    case = queue.take("ann", now=1000.0)
    assert case
    assert queue.take("bob", now=1000.0 + LEASE_SECONDS - 1) is None
    assert queue.take("bob", now=1000.0 + LEASE_SECONDS + 1) == case
    queue.label("bob", case.number, "1")

    with pytest.raises(DeploymentError, match="somebody has labelled it by now"):
        queue.label("ann", case.number, "0")
    assert [(one["who"], one["label"]) for one in read_labels(path)] == [("bob", "1")]


def test_who_does_not_have_a_case_cannot_label_it(path: Path) -> None:
    queue = fill(path, 2)

    for number in (1, 99):
        with pytest.raises(DeploymentError, match=f"case {number}: you do not have it"):
            queue.label("ann", number, "1")


def test_some_are_labelled_twice_by_different_people(path: Path) -> None:
    queue = fill(path, 300, twice=0.2)
    for who, labels in (("ann", "01"), ("bob", "001")):
        turn = 0
        while (case := queue.take(who)) is not None:
            queue.label(who, case.number, labels[case.number % len(labels)])
            turn += 1
    found = progress(path)

    assert found.waiting == 0
    assert 30 < found.twice < 90
    given = read_labels(path)
    both: dict[str, dict[str, str]] = {}
    for one in given:
        both.setdefault(one["request_id"], {})[one["who"]] = one["label"]
    pairs = [(one["ann"], one["bob"]) for one in both.values() if len(one) == 2]
    assert len(pairs) == found.twice
    assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


def test_agreement_needs_something_to_agree_on() -> None:
    assert kappa_of([]) is None
    assert kappa_of([("1", "1"), ("1", "1")]) is None
    assert kappa_of([("1", "1"), ("0", "0")]) == 1.0
    assert kappa_of([("1", "0"), ("0", "1")]) == -1.0


PERSON = """
import sys
from pathlib import Path
from mlops_pkg.deployment.cases import CaseQueue, NewCase
queue = CaseQueue(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(100000):
    queue.add([NewCase(f"r-{number}", 0, "v1", {}, None)])
    print("added", flush=True)
    case = queue.take("ann")
    queue.label("ann", case.number, "1")
    print("labelled", flush=True)
"""


def test_what_was_told_to_be_stored_survives_a_kill(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.sqlite"
        with subprocess.Popen([sys.executable, "-c", PERSON, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.Random(number).uniform(0.05, 0.3))
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split("\n")[:-1]
        added, labelled = lines.count("added"), lines.count("labelled")
        found = progress(path)
        assert added <= found.waiting + found.labelled <= added + 1
        assert labelled <= found.labelled <= labelled + 1
        assert sqlite3.connect(path).execute("pragma integrity_check").fetchone() == ("ok",)


def test_the_command_counts_and_writes_the_labels(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    queue = fill(path, 2)
    case = queue.take("ann")
    assert case
    queue.label("ann", case.number, "a, b")

    done = CliRunner().invoke(commands, ["deploy", "cases", "--folder", ".", "--out", "labels.csv"])

    assert done.output == "1 wait, 1 are labelled, 0 of them twice\nlabels.csv: 1 labels\n"
    [row] = list(csv.DictReader((path.parent / "labels.csv").open()))
    assert (row["request_id"], row["record"], row["label"], row["who"]) == ("r-0", "0", "a, b", "ann")
    assert not list(path.parent.glob(".labels*"))
    assert CliRunner().invoke(commands, ["deploy", "cases", "--folder", ".", "--out", "new/labels.csv"]).exit_code == 0
    assert (path.parent / "new" / "labels.csv").read_bytes() == (path.parent / "labels.csv").read_bytes()
    none = CliRunner().invoke(commands, ["deploy", "cases", "--folder", "nowhere"])
    assert none.output.startswith("nowhere/cases.sqlite: not found")
