"""Servers under load follow a deployment: who is asked, who is not seen, what stops a challenger, and how fast."""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlops_pkg.deployment.cases import read_labels
from mlops_pkg.deployment.ledger import State, decide, read_state, read_states
from mlops_pkg.prediction_log.segments import list_days
from mlops_pkg.prediction_log.verify import verify
from mlops_pkg.serving.settings import new_key
from tests.prediction_log.conftest import logged, open_predictor
from tests.serving.conftest import JSON, Reply, Server, launch, until, workers_of
from tests.serving.conftest import start as start_server
from tests.toy import GRAPH, RECORD, write_bundle

Start = Callable[..., State]
KEY, STORED = new_key("operator")
CLIENT, CLIENT_STORED = new_key("client")
PEOPLE = {name: new_key(name) for name in ("ann", "bob")}


class Said(NamedTuple):
    """What a client has seen."""

    request_id: str
    version: str
    answer: float
    end: float  # time


EARLY = "2013-01-01T05:00"


def ask(server: Server, name: str, **record: Any) -> Said:
    """Ask for one record, with these values in place of the usual ones."""
    reply = server.ask([RECORD | record], {"x-request-id": name})
    assert reply.status == 200, reply.body
    [prediction] = reply.json["predictions"]
    return Said(name, reply.json["model"]["version"], prediction["probability"], time.time())


