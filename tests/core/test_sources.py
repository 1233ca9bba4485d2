"""Where data/ comes from: equal rows give equal bytes, a new version is whole or not taken, errors are one line."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_pkg.core import sources
from mlops_pkg.core.data import expected_digest, folder_digest, listing
from mlops_pkg.core.params import Source, Sql, UserError, load_params
from mlops_pkg.core.sources import (
    arrow_column,
    check_query,
    fetch,
    hold_data,
    report_progress,
    restore,
    snapshot,
    write_rows,
)
from mlops_pkg.core.workspace import Workspace, table_bytes

pytest.importorskip("dvc", reason="data/ is recorded with DVC, which the extra `pipeline` leaves out")
pytest.importorskip(
    "sqlalchemy", reason="databases are asked through SQLAlchemy, which the extra `pipeline` leaves out"
)
from tests.conftest import contents, said_by
from tests.core.test_data import run_dvc, set_source

HOUSES = "SELECT * FROM houses ORDER BY id"
TABLES = "params.yaml: data.source.sql.tables.houses: "
URL = "params.yaml: data.source.sql.url: "
EST = timezone(timedelta(hours=-5))


def silent(_: str) -> None:
    """Nobody is told."""


def fill(warehouse: Path, *rows: tuple[Any, ...]) -> None:
    """Add rows to the table of houses."""
    with closing(sqlite3.connect(warehouse)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS houses (id INTEGER, town TEXT, price REAL)")
        database.executemany("INSERT INTO houses VALUES (?, ?, ?)", rows)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse, and a project beside it that has taken a first version. Copy both before changing anything."""
    root = tmp_path_factory.mktemp("first") / "project"
    root.mkdir()
    fill(root.parent / "warehouse.db", (1, "Bath", 2.5), (2, None, 3.0))
    set_source(root, sql={"url": "sqlite:///../warehouse.db", "tables": {"houses": HOUSES}})
    run_dvc(root, "init", "--no-scm", "--quiet")
    run_dvc(root, "config", "core.analytics", "false")
    snapshot(Workspace(root))
    return root


@pytest.fixture
def project(first: Path, tmp_path: Path) -> Path:
    """A copy of the project and its warehouse."""
    shutil.copytree(first.parent, tmp_path / "place")
    return tmp_path / "place" / "project"


def written(
    folder: Path, rows: list[Any], names: tuple[str, ...] = ("a",), keys: tuple[str, ...] = ("lower(a)",)
) -> Path:
    """The file of these rows."""
    write_rows(folder / "t.parquet", list(names), rows, list(keys), place="t", tell=silent)
    assert [path.name for path in folder.iterdir()] == ["t.parquet"], "what was put aside is left"
    return folder / "t.parquet"


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, -(2**63)], "int64", None),
        ([1.5, None, float("nan")], "double", None),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([Decimal("1.10"), 3, None], "double", [1.1, 3.0, None]),
        ([True, None, False], "bool", None),
        (["ü", None, ""], "string", None),
        ([date(2013, 1, 2), None], "date32[day]", None),
        ([datetime(2013, 1, 2, 3, 4, 5, 6), None], "timestamp[us]", None),
        ([datetime(2013, 1, 2, 3, tzinfo=EST), None], "timestamp[us, tz=UTC]", ["2013-01-02 08:00:00+00:00", None]),
        ([None, None], "string", None),
    ],
)
@pytest.mark.parametrize("batch", [1, 100])
def test_each_type_has_its_plain_place(  # noqa: PLR0917
    values: list[Any],
    kind: str,
    expected: list[Any] | None,
    batch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "BATCH", batch)

    table = pq.read_table(written(tmp_path, [(value,) for value in values]))

    assert str(table.schema.field("a").type) == kind
    assert list(map(str, table["a"].to_pylist())) == list(map(str, expected or values))


