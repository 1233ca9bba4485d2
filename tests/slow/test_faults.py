"""Kills, full disks, damaged files, two at once, clocks: nothing is lost, and one line says what to do."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT, STAGES
from tests.slow.conftest import Project, make_project
from tests.slow.kills import (
    Predict,
    Push,
    Repro,
    Walk,
    commit,
    files,
    kill,
)

pytestmark = pytest.mark.slow

PYTHON = ("python", "-m")
STAGE = (*PYTHON, "mlops_pkg", "stage")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose production stages are built and committed. Leave it as it is."""
    project = make_project(tmp_path_factory.mktemp("faults") / "project")
    project.repro("package")
    commit(project)
    return project


@pytest.fixture
def project(shared: Project, tmp_path: Path) -> Project:
    """A copy of it, to do damage to."""
    return Project(Path(shutil.copytree(shared.root, tmp_path / "project", symlinks=True)))


@pytest.fixture
def unchanged(shared: Project) -> Iterator[Project]:
    """The shared project, which must be the same afterwards."""
    before = files(shared.root / "artifacts"), (shared.root / "dvc.lock").read_bytes()
    yield shared
    assert (files(shared.root / "artifacts"), (shared.root / "dvc.lock").read_bytes()) == before
    assert [path.name for path in (shared.root / "artifacts").iterdir() if path.name not in STAGES] == []


def limited(kilobytes: int, *command: str) -> list[str]:
    """A command that may write no file larger than this; Python would leave bytecode cut short, and believe it."""
    return ["bash", "-c", f'export PYTHONDONTWRITEBYTECODE=1; ulimit -f {kilobytes}; exec "$@"', "-", *command]


def apart(script: str, *command: str) -> list[str]:
    """A script that may mount and runs the command "$@"; skipped where the machine allows no mounts of one's own."""
    probe = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    return ["unshare", "--mount", "--map-root-user", "bash", "-euc", script, "-", *command]


def object_of(project: Project, path: str) -> Path:
    """The object of DVC's cache that holds a file."""
    digest = project.digests()[path]
    return project.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def spoil(path: Path) -> bytes:
    """Turn one bit in the middle of a file, as a disk may; its bytes are then these."""
    content, mode = bytearray(path.read_bytes()), path.stat().st_mode
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)
    return bytes(content)


# Kills


def test_after_a_kill_at_a_random_moment_the_next_command_goes_on(project: Project) -> None:
    generator = random.Random(4)
    durations: dict[tuple[str, str], float] = {}
    victims = [Repro(project)] * 3 + [Push(project)] * 3
    victims += [Predict(project, 5_000)] * 3

    kills = [kill(victim, durations, generator) for victim in victims]

    assert [one for one in kills if one.lost] == []


@pytest.mark.parametrize("kind", [".dir", ""], ids=["list", "file"])
def test_after_a_push_killed_before_its_first_byte_the_next_one_is_whole(project: Project, kind: str) -> None:
    push = Push(project)
    push.prepare()
    empty = push.storage / next(name for name in push.wanted if name.endswith(".dir") == bool(kind))
    empty.parent.mkdir(parents=True)
    empty.touch()

    assert push.again() == ""
    assert push.state() == "new"


def test_after_a_killed_walk_the_next_one_goes_on(project: Project) -> None:
    assert kill(Walk(project, ("ingest",)), {}, random.Random(5)).lost == ""


