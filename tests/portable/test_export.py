"""Whole pipelines: the graph answers as the pipeline, refuses what it refuses, and is the same bytes every time."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
from sklearn import ensemble, linear_model, preprocessing
from sklearn.pipeline import Pipeline

from mlops_pkg.core.params import load_params
from mlops_pkg.portable.export import (
    FIRST,
    LAST,
    STRANGE_TEXT,
    Agreement,
    agreement,
    compare,
    export,
    feeds,
    fuzz_records,
    graph_scores,
    make_threshold_rows,
    supported,
    threshold_agreement,
    thresholds,
    tolerance,
)
from mlops_pkg.portable.graph import NO_TIME, UnsupportedError, open_session
from mlops_pkg.portable.margins import pipeline_scores
from mlops_pkg.portable.persistence import dump_model, load_model
from tests.conftest import ROOT
from tests.portable.cases import CASES, KINDS, fitted, hard_rows, records

ONE_EACH = {case.kind: name for name, case in reversed(CASES.items())}  # the first case of every type


# The pipeline and its graph.


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.is_estimator])
def test_a_pipeline_and_its_graph_agree_on_real_damaged_and_threshold_rows(name: str) -> None:
    it = fitted(name)

    rows = pd.concat([it.frame, fuzz_records(it.frame, it.case.inputs, 600, seed=1)], ignore_index=True)
    found = agreement(it.pipeline, it.session, rows, it.case.inputs, alone=20)
    edges = threshold_agreement(it.pipeline, it.frame, seed=2, limit=60)

    assert found.refused < 400, "nearly everything is refused, so this shows little"
    assert found.ok, f"{found}, first {rows.iloc[found.first or 0].to_dict()}"
    assert edges.ok, f"on thresholds {edges}"


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_refused_by_the_graph_exactly_where_the_pipeline_raises(name: str) -> None:
    it = fitted(name)
    rows = hard_rows(it.frame, it.case.inputs)

    found = agreement(it.pipeline, it.session, rows, it.case.inputs, len(rows))

    assert len(rows) >= 13
    assert found.ok, f"{found}, first {rows.iloc[found.first or 0].to_dict()}"


def test_most_kinds_of_refusal_are_met() -> None:
    refusing = 0
    for name in ONE_EACH.values():
        it = fitted(name)
        found = graph_scores(it.session, hard_rows(it.frame, it.case.inputs), it.case.inputs)[0]
        refusing += bool(np.isnan(found).any())

    assert refusing > len(ONE_EACH) / 2, "the hard rows are not hard enough"


# The same bytes.


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_the_same_pipeline_is_the_same_bytes(name: str) -> None:
    it = fitted(name)

    assert export(it.pipeline, it.case.inputs) == export(it.pipeline, it.case.inputs)


CANNOT_BE_SAVED = {"feature_engine.ProbeFeatureSelection", "feature_engine.RecursiveFeatureAddition"}
CANNOT_BE_SAVED |= {"feature_engine.RecursiveFeatureElimination"}  # they keep what cross-validated them


@pytest.mark.parametrize("name", [name for kind, name in ONE_EACH.items() if kind not in CANNOT_BE_SAVED])
def test_a_model_that_was_saved_and_loaded_is_the_same_bytes(name: str) -> None:
    it = fitted(name)
    saved = dump_model(it.pipeline)
    try:
        loaded = load_model(saved)
    except (
        skops.io.exceptions.UntrustedTypesFoundException
    ):  # what the package does not trust, a graph may still be made of
        loaded = skops.io.loads(saved, trusted=skops.io.get_untrusted_types(data=saved))

    assert export(loaded, it.case.inputs) == export(it.pipeline, it.case.inputs)


PRINT_DIGESTS = """
import hashlib, sys
from pathlib import Path
from mlops_pkg.core.params import load_params
from mlops_pkg.portable.export import export
from mlops_pkg.portable.persistence import load_model
from tests.portable.cases import fitted

root, *names = sys.argv[1:]
inputs = load_params(Path(root) / "params.yaml").data.kinds
print(hashlib.sha256(export(load_model(Path(root) / "artifacts/train/model.skops"), inputs)).hexdigest())
for name in names:
    it = fitted(name)
    print(hashlib.sha256(export(it.pipeline, it.case.inputs)).hexdigest())