def test_a_zone_counts_whatever_other_libraries_have_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", "1")  # pandera does so when it is imported

    column = arrow_column([datetime(2013, 1, 2, 3, tzinfo=EST)], "houses.seen")

    assert str(column[0].as_py()) == "2013-01-02 08:00:00+00:00"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([b"x"], "values of type bytes are not supported; CAST them to text or numbers in the query"),
        ([time(1, 2)], "values of type time are not supported; CAST them to text or numbers in the query"),
        ([timedelta(1)], "values of type timedelta are not supported; CAST "),
        ([[1]], "values of type list are not supported; CAST them to text or numbers in the query"),
        ([1, "x"], "it holds both "),
        ([True, 1], "it holds both "),
        ([datetime(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC)], "it holds both "),
        ([2**63], ""),
    ],
)
@pytest.mark.parametrize("batch", [1, 100])
def test_what_has_no_plain_place_is_refused_by_its_column(
    values: list[Any], said: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BATCH", batch)

    assert said_by(lambda: written(tmp_path, [(value,) for value in values])).startswith(f"t: column a: {said}")


def test_a_whole_number_that_would_lose_its_last_digit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BATCH", 1)

    assert said_by(lambda: written(tmp_path, [(2**53 + 1,), (0.5,)])).startswith("t: column a: ")


def test_equal_rows_give_the_bytes_that_a_stage_would_write(tmp_path: Path) -> None:
    rows = [(number, f"town {number % 7}", number / 3) for number in range(sources.BATCH + 5)]
    frame = pd.DataFrame(rows, columns=["id", "town", "price"])

    path = written(tmp_path, rows, ("id", "town", "price"), ("id",))

    assert path.read_bytes() == table_bytes(frame)


def test_rows_whose_order_is_not_promised_are_refused(tmp_path: Path) -> None:
    names, keys = ("id", "town"), ("id",)

    assert written(tmp_path, [(1, "Bath"), (1, "Bath"), (2, "Rye")], names, keys).is_file()
    said = said_by(lambda: written(tmp_path, [(1, "Bath"), (2, "Rye"), (2, "Bath")], names, keys))
    assert said.startswith("t: rows 2 and 3 are equal in id and differ elsewhere; add a column to ORDER BY")


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("SELECT * FROM t ORDER BY id", ["ID"]),
        ("select a from t order by t.a desc, 2 nulls last;\n", ["A", "2"]),
        ('-- DROP\nWITH x AS (SELECT 1) SELECT \';\', "x;y" FROM x ORDER BY "x;y" ASC LIMIT 5', ["x;y"]),
        ("SELECT rank() OVER (ORDER BY b) FROM t ORDER BY lower(a)", ["LOWER"]),
    ],
)
def test_a_query_that_is_one_ordered_select_is_taken(query: str, keys: list[str]) -> None:
    assert [key.split(" ")[0] for key in check_query(query, "k")] == keys


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DROP TABLE t", "a source is only read; begin the query with SELECT or WITH"),
        ("  ", "a source is only read; begin the query with SELECT or WITH"),
        ("(SELECT 1)", "a source is only read; begin the query with SELECT or WITH"),
        ("SELECT 1; DROP TABLE t", "it is more than one SELECT; "),
        ("SELECT 1 ORDER BY 1; SELECT 2", "it is more than one SELECT; "),
        ("SELECT * INTO copy FROM t ORDER BY 1", "it is more than one SELECT; "),
        (r"SELECT E'\' ; DROP TABLE t; --' ORDER BY 1", "it is more than one SELECT; "),
        (r"SELECT E'\'' ; DROP TABLE t; --' ORDER BY 1", "a backslash before a quote; "),
        ("SELECT * FROM t", "without ORDER BY the rows come in no promised order"),
        ("SELECT * FROM (SELECT * FROM t ORDER BY 1)", "without ORDER BY the rows come in no promised order"),
        ("SELECT 'ORDER BY' -- ORDER BY 1", "without ORDER BY the rows come in no promised order"),
    ],
)
def test_any_other_query_is_refused(query: str, said: str) -> None:
    assert said_by(lambda: check_query(query, "key")).startswith(f"params.yaml: key: {said}")


