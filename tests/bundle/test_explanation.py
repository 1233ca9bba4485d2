"""The explanation: Shapley values by their definition, and a file that is refused where it does not fit."""

import io
import pickle
import subprocess
import sys
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pkg.bundle import predictor as module
from mlops_pkg.bundle.explanation import Explainer, LinearTerms, TreeTerms, pack_explanation
from mlops_pkg.bundle.manifest import EXPLANATION, BundleError, verify
from mlops_pkg.bundle.predictor import Predictor
from tests.toy import EXPLAINED, GRAPH, RECORD, TERMS, explained_bundle, write_bundle

Arrays = dict[str, np.ndarray]
FEATURES = 4
VALUES = (-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf, np.nan)


@st.composite
def random_trees(draw: st.DrawFn) -> Arrays:
    """One to three trees of up to six splits each, for one or two targets; a side may have no training rows."""
    arrays: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "missing_left", "children")}
    arrays |= {name: [] for name in ("is_leaf", "cover", "roots", "targets", "values")}
    for _ in range(draw(st.integers(1, 3))):
        first, count = len(arrays["feature"]), draw(st.integers(1, 6))
        target, waiting = draw(st.integers(0, 1)), [(0, 0), (0, 1)]
        parents: dict[int, tuple[int, int]] = {}
        for split in range(1, count):
            parents[split] = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            waiting += [(split, 0), (split, 1)]
        inside = {place: split for split, place in parents.items()}
        arrays["roots"].append(first)
        for split in range(count):
            arrays["feature"].append(draw(st.integers(0, FEATURES - 1)))
            arrays["threshold"].append(draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0])))
            arrays["missing_left"].append(draw(st.booleans()))
            cover = draw(st.lists(st.integers(0, 9), min_size=2, max_size=2).filter(any))
            arrays["cover"].append([float(weight) for weight in cover])
            children = []
            for side in (0, 1):
                if (split, side) in inside:
                    children.append(first + inside[split, side])
                else:
                    children.append(len(arrays["values"]))
                    arrays["values"].append(float(draw(st.integers(-9, 9))))
                    arrays["targets"].append(target)
            arrays["children"].append(children)
            arrays["is_leaf"].append([(split, side) not in inside for side in (0, 1)])
    return {**{name: np.array(values) for name, values in arrays.items()}, "shares": np.eye(FEATURES)}


rows = st.lists(st.sampled_from(VALUES), min_size=FEATURES, max_size=FEATURES).map(np.array)


def mean_value(trees: Arrays, split: int, x: np.ndarray, known: set[int]) -> np.ndarray:
    """The values of a tree's targets where only some features are known."""
    sides = []
    for child, is_leaf in zip(trees["children"][split], trees["is_leaf"][split], strict=True):
        if is_leaf:
            sides.append(np.where(np.arange(2) == trees["targets"][child], trees["values"][child], 0.0))
        else:
            sides.append(mean_value(trees, child, x, known))
    value = x[trees["feature"][split]]
    left = trees["missing_left"][split] if np.isnan(value) else value <= trees["threshold"][split]
    weights = trees["cover"][split] if trees["feature"][split] not in known else [float(left), float(not left)]
    return np.average(sides, axis=0, weights=weights)


def by_definition(trees: Arrays, x: np.ndarray) -> np.ndarray:
    """The Shapley values of the features for each target: targets x features."""

    def value(known: set[int]) -> np.ndarray:
        return sum((mean_value(trees, root, x, known) for root in trees["roots"]), np.zeros(2))

    contributions = np.zeros((2, FEATURES))
    for feature in range(FEATURES):
        others = [other for other in range(FEATURES) if other != feature]
        for size in range(FEATURES):
            weight = factorial(size) * factorial(FEATURES - 1 - size) / factorial(FEATURES)
            for known in map(set, combinations(others, size)):
                contributions[:, feature] += weight * (value(known | {feature}) - value(known))
    return contributions


def of_targets(values: np.ndarray) -> np.ndarray:
    """Values for two targets where the trees may be for the first one only."""
    return np.concatenate([values, np.zeros((2 - len(values), *values.shape[1:]))])


