"""What an explanation costs: one record explained against one record answered, and shap's TreeExplainer beside it.

    python -m benchmarks.explanation

Run it after `make run`. The ways are timed in turns within one run: ratios count, single times do not. The graph is
also timed without its output `features`, to show that who does not ask for an explanation pays nothing. The figures
go to benchmarks/explanation.json.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import shap

from mlops_pkg.bundle.explanation import Explainer
from mlops_pkg.bundle.manifest import EXPLANATION, MODEL
from mlops_pkg.bundle.predictor import Predictor, open_session
from mlops_pkg.core.params import load_params
from mlops_pkg.core.workspace import Workspace, read_table
from mlops_pkg.modelling.models import read_model
from mlops_pkg.portable.export import feeds
from benchmarks.inference import in_turns

HERE = Path(__file__).parent
ROWS = 1000


def without_features(content: bytes) -> bytes:
    """The graph without the output that explanations need."""
    model = onnx.load_from_string(content)
    for parts in (model.graph.output, model.graph.node):
        kept = [part for part in parts if part.name != "features" and "features" not in getattr(part, "output", ())]
        del parts[:]
        parts.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))


def as_record(row: pd.Series) -> dict[str, Any]:
    """A row as a client sends it."""
    values = {name: None if pd.isna(value) else value for name, value in row.items()}
    return {name: value.isoformat() if isinstance(value, pd.Timestamp) else value for name, value in values.items()}


def main() -> None:
    """Measure, and write the figures."""
    workspace = Workspace.find()
    bundle, inputs = workspace.root / "artifacts" / "package", load_params(workspace.params).data.kinds
    rows = read_table(workspace.input("ingest", "test.parquet"))[list(inputs)].head(ROWS)
    model, predictor = read_model(workspace.input("train", "model.skops")), Predictor.load(bundle)
    X, record = model[:-1].transform(rows), as_record(rows.iloc[0])
    tree = shap.TreeExplainer(model[-1], feature_perturbation="tree_path_dependent")
    content = (bundle / MODEL).read_bytes()
    plain, with_features = open_session(without_features(content)), open_session(content)
    one, many = feeds(rows.head(1), inputs), feeds(rows, inputs)
    begun = time.perf_counter()
    Explainer((bundle / EXPLANATION).read_bytes())
    opened = time.perf_counter() - begun
    single = in_turns(
        {
            "predict": lambda: predictor.predict([record]),
            "explain": lambda: predictor.explain([record]),
            "shap": lambda: tree.shap_values(X.head(1), check_additivity=False),
            "graph": lambda: plain.run(["answer"], one),
            "graph with features": lambda: with_features.run(["answer"], one),
        },
        {"predict": 200, "explain": 20, "shap": 20, "graph": 500, "graph with features": 500},
        rounds=15,
    )
    batch = in_turns(
        {
            "graph": lambda: plain.run(["answer"], many),
            "graph with features": lambda: with_features.run(["answer"], many),
        },
        {"graph": 20, "graph with features": 20},
        rounds=15,
    )
    found = predictor.explain(rows)
    by_feature = np.array([predictor.explainer.terms.contributions(x)[0] for x in X.to_numpy(np.float64)])
    expected = tree.shap_values(X, check_additivity=False)
    pairs = (plain.run(["margin", "answer"], many), with_features.run(["margin", "answer"], many))
    figures = {
        "one_record_ms": {name: round(value * 1e3, 4) for name, value in single.items()},
        "explain_to_predict": round(single["explain"] / single["predict"], 1),
        "explain_to_graph": round(single["explain"] / single["graph"], 1),
        "unasked_features": {
            "one_record": round(single["graph with features"] / single["graph"], 3),
            f"{ROWS}_rows": round(batch["graph with features"] / batch["graph"], 3),
            "equal_bits": all(a.tobytes() == b.tobytes() for a, b in zip(*pairs, strict=True)),
        },
        "file_kb": round((bundle / EXPLANATION).stat().st_size / 1024),
        "open_seconds": round(opened, 3),
        "largest_difference": {
            "sum_to_margin": float(np.abs(found.base + found.contributions.sum(axis=1) - found.margin).max()),
            "to_shap": float(np.abs(by_feature - expected).max()),
        },
    }
    (HERE / "explanation.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
