"""The team of the registry's tests."""

from tests.registry.conftest import models, team

__all__ = ["models", "team"]
