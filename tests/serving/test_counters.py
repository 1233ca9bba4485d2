"""What workers count, one by one and together."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlops_pkg.serving.counters import Counters, Family, exposition

FAMILIES = (
    Family("asked", "Requests", "counter", {"path": ("/predict", "other")}),
    Family("under_way", "Requests under way", "gauge"),
    Family("seconds", "Time", "histogram", {}, (0.1, 1.0)),
)
WORKER = """
import os, sys
from pathlib import Path
from mlops_pkg.serving.counters import Counters
from tests.serving.test_counters import FAMILIES
counters = Counters(Path(sys.argv[1]), FAMILIES)
counters.add("asked", "/predict", amount=5)
counters.add("under_way", amount=1)
os.kill(os.getpid(), 9)
"""


def samples(counters: Counters) -> dict[str, float]:
    lines = exposition(counters).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_counts_of_all_workers_are_summed(tmp_path: Path) -> None:
    one, two = Counters(tmp_path, FAMILIES), Counters(tmp_path, FAMILIES)
    one.add("asked", "/predict")
    two.add("asked", "/predict", amount=2)
    two.add("under_way")

    found = samples(one)

    assert found == samples(two)
    assert found['asked_total{path="/predict"}'] == 3
    assert found['asked_total{path="other"}'] == 0
    assert found["under_way"] == 1


def test_a_histogram_is_cumulative_and_knows_its_sum(tmp_path: Path) -> None:
    counters = Counters(tmp_path, FAMILIES)
    for bucket, value in ((0, 0.05), (1, 0.5), (2, 7.0)):
        counters.buckets("seconds")[[bucket, -1]] += (1, value)

    found = samples(counters)

    assert [found[f'seconds_bucket{{le="{bound}"}}'] for bound in ("0.1", "1.0", "+Inf")] == [1, 2, 3]
    assert (found["seconds_count"], found["seconds_sum"]) == (3, 7.55)


def test_what_a_killed_worker_has_counted_stays_and_its_successor_goes_on_from_there(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], check=False)
    assert killed.returncode == -9
    successor = Counters(tmp_path, FAMILIES)
    successor.add("asked", "/predict")

    found = samples(successor)

    assert found['asked_total{path="/predict"}'] == 6
    assert found["under_way"] == 0, "a gauge tells of a worker that is gone"
    assert [path.name for path in tmp_path.iterdir()] == ["0.counts"]


def test_a_worker_with_other_series_begins_a_file_of_its_own(tmp_path: Path) -> None:
    first = Counters(tmp_path, FAMILIES)
    first.add("asked", "/predict")

    other = Counters(tmp_path, [Family("asked", "Requests", "counter", {"path": ("/model",)})])
    other.add("asked", "/model")

    found = samples(other)
    assert (found['asked_total{path="/predict"}'], found['asked_total{path="/model"}']) == (1, 1)


def test_a_series_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    counters = Counters(tmp_path, FAMILIES)
    counters.add("asked", "/made-up")

    assert not [name for name in samples(counters) if "made-up" in name]


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64])
def test_a_file_that_is_cut_off_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "7.counts").write_bytes(content)
    counters = Counters(tmp_path, FAMILIES)
    counters.add("under_way")

    assert samples(counters)["under_way"] == 1
