"""Whatever stands in a file: a clear error, or every row kept or rejected. The long form: benchmarks/fuzz.py."""

import tempfile
from pathlib import Path

import pandera.pandas as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pkg.core.params import UserError
from mlops_pkg.core.tables import NUMBER, TEXT, TIME, check_table, contract

SCHEMA = contract(
    {
        "id": pa.Column(TEXT),
        "miles": pa.Column(NUMBER, pa.Check.ge(0, error="is below 0"), nullable=True),
        "at": pa.Column(TIME, nullable=True),
    },
    key=["id"],
)
CELL = st.one_of(
    st.sampled_from(["", "NA", "0", "-0", "1e5", "1e999", "-3", "nan", "inf", "0x1F", "1_000", "٣", " 7", "true"]),
    st.sampled_from(["2013-01-01T05:00:00Z", "2013-02-30T05:00:00Z", "2013-01-01", "9999-12-31T23:59:59Z"]),
    st.text(max_size=8),
    st.floats().map(str),
)
ROWS = st.lists(st.lists(CELL, min_size=1, max_size=5).map(",".join), max_size=12)
FILES = st.one_of(
    ROWS.map(lambda rows: "\n".join(["id,miles,at", *rows]).encode("utf-8", "surrogatepass")),
    ROWS.map(lambda rows: "\r\n".join(["id,miles,at", *rows]).encode("utf-16", "surrogatepass")),
    st.binary(max_size=200),
)


def check_one_file(content: bytes) -> None:
    """A clear error of one line, or an account in which no row is lost."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.csv"
        path.write_bytes(content)
        refused = None
        try:
            kept, rejects, counts = check_table("toy", path, SCHEMA, 1.0)
        except UserError as error:
            refused = str(error)
    if refused is not None:
        assert refused.startswith("data/toy.csv")
        assert len(refused.splitlines()) == 1, refused
        return
    assert counts["read"] == counts["kept"] + counts["rejected"]
    assert len(kept) == counts["kept"]
    assert rejects["line"].nunique() == counts["rejected"], "a row is lost, or rejected without a reason"
    assert not set(kept.index) & set(rejects["line"])
    assert rejects["reason"].str.len().min() > 0 if len(rejects) else True
    assert kept["id"].is_unique
    assert not (kept["miles"] < 0).any()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(FILES)
def test_no_row_is_lost_and_no_file_ends_in_a_traceback(content: bytes) -> None:
    check_one_file(content)
