"""The command line: its help teaches, its exit codes tell, and it imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mlops_pkg import __version__
from mlops_pkg.cli import _PARTS, commands, metrics_summary, parity_summary
from mlops_pkg.core.params import UserError

PROJECT = Path(__file__).parents[1]
NAMES = commands.list_commands(click.Context(commands))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, list(arguments), prog_name="mlops_pkg")


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = {
        "pandas",
        "numpy",
        "pydantic",
        "yaml",
        "sklearn",
        "papermill",
        "nbdev",
        "matplotlib",
        "onnxruntime",
        "pyarrow",
    }
    code = f"import sys, mlops_pkg.cli; print(*sorted({heavy} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "", "imported at the start"


def test_python_m_is_the_same_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "mlops_pkg", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == f"mlops_pkg, version {__version__}"


def test_help_lists_every_command_under_a_heading() -> None:
    result = run("--help")

    assert result.exit_code == 0
    assert sorted({*NAMES} - {*_PARTS}) == sorted(commands.commands), "a command is under no heading, or under two"
    assert len(set(NAMES)) == len(NAMES)
    headings = [result.output.index(heading) for heading in ("Look and try", "Prove", "Share:", "Read:")]
    assert headings == sorted(headings)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")

    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"\n    mlops_pkg {name}" in result.output, "the example does not stand on a line of its own"
    assert "\\b" not in result.output


def test_without_its_floor_a_command_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_pkg.cli._DAY", {"Read": ("summary",), "Use": ("answer",)})
    monkeypatch.setattr("mlops_pkg.cli._PARTS", {"answer": "nowhere"})

    assert "Use" not in run("--help").output
    assert (run("answer").exit_code, run("summary", "--help").exit_code) == (2, 0)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("party", "'parity'"),
        ("research --job 2", "--jobs"),
        ("research -j 0", "0 is not in the range"),
        ("stage", "Missing argument"),
        ("stage trian", "no stage is named 'trian'; did you mean 'train'?"),
        ("research train trian", "no stage is named 'trian'; did you mean 'train'?"),
        ("research train --set foo", "--set foo: expected key=value"),
        ("research train --set train.max_iter=[1", "the value is not valid YAML"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(line: str, hint: str) -> None:
    result = run(*line.split())

    assert result.exit_code == 2
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("research train --set evaluate.bootstrp=50", "did you mean 'bootstrap'?"),
        ("research train --set evaluate.bootstrap='50'", "integer"),
        ("research train --set evaluate.confidence=7.0", "less than 1"),
    ],
)
def test_mistake_of_the_user_is_one_line_and_ends_with_1(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("params.yaml", "settings.ini", "dvc.yaml", "mlops_pkg/pipeline/params.py")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    monkeypatch.chdir(tmp_path)

    result = run(*line.split())

    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(files), "something was written"


@pytest.mark.parametrize("line", ["summary", "sync", "parity", "research", "report", "data"])
def test_outside_a_project_each_command_says_so(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(line)

    assert result.exit_code == 1
    assert "params.yaml: not found" in result.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mlops_pkg.proof.parity.parity", broken)

    assert isinstance(run("parity").exception, ZeroDivisionError)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> bool:
        raise ModuleNotFoundError("No module named 'nbdev'", name="nbdev")

    monkeypatch.setattr("mlops_pkg.proof.parity.parity", lacking)

    result = run("parity")

    assert result.exit_code == 1
    assert "nbdev: not installed" in result.stderr


@pytest.mark.parametrize("line", ["merge", "merge topic --abort", "merge --continue --abort"])
def test_a_merge_begins_goes_on_or_goes_back(line: str) -> None:
    result = run(*line.split())

    assert result.exit_code == 2
    assert "give a branch, or --continue, or --abort" in result.stderr


@pytest.mark.parametrize("red", [None, "sync", "rebuild", "parity"])
def test_prove_runs_all_proofs_and_is_green_only_if_all_are(
    red: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("sync", "rebuild", "parity"):
        monkeypatch.setattr(f"mlops_pkg.proof.{name}.{name}", lambda name=name: name != red)

    result = run("prove")

    assert result.exit_code == (red is not None)
    rows = [line.split()[:2] for line in result.output.splitlines()[-3:]]
    assert rows == [[name, "red" if name == red else "green"] for name in ("sync", "rebuild", "parity")]


@pytest.mark.parametrize("name", ["sync", "parity"])
def test_red_proof_ends_with_1_even_where_no_page_can_be_written(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"mlops_pkg.proof.{name}.{name}", lambda: False)

    result = run(name)

    assert result.exit_code == 1
    assert "reports/index.html: not written: params.yaml: not found" in result.stderr


def test_red_proof_is_red_on_the_page_and_green_after_the_mend(measured: Path) -> None:
    pytest.importorskip("matplotlib")
    (measured / "dvc.yaml").write_text(
        "stages: {train: {cmd: python -m mlops_pkg.core.stage train, outs: [artifacts/train/model.txt]}}"
    )
    page = measured / "reports" / "index.html"
    page.write_text("Research equals production")
    for side, text in (("artifacts", "good"), ("research", "bad")):
        (measured / side / "train").mkdir(parents=True)
        (measured / side / "train" / "model.txt").write_text(text)

    red = run("parity")

    assert red.exit_code == 1
    assert "Research differs from production: 0 of 1 outputs" in page.read_text()

    (measured / "research" / "train" / "model.txt").write_text("good")
    assert run("parity").exit_code == 0
    assert "Research equals production: 1 of 1 outputs" in page.read_text()


@pytest.mark.usefixtures("measured")
def test_green_proof_leaves_the_page_to_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_pkg.proof.sync.sync", lambda: True)

    assert run("sync").exit_code == 0
    assert not Path("../reports/index.html").exists()


def test_research_hands_over_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []
    monkeypatch.setattr("mlops_pkg.project.research.research", lambda *given: handed.extend(given))

    result = run("research", "train", "-j", "2", "--set", "train.options.max_iter=50")

    assert result.exit_code == 0
    assert handed == [("train",), 2, {"train": {"options": {"max_iter": 50}}}]
    assert "parity will be red" in result.output


def test_stage_ends_with_the_runner_s_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_pkg.core.stage.main", lambda names: 0 if names == ["train"] else 1)

    assert (run("stage", "train").exit_code, run("stage", "ingest").exit_code) == (0, 1)


def test_data_tells_what_restore_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlops_pkg.core.sources.restore", lambda workspace: f"restored in {workspace.root.name}")

    assert run("data").output.strip() == f"restored in {tmp_path.name}"


def test_data_that_cannot_be_restored_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def torn(_: object) -> str:
        raise UserError("data/flights.csv.zip: another digest")

    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlops_pkg.core.sources.restore", torn)

    result = run("data")

    assert (result.exit_code, result.stderr) == (1, "data/flights.csv.zip: another digest\n")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has been run and compared."""
    (tmp_path / "params.yaml").write_text("")
    outs = {"ingest": ["artifacts/ingest/rows.json"], "evaluate": ["artifacts/evaluate/comparison.json"]}
    pipeline = {name: {"cmd": f"python -m mlops_pkg.core.stage {name}", "outs": files} for name, files in outs.items()}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": pipeline}))
    metric = {"value": 0.696, "low": 0.69, "high": 0.702}
    contents = {
        "artifacts/ingest/rows.json": {
            "tables": {"flights": {"read": 336776, "rejected": 2, "kept": 336774}},
            "splits": {"train": 188971, "test": 55628},
        },
        "artifacts/evaluate/comparison.json": {
            "test": {"model": {"roc_auc": metric}, "prior": {"roc_auc": {"value": 0.5}}}
        },
        "reports/parity.json": {"ok": True, "outputs": [{"equal": True}, {"equal": True}]},
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "nbs").mkdir()
    monkeypatch.chdir(tmp_path / "nbs")
    return tmp_path


