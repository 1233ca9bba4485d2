"""Another model is asked what the first was asked, also where it has other fields."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops_pkg.bundle.manifest import read_bundle
from mlops_pkg.bundle.predictor import Answers, Predictor
from mlops_pkg.bundle.signature import Field
from mlops_pkg.deployment.replay import changed_decisions, convert_inputs
from tests.toy import RECORD, TOY, toy_answer, write_bundle

RECORDS = [RECORD, RECORD | {"wind": None}, RECORD | {"wind": "strong"}, RECORD | {"start": "1999-12-31T23:59"}]


def _predictor(folder: Path, *fields: Field) -> Predictor:
    signature = replace(TOY, fields=fields or TOY.fields)
    return Predictor(read_bundle(write_bundle(folder, signature=signature)), keep_inputs=True)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_same_fields_in_any_order_give_the_same_answers(tmp_path: Path, order: tuple[int, ...]) -> None:
    one = _predictor(tmp_path / "one")
    other = _predictor(tmp_path / "other", *(TOY.fields[at] for at in order))
    answers = one.predict(RECORDS)

    asked = other.predict_inputs(convert_inputs(part, one.signature, other.signature) for part in answers.inputs)

    assert asked.answer.tobytes() == answers.answer.tobytes()
    assert np.isnan(asked.answer[2])
    assert asked.answer[1] == toy_answer("EWR", None, RECORD["start"])


def test_a_narrower_field_rejects_for_itself(tmp_path: Path) -> None:
    one = _predictor(tmp_path / "one")
    other = _predictor(tmp_path / "other", TOY.fields[0], replace(TOY.fields[1], nullable=False), TOY.fields[2])
    answers = one.predict(RECORDS)

    asked = other.predict_inputs(convert_inputs(part, one.signature, other.signature) for part in answers.inputs)

    assert asked.rejected.tolist() == [False, True, True, False]
    assert [reject.record for reject in asked.rejects] == [1, 2]


def _answers(values: list[float], labels: list[int] | None, classes: tuple[int, ...] = ()) -> Answers:
    codes = None if labels is None else np.array(labels)
    return Answers(np.array(values), codes, (), classes)


def test_a_decision_is_another_class() -> None:
    one = _answers([0.2, 0.6, np.nan, 0.4], [0, 1, -1, 0], (0, 1))
    other = _answers([0.4, 0.4, 0.4, np.nan], [0, 0, 0, -1], (0, 1))

    paired, changed = changed_decisions(one, other, None)

    assert paired.tolist() == [True, True, False, False]
    assert changed.tolist() == [False, True, False, False]


def test_classes_are_compared_by_name() -> None:
    one, other = _answers([0.2], [0], (0, 1)), _answers([0.8], [1], (1, 0))

    assert changed_decisions(one, other, None)[1].tolist() == [False]


def test_with_a_distance_numbers_are_compared() -> None:
    one, other = _answers([1.0, 2.0, np.nan], None), _answers([1.4, 2.6, 1.0], None)

    assert changed_decisions(one, other, 0.5)[1].tolist() == [False, True, False]
    assert changed_decisions(one, other, None)[1].tolist() == [False, False, False]
    three = Answers(np.array([[0.2, 0.3, 0.5]]), np.array([2]), (), ("a", "b", "c"))
    moved = Answers(np.array([[0.3, 0.3, 0.4]]), np.array([2]), (), ("a", "b", "c"))
    assert changed_decisions(three, moved, 0.09)[1].tolist() == [True]
