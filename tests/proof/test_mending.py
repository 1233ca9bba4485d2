"""What a kill or a damaged disk leaves is set right, and what is right is left alone."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("psutil")

from mlops_pkg.core.params import UserError
from mlops_pkg.history.mending import is_whole, mend
from tests.conftest import IDENTITY

CONTENT = b"trees"
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *IDENTITY, *arguments], cwd=root, check=True, capture_output=True)


def locked(stages: int, cmd: str = "python train.py") -> bytes:
    """A dvc.lock of so many stages, each with one output."""
    out = {"path": "model.bin", "hash": "md5", "md5": MD5, "size": len(CONTENT)}
    listed = {f"stage-{number}": {"cmd": cmd, "outs": [out]} for number in range(stages)}
    return yaml.safe_dump({"schema": "2.0", "stages": listed}, sort_keys=False).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project under git, with a record of three stages, an output, and its copy in DVC's cache."""
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_bytes(locked(3))
    (tmp_path / "model.bin").write_bytes(CONTENT)
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(CONTENT)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "dvc.lock")
    git(tmp_path, "commit", "--quiet", "--message", "Built")
    return tmp_path


def cached(root: Path) -> Path:
    """Where DVC keeps its copy of the output."""
    return root / ".dvc" / "cache" / "files" / "md5" / MD5[:2] / MD5[2:]


def test_nothing_is_said_and_nothing_changed_where_all_is_well(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert mend(root) == []

    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"mend.json", "lock", "rwlock.lock"}


def test_a_folder_that_dvc_does_not_know_is_left_alone(tmp_path: Path) -> None:
    assert mend(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_cut_that_counts_as_whole_holds_no_entry_without_its_digest() -> None:
    whole = locked(3)
    accepted = [whole[:size] for size in range(len(whole)) if is_whole(whole[:size])]

    assert 0 < len(accepted) < 20, "a cut within a line is taken for a record"
    for cut in accepted:
        stages = yaml.safe_load(cut).get("stages", {})
        assert all(out["md5"] == MD5 for stage in stages.values() for out in stage.get("outs", []))


@pytest.mark.parametrize("size", range(20, len(locked(3)), 37))
def test_a_torn_record_keeps_its_whole_stages_and_takes_the_rest_from_git(root: Path, size: int) -> None:
    newer = locked(3, "python train.py --more")
    (root / "dvc.lock").write_bytes(newer[:size])
    torn = not is_whole(newer[:size])

    told = mend(root)

    assert [line.split(":")[0] for line in told] == ["dvc.lock"] * torn
    if torn:
        commands = [stage["cmd"] for stage in yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()]
        assert len(commands) == 3
        assert commands == sorted(commands, key=len, reverse=True), "a stage of git stands before a newer one"
        assert (root / ".dvc" / "tmp" / "dvc.lock.torn").read_bytes() == newer[:size]
    assert mend(root) == []


def test_a_torn_record_that_git_does_not_know_leaves_what_is_whole(root: Path) -> None:
    git(root, "rm", "--quiet", "--cached", "dvc.lock")
    git(root, "commit", "--quiet", "--message", "Not yet")
    (root / "dvc.lock").write_bytes(locked(3)[:-20])

    assert "torn" in mend(root)[0]

    assert list(yaml.safe_load((root / "dvc.lock").read_text())["stages"]) == ["stage-0", "stage-1"]


def test_torn_data_are_for_a_person_where_git_has_no_former_record(root: Path) -> None:
    (root / "data.dvc").write_bytes(b"outs:\n- md5:")

    with pytest.raises(UserError, match=r"^data\.dvc: torn, and git has no former one.*`dvc add data`"):
        mend(root)
    assert (root / "data.dvc").read_bytes() == b"outs:\n- md5:"


def test_a_conflict_of_a_merge_is_for_a_person(root: Path) -> None:
    (root / "dvc.lock").write_bytes(b"<<<<<<< ours\n" + locked(1) + b"=======\n" + locked(2) + b">>>>>>> theirs\n")

    with pytest.raises(UserError, match=r"^dvc\.lock: holds the conflict of a merge"):
        mend(root)


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def running() -> Iterator[int]:
    """The number of a process that looks like DVC at work."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", "dvc"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


def rwlock(root: Path, pid: int) -> Path:
    path = root / ".dvc" / "tmp" / "rwlock"
    path.write_text(json.dumps({"read": {"a": [{"pid": pid, "cmd": "dvc repro"}]}, "write": {}}))
    return path


def test_the_list_of_who_is_at_work_loses_the_dead_and_keeps_the_living(root: Path, ended: int, running: int) -> None:
    path = rwlock(root, ended)
    assert mend(root) == [".dvc/tmp/rwlock: named processes that have ended; removed"]
    assert not path.exists()

    rwlock(root, running)
    assert mend(root) == []
    assert path.exists()


def test_a_number_that_another_program_has_got_since_does_not_hold_dvc_up(root: Path) -> None:
    rwlock(root, os.getpid())

    assert len(mend(root)) == 1


def test_a_torn_list_of_who_is_at_work_is_removed(root: Path) -> None:
    (root / ".dvc" / "tmp" / "rwlock").write_text('{"read": {')

    assert mend(root) == [".dvc/tmp/rwlock: was torn; removed"]


def test_nothing_is_done_while_dvc_is_at_work(root: Path) -> None:
    import fcntl

    (root / "dvc.lock").write_bytes(b"stages:")
    with (root / ".dvc" / "tmp" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert mend(root) == []


def test_scratch_of_killed_stages_goes_and_the_former_output_comes_back(root: Path, ended: int) -> None:
    scratch = root / "artifacts" / ".train.tmp"
    (scratch / "former").mkdir(parents=True)
    (scratch / "former" / "model.skops").write_bytes(b"former")
    stray = root / "reports" / f".page.html.{ended}.tmp"
    stray.parent.mkdir()
    stray.touch()

    told = mend(root)

    assert len(told) == 2, told
    assert "the former output is back in its place" in told[0]
    assert (root / "artifacts" / "train" / "model.skops").read_bytes() == b"former"
    assert not scratch.exists()
    assert not stray.exists()


def test_a_damaged_copy_is_made_anew_from_a_good_file(root: Path) -> None:
    cached(root).write_bytes(b"trees, turned")

    assert mend(root) == ["model.bin: its copy in DVC's cache is damaged; made again from the file itself"]
    assert cached(root).read_bytes() == CONTENT


def test_a_copy_and_a_file_that_are_both_damaged_are_set_aside(root: Path) -> None:
    for path in (cached(root), root / "model.bin"):
        path.write_bytes(b"trees, turned")

    told = mend(root)

    assert len(told) == 1
    assert "set aside; get it with `dvc pull`, or make it again with `dvc repro`" in told[0]
    assert not cached(root).exists()
    assert not (root / "model.bin").exists()
    assert (root / ".dvc" / "tmp" / f"{MD5}.damaged").read_bytes() == b"trees, turned"


def test_a_copy_that_was_damaged_without_a_trace_is_found_when_all_are_read(root: Path) -> None:
    assert mend(root) == []
    facts = cached(root).stat()
    cached(root).write_bytes(b"tress")
    os.utime(cached(root), ns=(facts.st_atime_ns, facts.st_mtime_ns))

    assert mend(root) == []
    assert len(mend(root, everything=True)) == 1
