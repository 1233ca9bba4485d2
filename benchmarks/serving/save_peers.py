"""The fitted pipeline as MLflow and BentoML keep a model; runs in the environment of the peers.

    python -m benchmarks.serving.save_peers MODEL.skops SIGNATURE.json FOLDER

BentoML's store is where BENTOML_HOME says, MLflow's model is FOLDER.
"""

import json
import shutil
import sys
from pathlib import Path

import bentoml
import mlflow.sklearn
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from mlops_pkg.portable.persistence import TRUSTED, load_model

TYPES = {"category": DataType.string, "number": DataType.double, "datetime": DataType.datetime}
NAME = "pipeline"


def main(model: Path, signature: Path, folder: str) -> None:
    """Save both."""
    told = json.loads(signature.read_text())
    columns = [ColSpec(TYPES[f["kind"]], f["name"], required=not f["nullable"]) for f in told["fields"]]
    mlflow.sklearn.save_model(
        load_model(model), folder, signature=ModelSignature(Schema(columns)),
        serialization_format="skops", skops_trusted_types=list(TRUSTED),
        pyfunc_predict_fn="predict_proba" if told["task"] == "classification" else "predict", pip_requirements=[],
    )  # fmt: skip
    with bentoml.models.create(NAME) as kept:
        shutil.copy(model, kept.path_of("model.skops"))
        shutil.copy(signature, kept.path_of("signature.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
