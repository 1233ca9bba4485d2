"""Guards stop what is worse, seldom what is not, and keep their promise while they look again and again."""

import random
from collections.abc import Callable

import pytest
from scipy.special import betaln

from mlops_pkg.deployment.guards import Counts, confidence_sequence, judge, next_decision
from mlops_pkg.deployment.ledger import State
from mlops_pkg.deployment.plan import Guards

Start = Callable[..., State]


@pytest.mark.parametrize(("bad", "total"), [(0, 1), (0, 50), (3, 50), (50, 50), (200, 10_000), (9_999, 10_000)])
@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_the_bounds_are_where_the_martingale_reaches_its_limit(bad: int, total: int, alpha: float) -> None:
    import math

    low, high = confidence_sequence(bad, total, alpha)

    assert low <= bad / total <= high
    for bound in (low, high):
        if 0 < bound < 1:
            mixture = betaln(0.5 + bad, 0.5 + total - bad) - betaln(0.5, 0.5)
            evidence = mixture - bad * math.log(bound) - (total - bad) * math.log1p(-bound)
            assert evidence == pytest.approx(-math.log(alpha), rel=1e-6)
    assert (low == 0) == (bad == 0)
    assert (high == 1) == (bad == total)


def test_before_the_first_request_nothing_is_known() -> None:
    assert confidence_sequence(0, 0, 0.05) == (0.0, 1.0)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_looked_at_all_the_time_the_rate_is_seldom_left_out(rate: float) -> None:
    rng, left_out, alpha = random.Random(11), 0, 0.1
    for _ in range(200):
        bad, held = 0, True
        for total in range(1, 401):
            bad += rng.random() < rate
            if held and total % 4 == 0:
                low, high = confidence_sequence(bad, total, alpha)
                held = low <= rate <= high
        left_out += not held
    assert left_out <= 200 * alpha  # expected are fewer: the bound is for all time


def test_every_guard_sees_what_it_is_for() -> None:
    guards = Guards(p99_seconds=0.1)
    champion = Counts(requests=10_000, records=10_000)
    fine = Counts(requests=10_000, records=10_000, paired=10_000)
    bad = {
        "failed": Counts(10_000, failed=500, records=10_000, paired=10_000),
        "slow": Counts(10_000, slow=500, records=10_000, paired=10_000),
        "rejected": Counts(10_000, records=10_000, rejected=500, paired=10_000),
        "changed": Counts(10_000, records=10_000, paired=10_000, changed=3000),
    }

    assert not any(one.tripped for one in judge(guards, champion, fine))
    for guard, counts in bad.items():
        assert [one.guard for one in judge(guards, champion, counts) if one.tripped] == [guard]
        off = guards.model_copy(update={"p99_seconds" if guard == "slow" else guard: None})
        assert not any(one.tripped for one in judge(off, champion, counts))


def test_what_the_champion_does_as_well_is_no_fault_of_the_challenger() -> None:
    ill = Counts(10_000, failed=800, records=10_000, rejected=800)

    assert not any(one.tripped for one in judge(Guards(), ill, ill))


def _ramp(state: State, rng: random.Random, failing: tuple[float, float]) -> tuple[str, int]:
    """How a ramp ends, and after how many requests to the challenger; one of 200 requests is looked at."""
    requests, failed, changed, number = [0, 0], [0, 0], 0, 0
    share = state.share
    while True:
        for _ in range(200):
            arm = int(rng.random() < share)
            requests[arm] += 1
            failed[arm] += rng.random() < failing[arm]
            changed += arm and rng.random() < 0.02
            number += arm
        counts = {
            "champion": Counts(requests[0], failed[0], records=requests[0]),
            "challenger": Counts(requests[1], failed[1], records=requests[1], paired=requests[1], changed=changed),
        }
        found = next_decision(state, counts, number, 1e9)
        if found and found.decision != "step":
            return found.decision, requests[1]
        if found:
            share, number = found.share, 0
            state = type(state)(**{**vars(state), "share": share})


def test_of_200_harmless_ramps_no_more_are_stopped_than_declared(start: Start) -> None:
    state = start(challenger="new", mode="canary", guards={"false_alarms": 0.05})
    ends = [_ramp(state, random.Random(seed), (0.01, 0.012))[0] for seed in range(200)]

    assert set(ends) <= {"promote", "rollback"}
    assert ends.count("rollback") <= 200 * 0.05


def test_a_challenger_that_fails_is_stopped_within_the_first_step(start: Start) -> None:
    state = start(challenger="new", mode="canary", ramp={"least_requests": 2000})
    ends = [_ramp(state, random.Random(seed), (0.001, 0.1)) for seed in range(20)]

    assert {end for end, _ in ends} == {"rollback"}
    assert max(requests for _, requests in ends) < 400


def test_the_ramp_waits_for_time_and_requests(start: Start) -> None:
    state = start(challenger="new", mode="canary", ramp={"hold_seconds": 60, "least_requests": 10})
    counts = {"champion": Counts(1000), "challenger": Counts(1000)}

    assert next_decision(state, counts, 9, 61) is None
    assert next_decision(state, counts, 10, 59) is None
    found = next_decision(state, counts, 10, 60)
    assert found
    assert (found.decision, found.share) == ("step", 0.25)
    assert next_decision(type(state)(**{**vars(state), "paused": True}), counts, 10, 60) is None
    last = next_decision(type(state)(**{**vars(state), "share": 1.0}), counts, 10, 60)
    assert last
    assert last.decision == "promote"


@pytest.mark.parametrize(("mode", "more"), [("blue-green", {}), ("ab", {"share": 0.3})])
def test_other_modes_have_guards_and_no_ramp(start: Start, mode: str, more: dict[str, float]) -> None:
    state = start(challenger="new", mode=mode, **more)

    assert next_decision(state, {"champion": Counts(1000), "challenger": Counts(1000)}, 1000, 1e9) is None
    found = next_decision(state, {"champion": Counts(1000), "challenger": Counts(1000, failed=300)}, 0, 0)
    assert found
    assert (found.decision, found.share) == ("rollback", 0.0)
    assert found.figures["challenger"]["failed"] == 300
