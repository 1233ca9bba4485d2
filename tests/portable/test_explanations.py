"""The terms of a margin: shap computes the same contributions, and a feature comes from the inputs that change it."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from mlops_pkg.bundle.explanation import Explainer, pack_explanation
from mlops_pkg.portable.export import explanation_terms, export, feeds, fuzz_records
from mlops_pkg.portable.graph import open_session
from tests.portable.cases import CASES, Fitted, fitted, records

NO_SUM = ("KNeighborsClassifier", "KNeighborsRegressor", "SVR", "MLPClassifier", "MLPRegressor")  # over features
EXPLAINED = [name for name, case in CASES.items() if case.kind.rpartition(".")[2] not in NO_SUM]
ESTIMATORS = [name for name in EXPLAINED if CASES[name].is_estimator]
EXACT, SINGLE = 1e-9, 1e-5  # XGBoost adds 32-bit floats, and shap asks it
REFUSED = ("three classes", "zero")  # gradient boosting that shap does not take
SHAP = [
    name for name in ESTIMATORS if not name.startswith("GradientBoosting") or not any(one in name for one in REFUSED)
]


@cache
def explained(name: str) -> tuple[Explainer, np.ndarray, np.ndarray]:
    """What explains a case, and features and margins of 1,000 of its records: rows x features, rows x targets."""
    it = fitted(name)
    terms = explanation_terms(it.pipeline, it.case.inputs, it.frame)
    explainer = Explainer(pack_explanation(terms))
    frame = pd.concat([it.frame, fuzz_records(it.frame, it.case.inputs, 600, seed=3)], ignore_index=True)
    features, margin = it.session.run(["features", "margin"], feeds(frame, it.case.inputs))
    margin = margin.reshape(len(frame), -1)
    accepted = np.isfinite(margin).all(axis=1) & (np.abs(margin) < 1e6).all(axis=1)
    return explainer, features[accepted], margin[accepted]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_base_and_contributions_add_up_to_the_margin(name: str) -> None:
    explainer, features, margin = explained(name)

    found = explainer.explain(features)

    assert len(features) > 300
    assert found.shape == (len(features), len(fitted(name).case.columns), margin.shape[1])
    scale = np.maximum(1.0, np.abs(found).sum(axis=1))
    allowed = SINGLE if name.startswith("XGB") else EXACT
    assert np.abs((explainer.base + found.sum(axis=1) - margin) / scale).max() < allowed


def with_shap(it: Fitted, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What shap says: the base of each target, and rows x features x targets."""
    shap = pytest.importorskip("shap")
    estimator = it.pipeline.steps[-1][1]
    if hasattr(estimator, "coef_"):
        X = it.session.run(["features"], feeds(it.frame, it.case.inputs))[0]
        explainer = shap.LinearExplainer(estimator, shap.maskers.Independent(X, max_samples=len(X)))
    else:
        explainer = shap.TreeExplainer(estimator, feature_perturbation="tree_path_dependent")
    found = np.asarray(explainer.shap_values(features, **options(estimator)))
    base, found = np.atleast_1d(explainer.expected_value), found.reshape(*features.shape, -1)
    second = [1] if "Forest" in type(estimator).__name__ or "ExtraTrees" in type(estimator).__name__ else slice(None)
    two_classes = len(getattr(estimator, "classes_", ())) == 2
    return (base[second], found[..., second]) if two_classes else (base, found)


def options(estimator: Any) -> dict[str, Any]:
    """What shap is told: not to compare the sum with a prediction, which fails for links that it does not know."""
    return {} if hasattr(estimator, "coef_") else {"check_additivity": False}


@pytest.mark.parametrize("name", SHAP)
def test_shap_computes_the_same_contribution_of_each_feature(name: str) -> None:
    explainer, features, _ = explained(name)
    it = fitted(name)
    features = features[~np.isinf(features).any(axis=1)]  # shap hands them to XGBoost, which refuses them
    assert len(features) > 200

    base, expected = with_shap(it, features)

    found = np.array([explainer.terms.contributions(row).T for row in features])
    if not name.endswith(
        "exponential"
    ):  # there shap takes the log-odds as the initial prediction, which is half of them
        np.testing.assert_allclose(explainer.base, base, atol=1e-6)
    allowed = {"atol": SINGLE, "rtol": 1e-6} if name.startswith("XGB") else {"atol": 1e-6}
    np.testing.assert_allclose(found, expected, **allowed)


@pytest.mark.parametrize("name", [name for name in CASES if name not in EXPLAINED])
def test_a_margin_that_is_no_sum_over_features_has_no_explanation(name: str) -> None:
    it = fitted(name)

    assert explanation_terms(it.pipeline, it.case.inputs, it.frame) == {}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_feature_comes_from_the_inputs_that_change_it_and_from_no_other(name: str) -> None:
    it, inputs = fitted(name), CASES[name].inputs
    terms = explanation_terms(it.pipeline, inputs, it.frame)
    shares = terms["shares"]
    before = it.session.run(["features"], feeds(it.frame, inputs))[0]

    for place, column in enumerate(inputs):
        other = it.frame.assign(**{column: fuzz_records(records(), inputs, len(it.frame), seed=4)[column]})
        after = it.session.run(["features"], feeds(other, inputs))[0]

        changed = ~(np.isclose(before, after, rtol=0, atol=0, equal_nan=True)).all(axis=0)
        assert not (changed & (shares[:, place] == 0)).any(), f"{column} changes a feature that does not count it"
        unchanged = (shares[:, place] > 0) & ~changed
        varied = np.ptp(np.nan_to_num(before, posinf=0, neginf=0), axis=0) > 0
        assert not (unchanged & varied).any(), f"{column} counts for a feature that it does not change"
    sums = shares.sum(axis=1)
    assert np.isclose(sums, 1).all() or set(sums.round(12)) == {0.0, 1.0}


def test_sums_of_trees_and_linear_models_are_explained() -> None:
    """A case that has lost its explanation would be skipped above."""
    kinds = {CASES[name].kind for name in ESTIMATORS}
    expected = (
        "HistGradientBoosting",
        "GradientBoosting",
        "RandomForest",
        "ExtraTrees",
        "XGB",
        "LGBM",
        "Ridge",
        "Lasso",
    )
    explained_kinds = {
        kind for kind in kinds if kind.partition(".")[2].startswith((*expected, "Logistic", "ElasticNet"))
    }

    for kind in explained_kinds:
        for name in (name for name in ESTIMATORS if CASES[name].kind == kind):
            it = fitted(name)
            assert explanation_terms(it.pipeline, it.case.inputs, it.frame), name
    assert len(explained_kinds) >= 16


def test_a_column_may_have_the_name_of_an_output() -> None:
    frame = pd.DataFrame(
        {"margin": [1.0, 2.0, 4.0, 9.0], "features": [2.0, 0.0, 1.0, 5.0], "answer": [0.0, 1.0, 0.5, 2.0]}
    )
    inputs = dict.fromkeys(frame.columns, "number")
    pipeline = Pipeline([("model", Ridge())]).fit(frame, [1.0, 3.0, 2.0, 8.0])

    explainer = Explainer(pack_explanation(explanation_terms(pipeline, inputs, frame)))
    margin, _, features = open_session(export(pipeline, inputs)).run(None, feeds(frame, inputs))

    assert np.array_equal(features, frame.to_numpy())
    np.testing.assert_allclose(explainer.base + explainer.explain(features).sum(axis=(1, 2)), margin, atol=EXACT)
