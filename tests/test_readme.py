"""The README says what is so: its tables, commands, files and figures."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mlops_pkg.cli import commands
from mlops_pkg.core.params import UserError, load_params
from mlops_pkg.core.stage import STAGES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
METRICS = json.loads((ROOT / "artifacts" / "evaluate" / "comparison.json").read_text())


def test_every_stage_has_a_row_in_order() -> None:
    assert re.findall(r"^\| `(\w+)` \| \[\d\d_", README, re.MULTILINE) == list(STAGES)


def test_every_file_it_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_test_that_holds_a_promise_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", README))

    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_exists() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))

    assert {"run", "test"} <= named
    assert [name for name in sorted(named) if f"  make {name} " not in listed] == []


def test_every_command_exists_and_has_help() -> None:
    named = set(re.findall(r"`mlops_pkg ([a-z]+)", README))

    assert {"sync", "parity", "research"} <= named
    for name in sorted(named):
        shown = CliRunner().invoke(commands, [name, "--help"])
        assert shown.exit_code == 0, name
        assert len(shown.output) > 60, f"{name} has no help"


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_its_figures_are_those_of_the_last_build(metric: str) -> None:
    models = ("model", "linear", "prior")
    figures = [METRICS["test"][model][metric] for model in models]
    line = re.search(rf"^{metric} .*$", README, re.MULTILINE)[0]

    assert re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", line) == [
        f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" for figure in figures
    ]


def test_the_message_it_quotes_is_the_message() -> None:
    with pytest.raises(UserError) as raised:
        load_params(ROOT / "params.yaml", {"train": {"max_itr": 50}})

    assert str(raised.value) in README


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 180


def test_the_command_line_is_the_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "mlops_pkg", "--help"], capture_output=True, text=True, check=True)

    assert shown.stdout.startswith("Usage: mlops_pkg")