def asked(project: Path, query: str = HOUSES, url: str = "sqlite:///../warehouse.db") -> Callable[[], str]:
    """What takes a snapshot of this query."""
    set_source(project, sql={"url": url, "tables": {"houses": query}})
    return lambda: snapshot(Workspace(project))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM house ORDER BY id", "no such table: house; did you mean 'houses'?"),
        ("SELECT pric FROM houses ORDER BY id", "no such column: pric; mend the query"),
        ("SELECT * FRM houses ORDER BY id", 'near "FRM": syntax error; mend the query'),
        ("SELECT id, town AS id FROM houses ORDER BY 1", "two columns are named id; give one another name with AS"),
        ("SELECT * FROM houses WHERE id > 5 ORDER BY id", "the query gives no rows"),
        ("SELECT x'00' AS a ORDER BY 1", "column a: values of type bytes are not supported; CAST "),
    ],
)
def test_a_wrong_query_changes_nothing(project: Path, query: str, said: str) -> None:
    before = contents(project / "data"), (project / "data.dvc").read_bytes()

    assert said_by(asked(project, query)).startswith(TABLES + said)

    assert (contents(project / "data"), (project / "data.dvc").read_bytes()) == before
    assert not (project / ".data.tmp").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///../ware.db", URL + "there is no file ../ware.db; its path is seen from the project's folder"),
        ("sqlite://", URL + "there is no file "),
        ("nosuch://host/db", URL + "Can't load plugin: sqlalchemy.dialects:nosuch; e.g. sqlite:///FILE"),
        ("mysql+pymysql://host/db", URL + "the driver pymysql is not installed; install it, or name another one"),
        ("warehouse", URL + "not a url of SQLAlchemy's form; e.g. sqlite:///FILE, or env:VARIABLE"),
        ("sqlite:///params.yaml", TABLES + "file is not a database"),
    ],
)
def test_a_wrong_url_changes_nothing(project: Path, url: str, said: str) -> None:
    before = contents(project / "data")

    assert said_by(asked(project, url=url)).startswith(said)

    assert contents(project / "data") == before


def test_a_password_is_refused_in_params_and_printed_nowhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}/sales"
    for url in (f"postgresql://reader:Tr0ub/4@dor@{address}", f"postgresql://reader@{address}?password=Tr0ub/4@dor"):
        said = said_by(asked(project, url=url))
        assert said.startswith("params.yaml: data.source.sql.url = ")
        assert "it holds a password, which would be committed; " in said
        assert "Tr0ub" not in said

    monkeypatch.setenv("WAREHOUSE_URL", f"postgresql+psycopg://reader:Tr0ub4dor@{address}")
    said = said_by(asked(project, url="env:WAREHOUSE_URL"))
    assert said.startswith(URL)
    assert "is the server running, and are host and port right?" in said
    assert "Tr0ub" not in said

    monkeypatch.setenv("WAREHOUSE_URL", "Tr0ub4dor@")
    assert "Tr0ub" not in said_by(asked(project, url="env:WAREHOUSE_URL"))


def test_a_variable_that_is_not_set_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAREHOUSE_URL", raising=False)

    said = said_by(asked(project, url="env:WAREHOUSE_URL"))

    assert said.startswith("params.yaml: data.source.sql.url = 'env:WAREHOUSE_URL': this variable is not set; `export ")