@settings(deadline=None, derandomize=True)
@given(random_trees(), rows)
def test_contributions_are_shapley_values_by_their_definition(trees: Arrays, x: np.ndarray) -> None:
    terms = TreeTerms(trees)

    found = of_targets(terms.contributions(x))

    np.testing.assert_allclose(found, by_definition(trees, x), atol=1e-12)
    none, everything = (
        sum(mean_value(trees, root, x, known) for root in trees["roots"]) for known in (set(), {*range(4)})
    )
    np.testing.assert_allclose(of_targets(terms.base), none, atol=1e-12)
    np.testing.assert_allclose(of_targets(terms.base) + found.sum(axis=1), everything, atol=1e-12)


TOY: Arrays = {  # 100 training rows; the second split asks for the same feature as the root
    "feature": np.array([0, 0, 1]),
    "threshold": np.array([20.0, 10.0, 0.5]),
    "missing_left": np.array([False, True, True]),
    "children": np.array([[1, 2], [0, 1], [2, 3]]),
    "is_leaf": np.array([[False, False], [True, True], [True, True]]),
    "cover": np.array([[40.0, 60.0], [10.0, 30.0], [15.0, 45.0]]),
    "roots": np.array([0]),
    "targets": np.zeros(4, int),
    "values": np.array([0.0, 2.0, 1.0, 3.0]),
    "shares": np.eye(FEATURES),
}


@pytest.mark.parametrize(
    "x", [[30.0, 0.0], [15.0, 9.0], [5.0, np.nan], [np.nan, np.nan], [20.0, 0.5], [-np.inf, np.inf]]
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", -TOY["values"]),
        ("cover", TOY["cover"][:, ::-1]),
        ("cover", TOY["cover"] + np.eye(3, 2)),
        ("feature", np.array([0, 2, 1])),
    ],
    ids=["a sign", "sides", "a weight", "a feature"],
)
def test_a_fault_in_the_trees_is_seen_in_the_contributions(x: list[float], name: str, value: np.ndarray) -> None:
    row = np.array([*x, 0.0, 0.0])
    expected = by_definition(TOY, row)[:1]
    np.testing.assert_allclose(TreeTerms(TOY).contributions(row), expected, atol=1e-12)

    found = TreeTerms({**TOY, name: value}).contributions(row)

    assert np.abs(found - expected).max() > 1e-3


def test_many_leaves_are_explained_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    trees = {**TOY, "roots": np.arange(0, 90, 3), "targets": np.zeros(120, int), "values": generator.normal(size=120)}
    for name in ("feature", "threshold", "missing_left", "is_leaf", "cover"):
        trees[name] = np.concatenate([TOY[name]] * 30)
    trees["children"] = np.concatenate([TOY["children"] + np.where(TOY["is_leaf"], 4 * at, 3 * at) for at in range(30)])
    x = np.array([15.0, 1.0, 0.0, 0.0])
    whole = TreeTerms(trees)
    monkeypatch.setattr("mlops_pkg.bundle.explanation._CELLS", 60)
    monkeypatch.setattr("mlops_pkg.bundle.explanation._LEAVES", 3)

    parts = TreeTerms(trees)

    np.testing.assert_allclose(parts.contributions(x), whole.contributions(x), atol=1e-12)
    np.testing.assert_allclose(parts.contributions(x), by_definition(trees, x)[:1], atol=1e-12)
    np.testing.assert_allclose(parts.base, whole.base, atol=1e-12)


def test_a_linear_term_counts_from_the_mean() -> None:
    arrays = {"coefficients": np.array([[2.0, -1.0]]), "intercept": np.array([0.5]), "means": np.array([1.0, 3.0])}

    terms = LinearTerms(arrays)

    assert terms.base.tolist() == [-0.5]
    assert terms.contributions(np.array([2.0, 5.0])).tolist() == [[2.0, -2.0]]


# The file


def test_equal_arrays_are_equal_bytes_without_pickle() -> None:
    content = pack_explanation(TOY)

    assert content == pack_explanation(dict(reversed(TOY.items())))
    assert Explainer(content).explain(np.zeros((2, FEATURES))).shape == (2, FEATURES, 1)


