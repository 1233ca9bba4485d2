"""The evaluation: metrics equal those of scikit-learn, intervals cover as they say, nothing is chosen on test."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from mlops_pkg.core.params import load_params, merge
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table, write_table
from mlops_pkg.modelling import evaluation
from mlops_pkg.modelling import metrics as measures
from mlops_pkg.modelling.models import predict
from mlops_pkg.pipeline.params import Evaluate, Params
from mlops_pkg.portable.persistence import load_model
from tests.conftest import TASK

ROOT = Path(__file__).parents[2]
Weights = np.ndarray[Any, np.dtype[np.float64]]


def load(**overrides: Any) -> Params:
    """Return the project's own params with few resamples."""
    return load_params(ROOT / "params.yaml", merge({**TASK, "evaluate": {"bootstrap": 50}}, overrides))


def make_settings(**values: Any) -> Evaluate:
    """Return the section of params.yaml."""
    return load(evaluate=values).evaluate


def make_case(seed: int) -> tuple[Weights, Weights, Weights]:
    """Return targets, predictions with many ties, and integer weights of which some are 0."""
    generator = np.random.default_rng(seed)
    rows = int(generator.integers(20, 300))
    answer = generator.random(rows).round(int(generator.integers(1, 4)))
    y = (generator.random(rows) < (answer + 0.3) / 2).astype("int64")
    y[:2] = [0, 1]
    weights = generator.integers(0, 4, rows).astype("float64")
    weights[:2] = 1
    return y, answer, weights


def importance(model: Any, frame: pd.DataFrame, params: Params) -> pd.DataFrame:
    return evaluation.importance(model, frame, params, params.evaluate)


def repeated(values: Weights, weights: Weights) -> Weights:
    """Return each value repeated by its weight."""
    return np.repeat(values, weights.astype(int))


# Metrics


@pytest.mark.parametrize("seed", range(20))
def test_ranking_metrics_are_those_of_scikit_learn(seed: int) -> None:
    y, answer, weights = make_case(seed)

    plain, weighted = (measures.ranking_metrics(y, answer)(given) for given in (np.ones(len(y)), weights))

    assert plain[0] == pytest.approx(sk.roc_auc_score(y, answer), abs=1e-12)
    assert plain[1] == pytest.approx(sk.average_precision_score(y, answer), abs=1e-12)
    assert weighted[0] == pytest.approx(sk.roc_auc_score(y, answer, sample_weight=weights), abs=1e-12)
    assert weighted[1] == pytest.approx(sk.average_precision_score(y, answer, sample_weight=weights), abs=1e-12)


@pytest.mark.parametrize("seed", range(20, 30))
def test_every_metric_of_a_classification_is_that_of_scikit_learn(seed: int) -> None:
    y, answer, weights = make_case(seed)
    threshold = float(np.random.default_rng(seed).choice(answer))
    called = (answer >= threshold).astype(int)

    found = measures.weighted_metrics(y, answer, threshold)(weights)

    clipped = np.clip(answer, 1e-15, 1 - 1e-15)
    expected = {
        "roc_auc": sk.roc_auc_score(y, answer, sample_weight=weights),
        "pr_auc": sk.average_precision_score(y, answer, sample_weight=weights),
        "log_loss": sk.log_loss(y, clipped, sample_weight=weights),
        "brier": sk.brier_score_loss(y, answer, sample_weight=weights),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called, sample_weight=weights),
        "precision": sk.precision_score(y, called, sample_weight=weights, zero_division=0),
        "recall": sk.recall_score(y, called, sample_weight=weights),
        "f1": sk.f1_score(y, called, sample_weight=weights),
    }
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_of_a_regression_is_that_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y, answer = generator.normal(size=(2, 100))
    weights = generator.integers(0, 4, 100).astype("float64")

    found = measures.weighted_metrics(y, answer, None)(weights)

    expected = {
        "mae": sk.mean_absolute_error(y, answer, sample_weight=weights),
        "rmse": sk.mean_squared_error(y, answer, sample_weight=weights) ** 0.5,
        "r2": sk.r2_score(y, answer, sample_weight=weights),
        "ae_p50": np.quantile(repeated(abs(answer - y), weights), 0.5, method="inverted_cdf"),
        "ae_p90": np.quantile(repeated(abs(answer - y), weights), 0.9, method="inverted_cdf"),
    }
    assert found == pytest.approx(expected, abs=1e-12)


