"""The card of a version: what the registry knows of it, as Markdown, as a page, and for Hugging Face's hub."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.registry.releases import promote, register, rollback
from tests.registry.conftest import Team

Command = Callable[..., Any]


@pytest.fixture
def released(team: Team) -> Team:
    """Two versions; the worse one was promoted in spite of its gates, and rolled back."""
    team.build("first")
    register(team.root)
    promote(team.root, "late-flights", "v1.0.0", "prod")
    team.build("worse")
    register(team.root)
    assert promote(team.root, "late-flights", "v1.1.0", "prod", "a <b>trial</b> | of one day").tag
    rollback(team.root, "late-flights", "prod", "it was worse")
    return team


def test_it_says_what_became_of_the_version(released: Team, command: Command) -> None:
    bundle = released.models["worse"] / "artifacts" / "package"
    card = command(released.root, "card", "late-flights@v1.1.0").stdout
    champion = command(released.root, "card", "late-flights#prod").stdout

    assert card.startswith((bundle / "card.md").read_text().rstrip())
    assert verify(bundle) in card
    history = card[card.index("## What became of it") :]
    assert re.search(r"\| v1\.1\.0 \|  \| \d{4}-\d\d-\d\d \| ada \| .*minor", history)
    assert re.search(r"\| prod \| v1\.1\.0 \| .* \| ada \| metric.* \| a <b>trial</b> \\\| of one day \|", history)
    assert "v1.0.0" not in history, "another version is not this one's history"
    assert re.search(r"\| v1\.0\.0 \| prod \|", champion)
    assert "it was worse" in champion


def test_the_page_loads_nothing_and_runs_nothing(released: Team, command: Command) -> None:
    said = command(released.root, "card", "late-flights@v1.1.0", "--out", "card.html")

    page = (released.root / "card.html").read_text()
    assert (said.exit_code, said.stdout) == (0, "")
    assert page.count("<table>") >= 5
    assert "<title>late-flights</title>" in page
    assert "&lt;b&gt;trial" in page
    assert "http" not in page


def test_the_header_of_the_hub_holds_the_metrics(released: Team, command: Command) -> None:
    card = command(released.root, "card", "late-flights#prod", "--hub").stdout

    _, header, text = card.split("---\n", 2)
    values = yaml.safe_load(header)
    metrics = json.loads((released.models["first"] / "artifacts" / "package" / "metrics.json").read_text())
    assert values["pipeline_tag"] == "tabular-classification"
    [model] = values["model-index"]
    assert model["name"] == "late-flights"
    for result, split in zip(model["results"], ("test", "live"), strict=True):
        assert result["dataset"]["split"] == split
        found = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert found == {name: entry["value"] for name, entry in metrics[split]["model"].items()}
    assert text.lstrip().startswith("# late-flights")


def test_a_version_that_is_not_there_is_one_line(released: Team, command: Command) -> None:
    told = command(released.root, "card", "late-flights@v7.0.0", "--out", "card.md")

    assert told.exit_code == 1
    assert told.stderr.startswith("late-flights@v7.0.0: no such version; the last ones: v1.0.0, v1.1.0")
    assert not (released.root / "card.md").exists()
