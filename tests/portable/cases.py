"""One list of pipelines, one or more for every type that a graph can express; the tests and the benchmark use it."""

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from feature_engine import creation, discretisation, encoding, imputation, outliers, scaling, selection, transformation
from feature_engine import datetime as dates
from feature_engine.wrappers import SklearnTransformerWrapper
from lightgbm import LGBMClassifier, LGBMRegressor
from onnx import TensorProto
from onnxruntime import InferenceSession
from sklearn import ensemble, linear_model, neighbors, neural_network, preprocessing, svm
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier, XGBRegressor

from mlops_pkg.portable.export import export, feeds, graph_scores, scores_with_size
from mlops_pkg.portable.graph import add_outputs, emit, new_graph, open_session, serialize, stack_columns, type_name
from mlops_pkg.portable.margins import REFUSALS
from mlops_pkg.portable.transformers import RoundedCyclicalFeatures

X = [f"x{place}" for place in range(1, 10)]  # numbers of very different size, some missing
KINDS = {
    "carrier": "category",  # some missing, two rare values
    "origin": "category",
    "engine": "category",  # of two values
    "wind": "number",  # above 0
    "gust": "number",  # above 0, a fifth missing
    "temp": "number",  # of both signs
    "rain": "number",  # mostly 0
    "seats": "number",  # few whole numbers, 0 among them
    "constant": "number",
    "at": "datetime",
    "until": "datetime",
    "due": "datetime",  # some missing
    **dict.fromkeys(X, "number"),
}


