"""What a request's body may hold: every corner of JSON and Arrow is read exactly or refused with a line."""

import dataclasses
import json
import math
import random
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_pkg.bundle.predictor import Answers, Extras
from mlops_pkg.bundle.records import Reject, read_columns, read_records
from mlops_pkg.bundle.signature import Field
from mlops_pkg.serving.messages import (
    ModelInfo,
    RefusedError,
    arrow_answers,
    json_predictions,
    json_response,
    read_arrow,
    read_json,
    slice_answers,
)
from tests.conftest import ROOT
from tests.names import NFC, NFD
from tests.toy import RECORD, TOY


def test_a_column_of_arrow_means_the_same_however_its_name_is_written() -> None:
    signature = dataclasses.replace(TOY, fields=(Field(NFC, "number", nullable=True),))
    table, sink = pa.table({NFD: [1.5]}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    assert read_arrow(bytes(sink.getvalue()), 10, signature)[NFC].tolist() == [1.5]


INFO = ModelInfo("toy", "0" * 12, "0" * 64)
START = datetime(2013, 1, 1, 21)


def refused(body: bytes, most: int = 10) -> tuple[int, str, str]:
    """Status, code and line of a refusal of JSON."""
    with pytest.raises(RefusedError) as caught:
        read_json(body, most)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.status, caught.value.code, str(caught.value)


def reason(record: str) -> str:
    """Why a record, as JSON, is not answered."""
    (reject,) = read_records(read_json(f'{{"records": [{record}]}}'.encode(), 1)[0], TOY).rejects
    return f"{reject.field}: {reject.reason}"


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        (b"", "not_json", "the body is empty"),
        (b" \n", "not_json", "the body is empty"),
        (b'{"records": [{}]', "not_json", "Expecting ',' delimiter"),
        (b'{"records": [{}]} 1', "not_json", "Extra data"),
        (b'\xef\xbb\xbf{"records": [{}]}', "not_json", "byte order mark"),
        ('{"records": [{}]}'.encode("utf-16"), "not_json", "byte 0 is not UTF-8 text"),
        (b'{"records": [{"a": "\xff"}]}', "not_json", "byte 20 is not UTF-8 text"),
        (b'{"records": [{"a": NaN}]}', "not_json", "NaN is not JSON"),
        (b'{"records": [{"a": -Infinity}]}', "not_json", "-Infinity is not JSON"),
        (b'{"records": [{"a": %s}]}' % (b"7" * 5000), "not_json", "more than 4,300 digits"),
        (b'{"records": ' + b"[" * 200_000, "not_json", "nested too deeply"),
        (b'{"records": [{}], "records": [{}]}', "duplicate_key", "the key 'records' stands twice"),
        (b'{"records": [{"a": 1, "\\u0061": 1}]}', "duplicate_key", "the key 'a' stands twice"),
        (b'{"records": [{"\\ud800": 1, "\\ud800": 1}]}', "duplicate_key", r"the key '\ud800' stands twice"),
    ],
)
def test_a_body_that_is_not_plain_json_is_refused_with_400(body: bytes, code: str, line: str) -> None:
    status, told, message = refused(body)

    assert (status, told) == (400, code)
    assert line in message


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"[]", "found a list"),
        (b"null", "found null"),
        (b"3", "found a number"),
        (b'"x"', "found text"),
        (b"true", "found a boolean"),
        (b"{}", "found no key"),
        (b'{"record": []}', "found the key 'record'; did you mean 'records'?"),
        (b'{"records": [{}], "extra": 1}', "found the key 'extra'"),
        (b'{"records": {}}', "records: expected a list, found an object"),
        (b'{"records": []}', "expected 1 to 10 records, found 0"),
        (b'{"records": [1,2,3,4,5,6,7,8,9,10,11]}', "expected 1 to 10 records, found 11"),
    ],
)
def test_another_shape_is_refused_with_422_and_says_what_was_found(body: bytes, found: str) -> None:
    status, _, message = refused(body)

    assert status == 422
    assert found in message


def test_many_keys_that_stand_twice_are_found_in_one_pass() -> None:
    keys = ", ".join(f'"{number}": 0' for number in range(300_000))
    body = f'{{"records": [{{{keys}, "299999": 0}}]}}'.encode()

    assert refused(body)[1] == "duplicate_key"


@pytest.mark.parametrize(
    ("wind", "why"),
    [
        ("1e999", "wind: not a finite number"),
        ("-1e999", "wind: not a finite number"),
        ("1" + "0" * 400, "wind: too large for a double"),
        ("true", "wind: expected a number, found bool"),
        ('"3"', "wind: expected a number, found text"),
        ("[3]", "wind: expected a number, found list"),
    ],
)
def test_a_number_that_is_none_is_told_with_its_field(wind: str, why: str) -> None:
    assert reason(f'{{"origin": "EWR", "wind": {wind}, "start": "2013-01-01T21:00"}}') == why


