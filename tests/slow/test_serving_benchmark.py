"""The servers side by side, in short: the whole command, without the peers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CORES < 2, reason="the server and the load have a core each, which Linux can tell"),
]


def test_one_command_measures_the_servers_and_writes_figures_chart_and_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", "--no-peers", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    ours = figures["servers"]["this server"]
    assert set(figures["servers"]) == {"this server", "empty route", "this server, constant graph", "empty ASGI app"}
    assert ours["answers"]["equal"] == ours["answers"]["records"] == 20
    for server in figures["servers"].values():
        assert [load["failed"] for load in server["clients"].values()] == [0, 0, 0]
    assert all(load["answers_compared"] for load in ours["clients"].values())
    assert [goal["reached"] is None for goal in figures["goals"]] == [True, *[False] * 7]
    assert (tmp_path / "chart.svg").read_text().startswith("<?xml")
    assert "| this server |" in done.stdout
    assert "equal to the last digit" in done.stdout
