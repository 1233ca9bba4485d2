"""A saved model: the same bytes for the same fit, the same answers after loading, and no foreign code."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from feature_engine.encoding import MeanEncoder
from feature_engine.imputation import MeanMedianImputer
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR
from skops.io.exceptions import UntrustedTypesFoundException
from xgboost import XGBClassifier, XGBRegressor

from mlops_pkg.portable.persistence import TRUSTED, dump_model, load_model
from mlops_pkg.portable.transformers import RoundedCyclicalFeatures

ESTIMATORS: dict[str, Any] = {
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "boosted regression": lambda: HistGradientBoostingRegressor(max_iter=5, random_state=0),
    "logistic": LogisticRegression,
    "ridge": Ridge,
    "XGBoost": lambda: XGBClassifier(n_estimators=5, random_state=0),
    "XGBoost's regression": lambda: XGBRegressor(n_estimators=5, random_state=0),
    "LightGBM": lambda: LGBMClassifier(n_estimators=5, random_state=0, verbose=-1),
    "LightGBM's regression": lambda: LGBMRegressor(n_estimators=5, random_state=0, verbose=-1),
    "neighbours": lambda: KNeighborsClassifier(algorithm="kd_tree"),
    "vectors": SVR,
    "network": lambda: MLPClassifier(max_iter=3, random_state=0),
    "forest": lambda: RandomForestClassifier(n_estimators=5, random_state=0),
}
BOOSTERS = [name for name in ESTIMATORS if "XGBoost" in name or "LightGBM" in name]


def make_rows() -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    """Return rows with a text, a number that may be missing, and an hour; and a target."""
    generator = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "city": pd.Series(generator.choice(["a", "b", "c"], 300), dtype="str"),
            "size": pd.Series(generator.normal(size=300)).where(generator.random(300) > 0.1),
            "hour": generator.integers(0, 24, 300).astype("float64"),
        }
    )
    return X, pd.Series(generator.integers(0, 2, 300))


def fit(name: str) -> Pipeline:
    """Return a fitted pipeline."""
    steps = [
        ("imputer", MeanMedianImputer(variables=["size"])),
        ("encoder", MeanEncoder(variables=["city"], unseen="encode")),
        ("cyclic", RoundedCyclicalFeatures(variables=["hour"], max_values={"hour": 24})),
        ("scale", StandardScaler()),
        ("model", ESTIMATORS[name]()),
    ]
    return Pipeline(steps).fit(*make_rows())


def answers_of(model: Any) -> np.ndarray[Any, Any]:
    """Return the predictions of the model."""
    X, _ = make_rows()
    return np.asarray(model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_equal_fits_are_equal_bytes(name: str) -> None:
    content = dump_model(fit(name))

    assert dump_model(fit(name)) == content
    assert dump_model(load_model(content)) == content, "what was loaded is saved otherwise"


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_loaded_model_gives_the_same_answers_to_the_last_bit(name: str, tmp_path: Path) -> None:
    model = fit(name)
    (tmp_path / "model.skops").write_bytes(dump_model(model))

    loaded = load_model(tmp_path / "model.skops")

    assert (answers_of(loaded) == answers_of(model)).all()
    assert [type(step) for _, step in loaded.steps] == [type(step) for _, step in model.steps]


def test_another_model_is_other_bytes() -> None:
    model = fit("boosting")
    other = fit("boosting")
    other["imputer"].imputer_dict_["size"] += 1e-12

    assert dump_model(other) != dump_model(model)


@pytest.mark.parametrize("name", ["boosting", "boosted regression"])
def test_the_number_of_threads_is_forgotten_and_the_model_untouched(name: str) -> None:
    model, other = fit(name), fit(name)
    model["model"]._bin_mapper.n_threads, other["model"]._bin_mapper.n_threads = 7, 3

    content = dump_model(model)

    assert content == dump_model(other)
    assert model["model"]._bin_mapper.n_threads == 7, "saving changed the model"
    assert load_model(content)["model"]._bin_mapper.n_threads == 1


@pytest.mark.parametrize("name", [*BOOSTERS, "forest"])
def test_the_number_of_jobs_does_not_change_a_byte(name: str) -> None:
    one, two = fit(name), fit(name)
    for model, jobs in ((one, 1), (two, 2)):
        model["model"].set_params(n_jobs=jobs)
        model.fit(*make_rows())

    content = dump_model(one)

    assert dump_model(two) == content
    assert one["model"].n_jobs == 1, "saving changed the model"
    assert load_model(content)["model"].n_jobs is None


@pytest.mark.parametrize("name", BOOSTERS)
def test_trees_that_cannot_be_read_are_named_in_one_line(name: str) -> None:
    model = fit(name)
    model["model"]._Booster = None
    with zipfile.ZipFile(io.BytesIO(dump_model(model))) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    schema = json.loads(members["schema.json"])
    kept = schema_of(schema, "_Booster")
    kept["content"] = json.dumps("no trees")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in (members | {"schema.json": json.dumps(schema).encode()}).items():
            archive.writestr(member, content)

    with pytest.raises(
        ValueError, match=rf"^the trees of {type(model['model']).__name__} cannot be read: .+"
    ) as refusal:
        load_model(buffer.getvalue())

    assert len(str(refusal.value).splitlines()) == 1


NODES: dict[str, Any] = {"left_child": 10**6, "right_child": 0, "feature": 77}


@pytest.mark.parametrize("field", NODES)
def test_a_tree_that_leads_out_of_its_nodes_or_features_is_refused(field: str) -> None:
    with zipfile.ZipFile(io.BytesIO(dump_model(fit("forest")))) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    for member, content in members.items():
        nodes = np.load(io.BytesIO(content)) if member.endswith(".npy") and b"left_child" in content else None
        if nodes is not None:
            nodes[field][0] = NODES[field]
            buffer = io.BytesIO()
            np.save(buffer, nodes)
            members[member] = buffer.getvalue()
    forged = io.BytesIO()
    with zipfile.ZipFile(forged, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)

    with pytest.raises(ValueError, match="^a tree in it has nodes or features that do not exist$"):
        load_model(forged.getvalue())


def schema_of(node: Any, key: str) -> dict[str, Any]:
    """Return the node under a key, wherever it is in the schema."""
    if isinstance(node, list):
        found = [inner for child in node if (inner := schema_of(child, key))]
    else:
        found = [node[key]] if isinstance(node, dict) and key in node else []
        children = node.values() if isinstance(node, dict) else []
        found += [inner for child in children if (inner := schema_of(child, key))]
    return found[0] if found else {}


def test_a_bare_estimator_forgets_its_threads_too() -> None:
    X, y = make_rows()
    model = ESTIMATORS["boosting"]().fit(X[["hour"]], y)
    content = dump_model(model)
    model._bin_mapper.n_threads = 5

    assert dump_model(model) == content


def test_a_file_holds_neither_dates_nor_addresses() -> None:
    with zipfile.ZipFile(io.BytesIO(dump_model(fit("boosting")))) as archive:
        dates = {member.date_time for member in archive.infolist()}
        names = archive.namelist()
        schema = archive.read("schema.json").decode()

    assert dates == {(1980, 1, 1, 0, 0, 0)}
    assert names == sorted(names)
    numbers = {int(name.partition(".")[0]) for name in names if name != "schema.json"}
    assert max(numbers) < 10_000, f"an address in memory is left: {max(numbers)}"
    assert max(ids_of(json.loads(schema))) < 10_000, "an address in memory is left in the schema"


def ids_of(node: Any) -> list[int]:
    """Return every number under __id__."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node["__id__"]] if isinstance(node, dict) and "__id__" in node else []
    return own + [number for child in children for number in ids_of(child)]


