"""The estimators: the same data and settings give the same bytes, and one pipeline answers from the raw record."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

from mlops_pkg.core.params import UserError, load_params, merge, read_yaml
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table, write_table
from mlops_pkg.modelling import estimators, models
from mlops_pkg.modelling.classes import import_class, option_names
from mlops_pkg.modelling.sections import ESTIMATORS, SCALED
from mlops_pkg.pipeline.params import Params, Train
from mlops_pkg.portable.export import EMITTERS
from mlops_pkg.portable.persistence import dump_model, load_model
from mlops_pkg.proof.rebuild import older_processor_env
from tests.conftest import STAGES, TASK, said_by
from tests.modelling.test_classes import EMITTER, OWN

ROOT = Path(__file__).parents[2]


def check_target(y: pd.Series, params: Params, rows: str = "training") -> None:
    models.check_target(y, params.task, params.data.target, rows)


def fit(name: str, params: Params, X: pd.DataFrame, y: pd.Series) -> Any:
    return estimators.fit_estimator(name, params, params.train, X, y)


def load(**overrides: Any) -> Params:
    """Return the project's own params with few trees, for few rows."""
    few = {**TASK, "train": {"options": {"max_iter": 5, "min_samples_leaf": 10}}}
    if overrides.get("task") == "regression":
        overrides = {"data": {"target": {"positive_above": None}}, **overrides}
    return load_params(ROOT / "params.yaml", merge(few, overrides))


def choose(name: str, task: str = "classification", weights: Any = None, **options: Any) -> Params:
    """Return the params with another estimator and its options."""
    few = load(task=task)
    train = {"estimator": name, "options": options, "class_weight": weights, "linear_alpha": 1.0}
    return few.model_copy(update={"train": Train(**train)})


def make_rows(rows: int = 400) -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    """Return three features, of which two are informative, and a target of 0 and 1."""
    generator = np.random.default_rng(0)
    X = pd.DataFrame(generator.normal(size=(rows, 3)), columns=["a", "b", "c"])
    return X, (X["a"] + X["b"] ** 2 + generator.normal(size=rows) > 1).astype("int64").rename("late")


def write_params(root: Path, overrides: dict[str, Any]) -> None:
    """Edit the params.yaml of a project."""
    values = merge(read_yaml(root / "params.yaml"), overrides)
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def read_features(root: Path, split: str) -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    """Return features and target of a split."""
    data = load_params(root / "params.yaml").data
    return models.features_and_target(read_table(root / "artifacts" / "features" / f"{split}.parquet"), data)


# The target


@pytest.mark.parametrize(
    ("target", "y", "line"),
    [
        (
            {"positive_above": 15},
            [0, 0],
            "data.target.positive_above = 15.0: a classification needs test rows with y = 0 and with y = 1, or labels; "
            "found: 0",
        ),
        (
            {"positive_above": None},
            [0.5, 1, 2, 3, 4, 5],
            "data.target.positive_above = None: a classification needs test rows with y = 0 and with y = 1, or "
            "labels; found: 0.5, 1, 2, 3, 4, ...",
        ),
        (
            {"positive_above": None, "labels": ["a", "b", "c"]},
            [1, 1],
            "data.target.labels: all test rows are 'b'; change the split",
        ),
        (
            {"positive_above": None, "labels": ["a", "b"]},
            [1, 1],
            "data.target.labels: 'a' has 0 test rows, and needs 1; remove it, join classes, or change the split",
        ),
        (
            {"positive_above": None, "positive": "male"},
            [1, 1],
            "data.target.positive = male: a classification needs test rows with y = 0 and with y = 1, or labels; "
            "found: 1",
        ),
    ],
)
def test_a_target_of_another_kind_than_the_task_is_one_line(target: dict[str, Any], y: list[float], line: str) -> None:
    with pytest.raises(UserError) as caught:
        check_target(pd.Series(y, name="y"), load(data={"target": target}), "test")

    assert str(caught.value) == f"params.yaml: {line}"


@pytest.mark.parametrize(("y", "count"), [([0, 0, 1, 1], 0), ([0, 0, 1, 1, 2], 1)])
def test_a_class_of_too_few_training_rows_is_one_line(y: list[int], count: int) -> None:
    params = load(data={"target": {"positive_above": None, "labels": ["a", "b", "c"]}})
    check_target(pd.Series([0, 0, 1, 1, 2, 2]), params)

    with pytest.raises(UserError) as caught:
        check_target(pd.Series(y), params)

    assert str(caught.value) == (
        f"params.yaml: data.target.labels: 'c' has {count} training rows, and needs 2; remove it, join classes, or "
        "change the split"
    )


