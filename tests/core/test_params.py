"""params.yaml: every kind of mistake ends in one line that names file, key, value and what would be right."""

import re
import typing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mlops_pkg.core import params as core
from mlops_pkg.core.params import UserError, as_yaml, merge, nearest, parse_yaml, read_yaml
from mlops_pkg.pipeline.params import Params
from tests.conftest import TASK
from tests.names import NAMES, NFC, NFD

load_params = partial(core.load_params, model=Params)  # the files of these tests lie in no project


ROOT = Path(__file__).parents[2]


def write(path: Path, overrides: dict[str, Any]) -> Path:
    """The project's own params.yaml for the task of the tests, with `overrides` laid over it."""
    values = merge(merge(read_yaml(ROOT / "params.yaml"), TASK), overrides)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def message_of(path: Path, overrides: dict[str, Any] | None = None) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as caught:
        load_params(path, overrides)
    return str(caught.value)


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation mentions, and those that their fields mention."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_of(field.annotation)
    for part in typing.get_args(annotation):
        yield from models_of(part)


def test_the_projects_own_params_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")

    assert list(params.data.columns) == params.data.names()
    assert sorted(params.data.names()) == sorted(
        params.data.names("category") + params.data.names("number") + params.data.names("datetime")
    )


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # a misspelt key in each section
        ({"sed": 0}, "params.yaml: sed: unknown key; did you mean 'seed'?"),
        ({"data": {"sorce": "x"}}, "params.yaml: data.sorce: unknown key; did you mean 'source'?"),
        ({"data": {"target": {"nam": "x"}}}, "params.yaml: data.target.nam: unknown key; did you mean 'name'?"),
        ({"data": {"split": {"trian": [1]}}}, "params.yaml: data.split.trian: unknown key; did you mean 'train'?"),
        (
            {"data": {"columns": {"dest": {"nulable": True}}}},
            "params.yaml: data.columns.dest.nulable: unknown key; did you mean 'nullable'?",
        ),
        (
            {"ingest": {"max_rejects_share": 0.1}},
            "params.yaml: ingest.max_rejects_share: unknown key; did you mean 'max_reject_share'?",
        ),
        ({"features": {"step": []}}, "params.yaml: features.step: unknown key; did you mean 'steps'?"),
        ({"train": {"optons": {}}}, "params.yaml: train.optons: unknown key; did you mean 'options'?"),
        (
            {"train": {"max_iter": 5}},
            "params.yaml: train.max_iter: unknown key; an option of the estimator belongs under train.options",
        ),
        ({"evaluate": {"bootstrp": 50}}, "params.yaml: evaluate.bootstrp: unknown key; did you mean 'bootstrap'?"),
        ({"package": {"nmae": "x"}}, "params.yaml: package.nmae: unknown key; did you mean 'name'?"),
        # nothing near: all valid names
        (
            {"package": {"zzz": "x"}},
            "params.yaml: package.zzz: unknown key; valid names: description, intended_use, limits, name, runtime",
        ),
        # wrong types
        ({"seed": "0"}, 'params.yaml: seed = "0": input should be a valid integer'),
        ({"seed": True}, "params.yaml: seed = true: input should be a valid integer"),
        ({"evaluate": {"bootstrap": 2.5}}, "params.yaml: evaluate.bootstrap = 2.5: input should be a valid integer"),
        (
            {"evaluate": {"confidence": "0.1"}},
            'params.yaml: evaluate.confidence = "0.1": input should be a valid number',
        ),
        ({"evaluate": {"bootstrap": None}}, "params.yaml: evaluate.bootstrap = null: input should be a valid integer"),
        ({"data": {"split": {"test": 9}}}, "params.yaml: data.split.test = 9: input should be a valid tuple"),
        # out of bounds
        (
            {"evaluate": {"bootstrap": 0}},
            "params.yaml: evaluate.bootstrap = 0: input should be greater than or equal to 20",
        ),
        ({"train": {"linear_alpha": 0.0}}, "params.yaml: train.linear_alpha = 0.0: input should be greater than 0"),
        (
            {"train": {"linear_alpha": 2e6}},
            "params.yaml: train.linear_alpha = 2000000.0: input should be less than or equal to 1000000",
        ),
        (
            {"train": {"linear_alpha": float("nan")}},
            "params.yaml: train.linear_alpha = NaN: input should be a finite number",
        ),
        ({"evaluate": {"confidence": 1.0}}, "params.yaml: evaluate.confidence = 1.0: input should be less than 1"),
        (
            {"ingest": {"max_reject_share": 1.5}},
            "params.yaml: ingest.max_reject_share = 1.5: input should be less than or equal to 1",
        ),
        ({"seed": -1}, "params.yaml: seed = -1: input should be greater than or equal to 0"),
        # a value that is not one of few
        ({"task": "ranking"}, "params.yaml: task = \"ranking\": input should be 'classification' or 'regression'"),
        (
            {"train": {"estimator": "xgbost"}},
            "params.yaml: train.estimator = \"xgbost\": no such estimator; did you mean 'xgboost'?",
        ),
        (
            {"data": {"columns": {"dest": {"kind": "text"}}}},
            "params.yaml: data.columns.dest.kind = \"text\": input should be 'category', 'number' or 'datetime'",
        ),
        # rules between keys
        ({"data": {"split": {"test": [8, 9]}}}, "params.yaml: data.split.8 is in both validation and test"),
        ({"data": {"split": {"live": [11, 11]}}}, "params.yaml: data.split.11 is in both live and live"),
        (
            {"data": {"columns": {"dep_delay": {"kind": "number"}}}},
            "params.yaml: data.columns.dep_delay: known only after the moment of prediction (data.known_later): "
            "remove it",
        ),
        (
            {"data": {"columns": {"late": {"kind": "number"}}}},
            "params.yaml: data.columns.late: this is the target or the split key, not a column of the model",
        ),
        (
            {"data": {"columns": {"month": {"kind": "number"}}}},
            "params.yaml: data.columns.month: this is the target or the split key, not a column of the model",
        ),
        (
            {"evaluate": {"slices": ["cariier"]}},
            "params.yaml: evaluate.slices: 'cariier' is not a column; did you mean 'carrier'?",
        ),
        (
            {"data": {"columns": {"dest": {"minimum": 0.0}}}},
            "params.yaml: data.columns.dest.unit, minimum and maximum belong to kind: number",
        ),
        (
            {"data": {"columns": {"distance": {"minimum": 5.0, "maximum": 4.0}}}},
            "params.yaml: data.columns.distance.minimum is above maximum",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, overrides: dict[str, Any], line: str) -> None:
    assert message_of(write(tmp_path / "params.yaml", overrides)) == line


