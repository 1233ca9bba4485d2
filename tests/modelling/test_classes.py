"""Classes that params.yaml names by their import path: found, checked, trusted, and part of the graph."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.ensemble import RandomForestClassifier

from mlops_pkg.core.params import load_params, merge, read_yaml
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, read_json, read_table
from mlops_pkg.modelling.classes import check_options, import_class, option_names, own_classes
from mlops_pkg.modelling.models import predict, read_model
from mlops_pkg.portable.export import agreement
from mlops_pkg.portable.graph import EMITTERS, open_session
from mlops_pkg.portable.persistence import dump_model
from tests.conftest import ROOT, STAGES, said_by

OWN = '''
"""What nbdev exports from a notebook of a project."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin


class ClipToSeen(TransformerMixin, BaseEstimator):
    """Clip columns to the range that they had in training."""

    def __init__(self, variables):
        self.variables = variables

    def fit(self, X, y=None):
        self.low_ = {name: float(X[name].min()) for name in self.variables}
        self.high_ = {name: float(X[name].max()) for name in self.variables}
        return self

    def transform(self, X):
        return X.assign(**{name: X[name].clip(self.low_[name], self.high_[name]) for name in self.variables})


class Frequent(ClassifierMixin, BaseEstimator):
    """Answer with the share of class 1, whatever the row."""

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        self.share_ = float((y.sum() + self.smoothing) / (len(y) + 2 * self.smoothing))
        return self

    def predict_proba(self, X):
        return np.full((len(X), 2), [1 - self.share_, self.share_])

    def predict(self, X):
        return (self.predict_proba(X)[:, 1] > 0.5).astype(int)


class Undeclared(BaseEstimator):
    """A class that params.yaml does not name."""
