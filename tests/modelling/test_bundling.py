"""The bundle: complete, verified, with a lineage that changes exactly where its origin changed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import yaml
from onnx import numpy_helper
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer

from mlops_pkg.bundle.explanation import Explainer
from mlops_pkg.bundle.manifest import MODEL, BundleError, verify
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.signature import Signature
from mlops_pkg.core.params import UserError, load_params, merge, read_yaml
from mlops_pkg.core.stage import run_stage
from mlops_pkg.core.workspace import Workspace, digest, read_json, read_table
from mlops_pkg.modelling import bundling
from mlops_pkg.modelling.card import Evaluated, make_card
from mlops_pkg.modelling.models import read_model
from mlops_pkg.portable.export import Agreement, agreement
from mlops_pkg.portable.graph import open_session
from tests.conftest import STAGES
from tests.toy import seal


def bundle_of(root: Path) -> Path:
    """Return the output folder of the stage."""
    return root / "artifacts" / "package"


def leaves_of(value: Any, path: str = "") -> dict[str, Any]:
    """Return every value of a JSON file by its path."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, child in value.items() for key, leaf in leaves_of(child, f"{path}/{name}").items()}


def changed_by(root: Path) -> set[str]:
    """Return what differs in the lineage after packaging again."""
    before = leaves_of(read_json(bundle_of(root) / "lineage.json"))
    command = [sys.executable, "-m", "mlops_pkg.core.stage", "package"]  # the code in root runs, as under DVC
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    after = leaves_of(read_json(bundle_of(root) / "lineage.json"))
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


# The signature and the reference


def test_the_signature_comes_back_from_its_file(built: Path) -> None:
    params = load_params(built / "params.yaml")
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    metrics = read_json(built / "artifacts" / "evaluate" / "comparison.json")

    read = Signature.from_dict(read_json(bundle_of(built) / "signature.json"))

    assert read == bundling.make_signature(train, metrics, params)
    assert [field.name for field in read.fields] == list(params.data.columns)


def test_a_field_says_what_params_say(built: Path) -> None:
    params = load_params(built / "params.yaml")
    fields = read_json(bundle_of(built) / "signature.json")["fields"]

    for field in fields:
        column = params.data.columns[field["name"]]
        names = ("kind", "unit", "minimum", "maximum", "nullable")
        assert {name: field[name] for name in names} == column.model_dump(include=set(names))


def test_categories_are_those_of_the_training_rows_alone(built: Path) -> None:
    splits = {
        name: read_table(built / "artifacts" / "ingest" / f"{name}.parquet") for name in ("train", "test", "live")
    }
    fields = {field["name"]: field for field in read_json(bundle_of(built) / "signature.json")["fields"]}

    for name in ("carrier", "origin", "dest", "manufacturer", "engine"):
        assert fields[name]["categories"] == sorted(splits["train"][name].dropna().unique())
    later = set(splits["test"]["manufacturer"].dropna()) | set(splits["live"]["manufacturer"].dropna())
    assert later - set(fields["manufacturer"]["categories"]), "no category is new later, so this test shows nothing"
    assert fields["distance"]["categories"] is None


def test_quantiles_are_values_that_occur(built: Path) -> None:
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    columns = read_json(bundle_of(built) / "reference.json")["columns"]

    for name in load_params(built / "params.yaml").data.names("number"):
        quantiles = columns[name]["quantiles"]
        assert set(quantiles.values()) <= set(train[name].dropna()), f"{name} has a quantile that no row has"
        assert list(quantiles.values()) == sorted(quantiles.values())
        assert (quantiles["0"], quantiles["1"]) == (train[name].min(), train[name].max())
        assert columns[name]["missing"] == round(float(train[name].isna().mean()), 6)