def test_a_torn_record_of_dvc_comes_back(project: Project) -> None:
    lock = project.root / "dvc.lock"
    whole = lock.read_bytes()

    for about in (0, len(whole) // 8, len(whole) // 2, len(whole) - 1):
        cut = about - (whole[:about][-1:] == b"\n")  # up to a line it may be whole, with fewer stages
        lock.write_bytes(whole[:cut])
        told = project.run(*PYTHON, "mlops_pkg", "mend").stdout
        kept = max(0, len(re.findall(rb"(?m)^  \S", whole[:cut])) - 1)
        count = f"{kept} of its stages are kept, {5 - kept} are as in git's last commit"
        assert told == f"dvc.lock: was torn; {count}; `dvc repro` does the rest\n"
        assert lock.read_bytes() == whole
        assert (project.root / ".dvc" / "tmp" / "dvc.lock.torn").read_bytes() == whole[:cut], "what was torn is gone"

    assert project.run(*PYTHON, "mlops_pkg", "mend").stdout == ""


def test_what_is_whole_in_a_torn_record_is_kept_without_git(project: Project) -> None:
    lock, before = project.root / "dvc.lock", project.digests()
    shutil.rmtree(project.root / ".git")
    (project.root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")

    whole = lock.read_bytes()
    lock.write_bytes(whole[: whole.rindex(b"- path") + len(b"- pa")])
    refused = project.run("dvc", "repro", "package", check=False)
    told = project.run(*PYTHON, "mlops_pkg", "mend").stdout
    ran = project.repro("package")

    assert refused.returncode != 0, "DVC reads a torn record: mend is no longer needed"
    assert told.startswith("dvc.lock: was torn; 4 of its stages are kept, 0 are as in git's last commit; ")
    assert ran == set(), "DVC's run cache does not bring the lost stage back"
    assert project.digests() == before


def test_a_conflict_of_a_merge_is_not_taken_for_torn(project: Project) -> None:
    lock = project.root / "dvc.lock"
    text = "<<<<<<< HEAD\n" + lock.read_text()
    lock.write_text(text)

    done = project.run(*PYTHON, "mlops_pkg", "mend", check=False)

    line = "dvc.lock: holds the conflict of a merge; take one side of it (`git checkout --ours dvc.lock`)\n"
    assert (done.returncode, done.stderr, lock.read_text()) == (1, line, text)


def test_a_torn_list_of_who_is_at_work_is_removed(project: Project) -> None:
    rwlock = project.root / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text('{"write": {"')

    refused = project.run("dvc", "repro", "--force", "--single-item", "package", check=False)
    told = project.run(*PYTHON, "mlops_pkg", "mend").stdout

    assert "rwlock" in refused.stderr, "DVC reads a torn list: mend is no longer needed"
    assert told == ".dvc/tmp/rwlock: was torn; removed\n"
    assert project.repro("package") == set()


def test_a_number_that_another_process_has_got_since_does_not_stop_dvc(project: Project) -> None:
    dead = {"pid": os.getppid(), "cmd": "/usr/bin/dvc repro"}
    path = str(project.root / "artifacts" / "package" / "model.onnx")
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": {path: dead}, "read": {}}))

    refused = project.run("dvc", "repro", "--force", "--single-item", "package", check=False)
    told = project.run(*PYTHON, "mlops_pkg", "mend").stdout

    assert "is busy, it is being blocked by" in refused.stderr, "DVC knows better: mend is no longer needed"
    assert told == ".dvc/tmp/rwlock: named processes that have ended; removed\n"
    project.repro("--force", "--single-item", "package")


# A disk that is full, a place that cannot be written to


def test_a_stage_that_may_not_write_so_large_a_file_is_one_line(unchanged: Project) -> None:
    done = unchanged.run(*limited(30, *STAGE, "train"), check=False)

    assert done.returncode == 1
    assert done.stderr == (
        "artifacts/train/model.skops: File too large; raise the limit on the size of a file (`ulimit -f`) and run it "
        "again; nothing was changed\n"
    )


def test_a_stage_on_a_full_disk_is_one_line_and_its_former_output_stays(unchanged: Project) -> None:
    script = """
        mount -t tmpfs none /mnt; cp -a artifacts /mnt
        mount -t tmpfs -o size=64m none artifacts; cp -a /mnt/artifacts/. artifacts
        cat /dev/zero > artifacts/filler 2> /mnt/full || truncate --size=-20K artifacts/filler
        code=0; "$@" || code=$?
        rm artifacts/filler; find artifacts -type f -exec md5sum {} +; exit $code
    """

    done = unchanged.run(*apart(script, *STAGE, "train"), check=False)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device; make room on the disk and run it again; nothing was changed" in done.stderr
    left = {name: digest for digest, _, name in (line.partition("  ") for line in done.stdout.splitlines()) if digest}
    expected = files(unchanged.root / "artifacts")
    assert left == {f"artifacts/{n}": hashlib.md5(c, usedforsecurity=False).hexdigest() for n, c in expected.items()}


def test_a_walk_on_a_full_disk_is_one_line(unchanged: Project) -> None:
    script = 'mkdir -p research; mount -t tmpfs -o size=40k none research; "$@"'

    done = unchanged.run(*apart(script, *PYTHON, "mlops_pkg", "research", "train"), check=False)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(("train: the walk through", "research/train"))
    assert "No space left on device; make room on the disk and run it again; nothing was changed" in done.stderr


def test_predict_on_a_full_disk_keeps_the_former_answers(unchanged: Project, tmp_path: Path) -> None:
    rows = "mlops_pkg.core.workspace import read_table; read_table(Path('artifacts/ingest/test.parquet'))"
    code = f"import sys; from pathlib import Path; from {rows}.to_csv(sys.argv[1], index=False)"
    unchanged.run("python", "-c", code, str(tmp_path / "in.csv"))
    out = tmp_path / "out.csv"
    out.write_text("former\n")

    done = unchanged.run(*limited(4, *PYTHON, "mlops_pkg", "predict", str(tmp_path / "in.csv"), str(out)), check=False)

    assert (done.returncode, done.stderr) == (1, f"{out}: File too large\n")
    assert {path.name: path.read_text() for path in tmp_path.glob("*out*")} == {"out.csv": "former\n"}


def test_artifacts_on_a_read_only_disk_are_one_line(unchanged: Project) -> None:
    script = 'mount --bind artifacts artifacts; mount -o remount,bind,ro artifacts; "$@"'

    done = unchanged.run(*apart(script, *STAGE, "train"), check=False)

    line = "artifacts: Read-only file system; mount it writable and run it again; nothing was changed\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_artifacts_that_belong_to_another_are_one_line(project: Project) -> None:
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and nothing here takes that right away")
    (project.root / "artifacts").chmod(0o555)

    done = project.run(*drop, *STAGE, "train", check=False)
    (project.root / "artifacts").chmod(0o755)

    line = (
        "artifacts: Permission denied; give yourself the right to write there and run it again; nothing was changed\n"
    )
    assert (done.returncode, done.stderr) == (1, line)


# Damaged and missing files


def test_wrong_bytes_from_the_cache_are_found_and_made_anew(project: Project) -> None:
    name, before = "artifacts/train/model.skops", project.digests()
    model, copy = project.root / name, object_of(project, name)
    good = model.read_bytes()
    wrong = spoil(copy)
    model.unlink()
    project.run("dvc", "checkout", name)
    assert model.read_bytes() == wrong, "DVC hands out what it has not looked at: mend is no longer needed"
    assert project.repro("package") == set(), "DVC notices it by itself: mend is no longer needed"

    told = project.run(*PYTHON, "mlops_pkg", "mend").stdout
    ran = project.repro("package")

    mend = "set aside; get it with `dvc pull`, or make it again with `dvc repro`"
    assert told == f"{name}: its copy in DVC's cache is damaged; {mend}\n"
    assert ran == {"train"}
    assert (model.read_bytes(), copy.read_bytes(), project.digests()) == (good, good, before)


def test_a_damaged_copy_is_made_anew_from_the_file_itself(project: Project) -> None:
    name = "artifacts/train/model.skops"
    copy = object_of(project, name)
    spoil(copy)

    told = project.run(*PYTHON, "mlops_pkg", "mend").stdout

    assert told == f"{name}: its copy in DVC's cache is damaged; made again from the file itself\n"
    assert copy.read_bytes() == (project.root / name).read_bytes()
    assert project.repro("package") == set()


def test_a_bit_that_turned_behind_the_file_system_is_found_when_asked_for(project: Project) -> None:
    copy = object_of(project, "artifacts/train/model.skops")
    project.run(*PYTHON, "mlops_pkg", "mend")
    times = copy.stat()
    spoil(copy)
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert project.run(*PYTHON, "mlops_pkg", "mend").stdout == "", "it reads everything each time"
    assert "is damaged; made again" in project.run(*PYTHON, "mlops_pkg", "mend", "--cache").stdout


def test_a_lost_copy_is_made_anew(project: Project) -> None:
    name, before = "artifacts/train/model.skops", project.digests()
    copy = object_of(project, name)
    good = copy.read_bytes()
    copy.unlink()
    (project.root / name).unlink()

    refused = project.run("dvc", "checkout", name, check=False)
    ran = project.repro("package")

    assert refused.returncode != 0
    assert ran == {"train"}
    assert (copy.read_bytes(), project.digests()) == (good, before)


@pytest.mark.parametrize(
    ("name", "reader"),
    [("features/train.parquet", "train"), ("train/model.skops", "evaluate"), ("ingest/rows.json", "package")],
)
def test_an_output_that_was_cut_short_is_noticed_by_dvc_and_by_who_reads_it(
    project: Project, name: str, reader: str
) -> None:
    path, before = project.root / "artifacts" / name, project.digests()
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])

    status = project.run("dvc", "status", name.partition("/")[0]).stdout
    done = project.run(*STAGE, reader, check=False)
    project.repro("package")

    assert f"modified:           artifacts/{name}" in status
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: damaged (")
    assert done.stderr.count("\n") == 1
    assert (path.read_bytes(), project.digests()) == (good, before)


# Two at once


def test_two_repros_at_once_do_not_write_into_each_other(project: Project) -> None:
    before = project.digests()
    command = ["dvc", "repro", "--force", "--single-item", "train"]
    scratch = project.root / "artifacts" / ".train.tmp"

    first = project.start(*command)
    while not scratch.exists():
        assert first.poll() is None, "it ended before the other could begin"
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGSTOP)
    second = project.run(*command, check=False)
    os.killpg(first.pid, signal.SIGCONT)

    assert first.wait() == 0
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert "is busy, it is being blocked by" in second.stderr
    assert project.repro("package") == set()
    assert project.digests() == before


