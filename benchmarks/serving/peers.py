"""An environment for MLflow and BentoML, made once beside the project's own and never part of it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.servers import BenchmarkError, Way

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCK = HERE / "peers.txt"
FOLDER = (Path(sys.prefix) if sys.prefix != sys.base_prefix else ROOT / ".venv") / "peers"
VERSIONS = ("mlflow", "bentoml", "scikit-learn", "feature-engine", "pandas")


def versions(names: tuple[str, ...] = VERSIONS) -> dict[str, str]:
    """What is locked for the peers."""
    pinned = dict(line.split(" ")[0].split("==") for line in LOCK.read_text().splitlines() if line[0] != " ")
    return {name: pinned[name] for name in names}


def make_environment() -> Path:
    """The folder of its programs; `BenchmarkError` where it cannot be made."""
    programs, stamp = FOLDER / "bin", FOLDER / "lock.sha256"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return programs
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise BenchmarkError("uv is not there, which fetches the peers; go on without them: --no-peers")
    shutil.rmtree(FOLDER, ignore_errors=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for command in (
        [uv, "venv", "--quiet", "--python", version, str(FOLDER)],
        [uv, "pip", "install", "--quiet", "--python", str(programs / "python"), "--require-hashes", "-r", str(LOCK)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())[:300]
            raise BenchmarkError(f"uv could not fetch the peers; go on without them: --no-peers ({said})")
    stamp.write_text(digest)
    return programs


def save_models(programs: Path, model: Path, signature: Path, folder: Path) -> list[Way]:
    """The fitted pipeline saved as each peer keeps it, and how each is started; `BenchmarkError` where one cannot."""
    env = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    kept = folder / "mlflow"
    done = subprocess.run(
        [str(programs / "python"), "-m", "benchmarks.serving.save_peers", str(model), str(signature), str(kept)],
        env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or "it ended without a word").splitlines()[-1]
        raise BenchmarkError(f"the peers could not save the fitted pipeline: {said}")
    mlflow = ("mlflow", "models", "serve", "-m", str(kept), "--env-manager", "local", "-w", "1", "-p", "{port}")
    bentoml = ("bentoml", "serve", "benchmarks.serving.bento:Service", "--host", "127.0.0.1", "--port", "{port}")
    return [
        Way("MLflow", (str(programs / mlflow[0]), *mlflow[1:]), "/invocations", "dataframe_records", env, "/ping"),
        Way("BentoML", (str(programs / bentoml[0]), *bentoml[1:]), env=env, ready="/readyz"),
    ]
