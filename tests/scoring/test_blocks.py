"""Blocks: whatever the size of a block, the records in it are those that the csv module finds in the whole file."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_pkg.bundle.records import RecordsError
from mlops_pkg.scoring import blocks as module
from mlops_pkg.scoring.blocks import UnreadableError, csv_rows, open_source

RECORDS = [
    ["plain", "1"],
    ["two\nlines", "2"],
    ['a "quoted" word', "3"],
    ["a,comma", '"'],
    ["", ""],
    ["carriage\r\nreturn", "ü"],
    ["\n\n\n", '""'],
]


def text_of(records: list[list[str]], lineterminator: str = "\n") -> bytes:
    """The records as csv."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=lineterminator).writerows(records)
    return text.getvalue().encode()


def rows_of(path: Path) -> list[list[str]]:
    """The rows of all blocks."""
    return [row for block, _ in open_source(path, []).blocks for row in csv_rows(block)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1 << 20])
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
@pytest.mark.parametrize("ended", [True, False])
def test_blocks_end_where_records_end(
    size: int, lineterminator: str, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.csv"
    content = text_of(RECORDS * 3, lineterminator)
    path.write_bytes(b"name,value\n" + (content if ended else content.removesuffix(lineterminator.encode())))
    monkeypatch.setattr(module, "BLOCK_BYTES", size)

    assert rows_of(path) == RECORDS * 3


def test_a_quote_within_a_cell_begins_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'name,value\n5" nails,1\n6" nails,2\nfeet,"3"\n')

    assert rows_of(path) == [['5" nails', "1"], ['6" nails', "2"], ["feet", "3"]]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with a mark"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_header_names_the_columns(mark: bytes, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(mark + b'name,"the\nvalue"' + end)

    source = open_source(path, [])

    assert list(source.names) == ["name", "the value"]
    assert list(source.header) == ["name", "the\nvalue"]
    assert list(source.blocks) == []


def test_empty_lines_are_no_records() -> None:
    assert csv_rows(b"\n1,2\n\r\n3,4\n\n") == [["1", "2"], ["3", "4"]]


def test_the_share_grows_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"name,value\n" + b"a,1\n" * 1000)
    monkeypatch.setattr(module, "HEADER_BYTES", 100)
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)

    shares = [share for _, share in open_source(path, []).blocks]

    assert shares == sorted(shares)
    assert len(set(shares)) > 10
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        (b"a,1\nb,2\nc,\xff\n", 2, "not UTF-8 text; save the file as UTF-8"),
        (b'a,1\n"b\n\xff",2\n', 1, "not UTF-8 text; save the file as UTF-8"),
        (b'a,1\n"b,2\nc,3\n', 1, "not csv: unexpected end of data"),
        (b'a,1\n"b"c,2\n', 1, "not csv: ',' expected after '\"'"),
        (b"a,1\n" + b"x" * 200_000 + b",2\n", 1, "not csv: field larger than field limit (131072)"),
    ],
    ids=["bytes", "bytes in quotes", "an open quote", "text after a quote", "a huge cell"],
)
def test_text_that_cannot_be_read_is_told_with_its_row(content: bytes, place: int, what: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        csv_rows(content)

    assert caught.value.args == (place, what)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the names of the columns in the first line, found nothing"),
        (b"\xef\xbb\xbf", "expected the names of the columns in the first line, found nothing"),
        (b"\na,b\n", "expected the names of the columns in the first line, found nothing"),
        (b"a,b\r1,2\r", "the lines end with a carriage return alone"),
        (b"a,\xff\n1,2\n", "the header is not UTF-8 text"),
        (b"PK\x03\x04\xff\xfe\x00\n", "the header is not UTF-8 text"),
        (b'"a,b\n1,2\n', "the header is not csv: unexpected end of data"),
    ],
)
def test_a_file_without_a_header_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(content)

    with pytest.raises(RecordsError) as caught:
        open_source(tmp_path / "in.csv", [])

    assert str(caught.value).startswith(said)


def test_a_record_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'name,value\na,1\n"b' + b"\n2,3" * 1000)
    monkeypatch.setattr(module, "HEADER_BYTES", 100)
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(module, "MAX_BYTES", 500)

    with pytest.raises(RecordsError, match="a record of more than 500 bytes, from byte 15 on; is a quote open"):
        list(open_source(path, []).blocks)


def test_parquet_is_read_in_batches_of_the_columns_that_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pa.table({"name": ["a"] * 20_000, "value": range(20_000), "more": [0.5] * 20_000})
    pq.write_table(table, path, row_group_size=13_000)

    source = open_source(path, ["value"])
    blocks = list(source.blocks)

    assert list(source.names) == ["name", "value", "more"]
    assert source.types["name"] == pa.string()
    assert {tuple(batch.column_names) for batch, _ in blocks} == {("value",)}
    assert [x for batch, _ in blocks for x in batch["value"].to_pylist()] == list(range(20_000))
    assert max(batch.num_rows for batch, _ in blocks) <= module.BATCH_ROWS
    assert blocks[-1][1] == 1.0


@pytest.mark.parametrize("content", [b"", b"PAR1", b"name,value\n1,2\n" * 10])
def test_what_is_no_parquet_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(content)

    with pytest.raises(RecordsError, match="not parquet, or damaged: "):
        open_source(tmp_path / "in.parquet", [])


def test_damage_within_a_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"value": [str(n) for n in range(50_000)]}), path, use_dictionary=False, compression="zstd")
    content = bytearray(path.read_bytes())
    content[1000:3000] = bytes(2000)
    path.write_bytes(content)

    with pytest.raises(RecordsError, match="not parquet, or damaged: "):
        list(open_source(path, ["value"]).blocks)
