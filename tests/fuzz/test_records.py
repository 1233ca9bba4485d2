"""Whatever stands in a record or a cell: an answer, or a reject with its reason; and the same however it comes."""

import datetime as dt
import math
import tempfile
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pkg.bundle.predictor import Answers, Predictor
from tests.toy import RECORD, write_bundle

NAMES = list(RECORD)
TIMES = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.dates(),
    st.datetimes().map(dt.datetime.isoformat),
    st.datetimes().map(lambda moment: moment.isoformat(" ", "minutes")),
    st.datetimes(timezones=st.timezones()).map(dt.datetime.isoformat),
    st.integers(-(2**63), 2**63 - 1).flatmap(
        lambda count: st.sampled_from(["Y", "D", "s", "ms", "us", "ns"]).map(lambda unit: np.datetime64(count, unit))
    ),
    st.sampled_from(["2013-02-30", "0000-01-01", "2013-01-01T24:00", "2013-W01", "20130101", "NaT", "now", "2013-1-1"]),
)
VALUES = st.one_of(
    st.sampled_from(["EWR", "JFK", "", "2", "-1", "nan", "1_000", "\x00", "\ud800", " EWR"]),
    st.sampled_from([None, math.nan, pd.NA, pd.NaT, np.float32("nan"), np.datetime64("NaT"), np.str_("EWR"), np.True_]),
    st.sampled_from([10**400, -(10**400), 2**63, np.uint64(2**64 - 1), Decimal("1.5"), 1j, np.timedelta64(1, "s")]),
    st.floats(),
    st.floats(0.1, 250),
    st.integers(),
    st.booleans(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    TIMES,
)
LIKELY = st.fixed_dictionaries(
    {
        "origin": st.one_of(st.sampled_from(["EWR", "JFK", "LGA"]), VALUES),
        "wind": st.one_of(st.floats(-20, 300), VALUES),
        "start": st.one_of(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2065, 1, 1)), TIMES, VALUES),
    }
)
KEYS = st.one_of(st.sampled_from(NAMES), VALUES.filter(lambda value: not isinstance(value, list | dict)))
ANYTHING = st.one_of(LIKELY, st.dictionaries(KEYS, VALUES, max_size=5), VALUES)


@cache
def toy() -> tuple[Path, Predictor]:
    """The toy bundle, and the same loaded."""
    folder = write_bundle(Path(tempfile.mkdtemp()))
    return folder, Predictor.load(folder)


def check_account(answers: Answers, rows: int) -> None:
    """Every record is answered, or rejected with a reason."""
    rejected = {reject.record for reject in answers.rejects}
    assert answers.answer.shape == (rows,)
    assert np.flatnonzero(np.isnan(answers.answer)).tolist() == sorted(rejected)
    assert all(0 <= value <= 1 for value in answers.answer if not math.isnan(value))
    assert all(reject.reason and len(reject.value) <= 80 for reject in answers.rejects)
    assert [reject.record for reject in answers.rejects] == sorted(reject.record for reject in answers.rejects)
    assert len({reject[:2] for reject in answers.rejects}) == len(answers.rejects), "a field is told twice"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(ANYTHING, max_size=4))
def test_every_record_is_answered_or_rejected(records: list[Any]) -> None:
    check_account(toy()[1].predict(records), len(records))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(LIKELY, max_size=6))
def test_a_record_gets_the_same_verdict_alone_among_others_and_in_columns(records: list[dict[str, Any]]) -> None:
    predictor = toy()[1]
    together = predictor.predict(records)

    columns = predictor.predict({name: [record[name] for record in records] for name in NAMES})

    check_account(together, len(records))
    np.testing.assert_array_equal(columns.answer, together.answer)
    assert columns.rejects == together.rejects
    for row, record in enumerate(records):
        alone = predictor.predict([record])
        np.testing.assert_array_equal(alone.answer, together.answer[row : row + 1])
        assert [reject[1:] for reject in alone.rejects] == [
            reject[1:] for reject in together.rejects if reject.record == row
        ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(["i1", "u8", "f2", "f4", "f8", "M8[Y]", "M8[D]", "M8[s]", "M8[ns]", "?"]), st.binary(min_size=24)
)
def test_a_typed_column_gets_the_verdict_of_its_values(dtype: str, raw: bytes) -> None:
    column = np.frombuffer(raw, dtype, count=3)
    predictor = toy()[1]

    for name in NAMES:
        columns = {key: column if key == name else [value] * 3 for key, value in RECORD.items()}
        by_column = predictor.predict(columns)
        by_record = predictor.predict([{key: values[row] for key, values in columns.items()} for row in range(3)])

        np.testing.assert_array_equal(by_column.answer, by_record.answer)
        assert by_column.rejects == by_record.rejects
