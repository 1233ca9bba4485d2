"""A bundle to score with."""

from pathlib import Path

import pytest

from tests.toy import write_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle; read it."""
    return write_bundle(tmp_path_factory.mktemp("toy"))
