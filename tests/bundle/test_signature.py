"""The signature: what a record must hold, unchanged by a trip through JSON."""

import dataclasses
import json

import pytest

from mlops_pkg.bundle.signature import Field, Signature

SIGNATURE = Signature(
    task="classification",
    target="late",
    threshold=0.25,
    fields=(
        Field("carrier", "category", nullable=False, categories=("AA", "Ü")),
        Field("unknown", "category", nullable=True, categories=()),
        Field("distance", "number", nullable=False, unit="miles", minimum=0.0, maximum=12000.0),
        Field("start", "datetime", nullable=True),
    ),
)


def test_a_signature_comes_back_from_json_as_it_was() -> None:
    text = json.dumps(SIGNATURE.to_dict(), allow_nan=False)

    assert Signature.from_dict(json.loads(text)) == SIGNATURE


def test_a_signature_without_a_threshold_comes_back_too() -> None:
    signature = dataclasses.replace(SIGNATURE, task="regression", threshold=None)

    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


def test_what_stands_beside_the_signature_does_not_disturb() -> None:
    values = {"name": "late-flights", "description": "a sentence", **SIGNATURE.to_dict()}

    assert Signature.from_dict(values) == SIGNATURE


def test_a_signature_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SIGNATURE.fields[0].nullable = True  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        SIGNATURE.threshold = 0.5  # type: ignore[misc]
