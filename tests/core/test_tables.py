"""Raw text tables: every row is kept, or rejected with its line, its value and the reason."""

import csv
import zipfile
from pathlib import Path

import pandera.pandas as pa
import pyarrow
import pyarrow.parquet
import pytest

from mlops_pkg.core.params import Data, FileFormat, UserError, read_yaml
from mlops_pkg.core.tables import (
    NUMBER,
    TEXT,
    TIME,
    Tables,
    check_table,
    check_tables,
    contract,
    described,
    points_at,
    read_raw,
    text,
)
from tests.conftest import ROOT
from tests.names import NAMES, NFC, NFD

COLUMNS = ["id", "miles", "at"]
ROWS = ["a,10,2013-01-01T05:00:00Z", "b,20.5,2013-01-01T06:00:00Z", "c,NA,2013-01-01T07:00:00Z", "d,40,NA"]


def schema() -> pa.DataFrameSchema:
    """An id, a distance that is not negative, a time; the id is the key."""
    miles = pa.Column(NUMBER, pa.Check.ge(0, error="is below 0"), nullable=True)
    return contract({"id": pa.Column(TEXT), "miles": miles, "at": pa.Column(TIME, nullable=True)}, key=["id"])


def table(folder: Path, *rows: str, header: str = "id,miles,at") -> Path:
    """A csv file of these rows."""
    path = folder / "toy.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_good_rows_are_kept_in_their_kinds_and_lines(tmp_path: Path) -> None:
    kept, rejects, counts = check_table("toy", table(tmp_path, *ROWS), schema(), 0)

    assert kept.index.tolist() == [2, 3, 4, 5]
    assert kept["miles"].tolist()[:2] == [10.0, 20.5]
    assert str(kept["at"].dtype) == TIME
    assert rejects.empty
    assert counts == {"read": 4, "rejected": 0, "kept": 4}


@pytest.mark.parametrize(
    ("row", "reject"),
    [
        ("e,far,NA", (6, "miles", "far", "is not a number")),
        ("e,1 000,NA", (6, "miles", "1 000", "is not a number")),
        ("e,inf,NA", (6, "miles", "inf", "is not a number")),
        ("e,5,yesterday", (6, "at", "yesterday", "is not a time (ISO 8601)")),
        ("e,5,2013-02-30T00:00:00Z", (6, "at", "2013-02-30T00:00:00Z", "is not a time (ISO 8601)")),
        ("e,-5,NA", (6, "miles", "-5.0", "is below 0")),
        ("NA,5,NA", (6, "id", "", "is missing")),
        ("a,5,NA", (6, "", "", "another row has the same id")),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason_and_takes_no_other_with_it(
    tmp_path: Path, row: str, reject: tuple[int, str, str, str]
) -> None:
    kept, rejects, counts = check_table("toy", table(tmp_path, *ROWS, row), schema(), 0.5)

    assert [tuple(values) for values in rejects[["line", "column", "value", "reason"]].to_numpy().tolist()] == [reject]
    assert kept.index.tolist() == [2, 3, 4, 5]
    assert counts == {"read": 5, "rejected": 1, "kept": 4}


def test_a_row_with_two_faults_is_one_rejected_row_with_two_reasons(tmp_path: Path) -> None:
    _, rejects, counts = check_table("toy", table(tmp_path, *ROWS, "e,far,soon"), schema(), 0.5)

    assert sorted(rejects["column"]) == ["at", "miles"]
    assert counts["rejected"] == 1


def test_a_bad_row_does_not_take_the_good_row_with_its_key(tmp_path: Path) -> None:
    kept, rejects, _ = check_table("toy", table(tmp_path, "a,-1,NA", "a,5,NA", "a,6,NA"), schema(), 0.7)

    assert kept["miles"].tolist() == [5.0]
    assert rejects["line"].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,miles,at\na,1,NA\nb,2,"NA\nc,3,NA\n', 3),
        ('id,miles,at\n"a\n1",1,NA\n"b"x,2,NA\n', 4),
        ('\ufeffid,miles,at\r\n"a",1,NA\r\n\r\nb,2,""NA"\r\n', 4),
        ('"id,miles,at\na,1,NA\n', 1),
    ],
)
def test_an_open_quote_does_not_swallow_the_rest_of_the_file(content: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_bytes(content.encode())

    with pytest.raises(UserError, match=f"the row that begins in line {line} of the file is not csv: a quote is left"):
        read_raw(tmp_path / "toy.csv", COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,id,miles,at\na,b,1,NA\n", "columns 1 and 2 are both named 'id'; rename one in the file"),
    ],
)
def test_a_file_without_such_a_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "toy.csv").write_text(content)

    with pytest.raises(UserError, match=message):
        read_raw(tmp_path / "toy.csv", COLUMNS)


