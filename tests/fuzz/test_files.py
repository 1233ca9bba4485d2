"""Whatever stands in a file of records: each row an answer or a reject, or one line that says why none has any."""

import csv
import datetime as dt
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pkg.bundle.file_format import PLAIN
from mlops_pkg.bundle.records import RecordsError
from mlops_pkg.scoring import blocks
from mlops_pkg.scoring.files import score_file
from mlops_pkg.scoring.scores import _add_rejects, from_text
from tests.fuzz.test_records import NAMES, toy

CELLS = st.one_of(
    st.sampled_from(["EWR", "", "NA", "2", "1e3", "-0.5", "nan", "inf", "1_000", "٣", "far"]),
    st.sampled_from(["2013-01-01", "2013-02-30", "2013-01-01T05:00Z"]),
    st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", 'a"b', "a\nb", "\x00", "\x85", "\u2028"]),
    st.floats().map(repr),
    st.datetimes().map(dt.datetime.isoformat),
    st.text(st.characters(codec="utf-8"), max_size=5),
)
TABLES = st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TABLES, st.sampled_from(["\n", "\r\n"]), st.integers(1, 40))
def test_a_csv_file_gets_the_answers_of_its_columns(
    rows: list[tuple[str, str, str]], lineterminator: str, size: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=lineterminator, quoting=csv.QUOTE_ALL)
    writer.writerows([NAMES, *rows])
    predictor = toy()[1]
    cells = dict(zip(NAMES, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(NAMES, ())
    read = {field.name: from_text(cells[field.name], field, PLAIN) for field in predictor.signature.fields}
    no_times = [reject for _, rejects in read.values() for reject in rejects]
    expected = _add_rejects(predictor.predict({name: values for name, (values, _) in read.items()}), no_times)

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.csv", Path(folder) / "out.csv"
        source.write_bytes(text.getvalue().encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "HEADER_BYTES", 30 + size)  # the header is shorter
            patch.setattr(blocks, "BLOCK_BYTES", 30 + size)
            tally = score_file(toy()[0], source, out)
        with out.open(newline="", encoding="utf-8") as file:
            written = [float(row["probability"] or "nan") for row in csv.DictReader(file)]
        told = tally.rejects.read_text(encoding="utf-8") if tally.rejects else ""

    rejects = list(csv.reader(io.StringIO(told)))
    np.testing.assert_array_equal(written, expected.answer)
    assert [(int(row), field, reason) for row, field, _, reason in rejects[1:]] == [
        (reject.record, reject.field, reject.reason) for reject in expected.rejects
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60).map(lambda junk: b"origin,wind,start\n" + junk))
def test_any_bytes_are_scored_or_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.csv", Path(folder) / "out.csv"
        source.write_bytes(content)
        refused, rows = "", 0
        try:
            rows = score_file(toy()[0], source, out).rows
        except RecordsError as error:
            refused = str(error)
        left = sorted(path.name for path in Path(folder).iterdir() if "rejects" not in path.name)
        written = len(out.read_text().splitlines()) - 1 if out.exists() else 0

    assert len(refused.splitlines()) <= 1
    assert left == (["in.csv"] if refused else ["in.csv", "out.csv"])
    assert written == rows