def make_classes(seed: int, classes: int) -> tuple[Weights, Weights, Weights]:
    """Return targets of some classes, their probabilities of which some are equal, and weights of rows."""
    generator = np.random.default_rng(seed)
    y = np.minimum(generator.integers(0, 2 * classes, 200), classes - 1)  # most rows are of the last class
    answer = generator.dirichlet(np.ones(classes), 200) + np.eye(classes)[y] * generator.integers(0, 2, (200, 1))
    answer = (answer / answer.sum(axis=1, keepdims=True)).round(2) + 1e-3
    return y, answer / answer.sum(axis=1, keepdims=True), generator.integers(1, 4, 200).astype("float64")


@pytest.mark.parametrize("seed", range(30, 36))
@pytest.mark.parametrize("classes", [3, 7])
def test_every_metric_of_more_classes_is_that_of_scikit_learn(seed: int, classes: int) -> None:
    y, answer, weights = make_classes(seed, classes)
    called = answer.argmax(axis=1)

    found = measures.weighted_metrics(y, answer, None)(weights)

    areas = {
        average: sk.roc_auc_score(y, answer, multi_class="ovr", average=average, sample_weight=weights)
        for average in ("macro", "weighted")
    }
    distance = ((np.eye(classes)[y] - answer) ** 2).sum(axis=1)
    expected = {
        "roc_auc": areas["macro"],
        "roc_auc_weighted": areas["weighted"],
        "log_loss": sk.log_loss(y, answer, sample_weight=weights),
        "brier": np.average(distance, weights=weights),
        "accuracy": sk.accuracy_score(y, called, sample_weight=weights),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called, sample_weight=weights),
        "f1": sk.f1_score(y, called, average="macro", sample_weight=weights),
    }
    assert found == pytest.approx(expected, abs=1e-9)
    assert abs(areas["macro"] - areas["weighted"]) > 1e-4, "the case cannot tell one average from the other"


def test_a_class_without_rows_is_left_out_of_the_means() -> None:
    y, answer, _ = make_classes(0, 3)
    answer = np.column_stack([answer, np.full(len(y), 1e-9)])

    found = measures.weighted_metrics(y, answer, None)(np.ones(len(y)))

    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, answer[:, :3], multi_class="ovr"), abs=1e-9)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, answer.argmax(axis=1)))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_table_of_classes_is_that_of_scikit_learn(classes: int) -> None:
    y, answer, _ = make_classes(1, classes)
    prediction, threshold = (answer[:, 1], 0.4) if classes == 2 else (answer, None)
    called = measures.decide(prediction, threshold)

    found = measures.class_table(y, prediction, threshold, list("abc")[:classes], settings=make_settings(), seed=0)

    precision, recall, f1, rows = sk.precision_recall_fscore_support(y, called)
    areas = [sk.roc_auc_score(y == code, answer[:, code]) for code in range(classes)]
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "rows": rows, "roc_auc": areas}.items():
        assert found[name].to_numpy() == pytest.approx(values, abs=1e-6)
    for name in measures.CLASS_METRICS:
        assert (found[f"{name}_low"] <= found[name]).all()
        assert (found[name] <= found[f"{name}_high"]).all()


def test_the_confusion_of_many_classes_lists_the_pairs_that_occur() -> None:
    y = np.arange(measures.ALL_PAIRS + 1)
    labels = [f"class {code}" for code in y]

    found = measures.confusion(y, np.roll(y, 1), labels, make_settings(), seed=0)

    assert found["actual"].tolist() == labels
    assert found["predicted"].tolist() == [labels[-1], *labels[:-1]]
    assert found["rows"].sum() == len(y)