def drive(server: Server, count: int, **options: Any) -> list[Said]:
    """Ask so many times, eight at once."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: ask(server, f"r-{number}", **options), range(count)))


@contextmanager
def running(project: Path, workers: int = 2, **settings: str) -> Iterator[Server]:
    """Servers that follow the deployment of a project, and log."""
    env = {
        "SERVE_DEPLOYMENT": str(project / "deployment"),
        "SERVE_WORKERS": str(workers),
        "SERVE_PREDICTION_LOG": str(project / "predictions"),
        "SERVE_PREDICTION_LOG_SECONDS": "0.5",
    }
    with start_server(project / "old", env=env | settings) as server:
        yield server


def versions(state: State) -> dict[str, str]:
    """The version of each role."""
    return {one.role: one.identity[:12] for one in state.bundles}


def verified(project: Path, *names: str) -> bool:
    """Whether all that was logged is what these bundles answer."""
    predictors = {predictor.identity: predictor for predictor in (open_predictor(project / name) for name in names)}
    verdict = verify(list_days(project / "predictions"), predictors)
    return verdict.rows > 0 and not verdict.wrong


def test_a_share_of_the_requests_goes_to_the_challenger_and_stays_there(start: Start, project: Path) -> None:
    state = start(challenger="new", mode="ab", share=0.3)
    with running(project) as server:
        first = drive(server, 1000)
        again = drive(server, 1000)

    asked = Counter(said.version for said in first)
    of = versions(state)
    assert set(asked) == {of["champion"], of["challenger"]}
    assert abs(asked[of["challenger"]] / 1000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 1000)
    assert [said.version for said in first] == [said.version for said in again]
    assert verified(project, "old", "new")


def test_a_field_may_decide_who_is_asked(start: Start, project: Path) -> None:
    start(challenger="new", mode="ab", share=0.5, sticky="origin")
    with running(project) as server:
        names = [f"airport {number}" for number in range(60)]
        asked = {name: {ask(server, f"{name}-{turn}", origin=name).version for turn in range(3)} for name in names}
        mixed = server.ask([RECORD | {"origin": name} for name in names]).json["model"]["version"]
        alike = [server.ask([RECORD | {"origin": name}] * 2).json["model"]["version"] for name in names]

    assert all(len(found) == 1 for found in asked.values())
    assert len(set.union(*asked.values())) == 2
    assert mixed == versions(read_state(project / "deployment"))["champion"]
    assert alike == [next(iter(asked[name])) for name in names]


def test_shadows_are_asked_for_everything_and_never_seen(start: Start, project: Path) -> None:
    state = start(shadows=["new", "other"])
    with running(project) as server:
        seen = drive(server, 600)
        until(lambda: server.metric('model_paired_total{role="shadow-2"}') >= 600)

    of, rows = versions(state), logged(project / "predictions")
    assert {said.version for said in seen} == {of["champion"]}
    assert Counter(row["role"] for row in rows) == {"champion": 600, "shadow-1": 600, "shadow-2": 600}
    assert {(row["role"], row["version"]) for row in rows} == set(of.items())
    assert Counter(row["request_id"] for row in rows) == dict.fromkeys((said.request_id for said in seen), 3)
    assert verified(project, "old", "new", "other")


def test_a_shadow_that_cannot_keep_up_goes_without(start: Start, project: Path) -> None:
    write_bundle(project / "slow", SLOW.replace("{1500, 1500}", "{2200, 2200}"))
    start(shadows=["slow"])
    body = json.dumps({"records": [RECORD] * 1000}).encode()
    with running(project, workers=1) as server:
        for _ in range(100):
            assert server.get("/predict", {"content-type": JSON}, body).status == 200
        assert server.metric("shadow_lost_total") > 0


def test_a_canary_grows_step_by_step_to_all(start: Start, project: Path) -> None:
    state = start(
        challenger="new", mode="canary", ramp={"steps": [0.2, 0.6], "hold_seconds": 0.5, "least_requests": 30}
    )
    seen: list[Said] = []
    with running(project) as server:
        while not read_state(project / "deployment").over:
            seen += drive(server, 100)
            assert len(seen) < 20_000
        after = until(lambda: len(found := {said.version for said in drive(server, 100)}) == 1 and found)

    states = read_states(project / "deployment")
    assert [(one.decision, one.share) for one in states] == [("start", 0.2), ("step", 0.6), ("promote", 1.0)]
    assert all(one.by == "guards" and one.figures["challenger"]["requests"] >= 30 for one in states[1:])
    assert after == {versions(state)["challenger"]}
    of_one: dict[str, set[str]] = {}
    for said in seen:
        of_one.setdefault(said.request_id, set()).add(said.version)
    assert any(len(found) == 2 for found in of_one.values())  # some have moved, and none back
    assert verified(project, "old", "new")


KNOWN = "    known = Add(by_place, by_hour)\n"


def _with(declared: str, lines: str) -> str:
    """The toy graph with more initializers, and lines that add `extra`, which is zero, to its margin."""
    graph = GRAPH.replace("double calm = {1.0},", f"double calm = {{1.0}}, {declared},")
    return graph.replace(KNOWN, f"{lines}    soon = Add(by_place, by_hour)\n    known = Add(soon, extra)\n")


CRASHING = _with(
    "int64[1] some = {200}",
    """    near = ConstantOfShape <value = double[1] {0.0}> (some)
    at = Cast <to = 7> (filled)
    extra = Gather(near, at)
""",
)
SLOW = _with(
    "double zero = {0}, int64[2] size = {1500, 1500}",
    """    ones = ConstantOfShape <value = double[1] {1.0}> (size)
    mean = ReduceMean <keepdims = 0> (filled)
    square = Add(ones, mean)
    cube = MatMul(square, square)
    work = ReduceSum <keepdims = 0> (cube)
    extra = Mul(work, zero)
