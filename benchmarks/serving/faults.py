"""Let each fault befall a server that is in use, and tell what became of it; the short form is tests/slow.

    python -m benchmarks.serving.faults [FAULT ...]

The figures go to benchmarks/serving/faults.json.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from mlops_pkg.serving.settings import authenticate, new_key
from tests.slow import test_serving_faults as faults
from tests.toy import write_bundle


def time_of_keys(rounds: int) -> faults.Figures:
    """Nanoseconds in which a key is told from others: the first that is known, the last, nearly the first, none."""
    keys = tuple(new_key(f"key{number}") for number in range(8))
    known = tuple(key for _, key in keys)
    first = keys[0][0]
    asked = {
        "first": first,
        "last": keys[-1][0],
        "nearly_the_first": first[:-1] + "-",
        "none_of_them": "x" * len(first),
    }
    times: dict[str, list[int]] = {name: [] for name in asked}
    for _ in range(rounds):  # in turns, so that whatever else happens befalls all alike
        for name, key in asked.items():
            began = time.perf_counter_ns()
            authenticate(key, known)
            times[name].append(time.perf_counter_ns() - began)
    medians = {name: round(statistics.median(found)) for name, found in times.items()}
    wrong = abs(medians["nearly_the_first"] - medians["none_of_them"])  # what a guesser could learn from
    right = abs(medians["first"] - medians["last"])
    assert max(wrong, right) < 0.05 * medians["none_of_them"], medians
    return {"rounds": rounds, "median_ns": medians, "between_wrong_keys_ns": wrong, "between_right_keys_ns": right}


FIGURES = Path(__file__).with_suffix(".json")
FAULTS: dict[str, Callable[[Path], faults.Figures]] = {
    "ten_times_too_much": lambda bundle: faults.ten_times_too_much(bundle, 60),
    "slow_clients": lambda bundle: faults.slow_clients(bundle, 200),
    "clients_that_hang_up": lambda bundle: faults.clients_that_hang_up(bundle, 3000),
    "killed_worker": lambda bundle: faults.killed_worker(bundle, 10),
    "ended_with_one_worker": lambda bundle: faults.ended_under_load(bundle, 1, 64, 5),
    "ended_with_two_workers": lambda bundle: faults.ended_under_load(bundle, 2, 64, 5),
    "broken_bundles": lambda bundle: faults.broken_bundles(bundle.parent),
    "full_disk": lambda bundle: faults.full_disk(bundle, 5000),
    "unread_errors": lambda bundle: faults.unread_errors(bundle, 20_000),
    "time_of_keys": lambda _: time_of_keys(20_000),
}


def main(names: list[str]) -> None:
    """Each fault once; the figures of those that are not named stay."""
    found = json.loads(FIGURES.read_text()) if names and FIGURES.exists() else {}
    for name in names or FAULTS:
        with TemporaryDirectory() as folder:
            found[name] = FAULTS[name](write_bundle(Path(folder) / "bundle"))
        FIGURES.write_text(json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found[name]))


if __name__ == "__main__":
    main(sys.argv[1:])
