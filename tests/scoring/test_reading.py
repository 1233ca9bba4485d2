"""A file that is scored is read as ingest has read the training data, whatever the file looks like."""

import gzip
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_pkg.bundle.file_format import FileFormat
from mlops_pkg.bundle.signature import Field
from mlops_pkg.core import params
from mlops_pkg.core.tables import contract, described, parse, read_raw, text_format
from mlops_pkg.scoring.blocks import csv_rows, open_source
from mlops_pkg.scoring.scores import from_parquet, from_text
from tests.forms import write_sheets, write_table

FIELDS = (Field("town", "category", True), Field("price", "number", True), Field("at", "datetime", True))
COLUMNS = {field.name: params.Column(kind=field.kind) for field in FIELDS}
ROWS = [
    ("Zürich", "1.5", "2013-11-27T22:00:00Z"),
    ("NA", "NA", "NA"),
    ("", "", ""),
    ("?", "-2e3", "2013-11-27 17:00:00-05:00"),
    ("true", "+7", "2013-11-27"),
    ("nan", "nan", "yesterday"),
    (" ", " 1", "2013-02-30"),
    ("1.5", "1_000", "2013-11-27T22:00:00.25"),
    ('a "b", c;d', "inf", "27.11.2013 22:00"),
    ("None", "0x10", "2013-11-27T22:00"),
]


def by_ingest(path: Path, told: dict[str, Any]) -> tuple[pd.DataFrame, set[tuple[int, str]]]:
    """What ingest reads, and the cells that it rejects."""
    written = params.FileFormat(**told)
    data = params.Data.model_construct(columns=COLUMNS)
    schema = contract({name: described(data, name) for name in COLUMNS}, key=[])
    raw = read_raw(path, list(COLUMNS), written)
    frame, rejects = parse(raw, schema, text_format(path, written))
    return frame, {(line - 2, column) for line, column in zip(rejects["line"], rejects["column"], strict=True)}


def by_predict(path: Path, told: dict[str, Any]) -> tuple[dict[str, list[Any]], set[tuple[int, str]]]:
    """What `predict` reads, and the cells that are no value of their column."""
    written = FileFormat(**told)
    source = open_source(path, list(COLUMNS), written)
    values: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    wrong = set()
    for block, _ in source.blocks:
        cells = block
        if isinstance(block, bytes):
            rows = csv_rows(block, written.separator)
            cells = dict(zip(source.names, zip(*rows, strict=True), strict=True))
        for field in FIELDS:
            read = from_text if isinstance(block, bytes) else from_parquet
            column, rejects = read(cells[field.name], field, written)
            column = column.to_pylist() if isinstance(column, pa.Array) else list(column)
            first = len(values[field.name])
            values[field.name] += column
            wrong |= {(first + reject.record, field.name) for reject in rejects}
            if field.kind == "number":
                wrong |= {(first + row, field.name) for row, value in enumerate(column) if isinstance(value, str)}
    return values, wrong


def assert_read_alike(path: Path, told: dict[str, Any]) -> pd.DataFrame:
    """Pass where both read the same values and refuse the same cells; return what they read."""
    frame, refused = by_ingest(path, told)
    values, wrong = by_predict(path, told)
    assert wrong == refused
    for row in range(len(frame)):
        for name in COLUMNS:
            ours, theirs = frame[name].iloc[row], values[name][row]
            if (row, name) in wrong:
                continue
            if pd.isna(ours):
                assert theirs == "" or theirs is None or pd.isna(theirs), (row, name, theirs)
            elif name == "at":
                assert np.datetime64(ours) == np.datetime64(theirs), (row, name)
            else:
                assert ours == theirs, (row, name)
    return frame


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize("missing", [("NA",), ("NA", "?", "None", "nan")])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_file_of_any_format(separator: str, missing: tuple[str, ...], encoding: str, tmp_path: Path) -> None:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    lines = [separator.join(map(cell, row)) for row in (("town", "price", "at"), *ROWS)]
    path = tmp_path / "in.csv"
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))

    read = assert_read_alike(path, {"separator": separator, "missing": missing, "encoding": encoding})

    assert read["at"].iloc[3] == read["at"].iloc[0] == datetime(2013, 11, 27, 22)
    assert read["town"].iloc[0] == "Zürich"
    packed = tmp_path / "in.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert_read_alike(packed, {"separator": separator, "missing": missing, "encoding": encoding})


