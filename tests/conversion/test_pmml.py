"""The PMML document: its structure, read back by a few lines; tests/slow/test_pmml.py asks a real engine."""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline

from mlops_pkg.bundle.manifest import BundleError
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.conversion.pmml import NAMESPACE, extract_link, feature_names, find_link, make_pmml
from mlops_pkg.portable.export import explanation_terms
from tests.conversion.examples import EXPLAINED, NO_LINK, Example, example

PMML = f"{{{NAMESPACE}}}"


def tree_value(node: ET.Element, row: Mapping[str, float]) -> float:
    """Return what a tree gives a row: the score at the end of its path."""
    while node.get("score") is None:
        below = node.findall(f"{PMML}Node")
        left = below[0].find(f"{PMML}SimplePredicate")
        assert left is not None
        value = row[str(left.get("field"))]
        if left.get("operator") == "isNotMissing":
            node = below[int(np.isnan(value))]
        elif np.isnan(value):
            node = next(child for child in below if child.get("id") == node.get("defaultChild"))
        else:
            node = below[0 if value <= float(str(left.get("value"))) else 1]
    return float(str(node.get("score")))


def margins(document: bytes, names: list[str], features: np.ndarray) -> np.ndarray:
    """Return the margins that a document gives rows of features: rows x targets."""
    segments = ET.fromstring(document).findall(f"{PMML}MiningModel/{PMML}Segmentation/{PMML}Segment")[:-1]
    rows = [dict(zip(names, row, strict=True)) for row in features.tolist()]
    found = []
    for segment in segments:
        if (table := segment.find(f".//{PMML}RegressionTable")) is not None:
            terms = {one.get("name"): float(str(one.get("coefficient"))) for one in table}
            base = float(str(table.get("intercept")))
            found.append([base + sum(value * row[str(name)] for name, value in terms.items()) for row in rows])
        else:
            trees = segment.findall(f".//{PMML}TreeModel/{PMML}Node")
            found.append([sum(tree_value(tree, row) for tree in trees) for row in rows])
    return np.array(found).T


@pytest.mark.parametrize("name", [name for name in EXPLAINED if name not in NO_LINK])
def test_the_margins_are_those_of_the_graph(name: str) -> None:
    it: Example = example(name)
    names = feature_names(it.terms["shares"], list(it.columns))

    document = make_pmml(it.terms, it.signature, it.link, name)

    found = margins(document, names, it.features)
    expected = it.margin.reshape(len(it.margin), -1)
    allowed = 1e-5 if name.startswith("XGB") else 1e-9  # XGBoost adds 32-bit floats
    assert np.allclose(found, expected, rtol=allowed, atol=allowed)


def test_features_have_names_of_their_own() -> None:
    shares = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0]])

    assert feature_names(shares, ["day", "ward"]) == ["day_1", "day_ward", "day_2", "feature"]


def test_names_that_are_made_alike_stay_apart() -> None:
    shares = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

    names = feature_names(shares, ["a", "a_1", "a_2"])

    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("margins", "name", "link"),
    [
        (1, "none", lambda margin: margin),
        (1, "exp", np.exp),
        (1, "logit", lambda margin: np.round(1 / (1 + np.exp(-margin)), 9)),
        (3, "none", lambda margin: margin),
        (3, "softmax", lambda margin: np.exp(margin) / np.exp(margin).sum(axis=1, keepdims=True)),
    ],
)
def test_a_link_is_told_by_what_it_computes(margins: int, name: str, link: Any) -> None:
    assert find_link(link, margins) == (name, 1.0)


@pytest.mark.parametrize("factor", [2.0, 0.7, 1 / 3])
def test_a_factor_in_the_logistic_function_is_found(factor: float) -> None:
    name, found = find_link(lambda margin: np.round(1 / (1 + np.exp(-factor * margin)), 9), 1)

    assert name == "logit"
    assert found == pytest.approx(factor, abs=1e-8)


def test_a_link_that_pmml_has_no_name_for_is_refused() -> None:
    for name in NO_LINK:
        with pytest.raises(BundleError, match="PMML has no function"):
            example(name)
    with pytest.raises(BundleError, match="PMML has no function"):
        find_link(np.sin, 1)


@pytest.mark.parametrize("name", ["HistGradientBoostingClassifier two classes", "HistGradientBoostingRegressor gamma"])
def test_the_link_is_cut_out_of_the_graph(name: str) -> None:
    it = example(name)

    assert np.allclose(extract_link(it.model)(it.margin[:, None])[:, 0], it.answer, rtol=0, atol=1e-9)


def test_a_split_that_tells_missing_values_from_all_others_asks_for_just_that() -> None:
    X = np.r_[np.linspace(0, 1, 200), np.full(200, np.nan)][:, None]
    model = HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=5).fit(X, np.isnan(X[:, 0]).astype(float))
    pipeline = Pipeline([("model", model)])
    terms = explanation_terms(pipeline, {"a": "number"}, pd.DataFrame(X, columns=["a"]))
    assert np.isinf(terms["threshold"]).any(), "the case has no such split"

    document = make_pmml(terms, Signature("regression", "y", None, (Field("a", "number", True),)), ("none", 1.0), "")

    assert b"inf" not in document
    found = margins(document, ["a"], X)[:, 0]
    assert np.allclose(found, model.predict(X))


def test_features_are_not_named_like_the_target_or_an_output() -> None:
    signature = Signature(
        "regression", "day_1", None, (Field("day", "number", True), Field("margin_0", "number", True))
    )
    shares = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    terms = {"shares": shares, "coefficients": np.ones((1, 3)), "intercept": np.zeros(1), "means": np.zeros(3)}

    names = [
        field.get("name")
        for field in ET.fromstring(make_pmml(terms, signature, ("none", 1.0), "")).iter(f"{PMML}DataField")
    ]

    assert len(set(names)) == len(names) == 4
    assert "margin_0" not in names


def test_a_name_that_xml_cannot_hold_is_refused() -> None:
    signature = Signature("classification", "y", 0.5, (Field("a", "number", True),), labels=("x\x0b", "z"))
    terms = {"shares": np.ones((1, 1)), "coefficients": np.ones((1, 1)), "intercept": np.zeros(1), "means": np.zeros(1)}

    with pytest.raises(BundleError, match="which XML cannot hold"):
        make_pmml(terms, signature, ("logit", 1.0), "")
