"""Two files that should be equal, and the first difference between them."""

from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")

from mlops_pkg.core.differences import bytes_difference, file_difference, table_difference  # noqa: E402

NAN = float("nan")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"a": [1.0, NAN]}, "column b: in production alone"),
        ({"a": [1.0, NAN], "b": ["x", None], "c": [1, 2]}, "column c: in research alone"),
        ({"b": ["x", None], "a": [1.0, NAN]}, "columns in another order: column 0 is a in production, b in research"),
        ({"a": [1.0], "b": ["x"]}, "2 rows in production, 1 in research"),
        ({"a": [1.0, None], "b": ["x", None]}, "column a, row 1 (the first is 0): nan in production, None in research"),
        ({"a": [1.0, NAN], "b": ["x", ""]}, "column b, row 1 (the first is 0): None in production, '' in research"),
        ({"a": [1.0, NAN], "b": ["x", None]}, None),
    ],
)
def test_tables_are_compared_from_the_outside_in(other: dict[str, list[object]], told: str | None) -> None:
    production = pa.table({"a": [1.0, NAN], "b": ["x", None]})

    assert table_difference(production, pa.table(other)) == told


def test_negative_zero_is_not_zero() -> None:
    told = table_difference(pa.table({"a": [0.0]}), pa.table({"a": [-0.0]}))

    assert told == "column a, row 0 (the first is 0): 0.0 in production, -0.0 in research"


def test_shorter_file_differs_where_it_ends() -> None:
    assert "from offset 2 on (3 bytes in production, 2 in research)" in bytes_difference(b"abc", b"ab")


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "told"),
    [
        ("roc.csv", "a\n1\n", "a\n2\n", "column a, row 0 (the first is 0): '1' recorded, '2' rebuilt"),
        ("roc.csv", "a\n1\n", "b\n1\n", "column a: recorded alone"),
        ("rows.json", '{"read": 1}', '{"read": 2}', "read: 1 recorded, 2 rebuilt"),
        ("rows.json", "{}", '{"read": 2}', "read: rebuilt alone"),
        ("card.md", "a", "b", "bytes differ from offset 0 on (1 bytes recorded, 1 rebuilt)"),
    ],
)
def test_the_two_sides_are_named_as_the_caller_names_them(
    tmp_path: Path, name: str, ours: str, theirs: str, told: str
) -> None:
    for side, text in (("ours", ours), ("theirs", theirs)):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_text(text)

    assert file_difference(tmp_path / "ours" / name, tmp_path / "theirs" / name, ("recorded", "rebuilt")) == told
