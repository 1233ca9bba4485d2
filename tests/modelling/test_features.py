"""The feature pipeline: what params.yaml describes, learned from the training rows alone."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_pkg.core.params import SPLITS, Data, UserError, load_params
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table, write_table
from mlops_pkg.modelling import features
from mlops_pkg.modelling.sections import Step
from mlops_pkg.pipeline.params import Features
from mlops_pkg.portable.persistence import dump_model, load_model

NAMES = list(features.MODULES)


def make_features(*steps: dict[str, Any]) -> Features:
    """Return the section of params.yaml with these steps."""
    return Features(steps=tuple(Step(**step) for step in steps))


def make_rows(rows: int = 60) -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    """Return a small table with a column of each kind, and a target."""
    generator = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "city": pd.Series(generator.choice(["a", "b", "c"], rows), dtype="str"),
            "hour": generator.integers(0, 24, rows).astype("float64"),
            "size": generator.uniform(1, 9, rows),
            "width": generator.uniform(1, 9, rows),
            "start": pd.Series(pd.date_range("2013-01-01", periods=rows, freq="7h")).astype("datetime64[us]"),
            "end": pd.Series(pd.date_range("2013-01-02", periods=rows, freq="8h")).astype("datetime64[us]"),
            "same": np.ones(rows),
        }
    )
    return X, pd.Series(generator.integers(0, 2, rows), name="y")


def make_data(X: pd.DataFrame) -> Data:
    """Return the section of params.yaml for the small table."""
    kinds = {"city": "category", "start": "datetime", "end": "datetime"}
    return Data.model_validate(
        {
            "source": {"package": "nowhere"},
            "target": {"name": "y"},
            "split": {"by": "month", "train": [1], "validation": [2], "test": [3], "live": [4]},
            "known_later": [],
            "columns": {name: {"kind": kinds.get(str(name), "number")} for name in X.columns},
        }
    )


def message_of(*steps: dict[str, Any]) -> str:
    """Return the error message when these steps are fitted."""
    with pytest.raises(UserError) as caught:
        features.fit_features(make_features(*steps), *make_rows())
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def features_of(root: Path) -> Path:
    """Return the output folder of the stage."""
    return root / "artifacts" / "features"


# Fitted on the training rows alone


@pytest.fixture(scope="module")
def other_later_rows(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rebuild the features after changing every row but those of training."""
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("later") / "project"))
    params = load_params(root / "params.yaml")
    for name in ("validation", "test", "live"):
        path = root / "artifacts" / "ingest" / f"{name}.parquet"
        rows = read_table(path)[::-1].reset_index(drop=True)
        rows[params.data.target.name] = 1 - rows[params.data.target.name]
        for column in params.data.names("number"):
            rows[column] = rows[column] * 3 + 100
        for column in params.data.names("category"):
            rows[column] = pd.Series(["new"] * len(rows), dtype="str")
        write_table(path, rows)
    run_stage("features", Workspace(root))
    return root


@pytest.mark.parametrize("name", ["features.skops", "train.parquet", "steps.json"])
def test_what_is_learned_depends_on_the_training_rows_alone(built: Path, other_later_rows: Path, name: str) -> None:
    assert digest(features_of(other_later_rows) / name) == digest(features_of(built) / name)


def test_other_later_rows_give_other_later_features(built: Path, other_later_rows: Path) -> None:
    assert digest(features_of(other_later_rows) / "test.parquet") != digest(features_of(built) / "test.parquet")


def test_other_training_rows_are_learned_from(copy_of_built: Path) -> None:
    before = digest(features_of(copy_of_built) / "features.skops")
    path = copy_of_built / "artifacts" / "ingest" / "train.parquet"
    rows = read_table(path)
    rows["late"] = 1 - rows["late"]
    write_table(path, rows)

    run_stage("features", Workspace(copy_of_built))

    assert digest(features_of(copy_of_built) / "features.skops") != before


# The tables


@pytest.mark.parametrize("split", SPLITS)
def test_rows_keep_their_order_and_their_keys(built: Path, split: str) -> None:
    rows = read_table(built / "artifacts" / "ingest" / f"{split}.parquet")
    table = read_table(features_of(built) / f"{split}.parquet")

    assert table["line"].tolist() == rows["line"].tolist()
    assert table["month"].tolist() == rows["month"].tolist()
    assert table["late"].tolist() == rows["late"].tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_every_feature_is_a_finite_number(built: Path, split: str) -> None:
    X = read_table(features_of(built) / f"{split}.parquet").drop(columns=["line", "month", "late"])

    assert set(X.dtypes.astype(str)) == {"float64"}
    assert np.isfinite(X.to_numpy()).all()


