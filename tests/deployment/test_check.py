"""A challenger lives through the past before it is given a request."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.cli import commands
from mlops_pkg.deployment.check import describe, replay
from mlops_pkg.prediction_log.rows import to_rows
from mlops_pkg.prediction_log.segments import list_days, write_segment
from tests.prediction_log.conftest import DAY, PERSONAL, entry_of, open_predictor
from tests.toy import GRAPH, RECORD, TOY, write_bundle

RECORDS = [
    RECORD | {"origin": origin, "start": f"2013-01-01T{hour:02}:00"}
    for origin in ("EWR", "JFK", "LGA")
    for hour in range(24)
] * 10


@pytest.fixture
def champion(tmp_path: Path) -> Predictor:
    """The model that has answered."""
    return open_predictor(write_bundle(tmp_path / "champion"))


@pytest.fixture
def log(champion: Predictor, tmp_path: Path) -> Path:
    """A day of its log, with a rejected record, and with a shadow that must not be counted."""
    entry = entry_of(champion, [*RECORDS, RECORD | {"wind": "strong"}])
    shadow = entry._replace(role="shadow-1")
    write_segment(tmp_path / "log", DAY, [to_rows([entry, shadow], "drop", b"")])
    return tmp_path / "log"


def _run(*words: str) -> Result:
    return CliRunner().invoke(commands, ["deploy", "check", *words])


def test_the_champion_itself_changes_nothing(champion: Predictor, log: Path) -> None:
    found = replay(list_days(log), champion)

    assert (found.rows, found.paired, found.changed, found.newly_rejected) == (721, 720, 0, 0)
    assert max(found.distances) == 0.0
    assert describe(found, 0.0)[1]
    assert set(found.slices) == {("origin", "EWR"), ("origin", "JFK"), ("origin", "LGA")}


def test_a_swapped_category_is_refused_with_its_slices(champion: Predictor, log: Path, tmp_path: Path) -> None:
    swapped = write_bundle(tmp_path / "swapped", GRAPH.replace('["EWR", "JFK"]', '["JFK", "EWR"]'))
    done = _run(str(swapped), "--log", str(log), "--allowed", "0.05")

    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    answers = [open_predictor(one).predict(RECORDS).label for one in (tmp_path / "champion", swapped)]
    changed = np.flatnonzero(answers[0] != answers[1])
    origins = [RECORDS[row]["origin"] for row in changed]
    assert lines[:1] == ["720 of 721 records were answered by both"]
    assert lines[1].startswith(f"{len(changed)} decisions change")
    for origin in ("EWR", "JFK"):
        assert any(
            line.startswith(f"origin = {origin}: {origins.count(origin)} of 240 decisions change") for line in lines
        )
    assert not any(line.startswith("origin = LGA") for line in lines)
    assert lines[-1] == "check: red"


def test_a_challenger_with_other_fields_is_asked_what_it_knows(champion: Predictor, log: Path, tmp_path: Path) -> None:
    fields = (TOY.fields[2], TOY.fields[0], replace(TOY.fields[1], maximum=1.0))
    narrow = open_predictor(write_bundle(tmp_path / "narrow", signature=replace(TOY, fields=fields)))

    found = replay(list_days(log), narrow)

    assert (found.paired, found.newly_rejected) == (0, 720)
    assert describe(found, 1.0) == (["check: red; no record of a champion could be asked again, of 721"], False)


def test_numbers_are_compared_by_distance(champion: Predictor, log: Path, tmp_path: Path) -> None:
    other = open_predictor(write_bundle(tmp_path / "other", GRAPH.replace("pace = {0.1}", "pace = {0.1001}")))

    assert replay(list_days(log), other).changed == 0
    assert replay(list_days(log), other, distance=1e-5).changed > 600


def test_records_without_their_personal_data_are_told_not_asked(tmp_path: Path) -> None:
    champion = open_predictor(write_bundle(tmp_path / "champion", signature=PERSONAL))
    write_segment(tmp_path / "log", DAY, [to_rows([entry_of(champion, RECORDS[:10])], "drop", b"")])

    found = replay(list_days(tmp_path / "log"), champion)

    assert (found.rows, found.paired, found.personal) == (10, 0, 10)


def test_the_command_is_green_for_what_is_allowed(champion: Predictor, log: Path, tmp_path: Path) -> None:
    done = _run(str(tmp_path / "champion"), "--log", str(log))

    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "check: green"
    assert "the busiest minute of the log had 721" in done.output
    assert _run(str(tmp_path / "champion"), "--log", str(log), "--until", "2013-04-01").exit_code == 1
