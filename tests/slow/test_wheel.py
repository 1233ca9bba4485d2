"""The wheel in clean environments: the edge install, and the extras `pipeline` and `serve`, on real rows."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
import yaml

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.core.data import md5
from mlops_pkg.core.environment import pinned_lines
from mlops_pkg.core.params import load_params
from mlops_pkg.core.workspace import read_table
from mlops_pkg.proof import runtimes
from mlops_pkg.proof.runtimes import closure, write_rows
from tests.conftest import IDENTITY, ROOT, TESTS

pytestmark = pytest.mark.slow

TESTED = (
    "core",
    "bundle",
    "portable",
    "modelling",
    "flights",
    "scoring",
)
# What an extra lacks shows in any one case of a test; all cases run elsewhere.
ONCE = """
def pytest_collection_modifyitems(items):
    first = {}
    for item in items:
        first.setdefault((item.path, getattr(item, "originalname", item.name)), item)
    items[:] = first.values()
"""


def run(*command: str, cwd: Path) -> str:
    """What the command printed; it must end well."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mlops_pkg", source / "mlops_pkg", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--out-dir", str(folder), cwd=source)
    return next(folder.glob("*.whl"))


def environment(folder: Path, wheel: Path, lock: str, *more: str) -> Path:
    """The python of a new environment that holds the wheel, one lock file, and nothing else."""
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "venv", "--quiet", "--python", sys.executable, str(folder), cwd=ROOT)
    python = str(folder / "bin" / "python")
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    run(*install, "--require-hashes", "--requirement", str(ROOT / lock), cwd=ROOT)
    run(*install, "--no-deps", str(wheel), *more, cwd=ROOT)
    return Path(python)


def pinned(*names: str) -> list[str]:
    """The locked versions of packages."""
    lock = (ROOT / "requirements.txt").read_text()
    return [re.search(rf"^{name}==[^ ;]+", lock, re.MULTILINE)[0] for name in names]


def test_the_exported_package_passes_its_tests_with_the_extra_pipeline_alone(wheel: Path, tmp_path: Path) -> None:
    pytest_alone = pinned(
        "pytest", "iniconfig", "packaging", "pluggy", "pygments", "xlsxwriter", "hypothesis", "sortedcontainers"
    )
    python = environment(tmp_path / "venv", wheel, "requirements-pipeline.txt", *pytest_alone)
    project = tmp_path / "project"
    project.mkdir()
    for name in (
        "params.yaml",
        "dvc.yaml",
        "settings.ini",
        "pyproject.toml",
        "requirements.txt",
        "requirements-pipeline.txt",
        "requirements-serve.txt",
        "environment.json",
    ):
        shutil.copy(ROOT / name, project)
    (project / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "estimators.md", project / "docs")
    (project / "mlops_pkg" / "pipeline").mkdir(parents=True)
    shutil.copy(ROOT / "mlops_pkg" / "pipeline" / "params.py", project / "mlops_pkg" / "pipeline")
    (project / "tests").mkdir()
    for name in ("conftest.py", "sample.zip", "toy.py", "names.py", "forms.py"):
        shutil.copy(TESTS / name, project / "tests")
    for name in TESTED:
        shutil.copytree(TESTS / name, project / "tests" / name)

    (project / "once.py").write_text(ONCE)
    printed = run(str(python), "-m", "pytest", "-q", "-p", "once", "-p", "no:cacheprovider", "tests", cwd=project)

    assert int(re.search(r"(\d+) passed", printed)[1]) > 500
    assert " failed" not in printed
    assert run(str(python), "-c", "import mlops_pkg; print(mlops_pkg.__file__)", cwd=tmp_path).startswith(str(tmp_path))


ANSWER = """
import socket, sys
import numpy as np

def refused(*_):
    raise SystemExit("the predictor opened a socket")

socket.socket = refused
from mlops_pkg.bundle.predictor import Predictor
names, *columns = np.load(sys.argv[2], allow_pickle=False).values()
answers = Predictor.load(sys.argv[1]).predict(dict(zip(names.tolist(), columns, strict=True)))
expected = np.load(sys.argv[3])
loaded = {name.partition(".")[0] for name in sys.modules} & {"click", "pandas", "sklearn", "pyarrow", "pickle", "yaml"}
print(len(answers.answer), len(answers.rejects), int((answers.answer != expected).sum()), sorted(loaded - {"pickle"}))
"""