def test_half_a_character_is_refused_and_the_reply_is_text() -> None:
    assert reason(r'{"origin": "\ud800", "wind": 1, "start": "2013-01-01T21:00"}') == "origin: not valid Unicode text"

    records = read_json(rb'{"records": [{"\udfff": 1, "origin": "EWR", "start": "2013-01-01T21:00"}]}', 1)[0]
    answers = Answers(np.array([np.nan]), np.array([-1]), tuple(read_records(records, TOY).rejects), (0, 1))
    (prediction,) = list(map(json.loads, json_predictions(answers)))
    assert prediction["errors"][0]["field"] == r"\udfff"
    assert arrow_answers(answers, INFO)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine it may be
@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_what_is_json_is_read_as_it_was_written(value: Any) -> None:
    body = json.dumps({"records": [value]}).encode()

    assert read_json(body, 1) == ([value], Extras())


@given(st.lists(st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_every_number_comes_back_to_the_last_digit(values: list[float]) -> None:
    told = list(map(json.loads, json_predictions(Answers(np.array(values), None, ()))))
    chances = 1 / (1 + np.abs(values))
    labels = np.array([1] * len(values))
    both = list(map(json.loads, json_predictions(Answers(chances, labels, (), (0, 1)))))

    assert [one["prediction"].hex() for one in told] == [value.hex() for value in values]
    assert [one["probability"].hex() for one in both] == [value.hex() for value in chances.tolist()]
    assert json.loads(json_response([], INFO))["model"] == {"name": "toy", "version": "0" * 12, "digest": "0" * 64}


def test_a_part_of_the_answers_carries_its_own_rejects() -> None:
    values = np.array([0.5, np.nan, 0.25, np.nan])
    rejects = (Reject(1, "wind", "-1", "low"), Reject(3, "origin", "", "missing"), Reject(3, "wind", "2", "high"))
    answers = Answers(values, np.array([1, -1, 0, -1]), rejects, (0, 1))

    def part(first: int, rows: int) -> list[Any]:
        found: list[Any] = list(map(json.loads, json_predictions(slice_answers(answers, first, rows))))
        return found

    none = {"prediction": None, "probability": None, "probabilities": None}
    assert part(0, 1) == [{"prediction": 1, "probability": 0.5, "probabilities": {"0": 0.5, "1": 0.5}}]
    assert part(2, 2) == [
        {"prediction": 0, "probability": 0.25, "probabilities": {"0": 0.75, "1": 0.25}},
        {
            **none,
            "errors": [
                {"field": "origin", "value": "", "reason": "missing"},
                {"field": "wind", "value": "2", "reason": "high"},
            ],
        },
    ]
    assert part(0, 2) + part(2, 2) == list(map(json.loads, json_predictions(answers)))
    assert "NaN" not in "".join(json_predictions(answers))


def test_classes_that_python_takes_for_equal_keep_their_names() -> None:
    for classes in ((0, 1), (False, True), (0.0, 1.0), (0, 1)):
        [found] = list(map(json.loads, json_predictions(Answers(np.array([0.5]), np.array([1]), (), classes))))
        assert list(found["probabilities"]) == [json.dumps(label) for label in classes]
        assert json.dumps(found["prediction"]) == json.dumps(classes[1])


def table(**columns: Any) -> pa.Table:
    """Two records of the toy model as a table, some of its columns other ones."""
    good = {"origin": pa.array(["EWR", "JFK"]), "wind": pa.array([2.0, 3.0]), "start": pa.array([START, START])}
    return pa.table({**good, **columns})


def stream(data: pa.Table, rows: int | None = None, **options: Any) -> bytes:
    """A table as a body, in batches of some rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(data, max_chunksize=rows)
    return bytes(sink.getvalue())


def told(body: bytes, most: int = 1000) -> tuple[int, str, str]:
    """Status, code and line of a refusal of Arrow."""
    with pytest.raises(RefusedError) as caught:
        read_arrow(body, most, TOY)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.status, caught.value.code, str(caught.value)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_text_of_any_type_is_read_alike(kind: pa.DataType, is_dictionary: bool) -> None:
    texts = pa.array(["EWR", None, "a name that is longer than twelve bytes", "EWR"], kind)
    data = pa.table(
        {
            "origin": texts.cast(pa.string()).dictionary_encode().cast(pa.dictionary(pa.int32(), kind))
            if is_dictionary and kind != pa.string_view()
            else texts,
            "wind": pa.array([1, None, 2, 3], pa.int16()),
            "start": pa.array([START] * 4),
        }
    )

    for rows in (None, 1, 3):
        read = read_arrow(stream(data, rows), 4, TOY)
        assert read["origin"].tolist() == ["EWR", "", "a name that is longer than twelve bytes", "EWR"]
        assert read["wind"].tolist()[::2] == [1.0, 2.0]
        assert math.isnan(read["wind"][1])


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()])
def test_numbers_of_any_type_are_read_alike(kind: pa.DataType) -> None:
    for column in (pa.array([7, None], kind), pa.array([7, None], kind).dictionary_encode()):
        inputs = read_columns(read_arrow(stream(table(wind=column)), 2, TOY), TOY)
        assert inputs.rejects == []
        assert inputs.feeds["wind"][0] == 7
        assert math.isnan(inputs.feeds["wind"][1])


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_unit_and_zone_are_read_alike(unit: str, zone: str | None) -> None:
    column = pa.array([START, None], pa.timestamp(unit, zone))  # in UTC
    wanted = (START - datetime(1970, 1, 1)).total_seconds() * 1_000_000

    for found in (column, column.dictionary_encode()):
        inputs = read_columns(read_arrow(stream(table(start=found)), 2, TOY), TOY)
        assert inputs.feeds["start"][0] == wanted
        assert [(reject.record, reject.reason) for reject in inputs.rejects] == [(1, "missing")]


def test_dates_and_text_are_times_too() -> None:
    for column in (pa.array([START.date()] * 2), pa.array(["2013-01-01", "2013-01-01T00:00"])):
        inputs = read_columns(read_arrow(stream(table(start=column)), 2, TOY), TOY)
        assert inputs.rejects == []
        assert inputs.feeds["start"].tolist() == [1356998400000000] * 2


def test_a_column_of_nothing_is_missing_in_each_row() -> None:
    data = table(origin=pa.nulls(2), wind=pa.nulls(2), start=pa.nulls(2))
    inputs = read_columns(read_arrow(stream(data), 2, TOY), TOY)

    assert [reject.field for reject in inputs.rejects] == ["origin", "start"] * 2
    assert {reject.reason for reject in inputs.rejects} == {"missing"}


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"wind": pa.array(["2", "3"])}, "column 'wind': expected numbers, found string"),
        ({"wind": pa.array([True, False])}, "column 'wind': expected numbers, found bool"),
        ({"wind": pa.array([[2.0], [3.0]])}, "column 'wind': expected numbers, found list"),
        ({"wind": pa.array([{"a": 1}, {"a": 1}])}, "column 'wind': expected numbers, found struct"),
        ({"origin": pa.array([b"EWR", b"JFK"])}, "column 'origin': expected text, found binary"),
        ({"origin": pa.array([1, 2])}, "column 'origin': expected text, found int64"),
        ({"start": pa.array([1, 2])}, "column 'start': expected timestamps, found int64"),
        ({"late": pa.array([1, 2])}, "column 'late' is unknown; valid names: origin, wind, start"),
    ],
)
def test_a_column_that_cannot_be_its_field_is_refused_with_422(columns: dict[str, Any], line: str) -> None:
    status, code, message = told(stream(table(**columns)))

    assert (status, code) == (422, "columns")
    assert line in message


def test_a_column_that_is_missing_or_there_twice_is_named() -> None:
    twice = pa.Table.from_arrays([*table().columns, table()["wind"]], ["origin", "wind", "start", "wind"])

    assert told(stream(table().rename_columns(["orgin", "wind", "start"])))[2].endswith("missing; is it 'orgin'?")
    assert told(stream(twice))[2] == "column 'wind' is there 2 times"


def test_rows_are_counted() -> None:
    assert told(stream(table()[:0]))[:2] == (422, "rows")
    assert told(stream(table(), rows=1), most=1)[:2] == (413, "rows")
    assert len(read_arrow(stream(table(), rows=1), 2, TOY)["wind"]) == 2
    assert told(stream(pa.concat_tables([table()] * 600), rows=1), most=2000)[2].startswith("more than 1,000 batches")


def test_a_stream_that_is_cut_anywhere_is_refused_with_400() -> None:
    body = stream(table(), rows=1)

    for length in range(len(body)):
        assert told(body[:length])[:2] == (400, "not_arrow"), length
    assert told(body + b"\0" * 8)[2].endswith("goes on after its end")
    assert told(body + body)[2].endswith("goes on after its end")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused_before_it_expands(compression: str) -> None:
    bombs = [
        table(origin=pa.array(["0" * 100_000_000, ""], pa.large_string())),
        table(origin=pa.array(["0" * 100_000_000, ""]).dictionary_encode()),
    ]
    for bomb in bombs:
        body = stream(bomb, compression=compression)
        before = pa.total_allocated_bytes()
        assert len(body) < 1_000_000
        assert told(body)[:2] == (415, "media_type")
        assert pa.total_allocated_bytes() - before < 1_000_000


def test_text_that_many_rows_share_is_counted_for_each() -> None:
    rows = 1000
    text = "x" * 1_000_000
    shared = {"wind": pa.array([1.0] * rows), "start": pa.array([START] * rows)}
    words = pa.array([text] * rows).dictionary_encode()
    one = pa.array([text], pa.string_view())
    views = pa.Array.from_buffers(
        pa.string_view(), rows, [None, pa.py_buffer(bytes(one.buffers()[1])[:16] * rows), one.buffers()[2]]
    )
    for column in (words, views):
        body = stream(pa.table({"origin": column, **shared}))
        assert len(body) < 2_000_000
        tracemalloc.start()
        assert told(body)[:2] == (413, "too_large")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
        tracemalloc.stop()


def test_damage_anywhere_in_a_stream_harms_nobody() -> None:
    chance = random.Random(0)
    words = pa.array(["EWR", "JFK"]).dictionary_encode()
    bodies = [
        stream(table(), rows=1),
        stream(table(origin=words)),
        stream(table(origin=pa.array(["E", "J" * 20], pa.string_view()))),
    ]
    for body in bodies:
        for _ in range(700):
            damaged = bytearray(body)
            for _ in range(chance.choice((1, 1, 2, 8))):
                damaged[chance.randrange(len(body))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            with suppress(RefusedError):
                read_columns(read_arrow(bytes(damaged), 10, TOY), TOY)


@pytest.mark.parametrize("body", [b"", b"\0", b"garbage", b"ARROW1\0\0", b"\xff" * 1000, b"\0" * 1000, b"PAR1"])
def test_what_is_no_arrow_is_refused_with_400(body: bytes) -> None:
    assert told(body)[:2] == (400, "not_arrow")


def test_the_arrow_reply_has_null_where_there_is_no_answer() -> None:
    rejects = (Reject(1, "wind", "-1", "low"),)
    answers = Answers(np.array([0.1 + 0.2, np.nan]), np.array([1, -1]), rejects, (0, 1))
    read = pa.ipc.open_stream(arrow_answers(answers, INFO)).read_all()

    assert read.to_pylist() == [
        {"prediction": 1, "probability": 0.1 + 0.2, "probabilities": {"0": 0.7, "1": 0.1 + 0.2}, "errors": None},
        {
            "prediction": None,
            "probability": None,
            "probabilities": None,
            "errors": [{"field": "wind", "value": "-1", "reason": "low"}],
        },
    ]
    assert read.schema.metadata == {b"name": b"toy", b"version": b"0" * 12, b"digest": b"0" * 64}
    plain = pa.ipc.open_stream(arrow_answers(Answers(np.array([3.5]), None, ()), INFO)).read_all()
    assert plain.to_pylist() == [{"prediction": 3.5}]


def test_json_and_arrow_are_read_as_the_same_record() -> None:
    data = table(wind=pa.array([2.0, None]), origin=pa.array(["EWR", "EWR"]))
    one = read_records(read_json(json.dumps({"records": [RECORD]}).encode(), 1)[0], TOY).feeds
    both = read_columns(read_arrow(stream(data), 2, TOY), TOY).feeds

    assert {name: column[0] for name, column in both.items()} == {name: column[0] for name, column in one.items()}


def test_pandas_is_not_loaded_by_reading_and_answering(tmp_path: Path) -> None:
    words = pa.array(["EWR", None]).dictionary_encode()
    bodies = [table(), table(origin=words, wind=pa.array([1, None]), start=pa.array([START, None]))]
    for number, data in enumerate(bodies):
        (tmp_path / str(number)).write_bytes(stream(data))
    script = """
import sys
from pathlib import Path
from mlops_pkg.bundle.predictor import Answers, Extras
from mlops_pkg.bundle.records import Reject
from mlops_pkg.serving.messages import ModelInfo, arrow_answers, np, read_arrow
from tests.toy import TOY
for path in sys.argv[1:]:
    read_arrow(Path(path).read_bytes(), 10, TOY)
answers = Answers(np.array([np.nan]), np.array([-1]), (Reject(0, "a", "b", "c"),), ("no", "yes"))
arrow_answers(answers, ModelInfo("a", "b", "c"))
print(sorted({"pyarrow", "pandas", "pyarrow.compute"} & set(sys.modules)))
"""
    paths = [str(tmp_path / str(number)) for number in range(len(bodies))]
    run = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, cwd=ROOT, check=True)

    assert run.stdout.strip() == "['pyarrow']"
