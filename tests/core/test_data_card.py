"""The data card: every row accounted for, every column described, and no value of a personal one."""

from statistics import median_low
from typing import Any

import pandas as pd
import pytest

from mlops_pkg.core.data_card import make_data_card
from mlops_pkg.core.params import Data

ROWS: dict[str, Any] = {
    "tables": {"visits": {"read": 1007, "rejected": 3}},
    "steps": [{"step": "select", "why": "a|b", "before": 1004, "after": 1004}],
}
REJECTS = pd.DataFrame(
    {
        "table": ["visits"] * 3,
        "line": [2, 3, 4],
        "column": ["age", "age", None],
        "value": ["-7", "-9", None],
        "reason": ["is below 0", "is below 0", "another row has the same name"],
    }
)


def frame(rows: int) -> pd.DataFrame:
    """Return rows of three columns and a target; every fourth age is missing."""
    ages = pd.Series([None if row % 4 == 0 else float(row % 90) for row in range(rows)], dtype="float64")
    names = pd.Series([f"Ada {row}" for row in range(rows)], dtype="str")
    wards = pd.Series(["A|1" if row % 3 else "B" for row in range(rows)], dtype="str")
    return pd.DataFrame({"age": ages, "name": names, "ward": wards, "long": [row % 2 for row in range(rows)]})


def card(target: dict[str, Any] | None = None, splits: dict[str, pd.DataFrame] | None = None, **values: Any) -> str:
    """Return the card of 1,004 visits."""
    columns: dict[str, Any] = {
        "age": {"kind": "number", "unit": "years", "minimum": 0, "personal": True},
        "name": {"kind": "category", "personal": True, "nullable": False},
        "ward": {"kind": "category"},
    }
    said = {
        "source": {"folder": "toy"},
        "target": target or {"name": "long", "positive_above": 2},
        "split": {"by": "month", "train": [1], "validation": [2], "test": [3], "live": [4]},
        "known_later": [],
        "columns": columns,
    }
    parts = {name: frame(rows) for name, rows in (("train", 700), ("validation", 100), ("test", 104), ("live", 100))}
    return make_data_card(Data.model_validate({**said, **values}), ROWS, splits or parts, REJECTS)


def test_no_value_of_a_personal_column_is_shown() -> None:
    said = card()

    assert "## Personal data\n\n`age`, `name`. No value" in said
    assert "| `name` | category |  | not shown | 0.0% | 0.0% | 0.0% | 0.0% | false | yes |" in said
    assert "| `age` | number, years | from 0 | not shown | 25.0% |" in said
    for value in ("Ada", "89", "-7", "-9"):
        assert value not in said, f"{value} is personal data"


def test_every_row_is_accounted_for() -> None:
    said = card()

    assert "| train | month 1 | 700 | 0: 50.0%, 1: 50.0% |" in said
    assert "| visits | 1,007 | 3 |" in said
    assert "| select | a\\|b | 1,004 | 1,004 |" in said
    assert said.index("| visits | age | is below 0 | 2 |") < said.index(
        "| visits |  | another row has the same name | 1 |"
    )


def test_a_column_is_described_by_its_training_rows() -> None:
    said = card(columns={"age": {"kind": "number"}, "ward": {"kind": "category"}})

    middle = median_low(frame(700)["age"].dropna())
    assert f"| `age` | number |  | 0 to 89, median {middle:g} | 25.0% |" in said
    assert "2 values, most often `A\\|1`, 66.6%" in said
    assert "No column is marked as personal data" in said


def test_a_license_is_told_or_asked_for() -> None:
    assert "## License\n\nCC-BY-4.0\n" in card(license="CC-BY-4.0")
    assert "## License\n\nNot stated; write it as `data.license` in params.yaml.\n" in card()


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ({"name": "days", "unit": "days"}, [1.0, 2.0, 3.0, 6.0], "mean 3, standard deviation 2.16025"),
        ({"name": "days", "labels": ["a", "b", "c", "d", "e", "f"]}, [0, 0, 1, 5], "a: 50.0%, b: 25.0%, c: 0.0%"),
    ],
)
def test_the_target_is_told_by_split(target: dict[str, Any], values: list[Any], expected: str) -> None:
    part = frame(4).drop(columns="long").assign(days=values)
    said = card(target, dict.fromkeys(("train", "validation", "test", "live"), part))

    assert f"| test | month 3 | 4 | {expected}" in said