def test_errors_of_a_regression_are_described_by_quantiles_and_a_sample() -> None:
    generator = np.random.default_rng(0)
    y, prediction = generator.normal(size=(2, 3000))

    quantiles = measures.error_quantiles(y, prediction, make_settings(), seed=0)
    sample = measures.residuals(y, prediction, seed=0)

    expected = np.quantile(prediction - y, measures.ERROR_SHARES, method="inverted_cdf")
    assert quantiles["error"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert (quantiles["low"] <= quantiles["high"]).all()
    assert len(sample) == measures.RESIDUALS
    assert sample["predicted"].is_monotonic_increasing
    assert set(sample["error"]) <= set((prediction - y).round(6))


def test_a_weight_counts_like_as_many_rows() -> None:
    y, answer, weights = make_case(0)

    weighted = measures.weighted_metrics(y, answer, 0.5)(weights)

    more, rows = repeated(y, weights), repeated(answer, weights)
    assert weighted == pytest.approx(measures.weighted_metrics(more, rows, 0.5)(np.ones(len(more))), abs=1e-12)


@pytest.mark.parametrize("only", [0, 1])
def test_a_single_class_gives_none_where_a_metric_is_undefined(only: int) -> None:
    y, answer = np.full(40, only), np.linspace(0, 1, 40)

    found = measures.with_intervals(measures.weighted_metrics(y, answer, 0.5), 40, make_settings(), 0)

    assert found["roc_auc"] == found["pr_auc"] == {"value": None, "low": None, "high": None}
    assert (found["recall"]["value"] is None) == (only == 0)
    assert found["brier"]["value"] is not None


def test_a_constant_target_of_a_regression_gives_none() -> None:
    found = measures.with_intervals(measures.weighted_metrics(np.ones(30), np.zeros(30), None), 30, make_settings(), 0)

    assert found["r2"]["value"] is None
    assert found["mae"]["value"] == 1.0


# Intervals


def interval(rows: int, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Return metrics with intervals for so many similar rows."""
    generator = np.random.default_rng(7)
    answer = generator.random(rows)
    y = (generator.random(rows) < answer).astype("int64")
    return measures.with_intervals(measures.weighted_metrics(y, answer, 0.5), rows, make_settings(**settings), seed)


def test_intervals_are_repeated_by_their_seed_alone() -> None:
    assert interval(200) == interval(200)
    assert interval(200, seed=1) != interval(200)


def test_intervals_hold_the_value() -> None:
    for name, figure in interval(300, bootstrap=100).items():
        assert figure["low"] < figure["value"] < figure["high"], f"{name}: {figure}"


def test_more_rows_give_shorter_intervals_and_more_confidence_longer_ones() -> None:
    few, many, sure = (
        {name: figure["high"] - figure["low"] for name, figure in found.items()}
        for found in (interval(200), interval(3200), interval(200, confidence=0.999))
    )

    for name in few:
        assert many[name] < few[name] / 2, f"{name} is no surer with sixteen times the rows"
        assert sure[name] > few[name], f"{name} does not depend on the confidence"


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        y = np.random.default_rng(seed).normal(size=80)
        found = measures.with_intervals(
            measures.weighted_metrics(y, np.zeros(80), None), 80, make_settings(bootstrap=60, confidence=0.9), seed
        )["mae"]
        covered += found["low"] <= np.sqrt(2 / np.pi) <= found["high"]

    assert 78 <= covered <= 98, f"a 90 % interval held the truth {covered} times in 100"


# The threshold


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_has_the_highest_f1_and_is_the_lowest_such(seed: int) -> None:
    y, answer, _ = make_case(seed)

    threshold = measures.choose_threshold(y, answer)

    f1 = {value: sk.f1_score(y, answer >= value) for value in np.unique(answer)}
    best = max(f1.values())
    assert threshold == min(value for value, found in f1.items() if found == pytest.approx(best, abs=1e-12))


def test_of_two_equally_good_thresholds_the_lower_is_taken() -> None:
    y, answer = np.array([1, 0, 0, 1]), np.array([0.9, 0.5, 0.4, 0.1])  # F1 is 2/3 at 0.9 and at 0.1

    assert measures.choose_threshold(y, answer) == 0.1


@pytest.fixture(scope="module")
def other_test_rows(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built project, evaluated on test and live rows with inverted target."""
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("other") / "project"))
    for name in ("test", "live"):
        path = root / "artifacts" / "ingest" / f"{name}.parquet"
        rows = read_table(path)
        write_table(path, rows.assign(late=1 - rows["late"]))
    run_stage("evaluate", Workspace(root))
    return root


