"""The locked libraries, as values that a stage depends on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_pkg.core.environment import (
    canonical,
    installed_versions,
    libraries_of,
    locked_libraries,
    locked_versions,
    main,
    read_environment,
    write_environment,
)
from mlops_pkg.core.params import UserError
from tests.conftest import ROOT


def test_every_pin_of_the_lock_is_a_library_and_its_hashes_and_comments_are_not(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# made by a tool\n--index-url https://example.invalid/simple\n\n"
        "Zope.Interface==7.2 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n    # via something\n"
        "annotated_types==0.8.0 --hash=sha256:22\n"
    )

    assert list(locked_versions(lock).items()) == [("annotated-types", "0.8.0"), ("zope-interface", "7.2")]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("sys_platform == 'win32' or sys_platform == 'emscripten'", False),
        ("sys_platform == 'linux'", True),
        ("python_full_version >= '3.12'", False),
        ("python_version < '3.12' and platform_python_implementation == 'CPython'", True),
        ("platform_machine == 'arm64'", False),
    ],
)
def test_a_condition_is_asked_of_one_platform_and_not_of_this_machine(
    tmp_path: Path, condition: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"colorama==0.4.6 ; {condition} \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(sys, "platform", "win32")

    assert locked_versions(lock) == ({"colorama": "0.4.6"} if holds else {})


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy==2.*", "-e .", "numpy @ file:///x", "six==1 ; sys_platform", "==1"]
)
def test_a_line_that_pins_nothing_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "lock.txt").write_text(f"six==1.17.0\n{line}\n")

    with pytest.raises(UserError) as raised:
        locked_versions(tmp_path / "lock.txt")

    assert str(raised.value) == f"lock.txt: line 2: expected name==version, found `{line}`; run `make lock`"


def test_a_lock_that_is_missing_says_how_it_comes_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="requirements-pipeline.txt: there is no such file; get it with `git checkout"):
        write_environment(tmp_path)


def test_what_is_written_is_read_and_a_second_time_changes_no_byte(project: Path) -> None:
    before = (project / "environment.json").read_bytes()

    write_environment(project)

    assert (project / "environment.json").read_bytes() == before, "run `python -m mlops_pkg.core.environment`"
    assert read_environment(project) == locked_libraries(project)


def test_the_libraries_of_the_stages_and_of_the_endpoint_are_locked(project: Path) -> None:
    stages, endpoint = (locked_versions(project / f"requirements-{extra}.txt") for extra in ("pipeline", "serve"))

    assert {"scikit-learn", "skops"} <= stages.keys() - endpoint.keys()
    assert {"fastapi", "uvicorn"} <= endpoint.keys() - stages.keys()
    assert locked_libraries(project) == {**stages, **endpoint}


def test_lock_files_that_do_not_agree_are_named(project: Path) -> None:
    lock = project / "requirements-serve.txt"
    version = locked_versions(lock)["numpy"]
    lock.write_text(lock.read_text().replace(f"numpy=={version}", "numpy==2.4.0"))

    with pytest.raises(UserError) as raised:
        write_environment(project)

    told = f"requirements-serve.txt: numpy is 2.4.0, requirements-pipeline.txt pins {version}; run `make lock`"
    assert str(raised.value) == told


def test_a_lock_of_the_endpoint_that_is_missing_is_named(project: Path) -> None:
    (project / "requirements-serve.txt").unlink()

    with pytest.raises(UserError, match="^requirements-serve.txt: there is no such file; get it with `git checkout"):
        write_environment(project)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[]", "a mapping"), (b'{"six": 1}', "a mapping")],
)
def test_an_environment_that_is_torn_says_how_it_is_mended(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "environment.json").write_bytes(content)

    with pytest.raises(UserError, match=rf"environment.json: .*{word}.*run `python -m mlops_pkg.core.environment`"):
        read_environment(tmp_path)


def test_the_command_writes_the_file_and_a_mistake_leaves_it(project: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(project)
    (project / "environment.json").write_text("{}\n")

    assert main() == 0
    good = (project / "environment.json").read_bytes()
    with (project / "requirements-pipeline.txt").open("a") as lock:
        lock.write("numpy\n")

    assert main() == 1
    assert (project / "environment.json").read_bytes() == good
    assert capsys.readouterr().err.endswith("expected name==version, found `numpy`; run `make lock`\n")


def test_installed_versions_are_those_of_the_interpreter() -> None:
    import numpy

    assert installed_versions(["numpy", "no-such-library"]) == {"numpy": numpy.__version__, "no-such-library": None}


def test_a_module_belongs_to_the_library_that_installed_it() -> None:
    locked = ("numpy", "pyyaml", "scikit-learn", "six", "skops")

    assert libraries_of(["sklearn.tree._tree", "yaml", "_yaml", "json", "mlops_pkg.core", "click"], locked) == {
        "pyyaml",
        "scikit-learn",
    }


@pytest.mark.parametrize("name", ["scikit-learn", "Scikit_Learn", "scikit.learn", "scikit-_learn"])
def test_every_spelling_is_one_name(name: str) -> None:
    assert canonical(name) == "scikit-learn"


def test_a_new_version_makes_stale_the_stages_that_use_it_and_dvc_names_the_library(tmp_path: Path) -> None:
    pytest.importorskip("dvc")
    for name in ("dvc.yaml", "environment.json", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    declared = {
        name: [key for entry in stage.get("params", []) if isinstance(entry, dict) for key in entry["environment.json"]]
        for name, stage in stages.items()
    }
    versions = read_environment(tmp_path)
    lock = {
        name: {"cmd": stages[name]["cmd"], "params": {"environment.json": {key: versions[key] for key in keys}}}
        for name, keys in declared.items()
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")

    before = changed_libraries(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({**versions, "scikit-learn": "1.9.2"}))
    after = changed_libraries(tmp_path)

    assert before == {}
    assert after == {name: {"scikit-learn": "modified"} for name, keys in declared.items() if "scikit-learn" in keys}
    assert {"train", "notebook-train", "parity"} <= after.keys()
    assert not {"ingest", "notebook-ingest", "sync", "report"} & after.keys()


def changed_libraries(root: Path) -> dict[str, dict[str, str]]:
    """What `dvc status` says of single libraries, by stage."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    found = {}
    for stage, changes in json.loads(done.stdout).items():
        for change in changes:
            libraries = change.get("changed deps", {}).get("environment.json") if isinstance(change, dict) else None
            if isinstance(libraries, dict):
                found[stage] = libraries
    return found
