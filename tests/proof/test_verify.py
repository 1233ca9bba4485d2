"""verify: a clone without data is green when it is whole, recorded and pushed, and red for each way it is not."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("nbdev")

from mlops_pkg.core.workspace import Workspace
from mlops_pkg.history.verify import check_lock, check_remote, check_verify, verify
from mlops_pkg.proof.sync import fresh_export
from mlops_pkg.report.terminal import waiting
from tests.conftest import IDENTITY, ROOT, STAGES
from tests.proof.conftest import replace


def run(root: Path, *command: str) -> str:
    """What the command printed; it must end well."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def dvc(root: Path, *arguments: str) -> str:
    return run(root, sys.executable, "-m", "dvc", *arguments)


def with_outputs(pipeline: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The toy's stages, each with a command that any shell can run, inputs, values, libraries and outputs."""
    before = ["data", *(f"artifacts/{stage}/rates.json" for stage in STAGES)]
    for stage, source in zip(STAGES, before, strict=False):
        run_, walk = pipeline[stage], pipeline[f"notebook-{stage}"]
        libraries = {"environment.json": ["numpy", "scikit-learn"] if stage == "train" else ["numpy"]}
        for one in (run_, walk):
            one["params"], one["deps"] = ["seed", stage, libraries], [*one["deps"], source]
        run_["cmd"] = f"mkdir -p artifacts/{stage} && echo {stage} | cat - params.yaml > artifacts/{stage}/rates.json"
        walk["cmd"] = (
            f"mkdir -p research/{stage} && echo walk {stage} | cat - params.yaml > research/{stage}/values.yaml"
        )
        walk["outs"] = [f"research/{stage}"]
    pipeline["evaluate"]["cmd"] += " && echo 1 > artifacts/evaluate/metrics.json"
    pipeline["evaluate"]["metrics"] = [{"artifacts/evaluate/metrics.json": {"cache": False}}]
    report = {"cmd": "mkdir -p reports && wc README.md > reports/page.txt", "deps": ["README.md"]}
    pipeline["report-page"] = {**report, "outs": [{"reports/page.txt": {"cache": False}}]}
    return pipeline


@pytest.fixture(scope="session")
def published(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project whose stages are run by DVC, committed and pushed, and with the remote."""
    home = tmp_path_factory.mktemp("published")
    root = Path(shutil.copytree(template, home / "project"))
    pipeline = with_outputs(json.loads((root / "dvc.yaml").read_text())["stages"])
    (root / "dvc.yaml").write_text(json.dumps({"stages": pipeline}, indent=1))
    (root / "data").mkdir()
    for name in ("flights", "weather"):
        (root / "data" / f"{name}.csv").write_text(f"{name}\n1\n")
    (root / ".gitignore").write_text("/reports/\n__pycache__\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    remote = "remote = storage\n['remote \"storage\"']\n    url = ../../remote\n"
    (root / ".dvc" / "config").write_text(f"[core]\n    analytics = false\n    {remote}")
    run(root, "git", "init", "--quiet", "--initial-branch", "main")
    dvc(root, "add", "--quiet", "data")
    dvc(root, "repro", "--quiet")
    dvc(root, "push", "--quiet")
    run(root, "git", "add", ".")
    run(root, "git", *IDENTITY, "commit", "--quiet", "--message", "A project that is shared")
    return home


@pytest.fixture
def clone(published: Path, tmp_path: Path) -> Path:
    """A clone without data, and a copy of the remote beside it."""
    shutil.copytree(published / "remote", tmp_path / "remote")
    run(tmp_path, "git", "clone", "--quiet", str(published / "project"), "clone")
    return tmp_path / "clone"


def red(root: Path) -> dict[str, tuple[str, ...]]:
    """The findings of each check that is red."""
    return {check.name: check.findings for check in check_verify(root) if not check.ok}


def stored(root: Path, path: str) -> Path:
    """The object of an output, or of a file of an output that is a folder, in the remote beside the project."""
    objects = root.parent / "remote" / "files" / "md5"
    locked = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    outs = {out["path"]: out["md5"] for stage in locked for out in stage.get("outs", [])}
    outs["data"] = yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"]
    if path not in outs:
        folder, _, name = path.rpartition("/")
        outs[path] = next(
            entry["md5"] for entry in json.loads(stored(root, folder).read_text()) if entry["relpath"] == name
        )
    return objects / outs[path][:2] / outs[path][2:]


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    found = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    kept = [path for path, parts in found.items() if parts[0] != ".git" and parts[:2] != (".dvc", "tmp")]
    return {path: (path.stat().st_mode, path.read_bytes()) for path in kept}


def test_a_pushed_project_is_green_and_neither_clone_nor_remote_is_changed(clone: Path) -> None:
    before = files(clone), files(clone.parent / "remote")

    assert red(clone) == {}

    assert (files(clone), files(clone.parent / "remote")) == before
    assert not (clone / "data").exists()


def test_the_record_of_this_project_holds() -> None:
    assert check_lock(ROOT).findings == ()


def test_the_table_names_each_finding_and_the_report_is_written(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(Workspace(clone))
    assert "verify: green: " in capsys.readouterr().out
    stored(clone, "artifacts/train/rates.json").unlink()

    assert not verify(Workspace(clone))

    printed, written = capsys.readouterr().out, json.loads((clone / "reports" / "verify.json").read_text())
    assert "verify: red: 1 finding\n" in printed
    assert [check["check"] for check in written["checks"]] == [
        "package",
        "params",
        "dependencies",
        "environment",
        "lock",
        "remote",
    ]
    assert not written["ok"]
    [finding] = written["checks"][-1]["findings"]
    assert finding in printed


@pytest.mark.slow
def test_a_run_that_nobody_pushed_is_red_with_its_output_until_it_is_pushed(clone: Path) -> None:
    dvc(clone, "pull", "--quiet")
    replace(clone / "params.yaml", "learning_rate: ", "learning_rate: 0.")
    dvc(clone, "repro", "--quiet", "train")
    run(clone, "git", *IDENTITY, "commit", "--quiet", "--all", "--message", "Another rate")

    lacking = check_remote(clone).findings
    dvc(clone, "push", "--quiet")

    assert lacking == ("artifacts/train/rates.json is not in the remote storage; run `dvc push`",)
    assert check_remote(clone).ok


@pytest.mark.parametrize("path", ["artifacts/package/rates.json", "data/weather.csv", "data", "research/train"])
def test_a_lost_object_is_named_also_the_list_of_a_folder_and_what_is_in_it(clone: Path, path: str) -> None:
    stored(clone, path).unlink()

    assert f"{path} is not in the remote storage; run `dvc push`" in check_remote(clone).findings


def test_an_object_that_was_cut_off_is_red_with_both_sizes_and_nothing_is_deleted(clone: Path) -> None:
    cut = stored(clone, "artifacts/train/rates.json")
    size, damaged = cut.stat().st_size, stored(clone, "data/flights.csv")
    for path, content in ((cut, b"{}"), (damaged, b"short")):
        path.chmod(0o644)
        path.write_bytes(content)

    data, rates = check_remote(clone).findings

    name = f"{cut.parent.name}/{cut.name}"
    recorded = f"2 bytes in the remote storage, {size:,} are recorded; delete its object {name} there"
    assert rates == f"artifacts/train/rates.json has {recorded}, then run `dvc push`"
    assert data.startswith("data has 15 bytes in the remote storage, 20 are recorded; delete its objects there"), data
    assert cut.read_bytes() == b"{}"
    assert damaged.exists()


@pytest.mark.parametrize("path", ["artifacts/train/rates.json", "data/flights.csv"])
def test_an_object_that_a_killed_push_may_leave_empty_is_named(clone: Path, path: str) -> None:
    empty = stored(clone, path)
    empty.chmod(0o644)
    empty.write_bytes(b"")

    [finding] = check_remote(clone).findings

    again = f"delete its object {empty.parent.name}/{empty.name} there, then run `dvc push`"
    assert finding == f"{path} is empty in the remote storage, as a killed push leaves it; {again}"


@pytest.mark.parametrize("content", ["[{", "{}", "[1]", '[{"relpath": "weather.csv"}]', "[]"])
def test_a_damaged_list_of_a_folder_is_red_with_its_object(clone: Path, content: str) -> None:
    listed = stored(clone, "data")
    listed.chmod(0o644)
    listed.write_text(content)

    [finding] = check_remote(clone).findings

    assert finding.startswith("the list of data is "), finding
    assert finding.endswith(f"delete its object {listed.parent.name}/{listed.name} there, then run `dvc push`")


@pytest.mark.slow
def test_a_remote_behind_a_server_is_asked_too(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3, server_of = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket="bucket")
        dvc(clone, "pull", "--quiet")
        storage = f"['remote \"storage\"']\n    url = s3://bucket/store\n    endpointurl = {address}\n"
        (clone / ".dvc" / "config.local").write_text(storage)
        dvc(clone, "push", "--quiet")
        whole = check_remote(clone)
        lost, cut = stored(clone, "data/weather.csv"), stored(clone, "artifacts/train/rates.json")
        bucket.Object(f"store/files/md5/{lost.parent.name}/{lost.name}").delete()
        bucket.Object(f"store/files/md5/{cut.parent.name}/{cut.name}").put(Body=b"x")
        broken = check_remote(clone)
    finally:
        server.stop()

    assert whole.ok, whole.findings
    lack, short = broken.findings
    assert lack == "data/weather.csv is not in the remote storage; run `dvc push`"
    assert short.startswith("artifacts/train/rates.json has 1 bytes in the remote storage, "), short


def test_a_remote_that_is_gone_is_one_line(clone: Path) -> None:
    shutil.rmtree(clone.parent / "remote")

    found = red(clone)

    words = "the remote storage holds nothing of what is recorded; is it the right one? If so, run `dvc push`"
    assert found == {"remote": (words,)}


def test_a_remote_that_does_not_answer_is_one_line(clone: Path) -> None:
    pytest.importorskip("dvc_webdav")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"webdav://127.0.0.1:{free.getsockname()[1]}/store"
    (clone / ".dvc" / "config.local").write_text(f"['remote \"storage\"']\n    url = {address}\n")

    [finding] = check_remote(clone).findings

    assert finding.startswith("the remote storage cannot be asked: "), finding
    assert "\n" not in finding


def test_a_project_without_a_remote_says_how_to_add_one(clone: Path) -> None:
    (clone / ".dvc" / "config").write_text("")

    words = "no remote is set up; add one with `dvc remote add --default NAME URL`, then run `dvc push`"
    assert check_remote(clone).findings == (words,)


def test_a_folder_that_is_no_dvc_project_is_one_line(clone: Path) -> None:
    shutil.rmtree(clone / ".dvc")

    [finding] = check_remote(clone).findings

    assert finding.startswith("DVC cannot be asked: you are not inside of a DVC repository"), finding


def test_an_output_that_is_never_pushed_is_not_asked_for(clone: Path) -> None:
    pipeline = json.loads((clone / "dvc.yaml").read_text())
    pipeline["stages"]["train"]["outs"] = [{"artifacts/train/rates.json": {"push": False}}]
    (clone / "dvc.yaml").write_text(json.dumps(pipeline))
    stored(clone, "artifacts/train/rates.json").unlink()

    assert check_remote(clone).ok


def test_a_module_that_was_edited_and_exported_but_not_run_is_red(clone: Path, tmp_path: Path) -> None:
    replace(clone / "nbs" / "pipeline" / "22_train.ipynb", "import json", "import json, os")
    fresh_export(clone, tmp_path / "fresh")
    shutil.copytree(tmp_path / "fresh" / "mlops_pkg", clone / "mlops_pkg", dirs_exist_ok=True)

    found = red(clone)

    assert found == {
        "lock": (
            "train: mlops_pkg/pipeline/train.py has changed since it ran; run `dvc repro`",
            "notebook-train: nbs/pipeline/22_train.ipynb has changed since it ran; run `dvc repro`",
        )
    }


def test_a_module_that_was_edited_by_hand_is_red_with_its_line(clone: Path) -> None:
    replace(clone / "mlops_pkg" / "core" / "rates.py", "RATE = 0.1", "RATE = 0.2")

    found = red(clone)

    assert found.keys() == {"package", "lock"}
    assert "mlops_pkg/core/rates.py: line 7 is `RATE = 0.2`, a fresh export gives `RATE = 0.1`" in found["package"][0]
    words = "ingest, features, train and 7 more: mlops_pkg/core/rates.py has changed since they ran; run `dvc repro`"
    assert found["lock"] == (words,)


def test_an_edited_value_is_told_once_with_both_values(clone: Path) -> None:
    params = yaml.safe_load((clone / "params.yaml").read_text())
    rate = params["train"]["options"]["learning_rate"]
    replace(clone / "params.yaml", f"learning_rate: {rate}", "learning_rate: 0.75")
    replace(clone / "params.yaml", f"seed: {params['seed']}", "seed: 5")

    found = red(clone)

    assert found == {
        "lock": (
            f"ingest, features, train and 7 more: seed was {params['seed']} when they ran, "
            "params.yaml says 5; run `dvc repro`",
            f"train, notebook-train: train.options.learning_rate was {rate} when they ran, "
            "params.yaml says 0.75; run `dvc repro`",
        )
    }


def test_a_value_in_a_list_a_lost_and_a_new_one_are_told_by_their_place(clone: Path) -> None:
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    features = lock["stages"]["features"]["params"]["params.yaml"]["features"]
    features["steps"][1]["use"] = "Former"
    features["gone"] = "x" * 100
    del features["steps"][0]["use"]
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock))
    now = yaml.safe_load((clone / "params.yaml").read_text())["features"]["steps"]

    third, first, second = check_lock(clone).findings

    new, other = f"params.yaml says {now[0]['use']}", f"params.yaml says {now[1]['use']}"
    assert first == f"features: features.steps[0].use was not there when it ran, {new}; run `dvc repro`"
    assert second == f"features: features.steps[1].use was Former when it ran, {other}; run `dvc repro`"
    assert (
        third == f"features: features.gone was {'x' * 57}... when it ran, params.yaml has it no more; run `dvc repro`"
    )


def test_a_new_version_of_a_library_is_told_with_the_stages_that_use_it(clone: Path) -> None:
    version = json.loads((clone / "environment.json").read_text())["scikit-learn"]
    replace(clone / "environment.json", f'"scikit-learn": "{version}"', '"scikit-learn": "1.9.99"')
    replace(clone / "requirements-pipeline.txt", f"scikit-learn=={version}", "scikit-learn==1.9.99")

    found = red(clone)

    said = f"scikit-learn was {version} when they ran, environment.json says 1.9.99"
    assert found == {
        "environment": (f"scikit-learn {version} is installed, 1.9.99 is locked; run `make -B setup`",),
        "lock": (f"train, notebook-train: {said}; run `dvc repro`",),
    }


@pytest.mark.parametrize("share", [0.0, 0.2, 0.3, 0.5, 0.8])
def test_a_torn_record_is_a_finding_and_no_traceback(clone: Path, share: float) -> None:
    lock = clone / "dvc.lock"
    content = lock.read_bytes()
    lock.write_bytes(content[: int(share * len(content))])

    found = check_lock(clone)

    assert not found.ok
    assert all(text.endswith("`dvc repro`") for text in found.findings), found.findings
    assert all("\n" not in text for text in (*found.findings, *check_remote(clone).findings))


def test_a_record_that_is_torn_within_its_values_is_a_finding(clone: Path) -> None:
    lock = clone / "dvc.lock"
    before, found, _ = lock.read_text().partition("params.yaml:\n")
    lock.write_text(f"{before}{found}        torn")

    assert found
    assert not check_lock(clone).ok


def test_a_record_that_is_missing_says_how_it_comes_back(clone: Path) -> None:
    (clone / "dvc.lock").unlink()

    assert check_lock(clone).findings[0].endswith("make it with `dvc repro`, or get it with `git checkout dvc.lock`")


def drop_from_lock(lock: dict[str, Any], _: dict[str, Any]) -> None:
    del lock["train"]


def drop_from_pipeline(_: dict[str, Any], pipeline: dict[str, Any]) -> None:
    del pipeline["notebook-train"]


def change_command(_: dict[str, Any], pipeline: dict[str, Any]) -> None:
    pipeline["train"]["cmd"] = "true"


def rerun_upstream(lock: dict[str, Any], _: dict[str, Any]) -> None:
    lock["features"]["outs"][0]["md5"] = "0" * 32


def declare_more(_: dict[str, Any], pipeline: dict[str, Any]) -> None:
    pipeline["train"]["deps"].append("README.md")
    pipeline["train"]["params"].append("task")
    pipeline["train"]["outs"].append("artifacts/train/more.json")


def declare_less(_: dict[str, Any], pipeline: dict[str, Any]) -> None:
    pipeline["train"]["deps"].remove("mlops_pkg/core/rates.py")
    pipeline["train"]["params"].remove("seed")
    pipeline["evaluate"]["metrics"] = []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (drop_from_lock, ["train: dvc.lock does not record it; run `dvc repro`"]),
        (
            drop_from_pipeline,
            ["notebook-train: dvc.lock records it, dvc.yaml has no such stage; remove it from dvc.lock"],
        ),
        (
            change_command,
            ["train: its cmd was `mkdir -p artifacts/train && echo ", "when it ran, dvc.yaml says `true`"],
        ),
        (
            rerun_upstream,
            ["train, notebook-train: artifacts/features/rates.json was ", "features records 000000000000"],
        ),
        (
            declare_more,
            [
                "train: README.md is declared, but no digest of it is recorded; run `dvc repro`",
                "train: task of params.yaml is declared, but not recorded; run `dvc repro`",
                "train: artifacts/train/more.json is declared, but no digest of it is recorded; run `dvc repro`",
            ],
        ),
        (
            declare_less,
            [
                "train: mlops_pkg/core/rates.py is recorded, but no longer declared; run `dvc repro`",
                "train: seed of params.yaml is recorded, but no longer declared; run `dvc repro`",
                "evaluate: artifacts/evaluate/metrics.json is recorded, but no longer declared; run `dvc repro`",
            ],
        ),
    ],
)
def test_what_is_declared_and_what_is_recorded_must_be_the_same(
    clone: Path, fault: Callable[[dict[str, Any], dict[str, Any]], None], words: list[str]
) -> None:
    lock, pipeline = (yaml.safe_load((clone / name).read_text()) for name in ("dvc.lock", "dvc.yaml"))
    fault(lock["stages"], pipeline["stages"])
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock))
    (clone / "dvc.yaml").write_text(json.dumps(pipeline))

    found = "\n".join(check_lock(clone).findings)

    assert [word for word in words if word not in found] == [], found


def test_other_data_than_were_read_are_red(clone: Path) -> None:
    data = yaml.safe_load((clone / "data.dvc").read_text())["outs"][0]["md5"]
    replace(clone / "data.dvc", data, f"{'0' * 32}.dir")

    words = f"ingest, notebook-ingest: data was {data[:12]} when they ran, data.dvc records 000000000000"
    assert check_lock(clone).findings == (f"{words}; run `dvc repro`",)


@pytest.mark.parametrize("content", ["", "outs:\n", "outs:\n- path: data\n"])
def test_data_dvc_without_a_digest_says_how_it_comes_back(clone: Path, content: str) -> None:
    (clone / "data.dvc").write_text(content)

    [finding] = check_lock(clone).findings

    assert finding.startswith("data.dvc: "), finding


@pytest.mark.parametrize(("content", "said"), [("2\n", "not what it wrote"), (None, "missing")])
def test_metrics_in_git_that_are_not_those_of_the_run_are_red(clone: Path, content: str | None, said: str) -> None:
    metrics = clone / "artifacts" / "evaluate" / "metrics.json"
    metrics.unlink()
    if content:
        metrics.write_text(content)

    words = f"evaluate: artifacts/evaluate/metrics.json, which git holds, is {said}; run `dvc repro`"
    assert check_lock(clone).findings == (words,)


def test_a_comma_in_the_readme_is_no_reason_to_run_anything(clone: Path) -> None:
    with (clone / "README.md").open("a") as file:
        file.write("\nOne more sentence.\n")

    assert check_lock(clone).ok


def test_a_torn_notebook_is_named(clone: Path) -> None:
    (clone / "nbs" / "pipeline" / "22_train.ipynb").write_text('{"cells": [')

    found = red(clone)

    assert found["package"][0].startswith("22_train.ipynb: not a notebook"), found


def test_a_slow_step_says_what_it_does_and_a_quick_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said, words = threading.Event(), list[str]()

    class Terminal:
        def write(self, text: str) -> None:
            words.append(text)

        def flush(self) -> None:
            said.set()

    monkeypatch.setattr(sys, "stderr", Terminal())
    with waiting("asking", 3600):
        pass
    assert words == []

    with waiting("asking", 0):
        assert said.wait(10)

    assert "".join(words) == "asking ...\n"