@cache
def records(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return raw records with the targets late (0, 1), cause (names), cause_number and minutes; do not modify them."""
    generator = np.random.default_rng(seed)
    at = np.datetime64("1969-06-01", "us") + generator.integers(0, 50 * 365 * 86_400, rows).astype("timedelta64[s]")
    made: dict[str, Any] = {
        "carrier": generator.choice(["UA", "B6", "EV", "HA", "Þ9"], rows, p=[0.4, 0.3, 0.27, 0.02, 0.01]),
        "origin": generator.choice(["JFK", "LGA", "EWR"], rows),
        "engine": generator.choice(["jet", "propeller"], rows, p=[0.8, 0.2]),
        "wind": generator.gamma(2.0, 8.0, rows).round(2) + 0.01,
        "gust": generator.gamma(3.0, 9.0, rows).round(1) + 0.1,
        "temp": generator.normal(5.0, 15.0, rows).round(2),
        "rain": np.where(generator.random(rows) < 0.7, 0.0, generator.gamma(1.0, 0.2, rows)),
        "seats": generator.choice([0.0, 2.0, 20.0, 149.0, 200.0], rows, p=[0.05, 0.1, 0.2, 0.4, 0.25]),
        "constant": np.full(rows, 3.5),
        "at": at,
        "until": at + generator.integers(0, 9 * 3600 * 1000, rows).astype("timedelta64[ms]"),
        "due": at + generator.integers(-3600, 300 * 86_400, rows).astype("timedelta64[s]"),
    }
    made |= {name: generator.normal(0.1 * place, 10.0 ** (place - 3), rows) for place, name in enumerate(X)}
    score = made["wind"] / 16 + made["temp"] / 30 - made["seats"] / 200 + generator.normal(0, 0.5, rows)
    score += np.select([made["origin"] == "JFK", made["carrier"] == "EV"], [0.8, 1.2])
    made["late"] = (score > 1.0).astype(np.int64)
    made["cause"] = np.select([score > 1.4, score > 0.8], ["carrier", "weather"], "none")
    made["cause_number"] = np.select([score > 1.4, score > 0.8], [0, 1], 2)  # XGBoost takes no names of classes
    made["minutes"] = np.exp(score).round(3)
    frame = pd.DataFrame(made).astype({name: "str" for name, kind in KINDS.items() if kind == "category"})
    for name, share in {"carrier": 0.08, "gust": 0.2, "due": 0.05, **dict.fromkeys(X, 0.03)}.items():
        frame[name] = frame[name].mask(generator.random(rows) < share)
    return frame


Make = Callable[[], Any]  # what makes a step, unfitted


@dataclass(frozen=True)
class Case:
    """A pipeline around one feature step, or to one estimator."""

    kind: str  # of the step that it is about, e.g. sklearn.Ridge
    steps: tuple[Make, ...]
    place: int  # of that step
    columns: tuple[str, ...]  # of the raw record, in order
    target: str
    exact: bool  # whether its columns, or its margins, are equal to the last bit
    learned: Mapping[str, Any] = field(default_factory=dict)  # what the step is made to have learned

    @property
    def inputs(self) -> dict[str, str]:
        """The kind of each column."""
        return {name: KINDS[name] for name in self.columns}

    @property
    def is_estimator(self) -> bool:
        """Whether the case is about the estimator."""
        return self.place == len(self.steps) - 1


CASES: dict[str, Case] = {}


def last_step(target: str, exact: bool) -> Make:
    """Return trees, in which a last bit can change the leaf, or after a closed formula a linear model."""
    if not exact:
        return partial(linear_model.LogisticRegression, max_iter=20) if target == "cause" else linear_model.Ridge
    boosting = (
        ensemble.HistGradientBoostingRegressor if target == "minutes" else ensemble.HistGradientBoostingClassifier
    )
    return partial(boosting, max_iter=20, min_samples_leaf=5, max_leaf_nodes=15, random_state=0)


def case(
    settings: str,  # what tells the case from others of its kind
    make: Make,
    columns: str,  # separated by spaces
    before: tuple[Make, ...] = (),
    *,
    after: tuple[Make, ...] = (),
    target: str = "late",
    exact: bool = True,
    learned: Mapping[str, Any] | None = None,
) -> None:
    """Add a case; one about a feature step gets an estimator."""
    step = make()
    end = () if hasattr(step, "predict") else (*after, last_step(target, exact))
    name = f"{type(step).__name__} {settings}".strip()
    assert name not in CASES, f"{name} is there twice"
    kind, names = type_name(step), tuple(columns.split())
    CASES[name] = Case(kind, (*before, make, *end), len(before), names, target, exact, learned or {})


# What makes the other columns fit for an estimator.
no_gaps: Make = partial(imputation.ArbitraryNumberImputer, arbitrary_number=-1)
named: Make = partial(imputation.CategoricalImputer, variables=["carrier"])


def coded(*names: str) -> Make:
    """Return an encoder of any text."""
    options = {"encoding_method": "arbitrary", "unseen": "encode", "missing_values": "ignore"}
    return partial(encoding.OrdinalEncoder, variables=list(names), **options)


def without(*names: str) -> Make:
    """Return a step that drops columns."""
    return partial(selection.DropFeatures, features_to_drop=list(names))


def add_imputers() -> None:
    """Add cases with missing values."""
    for method in ("mean", "median"):
        make = partial(imputation.MeanMedianImputer, imputation_method=method, variables=["gust"])
        case(method, make, "gust temp")
    number = imputation.ArbitraryNumberImputer
    case("-999", partial(number, arbitrary_number=-999, variables=["gust", "x1"]), "gust x1 temp")
    case("by column", partial(number, imputer_dict={"gust": 0, "x1": 0.1}), "gust x1 temp")
    for method, tail in (("gaussian", "right"), ("iqr", "left"), ("max", "right")):
        make = partial(imputation.EndTailImputer, imputation_method=method, tail=tail, variables=["gust", "x2"])
        case(f"{method} {tail}", make, "gust x2 temp")
    text = partial(imputation.CategoricalImputer, variables=["carrier"])
    case("missing", text, "carrier temp", after=(coded("carrier"),))
    case("frequent", partial(text, imputation_method="frequent"), "carrier temp", after=(coded("carrier"),))
    case("object", partial(text, fill_value="UA", return_object=True), "carrier temp", after=(coded("carrier"),))
    case("numbers", partial(text, fill_value=7, ignore_format=True, variables=["gust"]), "gust temp")
    after = (without("due"), coded("carrier"))
    make = partial(imputation.AddMissingIndicator, variables=["carrier", "gust", "due", "temp"])
    case("all kinds", make, "carrier gust due temp", after=after)
    case("missing_only", partial(imputation.AddMissingIndicator, missing_only=True), "gust temp x3")


def add_encoders() -> None:
    """Add cases with categories."""
    encoders = {
        "ordered": partial(encoding.OrdinalEncoder, encoding_method="ordered"),
        "smoothed": partial(encoding.MeanEncoder, smoothing=12.5),
        "count": partial(encoding.CountFrequencyEncoder, encoding_method="count"),
    }
    for (name, make), unseen in itertools.product(encoders.items(), ("ignore", "encode", "raise")):
        options = {"variables": ["carrier"], "unseen": unseen}
        case(f"{name}, unseen {unseen}", partial(make, **options), "carrier temp", (named,))
        options = {"variables": ["origin"], "unseen": unseen, "missing_values": "ignore"}
        case(f"{name}, unseen {unseen}, missing ignore", partial(make, **options), "origin temp")
    several = ["origin", "engine"]
    ordinal, mean, count = encoding.OrdinalEncoder, encoding.MeanEncoder, encoding.CountFrequencyEncoder
    case("arbitrary", partial(ordinal, encoding_method="arbitrary", variables=several), "origin engine temp")
    case("auto", partial(mean, smoothing="auto", variables=several), "origin engine temp", target="minutes")
    case("plain, unseen encode", partial(mean, unseen="encode", variables=several), "origin engine temp")
    case("frequency", partial(count, encoding_method="frequency", variables=several), "origin engine temp")
    numbers = {"variables": ["seats"], "ignore_format": True}
    case("numbers", partial(ordinal, unseen="encode", **numbers), "seats temp")
    case("numbers", partial(mean, unseen="raise", **numbers), "seats temp")
    case("numbers", partial(count, **numbers), "seats temp")
    for unseen in ("ignore", "raise"):
        make = partial(encoding.WoEEncoder, variables=["origin"], unseen=unseen)
        case(f"unseen {unseen}", make, "origin temp")
    case("fill_value", partial(encoding.WoEEncoder, variables=["carrier"], fill_value=0.01), "carrier temp", (named,))
    tree = partial(encoding.DecisionTreeEncoder, variables=["carrier"], random_state=0, cv=2)
    case("ignore", tree, "carrier temp", (named,), target="minutes")
    case("raise", partial(tree, unseen="raise", variables=["origin"]), "origin temp", target="minutes")
    make = partial(tree, regression=False, scoring="roc_auc", precision=2, unseen="encode", fill_value=-0.5)
    case("classes, precision, encode", make, "carrier temp", (named,))
    rare = partial(encoding.RareLabelEncoder, variables=["carrier"], tol=0.05, n_categories=2)
    after = (coded("carrier"),)
    case("missing raise", rare, "carrier temp", (named,), after=after)
    case("max_n_categories", partial(rare, max_n_categories=2), "carrier temp", (named,), after=after)
    case("missing ignore", partial(rare, missing_values="ignore", replace_with="few"), "carrier temp", after=after)
    make = partial(rare, n_categories=10, missing_values="ignore")
    case("few categories, missing ignore", make, "carrier temp", after=after)
    hot = encoding.OneHotEncoder
    case("all", partial(hot, variables=["origin", "carrier"]), "origin temp carrier", (named,))
    case("top_categories", partial(hot, top_categories=2, variables=["carrier"]), "carrier temp", (named,))
    case("drop_last", partial(hot, drop_last=True, variables=["origin"]), "origin temp")
    case("drop_last_binary", partial(hot, drop_last_binary=True), "origin engine temp")
    case("numbers", partial(hot, **numbers), "seats temp")


def add_outliers() -> None:
    """Add cases with outliers."""
    for method, tail in itertools.product(("gaussian", "iqr", "quantiles", "mad"), ("both", "left", "right")):
        options = {"capping_method": method, "tail": tail, "fold": 0.1 if method == "quantiles" else 1.2}
        case(f"{method} {tail}", partial(outliers.Winsorizer, variables=["wind", "temp"], **options), "wind temp gust")
    for tail, missing in itertools.product(("both", "left", "right"), ("ignore", "raise")):
        options = {"add_indicators": True, "tail": tail, "missing_values": missing, "fold": 1}
        make = partial(outliers.Winsorizer, variables=["gust", "x4"], **options)
        case(f"indicators {tail}, missing {missing}", make, "gust x4", (no_gaps,) if missing == "raise" else ())
    capper = outliers.ArbitraryOutlierCapper
    make = partial(capper, max_capping_dict={"wind": 20, "temp": 12.5}, min_capping_dict={"temp": 0})
    case("both", make, "wind temp gust")
    case("missing ignore", partial(capper, min_capping_dict={"gust": 10}, missing_values="ignore"), "gust temp")


def add_times() -> None:
    """Add cases with times."""
    features = partial(dates.DatetimeFeatures, variables=["at"])
    case("default", features, "at temp")
    case("all", partial(features, features_to_extract="all"), "at temp")
    case("all, missing ignore", partial(features, features_to_extract="all", missing_values="ignore"), "at temp")
    parts = ["month", "quarter", "semester", "year", "day_of_week", "day_of_month", "day_of_year", "weekend", "hour"]
    parts += ["minute", "second", "leap_year"]
    parts += [f"{part}_{side}" for part in ("month", "quarter", "year") for side in ("start", "end")]
    make = partial(features, variables=["due"], features_to_extract=parts, missing_values="ignore")
    case("all that may be missing", make, "due temp")
    make = partial(features, features_to_extract=["days_in_month"], missing_values="ignore")
    case("days_in_month, missing ignore", make, "at temp")
    make = partial(features, variables=["at", "until"], drop_original=False)
    case("kept", make, "at until temp", after=(without("at", "until"),))
    gap = partial(dates.DatetimeSubtraction, variables=["until", "due"], reference=["at"], drop_original=True)
    for unit in ("W", "D", "h", "m", "s", "ms", "us", "ns"):
        case(unit, partial(gap, output_unit=unit), "until at due temp")
    make = partial(gap, variables="until", missing_values="raise", new_variables_names=["gap"], output_unit="m")
    case("missing raise, named", make, "until at temp")


def add_creation() -> None:
    """Add cases with formulas of several columns."""
    functions = ["sum", "prod", "min", "max", "mean", "var", "std"]
    across = partial(creation.MathFeatures, missing_values="ignore")
    for function, count in itertools.product(functions, (2, 7)):
        make = partial(across, variables=X[:count], func=function)
        case(f"{function} of {count}", make, " ".join(X[:count]))
    for count in (3, 7):
        case(f"all of {count}", partial(across, variables=X[:count], func=functions), " ".join(X[:count]))
    case("order-free of 9", partial(across, variables=X, func=["prod", "min", "max"]), " ".join(X))
    options = {"missing_values": "raise", "drop_original": True, "new_variables_names": ["a", "b"]}
    make = partial(across, variables=["x1", "x2"], func=["mean", "prod"], **options)
    case("missing raise, named, dropped", make, "x1 x2 temp", (no_gaps,))
    relative = partial(creation.RelativeFeatures, variables=["temp", "x5"], reference=["gust", "x4"])
    for function in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow"):
        exact = function != "pow"
        make, after = partial(relative, func=[function]), () if exact else (no_gaps,)
        case(function, make, "temp x5 gust x4", after=after, exact=exact)
        if function in ("div", "truediv", "floordiv", "mod"):
            options = {"variables": ["temp", "seats"], "reference": ["seats", "rain"], "fill_value": -1.5}
            case(f"{function}, filled", partial(make, **options), "temp seats rain")
    options = {"variables": ["temp"], "reference": ["x4"], "missing_values": "raise", "drop_original": True}
    make = partial(relative, func=["sub", "div", "add"], **options)
    case("several, missing raise, dropped", make, "temp x4 wind", (no_gaps,))
    cycle = partial(creation.CyclicalFeatures, variables=["wind", "temp"])
    case("largest seen", cycle, "temp wind gust", (no_gaps,), exact=False)
    make = partial(cycle, variables=None, max_values={"wind": 24, "temp": 7}, drop_original=True)
    case("max_values, dropped", make, "temp wind seats", exact=False)
    make = partial(RoundedCyclicalFeatures, variables=["wind", "seats"], max_values={"wind": 24, "seats": 200})
    case("9 decimals", make, "wind seats temp")
    make = partial(RoundedCyclicalFeatures, variables=["seats"], decimals=3, drop_original=True)
    case("3 decimals, dropped", make, "seats temp")


def add_transformations() -> None:
    """Add cases with formulas of one column."""
    for base in ("e", "10"):
        case(f"base {base}", partial(transformation.LogTransformer, ["wind"], base), "wind temp", exact=False)
        make = partial(transformation.LogCpTransformer, variables=["temp", "wind"], base=base)
        case(f"base {base}", make, "wind temp", exact=False)
    case("C", partial(transformation.LogCpTransformer, ["rain", "wind"], C=1), "rain wind", exact=False)
    make = partial(transformation.LogCpTransformer, C={"rain": 0.5, "temp": 100})
    case("C by column", make, "rain temp", exact=False)
    for exponent in (0, 0.5, 1, 2, 3, -1, -0.5, 1 / 3):
        exact = exponent in (0, 0.5, 1, 2, -1)
        make, after = partial(transformation.PowerTransformer, ["wind", "temp"], exponent), () if exact else (no_gaps,)
        case(f"{exponent:.3g}", make, "wind temp", after=after, exact=exact)
    make = partial(transformation.ReciprocalTransformer, ["wind"])
    case("", make, "wind temp")
    product = partial(creation.RelativeFeatures, ["wind"], ["temp"], ["mul"], drop_original=True)
    case("and a product", make, "wind temp rain", after=(product,))
    make = partial(transformation.PowerTransformer, ["wind"], -1)
    case("-1 and a product", make, "wind temp rain", after=(product,))
    for learned in (None, 0.0, 1e-20, 1e-9, 1.0, 2.0, -0.7):
        settings = "fitted" if learned is None else f"lambda {learned:g}"
        value = None if learned is None else {"lambda_dict_": {"wind": learned}}
        make = partial(transformation.BoxCoxTransformer, ["wind"])
        case(settings, make, "wind rain", exact=False, learned=value)
        value = None if learned is None else {"lambda_dict_": {"temp": learned, "rain": 2.0 - learned}}
        make = partial(transformation.YeoJohnsonTransformer, ["temp", "rain"])
        case(settings, make, "wind temp rain", exact=False, learned=value)
    case("", partial(scaling.MeanNormalizationScaler, ["wind", "temp"]), "wind temp rain")


def add_bins() -> None:
    """Add cases with bins."""
    columns, spread = "temp seats wind", ["temp", "seats"]
    edges = {"temp": [-20, 0, 5, 30], "seats": [0, 2, 20, 400]}
    for make in (
        partial(discretisation.EqualWidthDiscretiser, spread, 5),
        partial(discretisation.EqualFrequencyDiscretiser, spread, 4),
        partial(discretisation.GeometricWidthDiscretiser, spread, 4),
        partial(discretisation.ArbitraryDiscretiser, edges),
    ):
        case("numbers", make, columns)
        options = {"variables": spread, "unseen": "encode", "missing_values": "ignore"}
        after = (partial(encoding.CountFrequencyEncoder, **options),)
        case("object, encoded", partial(make, return_object=True), columns, after=after)
    make = partial(discretisation.ArbitraryDiscretiser, {"temp": [-200, -5, 0, 5, 200]}, errors="raise")
    case("errors raise", make, "temp wind")


def add_selection() -> None:
    """Add cases that select columns."""
    columns, loose = "temp wind seats rain gust", {"threshold": 0.05}
    case("", partial(selection.DropFeatures, ["temp", "carrier"]), "temp carrier wind gust")
    case("", selection.DropConstantFeatures, "constant temp wind")
    make = partial(selection.DropConstantFeatures, tol=0.6, missing_values="ignore")
    case("tol, missing ignore", make, "constant rain gust temp")
    copied = partial(creation.RelativeFeatures, ["temp"], ["constant"], ["add"])
    case("", selection.DropDuplicateFeatures, "temp constant wind", (copied, copied))
    case("", partial(selection.DropCorrelatedFeatures, **loose), columns)
    for method in ("variance", "missing_values"):
        case(method, partial(selection.SmartCorrelatedSelection, selection_method=method, **loose), columns)
    make = partial(selection.DropHighPSIFeatures, split_col="temp", variables=["wind", "seats", "rain"])
    case("", make, "temp wind seats rain")
    case("", partial(selection.MRMR, max_features=3, regression=False), "temp wind seats rain")
    case("", partial(selection.SelectByInformationValue, bins=2, **loose), "temp x8", (no_gaps,))
    ask = {"estimator": linear_model.Ridge(), "scoring": "r2", "cv": 2}
    for make in (
        partial(selection.ProbeFeatureSelection, random_state=0, **ask),
        partial(selection.RecursiveFeatureAddition, **ask),
        partial(selection.RecursiveFeatureElimination, **ask),
        partial(selection.SelectByShuffling, random_state=0, **ask),
        partial(selection.SelectBySingleFeaturePerformance, **ask),
        partial(selection.SelectByTargetMeanPerformance, scoring="roc_auc", cv=2, bins=2),
    ):
        case("", make, "temp wind x8", (no_gaps,))


def add_scalers() -> None:
    """Add cases with scalers, of some columns and of all."""
    for settings, make in {
        "": preprocessing.StandardScaler,
        "with_mean=False": partial(preprocessing.StandardScaler, with_mean=False),
        "with_std=False": partial(preprocessing.StandardScaler, with_std=False),
        "neither": partial(preprocessing.StandardScaler, with_std=False, with_mean=False),
        "0 to 1": preprocessing.MinMaxScaler,
        "-2 to 3, clipped": partial(preprocessing.MinMaxScaler, feature_range=(-2, 3), clip=True),
        "largest": preprocessing.MaxAbsScaler,
        "robust": preprocessing.RobustScaler,
        "with_centering=False": partial(preprocessing.RobustScaler, with_centering=False, unit_variance=True),
        "with_scaling=False": partial(preprocessing.RobustScaler, with_scaling=False, quantile_range=(10, 90)),
    }.items():
        case(settings, make, "wind temp gust constant")
        name = f"{type(make()).__name__} {settings}".strip()
        case(name, partial(SklearnTransformerWrapper, make(), ["temp", "gust"]), "wind temp gust constant")
    twice = partial(SklearnTransformerWrapper, preprocessing.StandardScaler(), ["temp"])
    case("twice", twice, "temp wind", (twice,))  # the second time the scale is nearly 1
    case("and MinMaxScaler", preprocessing.StandardScaler, "wind temp gust", after=(preprocessing.MinMaxScaler,))


def add_boosting() -> None:
    """Add cases with gradient boosting."""
    small: dict[str, Any] = {"max_iter": 20, "min_samples_leaf": 5, "max_leaf_nodes": 15, "random_state": 0}
    classes = partial(ensemble.HistGradientBoostingClassifier, **small)
    case("two classes", classes, "wind temp gust seats")
    case("three classes", classes, "wind temp gust seats", target="cause")
    case("one tree", partial(classes, max_iter=1), "wind temp gust")
    case("one leaf", partial(classes, min_samples_leaf=1000), "wind temp")
    case("one feature", classes, "gust")
    options = {"max_iter": 50, "l2_regularization": 1.0, "early_stopping": True, "monotonic_cst": [1, 0, -1]}
    case("monotone, stopped early", partial(classes, **options), "wind gust temp")
    numbers = partial(ensemble.HistGradientBoostingRegressor, **small)
    for loss in ("squared_error", "absolute_error", "poisson", "gamma"):
        case(loss, partial(numbers, loss=loss), "wind temp gust", target="minutes")
    case("quantile", partial(numbers, loss="quantile", quantile=0.8), "wind temp gust", target="minutes")
    case("one leaf", partial(numbers, min_samples_leaf=1000), "wind temp", target="minutes")
    classes = partial(ensemble.GradientBoostingClassifier, n_estimators=20, random_state=0)
    for loss in ("log_loss", "exponential"):
        case(loss, partial(classes, loss=loss), "wind temp seats")
    case("three classes", partial(classes, subsample=0.7), "wind temp seats", target="cause")
    case("zero", partial(classes, init="zero"), "wind temp seats")
    case("three classes, zero", partial(classes, init="zero"), "wind temp seats", target="cause")
    case("one leaf", partial(classes, n_estimators=1, min_samples_leaf=1000), "wind temp")
    numbers = partial(ensemble.GradientBoostingRegressor, n_estimators=20, random_state=0)
    for loss in ("squared_error", "huber", "absolute_error", "quantile"):
        case(loss, partial(numbers, loss=loss), "wind temp seats", target="minutes")
    case("zero, one feature", partial(numbers, init="zero"), "wind", target="minutes")


def add_forests() -> None:
    """Add cases with forests."""
    small: dict[str, Any] = {"n_estimators": 15, "max_depth": 6, "random_state": 0}
    for kind in (ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier):
        make = partial(kind, **small)
        case("two classes", make, "wind temp seats")
        case("three classes, missing", make, "wind temp gust x4", target="cause")
        case("missing", partial(make, class_weight="balanced", criterion="entropy"), "wind temp gust")
        case("one tree", partial(kind, n_estimators=1, random_state=0), "wind temp")
        case("one leaf", partial(make, min_samples_leaf=1000), "wind temp")
    for kind in (ensemble.RandomForestRegressor, ensemble.ExtraTreesRegressor):
        make = partial(kind, **small)
        case("", make, "wind temp seats", target="minutes")
        case("missing", make, "wind temp gust", target="minutes")
        make = partial(kind, criterion="absolute_error", n_estimators=3, max_depth=4, random_state=0)
        case("absolute_error, missing", make, "wind temp gust", target="minutes")
        case("monotone", partial(kind, monotonic_cst=[1, -1, 0], **small), "wind temp seats", target="minutes")
        case(
            "one feature, one split",
            partial(kind, n_estimators=2, max_depth=1, random_state=0),
            "wind",
            target="minutes",
        )


def add_xgboost() -> None:
    """Add cases with XGBoost."""
    columns, small = "wind temp gust seats", {"n_estimators": 20, "max_depth": 4, "n_jobs": 1, "random_state": 0}
    classes, numbers = partial(XGBClassifier, **small), partial(XGBRegressor, **small)
    case("two classes", classes, columns)
    case("three classes", classes, columns, target="cause_number")
    case("base_score", partial(classes, base_score=0.3, scale_pos_weight=3.0), columns)
    case("weak, one leaf", partial(classes, reg_lambda=1e30, min_child_weight=1e6), columns)
    case("exact", partial(classes, tree_method="exact", colsample_bytree=0.5, subsample=0.5), columns)
    case("lossguide, parallel", partial(classes, grow_policy="lossguide", num_parallel_tree=3, subsample=0.6), columns)
    options = {"monotone_constraints": (1, 0, 0), "interaction_constraints": [["wind", "gust"], ["temp"]]}
    case("constrained", partial(classes, **options), "wind gust temp")
    case("after a scaler", classes, columns, (preprocessing.StandardScaler,))
    for objective in ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "count:poisson", "reg:gamma"):
        case(objective, partial(numbers, objective=objective), columns, target="minutes")
    make = partial(numbers, objective="reg:quantileerror", quantile_alpha=0.8)
    case("quantile", make, columns, target="minutes")
    case("squaredlogerror", partial(numbers, objective="reg:squaredlogerror"), columns, target="minutes")
    case("tweedie", partial(numbers, objective="reg:tweedie"), columns, target="minutes")
    case("reg:logistic", partial(numbers, objective="reg:logistic"), "gust x4")


def add_lightgbm() -> None:
    """Add cases with LightGBM."""
    columns = "wind temp gust seats"
    small: dict[str, Any] = {"n_estimators": 20, "min_child_samples": 5, "num_leaves": 15, "n_jobs": 1}
    small |= {"random_state": 0, "verbose": -1}
    classes, numbers = partial(LGBMClassifier, **small), partial(LGBMRegressor, **small)
    case("two classes", classes, columns)
    case("three classes", classes, columns, target="cause")
    case("one against all", partial(classes, objective="multiclassova"), columns, target="cause")
    case("sigmoid, unbalanced", partial(classes, sigmoid=0.7, is_unbalance=True), columns)
    case("cross_entropy", partial(classes, objective="cross_entropy"), columns)
    case("one leaf", partial(classes, min_child_samples=1000), columns)
    case("one leaf, three classes", partial(classes, min_child_samples=1000), columns, target="cause")
    case("zero_as_missing", partial(classes, zero_as_missing=True), "gust seats rain temp")
    case("use_missing=False", partial(classes, use_missing=False), "gust seats rain temp")
    case("complete", classes, "wind temp seats rain")
    case("no initial prediction", partial(classes, boost_from_average=False), columns)
    case("dart", partial(classes, boosting_type="dart", subsample=0.5, subsample_freq=1), columns)
    case("extra_trees, path_smooth", partial(classes, extra_trees=True, path_smooth=1.0), "x1 x2 x3 x8 x9")
    case("after a scaler", classes, columns, (preprocessing.StandardScaler,))
    for objective in (
        "regression",
        "regression_l1",
        "huber",
        "fair",
        "quantile",
        "mape",
        "poisson",
        "gamma",
        "tweedie",
    ):
        case(objective, partial(numbers, objective=objective), columns, target="minutes")
    case("missing zeros", partial(numbers, zero_as_missing=True), "gust seats rain", target="minutes")


def add_linear() -> None:
    """Add cases with linear models."""
    scaled = (preprocessing.StandardScaler,)
    for solver, target in itertools.product(("lbfgs", "newton-cholesky", "newton-cg"), ("late", "cause")):
        make = partial(linear_model.LogisticRegression, solver=solver)
        case(f"{solver}, {target}", make, "wind temp seats", scaled, target=target, exact=False)
    case("liblinear", partial(make, solver="liblinear"), "wind temp seats", scaled, exact=False)
    case("no intercept", partial(make, fit_intercept=False), "wind", exact=False)
    for kind in (linear_model.Ridge, linear_model.LinearRegression, linear_model.ElasticNet, linear_model.Lasso):
        options = {"target": "minutes", "exact": False}
        case("", kind, "wind temp seats", **options)
        case("no intercept", partial(kind, fit_intercept=False), "wind temp seats", **options)
        case("scaled", kind, "wind temp seats rain", (preprocessing.RobustScaler,), **options)
        case("one feature", kind, "temp", **options)
    for kind in (partial(svm.LinearSVR, random_state=0), partial(linear_model.SGDRegressor, random_state=0)):
        case("", kind, "wind temp seats", scaled, target="minutes", exact=False)
        case(
            "one feature, no intercept",
            partial(kind, fit_intercept=False),
            "rain",
            scaled,
            target="minutes",
            exact=False,
        )
    make = partial(linear_model.SGDClassifier, loss="log_loss", random_state=0)
    for target in ("late", "cause"):
        case(target, make, "wind temp seats", scaled, target=target, exact=False)
    case("nine features", linear_model.Ridge, " ".join(X), (no_gaps,), target="minutes", exact=False)


def add_distances() -> None:
    """Add cases with stored rows."""
    columns, scaled, number = "wind temp seats", (preprocessing.StandardScaler,), {"target": "minutes", "exact": False}
    few, tree = {"n_neighbors": 4}, {"weights": "distance", "algorithm": "kd_tree"}
    for kind, target in ((neighbors.KNeighborsClassifier, "late"), (neighbors.KNeighborsRegressor, "minutes")):
        options: dict[str, Any] = {"target": target, "exact": False}
        case("", kind, columns, scaled, **options)
        case("brute", partial(kind, algorithm="brute", **few), "x1 x2 x3", (no_gaps,), **options)
        case("distance", partial(kind, **tree), "x3 x4", (no_gaps,), **options)
        case("ball_tree, distance", partial(kind, **tree | {"algorithm": "ball_tree"}), columns, scaled, **options)
        case("all rows", partial(kind, n_neighbors=400), "wind", **options)
        case("one neighbour", partial(kind, n_neighbors=1), "wind temp", **options)
    case("three classes", neighbors.KNeighborsClassifier, columns, scaled, target="cause", exact=False)
    make = partial(neighbors.KNeighborsClassifier, **tree)
    case("three classes, distance", make, columns, scaled, target="cause", exact=False)
    for kernel in ("rbf", "linear"):
        case(kernel, partial(svm.SVR, kernel=kernel), columns, scaled, **number)
    case("gamma", partial(svm.SVR, gamma=3.0, C=100.0, epsilon=0.01), "x3 x4", (no_gaps, *scaled), **number)
    case("unscaled", svm.SVR, "wind temp", **number)


def add_networks() -> None:
    """Add cases with multi-layer perceptrons."""
    small: dict[str, Any] = {"hidden_layer_sizes": (12, 5), "max_iter": 30, "random_state": 0}
    columns, scaled = "wind temp seats x3", (no_gaps, preprocessing.StandardScaler)
    classes, numbers = (partial(kind, **small) for kind in (neural_network.MLPClassifier, neural_network.MLPRegressor))
    for activation, target in itertools.product(("relu", "tanh", "logistic", "identity"), ("late", "cause")):
        case(
            f"{activation}, {target}",
            partial(classes, activation=activation),
            columns,
            scaled,
            target=target,
            exact=False,
        )
        make = partial(numbers, activation=activation)
        if target == "late":
            case(activation, make, columns, scaled, target="minutes", exact=False)
    case("poisson", partial(numbers, loss="poisson"), columns, scaled, target="minutes", exact=False)
    case("no hidden layer", partial(classes, hidden_layer_sizes=()), columns, scaled, exact=False)


for add in (add_imputers, add_encoders, add_outliers, add_times, add_creation, add_transformations, add_bins):
    add()
for add in (
    add_selection,
    add_scalers,
    add_boosting,
    add_forests,
    add_xgboost,
    add_lightgbm,
    add_linear,
    add_distances,
    add_networks,
):
    add()


@dataclass(frozen=True)
class Fitted:
    """A case, fitted."""

    case: Case
    pipeline: Pipeline
    frame: pd.DataFrame  # the rows that it was fitted on

    @cached_property
    def content(self) -> bytes:
        """The graph of the pipeline."""
        return export(self.pipeline, self.case.inputs)

    @cached_property
    def session(self) -> InferenceSession:
        """A session of the graph."""
        return open_session(self.content)


@cache
def fitted(name: str) -> Fitted:
    """Return a case, fitted on the records."""
    case, frame = CASES[name], records()
    pipeline = Pipeline([(str(place), make()) for place, make in enumerate(case.steps)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.fit(frame[list(case.columns)], frame[case.target])
    for attribute, value in case.learned.items():
        setattr(pipeline.steps[case.place][1], attribute, value)
    return Fitted(case, pipeline, frame[list(case.columns)])


ODD: dict[str, tuple[Any, ...]] = {
    "category": (None, "", "nan", "Zürich-✈", "missing", "UA ", "ua", " ", "0"),
    "number": (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 5e-324, 1e-300, 3.5e38, -3.5e38, 1e16, 1e308, -1e308),
    "datetime": ("NaT", "1938-01-01", "1969-12-31T23:59:59.999999", "2000-02-29", "2065-12-31T23:59:59", "2100-03-01"),
}


def hard_rows(frame: pd.DataFrame, inputs: Mapping[str, str]) -> pd.DataFrame:
    """Return real rows, each with one value replaced by an odd one; an empty text becomes a missing one."""
    complete = frame.dropna()
    swaps = [(name, value) for name, kind in inputs.items() for value in ODD[kind]]
    places = np.random.default_rng(0).integers(0, len(complete), len(swaps))
    rows = {name: complete[name].to_numpy(dtype=object)[places] for name in frame}
    for place, (name, value) in enumerate(swaps):
        rows[name][place] = value or None if inputs[name] == "category" else value
    kinds = {"category": "str", "number": "float64", "datetime": "datetime64[us]"}
    return pd.DataFrame(rows).astype({name: kinds[kind] for name, kind in inputs.items()})


def features_session(pipeline: Pipeline, inputs: Mapping[str, str]) -> InferenceSession:
    """Return a session of the feature steps: margin holds their columns, answer is NaN for a row that is refused."""
    g = new_graph(inputs)
    for name, step in pipeline.steps[:-1]:
        emit(g, step, name)
    columns = g.matrix or stack_columns(g, g.columns)
    width = pipeline.steps[-1][1].n_features_in_
    add_outputs(g, columns, g.op("Cast", g.op("IsNaN", columns), to=TensorProto.DOUBLE), width)
    return open_session(serialize(g, inputs))


def ask_features(
    pipeline: Pipeline,  # fitted
    rows: pd.DataFrame,
) -> np.ndarray[Any, Any] | None:
    """Return the columns that the feature steps make of the rows; None where they refuse one of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(pipeline[:-1].transform(rows), dtype=np.float64)
    except REFUSALS:
        return None


def largest(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """Return the largest difference of two tables, relative to numbers above 1.

    Infinite where one of the two has a number and the other has none.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return float(np.max(np.where(same, 0.0, np.nan_to_num(gap, nan=np.inf)), initial=0.0))


def features_difference(name: str, rows: pd.DataFrame) -> tuple[float, int]:
    """Return the largest difference of a feature between steps and graph, and the number of rows the graph accepts."""
    it = fitted(name)
    asked = features_session(it.pipeline, it.case.inputs)
    found, missing = (part.reshape(len(rows), -1) for part in asked.run(None, feeds(rows, it.case.inputs))[:2])
    answered = ~np.isnan(missing[:, 0])
    expected = ask_features(it.pipeline, rows[answered])
    return np.inf if expected is None else largest(expected, found[answered]), int(answered.sum())


def margin_difference(name: str, rows: pd.DataFrame) -> tuple[float, int]:
    """Return the largest difference of a margin between pipeline and graph, and how many rows the graph accepts.

    Rows of which either margin is right, since their nearest neighbours are chance, are left out.
    """
    it = fitted(name)
    found = graph_scores(it.session, rows, it.case.inputs)[0].reshape(len(rows), -1)
    answered = ~np.isnan(found[:, 0])
    expected, _, size = (part.reshape(answered.sum(), -1) for part in scores_with_size(it.pipeline, rows[answered]))
    return largest(np.where(np.isinf(size), found[answered], expected), found[answered]), int(answered.sum())
