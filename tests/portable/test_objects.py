"""A pipeline of Python objects: asked as a graph is asked, and loaded only as far as it is trusted."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feature_engine.datetime import DatetimeFeatures
from feature_engine.encoding import OrdinalEncoder
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline

from mlops_pkg.portable.export import feeds, graph_scores
from mlops_pkg.portable.margins import pipeline_scores
from mlops_pkg.portable.objects import (
    PipelineSession,
    digest_of_definition,
    list_packages,
    list_types,
    open_pipeline,
)
from mlops_pkg.portable.persistence import dump_model
from tests.portable.cases import fitted

KINDS = {"origin": "category", "wind": "number", "start": "datetime"}
OWN = '''
from sklearn.base import BaseEstimator, TransformerMixin


class Halves(TransformerMixin, BaseEstimator):
    """Divide a column by two."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.assign(wind=X["wind"] / 2)
'''


def frame(rows: int = 200) -> pd.DataFrame:
    """Return records of three kinds, none with a value missing."""
    generator = np.random.default_rng(0)
    starts = pd.Timestamp("2013-01-01") + pd.to_timedelta(generator.integers(0, 10**6, rows), unit="m")
    origin = pd.Series(generator.choice(["EWR", "JFK", "LGA"], rows), dtype="str")
    return pd.DataFrame({"origin": origin, "wind": generator.normal(8, 3, rows), "start": starts})


def fit(*steps: Any, classes: int = 2, model: Any = None) -> Pipeline:
    """Return a pipeline of raw records, with more steps before the estimator."""
    rows = frame()
    first = [
        ("encode", OrdinalEncoder(encoding_method="arbitrary", variables=["origin"])),
        ("times", DatetimeFeatures(variables=["start"], features_to_extract=["hour", "month"])),
    ]
    named = [(f"own{number}", step) for number, step in enumerate(steps)]
    pipeline = Pipeline([*named, *first, ("model", model or GaussianNB())])
    return pipeline.fit(rows, np.arange(len(rows)) % classes)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the module of a class that is not trusted, which can be imported as `own_steps`."""
    (tmp_path / "own_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_steps", raising=False)
    return tmp_path / "own_steps.py"


@pytest.mark.parametrize("classes", [2, 4])
def test_a_session_answers_as_its_pipeline(classes: int) -> None:
    pipeline, rows = fit(classes=classes), frame()
    session = open_pipeline(dump_model(pipeline), KINDS, {})

    margin, answer = graph_scores(session, rows, KINDS, rows=64)  # type: ignore[arg-type]

    expected = pipeline_scores(pipeline, rows)
    assert answer.shape == ((200,) if classes == 2 else (200, 4))
    np.testing.assert_array_equal(margin, expected[0])
    np.testing.assert_array_equal(answer, expected[1])


def test_a_missing_value_arrives_as_it_did_in_training() -> None:
    it = fitted("HistGradientBoostingClassifier two classes")
    session = PipelineSession(it.pipeline, it.case.inputs)

    np.testing.assert_array_equal(
        graph_scores(session, it.frame, it.case.inputs)[1],  # type: ignore[arg-type]
        pipeline_scores(it.pipeline, it.frame)[1],
    )


def test_a_row_that_is_refused_has_no_answer_and_the_others_have_theirs() -> None:
    pipeline, rows = fit(), frame(6)
    rows.loc[2, "wind"] = np.nan  # the estimator takes no missing value

    [answer] = PipelineSession(pipeline, KINDS).run(["answer"], feeds(rows, KINDS))

    assert np.flatnonzero(np.isnan(answer)).tolist() == [2]


def test_inputs_and_outputs_are_described_as_those_of_a_graph() -> None:
    session = PipelineSession(fit(classes=3), KINDS)

    assert [(one.name, one.type) for one in session.get_inputs()] == [
        ("origin", "tensor(string)"),
        ("wind", "tensor(double)"),
        ("start", "tensor(int64)"),
    ]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [
        ("margin", ["rows", 3]),
        ("answer", ["rows", 3]),
    ]


def test_the_types_and_packages_of_a_file_are_listed(own: Path) -> None:
    from own_steps import Halves  # type: ignore[import-not-found]

    assert list_types(dump_model(fit())) == []
    content = dump_model(fit(Halves()))
    assert list_types(content) == ["own_steps.Halves"]
    assert {"sklearn", "feature_engine", "own_steps"} <= set(list_packages(content))


def test_a_type_is_loaded_only_if_it_is_trusted_and_the_same(own: Path) -> None:
    from own_steps import Halves

    content, rows = dump_model(pipeline := fit(Halves())), frame()
    types = {"own_steps.Halves": digest_of_definition("own_steps.Halves")}

    session = open_pipeline(content, KINDS, types, ["own_steps.Halves"])
    np.testing.assert_array_equal(session.run(["answer"], feeds(rows, KINDS))[0], pipeline_scores(pipeline, rows)[1])

    with pytest.raises(ValueError, match=r"not trusted: own_steps\.Halves; allow each .* --trust own_steps\.Halves"):
        open_pipeline(content, KINDS, types)
    own.write_text(OWN.replace("/ 2", "/ 3"))
    with pytest.raises(ValueError, match=r"^own_steps\.Halves is defined otherwise here"):
        open_pipeline(content, KINDS, types, ["own_steps.Halves"])


def test_a_type_whose_module_is_not_installed_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from own_steps import Halves

    content = dump_model(fit(Halves()))
    own.unlink()
    monkeypatch.delitem(sys.modules, "own_steps")

    with pytest.raises(ValueError, match=r"it holds own_steps\.Halves, and no such module is installed"):
        open_pipeline(content, KINDS, {"own_steps.Halves": ""}, ["own_steps.Halves"])


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_file_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="^cannot be read: "):
        open_pipeline(dump_model(fit(model=LogisticRegression()))[:cut], KINDS, {})


@pytest.mark.parametrize(
    "estimator",
    [
        CalibratedClassifierCV(GaussianNB()),
        GaussianProcessClassifier(),
        StackingClassifier([("bayes", GaussianNB()), ("linear", LogisticRegression())]),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_of_scikit_learn_need_no_trust(estimator: Any) -> None:
    pipeline, rows = fit(model=estimator), frame(20)

    [answer] = open_pipeline(dump_model(pipeline), KINDS, {}).run(["answer"], feeds(rows, KINDS))

    np.testing.assert_array_equal(answer, pipeline_scores(pipeline, rows)[1])
