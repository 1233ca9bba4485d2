"""The last whole line is the state, whatever happens while it is written."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_pkg.deployment.ledger import LEDGER, State, append, change, decide, read_state, read_states
from mlops_pkg.deployment.plan import DeploymentError

Start = Callable[..., State]
CANARY = {"challenger": "new", "mode": "canary"}


def test_a_state_is_read_as_it_was_written(start: Start, project: Path) -> None:
    state = start(**CANARY, shadows=["other"], sticky="origin")

    assert read_state(project / "deployment") == state
    assert [(one.role, one.name) for one in state.bundles] == [
        ("champion", "old"), ("challenger", "new"), ("shadow-1", "other"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "decisions", "end"),
    [
        ("canary", ["pause"], (0.05, False)),
        ("canary", ["pause", "resume"], (0.05, False)),
        ("canary", ["promote"], (1.0, True)),
        ("canary", ["pause", "promote", "rollback"], (0.0, True)),
        ("canary", ["rollback"], (0.0, True)),
        ("blue-green", ["promote", "rollback", "promote"], (1.0, True)),
    ],
)
def test_decisions_follow_each_other(
    start: Start, project: Path, mode: str, decisions: list[str], end: tuple[float, bool]
) -> None:
    start(challenger="new", mode=mode)
    for decision in decisions:
        decide(project / "deployment", decision, "ann", "because")

    state = read_state(project / "deployment")
    assert (state.share, state.over, state.number) == (*end, 1 + len(decisions))
    assert [one.decision for one in read_states(project / "deployment")] == ["start", *decisions]


@pytest.mark.parametrize(
    ("values", "decisions"),
    [
        (CANARY, ["resume"]),
        (CANARY, ["pause", "pause"]),
        (CANARY, ["rollback", "rollback"]),
        (CANARY, ["rollback", "promote"]),
        (CANARY, ["promote", "pause"]),
        ({"challenger": "new", "mode": "blue-green"}, ["rollback", "rollback"]),
        ({}, ["promote"]),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_and_not_written(
    start: Start, project: Path, values: dict[str, str], decisions: list[str]
) -> None:
    start(**values)
    for decision in decisions[:-1]:
        decide(project / "deployment", decision, "ann", "")
    before = (project / "deployment" / LEDGER).read_bytes()

    with pytest.raises(DeploymentError, match=f"^{decisions[-1]}: "):
        decide(project / "deployment", decisions[-1], "ann", "")
    assert (project / "deployment" / LEDGER).read_bytes() == before


def test_of_two_who_decide_at_once_one_is_told(start: Start, project: Path) -> None:
    start(**CANARY)

    def attempt(decision: str) -> bool:
        try:
            return bool(decide(project / "deployment", decision, "ann", ""))
        except DeploymentError:
            return False

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(attempt, ["rollback"] * 8))
    assert sum(done) == 1
    assert len(read_states(project / "deployment")) == 2


@pytest.mark.parametrize("half", [b'{"number": 2', b"\x00\x00"])
def test_half_of_a_line_is_no_decision_and_is_replaced(start: Start, project: Path, half: bytes) -> None:
    start(**CANARY)
    with (project / "deployment" / LEDGER).open("ab") as file:
        file.write(half)

    assert read_state(project / "deployment").number == 1
    decide(project / "deployment", "rollback", "ann", "")
    assert [one.number for one in read_states(project / "deployment")] == [1, 2]


def test_a_line_that_is_no_decision_is_named(start: Start, project: Path) -> None:
    start(**CANARY)
    with (project / "deployment" / LEDGER).open("ab") as file:
        file.write(b'{"number": 2}\n')

    with pytest.raises(DeploymentError, match="ledger.jsonl: line 2: not a decision"):
        read_state(project / "deployment")


def test_without_a_ledger_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="mlops_pkg deploy start"):
        decide(tmp_path / "deployment", "rollback", "ann", "")
    assert not (tmp_path / "deployment").exists()


DECIDER = """
import sys
from pathlib import Path
from mlops_pkg.deployment.ledger import decide
print("ready", flush=True)
while True:
    for decision in ("pause", "resume"):
        decide(Path(sys.argv[1]), decision, "ann", "x" * 20000)
"""


def test_killed_at_any_moment_the_ledger_holds_whole_decisions(start: Start, project: Path) -> None:
    start(**CANARY)
    for number in range(5):
        command = [sys.executable, "-c", DECIDER, str(project / "deployment")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.Random(number).uniform(0.02, 0.2))
            process.send_signal(signal.SIGKILL)
        states = read_states(project / "deployment")
        assert [one.number for one in states] == list(range(1, len(states) + 1))
        if states[-1].paused:
            decide(project / "deployment", "resume", "ann", "")
    assert len(states) > 5


def test_a_decision_of_guards_gives_way_to_a_persons(start: Start, project: Path) -> None:
    state = start(**CANARY)
    decide(project / "deployment", "rollback", "ann", "")

    def late(present: State | None) -> State:
        assert present is not None
        if present.number != state.number:
            raise DeploymentError("someone else has decided")
        return change(present, "step", "guards", "", share=0.25)

    with pytest.raises(DeploymentError):
        append(project / "deployment", late)
    assert read_state(project / "deployment").share == 0.0
