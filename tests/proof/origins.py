"""A project with a true record and no machine learning, for the tests of what is told of origins."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from mlops_pkg.bundle.manifest import FILES, LINEAGE, MANIFEST, manifest_bytes
from mlops_pkg.core.params import read_yaml
from mlops_pkg.project.files import params_of, paths_of
from mlops_pkg.project.lock import lookup, path_digest

PROJECT = Path(__file__).parents[2]
INPUTS = {  # as the stage package reads them
    "ingest": ("train.parquet", "validation.parquet", "test.parquet", "live.parquet", "rows.json", "data_card.md"),
    "features": ("features.skops",),
    "train": ("model.skops", "baseline.skops"),
    "evaluate": ("comparison.json", "predictions.parquet", "slices.csv"),
}
CORE = ["mlops_pkg/core/params.py", "mlops_pkg/core/stage.py"]


def outputs(stage: str) -> list[str]:
    """What a stage of the toy writes."""
    names = sorted(FILES) if stage == "package" else INPUTS[stage]
    return [f"artifacts/{stage}/{name}" for name in names]


def pipeline() -> dict[str, Any]:
    """The toy's dvc.yaml."""
    stages: dict[str, Any] = {
        "ingest": {"deps": [*CORE, "mlops_pkg/pipeline/ingest.py", "data"], "params": ["seed", "ingest"]},
        "features": {"deps": [*CORE, "mlops_pkg/pipeline/features.py"], "params": ["seed", "features"]},
        "train": {
            "deps": [*CORE, "mlops_pkg/pipeline/train.py", "artifacts/features/features.skops"],
            "params": ["seed", "train", {"environment.json": ["numpy", "ruamel.yaml"]}],
        },
        "evaluate": {"deps": [*CORE, "artifacts/train/model.skops"], "params": ["seed", "evaluate"]},
        "package": {"deps": ["mlops_pkg/core", "mlops_pkg/pipeline", "data", "requirements-pipeline.txt"]},
    }
    stages["features"]["deps"] += outputs("ingest")[:4]
    stages["package"]["deps"] += [path for stage in INPUTS for path in outputs(stage)]
    for name, stage in stages.items():
        stage |= {"cmd": f"python -m mlops_pkg.core.stage {name}", "outs": outputs(name)}
    notebook = ["nbs/pipeline/22_train.ipynb", "artifacts/features/features.skops"]
    stages["notebook-train"] = {
        "cmd": "python -m mlops_pkg research train",
        "deps": notebook,
        "outs": ["research/train"],
    }
    stages["sync"] = {"cmd": "sync", "deps": ["mlops_pkg", "nbs", "params.yaml"], "outs": ["reports/sync.json"]}
    stages["parity"] = {"cmd": "parity", "deps": ["artifacts", "research"], "outs": ["reports/parity.json"]}
    return stages


def record(root: Path) -> None:
    """Write dvc.lock as DVC would after a run: the digests and values that are there now."""
    locked = {}
    for name, stage in read_yaml(root / "dvc.yaml")["stages"].items():
        entries = {
            kind: [{"path": path, "hash": "md5", "md5": path_digest(root / path)} for path in paths_of(stage, kind)]
            for kind in ("deps", "outs")
        }
        read = {file: read_yaml(root / file) for file in params_of(stage)}
        values = {file: {key: lookup(read[file], key)[1] for key in keys} for file, keys in params_of(stage).items()}
        locked[name] = {"cmd": stage["cmd"], **entries, "params": values}
    text = yaml.safe_dump({"schema": "2.0", "stages": locked}, sort_keys=False)
    (root / "dvc.lock").write_text(text)


def rewrite(root: Path, stage: str, kind: str, path: str, md5: str = "0" * 32) -> None:
    """Let dvc.lock hold another digest of one thing in one stage."""
    lock = read_yaml(root / "dvc.lock")
    for entry in lock["stages"][stage][kind]:
        entry["md5"] = md5 if entry["path"] == path else entry["md5"]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def seal(root: Path) -> Path:
    """Pack the toy's bundle with the real writer of lineage.json."""
    from mlops_pkg.core.params import load_params
    from mlops_pkg.core.workspace import Workspace
    from mlops_pkg.modelling.bundling import make_lineage

    folder = root / "artifacts" / "package"
    said = make_lineage(Workspace(root), load_params(root / "params.yaml"), INPUTS)
    (folder / LINEAGE).write_text(json.dumps(said))
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))
    return folder


def lay_out_toy(root: Path) -> Path:
    """The toy with every file that its stages read or wrote, and a true record."""
    stages = pipeline()
    for path in (path for stage in stages.values() for path in stage["outs"] if "." in path):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"what {path} holds\n")
    for name in (
        "core/params",
        "core/stage",
        "pipeline/params",
        "pipeline/ingest",
        "pipeline/features",
        "pipeline/train",
    ):
        (root / "mlops_pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "mlops_pkg" / f"{name}.py", root / "mlops_pkg" / f"{name}.py")
    (root / "nbs" / "pipeline").mkdir(parents=True)
    shutil.copy(PROJECT / "nbs" / "pipeline" / "22_train.ipynb", root / "nbs" / "pipeline")
    for name in ("data", "research/train"):
        (root / name).mkdir(parents=True)
        (root / name / "rows.csv").write_text(f"{name}\n1\n2\n")
    for name in ("params.yaml", "settings.ini"):
        shutil.copy(PROJECT / name, root)
    (root / "requirements-pipeline.txt").write_text("numpy==2.4.0\n")
    (root / "environment.json").write_text(json.dumps({"numpy": "2.4.0", "ruamel.yaml": "0.19.1"}))
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": path_digest(root / "data"), "path": "data"}]}))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    seal(root)
    record(root)
    return root


def git(root: Path, *arguments: str) -> str:
    """What git said; it must end well."""
    who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *who, "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout


def commit(root: Path, subject: str) -> str:
    """Commit all that is there; the commit's hash."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", subject)
    return git(root, "rev-parse", "HEAD").strip()
