"""Versions of a bundle: registered, promoted, rolled back and fetched, and every fault refused by name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_pkg.bundle.manifest import verify
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.workspace import read_table
from mlops_pkg.registry.references import fetch
from mlops_pkg.registry.releases import promote, register, rollback
from mlops_pkg.registry.tags import read_registry
from tests.conftest import ROOT, said_by
from tests.registry.conftest import Team, git

NAME = "late-flights"


def stage_of(root: Path) -> dict[str, str]:
    registry = read_registry(root, NAME)
    return {stage: registry.version_of(tag) for stage, tag in registry.stages().items()}


def release(team: Team, model: str, stage: str = "prod", **options: Any) -> str:
    """Commit, register and promote a model; return its version."""
    team.build(model)
    version = register(team.root).tag.partition("@")[2]
    assert promote(team.root, NAME, version, stage, **options).tag
    return version


def test_versions_are_promoted_compared_and_rolled_back_and_gto_reads_them(
    team: Team, command: Callable[..., Any]
) -> None:
    team.build("first")
    assert command(team.root, "register").stdout == f"{NAME}@v1.0.0: the first version\n"
    first = command(team.root, "promote", f"{NAME}@v1.0.0", "prod")
    assert first.exit_code == 0, first.output
    assert "no champion to compare with" in first.stdout
    team.build("better")
    second = command(team.root, "register").stdout
    assert second.startswith(f"{NAME}@v1.1.0: minor, it was made in another way: params: train.options.max_iter")
    better = command(team.root, "promote", f"{NAME}@v1.1.0", "prod")
    assert better.exit_code == 0, better.output
    assert "roc_auc 0." in better.stdout

    shown = command(team.root, "show", "--json").stdout
    assert [(one["version"], one["stages"]) for one in json.loads(shown)] == [("v1.1.0", "prod"), ("v1.0.0", "")]
    gto = [str(Path(sys.executable).parent / "gto"), "show", NAME, "--json"]
    theirs = json.loads(subprocess.run(gto, cwd=team.root, check=True, capture_output=True, text=True).stdout)
    now = {one["version"]: [stage["stage"] for stage in one["stages"]] for one in theirs}
    assert now == {"v1.1.0": ["prod"], "v1.0.0": []}

    back = command(team.root, "rollback", NAME, "prod", "--reason", "too many false alarms")
    assert back.stdout.startswith(f"{NAME}#prod#3: {NAME} v1.0.0 is in prod now; its bundle is in ")
    assert stage_of(team.root) == {"prod": "v1.0.0"}
    assert said_by(lambda: rollback(team.root, NAME, "prod")) == (
        f"{NAME}#prod: v1.0.0 is the first version in it; there is nothing to go back to"
    )
    history = json.loads(command(team.root, "history", "--json").stdout)
    assert [(one["what"], one["version"], one["who"], one["why"]) for one in history] == [
        ("Promote", "v1.0.0", "ada", ""),
        ("Promote", "v1.1.0", "ada", ""),
        ("Roll back", "v1.0.0", "ada", "too many false alarms"),
    ]
    assert git(team.hub, "tag") == git(team.root, "tag")
    difference = command(team.root, "diff", f"{NAME}@v1.0.0", f"{NAME}@v1.1.0").stdout
    assert re.search(r"^test\.roc_auc +0\.\d{3} 0\.\d{3} 0\.\d{3} +0\.", difference, re.MULTILINE)
    assert re.search(r"^params\.train +\w{27}\.\.\. +\w{27}\.\.\.$", difference, re.MULTILINE)


def test_a_worse_version_is_refused_with_its_figures_and_an_override_is_recorded(
    team: Team, command: Callable[..., Any]
) -> None:
    release(team, "better")
    team.build("worse")
    register(team.root)

    refused = command(team.root, "promote", f"{NAME}@v1.1.0", "prod")
    assert refused.exit_code == 1
    assert "better by -0." in refused.stdout
    assert f"{NAME}@v1.1.0: not promoted: metric" in refused.stderr
    assert stage_of(team.root) == {"prod": "v1.0.0"}

    forced = command(team.root, "promote", f"{NAME}@v1.1.0", "prod", "--override", "the other needs a feed that ended")
    assert forced.exit_code == 0, forced.output
    last = json.loads(command(team.root, "history", "--json").stdout)[-1]
    assert (last["version"], last["why"]) == ("v1.1.0", "the other needs a feed that ended")
    assert "metric" in last["red gates"]
    assert last["facts"]["gates"]["metric"]["figures"].startswith("roc_auc 0.")


def test_a_project_in_a_folder_of_a_repository_is_fetched_from_the_git_url_as_well(team: Team, tmp_path: Path) -> None:
    team.build("first")
    one, hub = tmp_path / "one", tmp_path / "one.git"
    root = one / "models" / "flights"
    shutil.copytree(team.root, root, ignore=shutil.ignore_patterns(".git", "cache"))
    git(tmp_path, "init", "--quiet", "--bare", str(hub))
    git(one, "init", "--quiet")
    for setting in ("user.name=ada", "user.email=ada@example.invalid", f"remote.origin.url={hub}"):
        git(one, "config", *setting.split("="))
    git(one, "add", ".")
    git(one, "commit", "--quiet", "--message", "A model among others")
    register(root)
    assert promote(root, NAME, "v1.0.0", "prod").tag
    shutil.rmtree(tmp_path / "bundles")

    folder = fetch(f"{NAME}#prod", str(hub))

    assert verify(folder) == verify(team.models["first"] / "artifacts" / "package")
    git(one, "mv", "models", "other")
    git(one, "commit", "--quiet", "--message", "Move all models")
    assert promote(one / "other" / "flights", NAME, "v1.0.0", "dev").tag, "the version was made in another folder"


def test_a_rebuild_of_some_stages_is_no_proof_of_a_version(team: Team) -> None:
    team.build("first")
    stages = [{"stage": "train", "outputs": []}]
    (team.root / "reports" / "rebuild.json").write_text(json.dumps({"ok": True, "stages": stages}))

    told = said_by(lambda: register(team.root))

    assert told.startswith("rebuild: not run for ingest, features, evaluate")


def test_the_bundle_of_a_stage_is_had_from_the_git_url_alone_and_answers_the_same(team: Team, tmp_path: Path) -> None:
    release(team, "first")
    rows = read_table(team.models["first"] / "artifacts" / "ingest" / "test.parquet")
    expected = Predictor.load(team.models["first"] / "artifacts" / "package").predict(rows).answer
    shutil.rmtree(tmp_path / "bundles")

    folder = fetch(f"{NAME}#prod", str(team.hub))
    assert np.array_equal(Predictor.load(folder).predict(rows).answer, expected)

    rows.head(20).to_csv(tmp_path / "in.csv", index=False)
    environment = {**os.environ, "MLOPS_PKG_REGISTRY": f"file://{team.hub}", "PYTHONPATH": str(ROOT)}
    predict = [sys.executable, "-m", "mlops_pkg", "predict", "in.csv", "out.csv", "--bundle", f"{NAME}@v1.0.0"]
    subprocess.run(predict, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert np.array_equal(pd.read_csv(tmp_path / "out.csv")["probability"], expected[:20])

    shutil.move(team.storage, tmp_path / "elsewhere")
    shutil.move(team.hub, tmp_path / "elsewhere.git")
    assert fetch(f"{NAME}#prod", str(team.hub)) == folder, "what was fetched before does without git and remote"
    (folder / "model.onnx").write_bytes(b"tampered")
    assert "not in the remote" in said_by(lambda: fetch(f"{NAME}#prod", str(team.hub)))
    assert not folder.exists()


def test_of_two_who_promote_at_once_one_is_told_who_was_first(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_pkg.registry import gates

    release(team, "first")
    team.build("better")
    register(team.root)
    bob = team.clone("bob")
    real = gates.check_promotion

    def while_others_decide(*arguments: Any) -> Any:
        monkeypatch.setattr(gates, "check_promotion", real)
        promote(bob, NAME, "v1.1.0", "prod", override="in a hurry")
        yield from real(*arguments)

    monkeypatch.setattr(gates, "check_promotion", while_others_decide)
    told = said_by(lambda: promote(team.root, NAME, "v1.1.0", "prod"))

    assert told.startswith(f"{NAME}#prod#2: bob was first: Promote {NAME} v1.1.0 to prod; look, then try again")
    assert len(read_registry(team.root, NAME).assignments) == 2
    assert git(team.root, "tag") == git(team.hub, "tag")


def test_a_clock_that_was_set_back_changes_nothing(team: Team) -> None:
    team.build("first")
    git(team.root, "-c", "user.name=ada", "tag", "-a", "-m", "from the future", "unrelated")
    subprocess.run(
        ["git", "tag", "-a", "-m", "later", "future"], cwd=team.root, check=True,
        env={**os.environ, "GIT_COMMITTER_DATE": "2099-01-01T00:00:00 +0000"},
    )  # fmt: skip
    git(team.root, "push", "--quiet", "origin", "--tags")
    register(team.root)
    promote(team.root, NAME, "v1.0.0", "prod")
    times = [
        tag.when
        for tag in (*read_registry(team.root, NAME).versions.values(), *read_registry(team.root, NAME).assignments)
    ]
    assert times == sorted(times)
    assert times[0] > "2099"


@pytest.mark.parametrize("where", ["here", "at the remote"])
def test_a_removed_tag_is_named(team: Team, where: str) -> None:
    release(team, "first")
    git(team.root if where == "here" else team.hub, "tag", "--delete", f"{NAME}#prod#1")
    if where == "here":
        git(team.hub, "tag", "--delete", f"{NAME}@v1.0.0")
        assert f"{NAME}@v1.0.0: it is here, and not at origin" in said_by(lambda: rollback(team.root, NAME, "prod"))
    else:
        assert f"{NAME}#prod#1: it is here, and not at origin" in said_by(lambda: rollback(team.root, NAME, "prod"))


def test_an_assignment_that_was_removed_everywhere_breaks_the_chain(team: Team) -> None:
    release(team, "first")
    release(team, "better")
    release(team, "worse", override="a test")
    for repository in (team.root, team.hub):
        git(repository, "tag", "--delete", f"{NAME}#prod#2")
    assert said_by(lambda: rollback(team.root, NAME, "prod")) == (
        f"{NAME}#prod#3: a tag before it was removed or replaced; {NAME}#prod#1 is there"
    )


def test_a_moved_version_is_named(team: Team) -> None:
    release(team, "first")
    head = team.build("better")
    message = git(team.root, "for-each-ref", "--format=%(contents)", f"refs/tags/{NAME}@v1.0.0")
    git(team.root, "tag", "--force", "--annotate", "--message", message, f"{NAME}@v1.0.0", head)
    assert f"{NAME}@v1.0.0: not the same here and at origin" in said_by(lambda: rollback(team.root, NAME, "prod"))
    git(team.root, "push", "--quiet", "--force", "origin", f"refs/tags/{NAME}@v1.0.0")
    assert said_by(lambda: rollback(team.root, NAME, "prod")) == (
        f"{NAME}@v1.0.0: it was moved since {NAME}#prod#1 put it into prod"
    )


def test_a_tag_that_lies_about_its_bundle_is_named(team: Team, tmp_path: Path) -> None:
    team.build("first")
    lie = json.dumps({"bundle": "0" * 64, "proofs": dict.fromkeys(("sync", "rebuild", "parity"), True)})
    git(team.root, "tag", "--annotate", "--message", f"Register\n\n{lie}", f"{NAME}@v1.0.0")
    git(team.root, "push", "--quiet", "origin", f"refs/tags/{NAME}@v1.0.0")
    told = said_by(lambda: promote(team.root, NAME, "v1.0.0", "prod"))
    assert told.startswith(f"{NAME}@v1.0.0: it says bundle 000000000000, and its commit ")
    assert not (tmp_path / "bundles").exists()


def test_a_bundle_that_is_not_pushed_is_refused(team: Team, tmp_path: Path) -> None:
    team.build("first", push=False)
    register(team.root)
    gates = {gate.name: gate for gate in promote(team.root, NAME, "v1.0.0", "prod").gates}
    assert not gates["pushed"].ok
    assert re.fullmatch(r"[\w.]+ is not in the remote; run `dvc push`", gates["pushed"].reason)
    assert stage_of(team.root) == {}
    shutil.rmtree(tmp_path / "bundles")
    assert "not in the remote" in said_by(lambda: fetch(f"{NAME}@v1.0.0", str(team.hub)))


def test_a_machine_that_serves_is_not_led_astray_by_a_tag_that_was_removed_or_moved(team: Team, tmp_path: Path) -> None:
    release(team, "first")
    release(team, "better")
    fetch(f"{NAME}#prod", str(team.hub))
    head = git(team.hub, "rev-parse", "main")
    git(team.hub, "tag", "--delete", f"{NAME}#prod#2")
    assert f"{NAME}#prod#2: it is here, and not at origin" in said_by(lambda: fetch(f"{NAME}#prod", str(team.hub)))
    shutil.rmtree(tmp_path / "bundles")
    assert fetch(f"{NAME}#prod", str(team.hub)), "a new machine cannot know of the last one"
    git(
        team.hub,
        "-c",
        "user.name=eve",
        "-c",
        "user.email=e@e.invalid",
        "tag",
        "-f",
        "-a",
        "-m",
        "x",
        f"{NAME}@v1.0.0",
        head,
    )
    assert f"{NAME}@v1.0.0: not the same here and at origin" in said_by(lambda: fetch(f"{NAME}#prod", str(team.hub)))


def test_bytes_that_are_not_the_recorded_ones_are_refused(team: Team, tmp_path: Path) -> None:
    release(team, "first")
    shutil.rmtree(tmp_path / "bundles")
    content = (team.models["first"] / "artifacts" / "package" / "model.onnx").read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (team.storage / "files" / "md5" / md5[:2] / md5[2:]).write_bytes(content + b" ")
    told = said_by(lambda: fetch(f"{NAME}#prod", str(team.hub)))
    assert told.startswith("model.onnx at ")
    assert "its bytes are not the recorded ones" in told


def test_what_is_not_fit_to_be_a_version_is_refused_and_nothing_is_tagged(team: Team) -> None:
    team.build("first")
    with (team.root / "params.yaml").open("a") as file:
        file.write("# later\n")
    assert said_by(lambda: register(team.root)) == (
        "params.yaml: it has changes that are not committed; a version is a commit"
    )
    git(team.root, "checkout", "--quiet", "params.yaml")
    (team.root / "reports" / "rebuild.json").unlink()
    assert said_by(lambda: register(team.root)).startswith("rebuild: not run; run `mlops_pkg prove` first")
    git(team.root, "config", "--unset", "user.name")
    told = said_by(lambda: register(team.root, proven=False))
    assert told == "git: user.name is not set; run `git config --global user.name ...`: a decision has an author"
    assert git(team.root, "tag") == ""
    git(team.root, "config", "user.name", "ada")
    register(team.root, proven=False)
    red = promote(team.root, NAME, "v1.0.0", "prod")
    assert red.tag == ""
    assert red.gates[0].reason.startswith("not green when it was registered: rebuild;")


def test_a_shallow_clone_without_tags_and_a_detached_head_do(team: Team) -> None:
    release(team, "first")
    shallow = team.hub.parent / "shallow"
    git(team.hub.parent, "clone", "--quiet", "--depth=1", "--no-tags", f"file://{team.hub}", str(shallow))
    git(shallow, "checkout", "--quiet", "--detach")
    for name, value in (("user.name", "eve"), ("user.email", "eve@example.invalid")):
        git(shallow, "config", name, value)
    assert said_by(lambda: rollback(shallow, NAME, "prod")).endswith("there is nothing to go back to")
    assert stage_of(shallow) == {"prod": "v1.0.0"}


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        (f"{NAME}@v9.9.9", f"{NAME}@v9.9.9: no such version; the last ones: v1.0.0"),
        (f"{NAME}#staging", f"{NAME}#staging: nothing is in this stage; stages: none yet"),
        ("nonsense", "nonsense: expected NAME@v1.2.0 or NAME#prod"),
    ],
)
def test_what_is_not_there_is_named(team: Team, monkeypatch: pytest.MonkeyPatch, reference: str, told: str) -> None:
    team.build("first")
    register(team.root)
    monkeypatch.chdir(team.root)
    assert said_by(lambda: fetch(reference)) == told


def test_a_stage_whose_name_git_or_gto_would_take_for_something_else_is_refused(team: Team) -> None:
    team.build("first")
    register(team.root)
    for stage in ("prod!", "prod stage", "prod#1"):
        told = said_by(lambda stage=stage: promote(team.root, NAME, "v1.0.0", stage))
        assert told == f"{NAME}#{stage}: expected NAME@v1.2.0 or NAME#prod"
    assert stage_of(team.root) == {}


def test_outside_a_project_the_variable_for_the_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLOPS_PKG_REGISTRY", raising=False)
    assert said_by(lambda: fetch(f"{NAME}#prod")).endswith(
        f"or name the git repository of {NAME} in MLOPS_PKG_REGISTRY"
    )
