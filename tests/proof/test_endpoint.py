"""The endpoint as a runtime: one wrong bit is red with its row, and no server is left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_pkg.core.environment import libraries_of, read_environment
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.project.files import params_of, paths_of, read_stages
from mlops_pkg.project.imports import dependency_findings, needs_of
from mlops_pkg.proof.runtimes import (
    arrow_answers,
    compare_runtimes,
    compare_ways,
    endpoint_ways,
    json_answers,
    json_records,
    predict_reference,
    read_subject,
    serve_bundle,
)
from tests.conftest import ROOT

ALONE, BATCHES, ARROW = "endpoint, JSON one by one", "endpoint, JSON in batches", "endpoint, Arrow"


def ask(root: Path) -> dict[str, str | None]:
    """Return the difference of each way to ask the endpoint; None for one that is equal."""
    asked = predict_reference(Workspace(root), read_subject(root))
    with serve_bundle(root / "artifacts" / "package", root / "mlops_pkg") as port:
        return {one.runtime: one.difference for one in compare_ways(endpoint_ways(asked, port))}


def plant(root: Path, function: str, fault: str) -> None:
    """Make the server run a line of code before it writes the responses of one kind."""
    module = root / "mlops_pkg" / "serving" / "messages.py"
    code = f"""
import itertools as _itertools, os as _os
import numpy as _np
_calls, _right = _itertools.count(), {function}

def {function}(answers, *rest, **more):
    calls = next(_calls)
    {fault}
    return _right(answers, *rest, **more)
"""
    module.write_text(module.read_text() + code)


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, for 30 seconds at most."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def is_there(process: int) -> bool:
    """Return whether a process runs."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


ONE_BIT = "answers.answer[0] = _np.nextafter(answers.answer[0], 1)"


def test_one_bit_of_one_row_is_red_in_its_kind_of_reply(root: Path) -> None:
    plant(root, "json_predictions", ONE_BIT)

    found = ask(root)

    assert found[BATCHES].startswith("1 rows; test, line ")
    assert "from the fitted pipeline" in found[BATCHES]
    assert found[ALONE].startswith("120 rows; test, line ")
    assert found[ARROW] is None


def test_one_bit_of_an_arrow_reply_is_red(root: Path) -> None:
    plant(root, "arrow_answers", ONE_BIT)

    found = ask(root)

    assert found.pop(ARROW).startswith("1 rows; test, line ")
    assert found == {ALONE: None, BATCHES: None}


def test_a_record_that_is_answered_otherwise_beside_others_is_red(root: Path) -> None:
    wrong = "answers.answer[:] = _np.nextafter(answers.answer, 1)"
    plant(root, "json_predictions", f"if calls == 200: {wrong}")  # 120 are asked alone before

    found = ask(root)

    assert "rows; " in found[ALONE]
    assert found[ALONE].partition(" rows")[0] != "120"
    assert (found[BATCHES], found[ARROW]) == (None, None)


def test_an_answer_too_few_is_red(root: Path) -> None:
    plant(root, "json_predictions", "answers = slice_answers(answers, 0, max(1, len(answers.answer) - 1))")

    assert ask(root)[BATCHES] == "120 rows were asked, and 119 came back"


def test_a_server_that_dies_is_red_and_the_proof_goes_on(root: Path) -> None:
    plant(root, "arrow_answers", "_os._exit(3)")

    found = ask(root)

    assert found.pop(ARROW).startswith("the endpoint does not reply: ")
    assert found == {ALONE: None, BATCHES: None}


def test_a_server_that_does_not_start_is_red_with_what_it_said(root: Path) -> None:
    with (root / "mlops_pkg" / "serving" / "command.py").open("a") as module:
        module.write('\nraise SystemExit("no room for a server")\n')

    last = list(compare_runtimes(Workspace(root), read_subject(root), root / "mlops_pkg"))[-1]

    assert (last.runtime, last.equal) == ("endpoint", False)
    assert last.difference == "the endpoint: no room for a server"


def test_the_settings_of_whoever_runs_the_proof_do_not_matter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SERVE_MAX_RECORDS": "1", "SERVE_HOST": "0.0.0.0", "SERVE_NOTHING": "1"}.items():
        monkeypatch.setenv(name, value)

    assert set(ask(root).values()) == {None}