def test_two_runs_of_a_stage_at_once_are_one_line(project: Project) -> None:
    before = files(project.root / "artifacts")
    scratch = project.root / "artifacts" / ".train.tmp"

    first = project.start(*STAGE, "train")
    while not scratch.exists():
        assert first.poll() is None, "it ended before the other could begin"
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGSTOP)
    second = project.run(*STAGE, "train", check=False)
    os.killpg(first.pid, signal.SIGCONT)

    line = "train: another run of this stage is writing to artifacts/; wait for it\n"
    assert (second.returncode, second.stderr) == (1, line)
    assert first.wait() == 0
    assert files(project.root / "artifacts") == before


# Clocks


def test_an_edit_that_is_older_than_the_result_is_noticed(project: Project) -> None:
    module = project.root / "mlops_pkg" / "pipeline" / "train.py"
    module.write_text(module.read_text() + "\n# an edit\n")
    os.utime(module, (946_684_800, 946_684_800))  # the first second of the year 2000

    assert "modified:           mlops_pkg/pipeline/train.py" in project.run("dvc", "status", "train").stdout


def test_files_from_the_future_and_the_past_make_nothing_stale(project: Project) -> None:
    for number, path in enumerate(sorted((project.root / "artifacts").rglob("*"))):
        os.utime(path, (time.time() + 10**8 * (number % 2 or -1),) * 2)

    assert project.repro("package") == set()


