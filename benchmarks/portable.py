"""Hold graphs against fitted pipelines by the million rows, and measure how close every supported type comes.

    python -m benchmarks.portable [ROWS]

Run it after `make run`. Each model of trees is asked about ROWS rows (default 1,000,000), half of them damaged and half
on, under and over its thresholds; every case of tests/portable/cases.py about 20,000. The figures go to
benchmarks/portable.json.
"""

import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import ensemble
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier, XGBRegressor

from mlops_pkg.core.params import load_params
from mlops_pkg.portable.export import Agreement, agreement, export, fuzz_records, make_threshold_rows
from mlops_pkg.portable.graph import open_session
from mlops_pkg.portable.persistence import load_model
from tests.portable.cases import CASES, features_difference, fitted, margin_difference

ROOT = Path(__file__).parents[1]
PART = 50_000  # rows in memory at a time
FITTED_ON = 40_000  # rows
EACH = 20_000  # rows for a case

small: dict[str, Any] = {"n_estimators": 100, "max_depth": 12, "min_samples_leaf": 5, "random_state": 0}
boosted: dict[str, Any] = {"n_estimators": 100, "random_state": 0, "n_jobs": 1}
MODELS: dict[str, Callable[[], Any]] = {
    "HistGradientBoostingClassifier, three classes": lambda: ensemble.HistGradientBoostingClassifier(
        max_iter=50, random_state=0
    ),
    "HistGradientBoostingRegressor": lambda: ensemble.HistGradientBoostingRegressor(random_state=0),
    "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(**small),
    "RandomForestRegressor": lambda: ensemble.RandomForestRegressor(max_features=0.3, **small),
    "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(**small),
    "ExtraTreesRegressor": lambda: ensemble.ExtraTreesRegressor(max_features=0.3, **small),
    "GradientBoostingClassifier": lambda: ensemble.GradientBoostingClassifier(subsample=0.3, random_state=0),
    "GradientBoostingRegressor": lambda: ensemble.GradientBoostingRegressor(subsample=0.3, random_state=0),
    "XGBClassifier": lambda: XGBClassifier(**boosted),
    "XGBClassifier, three classes": lambda: XGBClassifier(**boosted | {"n_estimators": 50}),
    "XGBRegressor": lambda: XGBRegressor(**boosted),
    "LGBMClassifier": lambda: LGBMClassifier(**boosted, verbose=-1),
    "LGBMClassifier, three classes": lambda: LGBMClassifier(**boosted | {"n_estimators": 50}, verbose=-1),
    "LGBMRegressor, zero is missing": lambda: LGBMRegressor(**boosted, verbose=-1, zero_as_missing=True),
}


def say(text: str) -> None:
    """Progress, on the terminal alone."""
    print(text, file=sys.stderr, flush=True)


def damaged(real: pd.DataFrame, inputs: dict[str, str], rows: int, seed: int) -> pd.DataFrame:
    """Real rows of features, one value in ten of them damaged."""
    drawn = np.random.default_rng(seed)
    intact = real.iloc[drawn.integers(0, len(real), rows)].reset_index(drop=True)
    return intact.mask(drawn.random(intact.shape) < 0.1, fuzz_records(real, inputs, rows, seed))


def held_against(
    pipeline: Pipeline,
    inputs: dict[str, str],
    rows: int,  # how many to compare at least
    make: Callable[[int], pd.DataFrame],  # rows for a seed
) -> list[Agreement]:
    """How a graph agrees with its pipeline, part by part."""
    session = open_session(export(pipeline, inputs))
    found: list[Agreement] = []
    while sum(part.rows for part in found) < rows:
        found.append(agreement(pipeline, session, make(len(found)), inputs, alone=20))
    return found


def campaign(rows: int) -> dict[str, Any]:
    """The project's model on raw records and on its thresholds, and other trees after the same feature steps."""
    model = load_model(ROOT / "artifacts" / "train" / "model.skops")
    inputs = load_params(ROOT / "params.yaml").data.kinds
    records = pd.read_parquet(ROOT / "artifacts" / "ingest" / "test.parquet")[list(inputs)]
    train = pd.read_parquet(ROOT / "artifacts" / "features" / "train.parquet").sample(FITTED_ON, random_state=0)
    X = train[list(model[-1].feature_names_in_)]
    columns = dict.fromkeys(X.columns, "number")
    found: dict[str, Any] = {}

    def ask(name: str, estimator: Any, by: Pipeline, of: dict[str, str], make: Callable[[int], pd.DataFrame]) -> None:
        alone = Pipeline([("model", estimator)])
        parts = held_against(by, of, rows - rows // 2, make)
        parts += held_against(
            alone, columns, rows // 2, lambda seed: make_threshold_rows(estimator, X, seed, PART // 3)
        )
        found[name] = {
            "rows": sum(part.rows for part in parts),
            "differing": sum(part.differing for part in parts),
            "largest": rounded(max(part.largest for part in parts)),
        }
        say(f"{name}: {found[name]}")

    ask("the project's model", model[-1], model, inputs, lambda seed: fuzz_records(records, inputs, PART, seed))
    for name, make in MODELS.items():
        estimator = make().fit(X, X["origin"].astype(int) if name.endswith("three classes") else train["late"])
        ask(name, estimator, Pipeline([("model", estimator)]), columns, lambda seed: damaged(X, columns, PART, seed))
    return found


def rounded(value: float) -> float:
    """One digit, so that the last bits of a processor do not show."""
    return float(f"{value:.0e}")


def parity(value: float) -> str:
    """The power of ten that bounds a difference."""
    return "bit-equal" if value == 0 else f"1e{math.ceil(math.log10(value))}"


def every_case() -> dict[str, Any]:
    """For every supported type, and every case of it, the largest difference."""
    found: dict[str, dict[str, dict[str, float]]] = {"steps": defaultdict(dict), "estimators": defaultdict(dict)}
    for place, (name, case) in enumerate(CASES.items()):
        rows = fuzz_records(fitted(name).frame, case.inputs, EACH, seed=7)
        difference = margin_difference if case.is_estimator else features_difference
        found["estimators" if case.is_estimator else "steps"][case.kind][name] = difference(name, rows)[0]
        if place % 50 == 0:
            say(f"case {place} of {len(CASES)}")
    return {
        group: {
            kind: {
                "cases": {name: rounded(value) for name, value in sorted(cases.items())},
                "largest": rounded(max(cases.values())),
                "parity": parity(max(cases.values())),
            }
            for kind, cases in sorted(kinds.items())
        }
        for group, kinds in found.items()
    }


def main(rows: int) -> None:
    """Measure and write the figures."""
    warnings.simplefilter("ignore")
    found = {"campaign": campaign(rows), **every_case()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    for name, asked in found["campaign"].items():
        print(f"{name}: {asked['differing']:,} of {asked['rows']:,} rows differ")
    for kind, reached in (found["steps"] | found["estimators"]).items():
        print(f"{kind}: {reached['parity']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