def test_without_the_libraries_of_the_endpoint_it_is_not_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)

    assert not [
        one.runtime
        for one in compare_runtimes(Workspace(root), read_subject(root), root / "mlops_pkg")
        if "endpoint" in one.runtime
    ]


def test_the_server_ends_with_the_proof_even_where_that_is_killed(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlops_pkg.proof.runtimes import serve_bundle\n"
        "with serve_bundle(Path(sys.argv[1]), Path(sys.argv[2])) as port:\n"
        "    print(port, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(root / "artifacts" / "package"), str(root / "mlops_pkg")]
    for end in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as asks:
            assert int(asks.stdout.readline()) > 0
            children = Path(f"/proc/{asks.pid}/task/{asks.pid}/children").read_text().split()
            assert children
            asks.send_signal(end)
        until(lambda left=children: not any(is_there(int(one)) for one in left))


def test_what_json_cannot_carry_is_null_or_text() -> None:
    starts = pd.to_datetime(["1899-12-31 23:59:59.000001", None]).astype("datetime64[us]")
    rows = pd.DataFrame({"origin": [None, 'J"K'], "wind": [np.nan, 0.1 + 0.2], "gusts": [7, 8], "start": starts})
    kinds = {"origin": "category", "wind": "number", "gusts": "number", "start": "datetime"}

    assert json_records(rows, kinds) == [
        {"origin": None, "wind": None, "gusts": 7.0, "start": "1899-12-31T23:59:59.000001"},
        {"origin": 'J"K', "wind": 0.30000000000000004, "gusts": 8.0, "start": None},
    ]


def test_the_answers_of_a_regression_are_its_predictions() -> None:
    table = pa.table({"prediction": [1.5, -2.25]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    assert json_answers([b'{"predictions": [{"prediction": 1.5}, {"prediction": -2.25}]}']).tolist() == [1.5, -2.25]
    assert arrow_answers([bytes(sink.getvalue())]).tolist() == [1.5, -2.25]


def test_a_rejected_row_of_an_arrow_reply_is_named() -> None:
    wrong = [None, [{"field": "wind", "value": "-99", "reason": "below -10"}]]
    kind = pa.list_(pa.struct([(name, pa.string()) for name in ("field", "value", "reason")]))
    table = pa.table({"prediction": [1.5, None], "errors": pa.array(wrong, kind)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(UserError, match="^record 1 is rejected: wind: below -10$"):
        arrow_answers([bytes(sink.getvalue())])


# What DVC knows of the endpoint

LOGGED = """
import os, sys
class Log:
    def find_spec(self, name, path=None, target=None):
        with open(os.path.join(os.path.dirname(__file__), "names"), "a") as names:
            names.write(name + "\\n")
sys.meta_path.insert(0, Log())
"""


def test_dvc_knows_the_libraries_that_the_endpoint_loads(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "sitecustomize.py").write_text(LOGGED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "log"))

    ask(root)

    names = (tmp_path / "log" / "names").read_text().split()
    listed = set(params_of(read_stages(ROOT)["parity"])["environment.json"])
    assert "starlette" in names
    found = libraries_of(names, read_environment(ROOT))
    assert found - listed == set(), "add these to environment.json of the stage parity in dvc.yaml"
    runs = set().union(*(params_of(read_stages(ROOT)[name])["environment.json"] for name in ("package", "ingest")))
    assert listed - runs - found - {"click"} == set(), (
        "nothing loads these; drop them from the stage parity in dvc.yaml"
    )


def test_a_stage_that_does_not_declare_the_endpoint_is_red() -> None:
    stage = read_stages(ROOT)["parity"]
    needs = needs_of("parity", (), ROOT)

    assert "mlops_pkg/serving" in paths_of(stage, "deps")
    assert list(dependency_findings(stage, *needs)) == []
    without = {**stage, "deps": [dep for dep in stage["deps"] if dep != "mlops_pkg/serving"]}
    assert "add the dep mlops_pkg/serving/app.py: it is imported" in list(dependency_findings(without, *needs))
