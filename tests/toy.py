"""A bundle that a reader can follow, for the tests of whoever answers from one."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlops_pkg.bundle.manifest import EXPLANATION, FILES, MANIFEST, MODEL, SIGNATURE, manifest_bytes
from mlops_pkg.bundle.signature import Field, Signature

TOY = Signature(
    task="classification",
    target="late",
    threshold=0.5,
    fields=(
        Field("origin", "category", nullable=False, categories=("EWR", "JFK")),
        Field("wind", "number", nullable=True, unit="miles per hour", minimum=-10, maximum=250),
        Field("start", "datetime", nullable=False),
    ),
)
RECORD = {"origin": "EWR", "wind": 2.0, "start": "2013-01-01T21:00"}
GRAPH = """
<ir_version: 10, opset_import: ["": 19, "ai.onnx.ml": 5]>
toy (string[n] origin, double[n] wind, int64[n] start) => (double[n] margin, double[n] answer)
<double[3] effect = {0.5, -0.5, 0}, double calm = {1.0}, double pace = {0.1}, double nines = {1e9},
 int64 hour = {3600000000}, int64 day = {24}>
{
    place = ai.onnx.ml.LabelEncoder <keys_strings = ["EWR", "JFK"], values_int64s = [0, 1], default_int64 = 2> (origin)
    by_place = Gather(effect, place)
    hours = Div(start, hour)
    hour_of_day = Mod(hours, day)
    as_double = Cast <to = 11> (hour_of_day)
    by_hour = Mul(as_double, pace)
    missing = IsNaN(wind)
    filled = Where(missing, calm, wind)
    by_wind = Log(filled)
    known = Add(by_place, by_hour)
    margin = Sub(known, by_wind)
    probability = Sigmoid(margin)
    long = Mul(probability, nines)
    whole = Round(long)
    answer = Div(whole, nines)
}
"""

KNOWN = "    known = Add(by_place, by_hour)\n"
EXPLAINED = GRAPH.replace("double[n] answer)", "double[n] answer, double[n,3] features)").replace(
    KNOWN,
    f"""{KNOWN}
    axis = Constant <value = int64[1] {{1}}> ()
    place_column = Unsqueeze(by_place, axis)
    hour_column = Unsqueeze(as_double, axis)
    wind_column = Unsqueeze(by_wind, axis)
    features = Concat <axis = 1> (place_column, hour_column, wind_column)
""",
)
# The margin as a sum of three features, each made from one field.
TERMS = {
    "coefficients": np.array([[1.0, 0.1, -1.0]]),
    "intercept": np.zeros(1),
    "means": np.array([0.25, 12.0, 0.5]),
    "shares": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),  # place: origin, hour: start, log: wind
}


def toy_answer(origin: str, wind: float | None, start: str) -> float:
    """What the graph answers to a record from after 1970."""
    effect = {"EWR": 0.5, "JFK": -0.5}.get(origin, 0.0)
    margin = effect + 0.1 * datetime.fromisoformat(start).hour - math.log(1.0 if wind is None else wind)
    return round(1 / (1 + math.exp(-margin)), 9)


def seal(folder: Path) -> Path:
    """The folder with a manifest of all that is in it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))
    return folder


def write_bundle(folder: Path, graph: str = GRAPH, signature: Signature = TOY) -> Path:
    """A sealed bundle of the toy model."""
    from onnx.parser import parse_model

    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES - {MANIFEST}:
        (folder / name).write_text(f"what {name} holds\n")
    (folder / MODEL).write_bytes(parse_model(graph).SerializeToString())
    about: dict[str, Any] = {"name": "toy", "description": "Late in the day"}
    (folder / SIGNATURE).write_text(json.dumps({**about, **signature.to_dict()}))
    return seal(folder)


def explained_bundle(folder: Path, terms: Mapping[str, np.ndarray] = TERMS, graph: str = EXPLAINED) -> Path:
    """A bundle of the toy model with an explanation."""
    from mlops_pkg.bundle.explanation import pack_explanation

    write_bundle(folder, graph)
    (folder / EXPLANATION).write_bytes(pack_explanation(terms))
    return seal(folder)
