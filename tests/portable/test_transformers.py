"""The rounded cyclic features: feature-engine's own, but the same on every machine."""

import os

import numpy as np
import pandas as pd
import pytest
from feature_engine.creation import CyclicalFeatures
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from mlops_pkg.portable.transformers import RoundedCyclicalFeatures


def make_hours() -> pd.DataFrame:
    """Return hours of several days, negative and fractional ones among them."""
    return pd.DataFrame({"hour": np.r_[np.arange(0, 49, 0.5), -6.0], "other": 1.0})


def make_rounded(**options: object) -> RoundedCyclicalFeatures:
    """Return the transformer for hours."""
    return RoundedCyclicalFeatures(variables=["hour"], max_values={"hour": 24}, **options)  # type: ignore[arg-type]


def results_of(estimator: CyclicalFeatures) -> dict[str, str]:
    """Return the status of each of scikit-learn's own checks."""
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    return {result["check_name"]: result["status"] for result in results}


@pytest.mark.filterwarnings("ignore")
def test_it_passes_every_check_of_scikit_learn_that_its_parent_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SCIPY_ARRAY_API", "1")

    parent, own = results_of(CyclicalFeatures()), results_of(RoundedCyclicalFeatures())

    passed = {name for name, status in parent.items() if status == "passed"}
    broken = {name for name in passed if own.get(name) != "passed"}
    assert len(passed) > 20, "the checks did not run"
    assert not broken, f"the parent passes these: {sorted(broken)}"


def test_it_is_its_parent_rounded() -> None:
    X = make_hours()

    found = make_rounded().fit_transform(X)

    plain = CyclicalFeatures(variables=["hour"], max_values={"hour": 24}).fit_transform(X)
    pd.testing.assert_frame_equal(found, plain.round(9))
    assert (found["hour_sin"] != plain["hour_sin"]).any(), "rounding changes nothing here, so this test shows nothing"


@pytest.mark.parametrize(
    ("hour", "sine", "cosine"),
    [(0, 0, 1), (6, 1, 0), (12, 0, -1), (18, -1, 0), (24, 0, 1), (36, 0, -1), (-6, -1, 0), (2, 0.5, 0.866025404)],
)
def test_the_corners_of_the_clock_are_exact(hour: float, sine: float, cosine: float) -> None:
    found = make_rounded().fit(make_hours()).transform(pd.DataFrame({"hour": [float(hour)], "other": [1.0]})).iloc[0]

    assert (found["hour_sin"], found["hour_cos"]) == (sine, cosine)


def test_zero_has_no_sign() -> None:
    found = make_rounded().fit_transform(make_hours())[["hour_sin", "hour_cos"]].to_numpy()

    assert (found == 0).sum() >= 8
    assert not np.signbit(found[found == 0]).any(), "-0.0 equals 0.0 and has other bytes"


def test_the_decimals_can_be_chosen() -> None:
    found = make_rounded(decimals=2).fit_transform(make_hours())

    assert found.loc[4, ["hour_sin", "hour_cos"]].tolist() == [0.5, 0.87]


def test_the_original_may_be_dropped_and_the_input_is_left_alone() -> None:
    X = make_hours()
    before = X.copy()

    found = make_rounded(drop_original=True).fit_transform(X)

    assert list(found.columns) == ["other", "hour_sin", "hour_cos"]
    pd.testing.assert_frame_equal(X, before)


def test_rows_keep_their_order_and_index() -> None:
    X = make_hours().sample(frac=1, random_state=0)

    found = make_rounded().fit_transform(X)

    assert found.index.equals(X.index)
    pd.testing.assert_frame_equal(found.sort_index(), make_rounded().fit_transform(make_hours()))


def test_without_a_period_the_maximum_of_the_fit_is_taken() -> None:
    transformer = RoundedCyclicalFeatures(variables=["hour"]).fit(pd.DataFrame({"hour": [0.0, 12.0, 24.0]}))

    assert transformer.transform(pd.DataFrame({"hour": [6.0]}))["hour_sin"].tolist() == [1.0]


def test_a_clone_has_all_options() -> None:
    transformer = make_rounded(decimals=3, drop_original=True)

    assert clone(transformer).get_params() == transformer.get_params()
    assert transformer.get_params()["decimals"] == 3


def test_the_names_of_the_features_are_those_of_the_columns() -> None:
    transformer = make_rounded().fit(make_hours())

    assert list(transformer.get_feature_names_out()) == list(transformer.transform(make_hours()).columns)