@pytest.mark.usefixtures("measured")
def test_summary_says_where_things_stand() -> None:
    result = run("summary")

    assert result.exit_code == 0
    for told in (
        "336,776 read, 2 rejected; 188,971 train, 55,628 test",
        "roc_auc  0.696 [0.690, 0.702]  0.500",
        "parity: green, research equals production: 2 of 2 outputs",
        "reports/index.html",
    ):
        assert told in result.output, f"{told} is not in the summary"


def test_summary_of_a_red_parity_is_red(measured: Path) -> None:
    verdicts = {"ok": False, "outputs": [{"equal": True}, {"equal": False}]}
    (measured / "reports" / "parity.json").write_text(json.dumps(verdicts))

    assert "parity: red, research differs from production: 1 of 2 outputs" in run("summary").output


def test_summary_of_a_fresh_project_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)

    result = run("summary")

    assert result.exit_code == 0
    assert result.output.count("run `dvc repro`") == 2
    assert "run `mlops_pkg research`, then `mlops_pkg parity`" in result.output


def test_report_names_the_page_and_opens_it_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    page = tmp_path / "reports" / "index.html"
    monkeypatch.setattr("mlops_pkg.report.page.report", lambda: page)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)

    assert run("report").output.strip() == "reports/index.html"
    assert opened == []
    assert run("report", "--open").exit_code == 0
    assert opened == [page.as_uri()]


def test_a_better_baseline_is_told_in_one_line() -> None:
    metrics = {"test": {"model": {"mae": {"value": 3.0}}, "linear": {"mae": {"value": 2.5}}}}

    worse = metrics_summary(metrics, {"model": {"mae": 3.0}, "linear": {"mae": 2.5}})
    better = metrics_summary(metrics, {"model": {"mae": 2.0}, "linear": {"mae": 2.5}})

    assert worse.splitlines()[-1] == "the model is worse than linear on validation: mae 3.0000 against 2.5000"
    assert "worse" not in better


def test_a_stale_parity_is_told_with_what_has_changed() -> None:
    assert "stale, changed since it was compared: nbs, train; run `dvc repro`" in parity_summary(
        {"ok": True}, ["nbs", "train"]
    )
