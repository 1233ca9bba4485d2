"""Ten thousand real rows through a canary of real bundles: who answered what, and all of it computed again."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_pkg.bundle.manifest import CARD
from mlops_pkg.deployment.check import describe, replay
from mlops_pkg.deployment.ledger import read_state, read_states
from mlops_pkg.deployment.plan import position
from mlops_pkg.deployment.starting import start
from mlops_pkg.prediction_log.segments import list_days
from mlops_pkg.prediction_log.verify import verify
from tests.conftest import ROOT
from tests.deployment.test_server import running
from tests.prediction_log.conftest import logged, open_predictor, real_records
from tests.serving.conftest import Server, until
from tests.toy import seal

pytestmark = pytest.mark.slow

BUNDLE, ROWS = ROOT / "artifacts" / "package", 10_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The bundle as champion, and as challenger and shadow under other identities."""
    for name in ("old", "new", "other"):
        shutil.copytree(BUNDLE, tmp_path / name)
        with (tmp_path / name / CARD).open("a") as file:
            file.write(f"\n{name}\n")
        seal(tmp_path / name)
    return tmp_path


def test_a_canary_of_real_rows(project: Path) -> None:
    ramp = "{steps: [0.05, 0.25, 0.5, 1.0], hold_seconds: 3, least_requests: 100}"
    (project / "deployment.yaml").write_text(
        f"{{champion: old, challenger: new, shadows: [other], mode: canary, ramp: {ramp}}}"
    )
    state = start(project / "deployment.yaml", project / "deployment", "ann")
    records, of = real_records(BUNDLE, ROWS), {one.role: one.identity[:12] for one in state.bundles}
    seen: list[tuple[str, float]] = []

    def ask(server: Server, number: int) -> tuple[str, float]:
        reply = server.ask([records[number % ROWS]], {"x-request-id": f"r-{number}"})
        assert reply.status == 200, reply.body
        return reply.json["model"]["version"], reply.json["predictions"][0]["probability"]

    with running(project) as server, ThreadPoolExecutor(8) as pool:
        while not read_state(project / "deployment").over or len(seen) < ROWS:
            seen += pool.map(lambda number: ask(server, number), range(len(seen), len(seen) + 500))
        until(lambda: server.metric('model_paired_total{role="shadow-1"}') >= len(seen))

    states = read_states(project / "deployment")
    assert [one.decision for one in states] == ["start", "step", "step", "step", "promote"]
    early = [number for number, (version, _) in enumerate(seen[:500]) if version == of["challenger"]]
    assert early == [number for number in range(500) if position(f"r-{number}", state.salt) < 0.05]
    assert {version for version, _ in seen} == {of["champion"], of["challenger"]}
    rows = logged(project / "predictions")
    answered = {row["request_id"]: row for row in rows if row["role"] in ("champion", "challenger")}
    assert Counter(row["role"] for row in rows)["shadow-1"] == len(seen) == len(answered)
    assert [answered[f"r-{number}"]["answer"] for number in range(len(seen))] == [answer for _, answer in seen]
    assert [answered[f"r-{number}"]["version"] for number in range(len(seen))] == [version for version, _ in seen]
    predictors = {one.identity: one for one in (open_predictor(project / name) for name in ("old", "new", "other"))}
    days = list_days(project / "predictions")
    assert verify(days, predictors).equal == len(rows)
    found = replay(days, open_predictor(project / "new"))
    assert (found.changed, describe(found, 0.0)[1]) == (0, True)
