"""Every logged answer is computed again; what has changed is red, with its request."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.prediction_log.rows import row_checks, to_rows
from mlops_pkg.prediction_log.segments import list_days, write_segment
from mlops_pkg.prediction_log.verify import Verdict, verify
from tests.prediction_log.conftest import DAY, entry_of, open_predictor, write_log
from tests.toy import GRAPH, RECORD, write_bundle


def _verify(log: Path, *predictors: Predictor) -> Verdict:
    return verify(list_days(log), {predictor.identity: predictor for predictor in predictors})


def _rewrite(path: Path, name: str, row: int, checked: bool) -> None:
    """Flip the last bit of a number in a segment; `checked` makes the check of the row fit."""
    table = pq.ParquetFile(path).read()
    [rows] = table.combine_chunks().to_batches()
    column = rows["inputs"].field("wind") if name == "wind" else rows[name]
    values = column.to_numpy(zero_copy_only=False).copy()
    values.view(np.uint64)[row] ^= np.uint64(1)
    changed = pa.array(values)
    if name == "wind":
        parts = [changed if at == 1 else part for at, part in enumerate(rows["inputs"].flatten())]
        name, changed = "inputs", pa.StructArray.from_arrays(parts, ["origin", "wind", "start"])
    rows = rows.set_column(rows.schema.get_field_index(name), name, changed)
    if checked:
        rows = rows.set_column(rows.schema.get_field_index("check"), "check", pa.array(row_checks(rows)))
    pq.write_table(pa.Table.from_batches([rows], table.schema), path)


def test_what_was_answered_is_computed_again(toy: Predictor, three: Predictor, tmp_path: Path) -> None:
    write_log(tmp_path, toy, 3)
    write_segment(tmp_path, DAY, [to_rows([entry_of(toy, [RECORD, "none"])], "drop", b"")])
    write_segment(tmp_path, DAY, [to_rows([entry_of(three, [{"wind": 3.0}, {"wind": None}])], "drop", b"")])

    verdict = _verify(tmp_path, toy, three)

    assert (verdict.rows, verdict.equal, verdict.rejected, verdict.wrong) == (7, 5, 2, 0)


@pytest.mark.parametrize("name", ["wind", "answer", "seconds", "check"])
def test_one_changed_bit_is_red_with_its_request(toy: Predictor, tmp_path: Path, name: str) -> None:
    records = [RECORD | {"wind": float(wind)} for wind in range(1, 5)]
    path = write_segment(tmp_path, DAY, [to_rows([entry_of(toy, records, "order-17")], "drop", b"")])
    _rewrite(path, name, 2, checked=False)

    verdict = _verify(tmp_path, toy)

    assert (verdict.equal, verdict.wrong) == (3, 1)
    assert verdict.findings == [f"{path}: request order-17, record 2: changed since it was written"]


def test_an_answer_that_the_bundle_does_not_give_is_red_even_with_a_fitting_check(
    toy: Predictor, tmp_path: Path
) -> None:
    path = write_segment(tmp_path, DAY, [to_rows([entry_of(toy, [RECORD] * 3, "order-17")], "drop", b"")])
    _rewrite(path, "answer", 1, checked=True)

    verdict = _verify(tmp_path, toy)

    assert verdict.findings == [f"{path}: request order-17, record 1: the bundle answers otherwise"]


def test_an_answer_of_another_bundle_under_this_name_is_red(toy: Predictor, tmp_path: Path) -> None:
    other = open_predictor(write_bundle(tmp_path / "other", GRAPH.replace("pace = {0.1}", "pace = {0.2}")))
    write_log(tmp_path / "log", other, 3)

    verdict = verify(list_days(tmp_path / "log"), {other.identity: toy})

    assert verdict.wrong == 2  # where there is no wind, both are certain


def test_a_bundle_that_is_not_here_is_red(toy: Predictor, three: Predictor, tmp_path: Path) -> None:
    [path] = write_log(tmp_path, toy, 1)

    verdict = _verify(tmp_path, three)

    assert verdict.findings == [
        f"{path}: answered by bundle {toy.identity[:12]}; name its folder or version with --bundle"
    ]


def test_a_damaged_segment_is_red_and_the_others_are_verified(toy: Predictor, tmp_path: Path) -> None:
    first, _ = write_log(tmp_path, toy, 2)
    first.write_bytes(first.read_bytes()[:100])

    verdict = _verify(tmp_path, toy)

    assert (verdict.equal, verdict.wrong) == (1, 1)
    assert verdict.findings[0].startswith(f"{first}: damaged")


@pytest.mark.parametrize(("how", "equal", "left_out"), [("keep", 2, 0), ("mask", 0, 2), ("drop", 0, 2)])
def test_rows_without_personal_data_are_counted_not_passed(
    personal: Predictor, tmp_path: Path, how: str, equal: int, left_out: int
) -> None:
    write_log(tmp_path, personal, 2, how, b"key")

    verdict = _verify(tmp_path, personal)

    assert (verdict.equal, verdict.personal, verdict.wrong) == (equal, left_out, 0)