def test_a_regression_of_one_value_is_one_line() -> None:
    params = load(task="regression")
    check_target(pd.Series([1.0, 2.0], name="mass"), params)

    with pytest.raises(UserError) as caught:
        check_target(pd.Series([5.5, 5.5], name="mass"), params)

    assert (
        str(caught.value) == "params.yaml: data.target: mass is 5.5 in all training rows; there is nothing to predict"
    )


# Small


def test_features_and_target_come_apart() -> None:
    table = pd.DataFrame({"line": [2, 3], "month": [1, 1], "a": [0.5, 1.5], "late": [0, 1]})

    X, y = models.features_and_target(table, load().data)

    assert list(X.columns) == ["a"]
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize("estimator", ["hist_gradient_boosting", "linear"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_answers_have_nine_decimals(estimator: str, task: str) -> None:
    X, y = make_rows()
    model = fit(estimator, load(task=task), X, y)

    answer = models.predict(model, X, task)

    raw = model.predict_proba(X)[:, 1] if task == "classification" else model.predict(X)
    assert answer.dtype == np.float64
    assert (answer == np.round(raw, 9)).all()
    assert (answer != raw).any(), "rounding changes nothing here, so this test shows nothing"


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_linear_models_coefficients_have_eight_decimals(task: str) -> None:
    X, y = make_rows()

    model = fit("linear", load(task=task), X, y)["model"]

    assert (model.coef_ == np.round(model.coef_, 8)).all()
    assert (model.intercept_ == np.round(model.intercept_, 8)).all()
    assert np.abs(model.coef_).max() > 0.01


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_linear_model_does_not_care_for_units(task: str) -> None:
    X, y = make_rows()
    params = load(task=task)

    plain = models.predict(fit("linear", params, X, y), X, task)
    scaled = X * [1e-3, 1.0, 1e3] + [0, 0, 5e4]

    np.testing.assert_allclose(models.predict(fit("linear", params, scaled, y), scaled, task), plain, atol=1e-6)


@pytest.mark.parametrize("estimator", ["hist_gradient_boosting", "linear"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_equal_fits_are_equal_bytes(estimator: str, task: str) -> None:
    X, y = make_rows()

    first = dump_model(fit(estimator, load(task=task), X, y))

    assert dump_model(fit(estimator, load(task=task), X.copy(), y.copy())) == first
    assert dump_model(fit(estimator, load(task=task), X, 1 - y)) != first


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.5),
        ("max_iter", 6),
        ("max_leaf_nodes", 2),
        ("min_samples_leaf", 150),
        ("l2_regularization", 50.0),
    ],
)
def test_every_setting_of_the_boosting_counts(setting: str, value: float) -> None:
    X, y = make_rows()

    plain = models.predict(fit("hist_gradient_boosting", load(), X, y), X, "classification")
    other = models.predict(
        fit("hist_gradient_boosting", load(train={"options": {setting: value}}), X, y), X, "classification"
    )

    assert (plain != other).any(), f"train.options.{setting} is read by nobody"


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_penalty_of_the_linear_model_shrinks_it(task: str) -> None:
    X, y = make_rows()

    weak, strong = (
        np.abs(fit("linear", load(task=task, train={"linear_alpha": alpha}), X, y)["model"].coef_).sum()
        for alpha in (0.01, 1000.0)
    )

    assert strong < weak / 2


def test_figures_are_those_of_scikit_learn() -> None:
    X, y = make_rows()
    answer = models.predict(fit("linear", load(), X, y), X, "classification")

    figures = estimators.score_models({"linear": fit("linear", load(), X, y)}, X, y, "classification")["linear"]
    errors = estimators.score(y, answer, "regression")

    assert figures["log_loss"] == round(log_loss(y, answer), 6)
    assert 0.5 < figures["roc_auc"] <= 1
    assert errors == {
        "mae": round(mean_absolute_error(y, answer), 6),
        "rmse": round(mean_squared_error(y, answer) ** 0.5, 6),
    }


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_loss_of_the_last_iteration_is_that_of_the_model(task: str) -> None:
    X, y = make_rows()
    params = load(task=task, train={"options": {"max_iter": 30}})
    model = fit("hist_gradient_boosting", params, X, y)

    curve = estimators.loss_curve(model, X, y, task)

    loss = (log_loss if task == "classification" else mean_squared_error)(y, models.predict(model, X, task))
    assert curve["iteration"].tolist() == [10, 20, 30]
    assert curve["loss"].iloc[-1] == pytest.approx(loss, abs=1e-6)
    assert curve["loss"].is_monotonic_decreasing, "the loss on the rows of the fit must fall"


@pytest.mark.parametrize(("max_iter", "expected"), [(7, [7]), (25, [10, 20, 25])])
def test_the_last_iteration_is_always_shown(max_iter: int, expected: list[int]) -> None:
    X, y = make_rows()
    model = fit("hist_gradient_boosting", load(train={"options": {"max_iter": max_iter}}), X, y)

    assert estimators.loss_curve(model, X, y, "classification")["iteration"].tolist() == expected


def test_a_model_without_iterations_has_one_row() -> None:
    X, y = make_rows()

    curve = estimators.loss_curve(fit("linear", load(), X, y), X, y, "classification")

    assert len(curve) == 1
    assert curve["iteration"].tolist() == [1], "a linear model has no tenth iteration"


# On the sample


@pytest.mark.parametrize("name", ["model", "baseline"])
def test_the_whole_pipeline_on_records_is_the_estimator_on_features(built: Path, name: str) -> None:
    params = load_params(built / "params.yaml")
    pipeline = load_model(built / "artifacts" / "train" / f"{name}.skops")
    X, y = read_features(built, "train")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet")

    whole = models.predict(pipeline, rows[list(params.data.columns)], params.task)

    chosen = params.train.estimator if name == "model" else "linear"
    alone = models.predict(fit(chosen, params, X, y), read_features(built, "test")[0], params.task)
    assert (whole == alone).all()


def test_the_model_is_fitted_on_the_training_rows_alone(copy_of_built: Path) -> None:
    before = digest(copy_of_built / "artifacts" / "train" / "model.skops")
    features = copy_of_built / "artifacts" / "features"
    shutil.copy(features / "test.parquet", features / "validation.parquet")

    run_stage("train", Workspace(copy_of_built))

    assert digest(copy_of_built / "artifacts" / "train" / "model.skops") == before


def test_the_figures_on_validation_are_those_of_the_saved_models(built: Path) -> None:
    params = load_params(built / "params.yaml")
    rows = read_table(built / "artifacts" / "ingest" / "validation.parquet")
    figures = read_json(built / "artifacts" / "train" / "validation.json")

    for name, file in {"model": "model.skops", "linear": "baseline.skops"}.items():
        pipeline = load_model(built / "artifacts" / "train" / file)
        answer = models.predict(pipeline, rows[list(params.data.columns)], params.task)
        assert figures[name] == estimators.score(rows["late"], answer, params.task)


def test_neither_threads_nor_hash_seed_nor_place_change_the_model(built: Path, tmp_path: Path) -> None:
    code = (
        "import hashlib, sys; from pathlib import Path; from mlops_pkg.core.params import load_params\n"
        "from mlops_pkg.core.workspace import Workspace; from mlops_pkg.pipeline import train\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "class Elsewhere(Workspace):\n"
        "    def output(self, stage, name): return out / name\n"
        "train.run(load_params(root / 'params.yaml'), Elsewhere(root))\n"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "4711",
        "OMP_NUM_THREADS": "1",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
    }

    subprocess.run([sys.executable, "-c", code, str(built), str(tmp_path)], check=True, env=environment, cwd=tmp_path)

    for path in (built / "artifacts" / "train").iterdir():
        assert digest(tmp_path / path.name) == digest(path), f"{path.name} differs"


def test_the_linear_estimator_can_be_chosen(copy_of_built: Path) -> None:
    write_params(copy_of_built, {"train": {"estimator": "linear", "options": None}})

    run_stage("train", Workspace(copy_of_built))

    folder = copy_of_built / "artifacts" / "train"
    assert digest(folder / "model.skops") == digest(folder / "baseline.skops")
    assert len(pd.read_csv(folder / "iterations.csv")) == 1


@pytest.fixture(scope="module")
def regression(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a regression of the delay on the sample; two lines of params.yaml differ."""
    root = tmp_path_factory.mktemp("regression") / "project"
    shutil.copytree(built, root, ignore=shutil.ignore_patterns("artifacts"))
    write_params(root, {"task": "regression", "data": {"target": {"name": "delay", "positive_above": None}}})
    for stage in STAGES:
        run_stage(stage, Workspace(root))
    return root


def test_a_regression_runs_through_all_stages(regression: Path) -> None:
    metrics = read_json(regression / "artifacts" / "evaluate" / "comparison.json")

    assert metrics["task"] == "regression"
    assert metrics["threshold"] is None
    for split in ("test", "live"):
        assert set(metrics[split]) == {"model", "linear", "prior"}
        for name, figures in metrics[split].items():
            assert set(figures) == {"mae", "rmse", "r2", "ae_p50", "ae_p90"}
            for figure, value in figures.items():
                assert value["low"] <= value["value"] <= value["high"], f"{split} {name} {figure}: {value}"


def test_a_regression_learns_something(regression: Path) -> None:
    params = load_params(regression / "params.yaml")
    rows = read_table(regression / "artifacts" / "ingest" / "train.parquet")
    pipeline = load_model(regression / "artifacts" / "train" / "model.skops")

    answer = models.predict(pipeline, rows[list(params.data.columns)], "regression")

    assert mean_squared_error(rows["delay"], answer) < 0.9 * rows["delay"].var()


def test_a_regression_writes_every_file_that_a_classification_writes(regression: Path, built: Path) -> None:
    def names(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in (root / "artifacts").rglob("*") if path.is_file()}

    missing = names(built) - names(regression)

    assert not missing, f"dvc.yaml declares these, and a regression does not write them: {sorted(missing)}"


def test_a_bundle_of_a_regression_says_so(regression: Path) -> None:
    signature = read_json(regression / "artifacts" / "package" / "signature.json")
    reference = read_json(regression / "artifacts" / "package" / "reference.json")

    assert (signature["task"], signature["target"], signature["threshold"]) == ("regression", "delay", None)
    assert "quantiles" in reference["target"]


@pytest.mark.parametrize(("target", "found"), [(0, "0"), (1, "1"), ([0, 1, 2], "0, 1, 2"), ([-3.5, 20.0], "-3.5, 20")])
def test_a_target_that_is_no_pair_of_classes_is_a_clear_error(
    copy_of_built: Path, target: float | list[float], found: str
) -> None:
    path = copy_of_built / "artifacts" / "features" / "train.parquet"
    table = read_table(path)
    write_table(path, table.assign(late=np.resize(target, len(table))))

    with pytest.raises(UserError) as raised:
        run_stage("train", Workspace(copy_of_built))

    assert str(raised.value) == (
        "params.yaml: data.target.positive_above = 15.0: a classification needs training rows with late = 0 and with "
        f"late = 1, or labels; found: {found}"
    )


@pytest.mark.parametrize("cut", [0, 100, -10])
def test_a_damaged_model_is_named_with_its_mend(built: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "train" / "model.skops"
    path.parent.mkdir()
    path.write_bytes((built / "artifacts" / "train" / "model.skops").read_bytes()[:cut])

    with pytest.raises(UserError, match=r"train/model\.skops: damaged .* `dvc repro --force train`"):
        models.read_model(path)


# Any estimator

TASKS = ("classification", "regression")
BOTH = [(name, task) for name, tasks in ESTIMATORS.items() for task in tasks]
PENALTY = {("lasso", "regression"): {"alpha": 0.01}, ("elastic_net", "regression"): {"alpha": 0.01}}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("name", "task"), BOTH)
def test_every_estimator_is_fitted_saved_and_asked(name: str, task: str) -> None:
    X, y = make_rows()
    params = choose(name, task, **PENALTY.get((name, task), {}))

    model = fit(name, params, X, y)
    again = load_model(dump_model(model))

    answer = models.predict(again, X, task)
    assert (answer == models.predict(model, X, task)).all()
    assert (roc_auc_score(y, answer) if task == "classification" else np.corrcoef(y, answer)[0, 1]) > 0.3
    assert [step for step, _ in model.steps] == (["scale", "model"] if name in SCALED else ["model"])
    learned = model["model"].get_params()
    assert learned.get("random_state", 0) == 0, "the seed is not the one of params.yaml"
    assert learned.get("n_jobs") in (None, 1), "the prediction is summed by threads"


@pytest.mark.parametrize("path", ["sklearn.ensemble.BaggingClassifier", "sklearn.naive_bayes.GaussianNB"])
def test_a_class_of_scikit_learn_is_named_by_its_path(path: str) -> None:
    X, y = make_rows()

    model = load_model(dump_model(fit(path, choose(path), X, y)))

    assert type(model["model"]).__name__ == path.rpartition(".")[2]
    assert roc_auc_score(y, models.predict(model, X, "classification")) > 0.6


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "hist_gradient_boosting",
            {"max_itr": 5},
            "train.options.max_itr: HistGradientBoostingClassifier has no such option; did you mean 'max_iter'?",
        ),
        ("hist_gradient_boosting", {"max_iter": 0}, "train.options.max_iter = 0: must be an int in the range [1, inf)"),
        (
            "random_forest",
            {"max_depth": "x"},
            "train.options.max_depth = 'x': must be an int in the range [1, inf) or ",
        ),
        ("random_forest", {"random_state": 1}, "train.options.random_state: remove it; the seed of everything random "),
        ("xgboost", {"n_jobs": 2}, "train.options.n_jobs: remove it; no result may depend on the number of threads"),
        ("xgboost", {"max_depth": -3}, "train.estimator = xgboost: value -3 for Parameter max_depth should be "),
        ("lightgbm", {"num_leaves": 1}, "train.estimator = lightgbm: Check failed: (num_leaves) > (1)"),
        ("linear", {"class_weight": "balanced"}, "train.options.class_weight: remove it; it has a key of its own "),
        ("sklearn.svm.LinearSVC", {}, "train.estimator = sklearn.svm.LinearSVC: it gives no probabilities (predict_pr"),
        ("sklearn.cluster.Kmeans", {}, "train.estimator = sklearn.cluster.Kmeans: sklearn.cluster has no class Kmeans"),
    ],
)
def test_an_option_that_an_estimator_refuses_is_one_line(name: str, options: dict[str, Any], line: str) -> None:
    X, y = make_rows()

    told = said_by(lambda: fit(name, choose(name, **options), X, y))

    assert told.startswith(f"params.yaml: {line}")


def test_missing_features_are_one_line_where_an_estimator_cannot_take_them() -> None:
    X, y = make_rows()
    X.loc[3, "a"] = np.nan

    assert said_by(lambda: fit("linear", load(), X, y)) == (
        "params.yaml: train.estimator = linear: Input X contains NaN."
    )


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"estimator": "xgbost"}, "train.estimator = \"xgbost\": no such estimator; did you mean 'xgboost'?"),
        ({"estimator": "a b"}, 'train.estimator = "a b": string should match pattern '),
        ({"max_depth": 3}, "train.max_depth: unknown key; an option of the estimator belongs under train.options"),
        ({"options": [1]}, "train.options = [1]: input should be a valid dictionary"),
        (
            {"estimator": "svm", "options": None},
            "train.estimator: svm gives no probabilities, which a classification answers with; take linear, or set ",
        ),
        ({"class_weight": "balancd"}, 'train.class_weight = "balancd": expected balanced, or a mapping of labels '),
        ({"class_weight": {1: 0}}, 'train.class_weight = {"1": 0}: expected balanced, or a mapping of labels '),
        ({"class_weight": {}}, "train.class_weight = {}: expected balanced, or a mapping of labels "),
    ],
)
def test_a_mistake_in_the_section_is_one_line_when_it_is_read(train: dict[str, Any], line: str) -> None:
    assert said_by(lambda: load(train=train)).startswith(f"params.yaml: {line}")


def test_options_are_those_of_the_estimator_and_not_of_the_baseline() -> None:
    X, y = make_rows()
    params = choose("lasso", C=0.5)

    assert fit("lasso", params, X, y)["model"].C == 0.5
    assert fit("linear", params, X, y)["model"].C == 1.0


# Rare classes


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "linear", "gradient_boosting", "xgboost", "mlp"])
@pytest.mark.parametrize("weights", ["balanced", {0: 1, 1: 5.0}, {"1": 5}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_of_classes_lift_the_rare_one(name: str, weights: Any) -> None:
    X, y = make_rows()
    y, options = y.where(X["c"] > 0, 0), {"max_depth": 1} if name == "xgboost" else {}

    plain, weighted = (
        models.predict(fit(name, choose(name, weights=given, **options), X, y), X, "classification").mean()
        for given in (None, weights)
    )

    assert y.mean() < 0.25
    assert weighted > plain + 0.02, f"{name}: the weights change nothing"


def test_weights_of_classes_are_those_of_scikit_learn() -> None:
    X, y = make_rows()

    ours = fit("gradient_boosting", choose("gradient_boosting", weights={0: 1, 1: 5}), X, y)

    theirs = GradientBoostingClassifier(random_state=0).fit(X, y, sample_weight=np.where(y == 1, 5, 1))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-7)  # leaves are rounded


def test_weights_are_given_by_the_names_of_the_classes() -> None:
    X, y = make_rows()
    named = {"target": {"positive_above": None, "labels": ["low", "middle", "high"]}}
    codes = y + (X["c"] > 1)

    plain, weighted = (
        fit("linear", load(data=named, train={"class_weight": weights}), X, codes)["model"]
        for weights in (None, {"high": 10, "low": 1})
    )

    assert weighted.class_weight == {2: 10, 0: 1}
    scaled = StandardScaler().fit_transform(X)
    assert weighted.predict_proba(scaled)[:, 2].mean() > 1.5 * plain.predict_proba(scaled)[:, 2].mean()


def test_weights_of_an_estimator_that_takes_none_are_one_line() -> None:
    X, y = make_rows()

    assert said_by(lambda: fit("k_neighbors", choose("k_neighbors", weights="balanced"), X, y)) == (
        "params.yaml: train.class_weight: KNeighborsClassifier takes weights neither of classes nor of rows; "
        "remove it, or name another estimator"
    )


def test_weights_of_a_class_that_there_is_not_are_one_line() -> None:
    told = said_by(lambda: load(train={"class_weight": {2: 1}}))

    assert told == "params.yaml: train.class_weight.2: no such class; valid names: 0, 1"


def test_a_regression_has_no_weights_of_classes() -> None:
    told = said_by(lambda: load(task="regression", train={"class_weight": "balanced"}))

    assert told == "params.yaml: train.class_weight: a regression has no classes: remove it"


# Other threads, another hash seed, an older processor

ELSEWHERE = """
import hashlib, sys
from tests.modelling.test_estimators import choose, dump_model, fit, make_rows
for pair in sys.argv[1:]:
    name, task = pair.split("/")
    X, y = make_rows(2000)
    print(pair, hashlib.sha256(dump_model(fit(name, choose(name, task), X, y))).hexdigest())
"""


@pytest.mark.slow
def test_neither_threads_nor_hash_seed_nor_processor_change_an_estimator() -> None:
    one, other = ("1", "1", {}), ("3", "20260729", older_processor_env())
    said = []
    for threads, seed, processor in (one, other):
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), threads)
        environment = {**os.environ, **numbers, **processor, "PYTHONHASHSEED": seed, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", ELSEWHERE, *(f"{name}/{task}" for name, task in BOTH)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        said.append(dict(line.split() for line in done.stdout.splitlines()))

    assert len(said[0]) == len(BOTH)
    assert [pair for pair, digest in said[0].items() if said[1][pair] != digest] == []


# The page about them


def describe(name: str) -> str:
    """Return the row of a name in docs/estimators.md."""
    kinds = {task: import_class(path, [], "") for task, (path, _) in ESTIMATORS[name].items()}
    classes = [kinds[task].__name__ if task in kinds else "none, because it gives no probabilities" for task in TASKS]
    classifier = kinds.get("classification")
    takes_rows = classifier and has_fit_parameter(classifier, "sample_weight")
    weights = "option" if classifier and "class_weight" in option_names(classifier) else "rows" if takes_rows else "no"
    graph = all(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" in EMITTERS for kind in kinds.values())
    cells = [f"`{name}`", *classes, "yes" if name in SCALED else "no", weights, "yes" if graph else "no"]
    return f"| {' | '.join(cells)} |"


def test_the_page_of_estimators_has_a_row_for_each() -> None:
    page = (ROOT / "docs" / "estimators.md").read_text()

    rows = [line for line in page.splitlines() if line.startswith("| `")]

    assert rows == [describe(name) for name in ESTIMATORS]


def test_the_page_shows_the_messages_and_the_class_that_are_tested() -> None:
    page = (ROOT / "docs" / "estimators.md").read_text()
    X, y = make_rows()

    for params in (choose("hist_gradient_boosting", max_itr=5), choose("hist_gradient_boosting", max_iter=0)):
        assert said_by(partial(fit, "hist_gradient_boosting", params, X, y)) in page
    assert OWN.split("class ClipToSeen")[1].split("\n\n\n")[0] in page
    assert EMITTER.split("def ")[1].partition("\n")[2].strip() in page


def test_where_the_boosting_of_many_classes_begins_is_rounded() -> None:
    X, _ = make_rows()
    y = pd.Series(np.arange(len(X)) * 7 % 3, name="late")

    model = fit("hist_gradient_boosting", load(), X, y)["model"]

    start = model._baseline_prediction
    assert start.size == 3
    assert np.array_equal(start, np.round(start, 8)), "numpy's logarithm has other last bits on other processors"
