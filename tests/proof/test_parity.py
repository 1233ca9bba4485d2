"""The proof parity: green where content is equal, and the first difference in one line where it is not."""

import json
import zipfile
from pathlib import Path

import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq  # noqa: E402

from mlops_pkg.core.params import UserError  # noqa: E402
from mlops_pkg.core.workspace import Workspace, read_json, write_bytes, write_json, write_table  # noqa: E402
from mlops_pkg.project.files import declared_outputs  # noqa: E402
from mlops_pkg.proof.parity import compare_outputs, parity  # noqa: E402

NAN = float("nan")


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """A project of one stage whose walk wrote what its run wrote."""
    (tmp_path / "dvc.yaml").write_text(
        """
stages:
  train:
    cmd: python -m mlops_pkg.core.stage train
    outs:
      - artifacts/train/rows.parquet
      - artifacts/train/model.skops: {cache: true}
      - artifacts/train/note.txt
    metrics: [artifacts/train/metrics.json]
    plots: [artifacts/train/curve.csv: {x: recall}]
"""
    )
    for side in ("artifacts", "research"):
        folder = tmp_path / side / "train"
        write_table(folder / "rows.parquet", pd.DataFrame({"distance": [1400.0, NAN, 544.0], "late": [0, 1, 0]}))
        write_json(folder / "metrics.json", {"test": {"roc_auc": {"value": 0.7}, "months": [9, 10]}})
        write_bytes(folder / "curve.csv", b"recall,precision\n0.0,1.0\n1.0,0.2\n")
        write_bytes(folder / "note.txt", b"fitted on 3 rows")
        write_model(folder / "model.skops", {"schema.json": '{"content": {"depth": 3}}', "0.npy": "123"})
    return Workspace(tmp_path)


def write_model(path: Path, members: dict[str, str], year: int = 1980) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)


def walked(project: Workspace, name: str) -> Path:
    return project.root / "research" / "train" / name


def difference(project: Workspace) -> str:
    """Return the one difference of the project; its other outputs must be equal."""
    red = [verdict for verdict in compare_outputs(project).outputs if not verdict.equal]
    assert len(red) == 1, f"expected one red output, found {red}"
    return f"{red[0].output}: {red[0].difference}"


def test_outputs_are_those_of_dvc_yaml(project: Workspace) -> None:
    names = declared_outputs(project.root)["train"]

    assert names == ["rows.parquet", "model.skops", "note.txt", "metrics.json", "curve.csv"]


def test_equal_bytes_are_green_with_their_digest(project: Workspace) -> None:
    verdicts = compare_outputs(project)

    assert verdicts.ok
    assert len(verdicts.outputs) == 5
    assert all(v.production == v.research and len(v.production or "") == 64 for v in verdicts.outputs)
    assert all(v.difference is None for v in verdicts.outputs)


def test_one_constant_is_red_with_column_row_and_both_values(project: Workspace) -> None:
    write_table(walked(project, "rows.parquet"), pd.DataFrame({"distance": [1400.0, NAN, 544.5], "late": [0, 1, 0]}))

    told = difference(project)

    assert told.startswith("rows.parquet: column distance, row 2")
    assert "544.0 in production, 544.5 in research" in told


def test_the_last_bit_of_a_number_is_red(project: Workspace) -> None:
    rows = pd.DataFrame({"distance": [1400.0, NAN, 544.0000000000001], "late": [0, 1, 0]})
    write_table(walked(project, "rows.parquet"), rows)

    assert "544.0000000000001 in research" in difference(project)


def test_rows_in_another_order_are_red_and_told_as_such(project: Workspace) -> None:
    write_table(walked(project, "rows.parquet"), pd.DataFrame({"distance": [1400.0, 544.0, NAN], "late": [0, 0, 1]}))

    assert "the same rows in another order, from row 1 on" in difference(project)


def test_another_dtype_is_red(project: Workspace) -> None:
    rows = pd.DataFrame({"distance": [1400.0, NAN, 544.0], "late": pd.Series([0, 1, 0], dtype="int32")})
    write_table(walked(project, "rows.parquet"), rows)

    assert "column late: type int64 in production, int32 in research" in difference(project)