def test_a_decimal_comma_and_a_format_of_times(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    rows = ["Rye;1,5;27.11.2013 22:00", "Rye;1.5;2013-11-27", "Rye;1.234,5;", "Rye;-,5e1;1.1.2013 5:00", "Rye;,;NA"]
    path.write_text("\n".join(["town;price;at", *rows, ""]))
    told = {"separator": ";", "decimal": ",", "times": {"at": "%d.%m.%Y %H:%M"}}

    read = assert_read_alike(path, told)

    assert read["price"].iloc[[0, 3]].tolist() == [1.5, -5.0]
    assert read["price"].isna().tolist() == [False, True, True, False, True], "a point is no decimal mark here"
    assert by_predict(path, told)[1] == {(1, "price"), (1, "at"), (2, "price"), (4, "price")}


@pytest.mark.parametrize(
    ("town", "price", "at"),
    [
        (
            pa.array(["a", "", None]),
            pa.array([0.1, None, float("nan")], pa.float32()),
            pa.array([1, 2, None], pa.date32()),
        ),
        (
            pa.array([True, False, None]),
            pa.array([Decimal("1.50"), None, Decimal(-3)]),
            pa.array([1, 2, None], pa.timestamp("ns")),
        ),
        (pa.array([1, 2, None]), pa.array(["1.5", "far", None]), pa.array(["2013-01-01", "x", None])),
        (
            pa.array(["a", "b", None]).dictionary_encode(),
            pa.array([2**53 + 1, None, 3]),
            pa.array(
                [datetime(2013, 1, 31, 5, 0, 0, 1, tzinfo=UTC), None, None], pa.timestamp("us", "America/New_York")
            ),
        ),
        (pa.array([0.5, float("nan"), None]), pa.array([True, False, None]), pa.array([None, None, None], pa.null())),
    ],
)
@pytest.mark.parametrize("name", ["in.parquet", "in.feather", "file.arrow", "stream.arrow"])
def test_a_typed_file_of_any_types(name: str, town: pa.Array, price: pa.Array, at: pa.Array, tmp_path: Path) -> None:
    write_table(pa.table({"town": town, "price": price, "at": at}), tmp_path / name)

    assert_read_alike(tmp_path / name, {"decimal": ",", "separator": ";", "missing": ("a",)})
    if pa.types.is_temporal(at.type):
        assert_read_alike(tmp_path / name, {"times": {"at": "%d.%m.%Y"}})


@pytest.mark.parametrize("name", ["in.parquet", "in.feather"])
def test_times_in_the_text_of_a_typed_file_have_their_format(name: str, tmp_path: Path) -> None:
    table = pa.table({"town": ["a", "b"], "price": ["1.5", "2"], "at": ["27.11.2013", "2013-11-27"]})
    write_table(table, tmp_path / name)

    read = assert_read_alike(tmp_path / name, {"times": {"at": "%d.%m.%Y"}, "decimal": ",", "separator": ";"})

    assert read["at"].iloc[0] == datetime(2013, 11, 27)
    assert read["at"].isna().tolist() == [False, True]


MARKS = [(",", "."), (",", " "), (",", "\u00a0"), (".", "'"), (".", ","), (",", "")]


@pytest.mark.parametrize(("decimal", "thousands"), MARKS)
def test_marks_between_thousands(decimal: str, thousands: str, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    numbers = [
        f"1{thousands}234{thousands}567{decimal}5",
        f"-999{decimal}25",
        f"1{thousands}000",
        f"1{thousands}00",
        "1234",
    ]
    rows = [*numbers, f"12{thousands}34", f"1234{thousands}567", f"{thousands}123", "1x5", f"1{decimal}234{thousands}5"]
    path.write_text("\n".join(["town;price;at", *(f'Rye;"{row}";' for row in rows), ""]), encoding="utf-8")

    read = assert_read_alike(path, {"separator": ";", "decimal": decimal, "thousands": thousands})

    if thousands:
        assert read["price"].iloc[:3].tolist() == [1_234_567.5, -999.25, 1000]
        assert read["price"].isna().tolist() == [False] * 3 + [True, False] + [True] * 5


def test_line_breaks_in_cells_a_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes('\ufeff"town","price",at\r\n"Rye\r\n(Sussex)",1,2013-01-01\r\n\r\n"a ""b""\n",2,\r\n'.encode())

    read = assert_read_alike(path, {})

    assert read["town"].tolist() == ["Rye\r\n(Sussex)", 'a "b"\n']


def test_days_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    cells = ["41605,9166666667", "41_605", "60", "61", "2013-11-27", "-1", "9999999", "", "41605.25"]
    path.write_text("\n".join(["town;price;at", *(f"Rye;1;{cell}" for cell in cells), ""]))

    read = assert_read_alike(path, {"separator": ";", "decimal": ",", "times": {"at": "excel"}})

    assert read["at"].iloc[0] == datetime(2013, 11, 27, 22)
    assert read["at"].iloc[3] == datetime(1900, 3, 1)
    assert read["at"].isna().tolist() == [False, True, True, False, True, True, True, True, False]


def test_a_time_without_a_zone_is_refused_where_all_must_have_one(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    cells = ["2013-11-27T22:00:00+02:00", "2013-11-27 22:00Z", "2013-11-27T22:00", "2013-11-27", "", "soon"]
    path.write_text("\n".join(["town,price,at", *(f"Rye,1,{cell}" for cell in cells), ""]))

    read = assert_read_alike(path, {"times": {"at": "zoned"}})

    assert read["at"].iloc[:2].tolist() == [datetime(2013, 11, 27, 20), datetime(2013, 11, 27, 22)]
    assert read["at"].isna().tolist() == [False, False, True, True, True, True]
    assert len(by_predict(path, {"times": {"at": "zoned"}})[1]) == 3


CELLS = [
    ["Zürich", 1.5, datetime(2013, 11, 27, 22)],
    [7, 2.0, date(2013, 11, 27)],
    [True, "3,25", "27.11.2013"],
    [None, None, None],
    ['a;b\n"c"', 1e20, 41605.25],
    [datetime(2013, 1, 1), "far", "soon"],
    ["007", "NA", 0.5],
]


@pytest.mark.parametrize("times", [{}, {"at": "%d.%m.%Y"}, {"at": "excel"}, {"at": "zoned"}, {"at": "%d.%m.%Y %z"}])
@pytest.mark.parametrize("decimal", [".", ","])
def test_a_sheet_of_any_cells(decimal: str, times: dict[str, str], tmp_path: Path) -> None:
    path = write_sheets(tmp_path / "in.xlsx", {"first": [["x"]], "rows": [["town", "price", "at"], *CELLS]})

    read = assert_read_alike(path, {"separator": ";", "decimal": decimal, "times": times, "sheet": "rows"})

    assert read["town"].iloc[[0, 1, 2, 4, 6]].tolist() == ["Zürich", "7", "True", 'a;b\n"c"', "007"]
    assert read["price"].iloc[[0, 1, 4]].tolist() == [1.5, 2, 1e20]
    assert (read["price"].iloc[2] == 3.25) == (decimal == ",")
    when = read["at"].iloc[0]
    assert (when == datetime(2013, 11, 27, 22)) == (times in ({}, {"at": "excel"}))
    assert (read["at"].iloc[1] == datetime(2013, 11, 27)) == (times.get("at") not in ("zoned", "%d.%m.%Y %z"))
    assert (read["at"].iloc[4] == datetime(2013, 11, 27, 6)) == (times == {"at": "excel"})
