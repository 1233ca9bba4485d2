"""What is wrong with a deployment is told before a server reads it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlops_pkg.cli import commands
from mlops_pkg.deployment.ledger import State, decide, read_state
from mlops_pkg.deployment.plan import DeploymentError
from tests.toy import TOY, write_bundle

Start = Callable[..., State]


def test_a_start_names_every_bundle_by_its_identity(start: Start, project: Path) -> None:
    state = start(challenger="new", mode="ab", share=0.5)

    assert (state.decision, state.by, state.share, state.number) == ("start", "ann", 0.5, 1)
    assert [Path(one.folder) for one in state.bundles] == [project / "old", project / "new"]
    assert all(re.fullmatch("[0-9a-f]{64}", one.identity) for one in state.bundles)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"challenger": "../x", "mode": "canary"}, "outside"),
        ({"challenger": "missing", "mode": "canary"}, "challenger = missing: "),
        ({"challenger": "damaged", "mode": "canary"}, "challenger = damaged: "),
        ({"challenger": "narrow", "mode": "canary"}, "challenger: does not fit .*wind: it may not be missing any more"),
        ({"shadows": ["narrow"]}, "shadow-1: does not fit"),
        ({"challenger": "new", "mode": "canary", "sticky": "orign"}, "sticky = orign: expected request_id, or a field"),
    ],
)
def test_a_bundle_that_cannot_be_deployed_is_told(
    start: Start, project: Path, values: dict[str, Any], message: str
) -> None:
    write_bundle(project / "damaged")
    (project / "damaged" / "model.onnx").write_bytes(b"another")
    fields = (TOY.fields[0], replace(TOY.fields[1], nullable=False), TOY.fields[2])
    write_bundle(project / "narrow", signature=replace(TOY, fields=fields))

    with pytest.raises(DeploymentError, match=message):
        start(**values)
    assert not (project / "deployment").exists()


def test_a_canary_under_way_is_not_replaced(start: Start, project: Path) -> None:
    first = start(challenger="new", mode="canary")
    with pytest.raises(DeploymentError, match="a canary is under way; promote it or roll it back first"):
        start(challenger="other", mode="canary")

    decide(project / "deployment", "rollback", "ann", "")
    state = start(challenger="other", mode="canary")
    assert state.number == 3
    assert state.salt != first.salt


def test_a_ledger_that_is_none_is_told_and_kept(start: Start, project: Path) -> None:
    (project / "deployment").mkdir()
    (project / "deployment" / "ledger.jsonl").write_text('{"number"\n')

    with pytest.raises(DeploymentError, match="ledger.jsonl: line 1: not a decision"):
        start()
    assert (project / "deployment" / "ledger.jsonl").read_text() == '{"number"\n'


def test_the_commands_of_a_day(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["deploy", *words])
        return done.exit_code, done.output

    (project / "deployment.yaml").write_text("{champion: old, challenger: new, mode: blue-green}")
    assert run("start")[1].startswith("blue-green, challenger 0%, under way; champion old (")
    assert run("promote", "--reason", "all is well")[1].startswith("blue-green, challenger 100%, over: promote; ")
    assert run("rollback")[1].startswith("blue-green, challenger 0%, over: rollback; ")
    code, said = run("rollback")
    assert (code, said.startswith("rollback: nothing to do; the last decision was rollback")) == (1, True)

    lines = run("status")[1].splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["start", "promote", "rollback"]
    assert lines[2].endswith("all is well")
    assert '"decision": "rollback"' in run("status", "--json")[1]
    assert read_state(project / "deployment").number == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "deployment/ledger.jsonl: not found; `mlops_pkg deploy start` makes it from deployment.yaml"),
        (["start"], "deployment.yaml: "),
        (["rollback", "--folder", "nowhere"], "nowhere/ledger.jsonl: not found"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(commands, ["deploy", *words])

    assert done.exit_code == 1
    assert done.output.startswith(message)
    assert len(done.output.splitlines()) == 1
