"""The README says what is so: its tables, commands, files and figures."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mlops_pkg.cli import commands
from mlops_pkg.core.params import UserError, load_params
from mlops_pkg.portable.export import supported
from benchmarks.tables import page_rows
from tests.conftest import ROOT, STAGES

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
ALL = "\n".join(PAGES.values())
PORTABLE, INFERENCE, PROVE, KILLS = (
    json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    for name in ("portable", "inference", "prove", "kills")
)
COSTS = ("one_record_ms", "rows_per_second")


def test_every_stage_has_a_row_in_order() -> None:
    assert re.findall(r"^\| `(\w+)` \| \[\d\d_", README, re.MULTILINE) == list(STAGES)


def test_every_file_it_links_to_exists() -> None:
    links = [
        path.parent / link
        for path, text in PAGES.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if "://" not in link
    ]

    assert links
    assert [link for link in links if not link.exists()] == []


def test_every_test_that_holds_a_promise_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", ALL))

    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_exists() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"`make ([a-z-]+)`", ALL)) | set(re.findall(r"^make ([a-z-]+)", ALL, re.MULTILINE))

    assert {"run", "test"} <= named
    assert [name for name in sorted(named) if f"  make {name} " not in listed] == []


def test_every_command_exists_and_has_help() -> None:
    named = set(re.findall(r"`mlops_pkg ([a-z-]+)", ALL))

    assert {"sync", "parity", "research"} <= named
    for name in sorted(named):
        shown = CliRunner().invoke(commands, [name, "--help"])
        assert shown.exit_code == 0, name
        assert len(shown.output) > 60, f"{name} has no help"


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_its_figures_are_those_of_the_last_build(metric: str) -> None:
    models = ("model", "linear", "prior")
    metrics = json.loads((ROOT / "artifacts" / "evaluate" / "comparison.json").read_text())
    figures = [metrics["test"][model][metric] for model in models]
    line = re.search(rf"^{metric} .*$", README, re.MULTILINE)[0]

    assert re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", line) == [
        f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" for figure in figures
    ]


def test_what_it_shows_the_tour_shows() -> None:
    tour = json.loads((ROOT / "nbs" / "index.ipynb").read_text())
    outputs = [output for cell in tour["cells"] for output in cell.get("outputs", [])]
    shown = "".join("".join(output.get("text", [])) for output in outputs).splitlines()
    told = [block for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if not language]

    assert len(told) >= 2
    assert [line for block in told for line in block.splitlines() if line and line not in shown] == []


def test_its_table_of_types_is_the_measured_one() -> None:
    measured = {kind: entry["parity"] for group in ("steps", "estimators") for kind, entry in PORTABLE[group].items()}
    libraries = {"feature-engine": "feature_engine", "this package": "mlops_pkg", "scikit-learn": "sklearn"}
    libraries |= {"XGBoost": "xgboost", "LightGBM": "lightgbm"}
    told = {
        f"{libraries[library]}.{name}": exact
        for library, *cells in re.findall(
            r"^\| (feature-engine|this package|scikit-learn|XGBoost|LightGBM) \| (.*) \| (.*) \|$", ALL, re.M
        )
        for cell, exact in zip(cells, (True, False), strict=True)
        for name in filter(None, cell.strip().split(", "))
    }

    assert told == {kind: parity == "bit-equal" for kind, parity in measured.items()}
    assert all(entry["largest"] <= 1e-12 for group in ("steps", "estimators") for entry in PORTABLE[group].values())
    assert sorted(measured) == supported()


def test_its_campaign_is_the_measured_one() -> None:
    campaign = PORTABLE["campaign"].values()

    assert f"asked {sum(asked['rows'] for asked in campaign):,} damaged" in ALL
    assert {asked["differing"] for asked in campaign} == {0}
    assert min(asked["rows"] for asked in campaign) >= 1_000_000


def test_its_costs_are_the_measured_ones() -> None:
    one, many = ([INFERENCE[key][way] for way in ("pipeline", "graph", "predictor")] for key in COSTS)
    peaks = INFERENCE["predict_memory_mb"]

    assert f"| one record | {' | '.join(f'{value:.3g} ms' for value in one)} |" in ALL
    assert f"| rows a second, one core | {' | '.join(f'{value:,}' for value in many)} |" in ALL
    assert f"graph is {INFERENCE['one_record_times_faster']['graph']:.0f} times faster than the pipeline" in ALL
    assert f"takes {INFERENCE['rows_times_faster']['graph']:.1f} times as many rows" in ALL
    assert f"{peaks['1x']:.0f} MB for 10,000 rows and {peaks['30x']:.0f} MB for 300,000" in ALL


def test_the_message_it_quotes_is_the_message() -> None:
    with pytest.raises(UserError) as raised:
        load_params(ROOT / "params.yaml", {"evaluate": {"bootstrp": 50}})

    assert str(raised.value) in README


def test_what_the_proofs_cost_is_what_was_measured() -> None:
    told = re.search(r"one cold `dvc repro` takes (\d+) s and `prove` (\d+) s, (\d\.\d+) times as long", ALL)

    assert [float(figure) for figure in told.groups()] == [
        round(PROVE["dvc_repro_seconds"]),
        round(PROVE["prove_seconds"]),
        PROVE["prove_to_dvc_repro"],
    ]
    assert PROVE["prove_to_dvc_repro"] <= 2
    assert f"answers in {PROVE['verify_seconds']} s" in ALL
    assert PROVE["verify_seconds"] <= 5


def test_the_kills_are_those_that_were_counted() -> None:
    assert KILLS["kills"] >= 200
    assert KILLS["lost"] == 0
    assert f"{KILLS['kills']} random kills" in ALL.replace("\n", " ")


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 200


def test_the_command_line_is_the_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "mlops_pkg", "--help"], capture_output=True, text=True, check=True)

    assert shown.stdout.startswith("Usage: mlops_pkg")


def test_the_cost_of_an_explanation_is_the_measured_one() -> None:
    measured = json.loads((ROOT / "benchmarks" / "explanation.json").read_text())
    text = (ROOT / "docs" / "bundle.md").read_text()

    assert f"takes {measured['explain_to_predict']:.0f} times as long as predicting" in text
    assert f"`explanation.npz` ({measured['file_kb']} kB)" in text
    assert measured["explain_to_predict"] <= 20
    assert measured["unasked_features"]["equal_bits"]
    assert 0.9 < measured["unasked_features"]["one_record"] < 1.1
    assert measured["largest_difference"]["sum_to_margin"] < 1e-9
    assert measured["largest_difference"]["to_shap"] < 1e-6


def test_the_tables_that_it_was_tried_on_are_the_measured_ones() -> None:
    found = json.loads((ROOT / "benchmarks" / "tables.json").read_text())
    told = [line for line in (ROOT / "docs" / "tables.md").read_text().splitlines() if line.startswith("|")]

    assert told == [line for line in page_rows(found) if line]
    assert [name for name, one in found.items() if not one["green"]] == []
