"""The card of a version: what the registry knows of it, as Markdown, as a page, and for Hugging Face's hub."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.core.params import read_yaml
from mlops_pkg.registry.card import PARTS, missing_parts
from mlops_pkg.registry.releases import promote, register, rollback
from tests.conftest import STAGES
from tests.registry.conftest import Team, git

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


def test_what_training_took_is_told_of_a_version_that_rebuild_measured(team: Team, command: Command) -> None:
    team.build("first")
    used = {"seconds": 1234.5, "cpu_seconds": 30.0, "peak_gb": 2.0}
    stages: list[dict[str, Any]] = [{"stage": name, "outputs": []} for name in STAGES]  # as older versions wrote them
    for stage in (stages[0], stages[2]):
        stage["resources"] = used
    (team.root / "reports" / "rebuild.json").write_text(json.dumps({"ok": True, "stages": stages}))
    register(team.root)

    card = command(team.root, "card", "late-flights@v1.0.0").stdout

    energy = (30.0 * 12 + 1234.5 * 2.0 * 0.3725) / 3600
    assert f"| train | 1,234.5 | 30.0 | 2.00 | {energy:.3f} |" in card
    assert f"| all | 2,469.0 | 60.0 | 2.00 | {2 * energy:.3f} |" in card
    assert "| features |" not in card


def test_what_was_not_measured_is_said_to_be_so(team: Team, command: Command) -> None:
    team.build("first")
    (team.root / "reports" / "rebuild.json").write_text(json.dumps({"ok": False, "stages": []}))
    register(team.root, proven=False)

    assert "It was not measured" in command(team.root, "card", "late-flights@v1.0.0").stdout


def test_a_part_is_missing_without_an_answer_under_its_heading() -> None:
    full = "".join(f"## {name}\n\n### Of that\n\nThis.\n\n" for name in PARTS)

    assert missing_parts(full) == []
    assert missing_parts(full, ["Of that", "License"]) == ["License"]
    for answer in ("", "Not stated; say it.", "- Not stated", "Not decided yet. Say it."):
        without = full.replace("## Limits\n\n### Of that\n\nThis.", f"## Limits\n\n{answer}")
        assert missing_parts(without) == ["Limits"]
    assert missing_parts("") == [*PARTS]


def test_a_stage_may_need_more_of_a_card_and_a_promotion_to_it_is_refused(team: Team, command: Command) -> None:
    team.build("first")
    values = read_yaml(team.root / "params.yaml")
    values["promotion"]["card"] = {"prod": ["License", "How it treats groups"]}
    (team.root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    git(team.root, "commit", "--quiet", "--all", "--message", "Ask more of prod")
    register(team.root)
    lacks = "card.md does not say, for prod: How it treats groups"

    for bundle in ("late-flights@v1.0.0", str(team.root / "artifacts" / "package")):
        told = command(team.root, "card", bundle, "--check", "prod")
        assert (told.exit_code, told.stderr) == (1, f"{lacks}\n")
        told = command(team.root, "card", bundle, "--check", "dev")
        assert (told.exit_code, told.stdout) == (0, "the card is complete for dev\n")

    refused = command(team.root, "promote", "late-flights@v1.0.0", "prod")
    assert refused.exit_code == 1
    assert lacks in refused.stdout
    assert command(team.root, "promote", "late-flights@v1.0.0", "dev").exit_code == 0


def test_a_check_asks_what_the_gate_asks(team: Team, command: Command) -> None:
    bundle = str(team.models["first"] / "artifacts" / "package")
    team.build("first")
    for asked, expected in (
        ("[Where it comes from]", "card.md does not say, for prod: Where it comes from\n"),
        ("License", "params.yaml: promotion.card.prod = "),
    ):
        values = read_yaml(team.root / "params.yaml")
        values["promotion"] = {"card": {"prod": yaml.safe_load(asked)}}
        (team.root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

        told = command(team.root, "card", bundle, "--check", "prod")

        assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
        assert told.stderr.startswith(expected)
    told = command(team.root, "card", "nowhere")
    assert (told.exit_code, told.stderr) == (
        1,
        "nowhere: there is no such folder; else expected NAME@v1.2.0 or NAME#prod\n",
    )


def test_a_version_that_is_not_there_is_one_line(released: Team, command: Command) -> None:
    told = command(released.root, "card", "late-flights@v7.0.0", "--out", "card.md")

    assert told.exit_code == 1
    assert told.stderr.startswith("late-flights@v7.0.0: no such version; the last ones: v1.0.0, v1.1.0")
    assert not (released.root / "card.md").exists()
