"""Names of columns that somebody's file has, and a bundle whose fields have them."""

from pathlib import Path

import numpy as np

from mlops_pkg.bundle.manifest import MODEL
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.portable.graph import add_outputs, new_graph, serialize
from tests.toy import seal, write_bundle

NAMES = (
    *("Sample Number", "价格 (EUR)", "größe", "class", "2nd.value", "a[0]", "a.b", "x:1", "self", "split", "row", "no"),
    *('quo"te', "it's", "a`b|c", "<b>", "{x}", "${y}", "%s", "# no", "- a: b", "back\\slash", "a,b;c", "Name  two"),
    *("answer", "margin", ":answer", "Add:3", "constant:1", "model", "label", "__class__", "None", "価" * 40),
)
NFC, NFD = "größe", "gro\u0308ße"


def named_bundle(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A bundle with a number for each name, whose prediction is the sum of each number times its place from 1."""
    inputs = dict.fromkeys(names, "number")
    g = new_graph(inputs)
    total = g.constant(np.array([0.0]))
    for place, name in enumerate(names, 1):
        total = g.op("Add", total, g.op("Mul", name, g.constant(float(place) + 0.5)))
    add_outputs(g, total, total)
    fields = tuple(Field(name, "number", nullable=False) for name in names)
    write_bundle(folder, signature=Signature("regression", "sum", None, fields))
    (folder / MODEL).write_bytes(serialize(g, inputs))
    return seal(folder)


def expected_sum(values: list[float]) -> float:
    """What the bundle predicts for a record of these values, in the order of its fields."""
    return sum(value * (place + 0.5) for place, value in enumerate(values, 1))