""",
)
BAD = {
    "wrong categories": (GRAPH.replace('["EWR", "JFK"]', '["JFK", "EWR"]'), "changed", {}),
    "drifted": (GRAPH.replace("pace = {0.1}", "pace = {-0.3}"), "changed", {}),
    "slow": (SLOW, "slow", {"p99_seconds": 0.02, "changed": None}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_challenger_is_stopped_by_a_guard(start: Start, project: Path, kind: str) -> None:
    graph, guard, guards = BAD[kind]
    write_bundle(project / "bad", graph)
    of = versions(start(challenger="bad", mode="canary", ramp={"steps": [0.2, 1.0]}, guards=guards))
    with running(project) as server:
        until(lambda: drive(server, 200, start=EARLY) and read_state(project / "deployment").over, 60)
        until(lambda: {said.version for said in drive(server, 50)} == {of["champion"]})

    state = read_state(project / "deployment")
    assert (state.decision, state.by, state.share) == ("rollback", "guards", 0.0)
    assert state.reason.startswith(f"{guard}: ")
    assert state.figures["challenger"]["requests"] < 2000


def test_a_challenger_that_crashes_is_stopped_and_counted(start: Start, project: Path) -> None:
    write_bundle(project / "bad", CRASHING)
    start(challenger="bad", mode="canary", ramp={"steps": [0.3, 1.0]})

    def attempt(number: int) -> Reply:
        return server.ask([RECORD | {"wind": 195.0 + number % 7}], {"x-request-id": f"r-{number}"})

    with running(project) as server, ThreadPoolExecutor(8) as pool:
        replies: list[Reply] = []
        while not read_state(project / "deployment").over:
            replies += pool.map(attempt, range(len(replies), len(replies) + 100))
            assert len(replies) < 5000
        until(lambda: {reply.status for reply in pool.map(attempt, range(200))} == {200})

    state = read_state(project / "deployment")
    assert state.reason.startswith("failed: ")
    assert {reply.status for reply in replies} == {200, 500}


def test_who_names_a_version_is_answered_by_it_while_it_has_a_share(start: Start, project: Path) -> None:
    of = versions(start(challenger="new", mode="ab", share=0.5))
    tensors = [{"name": "origin", "datatype": "BYTES", "shape": [1], "data": ["EWR"]},
               {"name": "wind", "datatype": "FP64", "shape": [1], "data": [2.0]},
               {"name": "start", "datatype": "BYTES", "shape": [1], "data": [EARLY]}]  # fmt: skip
    body = json.dumps({"inputs": tensors}).encode()

    def infer(server: Server, role: str) -> set[Any]:
        path = f"/v2/models/toy/versions/{of[role]}/infer"
        replies = [server.get(path, {"content-type": JSON}, body) for _ in range(20)]
        return {reply.json.get("model_version", reply.status) for reply in replies}

    with running(project) as server:
        assert infer(server, "champion") == {of["champion"]}
        assert infer(server, "challenger") == {of["challenger"]}
        decide(project / "deployment", "rollback", "ann", "")
        until(lambda: infer(server, "challenger") == {404})
        assert infer(server, "champion") == {of["champion"]}


def test_a_rollback_reaches_every_worker_within_a_second_and_loses_nothing(start: Start, project: Path) -> None:
    state = start(challenger="new", mode="blue-green")
    decide(project / "deployment", "promote", "ann", "")
    seen: list[Said] = []
    done = threading.Event()

    def keep_asking(number: int) -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            seen.append(ask(server, f"{number}-{turn}"))

    with running(project) as server:
        threads = [threading.Thread(target=keep_asking, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        moment = time.time()
        decide(project / "deployment", "rollback", "ann", "try")
        time.sleep(1.5)
        done.set()
        for thread in threads:
            thread.join()

    wrong = [said.end for said in seen if said.version == versions(state)["challenger"]]
    assert wrong
    assert max(wrong) - moment < 1.0
    assert seen[-1].version == versions(state)["champion"]
    rows = [row for row in logged(project / "predictions") if row["role"] in ("champion", "challenger")]
    assert Counter(row["request_id"] for row in rows) == Counter(said.request_id for said in seen)


def test_killed_in_the_middle_of_a_switch_all_agree_afterwards(start: Start, project: Path) -> None:
    state = start(challenger="new", mode="blue-green")
    with running(project, workers=3) as server:
        for turn, role in enumerate(["challenger", "champion"] * 3):
            decide(project / "deployment", "promote" if role == "challenger" else "rollback", "ann", str(turn))
            os.kill(workers_of(server.process)[0], signal.SIGKILL)
            wanted = {versions(state)[role]}

            def agreed(wanted: set[str] = wanted) -> bool:
                try:
                    return {ask(server, f"r-{number}").version for number in range(30)} == wanted
                except OSError:  # of the worker that was killed
                    return False

            until(agreed)


def test_another_deployment_takes_over_without_losing_a_request(start: Start, project: Path) -> None:
    start()
    with running(project) as server:
        before = {said.version for said in drive(server, 100)}
        state = start(challenger="other", mode="ab", share=0.5)
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(drive, server, 600).result()
        until(lambda: len({said.version for said in drive(server, 100)}) == 2)

    assert before == {versions(state)["champion"]}
    assert len(seen) == 600


def test_a_bundle_that_was_changed_since_is_refused_by_name_and_the_former_state_goes_on(
    start: Start, project: Path
) -> None:
    former = start()
    with running(project, workers=1) as server:
        state = start(challenger="other", mode="ab", share=0.5)
        line = (project / "deployment" / "ledger.jsonl").read_bytes()
        until(lambda: server.events("deployment_changed"))
        write_bundle(project / "other")
        (project / "deployment" / "ledger.jsonl").write_bytes(line + former.to_line())
        until(lambda: len(server.events("deployment_changed")) == 2)
        (project / "deployment" / "ledger.jsonl").write_bytes(line + former.to_line() + state.to_line())
        [refused] = until(lambda: server.events("deployment_refused"))
        seen = {said.version for said in drive(server, 100)}

    assert refused["reason"].endswith("other: another bundle than the one that was deployed as challenger")
    assert seen == {versions(former)["champion"]}


def test_without_its_folder_a_deployment_goes_on_as_it_was(start: Start, project: Path) -> None:
    state = start(challenger="new", mode="ab", share=0.5)
    with running(project, workers=1) as server:
        (project / "deployment").rename(project / "away")
        (project / "deployment").write_text("a file where the folder was")
        until(lambda: server.events("deployment_refused"))
        assert {said.version for said in drive(server, 100)} == set(versions(state).values())
        (project / "deployment").unlink()
        (project / "away").rename(project / "deployment")
        decide(project / "deployment", "rollback", "ann", "")
        until(lambda: {said.version for said in drive(server, 50)} == {versions(state)["champion"]})


def test_where_no_decision_can_be_written_guards_try_again(start: Start, project: Path) -> None:
    write_bundle(project / "bad", BAD["drifted"][0])
    start(challenger="bad", mode="canary", ramp={"steps": [0.5, 1.0]})
    line = (project / "deployment" / "ledger.jsonl").read_bytes()
    with running(project, workers=1) as server:
        shutil.rmtree(project / "deployment")
        (project / "deployment").write_text("a file where the folder was")
        until(lambda: drive(server, 100, start=EARLY) and server.events("deployment_failed"), 60)
        (project / "deployment").unlink()
        (project / "deployment").mkdir()
        (project / "deployment" / "ledger.jsonl").write_bytes(line)
        until(lambda: read_state(project / "deployment").over)

    assert read_state(project / "deployment").decision == "rollback"


def test_a_deployment_that_is_not_there_is_told_before_anything_listens(tmp_path: Path) -> None:
    process, log = launch("--deployment", str(tmp_path / "nowhere"), "--port", "0")

    assert process.wait(20) == 1
    [line] = log.read_text().splitlines()
    assert line.endswith("nowhere/ledger.jsonl: not found; `mlops_pkg deploy start` makes it from deployment.yaml")


ADMIN = {"authorization": f"Bearer {KEY}", "content-type": JSON}


def steered() -> dict[str, str]:
    """Settings with keys of both kinds."""
    keys = {"keys": [CLIENT_STORED], "admin_keys": [STORED], "reviewer_keys": [stored for _, stored in PEOPLE.values()]}
    return {
        f"SERVE_{name.upper()}": ",".join(f"{key.name}:{key.sha256}" for key in some) for name, some in keys.items()
    }


def test_an_admin_key_shows_and_steers(start: Start, project: Path) -> None:
    start(challenger="new", mode="blue-green", shadows=["other"])
    with running(project, **steered()) as server:
        shown = server.get("/deployment", ADMIN).json
        promoted = server.get("/deployment/promote", ADMIN, b'{"reason": "all is well"}')
        again = server.get("/deployment/promote", ADMIN, b"{}")
        page = server.get("/deployment/page", ADMIN)

    assert set(shown["counts"]) == {"champion", "challenger", "shadow-1"}
    assert [one["guard"] for one in shown["guards"]] == ["failed", "rejected", "changed"]
    assert promoted.json["ledger"][0]["reason"] == "all is well"
    assert (again.status, again.json["error"]["code"]) == (409, "decision")
    assert b"Deployment of toy" in page.body
    state = read_state(project / "deployment")
    assert (state.by, state.share) == ("key operator", 1.0)
    assert KEY not in (project / "deployment" / "ledger.jsonl").read_text()


@pytest.mark.parametrize("path", ["/deployment", "/deployment/page", "/deployment/page.js", "/deployment/rollback"])
@pytest.mark.parametrize("whose", ["nobody", "stranger", "client"])
def test_without_an_admin_key_nothing_is_shown_or_steered(start: Start, project: Path, path: str, whose: str) -> None:
    start(challenger="new", mode="blue-green")
    body = b"{}" if path.endswith("rollback") else None
    key = {"stranger": "wrong", "client": CLIENT}.get(whose)
    headers = {"content-type": JSON} | ({"authorization": f"Bearer {key}"} if key else {})
    with running(project, workers=1, **steered()) as server:
        assert server.get(path, headers, body).status == 401
        assert server.get("/predict", ADMIN, json.dumps({"records": [RECORD]}).encode()).status == 401
    with running(project, workers=1) as server:
        reply = server.get(path, headers, body)
        assert (reply.status, reply.json["error"]["code"]) == (403, "no_admin_key")
    assert read_state(project / "deployment").number == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({}, b"[]", 422),
        ({}, b'{"reason": 7}', 422),
        ({}, b'{"reason": "' + b"x" * 501 + b'"}', 422),
        ({}, b"{", 400),
        ({}, b'{"reason": "' + b"x" * 5000 + b'"}', 413),
    ],
)
def test_a_wrong_body_decides_nothing(
    start: Start, project: Path, headers: dict[str, str], body: bytes, status: int
) -> None:
    start(challenger="new", mode="blue-green")
    with running(project, workers=1, **steered()) as server:
        assert server.get("/deployment/promote", ADMIN | headers, body).status == status
        assert server.get("/deployment/explode", ADMIN, b"{}").status == 404
    assert read_state(project / "deployment").number == 1


LEVELS = {
    "partial": {"level": "partial", "refer": [0.4, 0.6]},
    "assist": {"level": "assist"},
    "shadow": {"level": "shadow"},
    "full": {"level": "full"},
}


@pytest.mark.parametrize("level", LEVELS)
def test_who_decides_is_said_and_logged(start: Start, project: Path, level: str) -> None:
    start(automation=LEVELS[level])
    records = [RECORD | {"start": f"2013-01-01T{hour:02}:00", "origin": "JFK"} for hour in range(24)]
    csv = b"origin,wind,start\nEWR,2.0,2013-01-01T21:00\n"
    with running(project, workers=1) as server:
        said = server.ask([*records, "none"]).json["predictions"]
        explained = server.get("/predict", {"content-type": JSON}, json.dumps({"records": records}).encode()).json
        others = [server.get("/predict", {"content-type": "text/csv"}, csv)]
        others.append(server.get("/invocations", {"content-type": JSON}, json.dumps({"instances": records}).encode()))

    rows = logged(project / "predictions")[:25]
    chances = [row["answer"] for row in rows[:-1]]
    wanted = {
        "partial": ["refer" if 0.4 <= chance < 0.6 else "auto" for chance in chances],
        "full": [None] * 24,
    }.get(level, ["refer"] * 24)
    assert [row["decision"] for row in rows] == [*wanted, None]
    assert [one.get("decision") for one in said] == [*wanted, None]
    assert [one["probability"] for one in said[:-1]] == ([None] * 24 if level == "shadow" else chances)
    assert explained["predictions"] == said[:-1]
    assert {reply.status for reply in others} == ({200} if level == "full" else {415})
    assert verified(project, "old")


def _as(name: str) -> dict[str, str]:
    """The headers of a person."""
    return {"authorization": f"Bearer {PEOPLE[name][0]}", "content-type": JSON}


def test_what_is_referred_is_labelled_by_people_with_keys_of_their_own(start: Start, project: Path) -> None:
    start(automation={"level": "partial", "refer": [0.4, 0.6]})
    records = [RECORD | {"start": f"2013-01-01T{hour:02}:00", "origin": "JFK"} for hour in range(24)]
    with running(project, **steered()) as server:
        asked = {"authorization": f"Bearer {CLIENT}", "content-type": JSON, "x-request-id": "order-17"}
        said = server.get("/predict", asked, json.dumps({"records": records}).encode()).json["predictions"]
        referred = [row for row, one in enumerate(said) if one["decision"] == "refer"]
        first, second = (server.get("/cases", _as(name)).json for name in PEOPLE)
        case = first["case"]
        wrong = server.get(f"/cases/{case['number']}", _as("ann"), b'{"label": "perhaps"}')
        others = server.get(f"/cases/{case['number']}", _as("bob"), b'{"label": "1"}')
        done = server.get(f"/cases/{case['number']}", _as("ann"), b'{"label": "1"}').json
        for key in (CLIENT, KEY, "wrong"):
            assert server.get("/cases", {"authorization": f"Bearer {key}"}).status == 401
        os.kill(workers_of(server.process)[0], signal.SIGKILL)

    assert len(referred) > 2
    assert case["inputs"] == records[referred[0]]
    assert case["shown"] == {name: value for name, value in said[referred[0]].items() if name != "decision"}
    assert second["case"]["record"] == referred[1]
    assert first["labels"] == ["0", "1"]
    assert (wrong.status, others.status) == (422, 409)
    assert done["case"]["record"] == referred[2]
    assert done["progress"]["labelled"] == 1
    [label] = read_labels(project / "deployment" / "cases.sqlite")
    assert (label["request_id"], label["record"], label["label"], label["who"]) == ("order-17", referred[0], "1", "ann")


def test_what_cannot_be_stored_is_not_said_to_be_referred(start: Start, project: Path) -> None:
    start(automation={"level": "assist"})
    with running(project, workers=1) as server:
        assert server.ask([RECORD]).status == 200
        for file in (project / "deployment").glob("cases*"):
            file.unlink()
        (project / "deployment" / "cases.sqlite").mkdir()
        reply = server.ask([RECORD])

    assert (reply.status, reply.json["error"]["code"]) == (503, "cases")
    assert reply.headers["retry-after"]


def test_without_reviewer_keys_no_case_is_given_out(start: Start, project: Path) -> None:
    start(automation={"level": "shadow"})
    with running(project, workers=1) as server:
        server.ask([RECORD])
        replies = [
            server.get("/cases"),
            server.get("/cases/page"),
            server.get("/cases/1", {"content-type": JSON}, b"{}"),
        ]

    assert {(reply.status, reply.json["error"]["code"]) for reply in replies} == {(403, "no_admin_key")}
