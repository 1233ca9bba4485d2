"""Records: whatever the model was not made for is rejected with its reason, and the rest is read as it was meant."""

import dataclasses
import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_pkg.bundle.records import MISSING, Inputs, RecordsError, Reject, read, read_columns, read_records
from mlops_pkg.bundle.signature import Field, Signature
from tests.names import NFC, NFD

SIGNATURE = Signature(
    "classification",
    "late",
    0.5,
    (
        Field("origin", "category", nullable=False, categories=("EWR", "JFK")),
        Field("engine", "category", nullable=True, categories=("jet",)),
        Field("distance", "number", nullable=False, unit="miles", minimum=0, maximum=12_000),
        Field("temp", "number", nullable=True),
        Field("start", "datetime", nullable=False),
        Field("end", "datetime", nullable=True),
    ),
)
GOOD = {"origin": "JFK", "engine": "jet", "distance": 12.5, "temp": -3, "start": "2013-01-01", "end": None}
NOON = (dt.datetime(2013, 1, 1, 12) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)


class Airport(str):
    """Text that calls itself something else."""

    def __str__(self) -> str:
        return "an airport"


class Rude:
    """A value that does not even say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no")


def read_one(**changes: Any) -> Inputs:
    """A good record with some fields changed, as the graph takes it."""
    return read_records([{**GOOD, **changes}], SIGNATURE)


def all_of(data: Any, most: int = 8192) -> tuple[dict[str, list[Any]], list[bool], list[Reject]]:
    """All parts of some data: values by field, which records are accepted, rejects."""
    parts = list(read(data, SIGNATURE, most))
    feeds = {field.name: [x for part in parts for x in part.feeds[field.name].tolist()] for field in SIGNATURE.fields}
    return feeds, [x for part in parts for x in part.accepted.tolist()], [x for part in parts for x in part.rejects]


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("origin", "never seen", "never seen"),
        ("origin", np.str_("JFK"), "JFK"),
        ("origin", Airport("JFK"), "JFK"),
        ("origin", "Zürich\0", "Zürich\0"),
        ("distance", 0, 0.0),
        ("distance", 12_000, 12_000.0),
        ("distance", np.int8(7), 7.0),
        ("distance", np.float32(0.5), 0.5),
        ("temp", -1e300, -1e300),
        ("temp", 2**53 + 1, float(2**53)),
        ("start", "2013-01-01T12:00", NOON),
        ("start", "2013-01-01 12:00:00.000000999", NOON),
        ("start", dt.datetime(2013, 1, 1, 12), NOON),
        ("start", dt.date(1970, 1, 2), 86_400_000_000),
        ("start", "2013-01-01T12:00Z", NOON),
        ("start", "2013-01-01 13:00:00.000 +0100", NOON),
        ("start", "2013-01-01T07:00-05", NOON),
        ("start", dt.datetime(2013, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1))), NOON),
        ("start", pd.Timestamp("2013-01-01T07:00", tz="America/New_York"), NOON),
        ("start", np.datetime64("2013-01-01T12", "h"), NOON),
        ("start", np.datetime64("1969-12-31T23:59:59.999999999", "ns"), -1),
        ("start", pd.Timestamp("2013-01-01T12:00"), NOON),
        ("start", "0001-01-01", -62_135_596_800_000_000),
    ],
)
def test_a_value_is_taken_as_it_was_meant(field: str, value: Any, taken: Any) -> None:
    inputs = read_one(**{field: value})

    assert inputs.rejects == []
    assert inputs.feeds[field].tolist() == [taken]
    assert type(inputs.feeds[field].tolist()[0]) is type(taken)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in ("engine", "temp", "end") for value in (None, math.nan, np.nan, pd.NA, pd.NaT)]
    + [("engine", ""), ("end", ""), ("end", np.datetime64("NaT")), ("temp", np.float32("nan"))],
)
def test_a_missing_value_is_missing_however_it_is_written(field: str, value: Any) -> None:
    kind = {"engine": "category", "temp": "number", "end": "datetime"}[field]

    inputs = read_one(**{field: value})

    assert inputs.rejects == []
    np.testing.assert_array_equal(inputs.feeds[field].tolist(), [MISSING[kind]])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("origin", None, "missing"),
        ("origin", "", "missing"),
        ("origin", 7, "expected text, found int"),
        ("origin", b"JFK", "expected text, found bytes"),
        ("origin", True, "expected text, found bool"),
        ("origin", ["JFK"], "expected text, found list"),
        ("origin", "\ud800", "not valid Unicode text"),
        ("distance", math.nan, "missing"),
        ("distance", "12", "expected a number, found text"),
        ("distance", "", "expected a number, found text"),
        ("distance", True, "expected a number, found bool"),
        ("distance", np.True_, "expected a number, found bool"),
        ("distance", 1j, "expected a number, found complex"),
        ("distance", Decimal(1), "expected a number, found Decimal"),
        ("distance", np.timedelta64(1, "s"), "expected a number, found timedelta"),
        ("distance", math.inf, "not a finite number"),
        ("temp", -math.inf, "not a finite number"),
        ("temp", 10**400, "too large for a double"),
        ("temp", np.longdouble("1e400"), "not a finite number"),
        ("distance", -0.001, "below the minimum of 0 miles"),
        ("distance", 12_001, "above the maximum of 12,000 miles"),
        ("start", None, "missing"),
        ("start", 1357041600, "expected a date and time, found int"),
        ("start", 1.5, "expected a date and time, found float"),
        ("start", dt.time(12), "expected a date and time, found time"),
        ("start", "2013-02-30", "not a date and time as ISO 8601 writes it"),
        ("start", "0000-01-01", "not a date and time as ISO 8601 writes it"),
        ("start", "20130101", "not a date and time as ISO 8601 writes it"),
        ("start", " " * 1_000_000, "not a date and time as ISO 8601 writes it"),
        ("start", "now", "not a date and time as ISO 8601 writes it"),
        ("start", "\u0662013-01-01", "not a date and time as ISO 8601 writes it"),
        ("start", "2013-01-01T12:00+24:00", "not a date and time as ISO 8601 writes it"),
        ("start", "2013-01-01Z", "not a date and time as ISO 8601 writes it"),
        ("start", "0001-01-01T00:00+01:00", "outside the years 1 to 9999"),
        ("start", dt.datetime(9999, 12, 31, 23, 30, tzinfo=dt.timezone(-dt.timedelta(hours=1))), "outside the years"),
        ("start", np.datetime64(300_000, "Y"), "outside the years 1 to 9999"),
        ("start", pd.Timestamp(np.datetime64(200_000, "Y")), "outside the years 1 to 9999"),
        ("start", Rude(), "expected a date and time, found Rude"),
    ],
)
def test_a_value_that_has_no_place_in_the_model_is_rejected_with_the_reason(
    field: str, value: Any, reason: str
) -> None:
    inputs = read_one(**{field: value})

    assert [(reject.record, reject.field) for reject in inputs.rejects] == [(0, field)]
    assert inputs.rejects[0].reason.startswith(reason)
    assert inputs.accepted.tolist() == [False]
    kind = next(known.kind for known in SIGNATURE.fields if known.name == field)
    np.testing.assert_array_equal(inputs.feeds[field].tolist(), [MISSING[kind]], "it would do harm in the graph")


def test_every_wrong_field_is_told_in_the_order_of_the_signature() -> None:
    records = [GOOD, {**GOOD, "start": "late", "origin": 1, "distance": -1}, GOOD, {**GOOD, "temp": "warm"}]

    inputs = read_records(records, SIGNATURE, first=100)

    assert [(reject.record, reject.field) for reject in inputs.rejects] == [
        (101, "origin"),
        (101, "distance"),
        (101, "start"),
        (103, "temp"),
    ]
    assert inputs.accepted.tolist() == [True, False, True, False]


def test_the_value_in_a_reject_is_short_and_safe() -> None:
    rejects = read_one(origin=Rude(), distance="x" * 1000, start=np.datetime64(300_000, "Y")).rejects

    assert [reject.value for reject in rejects] == ["<Rude>", "'" + "x" * 78 + "…", "301970"]


def test_a_field_that_may_be_missing_may_be_left_out() -> None:
    record = {key: value for key, value in GOOD.items() if key not in ("engine", "temp", "end")}

    assert read_records([record], SIGNATURE).rejects == []
    del record["origin"]
    assert read_records([record], SIGNATURE).rejects == [Reject(0, "origin", "", "missing")]


def test_a_misspelt_field_is_refused_with_the_nearest_name() -> None:
    rejects = read_one(tmep=20.0).rejects

    assert rejects == [Reject(0, "tmep", "20.0", "unknown field; did you mean 'temp'?")]


def test_a_name_means_the_same_however_its_letters_are_written() -> None:
    signature = dataclasses.replace(SIGNATURE, fields=(Field(NFC, "number", nullable=True),))

    inputs = [
        read_records([{NFD: 1.5}], signature),
        read_records([{f" {NFC}\n": 1.5}], signature),
        *read({NFD: [1.5]}, signature, 10),
        *read(pa.table({NFD: [1.5]}), signature, 10),
    ]

    assert [one.feeds[NFC].tolist() for one in inputs] == [[1.5]] * 4
    assert [one.rejects for one in inputs] == [[]] * 4


def test_two_names_that_are_the_same_are_told() -> None:
    signature = dataclasses.replace(SIGNATURE, fields=(Field(NFC, "number", nullable=True),))

    (reject,) = read_records([{NFC: 1, NFD: 2}], signature).rejects

    assert (reject.field, reject.reason) == (NFD, f"unknown field; did you mean '{NFC}'?")
    with pytest.raises(RecordsError, match="is there 2 times"):
        next(read({NFC: [1], NFD: [2]}, signature, 10))


def test_a_field_like_no_other_is_refused_with_all_names() -> None:
    rejects = read_records([{**GOOD, 5: 1}], SIGNATURE).rejects

    assert rejects == [Reject(0, "5", "1", "unknown field; valid names: origin, engine, distance, temp, start, end")]


def test_a_flood_of_unknown_fields_is_told_in_part() -> None:
    flood = {f"field {number}": number for number in range(100_000)}

    rejects = read_one(**flood).rejects

    assert len(rejects) == 10


@pytest.mark.parametrize("record", [None, 5, "JFK", ["JFK"], [("origin", "JFK")]])
def test_what_is_no_record_is_rejected_as_a_whole(record: Any) -> None:
    inputs = read_records([GOOD, record], SIGNATURE)

    assert [(reject.record, reject.field) for reject in inputs.rejects] == [(1, "")]
    assert inputs.rejects[0].reason.startswith("expected a mapping of field names to values, found ")


def test_no_records_are_no_inputs() -> None:
    assert list(read([], SIGNATURE, 10)) == []
    assert {name: len(values) for name, values in read_records([], SIGNATURE).feeds.items()} == dict.fromkeys(GOOD, 0)


# Columns that hold the same three records, each in its own way; the second one has no engine, temp and end.
BASE = {
    "origin": ["JFK", "EWR", "JFK"],
    "engine": ["jet", None, "jet"],
    "distance": [1, 2, 3],
    "temp": [1.5, None, -2.0],
    "start": ["2013-01-01T12:00:00"] * 3,
    "end": ["2013-01-01", None, "2013-01-02 01:02:03.5"],
}
WAYS: dict[str, tuple[str, Any]] = {
    "numpy text": ("origin", np.array(BASE["origin"])),
    "numpy StringDType": ("engine", np.array(BASE["engine"], dtype=np.dtypes.StringDType(na_object=None))),
    "objects": ("engine", np.array(["jet", math.nan, "jet"], dtype=object)),
    "pandas text": ("engine", pd.Series(BASE["engine"])),
    "pandas category": ("engine", pd.Series(BASE["engine"]).astype("category")),
    "arrow text": ("engine", pa.array(BASE["engine"])),
    "arrow large text": ("engine", pa.chunked_array([pa.array(BASE["engine"], pa.large_string())])),
    "arrow dictionary": ("engine", pa.chunked_array([pa.array(BASE["engine"]).dictionary_encode()])),
    "arrow two dictionaries": (
        "engine",
        pa.chunked_array([pa.array(["jet", None]).dictionary_encode(), pa.array(["jet"]).dictionary_encode()]),
    ),
    "tuple": ("distance", (1, 2, 3)),
    "range": ("distance", range(1, 4)),
    "numpy uint8": ("distance", np.array([1, 2, 3], np.uint8)),
    "numpy float16": ("temp", np.array([1.5, np.nan, -2], np.float16)),
    "numpy longdouble": ("temp", np.array([1.5, np.nan, -2], np.longdouble)),
    "pandas Int64": ("distance", pd.Series([1, 2, 3], dtype="Int64")),
    "pandas Float64": ("temp", pd.Series(BASE["temp"], dtype="Float64")),
    "pandas odd index": ("temp", pd.Series(BASE["temp"], index=[2.0, 1.0, 0.0])),
    "arrow numbers": ("temp", pa.chunked_array([pa.array([1.5, None]), pa.array([-2.0])])),
    "arrow decimal dictionary": ("distance", pa.array([1, 2, 3]).dictionary_encode()),
    "datetime64[D]": ("start", np.array(["2013-01-01"] * 3, "datetime64[D]") + np.timedelta64(12, "h")),
    "datetime64[ns]": ("start", np.array(BASE["start"], "datetime64[ns]")),
    "datetimes": ("start", [dt.datetime(2013, 1, 1, 12)] * 3),
    "pandas times": ("end", pd.to_datetime(pd.Series(BASE["end"]), format="ISO8601")),
    "pandas text times": ("end", pd.Series(BASE["end"])),
    "arrow times": ("start", pa.array([dt.datetime(2013, 1, 1, 12)] * 3, pa.timestamp("s"))),
    "arrow dates": ("end", pa.array([dt.date(2013, 1, 1), None, None], pa.date32())),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_column_means_the_same_in_whatever_it_comes(way: str) -> None:
    name, column = WAYS[way]
    expected = all_of(BASE)[0][name]
    if way == "arrow dates":
        expected = [expected[0], expected[1], MISSING["datetime"]]

    feeds, accepted, rejects = all_of({**BASE, name: column}, most=2)

    np.testing.assert_equal(feeds[name], expected)
    assert accepted == [True, True, True]
    assert rejects == []


@pytest.mark.parametrize("table", [pd.DataFrame(BASE), pa.table(BASE), pa.RecordBatch.from_pydict(BASE), BASE])
def test_a_table_is_columns_by_name(table: Any) -> None:
    feeds, accepted, rejects = all_of(table, most=2)

    assert feeds["distance"] == [1.0, 2.0, 3.0]
    assert accepted == [True] * 3
    assert rejects == []


def test_other_columns_are_left_alone() -> None:
    frame = pd.DataFrame({**BASE, "note": [object()] * 3})

    assert all_of(frame)[2] == []


MESSY: list[dict[str, Any]] = [
    GOOD,
    {**GOOD, "origin": None, "distance": True},
    {**GOOD, "engine": 5},
    {**GOOD, "distance": 10**400, "temp": "warm"},
    {**GOOD, "distance": 13_000.0, "temp": math.inf},
    {**GOOD, "start": "2013-02-30", "end": dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))},
    {**GOOD, "start": np.datetime64(300_000, "Y"), "end": pd.NaT},
    {**GOOD, "start": "0001-01-01T00:00+01:00", "engine": "\ud800"},
]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_records_and_columns_get_the_same_verdict(most: int) -> None:
    columns = {name: [record[name] for record in MESSY] for name in GOOD}

    by_record, by_column = all_of(MESSY, most), all_of(columns, most)

    assert by_record[2] == by_column[2]
    assert by_record[1] == by_column[1]
    np.testing.assert_equal(by_record[0], by_column[0])
    assert by_record[1][0]
    assert not any(by_record[1][1:])


def test_a_column_with_a_zone_is_converted_to_utc() -> None:
    noon = pd.Series([pd.Timestamp("2013-01-01T21:00", tz="Asia/Tokyo")] * 3)
    arrow = pa.array([NOON] * 3, pa.timestamp("us", "Asia/Tokyo"))

    for column in (noon, arrow, arrow.dictionary_encode(), ["2013-01-01T13:00+01:00"] * 3):
        assert all_of({**BASE, "start": column})[0]["start"] == [NOON] * 3


def test_the_caller_keeps_its_columns() -> None:
    distance = np.array([1.0, -1.0, 13_000.0])

    inputs = read_columns({**BASE, "distance": distance}, SIGNATURE)

    assert np.isnan(inputs.feeds["distance"]).tolist() == [False, True, True]
    assert distance.tolist() == [1.0, -1.0, 13_000.0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({key: value for key, value in BASE.items() if key != "temp"}, "column 'temp' is missing"),
        ({"tempo" if key == "temp" else key: value for key, value in BASE.items()}, "is missing; is it 'tempo'?"),
        ({**BASE, "temp": [1.0]}, "columns of unequal length: origin 3, engine 3, distance 3, temp 1"),
        ({**BASE, "temp": 1.0}, "column 'temp': expected one value a row, found float"),
        ({**BASE, "temp": np.array(1.0)}, "column 'temp': expected one value a row, found"),
        ({**BASE, "temp": np.float64(1.0)}, "column 'temp': expected one value a row, found float"),
        ({**BASE, "origin": "JFK"}, "column 'origin': expected one value a row, found text"),
        ({**BASE, "temp": np.ones((3, 2))}, "column 'temp': expected one value a row, found an array of shape (3, 2)"),
        ({**BASE, "temp": np.ma.masked_array([1, 2, 3], [0, 1, 0])}, "column 'temp' is a masked array"),
        (pd.DataFrame([[1, 2]], columns=["origin", "origin"]), "column 'origin' is there 2 times"),
        (pa.table([[1], [2]], names=["origin", "origin"]), "column 'origin' is there 2 times"),
        ("JFK", "expected a list of records, or columns by name, found text"),
        (None, "expected a list of records, or columns by name, found NoneType"),
        (GOOD, "column 'origin': expected one value a row, found text"),
    ],
)
def test_data_that_holds_no_records_is_refused_with_the_column(data: Any, said: str) -> None:
    with pytest.raises(RecordsError) as caught:
        list(read(data, SIGNATURE, 10))

    assert said in str(caught.value)
