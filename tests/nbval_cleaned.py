"""A pytest plugin: nbval reads cleaned notebooks.

nbdev_clean takes the execution counts and keeps the outputs. nbval takes a cell with outputs and no count for one that
never ran, and fails it. With the count given back, it compares.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is not None and cell.get("outputs"):
            cell.execution_count = 1
