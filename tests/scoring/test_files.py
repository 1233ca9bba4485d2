"""Files: one row of output for each row of input, in order, in flat memory, whole or not at all."""

import csv
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_pkg.bundle.explanation import Explanation
from mlops_pkg.bundle.manifest import BundleError
from mlops_pkg.bundle.predictor import Extras, Predictor
from mlops_pkg.bundle.records import RecordsError
from mlops_pkg.scoring import blocks, files
from mlops_pkg.scoring.files import Tally, score_file
from mlops_pkg.scoring.scores import _explained_columns
from tests.conftest import ROOT
from tests.forms import write_frame
from tests.names import NAMES, NFC, NFD, expected_sum, named_bundle
from tests.toy import TOY, explained_bundle, write_bundle

HEADER = "origin,wind,start,note\n"
ROWS = [
    "EWR,2,2013-01-01T21:00,a",
    "JFK,,2013-01-01T03:00,b",
    ",2,2013-01-01T21:00,c",
    "unseen,0.1,2013-01-01,d",
    "EWR,far,2013-02-30,e",
    "EWR,-1,2013-01-01,f",
    "EWR,2",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of seven rows, of which three can be answered."""
    path = tmp_path / "in.csv"
    path.write_text(HEADER + "\n".join(ROWS) + "\n")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left_over(folder: Path) -> list[str]:
    """What should not be there any more."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def run(code: str, *arguments: object, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    """A python process; `limit` bounds the bytes of a file that it may write."""
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=before,
    )


def test_each_row_has_its_row_and_each_reject_its_reason(bundle: Path, source: Path) -> None:
    tally = score_file(bundle, source, source.with_name("out.csv"))

    rows = read_csv(source.with_name("out.csv"))
    assert [row["row"] for row in rows] == [str(number) for number in range(7)]
    assert [number for number, row in enumerate(rows) if not row["probability"]] == [2, 4, 5, 6]
    assert [row["prediction"] for row in rows] == ["1", "0", "", "1", "", "", ""]
    assert tally == Tally(7, 4, source.with_name("out.rejects.csv"))
    assert [tuple(row.values()) for row in read_csv(source.with_name("out.rejects.csv"))] == [
        ("2", "origin", "", "missing"),
        ("4", "start", "'2013-02-30'", "not a time (ISO 8601, such as 2013-01-31T05:15:00)"),
        ("4", "wind", "'far'", "expected a number, found text"),
        ("5", "", "", "the model has no answer to this record"),
        ("6", "", "EWR,2", "expected 4 cells, found 2"),
    ]
    assert left_over(source.parent) == []


def test_the_output_reads_back_to_the_same_doubles(bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("out.csv"))

    written = [float(row["probability"] or "nan") for row in read_csv(source.with_name("out.csv"))]
    records = [dict(zip(HEADER.strip().split(",")[:3], row.split(","), strict=False)) for row in ROWS[:2]]
    told = Predictor.load(bundle).predict([{**record, "wind": float(record["wind"] or "nan")} for record in records])
    assert written[:2] == told.answer.tolist()


@pytest.mark.parametrize(("size", "processes"), [(1, 1), (40, 1), (40, 2), (1 << 20, 2)])
def test_blocks_and_processes_change_no_byte(
    size: int, processes: int, bundle: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_file(bundle, source, source.with_name("whole.csv"), keep=["note"])
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)

    score_file(bundle, source, source.with_name("out.csv"), keep=["note"], processes=processes)

    for name in ("{}.csv", "{}.rejects.csv"):
        whole, parts = (source.with_name(name.format(stem)).read_bytes() for stem in ("whole", "out"))
        assert parts == whole


def test_kept_columns_stand_beside_the_answers(bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("out.csv"), keep=["note", "wind", "note"])

    rows = read_csv(source.with_name("out.csv"))
    assert list(rows[0]) == ["row", "prediction", "probability", "note", "wind"]
    assert [row["note"] for row in rows] == ["a", "b", "c", "d", "e", "f", ""]
    assert [row["wind"] for row in rows] == ["2", "", "2", "0.1", "far", "-1", ""]


def test_text_of_any_script_is_kept_and_told(bundle: Path, source: Path) -> None:
    source.write_text(HEADER + "EWR,2,2013-01-01,Zürich ✈\nEWR,fünf,2013-01-01,日本\n", encoding="utf-8")

    score_file(bundle, source, source.with_name("out.csv"), keep=["note"])

    assert [row["note"] for row in read_csv(source.with_name("out.csv"))] == ["Zürich ✈", "日本"]
    assert [row["value"] for row in read_csv(source.with_name("out.rejects.csv"))] == ["'fünf'"]


def parquet_of(source: Path) -> Path:
    """The rows of the right length, as parquet with types of its own."""
    table = pa.table(
        {
            "note": pa.array([1, None, 3], pa.int8()),
            "at": pa.array([1, 2, None], pa.timestamp("ns")),
            "origin": pa.array(["EWR", "JFK", None]).dictionary_encode(),
            "wind": pa.array([2, None, 2]),
            "start": pa.array(["2013-01-01T21:00", "2013-01-01T03:00", "2013-01-01T21:00"]).cast(pa.timestamp("ms")),
        }
    )
    pq.write_table(table, source.with_suffix(".parquet"))
    return source.with_suffix(".parquet")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parquet_in_gives_the_answers_of_csv(suffix: str, bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("of_csv.csv"))

    out = source.with_name(f"of_parquet{suffix}")
    tally = score_file(bundle, parquet_of(source), out, keep=["note", "at"])

    of_csv = pd.read_csv(source.with_name("of_csv.csv"))[:3]
    of_parquet = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert of_parquet["probability"].tolist()[:2] == of_csv["probability"].tolist()[:2]
    assert of_parquet["probability"].isna().tolist() == [False, False, True]
    assert of_parquet["note"].tolist()[::2] == [1, 3]
    assert tally.rejected == 1


def test_parquet_out_has_types_and_nulls(bundle: Path, source: Path) -> None:
    score_file(bundle, parquet_of(source), source.with_name("a.parquet"), keep=["note", "origin"])
    score_file(bundle, source, source.with_name("b.parquet"), keep=["note"])

    of_parquet, of_csv = (pq.read_table(source.with_name(f"{name}.parquet")) for name in "ab")
    answers = [("row", pa.int64()), ("prediction", pa.int64()), ("probability", pa.float64())]
    assert [(field.name, field.type) for field in of_parquet.schema][:4] == [*answers, ("note", pa.int8())]
    assert of_parquet["origin"].to_pylist() == ["EWR", "JFK", None]
    assert [(field.name, field.type) for field in of_csv.schema] == [*answers, ("note", pa.string())]
    assert of_csv["prediction"].to_pylist() == [1, 0, None, 1, None, None, None]
    assert of_csv["note"].to_pylist()[-1] is None


def test_row_groups_of_the_output_are_of_one_size(bundle: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", 4)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 60)

    score_file(bundle, source, source.with_name("out.parquet"))

    written = pq.ParquetFile(source.with_name("out.parquet"))
    assert written.metadata.num_row_groups == 2
    assert written.read()["row"].to_pylist() == list(range(7))


def test_a_regression_gives_predictions(tmp_path: Path, source: Path) -> None:
    regression = dataclasses.replace(TOY, task="regression", threshold=None)
    bundle = write_bundle(tmp_path / "bundle", signature=regression)

    score_file(bundle, source, source.with_name("out.csv"))
    score_file(bundle, source, source.with_name("out.parquet"))

    assert list(read_csv(source.with_name("out.csv"))[0]) == ["row", "prediction"]
    assert pq.read_schema(source.with_name("out.parquet")).names == ["row", "prediction"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_rows_in_are_no_rows_out(suffix: str, bundle: Path, source: Path) -> None:
    source.write_text(HEADER)
    pq.write_table(pq.read_table(parquet_of(source))[:0], source.with_suffix(".parquet"))

    for path in (source, source.with_suffix(".parquet")):
        out = source.with_name(f"out{suffix}")
        assert score_file(bundle, path, out, keep=["note"]) == Tally(0, 0, None)
        assert len(pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)) == 0


def test_rejects_of_an_earlier_run_do_not_stay(bundle: Path, source: Path) -> None:
    out = source.with_name("out.csv")
    score_file(bundle, source, out)
    source.write_text(HEADER + ROWS[0])

    tally = score_file(bundle, source, out)

    assert tally.rejects is None
    assert not source.with_name("out.rejects.csv").exists()


def test_a_capital_suffix_a_mark_and_windows_lines_are_fine(bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("expected.csv"))
    other = source.with_name("OTHER.CSV")
    other.write_bytes(b"\xef\xbb\xbf" + source.read_bytes().replace(b"\n", b"\r\n"))

    score_file(bundle, other, source.with_name("out.csv"))

    assert source.with_name("out.csv").read_bytes() == source.with_name("expected.csv").read_bytes()


@pytest.mark.parametrize("name", ["in.csv", "in.parquet", "in.feather", "in.xlsx"])
def test_fields_may_have_any_name(name: str, tmp_path: Path) -> None:
    values = [[float(row * place % 7) for place in range(len(NAMES))] for row in range(5)]
    frame = pd.DataFrame(values, columns=[NFD if field == NFC else field for field in NAMES])
    write_frame(frame, tmp_path / name)

    keep = ["a[0]", NFD, "split"]
    tally = score_file(named_bundle(tmp_path / "bundle"), tmp_path / name, tmp_path / "out.csv", keep=keep)

    rows = read_csv(tmp_path / "out.csv")
    assert tally.rejected == 0
    assert [float(row["prediction"]) for row in rows] == [round(expected_sum(row), 9) for row in values]
    assert [[float(row[kept]) for kept in ("a[0]", NFC, "split")] for row in rows] == [
        [row[NAMES.index(kept)] for kept in ("a[0]", NFC, "split")] for row in values
    ]


def test_progress_is_told_after_each_block(bundle: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    told: list[tuple[int, float]] = []

    score_file(bundle, source, source.with_name("out.csv"), progress=lambda *progress: told.append(progress))

    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == (7, 1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the names of the columns in the first line, found nothing"),
        (b"origin,start\n", "column 'wind' is missing"),
        (b"origin,Wind,start\n", "column 'wind' is missing; is it 'Wind'?"),
        (b"origin,wind,start,wind\n", "columns 2 and 4 are both named 'wind'; rename one in the file"),
        (
            b"origin,wind,start\nEWR,2,2013-01-01\nE\xff,2,2013-01-01\n",
            "row 1 is not UTF-8 text; save the file as UTF-8",
        ),
        (b'origin,wind,start\nEWR,2,2013-01-01\n"E,2,2013-01-01\n', "row 1 is not csv: unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_scored_is_told_and_what_stood_there_stays(
    content: bytes, said: str, bundle: Path, source: Path
) -> None:
    out = source.with_name("out.csv")
    score_file(bundle, source, out)
    before = {path.name: path.read_bytes() for path in source.parent.glob("out*")}
    source.write_bytes(content)

    with pytest.raises(RecordsError) as caught:
        score_file(bundle, source, out)

    assert str(caught.value) == f"{source}: {said}"
    assert {path.name: path.read_bytes() for path in source.parent.glob("out*")} == before
    assert left_over(source.parent) == []


def test_an_unreadable_row_is_counted_over_all_blocks(
    bundle: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.write_bytes(HEADER.encode() + b"EWR,2,2013-01-01,\n" * 1234 + b"E\xff,2,2013-01-01,\n")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)

    for processes in (1, 2):
        with pytest.raises(RecordsError, match="row 1,234 is not UTF-8"):
            score_file(bundle, source, source.with_name("out.csv"), processes=processes)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (["nte"], "column 'nte' is missing; is it 'note'?"),
        (["prediction"], "column 'prediction' cannot be kept: the answers have a column of this name"),
        (["twice"], "columns 6 and 7 are both named 'twice'; rename one in the file"),
    ],
)
def test_a_column_that_cannot_be_kept_is_told(keep: list[str], said: str, bundle: Path, source: Path) -> None:
    source.write_text("origin,wind,start,note,prediction,twice,twice\n")

    with pytest.raises(RecordsError) as caught:
        score_file(bundle, source, source.with_name("out.csv"), keep=keep)

    assert str(caught.value) == f"{source}: {said}"


def test_a_nested_column_cannot_be_kept_in_csv(bundle: Path, source: Path) -> None:
    table = pq.read_table(parquet_of(source)).append_column("list", pa.array([[1], [2], [3]]))
    pq.write_table(table, source.with_suffix(".parquet"))

    with pytest.raises(RecordsError, match="a column of list<"):
        score_file(bundle, source.with_suffix(".parquet"), source.with_name("out.csv"), keep=["list"])


@pytest.mark.parametrize(
    ("source", "destination", "error", "said"),
    [
        ("none.csv", "out.csv", FileNotFoundError, "there is no such file: '{}/none.csv'"),
        ("in.csv", "none/out.csv", FileNotFoundError, "there is no such folder: '{}/none'"),
        ("in.csv", "folder.csv", IsADirectoryError, "a folder, where a file is expected: '{}/folder.csv'"),
        ("folder.csv", "out.csv", IsADirectoryError, "a folder, where a file is expected: '{}/folder.csv'"),
        ("in.pdf", "out.csv", RecordsError, "{}/in.pdf: expected a name that ends in .csv, .parquet, .arrow, "),
        ("in.csv", "out", RecordsError, "{}/out: expected a name that ends in .csv or .parquet"),
        ("in.csv", "in.csv", RecordsError, "{}/in.csv: this would write over the input"),
        ("in.csv", "link.csv", RecordsError, "{}/link.csv: this would write over the input"),
        ("in.rejects.csv", "in.csv", RecordsError, "{}/in.rejects.csv: this would write over the input"),
    ],
)
def test_paths_are_checked_before_anything_is_read(
    source: str, destination: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(HEADER)
    (tmp_path / "in.rejects.csv").write_text(HEADER)
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(error) as caught:
        score_file("no bundle", tmp_path / source, tmp_path / destination)

    assert said.format(tmp_path) in str(caught.value)


def test_a_bundle_that_was_tampered_with_scores_nothing(tmp_path: Path, source: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "card.md").write_text("better")

    with pytest.raises(BundleError, match="changed since it was packed"):
        score_file(bundle, source, source.with_name("out.csv"))

    assert not source.with_name("out.csv").exists()


SCORE = """
import sys
from mlops_pkg.scoring.files import score_file
score_file(*sys.argv[1:4], processes=int(sys.argv[4]))
"""


def test_a_full_disk_leaves_no_output(bundle: Path, source: Path) -> None:
    source.write_text(HEADER + f"{ROWS[0]}\n" * 20_000)

    done = run(SCORE, bundle, source, source.with_name("out.csv"), 1, limit=10_000)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OSError: [Errno 27] File too large")
    assert [path.name for path in source.parent.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_kill_leaves_no_output(processes: int, bundle: Path, source: Path) -> None:
    source.write_text(HEADER + f"{ROWS[0]}\n" * 400_000)
    out = source.with_name("out.csv")
    command = [sys.executable, "-c", SCORE, bundle, source, out, str(processes)]
    process = subprocess.Popen(command, cwd=ROOT)

    while not any(path.stat().st_size > 100_000 for path in source.parent.glob(".out.csv.*.tmp")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert not out.exists()


def test_what_killed_runs_have_left_is_cleared_and_gets_into_no_output(bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("expected.csv"))
    for number in (1, os.getpid()):  # in a container the next process often has the same number
        for name in ("out.csv", "out.rejects.csv"):
            source.with_name(f".{name}.{number}.tmp").write_text("left by a killed run\n")

    score_file(bundle, source, source.with_name("out.csv"))

    for end in (".csv", ".rejects.csv"):
        assert source.with_name(f"out{end}").read_bytes() == source.with_name(f"expected{end}").read_bytes()
    assert [path.name for path in source.parent.iterdir() if path.name.endswith(".tmp")] == []


def test_what_another_run_is_writing_is_left_alone(bundle: Path, source: Path) -> None:
    import fcntl

    with source.with_name(".out.csv.1.tmp").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        score_file(bundle, source, source.with_name("out.csv"))

    assert source.with_name(".out.csv.1.tmp").exists()


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "sklearn", "feature_engine", "pyarrow", "pydantic", "yaml", "onnx"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Refuse())
from mlops_pkg.scoring.files import score_file

print(score_file(*sys.argv[1:4]).rows)
"""


def test_csv_needs_the_bare_wheel_alone(bundle: Path, source: Path) -> None:
    score_file(bundle, source, source.with_name("expected.csv"))

    done = run(ALONE, bundle, source, source.with_name("out.csv"))

    assert (done.stdout, done.stderr) == ("7\n", "")
    assert source.with_name("out.csv").read_bytes() == source.with_name("expected.csv").read_bytes()


def test_parquet_without_pyarrow_is_one_clear_line(bundle: Path, source: Path) -> None:
    done = run(ALONE, bundle, source, source.with_name("out.parquet"))

    assert done.stderr.splitlines()[-1].endswith(
        "out.parquet: parquet needs pyarrow, which is not installed; install it, or use csv"
    )


PEAK = """
import re, resource, sys
from pathlib import Path
from mlops_pkg.scoring.files import score_file
score_file(*sys.argv[1:4])
status = Path("/proc/self/status")
if status.exists():  # the other figure begins with the peak of the process that started this one
    print(int(re.search("VmHWM:[^0-9]*([0-9]+)", status.read_text())[1]) / 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_memory_is_flat(suffix: str, bundle: Path, source: Path) -> None:
    rows, peaks = 20_000, []
    for times in (1, 30):
        path = source.with_name(f"{times}{suffix}")
        frame = pd.DataFrame({"origin": "EWR", "wind": 2.5, "start": "2013-01-01T21:00", "n": range(rows * times)})
        frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(
            path, index=False, row_group_size=50_000
        )
        peaks.append(float(run(PEAK, bundle, path, source.with_name(f"out{suffix}")).stdout))

    assert peaks[1] - peaks[0] < 40, f"{peaks[0]:.0f} MB for {rows:,} rows, {peaks[1]:.0f} MB for 30 times as many"


def test_a_row_is_told_by_its_place_in_the_whole_file(
    bundle: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = ["EWR,2,2013-01-01,"] * 500
    rows[321] = "EWR,far,2013-01-01,"
    source.write_text(HEADER + "\n".join(rows))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)

    tally = score_file(bundle, source, source.with_name("out.csv"))

    assert (tally.rows, tally.rejected) == (500, 1)
    assert read_csv(source.with_name("out.rejects.csv"))[0]["row"] == "321"
    assert [row["row"] for row in read_csv(source.with_name("out.csv")) if not row["prediction"]] == ["321"]


# Explanations


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_explanation_stands_beside_the_answers(suffix: str, tmp_path: Path, source: Path) -> None:
    bundle = explained_bundle(tmp_path / "bundle")
    out = source.with_name(f"out{suffix}")

    score_file(bundle, source, out, keep=["note"], extras=Extras(explain=True))

    found = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    explanation = ["base", "contribution_origin", "contribution_wind", "contribution_start"]
    assert list(found.columns[:3]) == ["row", "prediction", "probability"]
    assert list(found.columns[3:]) == [*explanation, "note"]
    answered = found["probability"].notna()
    assert found.loc[~answered, explanation].isna().all(axis=None)
    margin = found.loc[answered, explanation].sum(axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-margin)), found.loc[answered, "probability"], atol=2e-9)
    assert found["base"].dropna().nunique() == 1


def test_an_explanation_changes_no_answer_and_processes_change_no_explanation(tmp_path: Path, source: Path) -> None:
    bundle, plain, one, two = explained_bundle(tmp_path / "bundle"), *(tmp_path / f"{name}.csv" for name in "abc")

    score_file(bundle, source, plain)
    score_file(bundle, source, one, extras=Extras(explain=True))
    score_file(bundle, source, two, extras=Extras(explain=True), processes=2)

    answers = [",".join(line.split(",")[:3]) for line in one.read_text().splitlines()]
    assert answers == plain.read_text().splitlines()
    assert two.read_bytes() == one.read_bytes()


def test_a_model_of_several_classes_is_explained_class_by_class() -> None:
    signature = dataclasses.replace(TOY, threshold=None, labels=("late", "on time", "never"))

    names = list(files._answer_types(signature, Extras(explain=True)))

    assert names[5:7] == ["base_late", "contribution_origin_late"]
    assert names[-1] == "contribution_start_never"
    explanation = Explanation(
        ("origin", "wind", "start"), np.array([0.1, 0.2, 0.3]), np.arange(18.0).reshape(2, 3, 3), np.zeros((2, 3))
    )
    columns = _explained_columns(explanation, np.array([False, True]))
    assert [column[0] for column in columns] == [0.1, 0.0, 3.0, 6.0, 0.2, 1.0, 4.0, 7.0, 0.3, 2.0, 5.0, 8.0]
    assert all(column[1] is None for column in columns)
    assert len(columns) == len(names) - 5


def test_a_bundle_without_an_explanation_says_so_and_leaves_the_output(bundle: Path, source: Path) -> None:
    out = source.with_name("out.csv")
    out.write_text("before")

    with pytest.raises(BundleError, match=r"^explanation\.npz: no explanation: the bundle has no such file$"):
        score_file(bundle, source, out, extras=Extras(explain=True))

    assert out.read_text() == "before"
    assert not left_over(out.parent)


def test_a_column_of_the_explanation_cannot_be_kept(tmp_path: Path, source: Path) -> None:
    bundle = explained_bundle(tmp_path / "bundle")
    source.write_text(source.read_text().replace("note", "base"))

    score_file(bundle, source, source.with_name("out.csv"), keep=["base"])
    with pytest.raises(RecordsError, match="column 'base' cannot be kept: the answers have a column of this name"):
        score_file(bundle, source, source.with_name("out.csv"), keep=["base"], extras=Extras(explain=True))
