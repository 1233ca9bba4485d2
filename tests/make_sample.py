"""Makes tests/sample.zip from data/: 500 real flights of each month, and the weather, planes and airports they need.

Run it after a change of the data: `python tests/make_sample.py`. Equal data gives equal bytes.
"""

import zipfile
from io import StringIO
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
PER_MONTH = 500


def read(name: str) -> pd.DataFrame:
    """A raw table as the text that its file holds."""
    return pd.read_csv(DATA / name, dtype="str", keep_default_na=False)


def sample() -> dict[str, pd.DataFrame]:
    """The five tables, reduced to one sample of flights and what it points at."""
    flights = read("flights.csv.zip").groupby("month").sample(PER_MONTH, random_state=0).sort_index()
    weather, planes, airports = read("weather.csv"), read("planes.csv"), read("airports.csv")
    hours = flights["origin"] + flights["time_hour"]
    places = set(flights["origin"]) | set(flights["dest"])
    return {
        "flights.csv": flights,
        "weather.csv": weather[(weather["origin"] + weather["time_hour"]).isin(hours)],
        "planes.csv": planes[planes["tailnum"].isin(flights["tailnum"])],
        "airports.csv": airports[airports["faa"].isin(places)],
        "airlines.csv": read("airlines.csv"),
    }


def main() -> None:
    """Write the archive with fixed dates, its members in a fixed order."""
    with zipfile.ZipFile(ROOT / "tests" / "sample.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, table in sorted(sample().items()):
            buffer = StringIO()
            table.to_csv(buffer, index=False, lineterminator="\n")
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), buffer.getvalue(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