SHARES = {"train": 0.6, "validation": 0.1, "test": 0.2, "live": 0.1}


def write_data(path: Path, **changed: Any) -> Path:
    """The project's own params.yaml with keys of `data` put in the place of those that are there."""
    values = read_yaml(ROOT / "params.yaml")
    values["data"] |= changed
    values["evaluate"]["slices"] = []
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def test_a_random_split_has_no_key_but_what_keeps_rows_together(tmp_path: Path) -> None:
    alone, together = (
        load_params(write_data(tmp_path / "params.yaml", split={"shares": SHARES, "seed": 3, **more})).data
        for more in ({}, {"together": "tailnum"})
    )

    assert (alone.keys, together.keys) == (["line"], ["line", "tailnum"])
    assert alone.split.how == "at random, seed 3"
    assert together.split.how == "at random, seed 3, rows of one tailnum together"


def test_shares_are_whole_within_rounding(tmp_path: Path) -> None:
    thirds = {"train": 0.7, "validation": 0.1, "test": 0.1, "live": 0.1}  # not 1 in binary
    path = write_data(tmp_path / "params.yaml", split={"shares": thirds, "seed": 0})

    assert load_params(path).data.split.how == "at random, seed 0"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"split": {"shares": {**SHARES, "train": 0.7}, "seed": 0}},
            "data.split.shares.train, validation, test and live sum to 1.1; they must sum to 1",
        ),
        (
            {"split": {"shares": {**SHARES, "live": 0}, "seed": 0}},
            "data.split.shares.live = 0: input should be greater than 0",
        ),
        (
            {"split": {"shares": {**SHARES, "live": "10%"}, "seed": 0}},
            'data.split.shares.live = "10%": input should be a valid number',
        ),
        (
            {"split": {"shares": {**SHARES, "liv": 0.1}, "seed": 0}},
            "data.split.shares.liv: unknown key; did you mean 'live'?",
        ),
        ({"split": {"shares": SHARES}}, "data.split.seed: missing; add it"),
        ({"split": {"shares": SHARES, "sed": 0}}, "data.split.sed: unknown key; did you mean 'seed'?"),
        ({"split": {"shares": SHARES, "seed": -1}}, "data.split.seed = -1: input should be greater than or equal to 0"),
        (
            {"split": {"shares": SHARES, "seed": 0, "by": "month"}},
            "data.split.by and shares are two ways to split: remove one",
        ),
        ({"split": 5}, "data.split = 5: input should be a valid dictionary or instance of Split"),
        (
            {"split": {"shares": SHARES, "seed": 0, "together": "dest"}},
            "data.columns.dest: this is the target or the split key, not a column of the model",
        ),
        (
            {"target": {"name": "x", "positive": "a", "positive_above": 3.0}},
            "data.target.positive and positive_above are different ways to name the classes: keep one",
        ),
        ({"target": {"name": "x", "labels": ["a", "b", "a"]}}, "data.target.labels: 'a' stands twice; remove one"),
        (
            {"target": {"name": "x", "labels": [False, "maybe"]}},
            "data.target.labels: texts, numbers and booleans are mixed; put texts such as no and 1 into quotes",
        ),
        (
            {"target": {"name": "x", "unit": "g", "positive_above": 3.0}},
            "data.target.unit belongs to a number that is predicted: remove it",
        ),
    ],
)
def test_a_mistake_in_a_split_or_a_target_is_one_line(tmp_path: Path, changed: dict[str, Any], line: str) -> None:
    assert message_of(write_data(tmp_path / "params.yaml", **changed)) == f"params.yaml: {line}"


