"""The toy project of the proofs, for what edits notebooks and modules."""

from tests.proof.conftest import template

__all__ = ["template"]