def test_the_threshold_is_chosen_on_validation_alone(built: Path, other_test_rows: Path) -> None:
    params = load_params(built / "params.yaml")
    rows = read_table(built / "artifacts" / "ingest" / "validation.parquet")
    model = load_model(built / "artifacts" / "train" / "model.skops")

    expected = measures.choose_threshold(
        rows["late"].to_numpy(), predict(model, rows[list(params.data.columns)], params.task)
    )

    metrics = read_json(built / "artifacts" / "evaluate" / "comparison.json")
    assert metrics["threshold"] == expected
    other = read_json(other_test_rows / "artifacts" / "evaluate" / "comparison.json")
    assert other["threshold"] == expected
    assert other["test"] != metrics["test"]


def test_metrics_on_test_do_not_depend_on_live_rows(built: Path, other_test_rows: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "project"))
    changed = other_test_rows / "artifacts" / "ingest" / "live.parquet"
    shutil.copy(changed, root / "artifacts" / "ingest" / "live.parquet")

    run_stage("evaluate", Workspace(root))

    before = read_json(built / "artifacts" / "evaluate" / "comparison.json")
    after = read_json(root / "artifacts" / "evaluate" / "comparison.json")
    assert after["test"] == before["test"]
    assert after["live"] != before["live"]


# Tables


def make_predictions(rows: int = 1000) -> tuple[Weights, dict[str, Weights]]:
    """Return targets, and the predictions of three models of which one is constant."""
    generator = np.random.default_rng(0)
    answer = generator.random(rows)
    y = (generator.random(rows) < answer).astype("int64")
    return y, {"model": answer, "linear": answer.round(1), "prior": np.full(rows, 0.5)}


def cases(y: Weights, answers: dict[str, Weights]) -> measures.Cases:
    """Return the target beside the predictions of each model."""
    return {name: (y, answer) for name, answer in answers.items()}


def test_curves_run_from_corner_to_corner_in_at_most_200_points() -> None:
    y, answers = make_predictions()

    roc, pr = measures.curves(cases(y, answers))

    for name in answers:
        one = roc[roc["model"] == name].drop(columns="model")
        assert one.iloc[0].tolist() == [0, 0]
        assert one.iloc[-1].tolist() == [1, 1]
        assert one["false_positive_rate"].is_monotonic_increasing
        assert one["true_positive_rate"].is_monotonic_increasing
        two = pr[pr["model"] == name].drop(columns="model")
        assert two.iloc[0].tolist() == [1, round(y.mean(), 6)], "every row is called: recall 1, precision the share"
        assert two.iloc[-1].tolist() == [0, 1]
        assert max(len(one), len(two)) <= 200
    assert len(pr[pr["model"] == "model"]) == 200


def test_a_thinned_curve_keeps_the_area_under_it() -> None:
    y, answers = make_predictions()

    roc, _ = measures.curves(cases(y, answers))

    one = roc[roc["model"] == "model"]
    area = np.trapezoid(one["true_positive_rate"], one["false_positive_rate"])
    assert area == pytest.approx(sk.roc_auc_score(y, answers["model"]), abs=0.002)


@pytest.mark.parametrize("rows", [7, 10, 1003])
def test_calibration_bins_hold_every_row_once(rows: int) -> None:
    y, answers = make_predictions(rows)

    found = measures.calibration(cases(y, answers), make_settings(calibration_bins=10), seed=0)

    for name, part in found.groupby("model"):
        assert part["rows"].sum() == rows
        if name == "model":
            assert part["rows"].max() - part["rows"].min() <= 1, f"{name}: bins of unequal size"
        assert part["predicted"].is_monotonic_increasing
        assert (part["observed"] * part["rows"]).sum() == pytest.approx(y.sum(), abs=1e-3)


def test_equal_predictions_share_a_bin() -> None:
    y, answer = np.arange(100) % 2, np.repeat([0.2, 0.4, 0.9], [50, 30, 20])

    found = measures.calibration({"model": (y, answer)}, make_settings(calibration_bins=10), seed=0)

    assert found["predicted"].tolist() == [0.2, 0.4, 0.9]
    assert found["rows"].tolist() == [50, 30, 20]
    assert found["observed"].tolist() == [0.5, 0.5, 0.5]


