"""Each estimator against its graph: margins equal to the last bit for trees, and to 1e-12 for formulas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor, early_stopping
from onnx import TensorProto, helper, numpy_helper
from sklearn import ensemble, linear_model, neighbors, neural_network, svm
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier, XGBRegressor

from mlops_pkg.portable.estimators import iterate_trees
from mlops_pkg.portable.export import (
    CLOSED_FORM,
    Agreement,
    agreement,
    export,
    feeds,
    fuzz_records,
    graph_scores,
    make_threshold_rows,
    threshold_agreement,
    thresholds,
    tolerance,
)
from mlops_pkg.portable.graph import UnsupportedError, open_session
from mlops_pkg.portable.margins import pipeline_scores
from tests.portable.cases import CASES, fitted, records

ESTIMATORS = [name for name, case in CASES.items() if case.is_estimator]
TREES = [name for name in ESTIMATORS if CASES[name].exact]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_and_its_graph_give_the_same_margin(name: str) -> None:
    it = fitted(name)

    real = agreement(it.pipeline, it.session, it.frame, it.case.inputs)
    damaged = agreement(it.pipeline, it.session, fuzz_records(it.frame, it.case.inputs, 600, seed=1), it.case.inputs)

    assert tolerance(it.pipeline) == (0.0 if it.case.exact else CLOSED_FORM)
    assert real.ok, f"real rows: {real}"
    assert damaged.ok, f"damaged rows: {damaged}"


@pytest.mark.parametrize("name", TREES)
def test_trees_agree_on_and_beside_their_thresholds(name: str) -> None:
    it = fitted(name)

    found = threshold_agreement(it.pipeline, it.frame, seed=2, limit=400)

    assert found.rows == 3 * min(400, len(thresholds(it.pipeline.steps[-1][1])))
    assert found.ok, f"{found}"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_answer_is_the_rounded_probability_or_number(name: str) -> None:
    it = fitted(name)

    _, found = graph_scores(it.session, it.frame, it.case.inputs)

    _, expected = pipeline_scores(it.pipeline, it.frame)
    assert found.shape == expected.shape
    assert np.array_equal(found, np.round(found, 9)), "more than nine decimals"
    assert np.max(np.abs(found - expected)) < 1.001e-9, "another answer by more than one unit of the ninth decimal"


@pytest.mark.parametrize("name", TREES)
def test_a_record_alone_has_the_margin_that_it_has_among_others(name: str) -> None:
    it = fitted(name)

    together = graph_scores(it.session, it.frame, it.case.inputs)[0]

    alone = [graph_scores(it.session, it.frame.iloc[[row]], it.case.inputs)[0] for row in range(0, 400, 40)]
    assert np.array_equal(np.concatenate(alone), together[::40])


# What no graph can express.

FEW: dict[str, Any] = {"n_estimators": 2, "random_state": 0}
QUIET: dict[str, Any] = {**FEW, "verbose": -1, "min_child_samples": 2}
TWO = records()[["late", "minutes"]]
UNSUPPORTED: dict[str, tuple[Any, Any, str]] = {
    "an estimator": (
        linear_model.HuberRegressor(),
        records()["minutes"],
        r"step 'model' \(sklearn.HuberRegressor\): not supported; of sklearn: ElasticNet, .*StandardScaler$",
    ),
    "splits by category": (
        ensemble.HistGradientBoostingClassifier(categorical_features=[1], max_iter=5, min_samples_leaf=2),
        (records()["seats"] == 2).astype(int),
        r"step 'model' \(sklearn.HistGradientBoostingClassifier\): it splits by categories; encode them before it",
    ),
    "two outputs of a forest": (
        ensemble.RandomForestRegressor(**FEW),
        TWO,
        r"step 'model' \(sklearn.RandomForestRegressor\): it has 2 outputs; one is supported",
    ),
    "two outputs of a line": (
        linear_model.LinearRegression(),
        TWO,
        r"step 'model' \(sklearn.LinearRegression\): it has 2 outputs; one is supported",
    ),
    "a first guess by a model": (
        ensemble.GradientBoostingClassifier(init=linear_model.LogisticRegression(), **FEW),
        records()["late"],
        r"step 'model' \(sklearn.GradientBoostingClassifier\): init=LogisticRegression: only the default or 'zero'",
    ),
    "a first guess by chance": (
        ensemble.GradientBoostingClassifier(init=DummyClassifier(strategy="stratified"), **FEW),
        records()["late"],
        r"step 'model' \(sklearn.GradientBoostingClassifier\): init guesses at random",
    ),
    "one class of a forest": (
        ensemble.ExtraTreesClassifier(**FEW),
        np.zeros(400),
        r"step 'model' \(sklearn.ExtraTreesClassifier\): it was fitted on one class; two are needed",
    ),
    "XGBoost: dropped trees": (
        XGBClassifier(booster="dart", **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBClassifier\): booster='dart': only gbtree is supported",
    ),
    "XGBoost: a line": (
        XGBRegressor(booster="gblinear", **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBRegressor\): booster='gblinear': only gbtree is supported",
    ),
    "XGBoost: another missing value": (
        XGBRegressor(missing=-1, **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBRegressor\): missing=-1: replace that value by a missing one",
    ),
    "XGBoost: splits by category": (
        XGBClassifier(enable_categorical=True, feature_types=["q", "c"], **FEW),
        (records()["seats"] == 2).astype(int),
        r"step 'model' \(xgboost.XGBClassifier\): it splits by categories; encode them before it",
    ),
    "XGBoost: no probability": (
        XGBClassifier(objective="binary:hinge", **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBClassifier\): objective='binary:hinge': one of binary:logistic, .* is needed",
    ),
    "XGBoost: an objective of one's own": (
        XGBRegressor(objective=lambda y, x: (x - y, np.ones_like(x)), **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBRegressor\): objective='custom': one of binary:logistic, .* is needed",
    ),
    "XGBoost: two outputs": (
        XGBRegressor(**FEW),
        TWO,
        r"step 'model' \(xgboost.XGBRegressor\): it has 2 outputs; one is supported",
    ),
    "XGBoost: two margins for two classes": (
        XGBClassifier(objective="multi:softprob", num_class=2, **FEW),
        records()["late"],
        r"step 'model' \(xgboost.XGBClassifier\): its objective gives 2 margins for 2 classes",
    ),
    "LightGBM: a forest": (
        LGBMClassifier(boosting_type="rf", subsample=0.5, subsample_freq=1, **QUIET),
        records()["late"],
        r"step 'model' \(lightgbm.LGBMClassifier\): boosting_type='rf': use a forest of scikit-learn",
    ),
    "LightGBM: lines in leaves": (
        LGBMRegressor(linear_tree=True, **QUIET),
        records()["minutes"],
        r"step 'model' \(lightgbm.LGBMRegressor\): linear_tree=True: a leaf must be a number",
    ),
    "LightGBM: splits by category": (
        LGBMClassifier(categorical_feature=[1], min_data_per_group=2, **QUIET),
        (records()["seats"] == 2).astype(int),
        r"step 'model' \(lightgbm.LGBMClassifier\): it splits by categories; encode them before it",
    ),
    "LightGBM: a square root": (
        LGBMRegressor(reg_sqrt=True, **QUIET),
        records()["minutes"],
        r"step 'model' \(lightgbm.LGBMRegressor\): objective='regression sqrt': one of binary, .* is needed",
    ),
    "LightGBM: one class": (
        LGBMClassifier(**QUIET),
        np.zeros(400),
        r"step 'model' \(lightgbm.LGBMClassifier\): it was fitted on one class; two are needed",
    ),
    "LightGBM: two margins for two classes": (
        LGBMClassifier(objective="multiclass", num_class=2, **QUIET),
        records()["late"],
        r"step 'model' \(lightgbm.LGBMClassifier\): its objective gives 2 margins for 2 classes",
    ),
    "a margin without a probability": (
        svm.SVC(),
        records()["late"],
        r"step 'model' \(sklearn.SVC\): it gives no probabilities, which are the answers of a graph",
    ),
    "a linear margin without a probability": (
        svm.LinearSVC(),
        records()["late"],
        r"step 'model' \(sklearn.LinearSVC\): it gives no probabilities, which are the answers of a graph",
    ),
    "a hinge": (
        linear_model.SGDClassifier(),
        records()["late"],
        r"step 'model' \(sklearn.SGDClassifier\): it gives no probabilities, which are the answers of a graph",
    ),
    "a smooth hinge": (
        linear_model.SGDClassifier(loss="modified_huber"),
        records()["late"],
        r"step 'model' \(sklearn.SGDClassifier\): loss='modified_huber': only log_loss is supported",
    ),
    "another kernel": (
        svm.SVR(kernel="sigmoid"),
        records()["minutes"],
        r"step 'model' \(sklearn.SVR\): kernel='sigmoid': 'linear' or 'rbf' is needed",
    ),
    "another distance": (
        neighbors.KNeighborsClassifier(metric="manhattan"),
        records()["late"],
        r"step 'model' \(sklearn.KNeighborsClassifier\): metric='manhattan': only the Euclidean distance",
    ),
    "weights of one's own": (
        neighbors.KNeighborsRegressor(weights=np.ones_like),
        records()["late"],
        r"step 'model' \(sklearn.KNeighborsRegressor\): weights: 'uniform' or 'distance' is needed",
    ),
    "rounded distances as weights": (
        neighbors.KNeighborsRegressor(weights="distance", algorithm="brute"),
        records()["late"],
        r"step 'model' \(sklearn.KNeighborsRegressor\): weights='distance' of a brute search, .*; use a kd_tree",
    ),
    "two outputs of neighbours": (
        neighbors.KNeighborsRegressor(),
        TWO,
        r"step 'model' \(sklearn.KNeighborsRegressor\): it has 2 outputs; one is supported",
    ),
    "two outputs of a network": (
        neural_network.MLPRegressor(max_iter=1),
        TWO,
        r"step 'model' \(sklearn.MLPRegressor\): it has 2 outputs; one is supported",
    ),
    "one class of boosting": (
        ensemble.HistGradientBoostingClassifier(max_iter=2),
        np.zeros(400),
        r"step 'model' \(sklearn.HistGradientBoostingClassifier\): it was fitted on one class; two are needed",
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
@pytest.mark.filterwarnings("ignore:categorical_feature keyword", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_no_graph_can_express_is_refused_in_one_line(what: str) -> None:
    model, target, message = UNSUPPORTED[what]
    pipeline = Pipeline([("model", model)]).fit(records()[["wind", "seats"]], target)

    with pytest.raises(UnsupportedError, match=f"^{message}") as refusal:
        export(pipeline, {"wind": "number", "seats": "number"})

    assert len(str(refusal.value).splitlines()) == 1


def test_a_model_without_names_must_get_as_many_columns_as_it_was_fitted_on() -> None:
    pipeline = Pipeline([("model", linear_model.Ridge())]).fit(records()[["wind", "seats"]].to_numpy(), TWO["minutes"])

    with pytest.raises(UnsupportedError, match=r"fitted on 2 columns, and the steps before it give 1$"):
        export(pipeline, {"wind": "number"})


def test_more_stored_rows_than_a_graph_should_hold_are_refused() -> None:
    stored = np.random.default_rng(0).normal(size=(10_001, 1))
    model = neighbors.KNeighborsRegressor().fit(stored, stored[:, 0])

    with pytest.raises(UnsupportedError, match="it stores 10,001 rows, and a graph 10,000 at most; fit it on a sample"):
        export(Pipeline([("model", model)]), {"wind": "number"})


# Where either answer is right.


@pytest.mark.parametrize("algorithm", ["brute", "kd_tree"])
def test_rows_whose_last_neighbour_is_chance_are_not_compared(algorithm: str) -> None:
    inputs = {"wind": "number"}
    stored = pd.DataFrame({"wind": np.repeat([0.0, 1.0, 5.0], [3, 3, 2])})
    model = neighbors.KNeighborsRegressor(n_neighbors=2, algorithm=algorithm).fit(stored, np.arange(8.0))
    pipeline = Pipeline([("model", model)])
    made = onnx.load_from_string(export(pipeline, inputs))
    scan = next(node for node in made.graph.node if node.op_type == "Scan")
    targets = next(one for one in part(scan, "body").g.initializer if list(one.dims) == [8, 1])
    targets.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(targets), targets.name))
    rows = pd.DataFrame({"wind": [0.1, 0.9, 4.9]})  # of two times three neighbours, two count; of two, both

    found = agreement(pipeline, open_session(made.SerializeToString()), rows, inputs)

    assert (found.differing, found.first) == (1, 2)


def test_no_rows_have_no_margins() -> None:
    it = fitted("SVR rbf")

    margin, *_ = it.session.run(None, {name: column[:0] for name, column in feeds(it.frame, it.case.inputs).items()})

    assert margin.shape == (0,)


# Would a wrong graph be noticed?

Change = Callable[[onnx.GraphProto, onnx.NodeProto], None]


def part(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """Return an attribute of a node."""
    return next(attribute for attribute in node.attribute if attribute.name == name)


def edit(node: onnx.NodeProto, name: str, change: Callable[[Any], Any]) -> None:
    """Change the numbers in a tensor of a node."""
    tensor = part(node, name).t
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))


def nearest_thresholds(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Round thresholds to the nearest 32-bit float."""
    edit(trees, "nodes_splits", lambda values: values.astype(np.float32).astype(np.float64))


