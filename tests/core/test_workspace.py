"""Files that are whole or absent, that repeat byte for byte, and that are found from anywhere in the project."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import (
    Workspace,
    digest,
    read_json,
    read_table,
    replacing,
    table_bytes,
    write_bytes,
    write_csv,
    write_json,
    write_table,
)


def make_frame(rows: int = 500) -> pd.DataFrame:
    """One column of each kind that tables may hold, with missing values where the kind has them."""
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=rows)
    numbers[::7] = np.nan
    numbers[3], numbers[4], numbers[5] = np.inf, -np.inf, -0.0
    texts = pd.Series(generator.choice(["a", "ß", "日本", "", "NA"], rows), dtype="str")
    times = pd.Series(pd.Timestamp("1938-01-01") + pd.to_timedelta(np.arange(rows), unit="h")).astype("datetime64[us]")
    return pd.DataFrame(
        {
            "text": texts.where(texts.index % 5 != 0),
            "flag": generator.random(rows) < 0.5,
            "small": generator.integers(-100, 100, rows).astype("int8"),
            "whole": generator.integers(-(2**62), 2**62, rows),
            "number": numbers,
            "time": times.where(times.index % 11 != 0),
        }
    )


def test_a_file_is_written_in_a_new_folder(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file.bin", b"\x00\xff")

    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"\x00\xff"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file.bin"], "a temporary file is left"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    with pytest.raises(TypeError):
        write_bytes(path, "a text is not bytes")  # type: ignore[arg-type]

    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.bin"]


def test_a_write_whose_rename_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(OSError):  # noqa: PT011
        write_bytes(tmp_path / "taken", b"a folder stands here")

    assert [found.name for found in tmp_path.iterdir()] == ["taken"], "the temporary file is left"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    (tmp_path / f".file.bin.{os.getpid()}.tmp").symlink_to("/dev/full")

    with pytest.raises(UserError, match=r"file\.bin: No space left on device; make room on the disk and run it again"):
        write_bytes(path, b"new" * 100_000)

    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.bin"]


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"abc")

    assert digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    frame = make_frame()

    write_table(tmp_path / "t.parquet", frame)

    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)


def test_an_empty_table_and_empty_columns_keep_their_kinds(tmp_path: Path) -> None:
    nothing = make_frame().iloc[:0]
    missing = pd.DataFrame({name: nothing[name].reindex(range(3)) for name in ("text", "number", "time")})

    write_table(tmp_path / "nothing.parquet", nothing)
    write_table(tmp_path / "missing.parquet", missing)

    pd.testing.assert_frame_equal(read_table(tmp_path / "nothing.parquet"), nothing.reset_index(drop=True))
    pd.testing.assert_frame_equal(read_table(tmp_path / "missing.parquet"), missing)


def test_equal_frames_give_equal_bytes_however_they_came_about() -> None:
    frame = make_frame(70_000)  # more than one row group
    order = np.random.default_rng(1).permutation(len(frame))
    expected = table_bytes(frame)

    assert table_bytes(frame.copy()) == expected
    assert table_bytes(frame.iloc[order].sort_index()) == expected, "the way through another order shows"
    assert table_bytes(frame.set_axis(order)) == expected, "the index shows"
    assert table_bytes(frame.rename_axis("line")) == expected, "the name of the index shows"
    assert table_bytes(pd.concat([frame.iloc[i : i + 777] for i in range(0, len(frame), 777)])) == expected, (
        "chunks show"
    )
    assert table_bytes(frame[::-1][::-1]) == expected, "the memory layout shows"
    columns = {name: frame[name] for name in frame.columns}
    assert table_bytes(pd.DataFrame(columns)) == expected, "blocks show"
    whole = frame.assign(text=frame["text"].astype(object).astype("str"))
    assert table_bytes(whole) == expected, "the storage of the texts shows"


def test_a_different_frame_gives_different_bytes() -> None:
    frame = make_frame()

    assert table_bytes(frame.iloc[::-1]) != table_bytes(frame)
    assert table_bytes(frame.assign(small=frame["small"].astype("int16"))) != table_bytes(frame)
    assert table_bytes(frame[["flag", "text", "small", "whole", "number", "time"]]) != table_bytes(frame)


def test_bytes_are_the_same_in_another_process(tmp_path: Path) -> None:
    write_table(tmp_path / "one.parquet", make_frame())
    code = (
        "from pathlib import Path; from mlops_pkg.core.workspace import read_table, write_table;"
        f"write_table(Path({str(tmp_path)!r}) / 'two.parquet', read_table(Path({str(tmp_path)!r}) / 'one.parquet'))"
    )

    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", "b"], dtype=object),
        pd.Series(["a", "b"], dtype="category"),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([1.5, None], dtype="Float64"),
        pd.Series([1, 2], dtype="uint8"),
        pd.Series([1.5, 2.5], dtype="float32"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series(pd.to_datetime(["2013-01-01", "2013-01-02"])).astype("datetime64[ns]"),
        pd.Series(pd.to_datetime(["2013-01-01", "2013-01-02"])).dt.tz_localize("UTC"),
        pd.Series(pd.to_timedelta([1, 2], unit="h")),
        pd.Series(pd.interval_range(0, 2)),
        pd.Series([1 + 2j, 3]),
    ],
    ids=lambda values: str(values.dtype),
)
def test_a_column_that_would_not_come_back_is_refused(values: "pd.Series[Any]") -> None:
    with pytest.raises(TypeError, match="column x: .* does not survive"):
        table_bytes(pd.DataFrame({"x": values}))


def test_json_comes_back_and_reads_well(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "日本"}}

    write_json(tmp_path / "v.json", value)

    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "v.json") == value
    assert list(read_json(tmp_path / "v.json")) == ["b", "a"], "the order of the keys is lost"
    assert "日本" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, np.float32(1)])
def test_json_refuses_what_is_not_json(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "v.json", {"old": 1})

    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "v.json", {"new": value})

    assert read_json(tmp_path / "v.json") == {"old": 1}


def test_a_csv_has_a_header_and_plain_line_ends(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", pd.DataFrame({"a": [1, 2], "b": ["x", "é"]}, index=[5, 6]))

    assert (tmp_path / "t.csv").read_bytes() == "a,b\n1,x\n2,é\n".encode()


def test_the_project_is_found_from_a_folder_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = tmp_path / "nbs" / "pipeline"
    nested.mkdir(parents=True)
    (tmp_path / "params.yaml").touch()

    monkeypatch.chdir(nested)

    assert Workspace.find() == Workspace(tmp_path.resolve(), "artifacts")
    assert Workspace.find("research", nested).out == "research"


def test_the_nearest_params_file_wins(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "params.yaml").touch()
    (inner / "params.yaml").touch()

    assert Workspace.find(start=inner).root == inner.resolve()


def test_outside_a_project_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Workspace.find(start=tmp_path)

    assert str(caught.value) == f"params.yaml: not found in {tmp_path} or above it; run this inside the project"


def test_a_missing_input_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Workspace(tmp_path, "research").input("train", "model.skops")

    message = "artifacts/train/model.skops: missing; get it with `dvc pull`, or make it with `dvc repro train`"
    assert str(caught.value) == message


def test_a_walk_reads_production_and_writes_apart(tmp_path: Path) -> None:
    walk, run = Workspace(tmp_path, "research"), Workspace(tmp_path)
    write_bytes(run.output("train", "model.skops"), b"model")

    assert walk.input("train", "model.skops") == run.output("train", "model.skops")
    assert walk.output("train", "model.skops") == tmp_path / "research" / "train" / "model.skops"


def test_a_block_that_ends_well_replaces_the_stages_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_bytes(workspace.output("train", "old"), b"old")
    write_bytes(workspace.output("features", "kept"), b"kept")

    with replacing(workspace, "train") as scratch:
        write_bytes(scratch.output("train", "new"), b"new")
        assert workspace.output("train", "old").read_bytes() == b"old", "replaced before the block has ended"
        assert scratch.input("features", "kept") == workspace.output("features", "kept"), "inputs are read elsewhere"

    assert [path.name for path in (tmp_path / "artifacts" / "train").iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == ["features", "train"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    workspace = Workspace(tmp_path)
    write_bytes(workspace.output("train", "old"), b"old")

    def stage() -> None:
        with replacing(workspace, "train") as scratch:
            write_bytes(scratch.output("train", "new"), b"new")
            raise error

    with pytest.raises(error):
        stage()

    assert [path.name for path in (tmp_path / "artifacts").rglob("*")] == ["train", "old"]


def test_a_block_that_writes_nothing_does_not_destroy_what_was_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_bytes(workspace.output("train", "old"), b"old")

    with pytest.raises(UserError, match="train: nothing was written"), replacing(workspace, "train"):
        pass

    assert workspace.output("train", "old").read_bytes() == b"old"


def test_two_runs_of_one_stage_do_not_write_into_each_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    with replacing(workspace, "train") as scratch:
        write_bytes(scratch.output("train", "model"), b"first")
        with pytest.raises(UserError, match="train: another run of this stage is writing to artifacts/; wait for it"):  # noqa: SIM117
            with replacing(workspace, "train"):
                pass
        with replacing(workspace, "evaluate") as other:
            write_bytes(other.output("evaluate", "metrics"), b"another stage")

    assert workspace.output("train", "model").read_bytes() == b"first"
    assert workspace.output("evaluate", "metrics").read_bytes() == b"another stage"


def test_a_damaged_table_is_named_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "features" / "train.parquet"
    write_bytes(path, b"PAR1 cut short")

    with pytest.raises(UserError, match=r"features/train\.parquet: damaged .*; run `mlops_pkg mend`, then `dvc repro`"):
        read_table(path)


@pytest.mark.parametrize("left", [b'{"rows": 3, "tab', b"", b"\xff"])
def test_a_damaged_json_file_is_named_with_its_mend(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "ingest" / "rows.json"
    write_bytes(path, left)

    with pytest.raises(UserError, match=r"ingest/rows\.json: damaged .*; run `mlops_pkg mend`, then `dvc repro`"):
        read_json(path)


def test_a_kill_between_the_two_renames_loses_nothing_when_the_next_run_fails(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_bytes(tmp_path / "artifacts" / ".train.tmp" / "former" / "model", b"former")
    write_bytes(tmp_path / "artifacts" / ".train.tmp" / "train" / "model", b"new")

    with pytest.raises(ValueError), replacing(workspace, "train"):  # noqa: PT011
        raise ValueError

    assert workspace.input("train", "model").read_bytes() == b"former"
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["train"]


def test_what_a_killed_stage_left_does_not_get_into_the_next_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    code = (
        "import os; from pathlib import Path; from mlops_pkg.core.workspace import Workspace, replacing, write_bytes\n"
        f"with replacing(Workspace(Path({str(tmp_path)!r})), 'train') as scratch:\n"
        "    write_bytes(scratch.output('train', 'half'), b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    write_bytes(workspace.output("train", "old"), b"old")

    killed = subprocess.run([sys.executable, "-c", code], check=False)

    assert killed.returncode == -9
    assert [path.name for path in (tmp_path / "artifacts" / "train").iterdir()] == ["old"], "a kill changed the output"
    with replacing(workspace, "train") as scratch:
        write_bytes(scratch.output("train", "new"), b"new")
    assert [path.name for path in (tmp_path / "artifacts").rglob("*")] == ["train", "new"]