"""


@pytest.mark.parametrize(("threads", "seed"), [(1, "0"), (4, "123")])
def test_threads_and_hash_seeds_do_not_change_a_byte(built: Path, threads: int, seed: str) -> None:
    names = [ONE_EACH[f"feature_engine.{kind}"] for kind in ("OneHotEncoder", "RareLabelEncoder", "MathFeatures")]
    names += [ONE_EACH["feature_engine.DropDuplicateFeatures"], ONE_EACH["sklearn.RandomForestClassifier"]]
    threading = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)]).lstrip(os.pathsep)

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRINT_DIGESTS, str(built), *names],
        cwd=ROOT,
        env=os.environ | threading | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    here = [hashlib.sha256(export(load_model(built / "artifacts/train/model.skops"), inputs_of(built))).hexdigest()]
    here += [hashlib.sha256(export(fitted(name).pipeline, CASES[name].inputs)).hexdigest() for name in names]
    assert done.stdout.split() == here, done.stderr[-500:]


# The real pipeline.


def inputs_of(root: Path) -> dict[str, str]:
    """Return the columns of a record."""
    return load_params(root / "params.yaml").data.kinds


@pytest.fixture(scope="session")
def real(built: Path) -> dict[str, Pipeline]:
    """Return the project's own pipeline, and forests after the same feature steps, fitted on real flights."""
    boosting = load_model(built / "artifacts" / "train" / "model.skops")
    features = pd.read_parquet(built / "artifacts" / "features" / "train.parquet")
    X = features[list(boosting[-1].feature_names_in_)]
    small: dict[str, Any] = {"n_estimators": 20, "max_depth": 10, "random_state": 0}
    forests = {
        "random forest": ensemble.RandomForestClassifier(**small).fit(X, features["late"]),
        "extra trees": ensemble.ExtraTreesRegressor(**small).fit(X, features["sched_minutes"]),
    }
    made = {name: Pipeline([*boosting.steps[:-1], ("model", forest)]) for name, forest in forests.items()}
    return {"boosting": boosting, **made}


@pytest.mark.parametrize("name", ["boosting", "random forest", "extra trees"])
def test_no_margin_differs_in_twenty_thousand_damaged_and_threshold_rows(
    built: Path, real: dict[str, Pipeline], name: str
) -> None:
    pipeline, inputs = real[name], inputs_of(built)
    flights = pd.read_parquet(built / "artifacts" / "ingest" / "test.parquet")[list(inputs)]

    edges = threshold_agreement(pipeline, flights, seed=3, limit=3334)
    rows = pd.concat([flights, fuzz_records(flights, inputs, 20_000 - edges.rows, seed=4)], ignore_index=True)
    found = agreement(pipeline, open_session(export(pipeline, inputs)), rows, inputs)

    assert edges.rows > 500
    assert (edges.differing, found.differing) == (0, 0), f"on thresholds {edges}; {found}"
    assert found.rows - found.refused > 7000, "most rows are refused, so this shows little"


# What is refused, in one line.


