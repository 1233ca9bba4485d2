"""A table gives a valid params.yaml and an ingest notebook: each conclusion is right, each refusal one line."""

import csv
import gzip
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mlops_pkg.authoring.profile import find_format, find_marks, find_time_format, read_profile
from mlops_pkg.authoring.proposal import Proposal, data_name, find_leak, params_text, propose, propose_bounds
from mlops_pkg.authoring.single_table import ingest_notebook, write_proposal
from mlops_pkg.core.params import FileFormat, UserError, load_params
from mlops_pkg.core.tables import read_raw
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.pipeline.params import Params
from tests.authoring.conftest import commit
from tests.conftest import PACKAGE, ROOT, STAGES, lay_out, said_by
from tests.forms import write_frame, write_sheets
from tests.names import NAMES

REAL = ("airlines", "airports", "flights", "planes", "weather", "diabetes", "wine", "breast_cancer", "penguins")
TARGETS = {"airports": "alt", "flights": "arr_delay", "planes": "seats", "weather": "temp", "penguins": "body_mass_g"}


def silent(_: str) -> None:
    """Ignore the progress."""


def real_table(name: str, folder: Path) -> tuple[Path, str]:
    """Return the path of a real table, and its target."""
    if name in ("diabetes", "wine", "breast_cancer"):
        datasets = pytest.importorskip("sklearn.datasets")
        frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
        frame.columns = [column.replace(" ", "_").replace("/", "_") for column in frame.columns]
        frame.to_csv(folder / f"{name}.csv", index=False)
        return folder / f"{name}.csv", "target"
    places = [
        ROOT / "data" / f"{name}.csv",
        ROOT / "data" / f"{name}.csv.zip",
        ROOT / "tests/authoring/penguins.csv",
    ]
    found = next((place for place in places if place.exists() and place.name.startswith(name)), None)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found, TARGETS.get(name, "name")


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    """Write a file and return its path."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def proposed(path: Path, target: str) -> tuple[Proposal, Params]:
    """Return the proposal, and its params.yaml as the stages would read it."""
    proposal = propose(path, target, path.parent)
    (path.parent / "params.yaml").write_text(params_text(proposal))
    return proposal, load_params(path.parent / "params.yaml", model=Params)


@pytest.mark.parametrize("name", REAL)
def test_what_is_proposed_for_a_real_table_is_valid_and_accounts_for_each_column(name: str, tmp_path: Path) -> None:
    path, target = real_table(name, tmp_path)
    if name == "airlines":  # two columns that name sixteen companies
        assert "cannot be predicted: it is a text, with 16 values in 16 rows" in said_by(
            lambda: propose(path, target, tmp_path)
        )
        return

    proposal = propose(path, target, tmp_path)

    text = params_text(proposal)
    params = Params.model_validate(yaml.safe_load(text))
    assert params.task == ("classification" if name in ("breast_cancer", "wine") else "regression")
    for column in proposal.profile.columns:
        said = column in params.data.columns or column in params.data.known_later or f"# {column}: left out, " in text
        assert said + (column in (target, proposal.split_by)) == 1, column
    notebook = ingest_notebook(proposal, PACKAGE)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")


def test_the_flights_are_understood(tmp_path: Path) -> None:
    path, target = real_table("flights", tmp_path)

    proposal = propose(path, target, tmp_path)

    roles = {name: one.role for name, one in proposal.assessments.items()}
    assert roles["year"] == "left out"
    assert "constant" in proposal.assessments["year"].reason
    assert proposal.split_by == "time_hour_month"
    params = Params.model_validate(yaml.safe_load(params_text(proposal)))
    periods = [
        period for name in ("train", "validation", "test", "live") for period in getattr(params.data.split, name)
    ]
    assert periods == sorted(periods)
    assert set(range(201301, 201313)) <= set(periods)
    assert params.data.columns["carrier"].kind == "category"
    assert params.data.columns["time_hour"].kind == "datetime"


TABLE = """id,age,city,note,none,same,twin,sold,later,when
{}
"""


def toy(rows: int = 300) -> str:
    """Return a table with a column for every kind of conclusion."""
    lines = [
        f"{n},{n * 37 % 83 + n % 2 / 2},{['Bath', 'Rye', ''][n * 7 % 3]},"
        f"house {n} has a garden and a view to the sea,,x,"
        f"{n * 37 % 83 + n % 2 / 2},{['yes', 'no'][n * 13 % 5 > 1]},{n % 3 + 10 * (n * 13 % 5 > 1)},"
        f"{n % 28 + 1:02}/{n * 11 % 12 + 1:02}/2013"
        for n in range(1, rows + 1)
    ]
    return TABLE.format("\n".join(lines))


def test_each_conclusion_is_drawn_and_says_why(tmp_path: Path) -> None:
    proposal, params = proposed(write(tmp_path, toy()), "sold")

    why = {name: one.reason for name, one in proposal.assessments.items()}
    assert why["id"].startswith("an identifier: 300 values in 300 rows")
    assert why["note"].startswith("free text, ") or why["note"].startswith("an identifier")
    assert why["none"] == "all values are missing"
    assert why["same"] == "constant: always x"
    assert why["twin"] == "a copy of age"
    assert why["later"].startswith("alone it ranks the target with an AUC of 1.000")
    assert params.data.known_later == ("later",)
    assert list(params.data.columns) == ["age", "city", "when"]
    assert (params.task, params.labels) == ("classification", ("no", "yes"))
    assert (params.data.columns["age"].nullable, params.data.columns["city"].nullable) == (False, True)
    assert params.data.split.key == "when_month"
    steps = [step.use for step in params.features.steps]
    assert steps == ["DatetimeFeatures", "CategoricalImputer", "OneHotEncoder", "DropConstantFeatures"]
    assert proposal.key == "id"
    assert proposal.profile.file_format.times == {"when": "%d/%m/%Y"}


def test_a_number_of_two_values_is_a_classification(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n" + "".join(f"{n % 17},{n % 3 % 2}\n" for n in range(100)))

    _, params = proposed(path, "b")

    assert (params.task, params.labels) == ("classification", (0, 1))
    assert list(params.data.split.shares) if hasattr(params.data.split, "shares") else True


@pytest.mark.parametrize("name", ["year", "Year", "SEASON", "model_year"])
def test_years_split_a_table_by_time_however_they_are_written(name: str, tmp_path: Path) -> None:
    rows = "".join(f"{1990 + n // 40},{n % 7},{n * 7 % 40}\n" for n in range(400))

    proposal = propose(write(tmp_path, f"{name},size,price\n{rows}"), "price", tmp_path)

    assert proposal.split_by == name
    assert proposal.time_split is not None
    assert proposal.time_split.parts["live"] == [1999]


def test_rows_of_one_customer_stay_together(tmp_path: Path) -> None:
    lines = "".join(f"{n * 7 % 50 + 1000},{n * 11 % 23},{n * 13 % 29}\n" for n in range(400))

    proposal, params = proposed(write(tmp_path, f"customer_id,spent,age\n{lines}"), "spent")

    assert params.data.split.key == "customer_id"
    assert "customer_id" not in params.data.columns
    assert '"customer_id": text()' in "".join(
        line for cell in ingest_notebook(proposal, PACKAGE)["cells"] for line in cell["source"]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings_are_recognised(separator: str, encoding: str, tmp_path: Path) -> None:
    rows = [("town", "price"), ("Zürich", "1.5"), ("Rye, or not" if separator != "," else "Rye", "2")]
    path = write(tmp_path, "\n".join(separator.join(row) for row in rows).encode(encoding))

    found = read_profile(path, silent)

    assert (found.file_format.separator, found.file_format.encoding) == (
        separator,
        "latin-1" if encoding == "latin-1" else "utf-8",
    )
    assert set(found.columns) == {"town", "price"}
    assert found.head["town"][0] == "Zürich"
    assert found.columns["price"].high == 2


def test_a_byte_that_is_no_utf8_far_into_the_file_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, b"town,price\n" + b"Rye,2\n" * 400_000 + "Zürich,3\n".encode("latin-1"))

    found = read_profile(path, silent)

    assert (found.file_format.encoding, found.rows, found.columns["price"].high) == ("latin-1", 400_001, 3)


def test_compressed_and_parquet_files_are_the_same_table(tmp_path: Path) -> None:
    path = write(tmp_path, "town,price,day\nBath,1.5,2013-01-02\nRye,,2013-02-03\n")
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(path.read_bytes())
    pd.read_csv(path, parse_dates=["day"]).to_parquet(tmp_path / "t.parquet")

    tables = [read_profile(tmp_path / name, silent).columns for name in ("t.csv", "t.csv.gz", "t.parquet")]

    for columns in tables:
        told = {name: (seen.kind, seen.missing, seen.distinct, str(seen.low)) for name, seen in columns.items()}
        assert told == {
            "town": ("text", 0, 2, "None"),
            "price": ("number", 1, 1, "1.5"),
            "day": ("datetime", 0, 2, "2013-01-02 00:00:00"),
        }


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["2013-01-02"], "ISO 8601"),
        (["2013-01-02T03:04:05Z"], "ISO 8601"),
        (["2013-01-02 03:04"], "ISO 8601"),
        (["31.12.2013"], "%d.%m.%Y"),
        (["01/02/2013", "12/31/2013"], "%m/%d/%Y"),
        (["2013-01-02 03:04:05+01:00"], "ISO 8601"),
        (["2013-13-45"], ""),
        (["1.5.2"], ""),
        (["2013"], ""),
        ([], ""),
    ],
)
def test_times_in_text_are_recognised(words: list[str], form: str) -> None:
    assert find_time_format(words) == form


def test_words_for_what_is_missing_and_a_decimal_comma_are_recognised(tmp_path: Path) -> None:
    path = write(tmp_path, "a;b\n" + "1,5;x\n?;y\nn/a;?\n2,25;x\n" * 20)

    found = read_profile(path, silent)

    assert found.file_format.decimal == ","
    assert set(found.file_format.missing) == {"NA", "?", "n/a"}
    assert {name: (seen.kind, seen.missing) for name, seen in found.columns.items()} == {
        "a": ("number", 40),
        "b": ("text", 20),
    }


@pytest.mark.parametrize(
    ("words", "separator", "marks"),
    [
        (["1.5", "2"], ";", (".", "")),
        (["1,5", "2"], ";", (",", "")),
        (["1,5", "2"], ",", (".", "")),
        (["1,234"], ";", (",", "")),
        (["1.234"], ";", (".", "")),
        (["1,234"], ",", (".", ",")),
        (["1,234", "0.5"], ";", (".", ",")),
        (["1.234", "0,5"], ";", (",", ".")),
        (["1,234.5"], ";", (".", ",")),
        (["1.234,5"], "\t", (",", ".")),
        (["1.234.567"], ";", (",", ".")),
        (["1,234,567"], ";", (".", ",")),
        (["1'234.50"], ",", (".", "'")),
        (["1 234,50"], ";", (",", " ")),
        (["1\u202f234"], ";", (".", "\u202f")),
        (["31.12.2013", "10:30", "a.b", "1.2.3"], ";", (".", "")),
    ],
)
def test_a_mark_is_one_of_thousands_only_if_the_cells_prove_it(
    words: list[str], separator: str, marks: tuple[str, str]
) -> None:
    assert find_marks(words, separator) == marks


def spreadsheet(rows: int = 400) -> pd.DataFrame:
    """Four hundred rows and four copies, as a German spreadsheet exports them."""
    numbers = range(rows)
    frame = pd.DataFrame(
        {
            "PLZ": [f"{n * 7 % 90:05}" for n in numbers],
            "Umsatz (€)": [f"{n * 13 % 2000 // 1000}.{n * 13 % 1000:03},5" for n in numbers],
            "Notiz": ["a\nb" if n % 3 else "c; d" for n in numbers],
            "Datum": [41_275 + n for n in numbers],
            "Zeit": [f"2013-{n % 12 + 1:02}-05T10:00:00+02:00" for n in numbers],
            "neu": [("True", "False", None)[n % 3] for n in numbers],
            "y": [n * 7919 % 101 for n in numbers],
        }
    )
    return pd.concat([frame, frame.iloc[:4]])


@pytest.mark.parametrize(("encoding", "separator"), [("cp1252", ";"), ("utf-16", "\t"), ("utf-8-sig", "|")])
def test_what_a_spreadsheet_exports_is_understood_and_said(encoding: str, separator: str, tmp_path: Path) -> None:
    path = write(tmp_path, spreadsheet().to_csv(sep=separator).encode(encoding))

    proposal, params = proposed(path, "y")

    found = params.data.file_format
    assert (found.separator, found.decimal, found.thousands) == (separator, ",", ".")
    assert found.encoding == encoding.removesuffix("-sig")
    assert found.times == {"Datum": "excel", "Zeit": "zoned"}
    kinds = {"PLZ": "category", "Umsatz (€)": "number", "Notiz": "category", "Datum": "datetime", "Zeit": "datetime"}
    assert params.data.kinds == {**kinds, "neu": "category"}
    assert params.data.columns["neu"].nullable
    assert proposal.profile.columns["Umsatz (€)"].high == 1991.5
    assert proposal.profile.head["Notiz"][1] == "a\nb"
    text = params_text(proposal)
    for note in (
        "# PLZ: digits, some with a leading zero, are kept as text.",
        "# Datum: numbers are read as a spreadsheet's days since 1899-12-30.",
        "# Zeit: times with a zone are converted to UTC; a request gives them in UTC, without a zone.",
        "# '.' stands between thousands, and ',' before a fraction.",
        "# Unnamed: 0: left out, an identifier",
    ):
        assert note in text


@pytest.mark.parametrize("name", ["t.xlsx", "t.feather", "t.arrow", "t.parquet"])
def test_other_files_are_understood_as_csv_is(name: str, tmp_path: Path) -> None:
    frame = spreadsheet().assign(real=pd.Timestamp("2013-01-01"), size=1.5).drop(columns=["Umsatz (€)"])
    frame["real"] += pd.to_timedelta(frame["Datum"] % 300, unit="D")
    frame["size"] *= frame["Datum"] % 61
    path, plain = write_frame(frame, tmp_path / name), write_frame(frame, tmp_path / "t.csv")

    (_, params), (_, expected) = proposed(path, "y"), proposed(plain, "y")

    assert params.data.file_format.times == {"Datum": "excel", "Zeit": "zoned"}
    assert params.data.columns == expected.data.columns
    assert params.data.split == expected.data.split
    text = params_text(propose(path, "y", tmp_path))
    assert "4 of its rows are copies of an earlier one; all are kept, and may lie in two splits." in text


def test_a_sheet_of_a_file_without_sheets_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "houses.csv").write_text("price,rooms\n1,2\n")

    assert said_by(lambda: find_format(tmp_path / "houses.csv", "First")) == (
        "houses.csv: no Excel file, so it has no sheet 'First'"
    )


def test_the_first_sheet_is_taken_and_the_others_are_said(tmp_path: Path) -> None:
    rows = [["a", "b"], *([n % 7, n % 9] for n in range(50))]
    path = write_sheets(tmp_path / "t.xlsx", {"Daten 2013": rows, "Notes": [["x"]], "more": rows})

    first = params_text(propose(path, "b", tmp_path))
    assert "# The sheet 'Daten 2013' of 3; file_format.sheet names another." in first
    assert "file_format: {missing: [NA], sheet: more}" in params_text(propose(path, "b", tmp_path, sheet="more"))
    with pytest.raises(UserError, match="there is no sheet 'None'; write one of them as .*: Daten 2013, Notes, more"):
        read_raw(path, ["a"], FileFormat(sheet="None"))


@pytest.mark.parametrize(
    ("file", "name"),
    [("a b.csv.gz", "a b.csv.gz"), ("Verkäufe.xlsx", "Verkaufe.xlsx"), ("价格.csv.gz", "table.csv.gz"), ("é", "e")],
)
def test_a_file_has_an_ascii_name_in_data(file: str, name: str) -> None:
    assert data_name(file) == name


def test_bounds_have_room_and_keep_their_sign(tmp_path: Path) -> None:
    columns = read_profile(write(tmp_path, "a,b,c\n0,-5,7\n40,10,7\n"), silent).columns

    assert {name: propose_bounds(one) for name, one in columns.items()} == {
        "a": (0, 60),
        "b": (-13, 18),
        "c": (3, 11),
    }


def test_what_knows_the_target_is_seen_and_noise_is_not() -> None:
    y = pd.Series([n * 7919 % 101 for n in range(500)], dtype="float64")
    two = (y > 50).astype("float64")
    noise = pd.Series([n * 104_729 % 97 for n in range(500)], dtype="float64")

    assert find_leak(y**3, y, "regression")
    assert find_leak(-y, two, "classification")
    assert find_leak(two.map({0: "low", 1: "high"}).astype("str"), two, "classification")
    assert find_leak((y // 10).astype("str"), y // 10, "regression")
    assert not find_leak(noise, y, "regression")
    assert not find_leak(noise, two, "classification")
    assert not find_leak((noise // 10).astype("str"), two, "classification")
    assert not find_leak(pd.Series(["x"] * 500, dtype="str"), two, "classification")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "t.csv", "the file is empty"),
        (b"\n\n", "t.csv", "the file is empty"),
        (b"a,b\n", "t.csv", "the table has a header and no rows"),
        (b"a,b\n1,2\n1,2,3\n", "t.csv", "not a table: CSV parse error: Row #3: Expected 2 columns, got 3: 1,2,3"),
        (b"a,a\n1,2\n", "t.csv", "columns 1 and 2 are both named 'a'; rename one"),
        (b"a, a\n1,2\n", "t.csv", "columns 1 and 2 are both named 'a', written ' a' and 'a'; rename one"),
        (b'a,b\n"x,1\n' + b"z,2\n" * 9, "t.csv", "not a table: "),
        ("a,b\n1,2\n".encode("utf-16-le"), "t.csv", "not a table of text; save it as csv in UTF-8, or as parquet"),
        (b"nonsense", "t.xlsx", "not an Excel file: "),
        (b"nonsense", "t.feather", "not a table: "),
        (b"a\n1\n", "t.csv", "one column; a table needs a target and columns to predict it from"),
        (b"\x00\x01\x02\x03", "t.csv", "not a table of text; save it as csv in UTF-8, or as parquet"),
        (b"PAR1nonsense", "t.parquet", "not a table: "),
        (b"nonsense", "t.csv.gz", "damaged archive ("),
        (b"nonsense", "t.csv.zip", "damaged archive ("),
    ],
)
def test_a_file_that_is_no_table_is_one_line(content: bytes, name: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, content, name)

    assert said_by(lambda: propose(path, "b", tmp_path)).startswith(f"{path}: {said}")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet", "none.csv.gz"):
        assert said_by(lambda name=name: propose(tmp_path / name, "b", tmp_path)).endswith(": there is no such file")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (None, "say with --target which column is to be predicted; candidates: age (regression), "),
        ("agee", "there is no column 'agee' to predict; did you mean 'age'?"),
        ("when", "'when' cannot be predicted: it is a time; take a number, or values that repeat"),
        ("note", "'note' cannot be predicted: it is a text, with 300 values in 300 rows; take a number, or "),
        ("none", "'none' cannot be predicted: "),
        ("same", "'same' cannot be predicted: "),
    ],
)
def test_a_target_that_is_none_is_one_line(target: str | None, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, toy())

    assert said_by(lambda: propose(path, target, tmp_path)).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "words",
    [
        [f"1e{number * 6}" for number in range(60)],
        ["-1e308", "1e308"] * 30,
        [f"{1600 + number}-01-01" for number in range(60)],
        [f"{9000 + number}-01-01" for number in range(60)],
        ["{x}: #y", "k: [v", "'q'"] * 20,
        ["a\x07b", "c\x85d"] * 30,
        ["inf", *(str(number % 13) for number in range(59))],
        ["0.1", "0.30000000000000004"] * 30,
    ],
)
def test_odd_values_make_a_valid_proposal(words: list[str], tmp_path: Path) -> None:
    lines = "".join(f'"{word}",{number * 7 % 11}\n' for number, word in enumerate(words))

    _, params = proposed(write(tmp_path, f"odd,y\n{lines}"), "y")

    assert "odd" in params.data.columns


def test_cells_that_do_not_fit_are_told_and_allowed_for(tmp_path: Path) -> None:
    lines = "".join(f"{'bad' if number % 50 == 0 else number % 17},{number % 11}\n" for number in range(200))

    proposal, params = proposed(write(tmp_path, f"a,y\n{lines}"), "y")

    assert params.data.columns["a"].kind == "number"
    assert params.ingest.max_reject_share == 0.04
    assert "4 cells do not fit, e.g. bad" in params_text(proposal)


def test_names_that_yaml_takes_for_something_else_stay_names(tmp_path: Path) -> None:
    lines = "".join(f"{n * 7 % 31},{n * 11 % 37},{n * 13 % 41}\n" for n in range(100))

    _, params = proposed(write(tmp_path, f"no,null,y\n{lines}"), "y")

    assert list(params.data.columns) == ["no", "null"] or list(params.data.columns) == ["null"]


def named_table(path: Path, names: list[str]) -> Path:
    """Write 600 rows of numbers and words under these names, with an index, a time in UTC and a target."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *names, "when (UTC)", "target, in €"])
        for row in range(600):
            cells = [
                draw.choice(["a b", "ü|`", "c"]) if n % 3 else round(10 * draw.random(), 2) for n in range(len(names))
            ]
            target = sum({"a b": 1, "c": 2}.get(str(cell), cell) for cell in cells if cell != "ü|`")
            when = f"2013-{row * 11 % 12 + 1:02}-{row % 28 + 1:02}T{row % 24:02}:00:00Z"
            writer.writerow([row, *cells, when, round(target, 2)])
    return path


