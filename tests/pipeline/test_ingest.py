"""What this project knows of the flights: their contract, their joins, their times."""

from pathlib import Path

import pandas as pd
import pytest

from mlops_pkg.core.params import load_params
from mlops_pkg.core.tables import check_table
from mlops_pkg.core.workspace import project_root
from mlops_pkg.pipeline.ingest import FILES, ZONES, add_times, contract_of, join

ROOT = project_root(Path(__file__).parent)
DATA = load_params(ROOT / "params.yaml").data
FLIGHT = {
    "year": 2013, "month": 7, "day": 4, "sched_dep_time": 2130, "sched_arr_time": 30, "arr_delay": 5, "carrier": "UA",
    "flight": 1, "tailnum": "N1", "origin": "JFK", "dest": "LAX", "distance": 2475, "time_hour": "2013-07-05T01:00:00Z",
}  # fmt: skip
KNOWN = {
    "airlines": pd.DataFrame({"carrier": ["UA"]}),
    "airports": pd.DataFrame({"faa": ["JFK", "LAX"], "tzone": ["America/New_York", "America/Los_Angeles"]}),
}


def reasons(folder: Path, **changed: object) -> list[str]:
    """Return the reasons for which a flight in a file is rejected."""
    path = folder / "flights.csv"
    pd.DataFrame([{**FLIGHT, **changed}]).to_csv(path, index=False)
    _, rejects, _ = check_table("flights", path, contract_of("flights", KNOWN, DATA), max_reject_share=1.0)
    return rejects["reason"].tolist()


def test_a_sound_flight_is_kept(tmp_path: Path) -> None:
    assert reasons(tmp_path) == []
    assert reasons(tmp_path, arr_delay="", tailnum="") == [], "cancelled flights and unknown planes are kept"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"carrier": "XX"}, "is not in the table of airlines"),
        ({"dest": "ZZZ"}, "is not in the table of airports"),
        ({"sched_dep_time": 1275}, "is not a time of day (hhmm)"),
        ({"day": 31, "month": 6}, "year, month, day: no such day in the calendar"),
        ({"time_hour": "2013-07-05T09:00:00Z"}, "time_hour: does not agree with the local schedule"),
        ({"distance": -5}, "is below 0"),
    ],
)
def test_a_flight_that_breaks_the_contract_is_rejected(tmp_path: Path, changed: dict, reason: str) -> None:
    assert reason in reasons(tmp_path, **changed)


def test_the_join_adds_and_drops_no_row() -> None:
    hour = pd.Timestamp("2013-07-05 01:00")
    flights = pd.DataFrame({"origin": ["JFK"] * 2, "time_hour": [hour] * 2, "tailnum": ["N1", None]}, index=[7, 9])
    weather = pd.DataFrame({"origin": ["JFK"], "time_hour": [hour], "temp": [70.0]})
    planes = pd.DataFrame({"tailnum": ["N1"], "year": [1999.0]})

    joined = join(flights, weather, planes)

    assert list(joined.index) == [7, 9]
    assert joined["temp"].tolist() == [70.0, 70.0]
    assert joined["plane_year"].fillna(0).tolist() == [1999.0, 0.0]


@pytest.mark.parametrize(
    ("dest", "clock", "arrival"),
    [("LAX", 30, "2013-07-05 07:30"), ("JFK", 30, "2013-07-05 04:30"), ("SJU", 2359, "2013-07-05 03:59")],
)
def test_an_arrival_is_told_in_utc_after_its_departure(dest: str, clock: int, arrival: str) -> None:
    flights = pd.DataFrame([{**FLIGHT, "dest": dest, "sched_arr_time": clock}])
    flights["time_hour"] = pd.to_datetime(flights["time_hour"]).dt.tz_localize(None).astype("datetime64[us]")
    zones = {**KNOWN["airports"].set_index("faa")["tzone"], **ZONES}

    timed = add_times(flights, zones)

    assert timed["sched_dep_utc"][0] == pd.Timestamp("2013-07-05 01:30")
    assert timed["sched_arr_utc"][0] == pd.Timestamp(arrival)


def test_every_table_of_the_source_is_read() -> None:
    assert set(FILES) == {"airlines", "airports", "planes", "weather", "flights"}
