"""A real PostgreSQL server: its rows give SQLite's bytes, and a fault is one line and leaves data/ alone."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_pkg.core.params import UserError
from mlops_pkg.core.sources import snapshot
from mlops_pkg.core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.test_data import contents, run_dvc, set_source
from tests.slow.needs import lack

pytestmark = pytest.mark.slow

LOOPBACK, PASSWORD = "127.0.0.1", "r1ght-pa55"
PLANES = "SELECT * FROM planes ORDER BY tailnum"
COLUMNS = {
    "tailnum": "text",
    "year": "integer",
    "manufacturer": "text",
    "engines": "integer",
    "speed": "double precision",
}


def programs() -> Path:
    """The folder of PostgreSQL's programs; without them the tests fail in CI and are skipped elsewhere."""
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        Path(shutil.which("initdb") or "/no").parent,
    ]
    found = [place for place in places if (place / "initdb").exists()]
    if not found:
        lack("PostgreSQL's server is not here: apt-get install postgresql")
    return found[0]


class Postgres:
    """A server of its own on a loopback port, in a folder that an unprivileged user owns."""

    def __init__(self, scratch: Path) -> None:
        self.programs, self.folder = programs(), scratch / "cluster"
        self.user = {"user": "nobody"} if os.geteuid() == 0 else {}
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            self.port = int(probe.getsockname()[1])
        self.folder.mkdir()
        secret = scratch / "password"
        secret.write_text(PASSWORD)
        if self.user:
            shutil.chown(self.folder, "nobody")
            shutil.chown(secret, "nobody")
            for place in (scratch, *scratch.parents):
                if place.stat().st_uid == 0 and place not in (Path("/"), Path("/tmp")):
                    place.chmod(place.stat().st_mode | 0o011)
        options = ["-U", "reader", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync", "--locale=C"]
        self._call("initdb", "-D", str(self.folder), *options)
        self.start()

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        quiet = subprocess.DEVNULL  # pg_ctl leaves a server behind that would hold a pipe open
        done = subprocess.run(command, cwd="/", stdout=quiet, stderr=quiet, check=False, **self.user)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{program}: {done.returncode}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = f"-c listen_addresses={LOOPBACK} -p {self.port} -k '' -c fsync=off -c max_connections=10"
        self._call("pg_ctl", "-D", str(self.folder), "-w", "-l", str(self.folder / "log"), "-o", settings, "start")

    def kill(self) -> None:
        """Kill it and all that it has started."""
        leader = int((self.folder / "postmaster.pid").read_text().splitlines()[0])
        workers = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
        for process in (leader, *map(int, workers)):
            os.kill(process, signal.SIGKILL)
        for process in (leader, *map(int, workers)):  # a new server needs the shared memory that they hold
            while (state := Path(f"/proc/{process}/stat")).exists() and ") Z" not in state.read_text():
                time.sleep(0.01)
        (self.folder / "postmaster.pid").unlink()

    def stop(self) -> None:
        """Stop it, where it runs."""
        if (self.folder / "postmaster.pid").exists():
            self._call("pg_ctl", "-D", str(self.folder), "-m", "immediate", "stop")

    def url(self, password: str = PASSWORD) -> str:
        """Its address."""
        return f"postgresql+psycopg://reader:{password}@{LOOPBACK}:{self.port}/postgres"

    def run(self, *statements: str, rows: list[tuple[Any, ...]] | None = None) -> None:
        """Run statements as its owner, the last one for each of the rows."""
        import psycopg

        address = {"host": LOOPBACK, "port": self.port, "user": "reader", "password": PASSWORD, "dbname": "postgres"}
        with psycopg.connect(**address) as connection, connection.cursor() as cursor:  # type: ignore[arg-type]
            for statement in statements if rows is None else statements[:-1]:
                cursor.execute(statement.encode())
            if rows is not None:
                cursor.executemany(statements[-1].encode(), rows)


@pytest.fixture(scope="module")
def planes() -> list[tuple[Any, ...]]:
    """Real rows, in no order, with missing values."""
    frame = (
        pd.read_csv(ROOT / "data" / "planes.csv")[list(COLUMNS)]
        .astype({"year": "Int64"})
        .sample(frac=1, random_state=0)
    )
    return [
        tuple(None if pd.isna(value) else value for value in row) for row in frame.astype(object).to_numpy().tolist()
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, planes: list[tuple[Any, ...]]) -> Iterator[Postgres]:
    """A server that holds the planes."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    try:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        marks = ", ".join(["%s"] * len(COLUMNS))
        server.run(f"CREATE TABLE planes ({columns})", f"INSERT INTO planes VALUES ({marks})", rows=planes)
        yield server
    finally:
        server.stop()


@pytest.fixture
def project(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose source is the server, with nothing taken yet."""
    root = tmp_path / "project"
    root.mkdir()
    run_dvc(root, "init", "--no-scm", "--quiet")
    monkeypatch.setenv("WAREHOUSE_URL", server.url())
    return root


def taken(root: Path, url: str = "env:WAREHOUSE_URL", **tables: str) -> str:
    """What is said of a snapshot of these tables."""
    set_source(root, sql={"url": url, "tables": tables or {"planes": PLANES}})
    return snapshot(Workspace(root))


def refused(root: Path, **tables: str) -> str:
    """The one line by which a snapshot is refused; data/ stays as it was."""
    before = contents(root / "data"), (root / "data.dvc").read_bytes() if (root / "data.dvc").exists() else b""
    with pytest.raises(UserError) as caught:
        taken(root, **tables)
    after = contents(root / "data"), (root / "data.dvc").read_bytes() if (root / "data.dvc").exists() else b""
    assert after == before
    said = str(caught.value)
    assert len(said.splitlines()) == 1, said
    assert PASSWORD not in said
    assert "wr0ng" not in said
    return said


def test_its_rows_give_the_bytes_that_those_of_sqlite_give(project: Path, planes: list[tuple[Any, ...]]) -> None:
    taken(project)
    from_postgres = contents(project / "data")
    with closing(sqlite3.connect(project.parent / "warehouse.db")) as database, database:
        database.execute(f"CREATE TABLE planes ({', '.join(COLUMNS)})")
        database.executemany(f"INSERT INTO planes VALUES ({', '.join('?' * len(COLUMNS))})", reversed(planes))

    said = taken(project, "sqlite:///../warehouse.db")

    assert len(pd.read_parquet(project / "data" / "planes.parquet")) == len(planes) > 3000
    assert said.endswith("gives now; there is nothing new")
    assert contents(project / "data") == from_postgres


def test_each_type_of_the_server_has_its_place_or_is_refused_by_name(project: Path, server: Postgres) -> None:
    query = (
        "SELECT 1::smallint AS a, 2::bigint AS b, 1.25::real AS c, 1.10::numeric AS d, true AS e, 'ü%'::varchar AS f, "
        "date '2013-01-02' AS g, timestamp '2013-01-02 03:04:05.000006' AS h, "
        "timestamptz '2013-01-02 03:00:00-05' AS i, NULL::integer AS j ORDER BY 1"
    )

    taken(project, types=query)

    frame = pd.read_parquet(project / "data" / "types.parquet")
    assert [str(kind) for kind in frame.dtypes][:6] == ["int64", "int64", "float64", "float64", "bool", "str"]
    assert [str(value) for value in frame.iloc[0]] == [
        *("1", "2", "1.25", "1.1", "True", "ü%", "2013-01-02"),
        *("2013-01-02 03:04:05.000006", "2013-01-02 08:00:00+00:00", "nan"),
    ]
    for value in (
        "'{1,2}'::int[]",
        "'{}'::jsonb",
        "gen_random_uuid()",
        "interval '1 day'",
        "'x'::bytea",
        "time '01:02'",
    ):
        said = refused(project, types=f"SELECT {value} AS odd ORDER BY 1")
        assert said.startswith("params.yaml: data.source.sql.tables.types: column odd: values of type "), said


def test_a_query_cannot_write(project: Path, server: Postgres) -> None:
    taken(project)
    server.run("CREATE SEQUENCE IF NOT EXISTS numbers")

    said = refused(project, planes="WITH gone AS (DELETE FROM planes RETURNING *) SELECT * FROM gone ORDER BY tailnum")

    assert "must not contain data-modifying statements" in said
    said = refused(project, planes="SELECT nextval('numbers') AS a ORDER BY 1")
    assert "cannot execute nextval() in a read-only transaction" in said


def test_a_fault_is_one_line_and_leaves_data_alone(
    project: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(project)

    said = refused(project, planes="SELECT * FROM plane ORDER BY tailnum")
    assert said == (
        "params.yaml: data.source.sql.tables.planes: relation \"plane\" does not exist; did you mean 'planes'?"
    )
    said = refused(project, planes="SELECT seats FROM planes ORDER BY 1")
    assert said == 'params.yaml: data.source.sql.tables.planes: column "seats" does not exist; mend the query'
    said = refused(project, planes="SELECT 1 / (year - 2004) AS a FROM planes ORDER BY 1")
    assert "division by zero" in said
    monkeypatch.setenv("WAREHOUSE_URL", server.url("wr0ng"))
    said = refused(project)
    assert said.startswith("params.yaml: data.source.sql.url: ")
    assert "set the right user and password in the variable that holds the url" in said
    monkeypatch.setenv("WAREHOUSE_URL", server.url().replace("/postgres", "/nosuch"))
    assert 'database "nosuch" does not exist' in refused(project)


def test_a_killed_server_is_one_line_and_leaves_data_alone(
    project: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(project)
    many = "SELECT number, repeat('x', 100) AS text FROM generate_series(1, 5000000) AS number ORDER BY number"

    from mlops_pkg.core import sources

    write_rows = sources.write_rows

    def killing(*arguments: Any, tell: Any, **more: Any) -> int:
        def tell_and_kill(text: str) -> None:
            if (server.folder / "postmaster.pid").exists():
                server.kill()

        return write_rows(*arguments, tell=tell_and_kill, **more)

    monkeypatch.setattr(sources, "write_rows", killing)
    said = refused(project, planes=many)
    assert said.startswith("params.yaml: data.source.sql.tables.planes: ")
    assert "connection" in said
    monkeypatch.undo()
    monkeypatch.setenv("WAREHOUSE_URL", server.url())

    said = refused(project)
    assert said.startswith("params.yaml: data.source.sql.url: ")
    assert said.endswith("is the server running, and are host and port right?")
    server.start()
    assert taken(project).endswith("gives now; there is nothing new")