def single_precision(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Store rows, thresholds and leaves as 32-bit floats, as most converters do."""
    for name in ("nodes_splits", "leaf_weights"):
        edit(trees, name, lambda values: values.astype(np.float32))
    place = list(graph.node).index(trees)
    graph.node.insert(place, helper.make_node("Cast", [trees.input[0]], ["single"], to=TensorProto.FLOAT))
    graph.node.insert(place + 2, helper.make_node("Cast", ["sum"], [trees.output[0]], to=TensorProto.DOUBLE))
    graph.node[place + 1].input[0], graph.node[place + 1].output[0] = "single", "sum"


def baseline_left_out(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Set the first leaf, the baseline, to 0."""
    edit(trees, "leaf_weights", lambda values: np.r_[0.0, values[1:]])


def tree_left_out(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Set the leaves of the last tree to 0."""
    first = max(part(trees, "tree_roots").ints)
    ways = [part(trees, f"nodes_{side}nodeids").ints[first:] for side in ("true", "false")]
    ends = [part(trees, f"nodes_{side}leafs").ints[first:] for side in ("true", "false")]
    leaves = [
        way for sides, leafs in zip(ways, ends, strict=True) for way, leaf in zip(sides, leafs, strict=True) if leaf
    ]
    edit(trees, "leaf_weights", lambda values: np.where(np.isin(np.arange(len(values)), leaves), 0.0, values))


def double_precision(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Compare and add doubles where XGBoost has 32-bit floats."""
    for name in ("nodes_splits", "leaf_weights"):
        edit(trees, name, lambda values: values.astype(np.float64))
    cast = next(node for node in graph.node if trees.input[0] in node.output)
    trees.input[0] = cast.input[0]


def features_swapped(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Swap two columns of the matrix."""
    columns = next(node for node in graph.node if node.op_type == "Concat")
    columns.input[0], columns.input[1] = columns.input[1], columns.input[0]


def missing_goes_the_other_way(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Send missing values to the other side of every split."""
    ways = part(trees, "nodes_missing_value_tracks_true").ints
    ways[:] = [1 - way for way in ways]


def under_is_under_or_on(graph: onnx.GraphProto, trees: onnx.NodeProto) -> None:
    """Send values on a threshold to the other side."""
    edit(trees, "nodes_modes", np.ones_like)


def with_fault(name: str, fault: Change) -> tuple[Agreement, Agreement]:
    """Return the agreement of a graph with a fault on real rows, and on rows on thresholds."""
    it = fitted(name)
    made = onnx.load_from_string(it.content)
    fault(made.graph, next(node for node in made.graph.node if node.op_type == "TreeEnsemble"))
    session = open_session(made.SerializeToString())
    edges = make_threshold_rows(it.pipeline.steps[-1][1], it.frame, seed=2)
    real, beside = (agreement(it.pipeline, session, rows, it.case.inputs) for rows in (it.frame, edges))
    return real, beside


BOOSTED = ("HistGradientBoostingClassifier two classes", "HistGradientBoostingRegressor squared_error")
LIGHTGBM, XGBOOST = ("LGBMClassifier two classes", "LGBMRegressor huber"), "XGBClassifier two classes"
CLASSIC = ("GradientBoostingClassifier log_loss", "RandomForestClassifier two classes", "ExtraTreesRegressor")


@pytest.mark.parametrize("name", BOOSTED + LIGHTGBM)
def test_rounded_thresholds_show_where_rows_lie_on_them(name: str) -> None:
    _, edges = with_fault(name, nearest_thresholds)

    assert edges.differing > 30, f"a graph with rounded thresholds is not noticed: {edges}"


@pytest.mark.parametrize("fault", [single_precision, tree_left_out, features_swapped])
@pytest.mark.parametrize("name", BOOSTED + LIGHTGBM + CLASSIC)
def test_a_wrong_graph_shows_on_real_rows(name: str, fault: Change) -> None:
    real, _ = with_fault(name, fault)

    assert real.differing > 30, f"{fault.__name__} is not noticed: {real}"


@pytest.mark.parametrize("fault", [double_precision, tree_left_out, features_swapped])
def test_a_wrong_graph_of_xgboost_shows_on_real_rows(fault: Change) -> None:
    real, _ = with_fault(XGBOOST, fault)

    assert real.differing > 30, f"{fault.__name__} is not noticed: {real}"


def test_zeros_that_mean_missing_are_not_just_zeros() -> None:
    it = fitted("LGBMClassifier zero_as_missing")
    made = onnx.load_from_string(it.content)
    for constant in made.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.shape == (4,) and np.isnan(values.astype(float)).all():
            constant.CopyFrom(numpy_helper.from_array(np.zeros(4), constant.name))

    found = agreement(it.pipeline, open_session(made.SerializeToString()), it.frame, it.case.inputs)

    assert found.differing > 10, f"{found}"


@pytest.mark.parametrize("name", ["XGBClassifier", "LGBMClassifier"])
def test_trees_after_the_best_iteration_are_left_out(name: str) -> None:
    frame, half = records(), records().index < 200
    X, y, inputs = frame[["wind", "temp"]], frame["late"], {"wind": "number", "temp": "number"}
    options: dict[str, Any] = {"n_estimators": 40, "learning_rate": 0.7, "n_jobs": 1}
    if name == "XGBClassifier":
        model: Any = XGBClassifier(early_stopping_rounds=5, **options)
        model.fit(X[half], y[half], eval_set=[(X[~half], y[~half])], verbose=False)
        best = model.best_iteration + 1
    else:
        model = LGBMClassifier(verbose=-1, **options)
        stop = early_stopping(5, verbose=False)
        model.fit(X[half], y[half], eval_X=X[~half], eval_y=y[~half], callbacks=[stop])
        best = model.best_iteration_
    pipeline = Pipeline([("model", model)])

    found = agreement(pipeline, open_session(export(pipeline, inputs)), X, inputs)

    assert 0 < best < 35, "it did not stop early"
    assert len(list(iterate_trees(model))) == best
    assert found.ok, f"{found}"


@pytest.mark.parametrize("name", [*BOOSTED, CLASSIC[0], XGBOOST])
def test_a_baseline_left_out_shows_on_every_row(name: str) -> None:
    real, _ = with_fault(name, baseline_left_out)

    assert real.differing == real.rows


@pytest.mark.parametrize("name", [*BOOSTED, LIGHTGBM[0], XGBOOST])
def test_a_missing_value_on_the_wrong_side_shows(name: str) -> None:
    real, _ = with_fault(name, missing_goes_the_other_way)

    assert real.differing > 10, f"{real}"


@pytest.mark.parametrize(
    "name", [*BOOSTED, *LIGHTGBM, *CLASSIC[:2], XGBOOST]
)  # no 32-bit float lies on a threshold of an extra tree
def test_a_value_on_a_threshold_that_goes_the_wrong_way_shows(name: str) -> None:
    _, edges = with_fault(name, under_is_under_or_on)

    assert edges.differing > 30, f"{edges}"


def test_a_coefficient_that_is_off_by_a_billionth_shows() -> None:
    it = fitted("Ridge scaled")
    made = onnx.load_from_string(it.content)
    product = next(node for node in made.graph.node if node.op_type == "MatMul")
    weights = next(constant for constant in made.graph.initializer if constant.name == product.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * (1 + 1e-9), weights.name))

    found = agreement(it.pipeline, open_session(made.SerializeToString()), it.frame, it.case.inputs)

    assert found.differing > 300, f"{found}"


WEIGHED = ("MLPClassifier tanh, cause", "MLPRegressor relu", "SVR linear", "SGDClassifier late", "LinearSVR")


@pytest.mark.parametrize("name", WEIGHED)
def test_a_weight_that_is_off_by_a_millionth_shows(name: str) -> None:
    it = fitted(name)
    made = onnx.load_from_string(it.content)
    product = [node for node in made.graph.node if node.op_type == "MatMul"][-1]
    weights = next(constant for constant in made.graph.initializer if constant.name == product.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * (1 + 1e-6), weights.name))

    found = agreement(it.pipeline, open_session(made.SerializeToString()), it.frame, it.case.inputs)

    assert found.differing > 300, f"{found}"


@pytest.mark.parametrize("name", ["KNeighborsClassifier", "KNeighborsRegressor distance", "SVR rbf"])
def test_a_stored_row_that_has_moved_shows(name: str) -> None:
    it = fitted(name)
    made = onnx.load_from_string(it.content)
    body = part(next(node for node in made.graph.node if node.op_type == "Scan"), "body").g
    column = next(one for one in body.initializer if len(one.dims) == 1 and one.dims[0] > 100)
    column.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(column) + 0.1, column.name))

    found = agreement(it.pipeline, open_session(made.SerializeToString()), it.frame, it.case.inputs)

    assert found.differing > 30, f"{found}"


def test_what_is_left_of_large_terms_may_differ_as_far_as_their_last_bits() -> None:
    inputs = {"wind": "number", "temp": "number"}
    rows = pd.DataFrame({"wind": [1e8, 1e300, 3.0], "temp": [1e8, 1e300, 4.0]})
    model = linear_model.LinearRegression(fit_intercept=False).fit(rows, [0.0, 1.0, 2.0])
    model.coef_ = np.array([1.0, -1.0])
    pipeline = Pipeline([("model", model)])
    made = onnx.load_from_string(export(pipeline, inputs))
    product = next(node for node in made.graph.node if node.op_type == "MatMul")
    weights = next(constant for constant in made.graph.initializer if constant.name == product.input[1])
    last_bit = numpy_helper.to_array(weights) * np.array([[1.0 + 2**-52], [1.0]])
    weights.CopyFrom(numpy_helper.from_array(last_bit, weights.name))

    found = agreement(pipeline, open_session(made.SerializeToString()), rows, inputs)

    assert found.largest > 1e-9, "then nothing is left that could differ"
    assert found.ok, f"{found}"
