"""The runtimes: all predict as the fitted pipeline does, and one wrong bit is red with its row."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import numpy_helper

from mlops_pkg.bundle.manifest import MANIFEST, MODEL, Bundle, manifest_bytes
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace, read_table, write_table
from mlops_pkg.proof.runtimes import (
    EDGE,
    Reference,
    closure,
    compare_runtimes,
    find_difference,
    find_source_file,
    link_requirements,
    predict_reference,
    read_subject,
    score_source,
)

NAMES = [
    "stored predictions",
    "graph, in batches",
    "graph, row by row",
    "predictor, numpy and onnxruntime alone",
    "MLflow",
    "endpoint, JSON one by one",
    "endpoint, JSON in batches",
    "endpoint, Arrow",
]


def ask(root: Path) -> dict[str, str | None]:
    """Return the difference of each runtime; None for one that is equal."""
    found = {one.runtime: one for one in compare_runtimes(Workspace(root), read_subject(root), root / "mlops_pkg")}
    assert all(one.equal == (one.difference is None) for one in found.values())
    return {name: one.difference for name, one in found.items()}


def pack_again(bundle: Path, change: Callable[[np.ndarray], None], part: str = "leaf_weights") -> None:
    """Change the leaves, or the thresholds, of a bundle's graph, and forge its manifest."""
    graph = onnx.load_from_string((bundle / MODEL).read_bytes())
    trees = next(node for node in graph.graph.node if node.op_type == "TreeEnsemble")
    attribute = next(attribute for attribute in trees.attribute if attribute.name == part)
    values = numpy_helper.to_array(attribute.t).copy()
    change(values)
    attribute.t.CopyFrom(numpy_helper.from_array(values, part))
    (bundle / MODEL).write_bytes(graph.SerializeToString())
    (bundle / MANIFEST).write_bytes(manifest_bytes(bundle))


def test_every_runtime_answers_as_the_fitted_pipeline(root: Path) -> None:
    found = list(compare_runtimes(Workspace(root), read_subject(root), root / "mlops_pkg"))

    assert [one.runtime for one in found] == NAMES
    assert [one.difference for one in found] == [None] * len(NAMES)
    assert {one.rows for one in found} == {120}


def test_a_row_of_which_any_answer_is_right_is_no_difference() -> None:
    rows = pd.DataFrame({"line": [2, 3], "wind": [1.0, 2.0]}, index=["test", "test"])
    margin, answer = np.array([0.25, 0.75]), np.array([0.25, 0.75])
    given = Reference(rows, {"wind": "number"}, margin, answer, 1e-12, size=np.array([1.0, np.inf]))

    assert find_difference(given, (np.array([0.25, 0.5]), np.array([0.25, 0.5]))) is None
    assert find_difference(given.take(np.array([1])), (np.array([0.5]), np.array([0.5]))) is None
    assert find_difference(given, (np.array([0.5, 0.75]), answer)).startswith("1 rows; test, line 2: margin 0.25 ")
    assert find_difference(given, (None, np.array([0.5, 0.5]))).startswith("1 rows; test, line 2: answer 0.25 ")


def test_one_bit_of_the_baseline_is_red_with_the_row_and_both_margins(root: Path) -> None:
    def one_bit(leaves: np.ndarray) -> None:
        leaves[0] = np.nextafter(leaves[0], np.inf)

    pack_again(root / "artifacts" / "package", one_bit)

    found = ask(root)

    for name in ("graph, in batches", "graph, row by row"):
        assert found[name] is not None, f"{name}: a wrong bit went unseen"
        assert "margin -" in found[name]
        assert "from the fitted pipeline" in found[name]
    assert found["stored predictions"] is None


def test_another_model_in_the_bundle_is_red_in_the_predictor_too(root: Path) -> None:
    def half(leaves: np.ndarray) -> None:
        leaves *= 0.5

    pack_again(root / "artifacts" / "package", half)

    found = ask(root)

    for name in NAMES[3:]:
        assert found[name].startswith("120 rows; test, line "), name


def test_an_answer_that_evaluate_did_not_measure_is_red(root: Path) -> None:
    path = root / "artifacts" / "evaluate" / "predictions.parquet"
    stored = read_table(path)
    stored.loc[61, "model"] += 1e-9
    write_table(path, stored)

    found = ask(root)

    assert found.pop("stored predictions").startswith(f"1 rows; live, line {stored['line'][61]}: answer 0.")
    assert set(found.values()) == {None}