def test_the_table_is_what_the_saved_pipeline_makes_of_the_rows(built: Path) -> None:
    params = load_params(built / "params.yaml")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet")

    table = features.transform(load_model(features_of(built) / "features.skops"), rows, params.data, "features.steps")

    pd.testing.assert_frame_equal(table, read_table(features_of(built) / "test.parquet"))


def test_a_row_is_transformed_alike_alone_and_among_others(built: Path) -> None:
    params = load_params(built / "params.yaml")
    pipeline = load_model(features_of(built) / "features.skops")
    rows = read_table(built / "artifacts" / "ingest" / "live.parquet").iloc[:30]

    together = features.transform(pipeline, rows, params.data, "features.steps")
    alone = pd.concat(
        [features.transform(pipeline, rows.iloc[[place]], params.data, "features.steps") for place in range(len(rows))]
    )

    pd.testing.assert_frame_equal(alone, together)


def test_unseen_categories_and_missing_values_become_numbers(built: Path) -> None:
    params = load_params(built / "params.yaml")
    pipeline = load_model(features_of(built) / "features.skops")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet").iloc[:4].reset_index(drop=True)
    for name in params.data.names("category"):
        rows[name] = pd.Series(["never seen", "", None, "ß"], dtype="str")
    for name, column in params.data.columns.items():
        if column.kind == "number" and column.nullable:
            rows[name] = np.nan

    X = features.transform(pipeline, rows, params.data, "features.steps")

    assert np.isfinite(X.drop(columns=["late"]).to_numpy()).all(), X.T


def test_cyclic_parts_have_nine_decimals(built: Path) -> None:
    table = read_table(features_of(built) / "train.parquet")
    parts = [name for name in table.columns if re.search("_(sin|cos)$", name)]

    assert len(parts) == 6
    assert (table[parts] == table[parts].round(9)).all(axis=None)
    assert not np.signbit(table[parts].to_numpy()[table[parts].to_numpy() == 0]).any(), "there is a -0.0"


def test_the_month_is_no_feature(built: Path) -> None:
    table = read_table(features_of(built) / "train.parquet").drop(columns=["month"])

    assert not [name for name in table.columns if "month" in name]


def test_the_account_of_columns_adds_up(built: Path) -> None:
    params = load_params(built / "params.yaml")
    account = read_json(features_of(built) / "steps.json")

    columns = set(params.data.columns)
    for entry in account:
        assert set(entry["lost"]) <= columns, f"{entry['step']} lost what was not there"
        columns = (columns - set(entry["lost"])) | set(entry["gained"])
        assert len(columns) == entry["columns"], f"{entry['step']}: the count is wrong"
    table = read_table(features_of(built) / "train.parquet")
    assert columns == set(table.columns) - {"line", "month", "late"}
    assert len(account) == len(params.features.steps)


def test_a_transformer_may_be_used_twice() -> None:
    steps = [
        {"use": "ArbitraryNumberImputer", "variables": ["size"], "arbitrary_number": 0},
        {"use": "DropFeatures", "variables": ["same"]},
        {"use": "ArbitraryNumberImputer", "variables": ["width"], "arbitrary_number": 1},
    ]

    pipeline, _, account = features.fit_features(make_features(*steps), *make_rows())

    names = ["ArbitraryNumberImputer", "DropFeatures", "ArbitraryNumberImputer_2"]
    assert [name for name, _ in pipeline.steps] == names
    assert [entry["step"] for entry in account] == names
    assert account[1]["lost"] == ["same"]


def test_a_step_sees_what_the_steps_before_it_made() -> None:
    steps = [
        {"use": "DatetimeFeatures", "variables": ["start"], "features_to_extract": ["hour"]},
        {"use": "RoundedCyclicalFeatures", "variables": ["start_hour"], "max_values": {"start_hour": 24}},
    ]

    _, X, _ = features.fit_features(make_features(*steps), *make_rows())

    assert {"start_hour_sin", "start_hour_cos"} <= set(X.columns)


# Mistakes


