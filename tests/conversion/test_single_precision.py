"""A graph in 32-bit floats: nothing in it is a double any more, and its answers are near those of the graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mlops_pkg.conversion.single_precision import single_precision_feeds, to_single_precision
from mlops_pkg.portable.export import export, feeds
from mlops_pkg.portable.graph import open_session
from tests.portable.cases import CASES, fitted

NEAR = {"XGBClassifier after a scaler": 0.85}  # XGBoost cuts at training values, and these are scaled in 32 bits here
ESTIMATORS = [name for name, case in CASES.items() if case.is_estimator]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_computes_in_floats_alone_and_close_to_the_graph(name: str) -> None:
    it = fitted(name)
    model = export(it.pipeline, it.case.inputs)
    inputs = feeds(it.frame, it.case.inputs)

    converted = to_single_precision(model)

    assert TensorProto.DOUBLE not in {tensor.data_type for tensor in onnx.load_from_string(converted).graph.initializer}
    session = open_session(converted)
    assert {item.type for item in session.get_outputs()} == {"tensor(float)"}
    expected = open_session(model).run(["answer"], inputs)[0]
    found = session.run(["answer"], single_precision_feeds(inputs))[0]
    assert (np.isnan(found) == np.isnan(expected)).mean() > 0.99
    near = np.isclose(found, expected, rtol=1e-3, atol=1e-3) | np.isnan(expected)
    assert near.mean() > NEAR.get(name, 0.98), "it is another model"
    assert to_single_precision(model) == converted, "equal models give equal bytes"