def test_the_interval_of_a_bin_is_that_of_a_share() -> None:
    y, answer = np.arange(400) % 2, np.full(400, 0.5)

    found = measures.calibration({"model": (y, answer)}, make_settings(bootstrap=2000, confidence=0.95), seed=0)

    half_width = 1.96 * (0.5 * 0.5 / 400) ** 0.5  # of the normal approximation
    assert found.loc[0, "low"] == pytest.approx(0.5 - half_width, abs=0.006)
    assert found.loc[0, "high"] == pytest.approx(0.5 + half_width, abs=0.006)


def test_a_calibrated_model_lies_on_the_diagonal() -> None:
    y, answers = make_predictions(20_000)

    found = measures.calibration(cases(y, answers), make_settings(calibration_bins=10), seed=0)

    model = found[found["model"] == "model"]
    assert (model["predicted"] - model["observed"]).abs().max() < 0.04


def test_the_confusion_counts_every_row_once() -> None:
    y, answer = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.7, 0.5, 0.9, 0.1])

    found = measures.confusion(y, measures.decide(answer, 0.5), (0, 1), make_settings(), seed=0)

    assert found[["actual", "predicted", "rows"]].to_dict("list") == {
        "actual": [0, 0, 1, 1],
        "predicted": [0, 1, 0, 1],
        "rows": [2, 1, 1, 2],
    }
    assert (found["low"] <= found["rows"]).all()
    assert (found["rows"] <= found["high"]).all()


