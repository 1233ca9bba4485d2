"""The proof rebuild: green for a sound stage, red for everything that a stage uses without declaring it in dvc.yaml."""

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import reduce
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from mlops_pkg.core.params import UserError, load_params, read_yaml
from mlops_pkg.core.probe import MACHINE_TOOLS, readable, started_programs
from mlops_pkg.core.workspace import Workspace, read_json
from mlops_pkg.pipeline.params import Params
from mlops_pkg.project.files import params_of
from mlops_pkg.project.lock import path_digest
from mlops_pkg.proof.rebuild import Used, check_declared, dvc_lines, lay_out, params_text, rebuild, withhold
from tests.conftest import ROOT
from tests.proof.conftest import only

CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
OLD = "avx2" not in CPU or os.environ.get("OPENBLAS_CORETYPE") == "Sandybridge"  # as old as the imitated one
MODULES = ("core/params", "core/stage", "core/workspace", "modelling/sections", "pipeline/params")
COMMAND = "python -m mlops_pkg.core.stage train"


class Toy:
    """A project of one stage, `train`, run by the package's own runner and recorded as DVC records it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in MODULES:
            module = root / "mlops_pkg" / f"{name}.py"
            module.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "mlops_pkg" / f"{name}.py", module)
        for folder in ("", "core", "modelling", "pipeline"):
            (root / "mlops_pkg" / folder / "__init__.py").touch()
        for name in ("params.yaml", "settings.ini"):
            shutil.copy(ROOT / name, root)
        (root / "data").mkdir()
        (root / "data" / "rows.csv").write_text("distance\n1400\n544\n", encoding="utf-8")
        self.deps = [*(f"mlops_pkg/{name}.py" for name in MODULES), "mlops_pkg/pipeline/train.py", "data"]
        self.params: list[str | dict[str, list[str]]] = ["seed", "evaluate.bootstrap"]
        self.outs = ["artifacts/train/rates.json"]

    def record(self, body: str) -> None:
        """Write the stage, whose `value` the body computes, run it here, and record what came out."""
        lines = ["from mlops_pkg.core.workspace import write_bytes, write_json", "def run(params, workspace):"]
        lines += [f"    {line}" for line in body.splitlines()]
        lines += ["    write_json(workspace.output('train', 'rates.json'), {'seed': params.seed, 'value': value})"]
        (self.root / "mlops_pkg" / "pipeline" / "train.py").write_text("\n".join(lines), encoding="utf-8")
        subprocess.run([sys.executable, *COMMAND.split()[1:]], cwd=self.root, capture_output=True, check=True)
        self.lock()

    def lock(self) -> None:
        """Write dvc.yaml and dvc.lock for the present files."""
        stage = {"cmd": COMMAND, "deps": self.deps, "params": self.params, "outs": self.outs}
        (self.root / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
        lists = {
            kind: [{"path": path, "md5": path_digest(self.root / path)} for path in paths]
            for kind, paths in (("deps", self.deps), ("outs", self.outs))
        }
        recorded = {file: self.values(file, keys) for file, keys in params_of(stage).items()}
        locked = {"cmd": COMMAND, **lists, "params": recorded}
        (self.root / "dvc.lock").write_text(json.dumps({"stages": {"train": locked}}))

    def values(self, file: str, keys: list[str]) -> dict[str, object]:
        """Return the values of dotted keys."""
        whole = yaml.safe_load((self.root / file).read_text())
        return {key: reduce(lambda part, name: part[name], key.split("."), whole) for key in keys}

    def found(self) -> list[str]:
        """Return the findings of the proof; none if it is green."""
        ok = rebuild(["train"], 1, Workspace(self.root))
        written = read_json(self.root / "reports" / "rebuild.json")
        (stage,) = written["stages"]
        assert ok == written["ok"] == stage["ok"]
        found = [*stage["findings"], *(str(out["difference"]) for out in stage["outputs"] if not out["equal"])]
        assert ok == (not found)
        return found


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path.resolve() / "toy")


def test_a_sound_stage_is_green_and_the_project_is_left_alone(toy: Toy) -> None:
    toy.record("value = len((workspace.data / 'rows.csv').read_text().splitlines()) * params.evaluate.bootstrap")
    before = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}

    assert toy.found() == []

    after = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {toy.root / "reports" / "rebuild.json"}
    assert all(after[path] == content for path, content in before.items())


def test_what_a_stage_takes_is_measured_with_the_processes_that_it_starts(toy: Toy) -> None:
    work = "import time\ndata = bytearray(600_000_000)\nwhile time.process_time() < 1.5: pass"
    toy.record(f"import subprocess, sys\nvalue = subprocess.run([sys.executable, '-c', {work!r}]).returncode")

    assert toy.found() == []

    (stage,) = read_json(toy.root / "reports" / "rebuild.json")["stages"]
    took = stage["resources"]
    assert 1.5 <= took["cpu_seconds"] < 20
    assert took["seconds"] >= 1.5
    assert 0.6 <= took["peak_gb"] < 1.2


def test_a_library_that_looks_at_the_machine_while_it_is_imported_is_no_fault(toy: Toy) -> None:
    toy.record("import psutil, joblib\nvalue = joblib.Parallel(n_jobs=1)([]) == []")

    assert toy.found() == []


FAULTS = {
    "an undeclared helper module": (
        "from mlops_pkg.core.helper import RATE\nvalue = RATE",
        ("No module named 'mlops_pkg.core.helper'",),
    ),
    "a helper module beside the package": ("import beside\nvalue = beside.RATE", ("No module named 'beside'",)),
    "an undeclared file, through pandas": (
        "import pandas\nvalue = len(pandas.read_csv(workspace.root / 'extra.csv'))",
        ("extra.csv",),
    ),
    "an undeclared file, through pyarrow": (
        "import pyarrow.csv\nvalue = pyarrow.csv.read_csv(workspace.root / 'extra.csv').num_rows",
        ("extra.csv",),
    ),
    "an output of a stage that is not declared": (
        "value = len(workspace.input('features', 'rows.txt').read_text())",
        ("artifacts/features/rows.txt: missing",),
    ),
    "a param that is not declared": (
        "value = params.train.estimator",
        ("params.yaml: train: not declared; add `train`",),
    ),
    "a param beside a declared one": (
        "value = params.evaluate.confidence",
        ("params.yaml: evaluate.confidence: not declared",),
    ),
    "the date in an output": (
        "import datetime\nvalue = datetime.date.today().isoformat()",
        ("value: ", " recorded, ", " rebuilt"),
    ),
    "the hour in an output": ("import time\nvalue = time.localtime().tm_hour", ("value: ", " recorded, ", " rebuilt")),
    "the instructions of the processor": (
        "import numpy\na = numpy.random.default_rng(0).normal(size=(99, 99))\nvalue = (a @ a @ a).sum().hex()",
        ("value: ", " recorded, ", " rebuilt"),
    ),
    "the machine's name": ("import platform\nvalue = platform.node()", ("value: ", "another-machine")),
    "the machine's name, through a socket": (
        "import socket\nvalue = socket.gethostname()",
        ("value: ", "another-machine"),
    ),
    "the machine's name, through a program": (
        "import subprocess\nvalue = len(subprocess.run('uname -n | wc -l', shell=True, capture_output=True).stdout)",
        ("runs uname: a fact of this machine",),
    ),
    "the machine's memory": (
        "value = bool(open('/proc/meminfo').read())",
        ("reads /proc/meminfo: a fact of this machine",),
    ),
    "the machine's memory, through sysconf": (
        "import os\nvalue = os.sysconf('SC_PHYS_PAGES')",
        ("value: ", " rebuilt"),
    ),
    "the machine's memory, through a library": (
        "import psutil\nvalue = bool(psutil.virtual_memory().total)",
        ("reads /proc/meminfo: a fact of this machine",),
    ),
    "the machine's disks": (
        "import os\nvalue = bool(os.listdir('/sys/class'))",
        ("reads /sys/class: a fact of this machine",),
    ),
    "the user": ("import getpass\nvalue = getpass.getuser()", ("value: ", " rebuilt")),
    "the user, through the accounts": (
        "import os, pwd\nvalue = pwd.getpwuid(os.getuid()).pw_name",
        ("value: ", "another-machine"),
    ),
    "the network card": ("import uuid\nvalue = uuid.getnode()", ("value: ", " rebuilt")),
    "the width of the terminal": (
        "import shutil\nvalue = shutil.get_terminal_size().columns",
        ("value: ", " recorded, 63 rebuilt"),
    ),
    "a param read around the contract": (
        "import yaml\nvalue = yaml.safe_load(workspace.params.read_text())['evaluate']['bootstrap']",
        ("failed: yaml.constructor.ConstructorError: could not determine a constructor for the tag '!undeclared'",),
    ),
    "the order of a set": ("value = list({f'column {n}' for n in range(50)})", ("value[", " recorded, ", " rebuilt")),
    "an unseeded random number": ("import random\nvalue = random.random()", ("value: ", " recorded, ", " rebuilt")),
    "the number of threads": (
        "import os\nshares = int(os.environ['OMP_NUM_THREADS'])\n"
        "value = sum(sum([0.1] * (30 // shares)) for _ in range(shares)) + shares",
        ("value: ", " recorded, ", " rebuilt"),
    ),
    "the number of processors": ("import os\nvalue = os.cpu_count()", ("value: ", " recorded, ", " rebuilt")),
    "text that is read as the locale says": (
        "path = workspace.root / 'name.txt'\npath.write_bytes('Zürich'.encode())\nvalue = path.open().read()",
        ("UnicodeDecodeError",),
    ),
    "an absolute path in an output": (
        "value = str(workspace.root)",
        ("value: ", "/toy", " recorded, ", " rebuilt"),
    ),
    "the home folder in an output": (
        "from pathlib import Path\nvalue = Path.home().name",
        ("value: ", " recorded, ", '"home" rebuilt'),
    ),
    "a variable of the shell in an output": (
        "import os\nvalue = os.environ.get('MLOPS_TEST_RATE')",
        ('value: "0.1" recorded, null rebuilt',),
    ),
    "an undeclared output": (
        "value = 1\nwrite_bytes(workspace.output('train', 'more.txt'), b'more')",
        ("artifacts/train/more.txt: made, but not declared",),
    ),
    "an output outside its folder": (
        "value = 1\nwrite_bytes(workspace.root / 'notes.txt', b'more')",
        ("notes.txt: made, but not declared",),
    ),
    "an input that is written to": (
        "value = 1\nwrite_bytes(workspace.data / 'rows.csv', b'distance')",
        ("data/rows.csv: an input, and the stage has written to it",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_red_and_named(toy: Toy, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "the instructions of the processor" and OLD:
        pytest.skip("this processor is as old as the imitated one")
    body, words = FAULTS[fault]
    monkeypatch.setenv("MLOPS_TEST_RATE", "0.1")
    (toy.root / "mlops_pkg" / "core" / "helper.py").write_text("RATE = 0.1")
    (toy.root / "beside.py").write_text("RATE = 0.1")
    (toy.root / "extra.csv").write_text("a\n1\n")
    (toy.root / "artifacts" / "features").mkdir(parents=True)
    (toy.root / "artifacts" / "features" / "rows.txt").write_text("rows")
    toy.record(body)
    if "name.txt" in body:
        (toy.root / "name.txt").unlink()

    found = toy.found()

    assert any(all(word in told for word in words) for told in found), found


@pytest.mark.parametrize(
    ("arguments", "tools"),
    [
        (("/usr/bin/uname", ["uname", "-n"]), {"uname"}),
        (("/usr/bin/env", ["env", "LC_ALL=C", "df"]), {"df"}),
        (
            ("/bin/sh", ["/bin/sh", "-c", "wc -l < a.csv; LC_ALL=C free && /bin/df / || echo $(id) | nproc"]),
            {"free", "df", "id", "nproc"},
        ),
        ((b"cat a.csv\nwhoami",), {"whoami"}),
        (("/usr/bin/sort", ["sort", "id"]), set()),
        (("/bin/sh", ["sh", "-c", "sort id | cut -f 1 > free; grep -c 'uname' df"]), set()),
        (("/bin/sh", ["sh", "count.sh", "id"]), set()),
    ],
)
def test_only_the_first_word_of_a_command_is_a_program(arguments: tuple[object, ...], tools: set[str]) -> None:
    assert started_programs(arguments) & MACHINE_TOOLS == tools


CONFINED = subprocess.run(
    [sys.executable, "-c", "from mlops_pkg.core.probe import confine; print(confine([], []))"],
    capture_output=True,
    text=True,
    check=True,
).stdout.startswith("True")


@pytest.mark.skipif(not CONFINED, reason="this kernel cannot keep files out of reach (Landlock)")
@pytest.mark.parametrize("reader", ["open(path).read()", "__import__('pyarrow').csv.read_csv(path).num_rows"])
def test_an_absolute_path_into_the_project_is_out_of_reach(toy: Toy, reader: str) -> None:
    (toy.root / "extra.csv").write_text("a\n1\n")
    toy.record(f"import pyarrow.csv\npath = {str(toy.root / 'extra.csv')!r}\nvalue = {reader}")

    assert only(toy.found(), "PermissionError", "extra.csv") or only(toy.found(), "Permission denied", "extra.csv")


@pytest.mark.skipif(not CONFINED, reason="this kernel cannot keep files out of reach (Landlock)")
def test_a_file_in_the_home_of_the_user_cannot_be_written(toy: Toy, tmp_path: Path) -> None:
    toy.record(f"value = 1\nopen({str(tmp_path / 'made.txt')!r}, 'w').close()")

    assert only(toy.found(), "PermissionError", "made.txt")


NETWORK = CONFINED and tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 7)


@pytest.mark.skipif(not NETWORK, reason="this kernel cannot keep the network out of reach (Landlock of Linux 6.7)")
def test_an_undeclared_download_is_red(toy: Toy) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        toy.record(f"from urllib.request import urlopen\nvalue = urlopen({address!r}).status")
        found = toy.found()
        server.shutdown()

    assert only(found, "Permission denied")


def test_a_column_that_has_the_name_of_a_tool_is_green(toy: Toy) -> None:
    toy.record("import subprocess\nvalue = len(subprocess.run(['printf', 'id'], capture_output=True).stdout)")

    assert toy.found() == []


def test_what_a_failed_stage_said_is_kept(toy: Toy) -> None:
    toy.record("print('about to read')\nvalue = params.evaluate.confidence")

    assert only(toy.found(), "see reports/rebuild/train.log")
    assert "about to read" in (toy.root / "reports" / "rebuild" / "train.log").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: (root / "data" / "rows.csv").write_text("a\n"), "data has changed since it ran; run `dvc repro`"),
        (lambda root: shutil.rmtree(root / "data"), "data is missing; run `dvc repro`"),
        (
            lambda root: (root / "mlops_pkg" / "core" / "stage.py").open("a").write("#\n"),
            "mlops_pkg/core/stage.py has changed since it ran; run `dvc repro`",
        ),
        (lambda root: (root / "dvc.lock").write_text("stages: {}"), "dvc.lock does not record it; run `dvc repro`"),
    ],
)
def test_a_project_that_is_not_as_recorded_is_red_and_not_run(toy: Toy, change: object, told: str) -> None:
    toy.record("value = 1")
    change(toy.root)  # type: ignore[operator]

    assert only(toy.found(), told)


def test_another_recorded_command_or_output_is_red(toy: Toy) -> None:
    toy.record("value = 1")
    text = (toy.root / "dvc.yaml").read_text()
    (toy.root / "dvc.yaml").write_text(text.replace("core.stage train", "core.stage  train"))
    assert only(toy.found(), f"its cmd was `{COMMAND}` when it ran")
    (toy.root / "dvc.yaml").write_text(text.replace("rates.json", "rate.json"))
    assert "artifacts/train/rate.json is declared, but no digest of it is recorded" in toy.found()[0]


def test_an_input_that_another_stage_made_must_be_the_recorded_one(toy: Toy) -> None:
    toy.record("value = 1")
    (toy.root / "data.dvc").write_text(json.dumps({"outs": [{"path": "data", "md5": path_digest(toy.root / "data")}]}))
    assert toy.found() == []
    (toy.root / "data" / "rows.csv").write_text("a\n")
    assert only(toy.found(), "data is not the one that dvc.lock records; get that one with `dvc checkout`")
    shutil.rmtree(toy.root / "data")
    assert only(toy.found(), "data: missing; get it with `dvc pull`")


def test_a_stage_that_no_longer_makes_an_output_is_red(toy: Toy) -> None:
    toy.record("value = 1")
    (toy.root / "artifacts" / "train" / "old.json").write_text("{}")
    toy.outs.append("artifacts/train/old.json")
    toy.lock()

    assert only(toy.found(), "declared, but not made")


@pytest.mark.parametrize(
    "text", [None, "stages:\n  train:\n    cmd: [", "stages: {train: {deps: [{path: data}]}}", "[]"]
)
def test_a_missing_or_torn_lock_is_a_mistake_told_in_one_line(toy: Toy, text: str | None) -> None:
    toy.record("value = 1")
    (toy.root / "dvc.lock").unlink() if text is None else (toy.root / "dvc.lock").write_text(text)

    with pytest.raises(UserError, match=r"^dvc\.lock: .*(`dvc repro`|git checkout dvc\.lock)") as told:
        toy.found()
    assert "\n" not in str(told.value)


def test_an_unknown_stage_is_told_with_the_nearest(toy: Toy) -> None:
    toy.record("value = 1")

    with pytest.raises(UserError, match="no stage is named 'trian'; did you mean 'train'"):
        rebuild(["trian"], 1, Workspace(toy.root))


def test_withheld_values_keep_their_names_and_declared_ones_their_values() -> None:
    values = {"seed": 0, "train": {"max_iter": 5, "rate": 0.1, "deep": {"a": 1, "b": 2}}, "data": {"source": "x"}}

    text = params_text(withhold(values, ["seed", "train.max_iter", "train.deep.b"])).decode()

    assert yaml.safe_load(text.replace("!undeclared ''", "withheld")) == {
        "seed": 0,
        "train": {"max_iter": 5, "rate": "withheld", "deep": {"a": "withheld", "b": 2}},
        "data": "withheld",
    }


def test_a_file_of_params_that_is_declared_whole_is_there_whole(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "environment.json").write_text('{"numpy": "2", "scipy": "1"}')

    lay_out({"params": [{"params.yaml": None}, {"environment.json": None}]}, tmp_path, tmp_path / "whole")
    lay_out({"params": [{"environment.json": ["scipy"]}]}, tmp_path, tmp_path / "part")

    assert read_yaml(tmp_path / "whole" / "params.yaml") == {"seed": 7}
    assert read_json(tmp_path / "whole" / "environment.json") == {"numpy": "2", "scipy": "1"}
    assert "7" not in (tmp_path / "part" / "params.yaml").read_text()
    assert read_json(tmp_path / "part" / "environment.json") == {"scipy": "1"}


def test_declared_keys_are_validated_as_ever(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["train"]["linear_alpha"] = 0.0
    (tmp_path / "params.yaml").write_bytes(params_text(withhold(values, ["seed", "train.linear_alpha"])))

    with pytest.raises(UserError, match=r"params.yaml: train.linear_alpha = 0"):
        load_params(tmp_path / "params.yaml", model=Params)


def test_a_library_that_is_loaded_and_not_declared_is_red(toy: Toy) -> None:
    (toy.root / "environment.json").write_text('{"numpy": "2", "pydantic": "2", "pydantic-core": "2", "scipy": "1"}')
    toy.params += [{"environment.json": ["pydantic", "scipy"]}]
    toy.record("import numpy\nvalue = 1")

    found = toy.found()

    assert [line.split(":")[0] for line in found] == ["numpy", "pydantic-core"], found
    assert "loaded, but not declared; add it to environment.json in the params of train" in found[0]


def test_declared_by_itself_names_what_to_add_and_what_to_drop(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    (toy.root / "mlops_pkg" / "core" / "helper.py").write_text("RATE = 0.1")
    (toy.root / "environment.json").write_text('{"scipy": "1"}')
    toy.record("from mlops_pkg.core.helper import RATE\nvalue = RATE * params.evaluate.confidence")
    toy.params += ["package", {"environment.json": ["scipy"]}]
    toy.lock()

    assert not check_declared(["train"], Workspace(toy.root))

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        "+ deps: mlops_pkg/core/helper.py",
        "+ params: evaluate.confidence",
        "- params: evaluate.bootstrap",
        "- params: package",
        "- params: environment.json: scipy",
    ]


def test_a_folder_and_a_section_cover_what_lies_in_them() -> None:
    stage = {"deps": ["mlops_pkg/core", "mlops_pkg/portable"], "params": ["train", "data.columns"]}
    used = Used(("mlops_pkg/core/stage.py",), ("train", "train.max_iter", "data", "data.columns"))

    assert dvc_lines(stage, used, ["train", "data"]) == ["- deps: mlops_pkg/portable"]
    assert dvc_lines(stage, used, ["train", "data"], ["mlops_pkg/portable/graph.py"]) == []


def test_the_project_is_not_readable_but_its_environment_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path.resolve() / "project"
    (root / ".venv" / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))

    places = readable(root)

    assert root / ".venv" in places
    assert not any(root.is_relative_to(place) for place in places)
    monkeypatch.setattr("mlops_pkg.core.probe.SYSTEM", (str(tmp_path.resolve()),))
    assert root not in readable(root)