def test_the_reference_describes_training_rows_and_answers_on_test(built: Path) -> None:
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    predictions = read_table(built / "artifacts" / "evaluate" / "predictions.parquet")

    reference = read_json(bundle_of(built) / "reference.json")

    test = predictions.loc[predictions["split"] == "test", "model"]
    assert reference["rows"] == len(train)
    assert reference["target"]["shares"]["1"] == pytest.approx(train["late"].mean(), abs=1e-6)
    assert reference["predictions"]["quantiles"]["1"] == test.max()
    shares = reference["columns"]["origin"]["shares"]
    assert shares == train["origin"].value_counts(normalize=True).round(6).to_dict()
    assert reference["columns"]["sched_dep_at"]["first"] == train["sched_dep_at"].min().isoformat()


def test_a_column_without_any_value_is_described_as_missing() -> None:
    assert bundling.describe(pd.Series([np.nan, np.nan]), "number") == {"missing": 1.0}
    assert bundling.describe(pd.Series([None], dtype="str"), "category") == {"missing": 1.0}


# The lineage


def edit_params(root: Path, overrides: dict[str, Any]) -> None:
    """Edit the params.yaml of a project."""
    (root / "params.yaml").write_text(
        yaml.safe_dump(merge(read_yaml(root / "params.yaml"), overrides), sort_keys=False)
    )


@pytest.mark.parametrize(
    ("overrides", "section"),
    [
        ({"train": {"options": {"max_iter": 21}}}, "train"),
        ({"seed": 1}, "seed"),
        ({"ingest": {"max_reject_share": 0.02}}, "ingest"),
        ({"data": {"target": {"positive_above": 20}}}, "data"),
        ({"features": {"steps": [{"use": "DropConstantFeatures", "tol": 0.9}]}}, "features"),
        ({"features": {"steps": [{"use": "DropConstantFeatures"}]}}, "features"),
    ],
    ids=["train", "seed", "ingest", "data", "features", "fewer features"],
)
def test_a_section_of_params_changes_its_own_digest_alone(
    copy_of_built: Path, overrides: dict[str, Any], section: str
) -> None:
    edit_params(copy_of_built, overrides)

    assert changed_by(copy_of_built) == {f"/params/{section}"}


