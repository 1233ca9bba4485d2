"""Walks: mistakes are found before anything starts, and a walk that fails leaves no trace on the outputs."""

import json
from pathlib import Path

import pytest

pytest.importorskip("papermill")
pytest.importorskip("nbdev")

from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace, replacing
from mlops_pkg.project.files import stage_notebook
from mlops_pkg.project.research import Progress, merge_streams, normalise, parse_overrides, research, walk


def files(root: Path) -> dict[str, bytes]:
    """Every file under research/ by its name."""
    found = (path for path in (root / "research").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def break_stage(toy: Path, stage: str) -> None:
    path = stage_notebook(toy, stage)
    path.write_text(path.read_text().replace("print('rate', RATE)", "raise ValueError('first\\\\nsecond line')"))


def test_walk_writes_its_outputs_and_the_executed_notebook(toy: Path) -> None:
    heard: list[tuple[str, int, int]] = []

    walk("train", Workspace(toy, "research"), report=lambda *told: heard.append(told))

    assert files(toy).keys() == {"research/train.ipynb", "research/train/rates.json"}
    executed = json.loads((toy / "research" / "train.ipynb").read_text())
    assert executed["cells"][-1]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": "rate 0.1\n"}]
    assert heard[-1] == ("train", 7, 7)


def test_equal_walks_give_equal_bytes_and_no_path_or_time(toy: Path) -> None:
    place = Workspace(toy, "research")
    path = walk("train", place)
    before = path.read_bytes()

    walk("train", place)

    assert path.read_bytes() == before
    for word in (str(toy), ".train.tmp", "duration", "start_time"):
        assert word not in before.decode(), f"{word} is in the executed notebook"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("evaluate.bootstrp=50", ("evaluate.bootstrp", "did you mean 'bootstrap'?")),
        ("evaluate.bootstrap='50'", ("evaluate.bootstrap", '"50"', "integer")),
        ("evaluate.confidence=7.0", ("evaluate.confidence", "7.0", "less than 1")),
    ],
)
def test_mistaken_parameter_is_one_line_and_nothing_is_written(toy: Path, pair: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        research(["train"], overrides=parse_overrides([pair]), workspace=Workspace(toy, "research"))

    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: ")
    assert all(word in message for word in words), message
    assert not (toy / "research").exists()


def test_misspelt_stage_is_told_before_the_others_run(toy: Path) -> None:
    with pytest.raises(UserError, match="no stage is named 'trian'; did you mean 'train'"):
        research(["ingest", "trian"], workspace=Workspace(toy, "research"))

    assert not (toy / "research").exists()


def test_notebook_whose_tag_is_lost_is_not_walked(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    path.write_text(path.read_text().replace('"parameters"', '"parameter"'))

    with pytest.raises(UserError, match="0 cells are tagged `parameters`"):
        research(["train"], workspace=Workspace(toy, "research"))

    assert not (toy / "research").exists()


def test_failing_walk_keeps_earlier_outputs_and_shows_how_far_it_came(toy: Path) -> None:
    place = Workspace(toy, "research")
    walk("train", place)
    before = files(toy)
    break_stage(toy, "train")

    with pytest.raises(UserError) as caught:
        walk("train", place)

    message = str(caught.value)
    assert message == (
        "train: the walk through nbs/pipeline/22_train.ipynb failed in cell step-5: second line; "
        "see research/train.failed.ipynb"
    )
    after = files(toy)
    failed = after.pop("research/train.failed.ipynb")
    assert after == before
    assert b"ValueError" in failed


def test_kernel_that_dies_is_a_message_and_keeps_earlier_outputs(toy: Path) -> None:
    place = Workspace(toy, "research")
    walk("train", place)
    before = files(toy)
    path = stage_notebook(toy, "train")
    path.write_text(path.read_text().replace("print('rate', RATE)", "import os; os._exit(1)"))

    with pytest.raises(UserError, match="because its kernel died"):
        walk("train", place)

    assert {name: content for name, content in files(toy).items() if "failed" not in name} == before


def test_notebook_with_a_broken_cell_is_named_and_not_walked(toy: Path) -> None:
    stage_notebook(toy, "train").write_text('{"cells": [{"cell_type": "code", "id": "load"}]}')

    with pytest.raises(UserError, match=r"^22_train.ipynb: not a notebook: cell 1 \(load\) has no source$"):
        research(["train"], workspace=Workspace(toy, "research"))

    assert not (toy / "research").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_walks_of_one_stage_at_once_are_one_line(toy: Path, jobs: int) -> None:
    place = Workspace(toy, "research")
    research(["train"], workspace=place)
    before = files(toy)

    with replacing(place, "train") as other:
        (other.root / other.out / "train").mkdir(parents=True)
        with pytest.raises(UserError) as caught:
            research(["ingest", "train"][2 - jobs :], jobs, workspace=place)
        between = files(toy)
        (other.root / other.out / "train" / "rates.json").write_bytes(before["research/train/rates.json"])

    assert str(caught.value).startswith("train: another run of this stage is writing")
    assert "\n" not in str(caught.value)
    assert before.items() <= between.items(), "the walk that was refused changed something"
    assert (toy / "research" / "train" / "rates.json").read_bytes() == before["research/train/rates.json"]


def test_walk_that_writes_nothing_is_an_error(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    path.write_text(path.read_text().replace("Path(out) / 'train'", "Path('elsewhere')"))

    with pytest.raises(UserError, match="wrote nothing to its folder"):
        walk("train", Workspace(toy, "research"))

    assert files(toy) == {}


def test_walks_at_once_do_not_stop_one_another(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_stage(toy, "ingest")

    with pytest.raises(UserError) as caught:
        research(["ingest", "train"], jobs=2, workspace=Workspace(toy, "research"))

    assert str(caught.value).startswith("ingest: the walk through")
    assert "\n" not in str(caught.value), "the walk that ended well is not an error"
    assert "research/train/rates.json" in files(toy)
    printed = capsys.readouterr().out
    assert "train: 7 of 7 cells, done after" in printed
    assert "ingest: 7 of 7 cells, failed" in printed or "ingest: 6 of 7 cells, failed" in printed


def test_overrides_reach_the_notebook(toy: Path) -> None:
    path = stage_notebook(toy, "train")
    path.write_text(path.read_text().replace("print('rate', RATE)", "print(overrides)"))

    walk("train", Workspace(toy, "research"), {"train": {"options": {"max_iter": 50}}})

    assert "{'train': {'options': {'max_iter': 50}}}" in (toy / "research" / "train.ipynb").read_text()


def test_later_override_wins_and_sections_are_kept() -> None:
    assert parse_overrides(["data.columns['a.b (c)'].maximum=3"]) == {"data": {"columns": {"a.b (c)": {"maximum": 3}}}}
    overrides = parse_overrides(["train.max_iter=50", "seed=1", "train.max_iter=60", "train.estimator=linear"])

    assert overrides == {"train": {"max_iter": 60, "estimator": "linear"}, "seed": 1}


@pytest.mark.parametrize("pair", ["train.max_iter", "=5", "train.max_iter=[1"])
def test_override_that_cannot_be_read_is_a_mistake_of_the_user(pair: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_overrides([pair])


def test_text_between_two_outputs_is_merged_by_stream() -> None:
    plot = {"output_type": "display_data", "data": {}, "metadata": {}}
    pieces = [("stdout", "a"), ("stderr", "x"), ("stdout", "b")]
    streams = [{"output_type": "stream", "name": name, "text": text} for name, text in pieces]

    merged = merge_streams([*streams, plot, streams[0]])

    assert [(one.get("name"), one.get("text")) for one in merged] == [
        ("stdout", "ab"),
        ("stderr", "x"),
        (None, None),
        ("stdout", "a"),
    ]


def test_process_numbers_and_addresses_are_dropped() -> None:
    text = "/tmp/ipykernel_123/456.py:1: UserWarning\n<Model object at 0x7f00aa> in /a/project/data"
    outputs = [{"output_type": "stream", "name": "stderr", "text": text}]
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": outputs}

    tidy = json.loads(normalise({"cells": [cell], "metadata": {}}, Path("/a/project"), "research/.train.tmp"))

    assert tidy["cells"][0]["outputs"][0]["text"] == "cell:1: UserWarning\n<Model object> in data"


def test_progress_at_a_terminal_is_rewritten_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    progress = Progress(["train"])

    progress.advance("train", 1, 2)
    progress.advance("train", 2, 2)
    progress.finish("train", None)

    printed = capsys.readouterr().out
    assert printed.count("\033[1A") == 3, "every line but the first is written over the one before"
    assert "train  2 of 2 cells, done after" in printed
    assert "\033[32m" not in printed


def test_what_a_dying_kernel_says_is_in_a_log_and_not_at_the_terminal(
    toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = stage_notebook(toy, "train")
    dying = "import os; os.write(2, b'the last words'); os._exit(1)"
    path.write_text(path.read_text().replace("print('rate', RATE)", dying))

    with pytest.raises(UserError, match="because its kernel died; see .*research/train.failed.log"):
        walk("train", Workspace(toy, "research"))

    assert "the last words" in (toy / "research" / "train.failed.log").read_text()
    assert "the last words" not in "".join(capfd.readouterr())