def test_a_column_keeps_any_name(tmp_path: Path) -> None:
    names = [*NAMES, "line", "y" * 130]

    proposal, params = proposed(named_table(tmp_path / "t.csv", names), "target, in €")

    renamed = {"line": "line_2", "y" * 130: "y" * 95 + "_2"}
    assert params.data.file_format.rename == renamed
    assert list(params.data.columns) == [*(renamed.get(name, name) for name in names), "when (UTC)"]
    assert (params.data.target.name, proposal.key, params.data.split.key) == (
        "target, in €",
        "Unnamed: 0",
        "when (UTC)_month",
    )
    for cell in ingest_notebook(proposal, PACKAGE)["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")


def test_a_target_with_the_name_of_another_column_gets_its_own(tmp_path: Path) -> None:
    proposal, params = proposed(
        write(tmp_path, "a,model\n" + "".join(f"{n % 7},{n % 9}\n" for n in range(99))), "model"
    )

    assert params.data.target.name == "model_"
    assert 'OUTCOME = "model"' in "".join(
        line for cell in ingest_notebook(proposal, PACKAGE)["cells"] for line in cell["source"]
    )


@pytest.mark.slow
def test_any_name_goes_from_the_file_to_every_runtime(tmp_path: Path) -> None:
    from mlops_pkg.proof.runtimes import Subject, compare_runtimes

    path = named_table(tmp_path / "t.csv", [*NAMES, "line", "y" * 130])
    root = lay_out_for(path, "target, in €", tmp_path / "project")

    done = subprocess.run(
        [sys.executable, "-m", "mlops_pkg.core.stage", *STAGES], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    made = root / "artifacts"
    splits = {name: made / "ingest" / f"{name}.parquet" for name in ("train", "validation", "test", "live")}
    files = {"model": made / "train" / "model.skops", "predictions": made / "evaluate" / "predictions.parquet"}
    rows = {"rows": (splits["test"], splits["live"]), "kept": tuple(splits.values())}
    subject = Subject(bundle=made / "package", **files, **rows)
    verdicts = {one.runtime: one.difference for one in compare_runtimes(Workspace(root), subject)}
    assert set(verdicts.values()) == {None}
    assert {"source file t.csv", "endpoint, JSON in batches", "endpoint, Arrow"} <= verdicts.keys()


def lay_out_for(path: Path, target: str, root: Path) -> Path:
    """Make a project with this table in data/, and the params.yaml and ingest that are proposed for it."""
    from mlops_pkg.proof.sync import fresh_export

    lay_out(root)
    shutil.rmtree(root / "data")
    (root / "data").mkdir()
    shutil.copy(path, root / "data")
    (root / "nbs" / "pipeline").mkdir(parents=True)
    shutil.copy(ROOT / "nbs" / "pipeline" / "20_ingest.ipynb", root / "nbs" / "pipeline")
    shutil.copy(ROOT / "settings.ini", root)
    commit(root, "params.yaml", "nbs")
    write_proposal(propose(root / "data" / path.name, target, root), root)
    fresh = root / "fresh"
    fresh.mkdir()
    fresh_export(root, fresh)
    shutil.copy(fresh / "mlops_pkg" / "pipeline" / "ingest.py", root / "mlops_pkg" / "pipeline")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), [("penguins", None), ("breast_cancer", None), ("penguins", "odd")])