def test_an_unknown_transformer_is_named_with_the_nearest() -> None:
    message = message_of({"use": "MeanEncodr", "variables": ["city"]})

    assert message == (
        "params.yaml: features.steps[0].use = 'MeanEncodr': no such transformer; did you mean 'MeanEncoder'?"
    )


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    message = message_of({"use": "DropConstantFeatures"}, {"use": "MeanEncoder", "variables": ["city"], "smoothin": 2})

    assert (
        message == "params.yaml: features.steps[1].smoothin: MeanEncoder has no such option; did you mean 'smoothing'?"
    )


@pytest.mark.parametrize(
    "step",
    [
        {"use": "MeanEncoder", "variables": ["city"], "smoothing": -1},
        {"use": "MeanEncoder", "variables": ["city"], "unseen": "guess"},
        {"use": "Winsorizer", "variables": ["size"], "capping_method": "magic"},
        {"use": "Winsorizer", "variables": ["size"], "capping_method": "quantiles", "fold": 3},
        {"use": "DatetimeFeatures", "variables": ["start"], "features_to_extract": ["century"]},
        {"use": "RoundedCyclicalFeatures", "variables": ["hour"], "max_values": {"hour": "24"}},
        {"use": "RareLabelEncoder", "variables": ["city"], "tol": 2},
        {"use": "MeanMedianImputer", "variables": ["size"], "imputation_method": "mode"},
        {"use": "DropFeatures"},
        {"use": "DropFeatures", "variables": []},
        {"use": "MathFeatures", "variables": ["size", "width"]},
        {"use": "MathFeatures", "variables": ["size", "width"], "func": "nonsense"},
    ],
    ids=lambda step: "-".join(map(str, list(step.values())[::2])),
)
def test_a_wrong_value_is_an_error_with_its_place(step: dict[str, Any]) -> None:
    message = message_of(step)

    assert message.startswith(f"params.yaml: features.steps[0] ({step['use']}): ")


@pytest.mark.parametrize(
    "step",
    [
        {"use": "MeanEncoder", "variables": ["town"]},
        {"use": "MeanMedianImputer", "variables": ["city"]},
        {"use": "OrdinalEncoder", "variables": ["size"]},
        {"use": "DatetimeFeatures", "variables": ["city"]},
        {"use": "DropFeatures", "variables": ["town"]},
        {"use": "DatetimeSubtraction", "variables": ["end"], "reference": ["begin"]},
    ],
    ids=lambda step: f"{step['use']}-{step['variables'][0]}",
)
def test_a_column_that_does_not_fit_is_an_error_with_what_there_is(step: dict[str, Any]) -> None:
    message = message_of(step)

    assert message.startswith(f"params.yaml: features.steps[0] ({step['use']}): ")
    assert message.endswith("; columns here: city, hour, size, width, start, end, same")


def test_two_columns_of_one_name_are_refused() -> None:
    X, y = make_rows()
    X["city_a"] = 1.0

    with pytest.raises(UserError) as caught:
        features.fit_features(make_features({"use": "OneHotEncoder", "variables": ["city"]}), X, y)

    assert "features.steps[0] (OneHotEncoder): it makes a second column 'city_a'; rename the first" in str(caught.value)


def test_a_column_that_is_still_text_is_refused() -> None:
    X, y = make_rows()
    pipeline, _, _ = features.fit_features(make_features({"use": "DropFeatures", "variables": ["start", "end"]}), X, y)

    frame = X.assign(line=X.index, month=1, y=y)
    with pytest.raises(UserError) as caught:
        features.transform(pipeline, frame, make_data(X), "features.steps")

    assert str(caught.value) == "params.yaml: features.steps: city is still str after the last step; encode or drop it"


def test_a_column_that_is_still_a_time_is_refused() -> None:
    X, y = make_rows()
    pipeline, _, _ = features.fit_features(make_features({"use": "DropFeatures", "variables": ["city", "end"]}), X, y)

    with pytest.raises(UserError, match=r"features\.steps: start is still datetime64"):
        features.transform(pipeline, X.assign(line=X.index, month=1, y=y), make_data(X), "features.steps")


def test_rows_that_a_step_cannot_take_are_a_clear_error() -> None:
    X, y = make_rows()
    steps = [
        {"use": "DropFeatures", "variables": ["city", "start", "end"]},
        {"use": "LogTransformer", "variables": ["size"]},
    ]
    pipeline, _, _ = features.fit_features(make_features(*steps), X, y)

    later = X.assign(size=-1.0, line=X.index, month=1, y=y)  # in training the sizes are positive
    with pytest.raises(UserError, match="LogTransformer"):
        features.transform(pipeline, later, make_data(X), "features.steps")


# Every transformer that params.yaml may name