'''
EMITTER = """
from mlops_pkg.portable.graph import emits, put, values_of


@emits("shed.ClipToSeen")
def emit_clip_to_seen(g, step):
    for name in step.variables:
        raised = g.op("Max", values_of(g, name), step.low_[name])
        put(g, name, g.op("Min", raised, step.high_[name]))
"""
CLIP = {"use": "shed.own.ClipToSeen", "variables": ["distance"]}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of a package `shed`, with classes of its own."""
    path = tmp_path / "copy" / "shed" / "own.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "copy")
    yield path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shed"]:
        del sys.modules[name]
    EMITTERS.pop("shed.ClipToSeen", None)


@pytest.fixture
def shed(module: Path, built: Path) -> Path:
    """A built project beside whose package lies `shed`."""
    return Path(shutil.copytree(built, module.parents[1], dirs_exist_ok=True))


def edit(root: Path, overrides: dict[str, Any]) -> None:
    values = merge(read_yaml(root / "params.yaml"), overrides)
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def use_own(root: Path, *stages: str, **train: Any) -> Any:
    """Put the class of the project before the other steps, and its estimator where one is given; run the stages."""
    steps = read_yaml(root / "params.yaml")["features"]["steps"]
    edit(root, {"features": {"steps": [CLIP, *steps]}, "train": {"options": None} if "estimator" in train else {}})
    edit(root, {"train": train})
    for stage in stages:
        run_stage(stage, Workspace(root))
    return load_params(root / "params.yaml")


# Found, or one line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            "shed.owner.Frequent",
            "no module shed.owner; export its notebook with `make export`, and declare it in dvc.yaml",
        ),
        ("shad.own.Frequent", "no module shad; export its notebook with `make export`, and declare it in dvc.yaml"),
        ("shed.own.Frequnt", "shed.own has no class Frequnt; did you mean 'Frequent'?"),
        ("shed.own.np", "shed.own has no class np; valid names: "),
        ("shed.own.ClipToSeen", "ClipToSeen has no method predict; name a class that has one"),
        (
            "sklearn.ensemble.BagingClassifier",
            "sklearn.ensemble has no class BagingClassifier; did you mean 'BaggingClassifier'?",
        ),
    ],
)
def test_a_class_that_is_not_there_is_one_line(module: Path, path: str, line: str) -> None:
    told = said_by(lambda: import_class(path, ["fit", "predict"], f"train.estimator = {path}"))

    assert told.startswith(f"params.yaml: train.estimator = {path}: {line}")


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_an_extra_that_is_not_installed_is_named_with_its_command(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    told = said_by(lambda: import_class(f"{library}.Any", ["fit"], f"train.estimator = {library}"))

    assert told == (
        f"params.yaml: train.estimator = {library}: {library} is not installed; "
        f"install it with `pip install 'mlops_pkg[{library}]'`"
    )


def test_an_error_in_a_module_of_the_project_keeps_its_traceback(module: Path) -> None:
    (module.parent / "broken.py").write_text("import no_such_library\n")

    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import_class("shed.broken.Any", ["fit"], "train.estimator = shed.broken.Any")


# Options


def test_options_that_a_constructor_passes_to_its_parent_are_valid() -> None:
    class Parent:
        def __init__(self, depth: int = 1, **more: int) -> None: ...

    class Child(Parent):
        def __init__(self, *, width: int = 1, **more: int) -> None: ...

    class Without(RandomForestClassifier):
        pass

    assert option_names(Child) == ["width", "depth"]
    assert option_names(Without) == option_names(RandomForestClassifier)
    assert {"max_depth", "objective"} <= set(option_names(import_class("xgboost.XGBClassifier", ["fit"], "x")))
    assert said_by(lambda: check_options(Child, ["wdth"], "train.options")) == (
        "params.yaml: train.options.wdth: Child has no such option; did you mean 'width'?"
    )


# The project's own classes, from params.yaml to the graph


def test_own_classes_are_those_that_params_yaml_names(shed: Path) -> None:
    params = use_own(shed, estimator="shed.own.Frequent")

    assert [kind.__name__ for kind in own_classes(params)] == ["ClipToSeen", "Frequent"]
    assert own_classes(load_params(ROOT / "params.yaml")) == []


def test_an_own_estimator_is_trained_saved_and_evaluated(shed: Path) -> None:
    train = {"estimator": "shed.own.Frequent", "options": {"smoothing": 1.0}}
    params = use_own(shed, "features", "train", "evaluate", **train)

    rows = read_table(shed / "artifacts" / "ingest" / "test.parquet")
    model = read_model(shed / "artifacts" / "train" / "model.skops", params)
    assert model["model"].smoothing == 1.0
    assert (predict(model, rows[list(params.data.columns)], params.task) == round(model["model"].share_, 9)).all()
    assert read_json(shed / "artifacts" / "evaluate" / "comparison.json")["test"]["model"]["roc_auc"]["value"] == 0.5


def test_a_class_that_params_yaml_does_not_name_is_not_loaded(shed: Path) -> None:
    params = use_own(shed, "features")
    path = shed / "artifacts" / "features" / "features.skops"
    read_model(path, params)
    pipeline = read_model(path, params)
    pipeline.steps.append(("planted", import_class("shed.own.Undeclared", [], "")()))
    planted = shed / "artifacts" / "features" / "planted.skops"
    planted.write_bytes(dump_model(pipeline))

    assert "features/planted.skops: it holds types that params.yaml does not name" in said_by(
        lambda: read_model(planted, params)
    )
    assert "features/features.skops: it holds types that params.yaml does not name" in said_by(lambda: read_model(path))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ({"use": "shed.own.ClipToSen"}, "features.steps[0].use = shed.own.ClipToSen: shed.own has no class ClipToSen"),
        (
            {**CLIP, "varables": []},
            "features.steps[0].varables: ClipToSeen has no such option; did you mean 'variables'?",
        ),
        ({"use": "shed.own.Frequent"}, "features.steps[0].use = shed.own.Frequent: Frequent has no method transform"),
        ({**CLIP, "variables": ["distnce"]}, "features.steps[0] (shed.own.ClipToSeen): 'distnce'; columns here: "),
    ],
)
def test_a_mistake_in_an_own_step_is_one_line(shed: Path, step: dict[str, Any], line: str) -> None:
    edit(shed, {"features": {"steps": [step]}})

    assert said_by(lambda: run_stage("features", Workspace(shed))).startswith(f"params.yaml: {line}")


def test_an_own_transformer_without_an_emitter_is_named_with_what_to_give_it(shed: Path) -> None:
    use_own(shed, "features", "train", "evaluate")

    told = said_by(lambda: run_stage("package", Workspace(shed)))

    assert (
        "step 'ClipToSeen' (shed.ClipToSeen): not supported; give it an emitter with @emits(\"shed.ClipToSeen\")"
        in told
    )


def test_an_own_transformer_with_an_emitter_goes_into_the_graph(shed: Path) -> None:
    with (shed / "shed" / "own.py").open("a") as module:
        module.write(EMITTER)
    params = use_own(shed, *STAGES[1:])

    live = read_table(shed / "artifacts" / "ingest" / "live.parquet")
    live["distance"] = np.resize([-5.0, 1e6, 300.0], len(live))  # below, above and inside the range
    session = open_session((shed / "artifacts" / "package" / "model.onnx").read_bytes())
    model = read_model(shed / "artifacts" / "train" / "model.skops", params)
    found = agreement(model, session, live, params.data.kinds)
    assert (found.rows, found.differing, found.largest) == (len(live), 0, 0.0)
    lineage = read_json(shed / "artifacts" / "package" / "lineage.json")
    assert "shed/own.py" in lineage["modules"]