def test_numpy_and_onnxruntime_alone_answer_the_test_months_exactly(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "requirements-edge.txt")
    run(sys.executable, "-m", "uv", "pip", "uninstall", "--quiet", "--python", str(python), "click", cwd=tmp_path)
    rows = read_table(ROOT / "artifacts" / "ingest" / "test.parquet")
    stored = read_table(ROOT / "artifacts" / "evaluate" / "predictions.parquet")
    write_rows(tmp_path / "rows.npz", rows, load_params(ROOT / "params.yaml").data.kinds)
    np.save(tmp_path / "expected.npy", stored.loc[stored["split"] == "test", "model"].to_numpy())
    given = [str(ROOT / "artifacts" / "package"), str(tmp_path / "rows.npz"), str(tmp_path / "expected.npy")]

    listing = [sys.executable, "-m", "uv", "pip", "list", "--python", str(python), "--format", "json"]
    installed = run(*listing, cwd=tmp_path)
    answered = run(str(python), "-c", ANSWER, *given, cwd=tmp_path)

    assert {one["name"].lower() for one in json.loads(installed)} == closure(["numpy", "onnxruntime"]) | {"mlops-pkg"}
    assert answered.strip() == f"{len(rows)} 0 0 []", "rows, rejects, differing answers, what else was loaded"


def test_the_bare_wheel_scores_a_file(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "requirements-edge.txt")
    rows = read_table(ROOT / "artifacts" / "ingest" / "live.parquet").head(500)
    rows.to_csv(tmp_path / "in.csv", index=False)
    bundle = ["--bundle", str(ROOT / "artifacts" / "package")]

    run(str(python), "-m", "mlops_pkg", "predict", *bundle, "in.csv", "out.csv", cwd=tmp_path)

    stored = read_table(ROOT / "artifacts" / "evaluate" / "predictions.parquet")
    expected = stored.loc[stored["split"] == "live", "model"].head(500)
    scored = pd.read_csv(tmp_path / "out.csv")
    assert np.array_equal(scored["probability"], expected), "another answer than evaluate measured"


WATCHED = """
import builtins, os, sys
asked, names = builtins.__import__, os.path.join(os.path.dirname(__file__), "names")

def note(name, globals=None, *more, **named):
    with open(names, "a") as file:
        file.write(f"{(globals or {}).get('__name__', '')} {name}\\n")
    return asked(name, globals, *more, **named)

builtins.__import__ = note
"""


def ready_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port on which the server is ready."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        if port := re.search(r"^http://127\.0\.0\.1:(\d+) ", log.read_text(), re.MULTILINE):
            try:
                with urlopen(f"http://127.0.0.1:{port[1]}/ready") as reply:
                    assert reply.status == 200
                    return int(port[1])
            except OSError:
                pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_the_extra_serve_alone_serves_and_loads_no_machine_learning(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "requirements-serve.txt")
    rows = read_table(ROOT / "artifacts" / "ingest" / "test.parquet")
    stored = read_table(ROOT / "artifacts" / "evaluate" / "predictions.parquet")
    expected = stored.loc[stored["split"] == "test", "model"].to_numpy()
    inputs = load_params(ROOT / "params.yaml").data.kinds
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCHED)
    command = [str(python), "-m", "mlops_pkg", "serve", "--port", "0", "--bundle", str(ROOT / "artifacts" / "package")]
    alone = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "watch")}
    log = tmp_path / "log"

    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=tmp_path, env=alone, stdout=file, stderr=file)
    try:
        port = ready_port(process, log)
        records = runtimes.json_records(rows.head(1_000), inputs)
        body = json.dumps({"records": records}).encode()
        by_json = runtimes.json_answers(runtimes.post(port, runtimes.JSON, [body]))
        by_arrow = runtimes.arrow_answers(
            runtimes.post(port, runtimes.ARROW, [runtimes.arrow_stream(rows.head(50_000), inputs)])
        )
        with urlopen(f"http://127.0.0.1:{port}/openapi.json") as reply:
            assert json.load(reply)["openapi"]
        for path in ("", "page.css", "page.js", "docs", "docs/start.js"):
            with urlopen(f"http://127.0.0.1:{port}/{path}") as reply:
                assert reply.read()
    finally:
        process.terminate()
        process.wait(30)

    assert np.array_equal(by_json, expected[:1_000]), "another answer than evaluate measured"
    assert np.array_equal(by_arrow, expected[:50_000]), "another answer than evaluate measured"
    imports = [line.split(" ") for line in (tmp_path / "watch" / "names").read_text().splitlines()]
    ours = [(who, name) for who, name in imports if who.startswith("mlops_pkg")]
    loads = {"sklearn", "feature_engine", "skops", "onnx", "yaml", "scipy", "joblib"}
    assert {"starlette", "uvicorn", "pyarrow"} <= {name.partition(".")[0] for _, name in ours}
    assert {name.partition(".")[0] for _, name in imports} & loads == set()
    assert [pair for pair in ours if pair[1].partition(".")[0] in ("pickle", "marshal", "shelve")] == []
    assert run(str(python), "-c", "import importlib.util as u; print(u.find_spec('pandas'))", cwd=tmp_path) == "None\n"