class Size(ClassifierMixin, BaseEstimator):
    """A model of one column."""

    classes_ = np.array([0, 1])

    def fit(self, *_: object) -> "Size":
        """Return the model, which learns nothing."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, X: pd.DataFrame) -> Weights:
        """Return the distance as a probability."""
        share = X["distance"].to_numpy() / 100
        return np.column_stack([1 - share, share])


SIZE = Pipeline([("model", Size())])


def make_records(rows: int = 300) -> pd.DataFrame:
    """Return test rows whose target depends on the distance."""
    generator = np.random.default_rng(0)
    params = load()
    records = pd.DataFrame({name: generator.integers(0, 100, rows).astype("float64") for name in params.data.columns})
    return records.assign(line=range(rows), month=9, late=(records["distance"] > 60).astype("int64"))


def test_an_informative_column_is_important_and_a_useless_one_is_not() -> None:
    params = load(evaluate={"importance_rows": 250, "importance_repeats": 3})

    found = importance(SIZE, make_records(), params)

    first, rest = found.iloc[0], found.iloc[1:]
    assert first["column"] == "distance"
    assert 0.3 < first["low"] <= first["drop"] <= first["high"] < 0.7, "a shuffled column should leave a guess"
    assert (rest[["drop", "low", "high"]] == 0).all(axis=None)
    assert sorted(found["column"]) == sorted(params.data.columns)


def test_importance_leaves_the_records_as_they_were() -> None:
    records = make_records()
    before = records.copy()

    importance(SIZE, records, load())

    pd.testing.assert_frame_equal(records, before)


def make_evaluation(min_slice_rows: int) -> evaluation.Evaluation:
    """Return test and live rows with the predictions of a model; one carrier is never late."""
    judged = {name: make_records() for name in ("train", "test", "live")}
    for frame in judged.values():
        frame["carrier"] = np.where(
            np.arange(len(frame)) < 100, "AA", np.where(np.arange(len(frame)) < 290, "BB", "CC")
        )
        frame.loc[frame["carrier"] == "AA", "late"] = 0
    answers = {name: {"model": SIZE.predict_proba(frame)[:, 1]} for name, frame in judged.items() if name != "train"}
    params = load(evaluate={"slices": ["carrier"], "min_slice_rows": min_slice_rows})
    return evaluation.Evaluation(judged, answers, 0.5, params, params.evaluate)


def test_slices_are_evaluated_on_their_own_rows() -> None:
    evaluated = make_evaluation(min_slice_rows=50)

    found = evaluation.slice_metrics(evaluated).set_index(["split", "value"])

    assert list(found.index) == [("test", "AA"), ("test", "BB"), ("live", "AA"), ("live", "BB")], "CC is too small"
    mask = evaluated.rows["test"]["carrier"].eq("BB").to_numpy()
    expected = sk.brier_score_loss(evaluated.target("test")[mask], evaluated.predictions["test"]["model"][mask])
    assert found.loc[("test", "BB"), "brier"] == pytest.approx(expected, abs=1e-6)
    assert found.loc[("test", "BB"), "rows"] == 190
    assert np.isnan(found.loc[("test", "AA"), "roc_auc"]), "a slice of one class has no ROC-AUC"


def test_slices_that_are_all_too_small_leave_a_table_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = make_evaluation(min_slice_rows=100_000)

    no_metrics = {"test": {"model": {}}, "live": {"model": {}}}
    evaluation.write_evaluation(Workspace(tmp_path), "evaluate", evaluated, no_metrics, SIZE)
    read = pd.read_csv(tmp_path / "artifacts" / "evaluate" / "slices.csv")
    assert read.empty
    assert {"split", "slice", "value", "rows"} <= set(read.columns)
    assert "SHAP" in capsys.readouterr().out, "a step that no graph can express has no SHAP values"


# On the sample


def test_predictions_have_a_row_for_each_test_and_live_row_in_order(built: Path) -> None:
    found = read_table(built / "artifacts" / "evaluate" / "predictions.parquet")
    parts = [
        read_table(built / "artifacts" / "ingest" / f"{name}.parquet").assign(split=name) for name in ("test", "live")
    ]
    expected = pd.concat(parts, ignore_index=True)

    for name in ("split", "line", "late"):
        assert found[name].tolist() == expected[name].tolist(), f"{name} differs"
    assert list(found.columns) == ["split", "line", "late", "model", "linear", "prior"]


def test_the_predictions_are_those_of_the_saved_models(built: Path) -> None:
    params = load_params(built / "params.yaml")
    found = read_table(built / "artifacts" / "evaluate" / "predictions.parquet")
    rows = read_table(built / "artifacts" / "ingest" / "live.parquet")
    live = found[found["split"] == "live"]

    for name, file in {"model": "model.skops", "linear": "baseline.skops"}.items():
        answer = predict(load_model(built / "artifacts" / "train" / file), rows[list(params.data.columns)], params.task)
        assert (live[name].to_numpy() == answer).all(), f"{name} answers otherwise"
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    assert set(found["prior"]) == {round(train["late"].mean(), 9)}


def test_the_metrics_are_those_of_the_predictions(built: Path) -> None:
    found = read_table(built / "artifacts" / "evaluate" / "predictions.parquet")
    metrics = read_json(built / "artifacts" / "evaluate" / "comparison.json")

    for split, rows in found.groupby("split"):
        for name in ("model", "linear", "prior"):
            figures = {figure: value["value"] for figure, value in metrics[split][name].items()}
            assert figures["roc_auc"] == pytest.approx(sk.roc_auc_score(rows["late"], rows[name]), abs=1e-6)
            assert figures["pr_auc"] == pytest.approx(sk.average_precision_score(rows["late"], rows[name]), abs=1e-6)
            assert figures["log_loss"] == pytest.approx(sk.log_loss(rows["late"], rows[name]), abs=1e-6)
            called = rows[name] >= metrics["threshold"]
            assert figures["f1"] == pytest.approx(sk.f1_score(rows["late"], called, zero_division=0), abs=1e-6)


def test_the_tables_agree_with_the_predictions(built: Path) -> None:
    folder = built / "artifacts" / "evaluate"
    found = read_table(folder / "predictions.parquet")
    test = found[found["split"] == "test"]
    confusion, calibration = (pd.read_csv(folder / f"{name}.csv") for name in ("confusion", "calibration"))

    assert confusion["rows"].sum() == len(test)
    assert confusion.groupby("actual")["rows"].sum().to_dict() == test["late"].value_counts().to_dict()
    assert (calibration.groupby("model")["rows"].sum() == len(test)).all()
    assert set(pd.read_csv(folder / "slices.csv")["slice"]) == {"month", "carrier", "origin"}


def test_evaluating_again_gives_the_same_bytes(copy_of_built: Path) -> None:
    folder = copy_of_built / "artifacts" / "evaluate"
    before = {path.name: digest(path) for path in folder.iterdir()}

    run_stage("evaluate", Workspace(copy_of_built))

    assert {path.name: digest(path) for path in folder.iterdir()} == before