def test_other_bytes_with_equal_content_are_green_with_a_note(project: Workspace) -> None:
    rows = pq.read_table(walked(project, "rows.parquet"))
    pq.write_table(rows, walked(project, "rows.parquet"), compression="none")
    walked(project, "curve.csv").write_bytes(b'"recall","precision"\r\n0.0,1.0\r\n1.0,0.2\r\n')
    walked(project, "metrics.json").write_text('{"test": {"months": [9, 10], "roc_auc": {"value": 0.7}}}')

    verdicts = compare_outputs(project)

    assert verdicts.ok, verdicts
    assert [v.difference for v in verdicts.outputs].count("other bytes, equal content") == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"test": {"roc_auc": {"value": 0.71}, "months": [9, 10]}}', "test.roc_auc.value: 0.7 in production, 0.71"),
        (
            '{"test": {"roc_auc": {"value": 0.7}, "months": [9, 11]}}',
            "test.months[1]: 10 in production, 11 in research",
        ),
        ('{"test": {"roc_auc": {"value": 0.7}, "months": [9]}}', "test.months: 2 items in production, 1 in research"),
        ('{"test": {"roc_auc": {"value": 0.7}}}', "test.months: in production alone"),
        ('{"test": {"roc_auc": {"value": 0.7}, "months": [9, 10]}, "live": 1}', "live: in research alone"),
        (
            '{"test": {"roc_auc": 0.7, "months": [9, 10]}}',
            'test.roc_auc: {"value": 0.7} in production, 0.7 in research',
        ),
        ("{", "bytes differ from offset 1 on"),
    ],
)
def test_json_is_red_with_the_path_to_the_value(project: Workspace, content: str, told: str) -> None:
    walked(project, "metrics.json").write_text(content)

    assert told in difference(project)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "recall,precision\n0.0,1.0\n1.0,0.3\n",
            "column precision, row 1 (the first is 0): '0.2' in production, '0.3'",
        ),
        ("recall,precision\n1.0,0.2\n0.0,1.0\n", "the same rows in another order"),
        ("recall\n0.0\n1.0\n", "column precision: in production alone"),
        ("recall,precision\n0.0\n", "bytes differ from offset"),
        ("", "column recall: in production alone"),
    ],
)
def test_csv_is_compared_like_a_table(project: Workspace, content: str, told: str) -> None:
    walked(project, "curve.csv").write_text(content)

    assert told in difference(project)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"schema.json": '{"content": {"depth": 4}}', "0.npy": "123"}, "member schema.json: content.depth: 3 in"),
        ({"schema.json": '{"content": {"depth": 3}}', "0.npy": "124"}, "member 0.npy: bytes differ from offset 2 on"),
        ({"schema.json": '{"content": {"depth": 3}}'}, "member 0.npy: in production alone"),
        ({"0.npy": "123", "schema.json": '{"content": {"depth": 3}}'}, "with other dates or in another order"),
    ],
)
def test_model_is_red_with_the_member_that_differs(project: Workspace, members: dict[str, str], told: str) -> None:
    write_model(walked(project, "model.skops"), members)

    assert told in difference(project)


def test_model_with_other_dates_is_red(project: Workspace) -> None:
    members = {"schema.json": '{"content": {"depth": 3}}', "0.npy": "123"}
    write_model(walked(project, "model.skops"), members, year=2013)

    assert "other dates" in difference(project)


def test_any_other_file_is_red_with_the_offset(project: Workspace) -> None:
    walked(project, "note.txt").write_text("fitted on 4 rows")

    assert "note.txt: bytes differ from offset 10 on" in difference(project)


@pytest.mark.parametrize(("side", "mend"), [("artifacts", "dvc pull"), ("research", "mlops_pkg research train")])
def test_missing_file_is_red_and_says_how_to_make_it(project: Workspace, side: str, mend: str) -> None:
    (project.root / side / "train" / "note.txt").unlink()

    told = difference(project)

    assert f"missing in {side}/train" in told
    assert mend in told


def test_file_that_dvc_does_not_declare_is_red(project: Workspace) -> None:
    write_bytes(walked(project, "plots/extra.csv"), b"a\n")

    assert "plots/extra.csv: in research alone" in difference(project)


def test_file_that_dvc_does_not_declare_is_red_in_production_too(project: Workspace) -> None:
    write_bytes(project.root / "artifacts" / "train" / "extra.csv", b"a\n")
    write_bytes(project.root / "artifacts" / "train" / ".gitignore", b"/extra.csv\n")

    assert "extra.csv: in artifacts alone; dvc.yaml does not declare artifacts/train/extra.csv" in difference(project)


def test_report_holds_exactly_the_promised_keys(project: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    walked(project, "note.txt").unlink()

    ok = parity(project)

    written = read_json(project.reports / "parity.json")
    assert not ok
    assert written.keys() == {"ok", "outputs", "runtimes", "stale", "made_from"}
    assert written["runtimes"] == [], "no graph is declared, so no runtime can be asked"
    assert written["outputs"][0].keys() == {"stage", "output", "equal", "production", "research", "difference"}
    assert json.dumps(written).count("null") == 5, "four equal outputs without difference, one without digest"
    assert "4 of 5 outputs are equal" in capsys.readouterr().out


def test_pipeline_without_outputs_is_an_error_and_not_green(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: x}}")

    with pytest.raises(UserError, match="no stage declares an output"):
        compare_outputs(Workspace(tmp_path))


@pytest.mark.parametrize("text", ["stages: [1]", "stages:", "stages: {train: }", "stages: {train: {outs: 5}}"])
def test_dvc_yaml_of_another_shape_is_a_mistake_of_the_user(project: Workspace, text: str) -> None:
    (project.root / "dvc.yaml").write_text(text)

    with pytest.raises(UserError, match=r"^dvc.yaml: stages.*: expected a "):
        compare_outputs(project)