def test_a_regression_of_what_was_cut_in_two_is_an_error(tmp_path: Path) -> None:
    message = message_of(write(tmp_path / "params.yaml", {"task": "regression"}))

    assert message == (
        "params.yaml: data.target.positive_above: a regression predicts the number itself: remove it, or set task"
    )


def test_a_mapping_where_a_value_belongs_is_named_by_its_key(tmp_path: Path) -> None:
    path = write(tmp_path / "params.yaml", {"evaluate": {"bootstrap": {"least": 50}}})

    message = message_of(path)

    assert message == 'params.yaml: evaluate.bootstrap = {"least": 50}: input should be a valid integer'


@pytest.mark.parametrize(
    "keys",
    [
        ("task",),
        ("train",),
        ("train", "linear_alpha"),
        ("data", "target", "name"),
        ("data", "split", "live"),
        ("package", "name"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values: Any = read_yaml(ROOT / "params.yaml")
    section = values
    for key in keys[:-1]:
        section = section[key]
    del section[keys[-1]]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))

    assert message_of(path) == f"params.yaml: {'.'.join(keys)}: missing; add it"


def test_a_step_of_the_features_is_named_by_its_place(tmp_path: Path) -> None:
    steps = [{"use": "DropFeatures", "variables": ["dest"]}, {"variables": ["dest"]}]

    message = message_of(write(tmp_path / "params.yaml", {"features": {"steps": steps}}))

    assert message == "params.yaml: features.steps[1].use: missing; add it"


def test_every_mistake_has_its_own_line(tmp_path: Path) -> None:
    overrides = {"train": {"estimator": "xgbost", "linear_alpha": -2.0}, "evaluate": {"bootstrap": 1}}

    lines = message_of(write(tmp_path / "params.yaml", overrides)).splitlines()

    assert [line.split(" = ")[0] for line in lines] == [
        "params.yaml: train.estimator",
        "params.yaml: train.linear_alpha",
        "params.yaml: evaluate.bootstrap",
    ]


def test_every_misspelt_key_has_its_own_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    overrides = {"evaluate": {"zebra": 1, "bootstrp": 5, "apple": 1}}

    lines = message_of(write(tmp_path / "params.yaml", overrides)).splitlines()

    found = [line.split(": unknown key")[0] for line in lines]
    assert found == ["params.yaml: evaluate.zebra", "params.yaml: evaluate.bootstrp", "params.yaml: evaluate.apple"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"seed: 0\nseed: 1\n", "params.yaml: not valid YAML: key 'seed' is written twice (line 1)"),
        (b"train:\n  a: 1\n  b: 2\n  a: 3\n", "params.yaml: not valid YAML: key 'a' is written twice (line 2)"),
        (b"a: [1\n", "params.yaml: not valid YAML: did not find expected ',' or ']' (line 2)"),
        (b"a: b: c\n", "params.yaml: not valid YAML: mapping values are not allowed in this context (line 1)"),
        (b"name: caf\xe9\n", "params.yaml: not UTF-8 text (byte 9)"),
        (b"- a\n- b\n", "params.yaml: expected a mapping of sections, found list"),
        (b"hello\n", "params.yaml: expected a mapping of sections, found str"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    assert message_of(path) == line


@pytest.mark.parametrize(
    "content",
    [
        b"",  # empty
        b"# only a comment\n",
        b"a: \x00\n",  # YAML's own message has several lines
        b"seed: 2013-13-45\n",  # looks like a date, and is none
        b"seed: !!int many\n",
        b"seed: !!python/name:os.system\n",
        b"? [1, 2]\n: 3\n",
    ],
)
def test_any_other_content_is_one_line_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    message = message_of(path)

    assert message.startswith("params.yaml: ")
    assert len(message.splitlines()) == 1, message


def test_a_missing_file_is_named_with_its_folder(tmp_path: Path) -> None:
    assert message_of(tmp_path / "params.yaml") == f"params.yaml: there is no such file in {tmp_path}"


def test_params_are_frozen() -> None:
    params = load_params(ROOT / "params.yaml")

    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        params.train.linear_alpha = 1  # type: ignore[misc]


def test_every_value_is_described() -> None:
    sections = set(models_of(Params))

    bare = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not list(models_of(field.annotation)) and not (field.description or "").strip()
    ]
    undocumented = [section.__name__ for section in sections if not (section.__doc__ or "").strip()]

    assert len(sections) >= 11, "the walk over the models has lost its way"
    assert not bare, f"no description: {bare}"
    assert not undocumented, f"no docstring: {undocumented}"


def test_a_step_keeps_its_own_options_apart() -> None:
    step = load_params(ROOT / "params.yaml").features.steps[0]

    assert step.use == "DatetimeSubtraction"
    assert step.variables == ("sched_arr_utc",)
    assert set(step.options) == {"reference", "new_variables_names", "output_unit", "drop_original"}


def test_overrides_are_laid_over_the_file() -> None:
    params = load_params(ROOT / "params.yaml", {"train": {"options": {"max_iter": 7}}})
    plain = load_params(ROOT / "params.yaml")

    assert params.train.options == {**plain.train.options, "max_iter": 7}
    assert params.model_copy(update={"train": plain.train}) == plain, "more than the override has changed"


def test_an_override_is_checked_like_the_file() -> None:
    message = message_of(ROOT / "params.yaml", {"evaluate": {"bootstrp": 70}})

    assert message == "params.yaml: evaluate.bootstrp: unknown key; did you mean 'bootstrap'?"


COLUMNS = {name: {"kind": "number"} for name in NAMES}


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    data = {
        "columns": COLUMNS,
        "known_later": ["x y"],
        "file_format": {"times": {"a.b": "%Y"}, "rename": {"line": "z"}},
    }
    named = {"split": {"by": "month of sale"}, "target": {"name": "über 1"}}
    path = write(tmp_path / "params.yaml", {"data": {**data, **named}, "evaluate": {"slices": ["a[0]"]}})

    params = load_params(path)

    assert set(NAMES) <= set(params.data.columns)
    assert (params.data.split.key, params.data.target.name) == ("month of sale", "über 1")
    assert params.evaluate.slices == ("a[0]",)


def test_the_name_of_a_column_is_in_form_nfc(tmp_path: Path) -> None:
    path = write(tmp_path / "params.yaml", {"data": {"columns": {NFD: {"kind": "number"}}}})

    assert NFC in load_params(path, {"data": {"known_later": [f"{NFD} (later)"]}}).data.columns
    path.write_text(path.read_text() + f"more: {{{NFC}: 1, {NFD}: 2}}\n", encoding="utf-8")
    assert "is written twice" in message_of(path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"columns": {" a": {"kind": "number"}}}, r"data.columns[' a'] = \" a\": the name of a column has no blanks"),
        ({"columns": {"a\nb": {"kind": "number"}}}, "no line break and no control character"),
        ({"columns": {"": {"kind": "number"}}}, "data.columns[''] = \"\": string should have at least 1 character"),
        ({"columns": {"x" * 101: {"kind": "number"}}}, "string should have at most 100 characters"),
        ({"columns": {"a.b c": {"kind": "nmber"}}}, "data.columns['a.b c'].kind = \"nmber\": "),
        (
            {"columns": {"line": {"kind": "number"}}},
            "data.columns.line: 'line' is the name of the number of a row; read",
        ),
        ({"known_later": ["a.b"], "columns": COLUMNS}, "data.columns['a.b']: known only after the moment"),
        (
            {"target": {"name": "model"}},
            "data.target.name: a column of predictions.parquet has the name 'model'; write",
        ),
        (
            {"file_format": {"times": {"a b": "exel"}}},
            "data.file_format.times['a b']: expected a format like %d.%m.%Y, excel",
        ),
        ({"file_format": {"thousands": "."}}, "data.file_format.thousands: it is the decimal mark too: take another"),
        ({"file_format": {"thousands": "x"}}, 'data.file_format.thousands = "x": string should match pattern'),
        ({"file_format": {"rename": {"a": "c", "b": "c"}}}, "data.file_format.rename: two columns get the name 'c'"),
    ],
)
def test_a_name_that_will_not_do_is_one_line(overrides: dict[str, Any], said: str, tmp_path: Path) -> None:
    message = message_of(write(tmp_path / "params.yaml", {"data": overrides}))

    assert said.replace("\\", "") in message
    assert len(message.splitlines()) == 1


