"""A row holds what it takes to compute its answer again, and notices every change."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.prediction_log.rows import Entry, facts_of, mask_value, row_checks, to_inputs, to_rows
from tests.prediction_log.conftest import NOON, entry_of
from tests.toy import RECORD

ODD = [
    RECORD,
    RECORD | {"wind": None},
    RECORD | {"wind": -0.0},
    RECORD | {"wind": 0.1 + 0.2, "origin": "Zürich 東"},
    RECORD | {"wind": "strong"},
    RECORD | {"start": "0001-01-01"},
    RECORD | {"start": "9999-12-31T23:59:59.999999"},
    "no record",
]


def test_the_inputs_of_a_row_give_its_answer_again(toy: Predictor) -> None:
    entry = entry_of(toy, ODD)
    rows = to_rows([entry], "drop", b"")

    again = toy.predict_inputs([to_inputs(rows, toy.signature)])

    assert again.answer.tobytes() == entry.answers.answer.tobytes()
    assert entry.answers.label is not None
    assert rows["label"].to_pylist() == [None if code < 0 else str(code) for code in entry.answers.label]
    assert rows["error"].to_pylist() == entry.answers.errors()


@settings(max_examples=50)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "origin": st.text(max_size=5),
                "wind": st.none() | st.floats() | st.integers(-20, 300),
                "start": st.datetimes().map(str),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_was_asked_gives_its_answer_again(toy: Predictor, records: list[dict[str, object]]) -> None:
    entry = entry_of(toy, records)
    rows = to_rows([entry], "keep", b"")

    again = toy.predict_inputs([to_inputs(rows, toy.signature)])

    assert again.answer.tobytes() == entry.answers.answer.tobytes()


def test_requests_of_several_batches_keep_their_own_rows(toy: Predictor) -> None:
    winds = [float(number) for number in range(9)]
    batches = [toy.predict([RECORD | {"wind": wind} for wind in part]) for part in (winds[:4], winds[4:])]
    entries = [
        Entry(toy, batches[which], first, rows, name, "", "champion", NOON, 0.002)
        for which, first, rows, name in ((1, 3, 2, "c"), (0, 0, 1, "a"), (0, 1, 3, "b"), (1, 0, 3, "d"))
    ]

    rows = to_rows(entries, "drop", b"").to_pylist()

    assert [(row["request_id"], row["record"], row["inputs"]["wind"]) for row in rows] == [
        ("c", 0, 7), ("c", 1, 8), ("a", 0, 0), ("b", 0, 1), ("b", 1, 2), ("b", 2, 3), ("d", 0, 4), ("d", 1, 5),
        ("d", 2, 6),
    ]  # fmt: skip
    assert {row["answer"] for row in rows} <= {value for batch in batches for value in batch.answer.tolist()}


def test_a_model_of_three_classes_has_a_probability_for_each(three: Predictor) -> None:
    entry = entry_of(three, [{"wind": 1.0}, {"wind": "far"}, {"wind": 3.0}])
    rows = to_rows([entry], "drop", b"")

    assert rows["answer"].to_pylist() == [entry.answers.answer[0].tolist(), None, entry.answers.answer[2].tolist()]
    assert rows["label"].to_pylist() == ["L", None, "L"]
    again = three.predict_inputs([to_inputs(rows, three.signature)])
    assert again.answer[0].tobytes() == entry.answers.answer[0].tobytes()


def _changed(column: pa.Array, row: int) -> pa.Array:
    """The column with another value in one row."""
    values = column.to_pylist()
    other = {str: "x", float: 0.25, int: 77, list: [0.5, 0.25, 0.25], type(None): "x"}
    values[row] = other.get(type(values[row]))
    return pa.array(values, column.type)


@pytest.mark.parametrize("model", ["toy", "three"])
def test_a_change_of_any_cell_changes_the_check_of_its_row_alone(model: str, request: pytest.FixtureRequest) -> None:
    predictor: Predictor = request.getfixturevalue(model)
    names = [field.name for field in predictor.signature.fields]
    record = {name: value for name, value in RECORD.items() if name in names}
    rows = to_rows([entry_of(predictor, [record] * 3 + ["none"])], "keep", b"")
    checks = rows["check"].to_numpy()
    parts = rows["inputs"].flatten()

    changed = {name: rows.set_column(at, name, _changed(rows[name], 1))
               for at, name in enumerate(rows.schema.names) if name not in ("inputs", "check")}  # fmt: skip
    at = rows.schema.get_field_index("inputs")
    for index, name in enumerate(names):
        others = [*parts[:index], _changed(parts[index], 1), *parts[index + 1 :]]
        changed[f"inputs.{name}"] = rows.set_column(at, "inputs", pa.StructArray.from_arrays(others, names))

    assert row_checks(rows).tolist() == checks.tolist()
    for name, other in changed.items():
        assert (row_checks(other) != checks).tolist() == [False, True, False, False], name


def test_a_null_is_not_the_value_that_stands_in_for_it(toy: Predictor) -> None:
    rows = to_rows([entry_of(toy, [RECORD | {"wind": 0.0}, RECORD | {"wind": None}])], "keep", b"")
    wind = rows["inputs"].field("wind")

    assert wind.to_pylist() == [0.0, None]
    assert len(set(row_checks(rows.slice(0, 2)).tolist())) == 2


@pytest.mark.parametrize(("how", "found"), [("drop", None), ("keep", "EWR"), ("mask", mask_value("EWR", b"key"))])
def test_personal_data_is_treated_as_declared(personal: Predictor, how: str, found: str | None) -> None:
    rows = to_rows([entry_of(personal, [RECORD, RECORD | {"wind": 5.0}])], how, b"key")  # type: ignore[arg-type]

    assert [row["origin"] for row in rows["inputs"].to_pylist()] == [found, found]
    assert facts_of(rows.schema) == (personal.identity, how, personal.signature)


def test_a_mask_needs_the_key(personal: Predictor) -> None:
    assert mask_value("EWR", b"a") != mask_value("EWR", b"b")


def test_rows_survive_a_file(toy: Predictor, tmp_path: Path) -> None:
    rows = to_rows([entry_of(toy, ODD)], "drop", b"")
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_batches([rows]), path)

    [back] = pq.ParquetFile(path).iter_batches()

    assert back.equals(rows)
    assert np.array_equal(row_checks(back), rows["check"].to_numpy())
    assert facts_of(back.schema) == facts_of(rows.schema)
