"""Parquet bodies: the answers of the same table in Arrow, and what a small file cannot do to the server."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_pkg.serving.messages import RefusedError
from mlops_pkg.serving.parquet import PARQUET, parquet_to_arrow
from tests.serving.conftest import Server, start
from tests.serving.test_app import ARROW
from tests.serving.test_security import stream
from tests.serving.wire import ask, request, rss
from tests.toy import RECORD, toy_answer

LIMITS = (1000, 1 << 20, 30.0)  # rows, bytes, seconds


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def some_rows(rows: int) -> pa.Table:
    """Good records, and every seventh without a wind, every ninth with one that is too strong."""
    winds = [None if row % 7 == 0 else 999.0 if row % 9 == 0 else float(row % 50) for row in range(rows)]
    starts = pa.array([row * 3_600_000_000 for row in range(rows)], pa.timestamp("us"))
    return pa.table({"origin": ["EWR", "JFK", "LGA", "ORD"] * (rows // 4), "wind": winds, "start": starts})


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_the_answers_are_those_of_the_same_table_in_arrow(server: Server, compression: str) -> None:
    table = some_rows(1000)
    body = parquet(table, compression=compression, row_group_size=300)

    by_parquet = ask(server.port, request("POST", "/predict", {"content-type": PARQUET}, body))
    by_arrow = ask(server.port, request("POST", "/predict", {"content-type": ARROW}, stream(table)))

    assert (by_parquet.status, by_parquet.headers["content-type"]) == (200, PARQUET)
    answered = pq.read_table(io.BytesIO(by_parquet.body))
    assert answered.to_pylist() == pa.ipc.open_stream(by_arrow.body).read_all().to_pylist()
    assert answered.num_rows == 1000
    assert sum(errors is not None for errors in answered["errors"].to_pylist()) > 50


def test_categories_by_number_and_an_explanation_are_taken(server: Server) -> None:
    table = pa.table({name: [value] for name, value in RECORD.items()})
    table = table.set_column(0, "origin", table["origin"].dictionary_encode())

    reply = ask(server.port, request("POST", "/predict", {"content-type": PARQUET}, parquet(table)))
    refused = ask(server.port, request("POST", "/predict?explain=true", {"content-type": PARQUET}, parquet(table)))

    assert pq.read_table(io.BytesIO(reply.body))["probability"].to_pylist() == [toy_answer(**RECORD)]
    assert (refused.status, refused.code) == (422, "explain"), "the toy explains nothing"


def test_a_file_that_is_none_or_of_other_columns_is_refused_with_the_reason(server: Server) -> None:
    whole = parquet(some_rows(100))
    for body, status, code in (
        (b"no file", 400, "not_parquet"),
        (whole[:-9], 400, "not_parquet"),
        (whole[:100] + b"\0" * 400 + whole[500:], 400, "not_parquet"),
        (parquet(pa.table({"a": [1]})), 422, "columns"),
        (parquet(some_rows(100).slice(0, 0)), 422, "rows"),
    ):
        reply = ask(server.port, request("POST", "/predict", {"content-type": PARQUET}, body))
        assert (reply.status, reply.code) == (status, code), reply.body
    assert server.ask([RECORD]).status == 200


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_a_small_file_that_expands_takes_no_memory_of_the_server(
    bundle: Path, compression: str, dictionary: bool
) -> None:
    table = pa.table({"origin": ["x" * 100_000] * 20_000, "wind": [1.0] * 20_000, "start": ["2013-01-01"] * 20_000})
    if compression == "none" and not dictionary:
        table = table.slice(0, 200)
    body = parquet(table, compression=compression, use_dictionary=dictionary, write_statistics=False)
    assert len(body) < 64 << 20
    with start(bundle) as server:
        before = rss(server.process.pid)
        reply = ask(server.port, request("POST", "/predict", {"content-type": PARQUET}, body))
        peak = Path(f"/proc/{server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]

        assert reply.status == (413 if len(table) > 200 else 200)
        assert reply.status == 200 or reply.code == "too_large"
        assert int(peak) * 1024 < before + (256 << 20)
        assert server.ask([RECORD]).status == 200


def test_too_many_rows_and_too_much_time_are_refused() -> None:
    with pytest.raises(RefusedError, match="expected at most 1,000 rows"):
        parquet_to_arrow(parquet(pa.table({"wind": [1.0] * 1001})), *LIMITS)
    with pytest.raises(RefusedError, match="more than 0.01 s"):
        parquet_to_arrow(parquet(pa.table({"wind": [1.0]})), 1000, 1 << 20, 0.01)


WHOLE = parquet(some_rows(40))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(changes: list[tuple[int, int]]) -> None:
    body = bytearray(WHOLE)
    for place, byte in changes:
        body[place] = byte
    refused: RefusedError | None = None
    try:
        read = parquet_to_arrow(bytes(body), *LIMITS)
    except RefusedError as error:
        refused = error
    if refused is None:
        assert pa.ipc.open_stream(read).read_all().num_rows <= 1000
    else:
        assert (refused.status, refused.code) in ((400, "not_parquet"), (413, "too_large"), (413, "rows"))
        assert "\n" not in str(refused)