def test_merging_replaces_lists_and_leaves_its_arguments_alone() -> None:
    values = {"a": {"b": [1, 2], "c": 3}, "d": 4}
    overrides = {"a": {"b": [9]}, "e": {"f": 5}}

    merged = merge(values, overrides)

    assert merged == {"a": {"b": [9], "c": 3}, "d": 4, "e": {"f": 5}}
    assert values == {"a": {"b": [1, 2], "c": 3}, "d": 4}


def test_the_nearest_name_is_hinted_at_and_else_all_are_listed() -> None:
    assert nearest("trian", ["test", "train"]) == "did you mean 'train'?"
    assert nearest("xyz", ["test", "train"]) == "valid names: test, train"


def test_the_leak_rule_names_everything_that_happens_after_scheduled_departure() -> None:
    known_later = load_params(ROOT / "params.yaml").data.known_later

    assert {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"} <= set(known_later)


@pytest.mark.parametrize("name", ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"])
def test_a_column_that_is_known_later_is_refused(name: str) -> None:
    message = message_of(ROOT / "params.yaml", {"data": {"columns": {name: {"kind": "number"}}}})

    assert re.fullmatch(rf"params\.yaml: data\.columns\.{name}: known only after .*: remove it", message)


SCALARS = (
    "[No, yes, on, Off, y, 1e-3, 1E5, 12:30, 010, 0x1F, 0o17, 1_000, .5, 5., -.inf, true, null, ~, 2013-01-01, '5']"
)


def test_a_scalar_is_what_dvc_takes_it_for() -> None:
    YAML = pytest.importorskip("ruamel.yaml").YAML

    ours, theirs = parse_yaml(f"a: {SCALARS}", "params.yaml")["a"], YAML(typ="safe").load(SCALARS)

    assert ours == theirs
    assert [*map(type, ours)] == [*map(type, theirs)]
    assert ours[:3] == ["No", "yes", "on"]


def test_a_text_is_written_so_that_both_versions_of_yaml_read_a_text() -> None:
    YAML = pytest.importorskip("ruamel.yaml").YAML

    texts = SCALARS.strip("[]").replace("'", "").split(", ")
    written = as_yaml(texts)

    assert [yaml.safe_load(written), YAML(typ="safe").load(written), parse_yaml(f"a: {written}", "x")["a"]] == [
        texts
    ] * 3
