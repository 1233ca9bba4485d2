"""MLflow as a team has it: a real server, a real browser, and answers where this package is not installed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import mlflow
import numpy as np
import pandas as pd
import pytest
from selenium import webdriver

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.workspace import read_table
from mlops_pkg.registry.releases import promote, register
from tests.registry.conftest import Team, models, team
from tests.serving.conftest import start
from tests.slow.browser import chromium
from tests.slow.needs import lack
from tests.slow.servers import LOOPBACK, Server, free_port
from tests.tracking.conftest import as_experiment

__all__ = ["models", "team"]
pytestmark = pytest.mark.slow
NAME = "late-flights"
LOCK = Path(__file__).with_name("mlflow.txt")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that has MLflow, Spark and onnxruntime, and not this package."""
    if not shutil.which("java"):
        lack("Java is not installed, and Spark needs it; `apt-get install default-jre-headless` brings it")
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    for command in (
        ["venv", folder],
        ["pip", "install", "--python", folder / "bin/python", "--require-hashes", "-r", LOCK],
    ):
        subprocess.run(["uv", *map(str, command), "--quiet"], check=True)
    return folder / "bin"


@pytest.fixture
def server(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an MLflow server with an empty database."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # nine processes that nothing here asks
    monkeypatch.setenv("PATH", f"{elsewhere}:/usr/bin:/bin")
    port, store = free_port(), f"sqlite:///{tmp_path / 'mlflow.db'}"
    files = ["--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "artifacts")]
    command = [str(elsewhere / "mlflow"), "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1", *files]
    started = Server(command, port, tmp_path / "mlflow.log")
    yield f"http://{LOOPBACK}:{port}"
    started.kill()
    mlflow.set_tracking_uri(None)


def track(root: Path, server: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mlops_pkg", "track", "--to", server]
    return subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


_ANSWERS = """
import importlib.util, json, sys
import mlflow, numpy, pandas
assert importlib.util.find_spec("mlops_pkg") is None
rows, uri, answers = pandas.read_parquet(sys.argv[1]), sys.argv[2], {}
model = mlflow.pyfunc.load_model(uri)
answers["load_model"] = model.predict(rows)["probability"]
assert "sklearn" not in sys.modules

from pyspark.sql import SparkSession
from pyspark.sql.functions import struct
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
spark.conf.set("spark.sql.session.timeZone", "UTC")
table = spark.createDataFrame(rows.reset_index(names="place"))
answer = mlflow.pyfunc.spark_udf(spark, uri, "prediction bigint, probability double, error string", env_manager="local")
asked = table.withColumn("answer", answer(struct(*[f"`{name}`" for name in rows.columns])))
found = asked.select("place", "answer.probability", "answer.error").toPandas().sort_values("place")
assert found["error"].isna().all()
answers["spark_udf"] = found["probability"]
numpy.savez(sys.argv[3], **{name: values.to_numpy(float) for name, values in answers.items()})
"""


def test_it_is_seen_in_the_browser_and_answers_as_the_bundle_everywhere(
    team: Team, elsewhere: Path, server: str, tmp_path: Path
) -> None:
    team.build("first")
    register(team.root)
    promote(team.root, NAME, "v1.0.0", "prod")
    as_experiment(team, "more-trees", "better")
    built = team.models["first"]
    predictor = Predictor.load(built / "artifacts" / "package")
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet")
    rows = rows[[field.name for field in predictor.signature.fields]].reset_index(drop=True)
    expected = predictor.predict(rows).answer

    said, _ = track(team.root, server).communicate()

    assert said.splitlines()[-1] == f"{NAME}@v1.0.0: version 1 of the model {NAME}"
    look(server, tmp_path)
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "answers.py").write_text(_ANSWERS)
    environment = {"MLFLOW_TRACKING_URI": server, "PATH": f"{elsewhere}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {"PYSPARK_PYTHON": str(elsewhere / "python"), "TZ": "America/New_York"}
    command = [elsewhere / "python", "answers.py", "rows.parquet", f"models:/{NAME}@prod", "answers.npz"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "answers.npz") as found:
        assert sorted(found) == ["load_model", "spark_udf"]
        for name, answers in found.items():
            assert np.array_equal(answers, expected), name
    serve = [elsewhere / "mlflow", "models", "serve", "-m", f"models:/{NAME}@prod", "--env-manager", "local"]
    port = free_port()
    served = Server([str(word) for word in serve] + ["-p", str(port)], port, tmp_path / "serve.log", environment)
    try:
        answers = ask(f"http://{LOOPBACK}:{port}", rows)
    finally:
        served.kill()
    assert [answer["probability"] for answer in answers] == expected.tolist()
    with start(built / "artifacts" / "package") as ours:
        assert ask(ours.url, rows.head(1000)) == answers[:1000], "the endpoint answers MLflow's clients otherwise"


def ask(url: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What a server answers to a client of MLflow."""
    body = (
        f'{{"dataframe_split": {rows.to_json(orient="split", date_format="iso", date_unit="us", double_precision=15)}}}'
    )
    request = Request(f"{url}/invocations", body.encode(), {"content-type": "application/json"})
    with urlopen(request) as response:
        answers: list[dict[str, Any]] = json.load(response)["predictions"]
    return answers


def look(server: str, folder: Path) -> None:
    """Find the run, its plots and the registered model in MLflow's own pages."""
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    page = f"{server}/#/experiments/{experiment.experiment_id}/runs/{runs[0].info.run_id}"
    with chromium(folder, 1500, 1300) as browser:
        for address, words in (
            (page, ("test/roc_auc", "train.options.max_iter", "Finished", "Intended use")),
            (f"{page}/artifacts/plots/roc_curve.svg", ("plots", "roc_curve.svg", "card.md")),
            (f"{server}/#/models/{NAME}", ("Version 1", "prod")),
        ):
            browser.get(address)
            see(browser, words)
            browser.save_screenshot(str(folder / f"page-{words[0]}.png"))


def see(browser: webdriver.Chrome, words: tuple[str, ...]) -> None:
    """Wait until a page shows some words, and if it is that of a plot, its picture."""
    wait_for(lambda: [word for word in words if word not in browser.page_source], browser.current_url)
    if "plots" in words:
        heights = "return Math.max(0, ...[...document.images].map(one => one.naturalHeight))"
        wait_for(lambda: browser.execute_script(heights) < 300, "the picture")


def wait_for(lacking: Callable[[], object], what: str) -> None:
    """Wait until a call returns nothing that is lacking."""
    end = time.monotonic() + 60
    while left := lacking():
        assert time.monotonic() < end, f"{what}: {left}"
        time.sleep(0.2)


@pytest.mark.parametrize("moment", [0.0, 1.5])
def test_a_mirror_that_is_killed_is_completed_without_duplicates(team: Team, server: str, moment: float) -> None:
    team.build("first")
    register(team.root)
    for name, model in (("more-trees", "better"), ("one-tree", "worse")):
        as_experiment(team, name, model)
    client = mlflow.MlflowClient(server)
    running = track(team.root, server)
    wait_for(lambda: not client.get_experiment_by_name(NAME), "an experiment")
    time.sleep(moment)
    running.send_signal(signal.SIGKILL)
    running.communicate()

    said, told = track(team.root, server).communicate()
    again, _ = track(team.root, server).communicate()

    assert told == ""
    outcomes = [line.split(": ")[1] for line in said.splitlines()]
    assert len(outcomes) == 4
    assert set(outcomes[:3]) <= {"new", "completed", "kept"}
    assert [line.split(": ")[1] for line in again.splitlines()[:3]] == ["kept"] * 3
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == NAME]
    runs = client.search_runs([experiment])
    assert sorted(str(run.info.run_name) for run in runs) == [f"{NAME}@v1.0.0", "more-trees", "one-tree"]
    found = client.search_logged_models([experiment])
    assert sorted(str(model.source_run_id) for model in found) == sorted(run.info.run_id for run in runs)
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "iterations/loss")
        assert len({point.step for point in history}) == len(history)
        assert len(client.get_metric_history(run.info.run_id, "test/roc_auc")) == 1
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