def test_the_extra_registry_alone_fetches_a_bundle_from_git_and_the_remote(wheel: Path, tmp_path: Path) -> None:
    lock = tmp_path / "registry.txt"
    lock.write_text(
        pinned_lines(closure(["dvc", "pydantic", "pyyaml", "numpy", "onnxruntime"]), ROOT / "requirements.txt")
    )
    python = environment(tmp_path / "venv", wheel, str(lock))
    package, storage, hub = ROOT / "artifacts" / "package", tmp_path / "storage", tmp_path / "hub"
    outs = [{"path": f"artifacts/package/{path.name}", "md5": md5(path)} for path in package.iterdir()]
    for out in outs:
        place = storage / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / out["path"], place)
    (hub / ".dvc").mkdir(parents=True)
    (hub / ".dvc" / "config").write_text(f"[core]\n    remote = a\n['remote \"a\"']\n    url = {storage}\n")
    recorded = [out for out in outs if not out["path"].endswith(".gitignore")]
    (hub / "dvc.lock").write_text(yaml.safe_dump({"stages": {"package": {"cmd": "make", "outs": recorded}}}))
    run("git", "init", "--quiet", cwd=hub)
    run("git", "add", ".", cwd=hub)
    run("git", *IDENTITY, "commit", "--quiet", "--message", "A model", cwd=hub)
    facts = json.dumps({"bundle": verify(package)})
    run("git", *IDENTITY, "tag", "--annotate", "--message", f"Register\n\n{facts}", "late-flights@v1.0.0", cwd=hub)
    read_table(ROOT / "artifacts" / "ingest" / "live.parquet").head(500).to_csv(tmp_path / "in.csv", index=False)

    environ = {**os.environ, "MLOPS_PKG_REGISTRY": f"file://{hub}", "MLOPS_PKG_CACHE": str(tmp_path / "bundles")}
    ours = [str(python), "-m", "mlops_pkg", "predict", "--bundle", "late-flights@v1.0.0", "in.csv", "out.csv"]
    done = subprocess.run(ours, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    stored = read_table(ROOT / "artifacts" / "evaluate" / "predictions.parquet")
    expected = stored.loc[stored["split"] == "live", "model"].head(500)
    assert np.array_equal(pd.read_csv(tmp_path / "out.csv")["probability"], expected)
    assert run(str(python), "-c", "import importlib.util as u; print(u.find_spec('pandas'))", cwd=tmp_path) == "None\n"


def test_the_bare_wheel_reads_a_bundle_and_knows_its_commands(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "requirements-edge.txt")
    code = (
        "import sys, mlops_pkg.bundle.manifest, mlops_pkg.bundle.signature;"
        "heavy = {'pandas', 'sklearn', 'pydantic', 'yaml', 'pyarrow'} & sys.modules.keys(); print(sorted(heavy))"
    )

    assert run(str(python), "-c", code, cwd=tmp_path).strip() == "[]"
    assert "notebook to production" in run(str(python), "-m", "mlops_pkg", "--help", cwd=tmp_path)