def test_an_option_of_a_step_counts(copy_of_built: Path) -> None:
    params = read_yaml(copy_of_built / "params.yaml")
    step = next(step for step in params["features"]["steps"] if step["use"] == "MeanEncoder")
    step["smoothing"] += 1
    (copy_of_built / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    assert changed_by(copy_of_built) == {"/params/features"}


def test_a_comment_in_params_changes_nothing(copy_of_built: Path) -> None:
    path = copy_of_built / "params.yaml"
    path.write_text("# a comment\n" + path.read_text())

    assert changed_by(copy_of_built) == set()


def test_a_module_changes_its_own_digest_alone(copy_of_built: Path) -> None:
    with (copy_of_built / "mlops_pkg" / "portable" / "transformers.py").open("a") as file:
        file.write("# a line\n")

    assert changed_by(copy_of_built) == {"/modules/mlops_pkg/portable/transformers.py"}


def test_the_lock_changes_its_own_digest_alone(copy_of_built: Path) -> None:
    with (copy_of_built / "requirements-pipeline.txt").open("a") as file:
        file.write("# a line\n")

    assert changed_by(copy_of_built) == {"/environment/requirements-pipeline.txt"}


def test_the_data_change_their_own_digest_alone(copy_of_built: Path) -> None:
    with (copy_of_built / "data" / "airlines.csv").open("a") as file:
        file.write("QQ,New Airline\n")

    assert changed_by(copy_of_built) == {"/data"}


def test_an_output_of_a_stage_changes_its_own_digest_alone(copy_of_built: Path) -> None:
    folder = copy_of_built / "artifacts" / "train"
    shutil.copy(folder / "baseline.skops", folder / "model.skops")

    assert changed_by(copy_of_built) == {"/inputs/train/model.skops"}


def test_the_lineage_is_that_of_the_files(built: Path) -> None:
    lineage = read_json(bundle_of(built) / "lineage.json")

    for name, recorded in lineage["inputs"].items():
        assert recorded == digest(built / "artifacts" / name), f"{name} is another file"
    for name, recorded in lineage["modules"].items():
        assert recorded == digest(built / name), f"{name} is another module"
    assert {f"mlops_pkg/pipeline/{stage}.py" for stage in STAGES} <= set(lineage["modules"])


# The graph and the card


def test_the_graph_of_the_bundle_answers_as_the_fitted_pipeline(built: Path) -> None:
    params = load_params(built / "params.yaml")
    inputs = params.data.kinds
    model = read_model(built / "artifacts" / "train" / "model.skops")
    live = read_table(built / "artifacts" / "ingest" / "live.parquet")

    found = agreement(model, open_session((bundle_of(built) / "model.onnx").read_bytes()), live, inputs)

    assert (found.rows, found.refused, found.differing, found.largest) == (len(live), 0, 0, 0.0)


@pytest.mark.parametrize("rows", ["test", "live", "damaged", "threshold"])
def test_a_graph_that_differs_is_not_packed(copy_of_built: Path, monkeypatch: pytest.MonkeyPatch, rows: str) -> None:
    before = {path.name: digest(path) for path in bundle_of(copy_of_built).iterdir()}
    asked = bundling.compare_model

    def one_row_differs(*arguments: Any) -> dict[str, Agreement]:
        return {**asked(*arguments), rows: Agreement(100, 0, 1, 0.25, 17)}

    monkeypatch.setattr("mlops_pkg.pipeline.package.compare_model", one_row_differs)

    with pytest.raises(
        UserError, match=rf"the bundle's model is not the fitted pipeline: {rows} rows: 1 of 100 .* row 17"
    ):
        run_stage("package", Workspace(copy_of_built))
    assert {path.name: digest(path) for path in bundle_of(copy_of_built).iterdir()} == before


def test_a_changed_leaf_of_the_graph_is_noticed(built: Path) -> None:
    params = load_params(built / "params.yaml")
    model = read_model(built / "artifacts" / "train" / "model.skops")
    frames = {name: read_table(built / "artifacts" / "ingest" / f"{name}.parquet") for name in ("test", "live")}
    graph = onnx.load_from_string((bundle_of(built) / "model.onnx").read_bytes())
    trees = next(node for node in graph.graph.node if node.op_type == "TreeEnsemble")
    leaves = next(attribute for attribute in trees.attribute if attribute.name == "leaf_weights")
    values = numpy_helper.to_array(leaves.t).copy()
    values[0] = np.nextafter(values[0], np.inf)  # the baseline, by its last bit
    leaves.t.CopyFrom(numpy_helper.from_array(values, "weights"))

    found = bundling.compare_model(model, {MODEL: graph.SerializeToString()}, frames, params)

    assert found["test"].differing > 0
    with pytest.raises(UserError, match="test rows"):
        bundling.check_agreements(found)


def test_a_step_that_no_graph_can_express_is_named(copy_of_built: Path) -> None:
    params = load_params(copy_of_built / "params.yaml")
    model = read_model(copy_of_built / "artifacts" / "train" / "model.skops")
    model.steps.insert(0, ("smooth", KBinsDiscretizer()))

    with pytest.raises(
        UserError, match=r"step 'smooth' \(sklearn\.KBinsDiscretizer\): not supported; of sklearn: .*Ridge"
    ):
        bundling.make_graph(model, params)


def test_a_pipeline_without_a_graph_is_packed_as_python_objects(
    copy_of_built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bagging = {"estimator": "sklearn.ensemble.BaggingClassifier", "options": {"n_estimators": 3}}
    edit_params(copy_of_built, {"train": {"options": None}})
    edit_params(copy_of_built, {"train": bagging})
    workspace = Workspace(copy_of_built)
    run_stage("train", workspace)
    run_stage("evaluate", workspace)
    with pytest.raises(UserError, match=r"BaggingClassifier.* package\.runtime: python and, in dvc\.yaml, replace"):
        run_stage("package", workspace)
    edit_params(copy_of_built, {"package": {"runtime": "python"}})
    run_stage("package", workspace)

    folder, trained = bundle_of(copy_of_built), copy_of_built / "artifacts" / "train" / "model.skops"
    rows = read_table(copy_of_built / "artifacts" / "ingest" / "test.parquet")
    stored = read_table(copy_of_built / "artifacts" / "evaluate" / "predictions.parquet")
    predictor = Predictor.load(folder)
    np.testing.assert_array_equal(predictor.predict(rows).answer, stored.loc[stored["split"] == "test", "model"])
    with pytest.raises(BundleError, match="no explanation"):
        predictor.explain(rows.head(1))

    assert (folder / "model.skops").read_bytes() == trained.read_bytes()
    assert not (folder / MODEL).exists()
    assert read_json(folder / "signature.json")["runtime"] == "python"
    assert read_json(folder / "signature.json")["types"] == {}
    requirements = (folder / "requirements.txt").read_text()
    assert re.search(r"^scikit-learn==[\d.]+ \\\n    --hash=sha256:\w{64}", requirements, re.MULTILINE)
    assert "model.skops (with the libraries of requirements.txt)" in (folder / "card.md").read_text()
    assert re.search(
        r"model\.skops and requirements\.txt, the outs of package in dvc\.yaml in place of model\.onnx, "
        r"as no graph can be made: .*BaggingClassifier.* an emitter",
        capsys.readouterr().out,
    )

    content = re.sub(r"(?m)^scikit-learn==\S+", "scikit-learn==1.0", requirements)
    (folder / "requirements.txt").write_text(content)
    with pytest.raises(
        BundleError, match=r"requirements\.txt: scikit-learn: 1\.0 is needed, 1\..* is installed; install"
    ):
        Predictor.load(seal(folder))


def test_a_linear_model_is_packed_too(copy_of_built: Path) -> None:
    edit_params(copy_of_built, {"train": {"estimator": "linear", "options": None}})
    for stage in ("train", "evaluate", "package"):
        run_stage(stage, Workspace(copy_of_built))

    card = (bundle_of(copy_of_built) / "card.md").read_text()
    assert "Estimator: linear." in card
    assert re.search(r"\| test \| [\d,]+ \| 0 \| 0 \|", card), "rows differ, or were refused"


def test_the_card_says_what_the_artifacts_say(built: Path) -> None:
    params = load_params(built / "params.yaml")
    card = (bundle_of(built) / "card.md").read_text()
    comparison = read_json(built / "artifacts" / "evaluate" / "comparison.json")
    counts = read_json(built / "artifacts" / "ingest" / "rows.json")
    slices = pd.read_csv(built / "artifacts" / "evaluate" / "slices.csv")

    area = comparison["live"]["model"]["roc_auc"]
    assert f"| roc_auc | {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}] |" in card
    for split, rows in counts["splits"].items():
        assert re.search(rf"\| {split} \| month [\d, ]+ \| {rows:,} \|", card), f"the rows of {split} are not told"
    data_card = (built / "artifacts" / "ingest" / "data_card.md").read_text()
    assert data_card.partition("\n## License")[2].replace("\n## ", "\n### ") in card, "the data card is not in it"
    carriers = slices[(slices["split"] == "test") & (slices["slice"] == "carrier")]
    weakest = carriers.loc[carriers["roc_auc"].idxmin(), "value"]
    assert f"| `carrier` | {weakest} |" in card, "the weakest carrier is not told"
    assert params.package.intended_use in card
    assert all(limit in card for limit in params.package.limits)
    assert all(f"| `{name}` |" in card for name in params.data.columns)


def test_the_metrics_are_what_was_measured_and_on_how_many_rows(built: Path) -> None:
    comparison = read_json(built / "artifacts" / "evaluate" / "comparison.json")
    params = load_params(built / "params.yaml")

    told = read_json(bundle_of(built) / "metrics.json")

    assert (told["estimator"], told["confidence"]) == (params.train.estimator, params.evaluate.confidence)
    for split in ("test", "live"):
        rows = len(read_table(built / "artifacts" / "ingest" / f"{split}.parquet"))
        assert told[split] == {"rows": rows, **comparison[split]}
    assert {"model", "prior"} <= told["test"].keys()
    assert told["test"]["model"]["roc_auc"].keys() == {"value", "low", "high"}


def test_a_card_without_slices_or_limits_says_so(built: Path) -> None:
    read = built / "artifacts" / "evaluate"
    none = pd.DataFrame(columns=["split", "slice", "value", "rows"])
    params = load_params(built / "params.yaml", {"package": {"limits": []}})
    signature = Signature.from_dict(read_json(bundle_of(built) / "signature.json"))
    counts = read_json(built / "artifacts" / "ingest" / "rows.json")
    classes = pd.read_csv(read / "classes.csv")
    comparison = read_json(read / "comparison.json")
    evaluated = Evaluated("linear", 0.95, comparison, none, classes, classes[:0], none, counts)

    card = make_card(signature, {}, evaluated, "# Data\n\n## Rows\n\nThree.\n", params=params, settings=params.package)

    assert "None are known." in card
    assert "No slice has enough rows" in card
    assert "There are no SHAP values" in card
    assert "## What it has learned from\n\n### Rows\n\nThree." in card


def test_a_card_names_the_fields_that_move_predictions_most(built: Path) -> None:
    shap = pd.read_csv(built / "artifacts" / "evaluate" / "shap.csv")
    card = (bundle_of(built) / "card.md").read_text()

    first = shap.iloc[0]
    share = first["mean_abs"] / shap["mean_abs"].sum()
    assert f"| `{first['column']}` | {first['mean_abs']:.3f} | {share:.1%} |" in card


# The whole


def test_a_second_build_elsewhere_is_the_same_in_every_byte(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "another place" / "with spaces"
    shutil.copytree(built, root, ignore=shutil.ignore_patterns("artifacts"))

    for stage in STAGES:
        run_stage(stage, Workspace(root))

    first, second = (
        {
            path.relative_to(place).as_posix(): digest(path)
            for path in (place / "artifacts").rglob("*")
            if path.is_file()
        }
        for place in (built, root)
    )
    assert len(first) >= 32, "the stages wrote less than they should"
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first == second


def test_a_bundle_holds_no_date_of_its_making_and_no_path(built: Path) -> None:
    text = "".join(path.read_text(errors="replace") for path in bundle_of(built).iterdir())

    assert str(built) not in text
    assert not re.search(r"/home/|/tmp/|/root/|/Users/|[A-Z]:\\\\", text)
    dates = set(re.findall(r"\b(?:19|20)\d\d-\d\d-\d\d", text))
    assert all(date.startswith("2013-") for date in dates), f"a date that is not of the data: {dates}"


def test_a_bundle_verifies_until_it_is_edited(copy_of_built: Path) -> None:
    folder = bundle_of(copy_of_built)
    identity = verify(folder)
    assert re.fullmatch("[0-9a-f]{64}", identity)

    values = read_json(folder / "signature.json")
    (folder / "signature.json").write_text(json.dumps({**values, "threshold": 0.0}))

    with pytest.raises(BundleError, match=r"signature\.json: changed since it was packed"):
        verify(folder)


# The explanation


def explained_rows(root: Path, rows: int = 1000) -> tuple[Predictor, Pipeline, pd.DataFrame]:
    """The predictor of a bundle, the fitted pipeline, and raw rows of later months."""
    model = read_model(root / "artifacts" / "train" / "model.skops")
    later = pd.concat(read_table(root / "artifacts" / "ingest" / f"{name}.parquet") for name in ("test", "live"))
    return (
        Predictor.load(bundle_of(root)),
        model,
        later.head(rows)[list(load_params(root / "params.yaml").data.columns)],
    )


def test_contributions_of_fields_are_those_that_shap_computes_of_features(built: Path) -> None:
    shap = pytest.importorskip("shap")
    predictor, model, frame = explained_rows(built)

    found = predictor.explain(frame)

    X = model[:-1].transform(frame)
    tree = shap.TreeExplainer(model[-1], feature_perturbation="tree_path_dependent")
    expected = pd.DataFrame(tree.shap_values(X, check_additivity=False), columns=X.columns)
    assert len(found.margin) == len(frame) == 1000
    assert np.abs(found.base + found.contributions.sum(axis=1) - found.margin).max() < 1e-9
    assert np.array_equal(found.margin, model.decision_function(frame))
    ours = pd.DataFrame(found.contributions, columns=list(found.fields))
    for field in ("distance", "carrier", "sched_dep_at", "wind_dir", "plane_year"):
        features = [name for name in X.columns if name.startswith(field)]
        assert features, f"no feature is made from {field}"
        np.testing.assert_allclose(ours[field], expected[features].sum(axis=1), atol=1e-6)
    for field in ("sched_dep_utc", "sched_arr_utc"):
        np.testing.assert_allclose(ours[field], expected["sched_minutes"] / 2, atol=1e-6)


def test_a_linear_model_is_explained_by_differences_from_the_mean(copy_of_built: Path) -> None:
    edit_params(copy_of_built, {"train": {"estimator": "linear", "options": None}})
    for stage in ("train", "evaluate", "package"):
        run_stage(stage, Workspace(copy_of_built))
    predictor, model, frame = explained_rows(copy_of_built, 100)
    train = read_table(copy_of_built / "artifacts" / "ingest" / "train.parquet")[frame.columns]

    found = predictor.explain(frame)

    X, means = (np.asarray(model[:-1].transform(rows)) for rows in (frame, train))
    expected = model[-1].coef_ * (X - means.mean(axis=0))
    np.testing.assert_allclose(found.contributions.sum(axis=1), expected.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.margin, atol=1e-9)
    assert found.base == pytest.approx(model.decision_function(train).mean(), abs=1e-9)


def test_contributions_that_do_not_add_up_are_not_packed(built: Path) -> None:
    params = load_params(built / "params.yaml")
    model = read_model(built / "artifacts" / "train" / "model.skops")
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    files = {MODEL: (bundle_of(built) / MODEL).read_bytes()}
    assert bundling.explain_margin(model, files, train, params) == (bundle_of(built) / "explanation.npz").read_bytes()
    nodes = model[-1]._predictors[3][0].nodes
    nodes["value"][np.flatnonzero(nodes["is_leaf"])] *= -1  # a sign in one tree

    with pytest.raises(UserError, match=r"^the contributions of HistGradientBoostingClassifier do not add up"):
        bundling.explain_margin(model, files, train, params)


def test_a_model_that_is_no_sum_has_an_empty_explanation(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(built / "params.yaml")
    model = read_model(built / "artifacts" / "train" / "model.skops")
    train = read_table(built / "artifacts" / "ingest" / "train.parquet")
    monkeypatch.setattr("mlops_pkg.portable.estimators.explain_trees", lambda *_: None)
    graph = bundling.make_graph(model, params)

    content = bundling.explain_margin(model, {MODEL: graph}, train, params)

    assert [output.name for output in onnx.load_from_string(graph).graph.output] == ["margin", "answer"]
    with pytest.raises(BundleError, match="no explanation: the model is neither linear nor a sum of trees"):
        Explainer(content)
