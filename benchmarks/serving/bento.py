"""The fitted pipeline as a service of BentoML; runs in the environment of the peers."""

import json
from pathlib import Path
from typing import Any

import bentoml
import pandas as pd

from mlops_pkg.portable.persistence import load_model


@bentoml.service(workers=1)
class Service:
    """One API, which takes the same records as this project's server."""

    kept = bentoml.models.BentoModel("pipeline:latest")

    def __init__(self) -> None:
        """Read the fitted pipeline."""
        self.model = load_model(Path(self.kept.path_of("model.skops")))
        self.signature = json.loads(Path(self.kept.path_of("signature.json")).read_text())

    @bentoml.api
    def predict(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer a record."""
        frame = pd.DataFrame(records, columns=[field["name"] for field in self.signature["fields"]])
        for field in self.signature["fields"]:
            if field["kind"] == "datetime":
                frame[field["name"]] = pd.to_datetime(frame[field["name"]])
            elif field["kind"] == "number":
                frame[field["name"]] = frame[field["name"]].astype(float)
        if self.signature["task"] == "regression":
            return [{"prediction": value} for value in self.model.predict(frame).tolist()]
        return [{"probability": p, "label": int(p >= self.signature["threshold"])} for p in self._probability(frame)]

    def _probability(self, frame: pd.DataFrame) -> list[float]:
        return self.model.predict_proba(frame)[:, 1].tolist()