def pickled() -> bytes:
    """A file whose array is a pickle that would run code."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("a pickle was loaded",)

    buffer = io.BytesIO()
    np.savez(buffer, shares=np.array([Trap()], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps(TOY),
        pack_explanation(TOY)[:-40],
        pack_explanation({"shares": np.eye(2)}),
        pack_explanation({**TOY, "shares": np.eye(1)}),
        pack_explanation({**TOY, "children": TOY["children"] + 9}),
        pickled(),
    ],
    ids=["empty", "text", "pickle", "cut off", "no terms", "too few features", "no such child", "pickled array"],
)
def test_what_is_no_explanation_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^explanation\.npz: not an explanation$"):
        Explainer(content)


# From a bundle


def test_each_record_is_explained_field_by_field(tmp_path: Path) -> None:
    predictor = Predictor.load(explained_bundle(tmp_path))

    found = predictor.explain([RECORD, {**RECORD, "origin": "JFK", "wind": None}])

    assert found.fields == ("origin", "wind", "start")
    assert found.base == pytest.approx(0.25 + 1.2 - 0.5)
    expected = [[0.25, 0.5 - np.log(2.0), 0.9], [-0.75, 0.5, 0.9]]
    np.testing.assert_allclose(found.contributions, expected, atol=1e-12)
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.margin, atol=1e-12)


def test_a_rejected_record_has_no_explanation_and_does_not_touch_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(explained_bundle(tmp_path))
    records = [{**RECORD, "origin": None}, RECORD, {**RECORD, "wind": -1.0}, {**RECORD, "wind": "strong"}, RECORD]

    found = predictor.explain(records)

    assert np.isnan(found.contributions).all(axis=1).tolist() == [True, False, True, True, False]
    assert np.isnan(found.margin).tolist() == [True, False, True, True, False]
    np.testing.assert_array_equal(found.contributions[1], predictor.explain([RECORD]).contributions[0])
    monkeypatch.setattr(module, "CHUNK", 2)
    np.testing.assert_array_equal(predictor.explain(records).contributions, found.contributions)
    assert predictor.explain([]).contributions.shape == (0, 3)


def test_predictions_are_the_same_with_an_explanation_and_without(tmp_path: Path) -> None:
    plain, explained = Predictor.load(write_bundle(tmp_path / "a")), Predictor.load(explained_bundle(tmp_path / "b"))
    records = [{**RECORD, "wind": wind} for wind in (None, 0.1, 3.0, 250.0)]

    np.testing.assert_array_equal(explained.predict(records).answer, plain.predict(records).answer)


def test_a_bundle_without_an_explanation_predicts_and_says_so(tmp_path: Path) -> None:
    without, empty = write_bundle(tmp_path / "a"), explained_bundle(tmp_path / "b", {}, GRAPH)

    for folder, reason in ((without, "the bundle has no such file"), (empty, "the model is neither linear nor a sum")):
        predictor = Predictor.load(folder)
        assert predictor.predict([RECORD]).rejects == ()
        with pytest.raises(BundleError, match=rf"^explanation\.npz: no explanation: {reason}"):
            predictor.explain([RECORD])


@pytest.mark.parametrize(
    ("terms", "graph"),
    [
        (TERMS, GRAPH),
        ({**TERMS, "shares": np.eye(4)[:, :3]}, EXPLAINED),
        ({**TERMS, "shares": np.eye(3)[:, :2]}, EXPLAINED),
    ],
    ids=["no features", "another number of features", "another number of fields"],
)
def test_an_explanation_of_another_model_is_refused(tmp_path: Path, terms: Arrays, graph: str) -> None:
    predictor = Predictor.load(explained_bundle(tmp_path, terms, graph))

    with pytest.raises(BundleError, match=r"^explanation\.npz: it explains another model than model\.onnx$"):
        predictor.explain([RECORD])


def test_a_tampered_explanation_is_refused_before_the_bundle_is_opened(tmp_path: Path) -> None:
    folder = explained_bundle(tmp_path)
    flipped = {**TERMS, "coefficients": -TERMS["coefficients"]}
    (folder / EXPLANATION).write_bytes(pack_explanation(flipped))

    with pytest.raises(BundleError, match=r"explanation\.npz: changed since it was packed"):
        Predictor.load(folder)

    (folder / EXPLANATION).unlink()
    with pytest.raises(BundleError, match=r"explanation\.npz: missing; the manifest lists it"):
        verify(folder)


def test_explaining_loads_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    script = (
        "import sys; from mlops_pkg.bundle.predictor import Predictor\n"
        f"Predictor.load(sys.argv[1]).explain([{RECORD!r}])\n"
        "print({'shap', 'sklearn', 'pandas', 'onnx', 'pickle5', 'scipy', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, explained_bundle(tmp_path)], check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "set()"
