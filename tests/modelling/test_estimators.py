"""The estimators: the same data and settings give the same bytes, and one pipeline answers from the raw record."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error

from mlops_pkg.core.params import UserError, load_params, merge, read_yaml
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table, write_table
from mlops_pkg.modelling import estimators, models
from mlops_pkg.pipeline.params import Params
from mlops_pkg.portable.persistence import dump_model, load_model
from tests.conftest import STAGES, TASK

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
