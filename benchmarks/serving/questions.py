"""What the servers are asked, what the fitted pipeline answers, and how a reply compares with it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.peers import ROOT

BODIES = 512  # records that the load rotates through
ROWS, TABLES = 10_000, 8  # rows of an Arrow body, and bodies
CONSTANT_ANSWER = 0.123456789


@dataclass(frozen=True)
class Questions:
    """Records and tables, with what the fitted pipeline answers."""

    records: list[dict[str, Any]]
    answers: list[float]
    threshold: float | None
    tables: list[pd.DataFrame]
    table_answers: list[np.ndarray]
    inputs: dict[str, str]


def read_questions() -> Questions:
    """Rows from all over test and live."""
    from mlops_pkg.core.workspace import Workspace
    from mlops_pkg.proof.runtimes import predict_reference, read_subject

    workspace = Workspace.find()
    asked = predict_reference(workspace, read_subject(workspace.root))
    rows, signature = asked.rows[list(asked.inputs)], ROOT / "artifacts" / "package" / "signature.json"
    spread = np.linspace(0, len(rows) - 1, BODIES).astype(int)
    records = []
    for row in rows.iloc[spread].to_dict("records"):
        given = {name: None if pd.isna(value) else value for name, value in row.items()}
        moments = {name: given[name].isoformat() for name, kind in asked.inputs.items() if kind == "datetime"}
        records.append(given | {name: text for name, text in moments.items() if given[name] is not None})
    size = min(ROWS, len(rows))
    starts = [int(start) for start in np.linspace(0, len(rows) - size, TABLES)]
    return Questions(
        records, asked.answer[spread].tolist(), json.loads(signature.read_text())["threshold"],
        [rows.iloc[start : start + size] for start in starts],
        [asked.answer[start : start + size] for start in starts], asked.inputs,
    )  # fmt: skip


def constant_bundle(bundle: Path, folder: Path) -> Path:
    """The bundle with a graph that always answers the same."""
    from onnx import TensorProto, helper, numpy_helper

    from mlops_pkg.bundle.manifest import MANIFEST, MODEL, manifest_bytes
    from mlops_pkg.portable.graph import open_session

    shutil.copytree(bundle, folder)
    given = open_session((bundle / MODEL).read_bytes()).get_inputs()
    types = {"tensor(string)": TensorProto.STRING, "tensor(double)": TensorProto.DOUBLE}
    inputs = [helper.make_tensor_value_info(i.name, types.get(i.type, TensorProto.INT64), ["n"]) for i in given]
    value = numpy_helper.from_array(np.array([CONSTANT_ANSWER]))
    nodes = [helper.make_node("Shape", [given[0].name], ["rows"])]
    nodes += [helper.make_node("ConstantOfShape", ["rows"], [name], value=value) for name in ("margin", "answer")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n"]) for name in ("margin", "answer")]
    graph = helper.make_graph(nodes, "constant", inputs, outputs)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)])
    (folder / MODEL).write_bytes(model.SerializeToString())
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))
    return folder


def read_answers(body: bytes) -> list[tuple[float, int | None]]:
    """Answer and label of each record, where there is one, from the reply of whichever server."""
    told = json.loads(body)
    found: list[tuple[float, int | None]] = []
    for one in told["predictions"] if isinstance(told, dict) else told:
        if isinstance(one, dict):
            label = one["prediction"] if "probabilities" in one else one.get("label")
            found.append((one.get("probability", one.get("prediction")), label))
        else:
            found.append((one[1] if isinstance(one, list) else one, None))
    return found


def wrong(questions: Questions, number: int, body: bytes, digits: int | None) -> str | None:
    """How the one answer in a reply differs from that of the fitted pipeline; None where it does not."""
    [(answer, label)] = read_answers(body)
    expected = questions.answers[number]
    if (answer if digits is None else round(answer, digits)) != expected:
        return f"record {number}: {answer!r}, the fitted pipeline answers {expected!r}"
    if label is not None and questions.threshold is not None and label != int(expected >= questions.threshold):
        return f"record {number}: label {label}"
    return None