def test_the_whole_pipeline_runs_with_what_was_written(name: str, change: str | None, tmp_path: Path) -> None:
    from mlops_pkg.proof.sync import form_findings

    path, target = real_table(name, tmp_path)
    if change:  # the same rows as a German spreadsheet writes them
        frame = pd.read_csv(path).assign(seen=pd.date_range("2008-01-01", periods=344).strftime("%d.%m.%Y"))
        path = tmp_path / "odd.csv.gz"
        frame.to_csv(path, sep=";", decimal=",", na_rep="?", index=False, encoding="latin-1")
    root = lay_out_for(path, target, tmp_path / "project")

    done = subprocess.run(
        [sys.executable, "-m", "mlops_pkg.core.stage", *STAGES], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "artifacts" / "package" / "model.onnx").is_file()
    rows: dict[str, Any] = json.loads((root / "artifacts" / "ingest" / "rows.json").read_text())
    (counts,) = rows["tables"].values()
    assert counts["rejected"] == 0
    notebook = (root / "nbs" / "pipeline" / "20_ingest.ipynb").read_bytes()
    assert notebook == (root / "fresh" / "nbs" / "pipeline" / "20_ingest.ipynb").read_bytes(), "nbdev_clean changes it"
    assert list(form_findings(json.loads(notebook))) == []
    linted = ["check", "--quiet", "--config", str(ROOT / "pyproject.toml"), "nbs/pipeline/20_ingest.ipynb"]
    for command in (linted, ["format", "--check", *linted[1:]]):
        style = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=root, capture_output=True, text=True, check=False
        )
        assert style.returncode == 0, style.stdout + style.stderr