SET_BACK = """
import time_machine
time_machine.travel("1999-12-31T23:59:58+00:00", tick=True).start()
"""


def test_a_clock_that_was_set_back_changes_no_output(project: Project, tmp_path: Path) -> None:
    before = project.digests()
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(SET_BACK)
    project.environment["PYTHONPATH"] = str(tmp_path / "clock")
    assert project.run("python", "-c", "import time; print(time.localtime().tm_year)").stdout in ("1999\n", "2000\n")

    for stage in ("ingest", "package"):
        project.repro("--force", "--single-item", stage)

    assert project.digests() == before


# Notebooks that cannot be read

NOT_JSON = "22_train.ipynb: not a notebook: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"


def test_a_notebook_that_is_not_json_is_named_and_changes_nothing(project: Project) -> None:
    project.run("nbdev_export")
    notebook, module = (next(project.root.glob(name)) for name in ("nbs/*/22_train.ipynb", "mlops_pkg/*/train.py"))
    former = module.read_bytes()
    notebook.write_text("{torn")

    walked = project.run(*PYTHON, "mlops_pkg", "research", "train", check=False)
    synced = project.run(*PYTHON, "mlops_pkg", "sync", check=False)
    reproduced = project.run("dvc", "repro", "--single-item", "notebook-train", check=False)
    exported = project.run("nbdev_export", check=False)

    assert (walked.returncode, walked.stderr) == (1, f"{NOT_JSON}\n")
    assert synced.returncode == 1
    assert f"nbs/pipeline/{NOT_JSON}" in synced.stdout
    assert NOT_JSON in reproduced.stderr.splitlines()
    assert "Traceback" not in walked.stderr + synced.stderr + reproduced.stderr
    assert exported.returncode != 0
    assert module.read_bytes() == former