OPTIONS: dict[str, dict[str, Any]] = {
    "MathFeatures": {"variables": ["size", "width"], "func": ["sum", "mean"]},
    "RelativeFeatures": {"variables": ["size"], "reference": ["width"], "func": ["sub", "div"]},
    "DatetimeFeatures": {"variables": ["start"], "features_to_extract": ["day_of_week", "hour"]},
    "DatetimeSubtraction": {"variables": ["end"], "reference": ["start"], "output_unit": "m"},
    "CountFrequencyEncoder": {"variables": ["city"], "encoding_method": "frequency"},
    "MeanEncoder": {"variables": ["city"], "smoothing": "auto", "unseen": "encode"},
    "OneHotEncoder": {"variables": ["city"]},
    "OrdinalEncoder": {"variables": ["city"], "encoding_method": "ordered"},
    "RareLabelEncoder": {"variables": ["city"], "tol": 0.4, "n_categories": 1},
    "AddMissingIndicator": {"variables": ["size", "city"], "missing_only": False},
    "ArbitraryNumberImputer": {"variables": ["size"], "arbitrary_number": -1},
    "CategoricalImputer": {"variables": ["city"]},
    "EndTailImputer": {"variables": ["size"], "imputation_method": "iqr"},
    "MeanMedianImputer": {"variables": ["size"], "imputation_method": "mean"},
    "ArbitraryOutlierCapper": {"max_capping_dict": {"size": 5.0}, "min_capping_dict": {"size": 2.0}},
    "Winsorizer": {"variables": ["size"], "capping_method": "gaussian", "tail": "both", "fold": 1},
    "DropConstantFeatures": {},
    "DropFeatures": {"variables": ["same"]},
    "LogCpTransformer": {"variables": ["size"], "C": "auto"},
    "LogTransformer": {"variables": ["size"], "base": "10"},
    "PowerTransformer": {"variables": ["size"], "exp": 0.5},
    "YeoJohnsonTransformer": {"variables": ["size"]},
    "RoundedCyclicalFeatures": {"variables": ["hour"], "max_values": {"hour": 24}},
    "ArbitraryDiscretiser": {"binning_dict": {"size": [0, 3, 6, 1000]}},
    "EqualFrequencyDiscretiser": {"variables": ["size"], "q": 3},
    "EqualWidthDiscretiser": {"variables": ["size"], "bins": 3},
    "GeometricWidthDiscretiser": {"variables": ["size"], "bins": 3},
    "DecisionTreeEncoder": {"variables": ["city"], "regression": False, "cv": 2, "random_state": 0},
    "WoEEncoder": {"variables": ["city"], "fill_value": 0.01},
    "MeanNormalizationScaler": {"variables": ["size"]},
    "BoxCoxTransformer": {"variables": ["size"]},
    "ReciprocalTransformer": {"variables": ["size"]},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_transformer_is_the_same_after_it_was_saved(name: str) -> None:
    X, y = make_rows()
    pipeline, transformed, _ = features.fit_features(make_features({"use": name, **OPTIONS[name]}), X, y)

    content = dump_model(pipeline)
    loaded = load_model(content)

    pd.testing.assert_frame_equal(loaded.transform(X), transformed)
    assert dump_model(loaded) == content, "saving what was loaded gives other bytes"
    again, _, _ = features.fit_features(make_features({"use": name, **OPTIONS[name]}), *make_rows())
    assert dump_model(again) == content, "an equal fit gives other bytes"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DropConstantFeatures"])
def test_a_transformer_does_something(name: str) -> None:
    X, y = make_rows()
    X = X.assign(size=X["size"].where(X.index > 2), city=X["city"].where(X.index > 2)) if "Imputer" in name else X

    _, transformed, _ = features.fit_features(make_features({"use": name, **OPTIONS[name]}), X, y)

    assert not transformed.equals(X)


def test_labels_of_equal_mean_are_encoded_in_the_order_of_their_names() -> None:
    generator = np.random.default_rng(0)
    X = pd.DataFrame({"town": [f"{number:02}" for number in generator.permutation(60)] * 4})
    y = pd.Series(generator.integers(0, 2, 240))
    step = {"use": "OrdinalEncoder", "variables": ["town"]}

    encoder = features.fit_features(make_features(step), X, y)[0][-1]

    means = y.groupby(X["town"]).mean().to_dict()
    assert list(encoder.encoder_dict_["town"]) == sorted(means, key=lambda town: (means[town], town))
