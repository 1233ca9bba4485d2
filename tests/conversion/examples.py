"""Fitted estimators with the terms of their margins, and what their graphs return for records."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.conversion.pmml import extract_link, find_link
from mlops_pkg.portable.export import explanation_terms, export, feeds
from tests.portable.cases import CASES, fitted

NO_SUM = ("KNeighborsClassifier", "KNeighborsRegressor", "SVR", "MLPClassifier", "MLPRegressor")  # over features
NO_LINK = ("SGDClassifier cause", "LGBMClassifier one against all")  # one class against all others
EXPLAINED = [name for name, case in CASES.items() if case.is_estimator and case.kind.rpartition(".")[2] not in NO_SUM]


@dataclass(frozen=True)
class Example:
    """A fitted estimator as a bundle would hold it."""

    columns: tuple[str, ...]
    terms: dict[str, np.ndarray]
    signature: Signature
    features: np.ndarray
    margin: np.ndarray
    answer: np.ndarray
    model: bytes  # the graph
    link: tuple[str, float]


@cache
def example(name: str, rows: int = 60) -> Example:
    """Return a case of `tests.portable.cases` with what its graph returns for some of its records."""
    it = fitted(name)
    classes = tuple(getattr(it.pipeline.steps[-1][1], "classes_", ()))
    fields = tuple(Field(column, kind, True) for column, kind in it.case.inputs.items())
    labels = tuple(one.item() if isinstance(one, np.generic) else one for one in classes)
    threshold = 0.5 if len(classes) == 2 else None
    task = "classification" if classes else "regression"
    signature = Signature(task, "target", threshold, fields, labels=labels)
    outputs = it.session.run(["features", "margin", "answer"], feeds(it.frame.head(rows), it.case.inputs))
    answered = np.isfinite(outputs[2].reshape(len(outputs[2]), -1)).all(axis=1)
    terms = explanation_terms(it.pipeline, it.case.inputs, it.frame)
    model = export(it.pipeline, it.case.inputs)
    link = find_link(extract_link(model), 1 if outputs[1].ndim == 1 else outputs[1].shape[1])
    return Example(it.case.columns, terms, signature, *(part[answered] for part in outputs), model, link)