def saved_as(version: int, notebook: str) -> str:
    """A notebook as an older program would have saved it, in format 3.0 or 4.4."""
    content = json.loads(notebook) | {"nbformat_minor": 4}
    for cell in content["cells"]:
        del cell["id"]
    text = json.dumps(content, indent=1)
    return text if version == 4 else str(nbformat.writes(nbformat.convert(nbformat.reads(text, as_version=4), 3), 3))


@pytest.mark.parametrize(
    ("version", "minor", "command"),
    [(3, 0, "jupyter nbconvert --to notebook --inplace"), (4, 4, "nbdev_clean --fname")],
)
def test_a_notebook_of_an_old_format_is_named_with_its_upgrade(
    project: Project, version: int, minor: int, command: str
) -> None:
    shutil.copy(ROOT / "Makefile", project.root)
    project.run("nbdev_export")
    notebook, module = (next(project.root.glob(name)) for name in ("nbs/*/22_train.ipynb", "mlops_pkg/*/train.py"))
    former, cells = module.read_bytes(), len(json.loads(notebook.read_text())["cells"])
    notebook.write_text(saved_as(version, notebook.read_text()))

    walked = project.run(*PYTHON, "mlops_pkg", "research", "train", check=False)
    synced = project.run(*PYTHON, "mlops_pkg", "sync", check=False)
    exported = project.run("make", "--old-file", ".venv/.ready", "export", check=False)

    line = (
        f"22_train.ipynb: saved in notebook format {version}.{minor}, whose cells have no ids; "
        f"upgrade it with `{command} nbs/pipeline/22_train.ipynb`, then `make export`"
    )
    assert (walked.returncode, walked.stderr) == (1, f"{line}\n")
    assert synced.returncode == 1
    assert line in synced.stdout
    assert exported.returncode != 0
    assert line in exported.stderr
    assert "Traceback" not in walked.stderr + synced.stderr + exported.stderr
    assert module.read_bytes() == former
    project.run(*command.split(), "nbs/pipeline/22_train.ipynb")
    upgraded = json.loads(notebook.read_text())
    assert (upgraded["nbformat_minor"], len(upgraded["cells"])) == (5, cells)
    assert "saved in notebook format" not in project.run(*PYTHON, "mlops_pkg", "sync", check=False).stdout
