"""Records into four splits: at random or by a key, each row in one, none moved by another, none lost."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_pkg.core.params import SPLITS, Data, RandomSplit, Target, UserError
from mlops_pkg.core.splits import (
    assign_splits,
    check_training,
    draw_numbers,
    drop_without,
    make_target,
    select,
    split_rows,
)

SHARES = {"train": 0.6, "validation": 0.1, "test": 0.2, "live": 0.1}


def at_random(seed: int = 0, **more: Any) -> RandomSplit:
    """A random split of the usual shares."""
    return RandomSplit.model_validate({"shares": SHARES, "seed": seed, **more})


def make_data(**changed: Any) -> Data:
    """What params.yaml says of the visits: an age and a ward, and how long they lasted."""
    columns = {"age": {"kind": "number"}, "ward": {"kind": "category"}}
    said = {"source": {"package": "toy"}, "target": {"name": "days"}, "known_later": [], "columns": columns}
    return Data.model_validate({**said, "split": {"shares": SHARES, "seed": 0}, **changed})


def visits(rows: int = 500) -> pd.DataFrame:
    """Visits of patients, five each, indexed by their line."""
    lines = pd.RangeIndex(2, rows + 2, name="line")
    number = np.arange(rows)
    words = {"patient": [f"p{n // 5}" for n in number], "ward": np.where(number % 2, "A", "B")}
    frame = pd.DataFrame(words, index=lines).astype("str")
    return frame.assign(age=20.0 + number % 70, days=1.0 + number % 9, year=2000.0 + number % 4)


def message_of(frame: pd.DataFrame, data: Data) -> str:
    """What the user is told when these visits are selected and split."""
    with pytest.raises(UserError) as caught:
        split_rows(select(frame, "days", data), data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


# At random


def test_the_numbers_are_those_of_the_definition() -> None:
    """SHA-256 of `seed:key`, its first 48 bits as a fraction: figures that must never change."""
    assert (draw_numbers(pd.Series([2, 3, 336_777]), seed=0) * 2**48).tolist() == [
        161802857768650,
        130651880619791,
        54968775092690,
    ]
    assert (draw_numbers(pd.Series(["p1", "é"], dtype="str"), seed=4294967295) * 2**48).tolist() == [
        215204558558601,
        256453397851677,
    ]
    assert (draw_numbers(pd.Series([1.0, 0.1, 1e22]), seed=7) * 2**48).tolist() == [
        262313248381339,
        194739188886365,
        34293745213344,
    ]


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    work = "from mlops_pkg.core.splits import draw_numbers; print(draw_numbers(pd.Series(['a', 'b']), 3).tolist())"
    program = f"import pandas as pd; {work}"
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(said) == 1


@pytest.mark.parametrize("seed", [0, 1, 4294967295])
def test_the_splits_are_as_large_as_their_shares(seed: int) -> None:
    place = assign_splits(pd.DataFrame({"line": range(2, 50_002)}), at_random(seed))

    for name, share in SHARES.items():
        assert abs((place == name).mean() - share) < 4 * (share * (1 - share) / 50_000) ** 0.5, name


def test_another_seed_is_another_split() -> None:
    lines = pd.DataFrame({"line": range(2, 1002)})

    assert (assign_splits(lines, at_random(0)) != assign_splits(lines, at_random(1))).any()


def test_rows_that_come_later_move_no_other_row() -> None:
    data = make_data()
    before = split_rows(select(visits(500), "days", data), data)

    after = split_rows(select(visits(800), "days", data), data)

    for name in SPLITS:
        kept = after[name][after[name]["line"] < 502].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, before[name])


def test_the_order_of_the_rows_decides_nothing() -> None:
    lines = pd.DataFrame({"line": range(2, 502)})
    mixed = lines.sample(frac=1, random_state=0)

    assert (assign_splits(mixed, at_random()) == assign_splits(lines, at_random())[mixed.index]).all()


def test_a_larger_share_of_training_only_moves_rows_into_training() -> None:
    lines = pd.DataFrame({"line": range(2, 5002)})
    larger = at_random().model_copy(
        update={"shares": at_random().shares.model_copy(update={"train": 0.65, "live": 0.05})}
    )

    before, after = assign_splits(lines, at_random()), assign_splits(lines, larger)

    assert (after[before == "train"] == "train").all()
    assert set(before[(after == "train") & (before != "train")]) == {"validation"}


def test_what_belongs_together_stays_in_one_split() -> None:
    data = make_data(split={"shares": SHARES, "seed": 0, "together": "patient"})

    splits = split_rows(select(visits(), "days", data), data)

    seen = [set(rows["patient"]) for rows in splits.values()]
    assert sum(map(len, seen)) == 100, "a patient is in two splits, or in none"
    assert sum(map(len, splits.values())) == 500


def test_by_lines_what_belongs_together_is_torn() -> None:
    """What the test above would see if `together` were not heeded."""
    frame = visits()

    place = pd.Series(assign_splits(frame.reset_index(), at_random()), index=frame.index)

    assert place.groupby(frame["patient"]).nunique().max() > 1


def test_a_group_stays_where_it_is_when_the_file_gets_another_order() -> None:
    data = make_data(split={"shares": SHARES, "seed": 0, "together": "patient"})
    mixed = visits().sample(frac=1, random_state=0).set_index(pd.RangeIndex(2, 502))

    before, after = (split_rows(select(frame, "days", data), data) for frame in (visits(), mixed))

    assert [set(before[name]["patient"]) for name in SPLITS] == [set(after[name]["patient"]) for name in SPLITS]


def test_every_row_is_in_exactly_one_split_with_its_line() -> None:
    data = make_data()

    splits = split_rows(select(visits(), "days", data), data)

    assert sorted(line for rows in splits.values() for line in rows["line"]) == list(range(2, 502))
    assert list(splits["train"].columns) == ["line", "age", "ward", "days"]


def test_a_split_that_drew_no_row_is_an_error() -> None:
    message = message_of(visits(5), make_data())

    assert message.startswith("params.yaml: data.split.shares.")
    assert message.endswith(": none of 5 rows drew it; enlarge it, or try another seed")


@pytest.mark.parametrize("column", ["patint", "at", "gap"])
def test_a_column_that_keeps_nothing_together_is_an_error(column: str) -> None:
    frame = visits().assign(at=pd.Timestamp("2013-01-01"), gap=[np.nan, *range(499)])

    message = message_of(frame, make_data(split={"shares": SHARES, "seed": 0, "together": column}))

    assert message.startswith(f"params.yaml: data.split.together = '{column}': ingest makes no such column of texts")


# By a key


def test_by_a_key_a_row_goes_where_its_value_is_listed() -> None:
    by = {"by": "year", "train": [2000], "validation": [2001], "test": [2002], "live": [2003, 2004]}
    data = make_data(split=by)

    splits = split_rows(select(visits(), "days", data), data)

    assert {name: set(rows["year"]) for name, rows in splits.items()} == {
        "train": {2000},
        "validation": {2001},
        "test": {2002},
        "live": {2003},
    }
    assert str(splits["train"]["year"].dtype) == "int64"


def test_a_row_whose_value_is_listed_nowhere_is_left_out() -> None:
    by = {"by": "year", "train": [2000], "validation": [2001], "test": [2002], "live": [2003]}
    data = make_data(split=by)
    frame = visits().assign(year=lambda f: f["year"].where(f.index > 100, 1999.0))

    splits = split_rows(select(frame, "days", data), data)

    assert sum(map(len, splits.values())) == 401


# The target


@pytest.mark.parametrize(
    ("values", "target", "made"),
    [
        ([1.0, 2.0, 3.0], {}, [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], {"positive_above": 2}, [0, 0, 1]),
        (["a", "b", "a"], {"positive": "b"}, [0, 1, 0]),
        (["b", "c", "a"], {"labels": ["c", "b", "a"]}, [1, 0, 2]),
        ([3.0, 1.5, 3.0], {"labels": [1.5, 3]}, [1, 0, 1]),
        (["True", "FALSE", "true"], {"labels": [False, True]}, [1, 0, 1]),
    ],
)
def test_the_target_is_made_as_params_say(values: list[Any], target: dict[str, Any], made: list[float]) -> None:
    outcome = pd.Series(values, name="x")

    found = make_target(outcome, Target.model_validate({"name": "y", **target}))

    assert found.tolist() == made
    assert found.name == "y"


@pytest.mark.parametrize(
    ("values", "target", "line"),
    [
        (["b", "a"], {}, "data.target: x holds texts; name its classes with `labels:`: a, b"),
        (["b", "a"], {"positive": "c"}, "data.target: x holds texts; name its classes with `labels:`: a, b"),
        (["b", "a"], {"positive_above": 1}, "data.target: x holds texts; name its classes with `labels:`: a, b"),
        ([1.0, 2.0], {"positive": "1"}, "data.target.positive = '1': x holds numbers; use positive_above"),
        ([True, False], {}, "data.target: x is bool; make it str or float64 in ingest"),
        (
            [1.0],
            {"labels": ["1", "2"]},
            "data.target.labels: x holds numbers, and the labels are texts; write the labels as numbers",
        ),
        (
            ["1"],
            {"labels": [1, 2]},
            "data.target.labels: x holds texts, and the labels are numbers; write each label in quotes",
        ),
        (
            ["Adelie", "Gento", "Gento"],
            {"labels": ["Adelie", "Gentoo"]},
            "data.target.labels: x = 'Gento' at line 1 is none of them (2 such); did you mean 'Gentoo'?; add the "
            "label, or reject these rows in ingest",
        ),
    ],
)
def test_a_target_that_cannot_be_made_is_one_line(values: list[Any], target: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        make_target(pd.Series(values, name="x"), Target.model_validate({"name": "y", **target}))

    assert str(caught.value) == f"params.yaml: {line}"


def test_a_target_that_is_missing_everywhere_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^data/: no row has a value of 'days', so there is no target$"):
        drop_without(visits().assign(days=np.nan), "days")


def test_an_outcome_that_is_not_there_is_an_error_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match="column 'dais', from which the target is made, is missing; did you mean 'days'"
    ):
        drop_without(visits(), "dais")


def test_a_row_without_a_target_leaves_and_no_other() -> None:
    frame = visits(6).assign(days=[1.0, np.nan, 0.0, np.nan, 2.0, 3.0])

    assert drop_without(frame, "days").index.tolist() == [2, 4, 6, 7]


# The columns


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ag": {"kind": "number"}}, "data.columns.ag: ingest makes no such column; did you mean 'age'?"),
        ({"days": {"kind": "number"}}, "data.columns.days: the target is made from it; remove it"),
        ({"age": {"kind": "category"}}, "data.columns.age.kind = 'category': it is a number"),
        ({"ward": {"kind": "number"}}, "data.columns.ward.kind = 'number': it is a category"),
        ({"ward": {"kind": "datetime"}}, "data.columns.ward.kind = 'datetime': it is a category"),
        ({"beds": {"kind": "number"}}, "data.columns.beds.kind = 'number': it is int64; make it float64 in ingest"),
        ({"empty": {"kind": "number"}}, "data.columns.empty: no training row has a value of it; remove it"),
        ({"nobody": {"kind": "category"}}, "data.columns.nobody: no training row has a value of it; remove it"),
    ],
)
def test_a_column_that_cannot_be_used_is_one_line(changed: dict[str, Any], line: str) -> None:
    frame = visits().assign(beds=3, empty=np.nan, nobody=pd.Series(None, index=visits().index, dtype="str"))

    message = message_of(frame, make_data(columns=changed, target={"name": "stay"}))

    assert message == f"params.yaml: {line}"


def test_a_category_of_ten_thousand_values_that_names_rows_is_an_error() -> None:
    train = pd.DataFrame({"age": 1.0, "ward": [f"plate {n % 10_000}" for n in range(12_000)]}).astype({"ward": "str"})

    with pytest.raises(UserError) as caught:
        check_training(train, make_data())

    assert str(caught.value) == (
        "params.yaml: data.columns.ward: 10,000 values in 12,000 training rows, so it names rows rather than groups of "
        "rows; group its values in ingest, make it a number, or remove it"
    )


@pytest.mark.parametrize(("values", "rows"), [(10_000, 50_000), (100, 100)])
def test_a_category_that_groups_rows_may_have_many_values(values: int, rows: int) -> None:
    train = pd.DataFrame({"age": 1.0, "ward": [f"plate {n % values}" for n in range(rows)]}).astype({"ward": "str"})

    check_training(train, make_data())
