"""Random pipelines on random records: the graph answers as the pipeline does, and refuses what it refuses.

More of them: RANDOM_PIPELINES=3000 python -m pytest tests/fuzz/test_pipelines.py
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feature_engine import creation, discretisation, encoding, imputation, outliers, scaling, selection, transformation
from feature_engine import datetime as dates
from feature_engine.wrappers import SklearnTransformerWrapper
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import ensemble, linear_model, neighbors, neural_network, preprocessing, svm
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier, XGBRegressor

from mlops_pkg.portable.export import agreement, export, fuzz_records, graph_scores, threshold_agreement
from mlops_pkg.portable.graph import UnsupportedError, open_session
from mlops_pkg.portable.transformers import RoundedCyclicalFeatures
from tests.portable.cases import hard_rows

EXAMPLES = int(os.environ.get("RANDOM_PIPELINES", "30"))

Draw = Callable[[st.SearchStrategy[Any]], Any]
one_of = st.sampled_from


def some(names: list[str], least: int = 1, most: int = 4) -> st.SearchStrategy[list[str]]:
    """A few of the names."""
    return st.lists(one_of(names), min_size=least, max_size=most, unique=True)


# Records.

NUMBERS: dict[str, Callable[[np.random.Generator, int], np.ndarray[Any, Any]]] = {
    "normal": lambda g, n: g.normal(size=n),
    "positive": lambda g, n: g.gamma(2.0, 3.0, n) + 1e-3,
    "rounded": lambda g, n: g.normal(size=n).round(1),
    "whole": lambda g, n: g.integers(-2, 4, n).astype(np.float64),
    "constant": lambda g, n: np.full(n, g.normal()),
    "mostly zero": lambda g, n: np.where(g.random(n) < 0.8, 0.0, g.normal(size=n)),
    "huge": lambda g, n: g.normal(size=n) * 1e200,
    "tiny": lambda g, n: g.random(n) * 1e-300,
    "neighbours": lambda g, n: np.nextafter(1.0, g.choice([0.0, 2.0], n)) + 0.0,
    "of every size": lambda g, n: g.normal(size=n) * 10.0 ** g.integers(-20, 30, n),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@st.composite
def frames(draw: Draw) -> tuple[pd.DataFrame, dict[str, str]]:
    """Records with texts, numbers and times, some missing; and the kind of each column."""
    rows = draw(st.integers(30, 150))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for place in range(draw(st.integers(0, 3))):
        words = draw(st.lists(TEXTS, min_size=1, max_size=6, unique=True))
        made[f"t{place}"], kinds[f"t{place}"] = generator.choice(np.array(words, dtype=object), rows), "category"
    for place in range(draw(st.integers(1, 5))):
        made[f"n{place}"], kinds[f"n{place}"] = NUMBERS[draw(one_of(list(NUMBERS)))](generator, rows), "number"
    for place in range(draw(st.integers(0, 2))):
        seconds = generator.integers(-(10**9), 3 * 10**9, rows)
        made[f"d{place}"], kinds[f"d{place}"] = seconds.astype("datetime64[s]").astype("datetime64[us]"), "datetime"
    frame = pd.DataFrame(made).astype({name: "str" for name, kind in kinds.items() if kind == "category"})
    for name in frame:
        frame[name] = frame[name].mask(generator.random(rows) < draw(one_of([0.0, 0.0, 0.1, 0.4])))
    return frame, kinds


# Feature steps. Each function is told the names of the texts, of the numbers, of those without gaps, and of the times.


@dataclass
class Columns:
    """The columns as they stand."""

    texts: list[str]
    numbers: list[str]
    times: list[str]


def columns_of(frame: pd.DataFrame) -> Columns:
    """Sort columns by what they hold."""
    times = list(frame.select_dtypes("datetime").columns)
    numbers = list(frame.select_dtypes("number").columns)
    return Columns([name for name in frame if name not in {*times, *numbers}], numbers, times)


def imputer(draw: Draw, now: Columns) -> Any:
    """Something in the place of what is missing."""
    if now.texts and draw(st.booleans()):
        method, fill = draw(one_of(["missing", "frequent"])), draw(TEXTS)
        options = {"imputation_method": method, "fill_value": fill, "return_object": draw(st.booleans())}
        return imputation.CategoricalImputer(variables=draw(some(now.texts)), **options)
    names = draw(some(now.numbers))
    if draw(st.booleans()):
        return imputation.MeanMedianImputer(draw(one_of(["mean", "median"])), names)
    if draw(st.booleans()):
        return imputation.EndTailImputer(
            draw(one_of(["gaussian", "iqr", "max"])), draw(one_of(["right", "left"])), 2, names
        )
    return imputation.ArbitraryNumberImputer(draw(one_of([0, -1, 0.1, 999])), names)


def indicator(draw: Draw, now: Columns) -> Any:
    """Whether a value is missing."""
    names = draw(some(now.texts + now.numbers + now.times))
    return imputation.AddMissingIndicator(missing_only=draw(st.booleans()), variables=names)


def encoder(draw: Draw, now: Columns) -> Any:
    """Numbers for texts, or for numbers."""
    numbers = not now.texts or bool(now.numbers and draw(st.integers(0, 3)) == 0)
    options = {"variables": draw(some(now.numbers if numbers else now.texts)), "ignore_format": numbers}
    missing, unseen = {"missing_values": draw(one_of(["ignore", "raise"]))}, draw(one_of(["ignore", "encode", "raise"]))
    makers: dict[str, Callable[[], Any]] = {
        "ordered": lambda: encoding.OrdinalEncoder("ordered", unseen=unseen, **options, **missing),
        "arbitrary": lambda: encoding.OrdinalEncoder("arbitrary", unseen=unseen, **options, **missing),
        "mean": lambda: encoding.MeanEncoder(
            smoothing=draw(one_of([0.0, "auto", 7.5])), unseen=unseen, **options, **missing
        ),
        "count": lambda: encoding.CountFrequencyEncoder(
            draw(one_of(["count", "frequency"])), unseen=unseen, **options, **missing
        ),
        "woe": lambda: encoding.WoEEncoder(fill_value=0.1, unseen=unseen.replace("encode", "ignore"), **options),
        "tree": lambda: encoding.DecisionTreeEncoder(
            cv=2,
            param_grid={"max_depth": [2]},
            precision=draw(one_of([None, 2])),
            unseen=unseen,
            fill_value=-3.5,
            random_state=0,
            **options,
        ),
        "hot": lambda: encoding.OneHotEncoder(
            draw(one_of([None, 2])), draw(st.booleans()), draw(st.booleans()), **options
        ),
        "rare": lambda: encoding.RareLabelEncoder(
            draw(one_of([0.05, 0.3])), draw(st.integers(1, 4)), draw(one_of([None, 2])), **options, **missing
        ),
    }
    return makers[draw(one_of([kind for kind in makers if not numbers or kind != "rare"]))]()


def capper(draw: Draw, now: Columns) -> Any:
    """Values within bounds."""
    names, missing = draw(some(now.numbers)), draw(one_of(["ignore", "raise"]))
    if draw(st.booleans()):
        bounds = dict(zip(names, draw(st.lists(st.floats(-5, 5), min_size=4, max_size=4)), strict=False))
        return outliers.ArbitraryOutlierCapper(bounds, draw(one_of([None, {names[0]: -6}])), missing)
    method, tail = draw(one_of(["gaussian", "iqr", "quantiles", "mad"])), draw(one_of(["both", "left", "right"]))
    options = {"fold": draw(one_of([0.05, 0.2])), "add_indicators": draw(st.booleans()), "missing_values": missing}
    return outliers.Winsorizer(method, tail, variables=names, **options)


PARTS = ["month", "quarter", "semester", "year", "week", "day_of_week", "day_of_month", "day_of_year", "weekend"]
PARTS += ["hour", "minute", "second", "days_in_month", "leap_year"]
PARTS += [f"{part}_{side}" for part in ("month", "quarter", "year") for side in ("start", "end")]


def times(draw: Draw, now: Columns) -> Any:
    """Parts of times, and what lies between them."""
    missing, drop = draw(one_of(["ignore", "raise"])), draw(st.booleans())
    if draw(st.booleans()):
        parts = draw(st.one_of(st.just("all"), some(PARTS, 1, 5)))
        return dates.DatetimeFeatures(draw(some(now.times)), parts, drop, missing)
    options = {"output_unit": draw(one_of(["D", "h", "m", "s", "ms", "us", "ns"])), "drop_original": drop}
    return dates.DatetimeSubtraction(draw(some(now.times)), draw(some(now.times)), missing_values=missing, **options)


def across(draw: Draw, now: Columns) -> Any:
    """Statistics of several columns."""
    functions = draw(some(["sum", "prod", "min", "max", "mean", "var", "std"], 1, 7))
    function = functions if draw(st.booleans()) else functions[0]
    options = {"missing_values": draw(one_of(["ignore", "raise"])), "drop_original": draw(st.booleans())}
    return creation.MathFeatures(draw(some(now.numbers, 2, 7)), function, **options)


def relative(draw: Draw, now: Columns) -> Any:
    """Differences, ratios and the like."""
    functions = draw(some(["add", "sub", "mul", "div", "truediv", "floordiv", "mod"], 1, 7))
    options = {"missing_values": draw(one_of(["ignore", "raise"])), "drop_original": draw(st.booleans())}
    options["fill_value"] = draw(one_of([None, 0, -1.5]))
    return creation.RelativeFeatures(draw(some(now.numbers)), draw(some(now.numbers, 1, 2)), functions, **options)


def simple(draw: Draw, now: Columns) -> Any:
    """A formula of one column that ONNX has to the last bit, or a sine that is rounded."""
    names = draw(some(now.numbers))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return transformation.PowerTransformer(names, draw(one_of([0, 0.5, 1, 2, -1])))
    if kind == 1:
        return transformation.ReciprocalTransformer(names)
    if kind == 2:
        return scaling.MeanNormalizationScaler(names)
    return RoundedCyclicalFeatures(names, None, draw(st.booleans()), draw(st.integers(1, 9)))


def bins(draw: Draw, now: Columns) -> Any:
    """Numbers of bins."""
    names, count, as_object = draw(some(now.numbers)), draw(st.integers(1, 5)), draw(st.booleans())
    kind = draw(st.integers(0, 3))
    if kind == 0:
        edges = sorted(draw(st.lists(st.floats(-4, 4), min_size=2, max_size=5, unique=True)))
        options = {"errors": draw(one_of(["ignore", "raise"])), "return_object": as_object}
        return discretisation.ArbitraryDiscretiser(dict.fromkeys(names, edges), **options)
    kinds = ("EqualWidth", "EqualFrequency", "GeometricWidth")
    return getattr(discretisation, f"{kinds[kind - 1]}Discretiser")(names, count, return_object=as_object)


def selector(draw: Draw, now: Columns) -> Any:
    """Fewer columns."""
    names = now.texts + now.numbers + now.times
    missing = draw(one_of(["ignore", "raise"]))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return selection.DropFeatures(draw(some(names, 1, len(names) - 1)))
    if kind == 1:
        return selection.DropConstantFeatures(tol=draw(one_of([1, 0.8, 0.5])), missing_values=missing)
    if kind == 2:
        return selection.DropDuplicateFeatures(missing_values=missing)
    options = {"threshold": draw(one_of([0.1, 0.8])), "missing_values": missing}
    if kind == 3:
        return selection.DropCorrelatedFeatures(**options)
    return selection.SmartCorrelatedSelection(selection_method="variance", **options)


SCALERS: list[Callable[[Draw], Any]] = [
    lambda draw: preprocessing.StandardScaler(with_mean=draw(st.booleans()), with_std=draw(st.booleans())),
    lambda draw: preprocessing.MinMaxScaler(draw(one_of([(0, 1), (-3, 0.5)])), clip=draw(st.booleans())),
    lambda _: preprocessing.MaxAbsScaler(),
    lambda draw: preprocessing.RobustScaler(with_centering=draw(st.booleans()), with_scaling=draw(st.booleans())),
]


def wrapped(draw: Draw, now: Columns) -> Any:
    """Some columns scaled."""
    return SklearnTransformerWrapper(draw(one_of(SCALERS))(draw), draw(some(now.numbers)))


EXACT = [imputer, indicator, encoder, capper, times, across, relative, simple, bins, selector, wrapped]


def formula(draw: Draw, now: Columns) -> Any:
    """A formula of one column that differs in its last bits from one library to the other."""
    names, base = draw(some(now.numbers)), draw(one_of(["e", "10"]))
    makers: list[Callable[[], Any]] = [
        lambda: transformation.LogTransformer(names, base),
        lambda: transformation.LogCpTransformer(names, base, draw(one_of(["auto", 1, 0.25]))),
        lambda: transformation.BoxCoxTransformer(names),
        lambda: transformation.YeoJohnsonTransformer(names),
        lambda: transformation.PowerTransformer(names, draw(one_of([3, 1 / 3, -0.5, 1.7]))),
        lambda: creation.CyclicalFeatures(names, None, draw(st.booleans())),
        lambda: creation.RelativeFeatures(names, draw(some(now.numbers, 1, 1)), ["pow"]),
    ]
    return draw(one_of(makers))()


# Estimators.


def trees(draw: Draw, target: str) -> Any:
    """Trees of every kind."""
    kind = draw(one_of(["HistGradientBoosting", "GradientBoosting", "RandomForest", "ExtraTrees", "XGB", "LGBM"]))
    task = "Regressor" if target == "number" else "Classifier"
    options: dict[str, Any] = {"random_state": 0}
    count, leaves = draw(st.integers(1, 6)), draw(one_of([2, 7, 31]))
    if kind == "XGB":
        return xgboost_trees(draw, task, options | {"n_estimators": count, "max_leaves": leaves, "n_jobs": 1})
    if kind == "LGBM":
        return lightgbm_trees(draw, target, options | {"n_estimators": count, "num_leaves": leaves, "n_jobs": 1})
    if kind == "HistGradientBoosting":
        options |= {
            "max_iter": count,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": draw(one_of([1, 5])),
            "max_bins": 63,
        }
        if task == "Regressor":
            options["loss"] = draw(one_of(["squared_error", "absolute_error", "poisson", "gamma"]))
    else:
        options |= {"n_estimators": count, "max_leaf_nodes": leaves}
    if kind == "GradientBoosting":
        options |= {"init": draw(one_of([None, "zero"])), "learning_rate": draw(one_of([0.1, 1 / 3]))}
        losses = {"Regressor": ["squared_error", "huber", "absolute_error"], "Classifier": ["log_loss"]}[task]
        options["loss"] = draw(one_of(losses + ["exponential"] * (target == "two")))
    return getattr(ensemble, f"{kind}{task}")(**options)


def xgboost_trees(draw: Draw, task: str, options: dict[str, Any]) -> Any:
    """Trees of XGBoost."""
    options |= {"num_parallel_tree": draw(st.integers(1, 2)), "min_child_weight": draw(one_of([0, 1]))}
    options |= {"subsample": draw(one_of([1.0, 0.5])), "learning_rate": draw(one_of([0.1, 1 / 3]))}
    if task == "Classifier":
        return XGBClassifier(**options, base_score=draw(one_of([None, 0.2])))
    losses = ["reg:squarederror", "reg:absoluteerror", "count:poisson", "reg:gamma", "reg:tweedie"]
    return XGBRegressor(**options, objective=draw(one_of(losses)))


def lightgbm_trees(draw: Draw, target: str, options: dict[str, Any]) -> Any:
    """Trees of LightGBM."""
    options |= {"min_child_samples": draw(one_of([1, 5])), "verbose": -1, "learning_rate": draw(one_of([0.1, 1 / 3]))}
    options |= draw(one_of([{}, {"zero_as_missing": True}, {"use_missing": False}]))
    options |= draw(one_of([{}, {"extra_trees": True}, {"boosting_type": "dart"}]))
    if target == "three":
        options["objective"] = draw(one_of(["multiclass", "multiclassova"]))
    elif target == "number":
        options["objective"] = draw(one_of(["regression", "regression_l1", "poisson", "gamma", "tweedie"]))
    return (LGBMRegressor if target == "number" else LGBMClassifier)(**options)


def line(draw: Draw, target: str) -> Any:
    """Linear models, networks, and models that store rows."""
    intercept, task = draw(st.booleans()), "Regressor" if target == "number" else "Classifier"
    kinds = ["Logistic", "SGD"] if task == "Classifier" else ["Ridge", "LinearRegression", "ElasticNet", "Lasso", "SVR"]
    kind = draw(one_of([*kinds, "KNeighbors", "MLP"]))
    if kind == "KNeighbors":
        ways: list[dict[str, Any]] = [{}, {"algorithm": "brute"}, {"algorithm": "kd_tree", "weights": "distance"}]
        return getattr(neighbors, f"KNeighbors{task}")(draw(st.integers(1, 9)), **draw(one_of(ways)))
    if kind == "MLP":
        shape, activation = draw(one_of([(), (3,), (4, 2)])), draw(one_of(["relu", "tanh", "logistic", "identity"]))
        return getattr(neural_network, f"MLP{task}")(shape, activation, max_iter=5, random_state=0)
    if kind == "SVR":
        return svm.SVR(kernel=draw(one_of(["rbf", "linear"])), max_iter=100)
    if kind == "SGD":
        return linear_model.SGDClassifier(loss="log_loss", fit_intercept=intercept, max_iter=5, random_state=0)
    if kind == "Logistic":
        return linear_model.LogisticRegression(fit_intercept=intercept, max_iter=30)
    return getattr(linear_model, kind)(fit_intercept=intercept)


TARGETS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "two": lambda g, n: g.permutation(np.arange(n) % 2),
    "three": lambda g, n: g.permutation(np.array(["a", "b", "c"])[np.arange(n) % 3]),
    "number": lambda g, n: g.gamma(2.0, 1.0, n) + 0.01,
}


@dataclass
class Built:
    """A random pipeline, fitted."""

    pipeline: Pipeline
    frame: pd.DataFrame
    inputs: dict[str, str]
    linear: bool

    def __repr__(self) -> str:
        steps = "\n  ".join(str(step) for _, step in self.pipeline.steps)
        return f"{self.inputs}\n  {steps}\n{self.frame.head()}"


@st.composite
def pipelines(draw: Draw) -> Built:
    """Random steps, as far as they can be fitted one after the other, and a random estimator."""
    frame, inputs = draw(frames())
    target = draw(one_of(list(TARGETS)))
    y = pd.Series(TARGETS[target](np.random.default_rng(draw(st.integers(0, 9))), len(frame)))
    linear = draw(st.integers(0, 3)) == 0
    steps: list[Any] = []
    X = frame

    def add(step: Any) -> bool:
        nonlocal X
        try:
            made = step.fit(X, y).transform(X)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError, ZeroDivisionError):
            return False
        if not made.shape[1] or len({*getattr(made, "columns", range(made.shape[1]))}) < made.shape[1]:
            return False
        steps.append(step)
        X = made
        return True

    for make in draw(st.lists(one_of(EXACT), max_size=6)):
        now = columns_of(X)
        lacking = {imputer: not now.numbers, encoder: not now.numbers + now.texts, times: not now.times}
        lacking |= {across: len(now.numbers) < 2, selector: X.shape[1] < 2}
        lacking |= dict.fromkeys((capper, relative, simple, bins, wrapped), not now.numbers)
        if not lacking.get(make):
            add(make(draw, now))
    gaps = {"missing_values": draw(one_of(["ignore", "raise"])), "unseen": draw(one_of(["ignore", "encode", "raise"]))}
    now = columns_of(X)
    if now.texts and not add(encoding.OrdinalEncoder("arbitrary", now.texts, **gaps)):
        assume(add(encoding.OrdinalEncoder("arbitrary", now.texts, missing_values="ignore", unseen="encode")))
    if now.times:
        assume(add(selection.DropFeatures(now.times)))
    assume(columns_of(X).numbers)
    if linear and draw(st.booleans()):
        add(formula(draw, columns_of(X)))
    if linear or draw(st.integers(0, 3)) == 0:
        add(imputation.ArbitraryNumberImputer(draw(one_of([0, -1])), columns_of(X).numbers))
    elif draw(st.integers(0, 3)) == 0:
        add(draw(one_of(SCALERS))(draw))
    estimator = (line if linear else trees)(draw, target)
    if isinstance(estimator, XGBClassifier):
        y = pd.Series(pd.factorize(y, sort=True)[0])  # it takes no names of classes
    try:
        estimator.fit(X, y)
    except ValueError:
        assume(False)
    steps.append(estimator)
    return Built(Pipeline([(str(place), step) for place, step in enumerate(steps)]), frame, inputs, linear)


# The comparison.


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="RANDOM_PIPELINES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.filterwarnings("ignore")
@given(pipelines(), st.integers(0, 2**32 - 1))
def test_the_graph_of_any_pipeline_answers_as_the_pipeline(built: Built, seed: int) -> None:
    try:
        session = open_session(export(built.pipeline, built.inputs))
    except UnsupportedError as error:
        assume("text" not in str(error))  # numbers of bins as objects: a graph groups and fills text alone
        raise
    hard = hard_rows(built.frame.ffill().bfill(), built.inputs)
    rows = pd.concat(
        [
            built.frame,
            fuzz_records(built.frame, built.inputs, 100, seed),
            hard.sample(min(20, len(hard)), random_state=seed),
        ]
    )

    agreed = agreement(built.pipeline, session, rows, built.inputs, alone=len(rows))

    assert agreed.ok, f"{agreed}\n{rows.iloc[agreed.first or 0].to_dict()}\n{built}"
    if not built.linear:
        edges = threshold_agreement(built.pipeline, built.frame, seed, limit=50)
        assert edges.ok, f"on thresholds {edges}\n{built}"
        few = rows[::40]
        together = graph_scores(session, few, built.inputs)[0]
        alone = [graph_scores(session, few.iloc[[row]], built.inputs)[0] for row in range(len(few))]
        assert np.array_equal(np.concatenate(alone), together, equal_nan=True), f"a record alone differs\n{built}"