def test_a_line_break_in_a_cell_may_lie_anywhere_in_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_text("id,miles,at\n" + '"a\n\nb\n\nc",1,NA\n' * 200_000)

    found = read_raw(tmp_path / "toy.csv", ["id", "miles"])

    assert found.num_rows == 200_000
    assert set(found["id"].to_pylist()) == {"a\n\nb\n\nc"}


def test_a_line_is_the_number_of_a_row_after_the_header(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text('id,"miles",at\n"a\nb",-1,NA\n\n"c\r\n""d""",2,NA\ne,far,NA\n\n', newline="")

    kept, rejects, counts = check_table("toy", path, schema(), 1.0)

    assert kept["id"].to_dict() == {3: 'c\r\n"d"'}
    assert rejects["line"].tolist() == [4, 2]
    assert counts["read"] == 3


def written(folder: Path, form: str, header: list[str], rows: list[list[str]]) -> Path:
    """A file with these cells, as csv or as Parquet."""
    if form == "parquet":
        columns = [pyarrow.array(column) for column in zip(*rows, strict=True)]
        pyarrow.parquet.write_table(pyarrow.table(columns, names=header), folder / "t.parquet")
        return folder / "t.parquet"
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "t.csv"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_may_have_any_name(form: str, tmp_path: Path) -> None:
    rows = [[f"{row}.{place}" for place in range(len(NAMES))] for row in range(3)]
    path = written(tmp_path, form, list(NAMES), rows)
    columns = {name: pa.Column(NUMBER, pa.Check.ge(1, error="is below 1")) for name in reversed(NAMES)}

    kept, rejects, _ = check_table("t", path, contract(columns, key=[NAMES[0], NAMES[1]]), 0.5)

    assert kept.columns.tolist() == list(reversed(NAMES))
    assert kept[list(NAMES)].to_numpy().tolist() == [[float(cell) for cell in row] for row in rows[1:]]
    assert set(rejects["column"]) == set(NAMES)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_names_are_those_of_params_yaml_however_the_file_writes_them(form: str, tmp_path: Path) -> None:
    header = [NFD, " Fläche\n(m²)\t", "", "line"]
    path = written(tmp_path, form, header, [["1", "2", "3", "4"]])

    found = read_raw(path, [NFC, "Fläche (m²)", "Unnamed: 2", "own"], FileFormat(rename={"line": "own"}))

    assert found.to_pydict() == {NFC: ["1"], "Fläche (m²)": ["2"], "Unnamed: 2": ["3"], "own": ["4"]}


def test_two_columns_of_one_name_are_both_named(tmp_path: Path) -> None:
    path = written(tmp_path, "csv", ["x", NFC, NFD], [["1", "2", "3"]])

    assert read_raw(path, ["x"]).to_pydict() == {"x": ["1"]}, "what nobody reads does not matter"
    with pytest.raises(UserError) as caught:
        read_raw(path, ["x", NFC])
    both = f"columns 2 and 3 are both named '{NFC}', written 'gr\\xf6\\xdfe' and 'gro\\u0308\\xdfe'"
    assert str(caught.value) == f"data/t.csv: {both}; rename one in the file"


def test_more_rejects_than_allowed_stop_with_the_first_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        check_table("toy", table(tmp_path, *ROWS, "e,far,NA"), schema(), 0.19)

    assert str(raised.value) == (
        "data/toy.csv: 1 of 5 rows break the contract, more than max_reject_share = 0.19 allows; "
        "the first: line 6: miles 'far' is not a number"
    )


@pytest.mark.parametrize("name", ["toy.csv", "toy.csv.zip"])
def test_a_zip_archive_reads_as_the_file_in_it(tmp_path: Path, name: str) -> None:
    plain = table(tmp_path, *ROWS)
    with zipfile.ZipFile(tmp_path / "toy.csv.zip", "w") as archive:
        archive.write(plain, "toy.csv")

    assert read_raw(tmp_path / name, COLUMNS).num_rows == 4


def test_columns_that_are_not_named_are_not_read(tmp_path: Path) -> None:
    path = table(tmp_path, "a,1,NA,secret", header="id,miles,at,later")

    assert read_raw(path, COLUMNS).column_names == COLUMNS


def test_a_column_of_another_kind_than_the_contract_says_is_named(tmp_path: Path) -> None:
    rows = ["a,Adelie,NA", "b,Gentoo,NA", "c,NA,NA"]

    with pytest.raises(UserError) as caught:
        check_table("toy", table(tmp_path, *rows), schema(), 0.01)

    assert str(caught.value).endswith(
        "the first: line 2: miles 'Adelie' is not a number; so is every value of miles: look at its kind in "
        "params.yaml and at its contract"
    )


def test_a_column_without_a_value_that_must_have_one_is_named(tmp_path: Path) -> None:
    strict = contract({"id": pa.Column(TEXT), "miles": pa.Column(NUMBER)}, key=["id"])

    with pytest.raises(UserError) as caught:
        check_table("toy", table(tmp_path, "a,NA,NA", "b,NA,NA"), strict, 0.01)

    assert "line 2: miles '' is missing; so is every value of miles: look at its kind" in str(caught.value)


def test_one_bad_value_among_good_ones_says_nothing_of_the_column(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_table("toy", table(tmp_path, *ROWS, "e,far,NA"), schema(), 0)

    assert str(caught.value).endswith("the first: line 6: miles 'far' is not a number")


def test_a_table_without_a_key_keeps_equal_rows(tmp_path: Path) -> None:
    keyless = contract({"miles": pa.Column(NUMBER, nullable=True)}, key=[])

    kept, rejects, _ = check_table("toy", table(tmp_path, *ROWS, *ROWS), keyless, 0)

    assert len(kept) == 2 * len(ROWS)
    assert rejects.empty


def test_the_contract_of_a_column_is_what_params_say() -> None:
    columns = {"mass": {"kind": "number", "minimum": 1, "maximum": 9, "nullable": False}, "at": {"kind": "datetime"}}
    split = {"shares": {"train": 0.6, "validation": 0.1, "test": 0.2, "live": 0.1}, "seed": 0}
    said = {"target": {"name": "y"}, "split": split, "known_later": [], "columns": columns}
    data = Data.model_validate(read_yaml(ROOT / "params.yaml")["data"] | said)

    mass, at, other = (described(data, name) for name in ("mass", "at", "other"))

    assert [check.error for check in mass.checks] == ["is below 1", "is above 9"]
    assert (mass.nullable, at.nullable, other.nullable) == (False, True, True)
    assert str(at.dtype).startswith("datetime64")
    assert (str(other.dtype), other.checks) == (NUMBER, [])


def test_the_tables_that_were_checked_are_part_of_the_contract_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "towns.csv").write_text("town\nUlm\nUlm\nBonn\n")
    (tmp_path / "trips.csv").write_text("to\nUlm\nRom\nBonn\n")

    def contract_of(name: str, tables: Tables) -> pa.DataFrameSchema:
        if name == "towns":
            return contract({"town": text()}, key=["town"])
        return contract({"to": points_at(set(tables["towns"]["town"]), "towns")}, key=[])

    tables, rejects, counts = check_tables(
        tmp_path, {"towns": "towns.csv", "trips": "trips.csv"}, contract_of, max_reject_share=0.5
    )

    assert tables["trips"]["to"].tolist() == ["Ulm", "Bonn"]
    assert rejects[["table", "line", "reason"]].to_numpy().tolist() == [
        ["towns", 3, "another row has the same town"],
        ["trips", 3, "is not in the table of towns"],
    ]
    assert counts["trips"] == {"read": 3, "rejected": 1, "kept": 2}