def test_predictions_of_other_rows_are_red(root: Path) -> None:
    path = root / "artifacts" / "evaluate" / "predictions.parquet"
    write_table(path, read_table(path).iloc[::-1].reset_index(drop=True))

    assert "holds other rows" in ask(root)["stored predictions"]


def test_a_tampered_bundle_is_red_with_the_name_of_the_file(root: Path) -> None:
    with (root / "artifacts" / "package" / MODEL).open("ab") as file:
        file.write(b"x")

    assert "model.onnx: changed since it was packed" in ask(root)["fitted pipeline"]


def test_a_row_that_the_predictor_rejects_is_red(root: Path) -> None:
    path = root / "artifacts" / "ingest" / "live.parquet"
    rows = read_table(path)
    rows.loc[3, "distance"] = -5.0
    write_table(path, rows)

    found = ask(root)

    told = "record 63 is rejected: distance: "
    assert told in found["predictor, numpy and onnxruntime alone"]
    assert told in found["MLflow"]
    assert told in found["endpoint, JSON in batches"]
    assert told in found["endpoint, Arrow"]
    assert '"field"' in found["endpoint, JSON one by one"]


def test_missing_outputs_are_red_and_say_how_to_make_them(root: Path) -> None:
    (root / "artifacts" / "train" / "model.skops").unlink()

    assert "make it with `dvc repro train`" in ask(root)["fitted pipeline"]


def test_the_clean_environment_holds_nothing_but_what_the_predictor_needs(tmp_path: Path) -> None:
    import mlops_pkg

    edge = tmp_path / "edge"
    edge.mkdir()
    link_requirements(edge, Path(mlops_pkg.__file__).parent, Bundle("", {MODEL: b""}))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mlops_pkg.bundle.predictor, onnxruntime\n"
        "for name in ('pandas', 'sklearn', 'pyarrow', 'click', 'onnx', 'mlops_pkg.core', 'mlops_pkg.pipeline'):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError: continue\n"
        "    print(name)\n"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(edge)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "", "can be imported, and should not be there"
    assert set(EDGE) <= closure(EDGE)
    assert "pandas" not in closure(EDGE)


def write_source(root: Path, separator: str = ",") -> Path:
    """Write a file to data/ whose rows have the fields of the model, each at the line that ingest recorded."""
    splits = ("train", "validation", "test", "live")
    tables = [read_table(root / "artifacts" / "ingest" / f"{split}.parquet") for split in splits]
    whole = pd.concat(tables).sort_values("line").set_index("line")
    whole = whole.reindex(range(2, whole.index.max() + 1)).drop(columns="late")
    path = root / "data" / "records.csv"
    whole.to_csv(path, index=False, sep=separator, date_format="%Y-%m-%dT%H:%M:%SZ", na_rep="NA")
    return path


def test_the_source_file_gets_the_answers_of_the_fitted_pipeline(copy_of_built: Path) -> None:
    workspace, given = Workspace(copy_of_built), read_subject(copy_of_built)
    assert find_source_file(workspace) is None, "no table of the flights has the fields of the model"
    path = write_source(copy_of_built)

    found = find_source_file(workspace)
    assert given is not None
    asked = predict_reference(workspace, given)

    assert found == path
    assert find_difference(asked, score_source(asked, path, given.bundle)) is None
    told = {one.runtime: one for one in compare_runtimes(workspace, given)}["source file records.csv"]
    assert (told.equal, told.rows) == (True, 5825), "every row that was kept, of all four splits"


def test_a_source_file_that_is_read_otherwise_is_red(copy_of_built: Path) -> None:
    workspace, given = Workspace(copy_of_built), read_subject(copy_of_built)
    assert given is not None
    asked, path = predict_reference(workspace, given), write_source(copy_of_built)
    lines = path.read_text().splitlines(keepends=True)
    first, other = (int(asked.rows["line"].iloc[at]) - 1 for at in (0, int(np.argmax(asked.answer != asked.answer[0]))))
    path.write_text("".join([*lines[:first], lines[other], *lines[first + 1 :]]))

    changed = find_difference(asked, score_source(asked, path, given.bundle))
    path.write_text("".join(lines).replace(",", ";"))

    assert changed is not None
    assert f"line {first + 1}: answer" in changed
    with pytest.raises(UserError, match="these by ';'"):
        score_source(asked, path, given.bundle)
    assert find_source_file(workspace) is None, "by the format of params.yaml it has one column"