def test_what_git_does_not_hold_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "nbs" / "pipeline").mkdir(parents=True)
    notebook = write(tmp_path / "nbs" / "pipeline", "{}", "20_ingest.ipynb")
    params = write(tmp_path, "task: mine", "params.yaml")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    proposal = propose(write(tmp_path, toy()), "sold", tmp_path)

    assert said_by(lambda: write_proposal(proposal, tmp_path)).startswith("params.yaml: the project is not under git, ")
    commit(tmp_path, "nbs")
    assert said_by(lambda: write_proposal(proposal, tmp_path)).startswith(
        "params.yaml: it has changes that are not committed; "
    )
    assert (params.read_text(), notebook.read_text()) == ("task: mine", "{}")
    commit(tmp_path)
    assert write_proposal(proposal, tmp_path) == ["params.yaml", "nbs/pipeline/20_ingest.ipynb"]
    assert said_by(lambda: write_proposal(proposal, tmp_path)).endswith("`git restore nbs/pipeline/20_ingest.ipynb`")


def test_the_form_of_a_zip_file_is_that_of_its_member() -> None:
    path = ROOT / "data" / "flights.csv.zip"
    if not path.exists():
        pytest.skip("the flights are not here")

    assert find_format(path).separator == ","


@pytest.mark.parametrize(
    ("formula", "how"),
    [("casual + registered", "sum"), ("casual * registered", "product"), ("2.5 * casual - registered + rain", "sum")],
)
def test_columns_that_together_give_the_target_are_known_later(formula: str, how: str, tmp_path: Path) -> None:
    rows = [(n * 7 % 31 + 1, n * 11 % 97 + 1, n * 13 % 17 + 1, n * 5 % 23) for n in range(300)]
    values = [eval(formula, {"casual": a, "registered": b, "rain": c}) for a, b, c, _ in rows]
    lines = [",".join(map(str, (*row, value))) for row, value in zip(rows, values, strict=True)]

    proposal, params = proposed(write(tmp_path, "\n".join(["casual,registered,rain,wind,bikers", *lines])), "bikers")

    together = {"casual", "registered", *(["rain"] if "rain" in formula else [])}
    assert set(params.data.known_later) == together
    assert set(params.data.columns) == {"casual", "registered", "rain", "wind"} - together
    assert f"a weighted {how} of it and " in proposal.assessments["casual"].reason


def test_columns_that_only_come_close_to_the_target_stay(tmp_path: Path) -> None:
    rows = [(n * 7 % 31, n * 11 % 97, n * 7 % 31 + n * 11 % 97 + n * 3 % 5) for n in range(300)]

    _, params = proposed(write(tmp_path, "\n".join(["a,b,c", *(f"{a},{b},{c}" for a, b, c in rows)])), "c")

    assert list(params.data.columns) == ["a", "b"]