def make_pipeline(*steps: Any) -> Pipeline:
    """Return steps, fitted on two numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Pipeline([(f"{place}", step) for place, step in enumerate(steps)]).fit(
            records()[["wind", "temp"]], records()["late"]
        )


TWO = {"wind": "number", "temp": "number"}


LIBRARIES = {"feature_engine", "lightgbm", "mlops_pkg", "sklearn", "xgboost"}


def test_every_supported_name_is_a_library_and_a_class() -> None:
    assert supported() == sorted(supported())
    assert {name.partition(".")[0] for name in supported()} == LIBRARIES


@pytest.mark.parametrize("last", [preprocessing.StandardScaler(), "passthrough", None])
def test_a_pipeline_must_end_in_an_estimator(last: Any) -> None:
    pipeline = make_pipeline(preprocessing.MinMaxScaler(), last)

    with pytest.raises(UnsupportedError, match=r"^step '1': the last step must be an estimator$"):
        export(pipeline, TWO)


def test_a_step_that_passes_everything_through_is_left_out() -> None:
    pipeline, plain = make_pipeline("passthrough", None, linear_model.Ridge()), make_pipeline(linear_model.Ridge())

    assert export(pipeline, TWO) == export(plain, TWO)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"wind": "number"}, r"step '0' \(sklearn.Ridge\): fitted on other columns .*: temp"),
        ({**TWO, "rain": "number"}, r"step '0' \(sklearn.Ridge\): fitted on other columns .*: rain"),
        ({"wind": "number", "temp": "category"}, r"step '0' \(sklearn.Ridge\): column 'temp' holds text, and a number"),
        ({"wind": "number", "temp": "datetime"}, r"step '0' \(sklearn.Ridge\): column 'temp' holds time, and a number"),
    ],
)
def test_other_columns_than_those_of_the_fit_are_refused(inputs: dict[str, str], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{message}"):
        export(make_pipeline(linear_model.Ridge()), inputs)


@pytest.mark.parametrize("name", ["margin", "answer", "Concat:0", "constant:0", "価格 (EUR)", "a[0]", '"', "self"])
def test_a_column_may_have_any_name(name: str) -> None:
    frame, inputs = records()[["wind", "temp"]].rename(columns={"wind": name}), {name: "number", "temp": "number"}
    pipeline = Pipeline([("model", linear_model.Ridge())]).fit(frame, records()["late"])

    found = agreement(pipeline, open_session(export(pipeline, inputs)), frame, inputs)

    assert found.ok, found


def test_the_order_in_which_the_columns_are_declared_does_not_matter() -> None:
    pipeline = make_pipeline(linear_model.Ridge())
    turned = dict(reversed(TWO.items()))

    margins = [graph_scores(open_session(export(pipeline, inputs)), records(), inputs)[0] for inputs in (TWO, turned)]

    assert np.array_equal(*margins)


# What goes in and what comes out.


def test_a_frame_becomes_an_array_a_column() -> None:
    frame = pd.DataFrame(
        {
            "carrier": pd.Series(["UA", None, "Þ9"], dtype="str"),
            "wind": [1, 2, 3],
            "at": np.array(["1970-01-01T00:00:01", "NaT", "1969-12-31T23:59:59"], "datetime64[ns]"),
        }
    )

    made = feeds(frame, {"carrier": "category", "wind": "number", "at": "datetime"})

    assert made["carrier"].tolist() == ["UA", "", "Þ9"]
    assert made["wind"].tolist() == [1.0, 2.0, 3.0]
    assert made["at"].tolist() == [1_000_000, NO_TIME, -1_000_000]
    assert [made[name].dtype.kind for name in made] == ["O", "f", "i"]


@pytest.mark.parametrize("rows", [1, 7, 400, 8192])
def test_the_size_of_the_parts_does_not_change_an_answer(rows: int) -> None:
    it = fitted("HistGradientBoostingClassifier three classes")

    margin, answer = graph_scores(it.session, it.frame, it.case.inputs, rows)

    whole = graph_scores(it.session, it.frame, it.case.inputs)
    assert np.array_equal(margin, whole[0])
    assert np.array_equal(answer, whole[1])


def test_rows_that_the_pipeline_refuses_stand_alone() -> None:
    it = fitted("Ridge")
    rows = it.frame.iloc[:9].copy()
    rows.iloc[[0, 4, 8], 0] = [np.nan, np.inf, -np.inf]

    margin, answer = pipeline_scores(it.pipeline, rows)

    assert np.flatnonzero(np.isnan(margin)).tolist() == np.flatnonzero(np.isnan(answer)).tolist() == [0, 4, 8]
    kept = ~np.isnan(margin)
    expected = it.pipeline.predict(it.frame.iloc[:9])[
        kept
    ]  # nine rows at once: another kernel of BLAS, another last bit
    assert compare(expected, margin[kept], tolerance(it.pipeline)).differing == 0


def test_a_pipeline_that_refuses_every_row_answers_nothing() -> None:
    it = fitted("Ridge")

    margin, _ = pipeline_scores(it.pipeline, it.frame.iloc[:5].assign(wind=np.nan))

    assert np.isnan(margin).all()
    assert margin.shape == (5,)


@pytest.mark.filterwarnings("error:overflow encountered in multiply")
def test_an_answer_that_is_too_large_to_be_rounded_warns_nobody() -> None:
    it = fitted("Ridge one feature")

    _, answer = pipeline_scores(it.pipeline, it.frame.iloc[:1].assign(temp=-1e308))

    assert np.isinf(answer).all()


# The comparison.

nan = np.nan


@pytest.mark.parametrize(
    ("expected", "found", "allowed", "differing"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0),
        ([1.0, 2.0], [1.0, np.nextafter(2.0, 3.0)], 0.0, 1),
        ([1.0, 2.0], [1.0, np.nextafter(2.0, 3.0)], 1e-12, 0),
        ([1e9, 1e-9], [1e9 + 1e-4, 1e-9], 1e-12, 0),
        ([1e9, 1e-9], [1e9 + 1e-2, 1e-9], 1e-12, 1),
        ([1e-9, 0.0], [1e-9 + 2e-12, 0.0], 1e-12, 1),
        ([nan, 1.0], [nan, 1.0], 0.0, 0),
        ([nan, 1.0], [0.0, 1.0], 1e-12, 1),
        ([nan, 1.0], [nan, nan], 1e-12, 1),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0.0, 0),
        ([np.inf, -np.inf], [-np.inf, -1e308], 1e-12, 2),
        ([0.0], [-0.0], 0.0, 0),
    ],
)
def test_margins_differ_where_they_are_further_apart_than_is_allowed(
    expected: list[float], found: list[float], allowed: float, differing: int
) -> None:
    assert compare(np.array(expected), np.array(found), allowed).differing == differing


def test_one_class_that_differs_makes_the_row_differ() -> None:
    expected = np.arange(12.0).reshape(4, 3)
    found = expected.copy()
    found[2, 1] += 0.25

    assert compare(expected, found, 0.0) == Agreement(rows=4, refused=0, differing=1, largest=0.25, first=2)


def test_an_agreement_says_how_many_rows_differ() -> None:
    assert str(Agreement(20_000, 5, 1200, 0.0625, 7)) == "1,200 of 20,000 rows differ, by 0.0625 at most"
    assert Agreement(3, 3, 0, 0.0, None).ok


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_trees_must_be_equal_and_lines_need_only_be_close(name: str) -> None:
    last = type(fitted(name).pipeline.steps[-1][1]).__name__
    trees = any(word in last for word in ("Boosting", "Forest", "Trees", "XGB", "LGBM"))

    assert tolerance(fitted(name).pipeline) == (0.0 if trees else 1e-12)


def test_the_first_row_that_differs_is_numbered_among_all_rows() -> None:
    it = fitted("ArbitraryDiscretiser errors raise")
    made = onnx.load_from_string(it.content)
    answers = next(node for node in made.graph.node if "margin" in node.output)
    answers.input[1] = answers.input[2]  # refuses everything
    rows = it.frame.iloc[:30].copy()
    rows.iloc[:3, 0] = 1e9  # which the pipeline refuses too

    found = agreement(it.pipeline, open_session(made.SerializeToString()), rows, it.case.inputs)

    assert (found.rows, found.refused, found.differing, found.first) == (30, 3, 27, 3)


def test_of_many_refused_rows_only_some_are_asked_again() -> None:
    it = fitted("Ridge")
    rows = it.frame.assign(wind=np.nan)

    found = agreement(it.pipeline, it.session, rows, it.case.inputs, alone=7)

    assert (found.rows, found.refused, found.differing) == (7, 7, 0)


# Hard rows.


def test_damaged_records_are_damaged_in_every_way() -> None:
    frame, inputs = records()[list(KINDS)], dict(KINDS)

    rows = fuzz_records(frame, inputs, 5000, seed=0)

    assert list(rows.columns) == list(inputs)
    assert set(STRANGE_TEXT) < set(rows["carrier"].dropna())
    assert 0.05 < rows["origin"].isna().mean() < 0.15
    temp = rows["temp"].to_numpy()
    assert np.isnan(temp).any()
    assert {np.inf, -np.inf, 0.0, 1e308} <= set(temp)
    assert (np.abs(temp) > 1e6).any()
    assert ((np.abs(temp) < 1e-6) & (temp != 0)).any()
    microseconds = rows["at"].dropna().to_numpy().astype("datetime64[us]").astype(np.int64)
    assert rows["at"].isna().any()
    assert FIRST <= microseconds.min() < FIRST + 10**15
    assert LAST - 10**15 < microseconds.max() < LAST


def test_damaged_records_are_the_same_for_the_same_seed_and_leave_the_real_ones_alone() -> None:
    frame = records()[list(KINDS)]
    before = frame.copy()

    first, second, other = (fuzz_records(frame, KINDS, 100, seed) for seed in (0, 0, 1))

    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(other)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    "name",
    ["HistGradientBoostingClassifier three classes", "GradientBoostingClassifier three classes", "ExtraTreesRegressor"],
)
def test_every_split_of_every_tree_has_its_threshold(name: str) -> None:
    estimator = fitted(name).pipeline[-1]

    found = thresholds(estimator)

    if hasattr(estimator, "_predictors"):
        splits = sum(int((tree.nodes["is_leaf"] == 0).sum()) for trees in estimator._predictors for tree in trees)
    else:
        splits = sum(int((tree.tree_.children_left >= 0).sum()) for tree in np.ravel(estimator.estimators_))
    assert len(found) == splits
    assert {feature for feature, _ in found} <= set(range(estimator.n_features_in_))


def test_the_thresholds_of_xgboost_lie_just_under_those_it_prints() -> None:
    estimator = fitted("XGBClassifier three classes").pipeline[-1]
    nodes = estimator.get_booster().trees_to_dataframe()
    printed = nodes[nodes["Feature"] != "Leaf"]

    found = thresholds(estimator)

    expected = [estimator.feature_names_in_.tolist().index(name) for name in printed["Feature"]]
    assert [feature for feature, _ in found] == expected
    values = np.array([threshold for _, threshold in found], dtype=np.float32)
    assert np.array_equal(np.nextafter(values, np.float32(np.inf)), printed["Split"].to_numpy(dtype=np.float32))


def test_the_thresholds_of_lightgbm_are_those_it_prints() -> None:
    estimator = fitted("LGBMClassifier three classes").pipeline[-1]
    nodes = estimator.booster_.trees_to_dataframe()
    printed = nodes[nodes["split_feature"].notna()]

    found = thresholds(estimator)

    names = estimator.feature_names_in_
    assert sorted((names[feature], threshold) for feature, threshold in found) == sorted(
        zip(printed["split_feature"], printed["threshold"], strict=True)
    )


def test_a_line_has_no_thresholds() -> None:
    it = fitted("Ridge")

    assert thresholds(it.pipeline[-1]) == []
    assert threshold_agreement(it.pipeline, it.frame, seed=0) == Agreement(0, 0, 0, 0.0, None)


ON_THRESHOLDS = ("HistGradientBoostingRegressor poisson", "LGBMRegressor poisson", "RandomForestClassifier two classes")


@pytest.mark.parametrize("name", [*ON_THRESHOLDS, "XGBClassifier two classes"])
def test_three_rows_lie_on_under_and_over_each_threshold(name: str) -> None:
    it = fitted(name)
    estimator = it.pipeline[-1]
    splits = thresholds(estimator)

    rows = make_threshold_rows(estimator, it.frame, seed=0).to_numpy()

    exact = np.float64 if "Hist" in name or "LGBM" in name else np.float32
    assert len(rows) == 3 * len(splits)
    for place in (0, len(splits) // 2, len(splits) - 1):
        feature, threshold = splits[place]
        on, under, over = rows[3 * place : 3 * place + 3, feature]
        assert on == exact(threshold)
        assert (exact(under), exact(over)) == (
            np.nextafter(exact(threshold), exact(-np.inf)),
            np.nextafter(exact(threshold), exact(np.inf)),
        )
        others = np.delete(rows[3 * place : 3 * place + 3], feature, axis=1)
        assert np.array_equal(others[0], others[1], equal_nan=True)
        assert np.array_equal(others[0], others[2], equal_nan=True)


def test_a_limit_takes_some_of_the_thresholds() -> None:
    it = fitted("HistGradientBoostingRegressor poisson")

    assert len(make_threshold_rows(it.pipeline[-1], it.frame, seed=0, limit=5)) == 15
    first, second = (make_threshold_rows(it.pipeline[-1], it.frame, seed=seed, limit=5) for seed in (0, 1))
    assert not first.equals(second)


def test_thresholds_are_found_behind_a_scaler_of_all_columns() -> None:
    it = fitted("StandardScaler and MinMaxScaler")

    found = threshold_agreement(it.pipeline, it.frame, seed=0)

    assert found.rows > 100
    assert found.ok, f"{found}"
