"""SHAP values of many rows: by hand, as the bundle's, and as plots show them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline

from mlops_pkg.bundle.explanation import Explainer, pack_explanation
from mlops_pkg.modelling import contributions
from mlops_pkg.modelling.contributions import POINT_COLUMNS, SHAP_COLUMNS, shap_points, shap_table, shap_values
from mlops_pkg.portable.export import explanation_terms
from mlops_pkg.portable.margins import score_pipeline

KINDS = {"wind": "number", "rain": "number"}


def make_params(labels: tuple[Any, ...] = (), **kinds: str) -> Any:
    """Return what is used of params: seed, labels and columns."""
    kinds = kinds or KINDS
    columns = {name: SimpleNamespace(kind=kind, unit="mm" if name == "rain" else None) for name, kind in kinds.items()}
    data = SimpleNamespace(kinds=kinds, columns=columns, target=SimpleNamespace(name="late"))
    return SimpleNamespace(seed=0, labels=labels, data=data)


def make_rows(rows: int = 200) -> pd.DataFrame:
    """Return records of which the wind says most about the target of three classes."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"wind": generator.normal(size=rows), "rain": generator.normal(size=rows)})
    return frame.assign(late=np.digitize(frame["wind"] + 0.1 * frame["rain"], [-0.5, 0.8]), line=range(rows))


def fit_trees(rows: pd.DataFrame) -> Any:
    """Return a pipeline of boosted trees for three classes."""
    return make_pipeline(HistGradientBoostingClassifier(max_iter=5, random_state=0)).fit(rows[[*KINDS]], rows["late"])


def test_a_linear_model_adds_its_coefficient_times_the_difference_from_the_training_mean() -> None:
    rows = make_rows()
    train = rows.assign(wind=rows["wind"] + 1)
    model = make_pipeline(LinearRegression()).fit(rows[[*KINDS]], 2 * rows["wind"] - 3 * rows["rain"])

    sample, values = shap_values(model, train, rows, make_params(), limit=50)

    assert values.shape == (50, 2, 1)
    assert values[:, 0, 0] == pytest.approx(2 * (sample["wind"] - train["wind"].mean()).to_numpy())
    assert values[:, 1, 0] == pytest.approx(-3 * (sample["rain"] - train["rain"].mean()).to_numpy())
    assert sample["line"].is_monotonic_increasing
    assert shap_table(values, make_params())["column"].tolist() == ["rain", "wind"]


def test_of_several_classes_each_margin_is_the_base_and_its_contributions() -> None:
    rows = make_rows()
    model, params = fit_trees(rows), make_params(("a", "b", "c"))

    sample, values = shap_values(model, rows, rows, params, limit=100)
    table, points = shap_table(values, params), shap_points(sample, values, params)

    margin = score_pipeline(model, sample[[*KINDS]])[0]
    rest = margin - values.sum(axis=1)
    assert rest == pytest.approx(np.broadcast_to(rest[0], rest.shape)), "the base is not the same for every row"
    assert table["label"].tolist() == ["a", "b", "c"] * 2
    assert table["column"].tolist() == ["wind"] * 3 + ["rain"] * 3
    assert table["mean_abs"].tolist() == np.abs(values).mean(axis=0).round(6).ravel().tolist()
    one = points[(points["label"] == "b") & (points["column"] == "rain")]
    assert one["contribution"].tolist() == values[:, 1, 1].round(6).tolist()
    assert one["value"].tolist() == sample["rain"].round(6).tolist()
    assert one["line"].tolist() == sample["line"].tolist()


def test_the_classes_with_the_most_rows_have_points(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    params = make_params(("a", "b", "c"))
    monkeypatch.setattr(contributions, "CLASSES", 1)

    sample, values = shap_values(fit_trees(rows), rows, rows, params, limit=100)

    assert set(shap_points(sample, values, params)["label"]) == {"abc"[sample["late"].mode()[0]]}


def test_a_margin_that_is_no_sum_has_tables_without_rows() -> None:
    rows = make_rows()
    model = make_pipeline(KNeighborsRegressor()).fit(rows[[*KINDS]], rows["wind"])

    for found in (
        shap_values(model, rows, rows, make_params(), limit=50),
        shap_values(fit_trees(rows), rows, rows, make_params(), limit=0),
    ):
        assert list(shap_table(found[1], make_params())) == SHAP_COLUMNS
        assert shap_table(found[1], make_params()).empty
        assert list(shap_points(*found, make_params())) == POINT_COLUMNS
        assert shap_points(*found, make_params()).empty


@pytest.mark.parametrize(("work", "expected"), [(0, contributions.LEAST), (30, 30), (1000, 100)])
def test_of_a_large_model_fewer_rows_are_explained(work: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, params = make_rows(), make_params()
    model = fit_trees(rows)
    terms = explanation_terms(model, KINDS, rows)
    monkeypatch.setattr(contributions, "WORK", work * Explainer(pack_explanation(terms)).terms.terms_per_row)

    assert len(shap_values(model, rows, rows, params, limit=100)[0]) == expected


def test_points_show_hours_ranks_and_nothing_for_a_category() -> None:
    times = pd.to_datetime(["2013-01-01 06:30", "2013-05-01 18:00", None])
    kinds = {"wind": "number", "rain": "number", "at": "datetime", "day": "datetime", "place": "category"}
    sample = pd.DataFrame(
        {
            "line": [3, 5, 8],
            "wind": [5.0, np.nan, 7.0],
            "rain": [0.0, 0.0, 1.0],
            "at": times,
            "day": times.normalize(),
            "place": ["EWR", None, "JFK"],
        }
    )
    values = np.arange(15, dtype=float).reshape(3, 5, 1)

    points = shap_points(sample, values, make_params(**kinds)).set_index(["column", "line"])

    assert points.loc["at", "value"].tolist()[:2] == [6.5, 18.0]
    assert points.loc["at", "axis"].iloc[0] == "at, hour of the day"
    assert points.loc["day", "value"].tolist()[:2] == pytest.approx([2013.0, 2013 + 120 / 366], abs=1e-6)
    assert points.loc["day", "axis"].iloc[0] == "day, year"
    assert points.loc["rain", "axis"].iloc[0] == "rain (mm)"
    assert points.loc["rain", "rank"].tolist() == [0.25, 0.25, 1.0]
    assert points.loc["wind", "rank"].fillna(-1).tolist() == [0.0, -1, 1.0]
    assert points.loc["place", "rank"].isna().all()
    assert points.loc["place", "kind"].tolist() == ["category"] * 3


def test_points_of_equal_contribution_lie_side_by_side() -> None:
    sample = pd.DataFrame({"line": range(5), "wind": range(5), "rain": range(5)})
    values = np.array([[0.5, 9.0]] * 3 + [[2.0, 0.0]] * 2)[..., None]

    points = shap_points(sample, values, make_params()).set_index("column")

    assert points.loc["wind", "offset"].tolist() == [-1.0, 0.0, 1.0, -0.5, 0.5]
    assert points["offset"].abs().max() == 1.0
