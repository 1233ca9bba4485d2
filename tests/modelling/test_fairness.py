"""How a model treats groups: rates against counts by hand, disparities, intervals and bounds."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

from mlops_pkg.core.params import UserError, load_params
from mlops_pkg.modelling.fairness import COLUMNS, check_fairness, fairness_of, group_rates
from mlops_pkg.modelling.sections import EvaluationSettings
from tests.conftest import ROOT


def make_settings(**changed: Any) -> EvaluationSettings:
    """Return settings of few resamples."""
    quick = {
        "bootstrap": 50,
        "confidence": 0.95,
        "slices": [],
        "min_slice_rows": 20,
        "calibration_bins": 5,
        "importance_rows": 100,
        "importance_repeats": 1,
    }
    return EvaluationSettings.model_validate({**quick, **changed})


def make_people(rows: int = 3000) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return groups of which one is small, targets, and probabilities that favour one of the others."""
    generator = np.random.default_rng(0)
    groups = generator.choice(["a", "b", "few"], rows, p=[0.6, 0.395, 0.005])
    y = generator.integers(0, 2, rows)
    return pd.DataFrame({"group": groups}), y, 0.4 * y + 0.4 * generator.random(rows) + 0.2 * (groups == "a")


def value(table: pd.DataFrame, metric: str, measure: str, group: str = "") -> float:
    """Return one figure of a table."""
    rows = table[(table["metric"] == metric) & (table["measure"] == measure) & (table["group"] == group)]
    return float(rows["value"].iloc[0])


def test_rates_are_those_of_the_confusion_of_each_group() -> None:
    people, y, chance = make_people()

    found = fairness_of(people, "group", group_rates(y, chance, 0.5, classifies=True), make_settings(), seed=0)

    selected = {}
    for group in ("a", "b"):
        mask = (people["group"] == group).to_numpy()
        no, wrong, missed, yes = sk.confusion_matrix(y[mask], chance[mask] >= 0.5).ravel()
        selected[group] = (yes + wrong) / mask.sum()
        assert value(found, "selection_rate", "group", group) == pytest.approx(selected[group], abs=1e-6)
        assert value(found, "true_positive_rate", "group", group) == pytest.approx(yes / (yes + missed), abs=1e-6)
        assert value(found, "false_positive_rate", "group", group) == pytest.approx(wrong / (wrong + no), abs=1e-6)
        assert value(found, "accuracy", "group", group) == pytest.approx((yes + no) / mask.sum(), abs=1e-6)
    assert value(found, "selection_rate", "ratio") == pytest.approx(selected["b"] / selected["a"], abs=1e-6)
    assert value(found, "selection_rate", "difference") == pytest.approx(selected["a"] - selected["b"], abs=1e-6)
    assert set(found["group"]) == {"a", "b", ""}, "the small group has too few rows"
    assert (found["low"] <= found["value"] + 1e-6).all()
    assert (found["value"] <= found["high"] + 1e-6).all()


def test_a_number_is_measured_by_its_errors() -> None:
    people, y, chance = make_people()

    found = fairness_of(people, "group", group_rates(y, chance, None, classifies=False), make_settings(), seed=0)

    mask = (people["group"] == "b").to_numpy()
    assert value(found, "mean_error", "group", "b") == pytest.approx((chance - y)[mask].mean(), abs=1e-6)
    assert "ratio" not in set(found.loc[found["metric"] == "mean_error", "measure"])
    assert 0 < value(found, "mae", "ratio") <= 1


def test_one_group_alone_is_no_disparity() -> None:
    people, y, chance = make_people()
    rates = group_rates(y, chance, 0.5, classifies=True)

    found = fairness_of(people.assign(group="a"), "group", rates, make_settings(), seed=0)

    assert found.empty
    assert list(found.columns) == COLUMNS


def test_a_ratio_below_its_bound_is_one_line_and_no_bundle() -> None:
    people, y, chance = make_people()
    found = fairness_of(people, "group", group_rates(y, chance, 0.5, classifies=True), make_settings(), seed=0)
    ratio = value(found, "selection_rate", "ratio")

    check_fairness(found, make_settings(least_ratio={"selection_rate": round(ratio - 0.01, 3)}))
    with pytest.raises(UserError) as caught:
        check_fairness(found, make_settings(least_ratio={"selection_rate": 0.99}))
    with pytest.raises(UserError) as unknown:
        check_fairness(found, make_settings(least_ratio={"selection": 0.9}))

    assert f"least_ratio.selection_rate = 0.99: over group it is {ratio:.3f} [" in str(caught.value)
    assert str(caught.value).endswith("on test; no bundle is written")
    assert "least_ratio.selection = 0.9: there is no such ratio; there are accuracy, " in str(unknown.value)


def test_a_sensitive_column_that_is_none_is_one_line() -> None:
    with pytest.raises(UserError, match=r"evaluate\.sensitive: 'carier' is not a column; did you mean 'carrier'"):
        load_params(ROOT / "params.yaml", {"evaluate": {"sensitive": ["carier"]}})