def test_a_locked_database_is_waited_for_and_then_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LOCK_WAIT", 0.1)
    with closing(sqlite3.connect(project.parent / "warehouse.db", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")

        said = said_by(asked(project))

    assert said == TABLES + "database is locked; another program is writing to it; try again when it has ended"


def test_an_sqlite_file_is_opened_to_be_read_alone(project: Path) -> None:
    from sqlalchemy.exc import DBAPIError

    sql = Sql(url="sqlite:///../warehouse.db", tables={"houses": HOUSES})

    def write(statement: str) -> None:
        with sources._connected(sql, project, "url") as connection:
            try:
                connection.exec_driver_sql(statement)
            except DBAPIError as error:
                raise UserError(str(error.orig)) from None

    assert said_by(lambda: write("DELETE FROM houses")) == "attempt to write a readonly database"
    assert said_by(lambda: write("CREATE TABLE x (a)")) == "attempt to write a readonly database"


def test_a_name_with_spaces_and_signs_is_a_name(project: Path) -> None:
    shutil.move(project.parent / "warehouse.db", project.parent / "ware house#?.db")

    assert asked(project, url="sqlite:///../ware house#%3F.db")().endswith("there is nothing new")


def test_a_snapshot_is_the_new_version_and_the_old_one_stays_in_the_cache(project: Path) -> None:
    workspace, old, record = Workspace(project), contents(project / "data"), (project / "data.dvc").read_bytes()
    assert snapshot(workspace).endswith("gives now; there is nothing new")
    fill(project.parent / "warehouse.db", (3, "Rye", 4.0))

    said = snapshot(workspace)

    digest = folder_digest(listing(project / "data"))
    assert digest == expected_digest(project)
    assert f"a new version {digest[:8]} from sqlite:///../warehouse.db (houses): houses.parquet changed; " in said
    assert len(pd.read_parquet(project / "data" / "houses.parquet")) == 3
    assert restore(workspace) == "data/ is what data.dvc records"
    (project / "data.dvc").write_bytes(record)
    run_dvc(project, "checkout", "data.dvc", "--force", "--quiet")
    assert contents(project / "data") == old


def test_a_hand_edit_is_not_thrown_away(project: Path) -> None:
    fill(project.parent / "warehouse.db", (3, "Rye", 4.0))
    (project / "data" / "houses.parquet").write_bytes(b"mine")

    said = said_by(lambda: snapshot(Workspace(project)))

    assert said.startswith("data/houses.parquet is not the file that data.dvc records; ")
    assert (project / "data" / "houses.parquet").read_bytes() == b"mine"
    (project / "data.dvc").unlink()
    assert said_by(lambda: snapshot(Workspace(project))).startswith("data/: data.dvc does not record it; ")
    assert (project / "data" / "houses.parquet").read_bytes() == b"mine"


def test_data_come_back_from_the_source_or_it_is_said_that_it_has_changed(project: Path) -> None:
    workspace, old = Workspace(project), contents(project / "data")
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    assert restore(workspace) == "data/ restored from sqlite:///../warehouse.db (houses) and verified"
    assert contents(project / "data") == old

    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    fill(project.parent / "warehouse.db", (3, "Rye", 4.0))
    said = said_by(lambda: restore(workspace))
    assert ": the source is not what it was, and no remote gives data/ (" in said
    assert said.endswith("); take its present state with `mlops_pkg data --snapshot`")
    assert not (project / "data").exists()
    assert snapshot(workspace).startswith("data/ has a new version ")


def test_a_project_without_a_record_is_told_how_to_make_one(project: Path) -> None:
    shutil.rmtree(project / "data")
    (project / "data.dvc").unlink()

    assert said_by(lambda: restore(Workspace(project))).endswith(
        "take the source's state with `mlops_pkg data --snapshot`"
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from mlops_pkg.core.sources import snapshot
from mlops_pkg.core.workspace import Workspace

event, left = sys.argv[1], int(sys.argv[2])

def strike(name, arguments):
    global left
    if name == event and (event == "subprocess.Popen" or ".data.tmp" in str(arguments)):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(strike)
snapshot(Workspace(Path.cwd()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "number"), [("os.rename", 1), ("os.rename", 2), ("subprocess.Popen", 2), ("shutil.rmtree", 1)]
)
def test_a_killed_snapshot_loses_nothing(project: Path, event: str, number: int) -> None:
    old, record = contents(project / "data"), (project / "data.dvc").read_bytes()
    fill(project.parent / "warehouse.db", (3, "Rye", 4.0))

    done = subprocess.run([sys.executable, "-c", KILLED, event, str(number)], cwd=project, check=False)

    assert done.returncode == -9
    recorded = (project / "data.dvc").read_bytes() != record
    assert recorded == (event == "shutil.rmtree")
    assert restore(Workspace(project)) == "data/ is what data.dvc records"
    assert (contents(project / "data") == old) != recorded
    assert not (project / ".data.tmp").exists()
    assert snapshot(Workspace(project)).startswith("data/ is what" if recorded else "data/ has a new version ")
    assert len(pd.read_parquet(project / "data" / "houses.parquet")) == 3
    (project / "data.dvc").write_bytes(record)
    run_dvc(project, "checkout", "data.dvc", "--force", "--quiet")
    assert contents(project / "data") == old


def test_where_dvc_cannot_record_it_the_former_version_is_back(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(project / "data"), (project / "data.dvc").read_bytes()
    fill(project.parent / "warehouse.db", (3, "Rye", 4.0))
    real = sources._dvc
    monkeypatch.setattr(
        sources, "_dvc", lambda root, *words: "ERROR: no room" if words[0] == "add" else real(root, *words)
    )

    said = said_by(lambda: snapshot(Workspace(project)))

    assert said == "data.dvc: DVC cannot record the new version: ERROR: no room; data/ is as it was"
    assert (contents(project / "data"), (project / "data.dvc").read_bytes()) == before


def test_a_file_that_the_machine_refuses_leaves_data_as_they_were(project: Path) -> None:
    before = contents(project / "data"), (project / "data.dvc").read_bytes()
    fill(project.parent / "warehouse.db", *((number, os.urandom(8).hex(), number / 7) for number in range(3, 3000)))
    small = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    work = "from mlops_pkg.core.sources import snapshot; from mlops_pkg.core.workspace import Workspace; "
    ask = "\ntry: snapshot(Workspace.find())\nexcept Exception as error: print(type(error).__name__, error)"

    done = subprocess.run(
        [sys.executable, "-c", small + work + ask], cwd=project, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("UserError data: File too large; raise the limit")
    assert done.stdout.strip().endswith("nothing was changed")
    assert (contents(project / "data"), (project / "data.dvc").read_bytes()) == before
    assert not (project / ".data.tmp").exists()


def test_two_at_once_are_one_after_the_other(project: Path) -> None:
    shutil.rmtree(project / "data")

    with hold_data(project):
        said = said_by(lambda: snapshot(Workspace(project))), said_by(lambda: restore(Workspace(project)))

    assert said == ("data/: another command is bringing it; wait for it",) * 2


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder of files."""
    folder = tmp_path / "tables"
    (folder / "more").mkdir(parents=True)
    for name in ("b.csv", "a.parquet", "more/c.CSV.GZ", "readme.md"):
        (folder / name).write_bytes(os.urandom(100))
    return folder


def test_the_tables_of_a_folder_are_copied_byte_for_byte(tables: Path, tmp_path: Path) -> None:
    place = tmp_path / "project"
    place.mkdir()

    fetch(Source(folder="../tables"), place, place, silent)

    expected = contents(tables)
    del expected["readme.md"]
    assert contents(place) == expected


def test_every_kind_of_table_is_copied_from_a_folder(tmp_path: Path) -> None:
    names = {"a.csv", "b.TSV.gz", "c.parquet", "d.arrow", "e.feather", "f g.xlsx", "h.txt"}
    place, folder = tmp_path / "new", tmp_path / "tables"
    for path in (place, folder):
        path.mkdir()
    for name in (*names, "~$f g.xlsx", "note.pdf"):
        (folder / name).write_text(name)

    fetch(Source(folder=str(folder)), place, tmp_path / "project", silent)

    assert {path.name for path in place.iterdir()} == names


def test_a_folder_that_gives_no_whole_copy_is_refused(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "project"
    place.mkdir()

    def refused(folder: str, tell: Callable[[str], None] = silent) -> str:
        return said_by(lambda: fetch(Source(folder=folder), place, place, tell)).removeprefix(
            "params.yaml: data.source.folder = "
        )

    assert refused("../nowhere") == "'../nowhere': there is no such folder; it is seen from the project's folder"
    assert refused("data").startswith("'data': ")
    (tmp_path / "empty").mkdir()
    assert refused("../empty") == "'../empty': there is no csv, parquet, arrow, feather or xlsx file in it"
    copy = shutil.copyfile

    def torn(source: Path, target: Path) -> None:
        copy(source, target)
        with source.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(shutil, "copyfile", torn)
    assert refused("../tables") == "'../tables': a.parquet changed while it was copied; try again when it is complete"
    monkeypatch.undo()
    said = refused("../tables", lambda text: (tables / text.removeprefix("copying ")).unlink())
    assert said == "'../tables': a.parquet vanished while it was copied; try again"


def test_a_folder_lives_through_a_snapshot(project: Path, tables: Path) -> None:
    set_source(project, folder=str(tables))

    said = snapshot(Workspace(project))

    assert "a.parquet, b.csv, more/c.CSV.GZ new, houses.parquet gone; " in said
    assert contents(project / "data").keys() == {"a.parquet", "b.csv", "more/c.CSV.GZ"}


def test_progress_is_told_after_a_while_and_quick_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with report_progress() as tell:
        tell("quick")
    assert capsys.readouterr().err == ""

    with report_progress(every=0.01) as tell:
        tell("slow")
        while not (said := capsys.readouterr().err):
            pass
    assert said.startswith("  slow ...")


def test_the_projects_source_is_its_pinned_package() -> None:
    source = load_params(Path(__file__).parents[2] / "params.yaml").data.source

    assert str(source) == source.package
