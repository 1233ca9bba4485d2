"""A band of probabilities: chosen as declared, with the errors on either side, and said beside each prediction."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.cli import commands
from mlops_pkg.deployment.plan import Automation, DeploymentError
from mlops_pkg.deployment.referral import (
    band_of,
    choose_band,
    expected_errors,
    in_band,
    read_labelled,
    two_sides,
    wilson,
)
from mlops_pkg.serving.decisions import add_decisions
from mlops_pkg.serving.messages import json_predictions
from tests.prediction_log.conftest import THREE, THREE_GRAPH
from tests.toy import RECORD, write_bundle

RECORDS = [
    RECORD | {"start": f"2013-01-01T{hour:02}:00", "origin": origin} for origin in ("EWR", "JFK") for hour in range(24)
]


@pytest.mark.parametrize(
    ("bound", "threshold", "band"),
    [
        (0.2, 0.5, (0.2, 0.8)),
        (0.5, 0.5, (0.5, 0.5)),
        (0.3, 0.25, (0.25, 0.7)),
        (0.8, 0.25, (0.25, 0.25)),
        (0, 0.5, (0, 1)),
    ],
)
def test_what_is_more_often_wrong_than_the_bound_is_referred(
    bound: float, threshold: float, band: tuple[float, float]
) -> None:
    assert band_of(bound, threshold) == pytest.approx(band)
    chances = np.linspace(0, 1, 1001)
    wrong = expected_errors(chances, threshold)
    referred = in_band(chances, band_of(bound, threshold))
    assert (wrong[referred] >= bound - 1e-9).all()
    assert (wrong[~referred] <= bound + 1e-9).all()


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=200),
    st.floats(0, 1),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_no_more_than_the_share_is_referred_and_those_are_the_least_certain(
    thousandths: list[int], share: float, threshold: float
) -> None:
    chances = np.array(thousandths) / 1000
    referred = in_band(chances, choose_band(chances, threshold, share))
    wrong = expected_errors(chances, threshold)

    assert referred.sum() <= share * len(chances) + 1e-9
    if referred.any() and not referred.all():
        assert wrong[referred].min() >= wrong[~referred].max() - 1e-6


@pytest.mark.parametrize(("wrong", "total"), [(0, 10), (3, 10), (10, 10), (120, 5000)])
def test_the_interval_is_wilsons(wrong: int, total: int) -> None:
    theirs = binomtest(wrong, total).proportion_ci(method="wilson")

    assert wilson(wrong, total) == pytest.approx((theirs.low, theirs.high))


def test_without_rows_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_errors_are_counted_on_either_side() -> None:
    chances = np.array([0.1, 0.4, 0.6, 0.9, 0.45])
    truth = np.array([True, False, False, True, True])

    automatic, referred = two_sides(chances, truth, 0.5, (0.3, 0.7))

    assert (automatic.rows, automatic.wrong, referred.rows, referred.wrong) == (2, 1, 3, 2)
    assert str(automatic).startswith("50.00% [")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Records with labels, of which one is rejected."""
    frame = pd.DataFrame([*RECORDS, RECORD | {"wind": 999.0}])
    frame["late"] = [int(hour % 24 >= 12) for hour in range(len(frame))]
    frame.to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def _run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(commands, ["deploy", "band", *words])
    return done.exit_code, done.output


def test_the_command_writes_the_line_of_the_file(tmp_path: Path, rows: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    chances, truth = read_labelled(Predictor.load(bundle), rows)
    assert len(chances) == len(truth) == 48

    code, said = _run("--bundle", str(bundle), "--share", "0.25", str(rows))

    low, high = choose_band(chances, 0.5, 0.25)
    assert code == 0
    assert said.splitlines()[0] == f"automation: {{level: partial, refer: [{low:.9g}, {high:.9g}]}}"
    automatic, referred = two_sides(chances, truth, 0.5, (low, high))
    assert 0 < referred.rows <= 12
    assert f"{referred.rows / 48:.1%} referred; wrong: automatic {automatic}; referred {referred}" in said
    assert _run("--bundle", str(bundle), "--share", "0", str(rows))[1].startswith("band: no decision would be referred")
    assert _run("--bundle", str(bundle), "--cost", "0.3", str(rows))[1].startswith(
        "automation: {level: partial, refer: [0.3, 0.7]}\n"
    )


def test_what_a_band_cannot_be_chosen_by_is_told(tmp_path: Path, rows: Path) -> None:
    bundle = str(write_bundle(tmp_path / "bundle"))
    three = str(write_bundle(tmp_path / "three", THREE_GRAPH, THREE))
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "unlabelled.parquet")

    assert _run("--bundle", bundle, str(rows)) == (1, "band: give either --share or --cost\n")
    assert _run("--bundle", three, "--cost", "0.3", str(rows))[1] == "toy: a band needs a model of two classes\n"
    said = _run("--bundle", bundle, "--cost", "0.3", str(tmp_path / "unlabelled.parquet"))[1]
    assert said.endswith("unlabelled.parquet: no column 'late', which the model predicts\n")
    assert _run("--bundle", bundle, "--cost", "0.3", str(tmp_path / "nowhere"))[0] == 1


@pytest.mark.parametrize(
    "values",
    [{"level": "partial"}, {"level": "full", "refer": [0.1, 0.2]}, {"level": "partial", "refer": [0.6, 0.4]}],
)
def test_a_band_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    from mlops_pkg.deployment.plan import parse_plan

    with pytest.raises(DeploymentError, match="d.yaml: automation"):
        parse_plan({"champion": "old", "automation": values}, "d.yaml")


def test_each_prediction_says_who_decides(tmp_path: Path) -> None:
    predictor = Predictor.load(write_bundle(tmp_path / "bundle"))
    answers = predictor.predict([*RECORDS, "none"])
    lines = json_predictions(answers)
    partial = Automation(level="partial", refer=(0.4, 0.6))

    said = [json.loads(line) for line in add_decisions(lines, answers, partial)]

    referred = [0.4 <= one["probability"] < 0.6 for one in said[:-1]]
    assert 0 < sum(referred) < len(referred)
    assert [one["decision"] == "refer" for one in said[:-1]] == referred
    assert "decision" not in said[-1]
    for one, line in zip(said[:-1], lines[:-1], strict=True):
        assert one == json.loads(line) | {"decision": one["decision"]}


def test_people_who_decide_alone_do_not_see_the_prediction(tmp_path: Path) -> None:
    predictor = Predictor.load(write_bundle(tmp_path / "three", THREE_GRAPH, THREE))
    answers = predictor.predict([{"wind": 1.0}, {"wind": None}])

    hidden = [
        json.loads(line) for line in add_decisions(json_predictions(answers), answers, Automation(level="shadow"))
    ]
    shown = [json.loads(line) for line in add_decisions(json_predictions(answers), answers, Automation(level="assist"))]

    assert hidden[0] == {"prediction": None, "probabilities": None, "decision": "refer"}
    assert (shown[0]["prediction"], shown[0]["decision"]) == ("L", "refer")
    assert "errors" in hidden[1]
    assert add_decisions(json_predictions(answers), answers, Automation()) == json_predictions(answers)
