"""The search: a trial is a function of the seed, its number and the trials before it, and sees training rows alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from mlops_pkg.core.params import BaseParams, RandomSplit, UserError, load_params, merge
from mlops_pkg.core.workspace import Workspace, read_json, read_table
from mlops_pkg.modelling import search
from mlops_pkg.modelling.estimators import chosen_settings
from mlops_pkg.modelling.search import Journal, Trial
from mlops_pkg.modelling.sections import SearchSettings
from mlops_pkg.pipeline.params import Params, Train
from mlops_pkg.proof.rebuild import older_processor_env
from tests.conftest import ROOT, TASK, contents, said_by


class Search(SearchSettings):
    """Its place in params.yaml is the section `search`."""


class Searching(Params):
    """A project with a search."""

    search: Search


SPACE = {
    "random_forest": {"max_depth": {"low": 2, "high": 9}, "criterion": ["gini", "entropy"], "n_estimators": 5},
    "linear": {"C": {"low": 0.001, "high": 10.0, "log": True}},
}
SETTINGS = {"trials": 14, "metric": "roc_auc", "folds": 3, "space": SPACE}


def load(**overrides: Any) -> Any:
    """Return params.yaml with a search."""
    return load_params(ROOT / "params.yaml", merge({**TASK, "search": SETTINGS}, overrides), Searching)


def make_table(rows: int = 600) -> pd.DataFrame:
    """Return a table of features and a target, in the order of months."""
    generator = np.random.default_rng(0)
    X = pd.DataFrame(generator.normal(size=(rows, 3)).round(3), columns=["a", "b", "c"])
    late = (X["a"] + X["b"] ** 2 + generator.normal(size=rows) > 1).astype("int64")
    return X.assign(month=np.repeat(np.arange(1, 7), rows // 6), late=late, group=np.arange(rows) % 40)


def make_folds(rows: int = 600) -> list[search.Fold]:
    """Return three folds of that table."""
    table, X = make_table(rows), ["a", "b", "c"]
    parts = [np.arange(rows) % 3 == part for part in range(3)]
    return [
        search.Fold(table.loc[~part, X], table["late"][~part], table.loc[part, X], table["late"][part])
        for part in parts
    ]


def run(params: Any, journal: Journal | None = None) -> list[Trial]:
    lines: list[str] = []
    return search.run_search(
        make_folds(), params, model=params.train, settings=params.search, journal=journal, report=lines.append
    )


# One search, the same trials


def test_the_same_search_has_the_same_trials_and_another_seed_has_others() -> None:
    first = run(load())

    assert first == run(load())
    assert first != run(load(seed=1))
    assert {trial.estimator for trial in first} == set(SPACE), "both families are tried"
    assert {trial.state for trial in first} == {"complete", "pruned"}


def test_each_trial_follows_from_the_trials_before_it_alone() -> None:
    params = load()
    trials = run(params)

    for number in (0, 5, 12, 13):
        point = search.propose(trials[:number], params, params.search)
        assert point == (trials[number].estimator, trials[number].options)


def test_a_search_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    params = load()
    whole = run(params)

    for kept in (1, 7, 13):
        journal = Journal(tmp_path / "journal", {"rows": "a"})
        journal.write(whole[:kept])
        assert run(params, journal) == whole


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"inputs": {"rows": "b"}, "trials": []}', '{"inputs": {"rows": "a"}, "trials": [{}]}']
)
def test_a_journal_that_is_damaged_or_of_another_search_is_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").write_text(text)

    assert Journal(tmp_path / "journal", {"rows": "a"}).read() == []


def made_up(params: Any, size: int) -> list[Trial]:
    """Return so many trials with many equal values."""
    generator, trials = np.random.default_rng(size), []
    for _ in range(size):
        options = {"max_depth": int(generator.integers(2, 10)), "criterion": str(generator.choice(["gini", "entropy"]))}
        point = ("random_forest", {**options, "n_estimators": 5})
        if generator.random() < 0.3:
            point = ("linear", {"C": float(f"{generator.uniform(0.001, 10):.2g}")})
        trials.append(Trial(*point, generator.random(3).round(1).tolist(), "complete"))
    return trials


SCRIPT = """
import json
from dataclasses import asdict
from mlops_pkg.modelling.search import propose
from tests.modelling.test_search import load, made_up, run
params = load()
proposed = [propose(made_up(params, size), params, params.search) for size in range(10, 90, 4)]
print(json.dumps([proposed, [asdict(trial) for trial in run(params)]]))
"""


def test_an_older_processor_and_more_threads_have_the_same_trials() -> None:
    more = {"OMP_NUM_THREADS": "3", "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]

    here, there = (
        subprocess.check_output(command, cwd=ROOT, env={**os.environ, **environment}, text=True).splitlines()[-1]
        for environment in ({"PYTHONPATH": str(ROOT)}, {**older_processor_env(), **more})
    )

    assert json.loads(here) == json.loads(there)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_lie_in_the_space_and_numbers_have_six_digits(sampler: str) -> None:
    params = load(search={"sampler": sampler, "trials": 40})
    trials: list[Trial] = []
    for number in range(40):
        name, options = search.propose(trials, params, params.search)
        trials.append(Trial(name, options, [0.5 + number % 7 / 100] * 3, "complete"))

    for trial in trials:
        if trial.estimator == "linear":
            assert 0.001 <= trial.options["C"] <= 10
            assert trial.options["C"] == float(f"{trial.options['C']:.6g}")
        else:
            assert 2 <= trial.options["max_depth"] <= 9
            assert trial.options["criterion"] in ("gini", "entropy")
            assert trial.options["n_estimators"] == 5


def test_it_learns_where_the_best_is_and_random_does_not() -> None:
    """The greater C, the better."""

    def mean_option(sampler: str) -> float:
        params = load(
            search={"sampler": sampler, "trials": 60, "space": {"linear": {"C": {"low": 1, "high": 100, "log": False}}}}
        )
        space = {"linear": params.search.space["linear"]}
        settings, trials = params.search.model_copy(update={"space": space}), []
        for _ in range(60):
            name, options = search.propose(trials, params, settings)
            trials.append(Trial(name, options, [options["C"] / 100], "complete"))
        return float(np.mean([trial.options["C"] for trial in trials[30:]]))

    assert mean_option("tpe") > 75
    assert mean_option("random") < 60


def test_a_grid_is_every_point_once() -> None:
    space = {
        "random_forest": {"max_depth": [2, 3], "criterion": ["gini", "entropy"], "n_estimators": 5},
        "linear": {"C": [0.1, 1.0]},
    }
    params = load()
    settings = params.search.model_copy(
        update={"sampler": "grid", "space": Search(**{**SETTINGS, "space": space}).space}
    )

    trials = run(params.model_copy(update={"search": settings}))

    points = [(trial.estimator, *trial.options.values()) for trial in trials]
    assert sorted(map(str, points)) == sorted(set(map(str, points)))
    assert len(points) == 2 * 2 + 2


# The first trials

PRESENT = {"estimator": "random_forest", "options": {"max_depth": 4, "criterion": "entropy", "n_estimators": 5}}
OUTSIDE = {"estimator": "random_forest", "options": {"max_depth": 12, "min_samples_leaf": 3}}
OTHER = {"estimator": "hist_gradient_boosting", "options": {"max_iter": 5}}


def points(trials: list[Trial]) -> list[dict[str, Any]]:
    return [{"estimator": trial.estimator, "options": trial.options} for trial in trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_given_settings_are_tried_first_and_never_lost_to_worse_ones(sampler: str, tmp_path: Path) -> None:
    params = load(search={"first": [PRESENT, OUTSIDE, OTHER], "sampler": sampler})

    trials = run(params)

    assert points(trials[:3]) == [PRESENT, OUTSIDE, OTHER]
    assert {trial.state for trial in trials[:3]} == {"complete"}
    assert len(trials) == params.search.trials
    best = search.best_of(trials, params.search)
    assert best is not None
    assert (best.value or 0.0) >= max(trial.value or 0.0 for trial in trials[:3])
    journal = Journal(tmp_path / "journal", {})
    journal.write(trials[:2])
    assert run(params, journal) == trials


def test_the_sampler_learns_from_those_in_the_space_and_never_hears_of_the_others() -> None:
    settings = load(search={"first": [PRESENT, OUTSIDE, OTHER]}).search
    first = [Trial(*point, [0.6, 0.7], "complete") for point in search.first_points(settings)]

    [known] = search.make_study(first, settings).trials

    drawn = {"random_forest.max_depth": 4, "random_forest.criterion": 1, "random_forest.n_estimators": 0}
    assert known.params == {"estimator": "random_forest", **drawn}


@pytest.mark.parametrize(
    "options",
    [
        {"max_depth": 10, "criterion": "gini", "n_estimators": 5},
        {"max_depth": 4.0, "criterion": "gini", "n_estimators": 5},
        {"max_depth": None, "criterion": "gini", "n_estimators": 5},
        {"max_depth": 4, "criterion": "log_loss", "n_estimators": 5},
        {"max_depth": 4, "criterion": "gini"},
        {"max_depth": 4, "criterion": "gini", "n_estimators": 5, "bootstrap": False},
    ],
)
def test_settings_of_a_value_or_an_option_that_the_space_lacks_are_not_in_the_study(options: dict[str, Any]) -> None:
    trial = Trial("random_forest", options, [0.6], "complete")

    assert search.make_study([trial], load().search).trials == []


def test_settings_outside_the_space_can_be_chosen_and_are_in_the_tables(tmp_path: Path) -> None:
    params = load(search={"first": [OUTSIDE]})
    trials = [Trial(*search.first_points(params.search)[0], [0.9, 0.9, 0.9], "complete"), *run(load())[:4]]

    search.write_search(Workspace(tmp_path), "search", trials, params.search)

    folder = tmp_path / "artifacts" / "search"
    chosen, table = read_json(folder / "chosen.json"), pd.read_csv(folder / "trials.csv")
    assert (chosen["trial"], chosen["options"]) == (0, OUTSIDE["options"])
    assert table.loc[0, ["random_forest.max_depth", "random_forest.min_samples_leaf"]].tolist() == [12, 3]
    parallel = pd.read_csv(folder / "parallel.csv")
    assert parallel.loc[parallel["number"] == 0, "axis"].tolist() == ["estimator", "roc_auc"]
    assert parallel["position"].between(0, 1).all()


def test_a_grid_begins_with_the_first_points_and_tries_none_twice() -> None:
    space = {"random_forest": {"max_depth": [2, 3], "criterion": ["gini", "entropy"]}}
    first = [{"estimator": "random_forest", "options": {"max_depth": 3, "criterion": "gini"}}, OTHER]
    settings = Search(**{**SETTINGS, "space": space, "sampler": "grid", "first": first})

    trials = run(load().model_copy(update={"search": settings}))

    assert points(trials[:2]) == first
    assert len({str(point) for point in points(trials)}) == len(trials) == 2 * 2 + 1


# Pruning


def test_pruning_is_optunas_median_rule() -> None:
    generator, settings, params = np.random.default_rng(0), load().search, load()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=search.ENOUGH)
    seen = set()
    for size in range(3, 12):
        trials = [Trial("linear", {"C": 1.0}, generator.random(3).round(2).tolist(), "complete") for _ in range(size)]
        for _ in range(20):
            scores = generator.random(2).round(2).tolist()
            study = search.make_study(trials, settings)
            trial = study.ask()
            for step in range(len(scores)):
                trial.report(float(np.mean(scores[: step + 1])), step)
            best = max(np.mean(scores[:1]), np.mean(scores))  # of all steps, by which Optuna prunes
            if best == np.mean(scores):
                found = search.is_hopeless(scores, trials, settings)
                assert found == pruner.prune(study, study._storage.get_trial(trial._trial_id))
                seen.add(found)
    assert seen == {True, False}
    assert params.search.prune


def test_nothing_is_pruned_where_params_yaml_says_so() -> None:
    assert {trial.state for trial in run(load(search={"prune": False}))} == {"complete"}


def test_less_is_better_for_a_loss() -> None:
    params = load(search={"metric": "log_loss"})
    trials = run(params)

    best = search.best_of(trials, params.search)
    assert best is not None
    assert best.value == min(trial.value for trial in trials if trial.state == "complete" and trial.value is not None)


# Folds


def split(params: BaseParams, settings: Any, table: pd.DataFrame) -> list[tuple[set[int], set[int]]]:
    return [(set(fit.tolist()), set(scored.tolist())) for fit, scored in search.fold_rows(table, params, settings)]


def with_split(how: str | None, **options: Any) -> tuple[Any, Any]:
    """Return the params and the search of a project whose rows are split at random."""
    shares = {"train": 0.7, "validation": 0.1, "test": 0.1, "live": 0.1}
    params = load()
    data = params.data.model_copy(update={"split": RandomSplit(shares=shares, seed=0, **options)})
    return params.model_copy(update={"data": data}), params.search.model_copy(update={"split": how})


def test_folds_of_rows_split_by_month_are_scored_on_later_months() -> None:
    table = make_table()

    for number, (fit, scored) in enumerate(split(load(), load().search, table), start=4):
        assert set(table["month"].iloc[sorted(fit)]) == set(range(1, number))
        assert set(table["month"].iloc[sorted(scored)]) == {number}


def test_rows_that_stay_together_are_on_one_side() -> None:
    params, settings = with_split(None, together="group")
    table = make_table()

    folds = split(params, settings, table)

    for fit, scored in folds:
        assert not set(table["group"].iloc[sorted(fit)]) & set(table["group"].iloc[sorted(scored)])
    assert set().union(*(scored for _, scored in folds)) == set(range(len(table)))


def test_stratified_folds_have_the_same_share_of_each_class() -> None:
    table = make_table()

    shares = [table["late"].iloc[sorted(scored)].mean() for _, scored in split(*with_split("stratified"), table)]

    assert max(shares) - min(shares) < 0.01


def test_features_are_fitted_on_the_rows_of_the_fold_alone(built: Path) -> None:
    params = load(search={"rows": 1200})
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    first = search.make_folds(train, params, params.features, params.search)[0]
    last = train["month"] == 7
    changed = train.assign(temp=train["temp"].where(~last, 99.0), late=train["late"].where(~last, 1 - train["late"]))

    again = search.make_folds(changed, params, params.features, params.search)[0]

    pd.testing.assert_frame_equal(first.X, again.X)
    assert len(first.X) + len(first.X_scored) < 1200, "the last month is in neither part"


# What is written


def test_the_outputs_are_the_same_bytes_and_name_the_best(tmp_path: Path) -> None:
    params = load()
    trials = run(params)
    for name in ("first", "second"):
        search.write_search(Workspace(tmp_path, name), "search", trials, params.search)

    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    chosen = read_json(tmp_path / "first" / "search" / "chosen.json")
    table = pd.read_csv(tmp_path / "first" / "search" / "trials.csv")
    assert len(table) == chosen["trials"] == 14
    assert chosen["value"] == table.loc[table["state"] == "complete", "value"].max() == table["best"].iloc[-1]
    assert chosen["trial"] == table.loc[table["state"] == "complete", "value"].idxmax()
    importance = pd.read_csv(tmp_path / "first" / "search" / "importance.csv")
    assert set(importance["option"]) == {"estimator", "random_forest.max_depth", "random_forest.criterion", "linear.C"}
    parallel = pd.read_csv(tmp_path / "first" / "search" / "parallel.csv")
    assert parallel["position"].between(0, 1).all()
    assert set(parallel["number"]) == set(table.loc[table["state"] == "complete", "number"])


def test_train_takes_the_chosen_settings_only_where_it_says_so(tmp_path: Path) -> None:
    params = load()
    search.write_search(Workspace(tmp_path), "search", run(params), params.search)
    workspace = Workspace(tmp_path)
    chosen = read_json(tmp_path / "artifacts" / "search" / "chosen.json")
    searched = Train(estimator="search", class_weight="balanced", linear_alpha=2.0)

    found = chosen_settings(workspace, searched)

    assert (found.estimator, found.options) == (chosen["estimator"], chosen["options"])
    assert (found.class_weight, found.linear_alpha) == ("balanced", 2.0)
    assert chosen_settings(workspace, params.train) is params.train
    assert "artifacts/search/chosen.json: missing" in said_by(
        lambda: chosen_settings(Workspace(tmp_path / "b"), searched)
    )


def test_a_point_that_was_tried_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    params, folds = load(), make_folds()
    point = ("random_forest", {"max_depth": 3, "criterion": "gini", "n_estimators": 5})
    first = search.try_settings(point, folds, [], params, model=params.train, settings=params.search)
    monkeypatch.setattr(search, "fit_estimator", lambda *_: pytest.fail("it was fitted"))

    assert search.try_settings(point, folds, [first], params, model=params.train, settings=params.search) == first


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"space": None}, "search.space = null: name an estimator and a range, e.g. random_forest: "),
        ({"space": {"random_forst": {}}}, "did you mean 'random_forest'?"),
        (
            {"space": {"random_forest": {"max_depth": {"low": 9, "high": 2}}}},
            "max_depth.low: 9 is not below high, 2: swap",
        ),
        ({"space": {"random_forest": {"max_depth": {"low": 9, "hihg": 2}}}}, "hihg: unknown key; did you mean 'high'?"),
        (
            {"space": {"linear": {"C": {"low": 0, "high": 2, "log": True}}}},
            "linear.C.low: 0 has no logarithm: give one above",
        ),
        ({"space": {"linear": {"C": []}}}, "search.space.linear.C = []: give at least one choice"),
        ({"space": {"svm": {}}}, "search.space.svm: svm gives no probabilities"),
        (
            {"metric": "roc_auk"},
            "search.metric: 'roc_auk' is no metric of this classification; did you mean 'roc_auc'?",
        ),
        ({"metric": "rmse"}, "search.metric: 'rmse' is no metric of this classification"),
        ({"sampler": "bayes"}, "search.sampler = \"bayes\": input should be 'tpe', 'random' or 'grid'"),
        ({"trials": 0}, "search.trials = 0: input should be greater than or equal to 1"),
        (
            {"first": [{"estimator": "random_forst"}]},
            'search.first[0].estimator = "random_forst": no such estimator; did',
        ),
        ({"first": [PRESENT, {"options": {}}]}, "search.first[1].estimator: missing"),
        ({"first": [PRESENT, {"estimator": "svm"}]}, "search.first[1].estimator: svm gives no probabilities"),
        ({"first": [{**PRESENT, "values": {}}]}, "search.first[0].values: unknown key"),
        ({"first": [PRESENT] * 3, "trials": 2}, "search.trials: 2 is less than the points of first: raise it"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(overrides: dict[str, Any], line: str) -> None:
    told = said_by(lambda: load(search=overrides))

    assert told.startswith("params.yaml: search.")
    assert line in told


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"space": {"random_forest": {"max_dept": [3]}}},
            "search.space.random_forest.max_dept: RandomForestClassifier has no such option; did you mean 'max_depth'?",
        ),
        (
            {"space": {"random_forest": {"random_state": [3]}}},
            "search.space.random_forest.random_state: remove it; the seed",
        ),
        (
            {"space": {"sklearn.ensemble.BagingClassifier": {}}},
            "sklearn.ensemble has no class BagingClassifier; did you mean",
        ),
        ({"sampler": "grid"}, "search.space.random_forest.max_depth: a grid has no ranges; list the values"),
        (
            {"sampler": "grid", "space": {"linear": {"C": [1.0, 2.0, 3.0]}}, "trials": 2},
            "search.trials = 2: the grid has 3 points",
        ),
        (
            {"space": {"random_forest": {"max_depth": [-3, -4]}}, "trials": 2},
            "search.space.random_forest.max_depth = -",
        ),
        (
            {"first": [PRESENT, {"estimator": "random_forest", "options": {"max_dept": 3}}]},
            "search.first[1].options.max_dept: RandomForestClassifier has no such option; did you mean 'max_depth'?",
        ),
        (
            {"first": [{"estimator": "sklearn.ensemble.BagingClassifier"}]},
            "search.first[0].estimator = sklearn.ensemble.BagingClassifier: sklearn.ensemble has no class",
        ),
        (
            {"first": [{"estimator": "random_forest", "options": {"max_depth": -3}}], "trials": 1},
            "search.first[0].options.max_depth = -3: must be",
        ),
    ],
)
def test_a_mistake_in_the_space_is_one_line(settings: dict[str, Any], line: str) -> None:
    params = load()
    wrong = params.model_copy(update={"search": Search(**{**SETTINGS, **settings})})

    assert line in said_by(lambda: run(wrong))


def test_settings_that_an_estimator_refuses_fail_alone() -> None:
    params = load()
    settings = Search(
        **{**SETTINGS, "space": {"random_forest": {"max_depth": [-3, 4], "n_estimators": 5}}, "trials": 6}
    )

    trials = run(params.model_copy(update={"search": settings}))

    assert {(trial.options["max_depth"], trial.state) for trial in trials} == {(-3, "failed"), (4, "complete")}


def test_a_search_needs_a_stage_and_leaves_no_options_to_params_yaml() -> None:
    params = ROOT / "params.yaml"
    without = {**TASK, "train": {"estimator": "search"}}

    assert "this project has no stage search; add it with `mlops_pkg add stage search" in said_by(
        lambda: load_params(params, without)
    )
    assert "train.options: the stage search chooses them" in said_by(lambda: load(train={"estimator": "search"}))


def test_folds_without_a_class_or_of_too_few_months_are_one_line() -> None:
    table = make_table()

    with pytest.raises(UserError, match=r"params.yaml: search.folds = 3: .*; take fewer"):
        search.fold_rows(table[table["month"] < 3].reset_index(drop=True), load(), load().search)
