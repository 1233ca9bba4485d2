"""Raw tables in, checked splits out: every row is kept, or rejected with a reason, and no column leaks the future."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_pkg.core.params import SPLITS, UserError, load_params
from mlops_pkg.core.splits import select
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table
from mlops_pkg.pipeline import ingest
from mlops_pkg.pipeline.params import Params
from tests.conftest import ROOT, TASK

LEAKS = ("dep_time", "dep_delay", "arr_time", "air_time")
Cells = list[list[str]]


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """The raw tables and params.yaml of the sample: what this stage reads, and nothing built."""
    root = tmp_path / "project"
    shutil.copytree(built / "data", root / "data")
    shutil.copy(built / "params.yaml", root)
    return root


def read_cells(project: Path, table: str) -> Cells:
    """A raw table as rows of texts, the header first."""
    path = project / "data" / f"{table}.csv"
    if table == "flights":
        with zipfile.ZipFile(f"{path}.zip") as archive:
            text = archive.read("flights.csv").decode()
    else:
        text = path.read_text()
    return [line.split(",") for line in text.splitlines()]


def write_text(project: Path, table: str, content: str | bytes) -> None:
    """Put a raw table in the place of the one that is there."""
    content = content.encode() if isinstance(content, str) else content
    if table == "flights":
        with zipfile.ZipFile(project / "data" / "flights.csv.zip", "w") as archive:
            archive.writestr("flights.csv", content)
    else:
        (project / "data" / f"{table}.csv").write_bytes(content)


def write_cells(project: Path, table: str, cells: Cells) -> None:
    """The same for rows of texts."""
    write_text(project, table, "".join(",".join(row) + "\n" for row in cells))


def change(project: Path, table: str, line: int, **values: str) -> None:
    """Change cells in one line of a raw table; the header is line 1."""
    cells = read_cells(project, table)
    for name, value in values.items():
        cells[line - 1][cells[0].index(name)] = value
    write_cells(project, table, cells)


def run(project: Path, overrides: dict[str, Any] | None = None, out: str = "artifacts") -> Workspace:
    """The stage on this project."""
    workspace = Workspace(project, out)
    ingest.run(load_params(workspace.params, overrides, Params), workspace)
    return workspace


def message_of(project: Path, overrides: dict[str, Any] | None = None) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as caught:
        run(project, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def rejects_of(workspace: Workspace) -> list[dict[str, Any]]:
    """The rejects as records."""
    return read_table(workspace.output("ingest", "rejects.parquet")).to_dict("records")


def read_splits(workspace: Workspace) -> pd.DataFrame:
    """The rows of all splits."""
    return pd.concat([read_table(workspace.output("ingest", f"{name}.parquet")) for name in SPLITS])


# The files


def test_a_truncated_zip_is_an_error(project: Path) -> None:
    path = project / "data" / "flights.csv.zip"
    path.write_bytes(path.read_bytes()[:50_000])

    assert message_of(project).startswith("data/flights.csv.zip: damaged archive (")


def test_a_zip_with_a_changed_byte_is_an_error(project: Path) -> None:
    path = project / "data" / "flights.csv.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    assert message_of(project).startswith("data/flights.csv.zip: damaged archive (")


def test_a_file_that_is_no_zip_is_an_error(project: Path) -> None:
    (project / "data" / "flights.csv.zip").write_text("year,month\n2013,1\n")

    expected = "data/flights.csv.zip: damaged archive (File is not a zip file); `make data` restores it"
    assert message_of(project) == expected


@pytest.mark.parametrize("members", [(), ("flights.csv", "more.csv")])
def test_a_zip_must_hold_one_file(project: Path, members: tuple[str, ...]) -> None:
    with zipfile.ZipFile(project / "data" / "flights.csv.zip", "w") as archive:
        for name in members:
            archive.writestr(name, "year\n2013\n")

    expected = f"data/flights.csv.zip: expected one file in the archive, found {len(members)}"
    assert message_of(project) == expected


@pytest.mark.parametrize(("offset", "central", "value"), [(6, 8, 1), (8, 10, 99)], ids=["encrypted", "unknown method"])
def test_a_zip_that_cannot_be_unpacked_is_an_error(project: Path, offset: int, central: int, value: int) -> None:
    path = project / "data" / "flights.csv.zip"
    content = bytearray(path.read_bytes())
    content[offset] = value
    content[content.rfind(b"PK\x01\x02") + central] = value
    path.write_bytes(content)

    assert message_of(project).startswith("data/flights.csv.zip: ")


def test_a_missing_file_is_an_error(project: Path) -> None:
    (project / "data" / "weather.csv").unlink()

    assert message_of(project) == "data/weather.csv: there is no such file; `make data` restores it"


@pytest.mark.parametrize(
    ("table", "old", "new", "hint"),
    [
        ("weather", "pressure", "presure", "did you mean 'presure'?"),
        ("flights", "sched_dep_time", "sched_dep_tim", "did you mean 'sched_dep_tim'?"),
        ("airlines", "carrier", "code", "valid names: code, name"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(project: Path, table: str, old: str, new: str, hint: str) -> None:
    cells = read_cells(project, table)
    cells[0][cells[0].index(old)] = new
    write_cells(project, table, cells)

    assert message_of(project) == f"data/{ingest.FILES[table]}: column '{old}' is missing; {hint}"


@pytest.mark.parametrize("table", ["planes", "flights"])
def test_an_empty_table_is_an_error(project: Path, table: str) -> None:
    header = ",".join(read_cells(project, table)[0])

    write_text(project, table, header + "\n")
    assert message_of(project) == f"data/{ingest.FILES[table]}: the table is empty"

    write_text(project, table, "")
    assert message_of(project).startswith(f"data/{ingest.FILES[table]}: ")


def test_another_encoding_is_an_error_with_its_line(project: Path) -> None:
    text = (project / "data" / "airports.csv").read_text().splitlines(keepends=True)
    text[11] = text[11].replace(",", " é,", 2)

    write_text(project, "airports", "".join(text).encode("latin-1"))

    assert message_of(project) == "data/airports.csv: line 12 is not UTF-8 text; save the file as UTF-8"


def test_a_ragged_row_is_an_error(project: Path) -> None:
    cells = read_cells(project, "airlines")
    cells[4].append("one too many")
    write_cells(project, "airlines", cells)

    message = message_of(project)

    assert message.startswith("data/airlines.csv: not a table: ")
    assert "one too many" in message


def test_line_ends_and_a_byte_order_mark_make_no_difference(project: Path, built: Path) -> None:
    cells = read_cells(project, "flights")
    write_text(project, "flights", "\ufeff" + "".join(",".join(row) + "\r\n" for row in cells))

    workspace = run(project)

    assert digest(workspace.output("ingest", "train.parquet")) == digest(
        built / "artifacts" / "ingest" / "train.parquet"
    )


# The rows


@pytest.mark.parametrize(
    ("table", "values", "column", "value", "reason"),
    [
        ("flights", {"carrier": "ZZ"}, "carrier", "ZZ", "is not in the table of airlines"),
        ("flights", {"dest": "QQQ"}, "dest", "QQQ", "is not in the table of airports"),
        ("flights", {"carrier": ""}, "carrier", "", "is missing"),
        ("flights", {"flight": "12B"}, "flight", "12B", "is not a number"),
        ("flights", {"arr_delay": "nan"}, "arr_delay", "nan", "is not a number"),
        ("flights", {"distance": "-5"}, "distance", "-5.0", "is below 0"),
        ("flights", {"distance": "12001"}, "distance", "12001.0", "is above 12000"),
        ("flights", {"sched_arr_time": "1299"}, "sched_arr_time", "1299.0", "is not a time of day (hhmm)"),
        ("flights", {"month": "2", "day": "30"}, "", "", "year, month, day: no such day in the calendar"),
        ("flights", {"day": "1.5"}, "day", "1.5", "is not a whole number"),
        (
            "flights",
            {"time_hour": "2013-01-01T25:61:00Z"},
            "time_hour",
            "2013-01-01T25:61:00Z",
            "is not a time (%Y-%m-%dT%H:%M:%SZ)",
        ),
        (
            "flights",
            {"time_hour": "2013-02-30T11:00:00Z"},
            "time_hour",
            "2013-02-30T11:00:00Z",
            "is not a time (%Y-%m-%dT%H:%M:%SZ)",
        ),
        ("flights", {"time_hour": "2013-06-01T11:00:00Z"}, "", "", "time_hour: does not agree with the local schedule"),
        ("flights", {"arr_delay": "1e400"}, "arr_delay", "", ""),
        ("weather", {"temp": "1000"}, "temp", "1000.0", "is above 140"),
        ("weather", {"humid": "wet"}, "humid", "wet", "is not a number"),
        ("weather", {"origin": "XXX"}, "origin", "XXX", "is not in the table of airports"),
        (
            "weather",
            {"time_hour": "2013-02-30T05:00:00Z"},
            "time_hour",
            "2013-02-30T05:00:00Z",
            "is not a time (%Y-%m-%dT%H:%M:%SZ)",
        ),
        ("planes", {"seats": "100000"}, "seats", "100000.0", "is above 1000"),
        ("planes", {"year": "0"}, "year", "0.0", "is below 1900"),
    ],
)
def test_a_bad_row_is_rejected_with_line_column_value_and_reason(  # noqa: PLR0917
    project: Path, table: str, values: dict[str, str], column: str, value: str, reason: str
) -> None:
    change(project, table, 40, **values)

    workspace = run(project)

    found = [reject for reject in rejects_of(workspace) if reject["table"] == table]
    assert found, "a bad row was not rejected"
    assert {reject["line"] for reject in found} == {40}, f"other lines are rejected: {found}"
    if reason:
        assert {"table": table, "line": 40, "column": column, "value": value, "reason": reason} in found, found
    counts = read_json(workspace.output("ingest", "rows.json"))["tables"][table]
    assert counts["rejected"] == 1
    assert counts["read"] == counts["kept"] + 1 == len(read_cells(project, table)) - 1


def test_the_good_rows_are_untouched_by_a_bad_one(project: Path, built: Path) -> None:
    change(project, "flights", 40, carrier="ZZ")

    found = read_splits(run(project)).reset_index(drop=True)

    whole = read_splits(Workspace(built))
    pd.testing.assert_frame_equal(found, whole[whole["line"] != 40].reset_index(drop=True))


def test_every_mistake_of_a_row_is_reported(project: Path) -> None:
    change(project, "flights", 40, distance="-5", carrier="ZZ")

    found = rejects_of(run(project))

    assert {(reject["line"], reject["column"]) for reject in found} == {(40, "distance"), (40, "carrier")}


def test_a_blank_line_is_no_row(project: Path, built: Path) -> None:
    cells = read_cells(project, "flights")
    cells.insert(9, [""])
    write_cells(project, "flights", cells)

    workspace = run(project)

    for name in ("train", "test"):
        expected = Workspace(built).output("ingest", f"{name}.parquet")
        assert workspace.output("ingest", f"{name}.parquet").read_bytes() == expected.read_bytes()


def test_the_second_row_of_a_key_is_rejected_and_the_first_stays(project: Path, built: Path) -> None:
    cells = read_cells(project, "flights")
    cells.insert(60, list(cells[39]))
    write_cells(project, "flights", cells)

    workspace = run(project)

    found = rejects_of(workspace)
    assert [(reject["line"], reject["reason"]) for reject in found] == [
        (61, "another row has the same time_hour, carrier, flight")
    ]
    assert 40 in read_splits(workspace)["line"].tolist()
    assert len(read_splits(workspace)) == len(read_splits(Workspace(built)))


def test_what_points_at_a_rejected_row_is_rejected_too(project: Path) -> None:
    cells = read_cells(project, "airlines")
    write_cells(project, "airlines", [row for row in cells if row[0] != "OO"])

    found = rejects_of(run(project))

    flights = read_cells(project, "flights")
    carrier = flights[0].index("carrier")
    lines = {line for line, row in enumerate(flights, start=1) if row[carrier] == "OO"}
    assert lines, "the sample holds no flight of this carrier"
    assert {reject["line"] for reject in found} == lines


def test_a_rejected_plane_leaves_its_flights_with_an_unknown_plane(project: Path) -> None:
    flights, planes = read_cells(project, "flights"), read_cells(project, "planes")
    tailnum = flights[1][flights[0].index("tailnum")]
    line = next(number for number, row in enumerate(planes, start=1) if row[0] == tailnum)
    change(project, "planes", line, seats="-1")

    rows = read_splits(run(project)).set_index("line")

    assert rows.loc[2, ["seats", "engines", "plane_year", "manufacturer", "engine"]].isna().all()


def test_too_many_bad_rows_stop_the_stage(project: Path) -> None:
    cells = read_cells(project, "flights")
    distance = cells[0].index("distance")
    for row in cells[1::10]:
        row[distance] = "far"
    write_cells(project, "flights", cells)

    assert message_of(project) == (
        "data/flights.csv.zip: 600 of 6,000 rows break the contract, more than max_reject_share = 0.01 allows; "
        "the first: line 2: distance 'far' is not a number"
    )
    assert not (project / "artifacts").exists(), "something was written"


def test_as_many_bad_rows_as_allowed_are_allowed(project: Path) -> None:
    cells = read_cells(project, "flights")
    distance = cells[0].index("distance")
    for row in cells[1:61]:
        row[distance] = "far"
    write_cells(project, "flights", cells)

    run(project, {"ingest": {"max_reject_share": 60 / 6000}})

    assert message_of(project, {"ingest": {"max_reject_share": 59 / 6000}}).startswith(
        "data/flights.csv.zip: 60 of 6,000"
    )


def test_every_row_is_accounted_for(project: Path) -> None:
    change(project, "flights", 40, carrier="ZZ")
    change(project, "flights", 41, distance="-1")

    workspace = run(project)

    rows = read_json(workspace.output("ingest", "rows.json"))
    for table, counts in rows["tables"].items():
        assert counts["read"] == len(read_cells(project, table)) - 1, f"{table}: rows are lost while reading"
        assert counts["read"] == counts["kept"] + counts["rejected"], f"{table}: rows are lost while checking"
    for former, step in zip(rows["steps"], rows["steps"][1:], strict=False):
        assert former["after"] == step["before"], f"rows are lost between {former['step']} and {step['step']}"
    changes = {step["step"]: step["before"] - step["after"] for step in rows["steps"]}
    kept = rows["tables"]["flights"]["kept"]
    assert changes == {"drop_not_arrived": changes["drop_not_arrived"], "join": 0, "select": 0, "split": 0}
    assert kept - changes["drop_not_arrived"] == sum(rows["splits"].values())
    cells = read_cells(project, "flights")
    not_arrived = sum(row[cells[0].index("arr_delay")] == "NA" for row in cells)
    assert changes["drop_not_arrived"] == not_arrived


def test_every_row_can_be_found_in_the_raw_file_by_its_line(project: Path, built: Path) -> None:
    cells = read_cells(project, "flights")
    raw = pd.DataFrame(cells[1:], columns=cells[0], index=range(2, len(cells) + 1))

    rows = read_splits(Workspace(built)).set_index("line")

    assert rows.index.is_unique
    same = raw.loc[rows.index]
    assert (same["carrier"] == rows["carrier"]).all()
    assert (same["distance"].astype(float) == rows["distance"]).all()
    assert (same["month"].astype(int) == rows["month"]).all()
    assert ((same["arr_delay"].astype(float) > 15) == (rows["late"] == 1)).all()


# What is computed


def make_flights(**columns: Any) -> pd.DataFrame:
    """Flights with what time keeping and joining need."""
    rows = len(next(iter(columns.values())))
    given = {"year": 2013, "month": 1, "day": 1, "origin": "JFK", "dest": "LAX", "tailnum": "N1", **columns}
    return pd.DataFrame(given, index=pd.Index(range(2, rows + 2), name="line")).assign(
        time_hour=lambda frame: frame["time_hour"].astype("datetime64[us]")
    )


def make_times(dest: str, day: tuple[int, int], departure: int, arrival: int, hour: str) -> "pd.Series[Any]":
    """The times of one flight from New York."""
    zones = {"LAX": "America/Los_Angeles", "HNL": "Pacific/Honolulu", "JFK": "America/New_York", **ingest.ZONES}
    flights = make_flights(
        dest=[dest],
        month=[day[0]],
        day=[day[1]],
        sched_dep_time=[float(departure)],
        sched_arr_time=[float(arrival)],
        time_hour=[pd.Timestamp(hour)],
    )
    return ingest.add_times(flights, zones).iloc[0]


@pytest.mark.parametrize(
    ("dest", "day", "departure", "arrival", "hour", "expected"),
    [
        ("LAX", (1, 1), 600, 917, "2013-01-01T11:00", "2013-01-01T17:17"),
        ("LAX", (7, 1), 600, 917, "2013-07-01T10:00", "2013-07-01T16:17"),  # daylight saving
        ("LAX", (1, 1), 2200, 117, "2013-01-02T03:00", "2013-01-02T09:17"),  # lands the day after
        ("HNL", (1, 1), 900, 1530, "2013-01-01T14:00", "2013-01-02T01:30"),
        ("SJU", (1, 1), 600, 1035, "2013-01-01T11:00", "2013-01-01T14:35"),
        ("SJU", (7, 1), 600, 935, "2013-07-01T10:00", "2013-07-01T13:35"),  # Puerto Rico keeps one time all year
        ("BQN", (1, 1), 2359, 440, "2013-01-02T04:00", "2013-01-02T08:40"),
        ("PSE", (1, 1), 2359, 440, "2013-01-02T04:00", "2013-01-02T08:40"),
        ("STT", (1, 1), 800, 1250, "2013-01-01T13:00", "2013-01-01T16:50"),
        ("JFK", (11, 3), 30, 130, "2013-11-03T04:00", "2013-11-03T05:30"),  # 1:30 comes twice that night
        ("JFK", (3, 10), 30, 230, "2013-03-10T05:00", "2013-03-10T07:00"),  # 2:30 does not come that night
    ],
)
def test_the_scheduled_arrival_is_reckoned_in_the_time_of_the_destination(  # noqa: PLR0917
    dest: str, day: tuple[int, int], departure: int, arrival: int, hour: str, expected: str
) -> None:
    times = make_times(dest, day, departure, arrival, hour)

    assert times["sched_arr_utc"] == pd.Timestamp(expected)
    assert times["sched_dep_at"] == pd.Timestamp(2013, *day, departure // 100, departure % 100)
    assert times["sched_dep_utc"] == pd.Timestamp(hour) + pd.Timedelta(minutes=departure % 100)


def test_every_flight_is_scheduled_to_arrive_after_it_departs(built: Path) -> None:
    rows = read_splits(Workspace(built))

    hours = (rows["sched_arr_utc"] - rows["sched_dep_utc"]).dt.total_seconds() / 3600
    assert hours.gt(0).all()
    assert hours.lt(14).all(), "no flight out of New York takes that long: a time zone is wrong"
    assert rows[["sched_dep_at", "sched_dep_utc", "sched_arr_utc"]].notna().all(axis=None)


def test_the_airports_that_have_no_time_zone_in_the_table_are_served(built: Path, project: Path) -> None:
    airports = {row[0] for row in read_cells(project, "airports")}

    rows = read_splits(Workspace(built))

    flown = set(ingest.ZONES) & set(rows["dest"])
    assert flown, "the sample flies to none of them"
    assert not flown & airports, "the table knows them by now: drop them from ZONES"


def test_a_time_zone_that_does_not_exist_is_an_error(project: Path) -> None:
    text = (project / "data" / "airports.csv").read_text()
    write_text(project, "airports", text.replace("America/Denver", "Mars/Phobos"))

    assert "Mars/Phobos" in message_of(project, {"ingest": {"max_reject_share": 0.0}})


def test_the_join_neither_adds_nor_drops_nor_reorders() -> None:
    hours = pd.to_datetime(["2013-01-01T11", "2013-01-01T12", "2013-01-01T11", "2013-01-01T11"])
    flights = make_flights(tailnum=["N2", "N1", None, "N9"], origin=["JFK", "JFK", "EWR", "JFK"], time_hour=hours)
    weather = pd.DataFrame({"origin": ["JFK", "EWR"], "time_hour": hours[[0, 2]], "temp": [1.0, 2.0]})
    planes = pd.DataFrame({"tailnum": ["N1", "N2", "N3"], "year": [2001.0, 2002.0, 2003.0]})

    joined = ingest.join(flights, weather.astype({"time_hour": "datetime64[us]"}), planes)

    assert list(joined.index) == list(flights.index)
    assert joined["temp"].tolist()[:1] + joined["temp"].tolist()[2:] == [1.0, 2.0, 1.0]
    assert joined["temp"].isna().tolist() == [False, True, False, False]
    assert joined["plane_year"].fillna(-1).tolist() == [2002, 2001, -1, -1]
    assert joined["year"].eq(2013).all(), "the year of the plane stands in the place of the year of the flight"


@pytest.mark.parametrize(("delay", "late"), [(14.0, 0), (15.0, 0), (15.5, 1), (16.0, 1), (-30.0, 0)])
def test_a_flight_is_late_above_the_minutes_in_params(delay: float, late: int) -> None:
    data = load_params(ROOT / "params.yaml", TASK).data
    values = {"category": "AA", "number": 1.0, "datetime": pd.Timestamp("2013-01-01")}
    row = {name: [values[column.kind]] for name, column in data.columns.items()} | {
        "arr_delay": [delay],
        "month": [1.0],
    }
    kinds = dict.fromkeys(data.names("datetime"), "datetime64[us]")

    selected = select(pd.DataFrame(row).astype(kinds), ingest.OUTCOME, data)

    assert selected["late"].tolist() == [late]


def test_without_a_threshold_the_target_is_the_number_itself(project: Path) -> None:
    overrides = {"task": "regression", "data": {"target": {"name": "delay", "positive_above": None}}}
    cells = read_cells(project, "flights")

    rows = read_splits(run(project, overrides))

    delay = {line: row[cells[0].index("arr_delay")] for line, row in enumerate(cells, start=1)}
    assert rows["delay"].dtype == "float64"
    assert all(float(delay[line]) == value for line, value in zip(rows["line"], rows["delay"], strict=True))


def test_the_splits_hold_the_months_of_params(built: Path) -> None:
    data = load_params(built / "params.yaml").data

    for name in SPLITS:
        months = read_table(built / "artifacts" / "ingest" / f"{name}.parquet")["month"]
        assert set(months) == set(getattr(data.split, name)), f"{name} holds other months"


def test_the_columns_are_those_of_params_in_their_order(built: Path) -> None:
    data = load_params(built / "params.yaml").data

    for name in SPLITS:
        columns = list(read_table(built / "artifacts" / "ingest" / f"{name}.parquet").columns)
        assert columns == ["line", data.split.by, *data.columns, data.target.name]


# Mistakes in params.yaml that only the data can show


def test_a_column_that_ingest_does_not_make_is_an_error(project: Path) -> None:
    message = message_of(project, {"data": {"columns": {"tempp": {"kind": "number"}}}})

    assert message == "params.yaml: data.columns.tempp: ingest makes no such column; did you mean 'temp'?"


def test_a_column_of_another_kind_is_an_error(project: Path) -> None:
    message = message_of(project, {"data": {"columns": {"carrier": {"kind": "number"}}}})

    assert message.startswith("params.yaml: data.columns.carrier")


def test_a_split_without_rows_is_an_error(project: Path) -> None:
    message = message_of(project, {"data": {"split": {"live": [13]}}})

    assert message == "params.yaml: data.split.live = [13]: no row has such a month"


@pytest.mark.parametrize("by", ["mnth", "tailnum"])
def test_a_split_key_that_cannot_split_is_an_error(project: Path, by: str) -> None:
    message = message_of(project, {"data": {"split": {"by": by}}, "evaluate": {"slices": ["carrier"]}})

    assert message.startswith(f"params.yaml: data.split.by = '{by}'")


def test_flights_of_which_none_arrived_are_an_error(project: Path) -> None:
    cells = read_cells(project, "flights")
    delay = cells[0].index("arr_delay")
    for row in cells[1:]:
        row[delay] = "NA"
    write_cells(project, "flights", cells)

    assert message_of(project) == "data/: no row has a value of 'arr_delay', so there is no target"


# The leak rule


def scrambled(cells: Cells, columns: tuple[str, ...], shift: Callable[[str], str]) -> Cells:
    """The same rows with other values in the columns; a missing value stays missing."""
    places = [cells[0].index(name) for name in columns]
    return [cells[0]] + [
        [shift(value) if place in places and value != "NA" else value for place, value in enumerate(row)]
        for row in cells[1:]
    ]


def test_what_is_known_later_changes_no_byte(project: Path, built: Path) -> None:
    cells = scrambled(read_cells(project, "flights"), LEAKS, lambda value: str(2359 - int(value)))
    write_cells(project, "flights", cells)

    workspace = run(project)

    before = built / "artifacts" / "ingest"
    names = sorted(path.name for path in before.iterdir())
    changed = [name for name in names if digest(workspace.output("ingest", name)) != digest(before / name)]
    assert len(names) == 7
    assert not changed, f"{changed} depend on {LEAKS}"


def test_what_is_known_later_may_even_be_absent(project: Path, built: Path) -> None:
    cells = read_cells(project, "flights")
    keep = [place for place, name in enumerate(cells[0]) if name not in LEAKS]
    write_cells(project, "flights", [[row[place] for place in keep] for row in cells])

    workspace = run(project)

    expected = digest(built / "artifacts" / "ingest" / "train.parquet")
    assert digest(workspace.output("ingest", "train.parquet")) == expected


def test_the_delay_on_arrival_changes_the_target_alone(project: Path, built: Path) -> None:
    cells = scrambled(read_cells(project, "flights"), ("arr_delay",), lambda value: str(15 - int(value)))
    write_cells(project, "flights", cells)

    found = read_splits(run(project))

    before = read_splits(Workspace(built))
    pd.testing.assert_frame_equal(found.drop(columns="late"), before.drop(columns="late"))
    assert (found["late"] != before["late"]).any(), "the target does not depend on the delay"


def test_a_leaking_column_in_params_stops_the_stage(project: Path) -> None:
    message = message_of(project, {"data": {"columns": {"dep_delay": {"kind": "number"}}}})

    assert message.startswith("params.yaml: data.columns.dep_delay: known only after the moment of prediction")
    assert not (project / "artifacts").exists()


def test_a_second_run_writes_the_same_bytes(project: Path, built: Path) -> None:
    workspace = run(project)
    first = {path.name: digest(path) for path in (project / "artifacts" / "ingest").iterdir()}
    shutil.rmtree(project / "artifacts")

    run(project)

    assert {name: digest(workspace.output("ingest", name)) for name in first} == first
    assert first == {path.name: digest(path) for path in (built / "artifacts" / "ingest").iterdir()}


def test_what_the_target_is_made_from_is_no_column_even_with_an_empty_leak_list(project: Path) -> None:
    columns = {"arr_delay": {"kind": "number"}}
    message = message_of(project, {"data": {"known_later": [], "columns": columns}})

    assert message == "params.yaml: data.columns.arr_delay: the target is made from it; remove it"
