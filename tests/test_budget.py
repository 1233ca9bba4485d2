"""What the model must reach on the real data; it reads what the last `dvc repro` wrote."""

import json

import pytest

from tests.conftest import ROOT

METRICS = json.loads((ROOT / "artifacts" / "evaluate" / "comparison.json").read_text())
BEYOND_DOUBT = {"classification": ("roc_auc", "pr_auc"), "regression": ("r2",)}[METRICS["task"]]
ERRORS = {"classification": ("log_loss", "brier"), "regression": ("rmse",)}[METRICS["task"]]


@pytest.mark.parametrize("split", ["test", "live"])
@pytest.mark.parametrize("metric", BEYOND_DOUBT)
def test_the_model_beats_every_baseline_beyond_doubt(split: str, metric: str) -> None:
    figures = METRICS[split]

    for baseline in ("linear", "prior"):
        assert figures["model"][metric]["low"] > figures[baseline][metric]["value"], f"{metric} against {baseline}"


@pytest.mark.parametrize("split", ["test", "live"])
@pytest.mark.parametrize("metric", ERRORS)
def test_its_errors_are_smaller_than_the_baselines(split: str, metric: str) -> None:
    figures = METRICS[split]

    for baseline in ("linear", "prior"):
        assert figures["model"][metric]["value"] < figures[baseline][metric]["value"], f"{metric} against {baseline}"


# Gradient boosting with fixed, untuned settings reached this before the project began.
TO_BEAT = {"test": {"roc_auc": 0.696, "pr_auc": 0.325}, "live": {"roc_auc": 0.692, "pr_auc": 0.450}}


@pytest.mark.parametrize("split", ["test", "live"])
@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_the_model_beats_the_first_trials(split: str, metric: str) -> None:
    reached = METRICS[split]["model"][metric]["value"]

    assert reached >= TO_BEAT[split][metric]
