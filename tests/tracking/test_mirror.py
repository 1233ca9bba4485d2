"""The mirror in MLflow, in a database beside it: what a run holds, what a second time writes, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from mlops_pkg.bundle.manifest import BundleError, manifest_bytes
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.pyfunc import PyfuncModel, save_pyfunc
from mlops_pkg.bundle.signature import answer_types
from mlops_pkg.core.workspace import read_json, read_table
from mlops_pkg.registry.releases import promote, register, rollback
from mlops_pkg.tracking.mirror import COMMIT, VERSION, flatten, mlflow_names
from tests.registry.conftest import Team, git, record
from tests.tracking.conftest import Run, as_experiment

NAME = "late-flights"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A database that MLflow keeps."""
    yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(None)


def finished(store: str) -> dict[str, Any]:
    """The runs of the experiment, by name."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert all(one.info.status == "FINISHED" for one in found)
    assert len({one.data.tags[COMMIT] for one in found}) == len(found), "each commit has one run"
    return {one.info.run_name: one for one in found}


def test_a_run_holds_what_the_commit_holds(team: Team, store: str, run: Run) -> None:
    commit = team.build("first")
    register(team.root)
    promote(team.root, NAME, "v1.0.0", "prod")
    as_experiment(team, "more-trees", "better")

    said = run(team.root, "track", "--to", store).stdout.splitlines()

    assert set(said[:2]) == {"late-flights@v1.0.0: new", "more-trees: new"}
    assert said[2:] == ["late-flights@v1.0.0: version 1 of the model late-flights"]
    first, better = (finished(store)[name] for name in ("late-flights@v1.0.0", "more-trees"))
    compared = read_json(team.models["better"] / "artifacts" / "evaluate" / "comparison.json")["test"]["model"]
    assert better.data.metrics["test/roc_auc"] == compared["roc_auc"]["value"]
    assert better.data.metrics["intervals/test.roc_auc_low"] == compared["roc_auc"]["low"]
    assert (first.data.params["train.options.max_iter"], better.data.params["train.options.max_iter"]) == ("20", "60")
    assert first.data.tags["mlflow.note.content"] == (team.models["first"] / "artifacts/package/card.md").read_text()
    assert first.data.tags["mlops_pkg.names"] == "late-flights@v1.0.0, main"
    assert first.data.tags["mlops_pkg.stages"] == "prod"
    assert first.info.start_time == int(git(team.root, "show", "-s", "--format=%ct", commit)) * 1000
    client = mlflow.MlflowClient(store)
    curve = client.get_metric_history(better.info.run_id, "iterations/loss")
    table = pd.read_csv(team.models["better"] / "artifacts" / "train" / "iterations.csv")
    assert [(one.step, one.value) for one in curve] == list(table.itertuples(index=False, name=None))
    assert {one.dataset.name for one in first.inputs.dataset_inputs} == {"train", "validation", "test", "live"}
    [version] = client.search_model_versions(f"name = '{NAME}'")
    assert (version.tags[VERSION], version.run_id, version.tags[COMMIT]) == ("v1.0.0", first.info.run_id, commit)
    assert client.get_model_version_by_alias(NAME, "prod").version == version.version


def test_a_second_time_writes_what_is_new_and_the_stages_follow(team: Team, store: str, run: Run) -> None:
    team.build("first")
    register(team.root)
    promote(team.root, NAME, "v1.0.0", "prod")
    run(team.root, "track", "--to", store)
    before = finished(store)["late-flights@v1.0.0"]
    team.build("better")
    register(team.root)
    promote(team.root, NAME, "v1.1.0", "prod")

    said = run(team.root, "track", "--to", store).stdout.splitlines()
    again = run(team.root, "track", "--to", store).stdout.splitlines()
    client = mlflow.MlflowClient(store)
    promoted = client.get_model_version_by_alias(NAME, "prod").tags[VERSION]
    rollback(team.root, NAME, "prod")
    run(team.root, "track", "--to", store)

    assert {"late-flights@v1.0.0: updated", "late-flights@v1.1.0: new"} < set(said)
    assert {"late-flights@v1.0.0: kept", "late-flights@v1.1.0: kept"} < set(again)
    assert (promoted, client.get_model_version_by_alias(NAME, "prod").tags[VERSION]) == ("v1.1.0", "v1.0.0")
    after = finished(store)["late-flights@v1.0.0"]
    assert after.info.run_id == before.info.run_id
    assert after.data.metrics == before.data.metrics
    assert len(client.get_metric_history(after.info.run_id, "test/roc_auc")) == 1
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2


@pytest.mark.parametrize("broken", ["log_inputs", "log_artifacts", "set_terminated"])
def test_what_was_interrupted_is_completed_in_the_same_run(
    team: Team, store: str, run: Run, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    team.build("first")

    def stop(*_: Any, **__: Any) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, broken, stop)
        told = run(team.root, "track", "--to", store)
    said = run(team.root, "track", "--to", store).stdout

    assert told.exit_code == 1
    assert told.stderr.endswith(f"{store}: the network is gone\n")
    assert said == "main: completed\n"
    [(_, one)] = finished(store).items()
    client = mlflow.MlflowClient(store)
    for name in ("test/roc_auc", "test/log_loss"):
        assert len(client.get_metric_history(one.info.run_id, name)) == 1
    experiment = one.info.experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["READY"]


def test_an_output_that_is_nowhere_is_told_and_the_others_are_mirrored(team: Team, store: str, run: Run) -> None:
    team.build("first")
    lock = git(team.root, "show", f"{as_experiment(team, 'one-tree', 'worse')}:dvc.lock")
    md5 = lock.split("path: artifacts/package/card.md\n")[1].split("md5: ")[1].split("\n")[0]
    for folder in (team.storage, team.root / ".dvc" / "cache"):
        (folder / "files" / "md5" / md5[:2] / md5[2:]).unlink()

    said = run(team.root, "track", "--to", store).stdout.splitlines()

    said.remove("main: new")
    assert said[0].startswith("one-tree: skipped: card.md at")
    assert said[0].endswith("not in the remote; run `dvc push` where it was made")
    assert list(finished(store)) == ["main"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://ada:secret@127.0.0.1:9", "http://ada:***@127.0.0.1:9: "),
        ("ftp://127.0.0.1", "ftp://127.0.0.1: "),
        ("file:///nowhere", "file:///nowhere: "),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(team: Team, run: Run, uri: str, reason: str) -> None:
    team.build("first")

    told = run(team.root, "track", "--to", uri)

    assert told.exit_code == 1
    assert told.stderr.startswith(reason)
    assert len(told.stderr.splitlines()) == 1
    assert "secret" not in told.stderr


def test_nothing_to_mirror_is_told(team: Team, store: str, run: Run) -> None:
    team.build("first")

    told = run(team.root, "track", "zzz*", "--to", store)

    assert told.exit_code != 0
    assert "no experiment, branch or version is called zzz*" in told.stderr


def test_names_are_those_that_mlflow_takes_and_none_is_lost() -> None:
    values = dict(flatten({"data": {"columns": {"a (1)": {"kind": "number"}, "a [1]": {"kind": "text"}}, "known": []}}))

    names = mlflow_names(values)

    assert list(values.values()) == ["number", "text", []]
    assert len(set(names.values())) == 3
    for name in names.values():
        mlflow.utils.validation._validate_param_name(name)


def test_a_rejected_row_has_no_prediction_and_the_others_keep_their_types(built: Path) -> None:
    predictor = Predictor.load(built / "artifacts" / "package")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet")
    rows = rows[[field.name for field in predictor.signature.fields]].head(50)
    rows.loc[rows.index[3], ["carrier", "distance"]] = [None, -1.0]

    answers = PyfuncModel(predictor).predict(rows.drop(columns="wind_gust").assign(wind_gust=None))
    whole = PyfuncModel(predictor).predict(rows.drop(rows.index[3]))

    assert list(answers) == [*answer_types(predictor.signature), "error"]
    assert answers["error"].iloc[3] == "carrier: missing; distance: below the minimum of 0 miles"
    assert answers["prediction"].iloc[3] is None
    assert answers["prediction"].drop(answers.index[3]).isin([0, 1]).all()
    assert whole["prediction"].dtype == "int64"
    assert whole["error"].isna().all()


def test_a_bundle_of_objects_is_no_model_of_mlflow(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlops_pkg.bundle import pyfunc
    from mlops_pkg.bundle.manifest import Bundle

    monkeypatch.setattr(pyfunc, "read_bundle", lambda _: Bundle("0" * 64, {"model.skops": b""}))

    with pytest.raises(BundleError, match="a model of MLflow is made of a graph, not of Python objects"):
        save_pyfunc(built / "artifacts" / "package", tmp_path / "model")


def test_a_bundle_of_an_earlier_format_is_skipped_and_leaves_no_run(team: Team, store: str, run: Run) -> None:
    team.build("first")
    manifest = team.root / "artifacts" / "package" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 4', '"format": 3'))
    record(team.root, None)
    git(team.root, "commit", "--quiet", "--message", "As it was packed before", "dvc.lock")

    said = run(team.root, "track", "--to", store).stdout

    assert said.startswith("main: skipped: ")
    assert said.endswith("format 3; this version reads format 4\n")
    assert not finished(store)


def test_a_long_card_does_not_stop_the_mirror(team: Team, store: str, run: Run) -> None:
    team.build("first")
    card, manifest = (team.root / "artifacts" / "package" / name for name in ("card.md", "manifest.json"))
    card.write_text(card.read_text() + "A long story. " * 2_000)
    manifest.write_bytes(manifest_bytes(card.parent))
    record(team.root, None)
    git(team.root, "commit", "--quiet", "--message", "A card of 28,000 letters", "dvc.lock")

    said = run(team.root, "track", "--to", store).stdout

    assert said == "main: new\n"
    assert finished(store)["main"].data.tags["mlflow.note.content"].startswith("# late-flights")
