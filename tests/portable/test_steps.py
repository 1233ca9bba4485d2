"""Each feature step against its graph: the same columns, on real records and on damaged ones."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from feature_engine import creation, discretisation, encoding, imputation, selection
from feature_engine import datetime as dates
from feature_engine.wrappers import SklearnTransformerWrapper
from onnx import numpy_helper
from sklearn import preprocessing
from sklearn.pipeline import Pipeline

from mlops_pkg.portable.export import (
    CLOSED_FORM,
    agreement,
    export,
    fuzz_records,
    graph_scores,
    supported,
)
from mlops_pkg.portable.graph import UnsupportedError, open_session
from mlops_pkg.portable.margins import pipeline_scores
from tests.portable.cases import CASES, KINDS, features_difference, features_session, fitted, last_step, records

STEPS = [name for name, case in CASES.items() if not case.is_estimator]


def fit(steps: list[Any], frame: pd.DataFrame, target: Any) -> Pipeline:
    """Return steps and an estimator, fitted without warnings."""
    made = [*steps, last_step("late", exact=True)()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Pipeline([(type(step).__name__, step) for step in made]).fit(frame, target)


def test_every_supported_type_has_a_case() -> None:
    covered = {case.kind for case in CASES.values()}

    assert not set(supported()) - covered, "add a case to tests/portable/cases.py"
    assert not covered - set(supported()), "there is a case for a type that is not supported"


@pytest.mark.parametrize("name", STEPS)
def test_a_step_and_its_graph_give_the_same_columns(name: str) -> None:
    it = fitted(name)

    largest, answered = features_difference(name, it.frame)
    damaged, _ = features_difference(name, fuzz_records(it.frame, it.case.inputs, 600, seed=1))

    allowed = 0.0 if it.case.exact else CLOSED_FORM
    assert answered == len(it.frame), "the graph refuses rows that the pipeline was fitted on"
    assert largest <= allowed, f"on the records that it was fitted on a feature differs by {largest:.3g}"
    assert damaged <= allowed, f"on damaged records a feature differs by {damaged:.3g}"


@pytest.mark.parametrize(
    "name",
    [
        "PowerTransformer 0.5",
        "PowerTransformer -1",
        "PowerTransformer 2",
        "ReciprocalTransformer",
    ],
)
def test_roots_squares_and_reciprocals_are_equal_on_a_hundred_thousand_numbers(name: str) -> None:
    drawn = np.random.default_rng(0).lognormal(0.0, 8.0, (100_000, 2))

    largest, answered = features_difference(name, pd.DataFrame(drawn, columns=["wind", "temp"]))

    assert answered == 100_000
    assert largest == 0.0


def test_the_calendar_is_right_on_every_day_of_five_centuries() -> None:
    days = np.arange("1700-01-01", "2200-01-01", dtype="datetime64[D]").astype("datetime64[us]")
    frame = pd.DataFrame({"at": days + np.arange(len(days)) * np.timedelta64(7919, "s") % np.timedelta64(1, "D")})
    step = dates.DatetimeFeatures(["at"], "all")
    pipeline = fit([step], frame[::50], np.arange(len(frame[::50])) % 2)

    expected = step.transform(frame).to_numpy(dtype=np.float64)
    session = features_session(pipeline, {"at": "datetime"})
    found = session.run(["margin"], {"at": frame["at"].to_numpy().astype(np.int64)})[0]

    wrong = np.flatnonzero((found != expected).any(axis=1))
    assert len(frame) > 182_000
    assert not len(wrong), f"wrong on {len(wrong)} days, first on {frame['at'].iloc[wrong[0]]}"


def test_a_missing_text_an_empty_one_and_a_missing_one_again_are_the_same() -> None:
    it = fitted("OrdinalEncoder ordered, unseen encode, missing ignore")
    rows = it.frame.iloc[:3].assign(origin=pd.Series([None, "", "JFK"], dtype=object))

    margin, _ = graph_scores(it.session, rows, it.case.inputs)

    same = it.frame.iloc[:3].assign(origin=pd.Series([None, None, "JFK"], dtype="str"))
    assert np.array_equal(margin, pipeline_scores(it.pipeline, same)[0])


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_pandas_adds_up_seven_columns_in_one_order_and_eight_in_two(kind: str) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 8)), columns=list("abcdefgh"))

    changed = {}
    for count in (7, 8):
        step = creation.MathFeatures(list(frame.columns[:count]), kind).fit(frame)
        batch = step.transform(frame).iloc[:, -1]
        alone = pd.concat([step.transform(frame.iloc[[row]]).iloc[:, -1] for row in range(len(frame))])
        changed[count] = int((batch != alone).sum())

    assert changed[7] == 0, "seven columns depend on the batch too: lower IN_ORDER"
    assert changed[8] > 0, "eight columns no longer depend on the batch: raise IN_ORDER"


# What no graph can express.

WIDE = [f"w{place}" for place in range(8)]
UNSUPPORTED: dict[str, tuple[Callable[[], list[Any]], str, str]] = {
    "a transformer": (
        lambda: [imputation.RandomSampleImputer(random_state=0, variables=["gust"])],
        "temp gust",
        r"step 'RandomSampleImputer' \(feature_engine.RandomSampleImputer\): not supported; of feature_engine: "
        r"AddMissingIndicator, .*YeoJohnsonTransformer",
    ),
    "a scaler": (
        lambda: [preprocessing.QuantileTransformer(n_quantiles=5)],
        "temp",
        r"step 'QuantileTransformer' \(sklearn.QuantileTransformer\): not supported; of sklearn: .*StandardScaler",
    ),
    "what is wrapped": (
        lambda: [SklearnTransformerWrapper(preprocessing.PowerTransformer(), ["temp"])],
        "temp",
        r"step 'SklearnTransformerWrapper' .*: it wraps PowerTransformer: one of StandardScaler, .* is needed",
    ),
    "names of intervals": (
        lambda: [discretisation.EqualWidthDiscretiser(["temp"], return_boundaries=True), encoding.OrdinalEncoder()],
        "temp",
        r"step 'EqualWidthDiscretiser' .*: return_boundaries=True: .*; use bin numbers",
    ),
    "a median": (
        lambda: [creation.MathFeatures(["temp", "wind"], "median")],
        "temp wind",
        r"step 'MathFeatures' .*: func='median': one of sum, prod, min, max, mean, var, std is needed",
    ),
    "a function": (
        lambda: [creation.MathFeatures(["temp", "wind"], ["sum", np.ptp])],
        "temp wind",
        r"step 'MathFeatures' .*: func=<function ptp.*: one of sum, prod",
    ),
    "eight columns to add": (
        lambda: [creation.MathFeatures(WIDE, ["max", "mean"])],
        " ".join(WIDE),
        r"step 'MathFeatures' .*: func='mean' of 8 columns: pandas adds up more than 7 in an order that depends",
    ),
    "rare numbers": (
        lambda: [
            encoding.RareLabelEncoder(n_categories=2, variables=["seats"], ignore_format=True),
            encoding.OrdinalEncoder(variables=["seats"]),
        ],
        "seats temp",
        r"step 'RareLabelEncoder' .*: column 'seats' holds numbers; only text can be grouped",
    ),
    "text for numbers": (
        lambda: [
            imputation.CategoricalImputer(variables=["gust"], ignore_format=True),
            encoding.OrdinalEncoder(encoding_method="arbitrary", variables=["gust"], ignore_format=True),
        ],
        "gust temp",
        r"step 'CategoricalImputer' .*: column 'gust' holds number, and 'Missing' is text",
    ),
    "times as text": (
        lambda: [dates.DatetimeFeatures(["day"])],
        "day temp",
        r"step 'DatetimeFeatures' .*: column 'day' holds text, and a time is needed",
    ),
    "a difference of times as text": (
        lambda: [dates.DatetimeSubtraction(["at"], ["day"], drop_original=True)],
        "at day temp",
        r"step 'DatetimeSubtraction' .*: column 'day' holds text, and a time is needed",
    ),
    "the empty text as a category": (
        lambda: [encoding.OrdinalEncoder(variables=["gaps"], encoding_method="arbitrary")],
        "gaps temp",
        r"step 'OrdinalEncoder' .*: column 'gaps': it has learned the empty string; make it missing before the fit",
    ),
    "the empty text as a column": (
        lambda: [encoding.OneHotEncoder(variables=["gaps"])],
        "gaps temp",
        r"step 'OneHotEncoder' .*: column 'gaps': it has learned the empty string; make it missing before the fit",
    ),
    "a feature step after a scaler of all": (
        lambda: [preprocessing.StandardScaler(), selection.DropFeatures(["x0"])],
        "temp wind",
        r"step 'DropFeatures' .*: the columns have no names after a scaler of all; wrap the scaler",
    ),
    "a named feature step after a scaler of all": (
        lambda: [preprocessing.StandardScaler().set_output(transform="pandas"), selection.DropFeatures(["temp"])],
        "temp wind",
        r"step 'DropFeatures' .*: the columns have no names after a scaler of all; wrap the scaler",
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_no_graph_can_express_is_refused_in_one_line(what: str) -> None:
    make, columns, message = UNSUPPORTED[what]
    frame = records().assign(day=records()["at"].dt.strftime("%Y-%m-%d"), gaps=records()["origin"].replace("JFK", ""))
    frame[WIDE] = np.random.default_rng(0).normal(size=(len(frame), 8))
    names = columns.split()
    pipeline = fit(make(), frame[names], records()["late"])
    kinds = KINDS | dict.fromkeys(WIDE, "number") | {"day": "category", "gaps": "category"}

    with pytest.raises(UnsupportedError, match=f"^{message}") as refusal:
        export(pipeline, {name: kinds[name] for name in names})

    assert len(str(refusal.value).splitlines()) == 1


# Would a wrong graph be noticed?


def tampered(name: str, change: Callable[[onnx.NodeProto], None], operator: str) -> Any:
    """Return the agreement of a case with its graph after a change to the first node of a kind."""
    it = fitted(name)
    made = onnx.load_from_string(it.content)
    change(next(node for node in made.graph.node if node.op_type == operator))
    session = open_session(made.SerializeToString())
    rows = fuzz_records(it.frame, it.case.inputs, 1000, seed=1)
    return agreement(it.pipeline, session, rows, it.case.inputs)


def table(node: onnx.NodeProto, part: str) -> onnx.AttributeProto:
    """Return one of the tables of a LabelEncoder."""
    return next(attribute for attribute in node.attribute if attribute.name == f"{part}_tensor")


def off_by_one(node: onnx.NodeProto) -> None:
    """Give each category the value of the next."""
    values = table(node, "values")
    values.t.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(values.t), 1), "values"))


def other_default(node: onnx.NodeProto) -> None:
    """Change what an unseen category gets."""
    default = table(node, "default")
    default.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(default.t) + 150.0, "default"))


@pytest.mark.parametrize("change", [off_by_one, other_default])
@pytest.mark.parametrize(
    "name",
    [
        "OrdinalEncoder ordered, unseen encode",
        "MeanEncoder smoothed, unseen encode",
        "CountFrequencyEncoder count, unseen encode",
        "DecisionTreeEncoder classes, precision, encode",
    ],
)
def test_a_wrong_category_is_noticed(name: str, change: Callable[[onnx.NodeProto], None]) -> None:
    found = tampered(name, change, "LabelEncoder")

    assert found.differing > 10, f"{change.__name__} goes unnoticed in {name}: {found}"


@pytest.mark.parametrize("name", ["MeanMedianImputer median", "EndTailImputer iqr left"])
def test_a_value_and_its_replacement_exchanged_are_noticed(name: str) -> None:
    def swap(node: onnx.NodeProto) -> None:
        node.input[1], node.input[2] = node.input[2], node.input[1]

    assert tampered(name, swap, "Where").differing > 100


def test_a_graph_that_answers_what_the_pipeline_refuses_is_noticed() -> None:
    it = fitted("OrdinalEncoder ordered, unseen raise")
    made = onnx.load_from_string(it.content)
    refusals = [node for node in made.graph.node if "margin" in node.output and node.op_type == "Where"]
    for node in refusals:
        node.op_type = "Identity"
        node.input[:] = [node.input[1]]

    found = agreement(
        it.pipeline,
        open_session(made.SerializeToString()),
        fuzz_records(it.frame, it.case.inputs, 500, seed=1),
        it.case.inputs,
    )

    assert len(refusals) == 1
    assert found.differing > 10, f"{found}"
