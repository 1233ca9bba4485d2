"""Conformal intervals: they hold the truth for as many rows as they promise, and the same ones are answered."""

import json

import numpy as np
import pytest

from mlops_pkg.bundle.manifest import BundleError
from mlops_pkg.bundle.predictor import Answers, interval_of, require_interval
from mlops_pkg.bundle.records import Reject
from mlops_pkg.bundle.signature import Interval, class_sets
from mlops_pkg.core.params import UserError
from mlops_pkg.modelling.conformal import calibrate, interval_metrics
from mlops_pkg.serving.messages import json_predictions
from tests.toy import TOY


def make_case(kind: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and predictions: of a number, of two classes, or of five."""
    generator = np.random.default_rng(seed)
    if kind == "number":
        y = generator.normal(size=rows)
        return y, y + generator.standard_t(3, size=rows)
    classes = 2 if kind == "binary" else 5
    chances = generator.dirichlet(np.ones(classes), rows).round(9)
    y = (generator.random((rows, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return y, chances[:, 1] if kind == "binary" else chances


def covered(kind: str, interval: Interval, rows: int, seed: int) -> float:
    """Return the share of new rows whose interval holds the truth."""
    y, prediction = make_case(kind, rows, seed)
    metrics = interval_metrics(y, prediction, interval, kind != "number")
    share: float = metrics(np.ones(rows))["coverage"]
    return share


@pytest.mark.parametrize("kind", ["number", "binary", "classes"])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_intervals_hold_the_truth_as_often_as_they_promise(kind: str, coverage: float) -> None:
    y, prediction = make_case(kind, 20_000, 0)

    interval = calibrate(y, prediction, coverage, kind != "number")

    assert interval is not None
    found = covered(kind, interval, 200_000, 1)
    if kind == "number":
        assert found == pytest.approx(coverage, abs=0.01)
    else:  # the most probable class is always in the set
        assert found >= coverage - 0.01
    if kind != "number" and coverage == 0.5:
        return  # the most probable class alone holds the truth more often than that
    off = Interval(coverage, interval.bound * (0.8 if kind == "number" else 1.6))
    assert covered(kind, off, 200_000, 1) < found - 0.02, "the test does not see a bound that is off"


@pytest.mark.parametrize("kind", ["number", "classes"])
def test_the_bound_is_met_by_the_rank_that_the_method_asks_for(kind: str) -> None:
    y, prediction = make_case(kind, 99, 3)

    interval = calibrate(y, prediction, 0.9, kind != "number")

    assert interval is not None
    if kind == "number":
        assert (abs(prediction - y) <= interval.bound).sum() == 90, "the ceil(0.9 * 100)th of 99"
    else:
        assert (prediction[np.arange(99), y] >= interval.bound).sum() == 90


def test_too_few_rows_are_one_line_and_none_are_needed_without_a_coverage() -> None:
    y, prediction = make_case("number", 9, 0)

    assert calibrate(y, prediction, None, classifies=False) is None
    assert calibrate(y, prediction, 0.9, classifies=False) is not None
    with pytest.raises(UserError) as caught:
        calibrate(y[:8], prediction[:8], 0.9, classifies=False)
    assert str(caught.value) == (
        "params.yaml: evaluate.coverage = 0.9: 8 validation rows are too few, 9 are needed; lower it, or set it to null"
    )


def test_a_set_has_the_most_probable_class_even_below_the_bound() -> None:
    held = class_sets(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.0, 0.9]]), 0.6)

    assert held.tolist() == [[False, True, False], [True, True, False], [False, False, True]]


def test_an_interval_stands_beside_a_prediction_where_it_is_asked_for() -> None:
    answers = Answers(np.array([1.5, np.nan]), None, (Reject(1, "wind", "-1", "low"),))

    plain, asked = (list(map(json.loads, json_predictions(answers, one))) for one in (None, Interval(0.9, 0.25)))

    assert "interval" not in plain[0]
    assert asked[0] == {"prediction": 1.5, "interval": [1.25, 1.75]}
    assert "interval" not in asked[1]


def test_a_set_of_classes_is_answered_by_their_names() -> None:
    chances = np.array([[0.6, 0.3, 0.1], [np.nan] * 3])
    answers = Answers(chances, np.array([0, -1]), (Reject(1, "", "", "none"),), ("a", "b", "c"))

    asked = list(map(json.loads, json_predictions(answers, Interval(0.9, 0.3))))

    assert asked[0]["set"] == ["a", "b"]
    assert "set" not in asked[1]
    assert interval_of(answers, Interval(0.9, 0.3)) == {"set": [["a", "b"], None]}


def test_a_model_without_intervals_says_so() -> None:
    with pytest.raises(BundleError, match=r"signature\.json: interval: the model has no intervals; set evaluate\.cov"):
        require_interval(TOY)