def test_every_trusted_type_exists() -> None:
    for name in TRUSTED:
        module, _, kind = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=[kind]), kind), f"{name} is trusted, and there is no such type"


class Stranger(BaseEstimator):  # type: ignore[misc]
    """A type that is not trusted."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Run when the type is restored."""
        raise AssertionError("the code of an untrusted type was run")


@pytest.mark.parametrize("model", [Stranger(), FunctionTransformer(os.system)], ids=["class", "function"])
def test_an_untrusted_type_is_refused_by_name(model: BaseEstimator) -> None:
    content = skops.io.dumps(Pipeline([("step", model)]))

    with pytest.raises(UntrustedTypesFoundException, match=r"Stranger|system"):
        load_model(content)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    with pytest.raises(zipfile.BadZipFile):
        load_model(pickle.dumps(Trap()))

    assert not (tmp_path / "run").exists(), "the pickle was run"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    content = dump_model(fit("logistic"))
    (tmp_path / "model.skops").write_bytes(content[: int(len(content) * share)])

    with pytest.raises(zipfile.BadZipFile):
        load_model(tmp_path / "model.skops")


def test_a_changed_byte_is_refused() -> None:
    content = bytearray(dump_model(fit("boosting")))
    content[200] ^= 0xFF

    with pytest.raises(Exception, match=r"CRC|decompress|header|invalid"):
        load_model(bytes(content))
