"""deployment.yaml is checked key by key, and who is asked depends on a value alone."""

import math
from pathlib import Path
from typing import Any

import pytest

from mlops_pkg.deployment.plan import DeploymentError, check_inside, parse_plan, position

CANARY = {"champion": "old", "challenger": "new", "mode": "canary"}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"champion": 7}, "d.yaml: champion = 7: input should be a valid string"),
        ({}, "d.yaml: champion: field required"),
        (CANARY | {"mode": "canari"}, "d.yaml: mode = 'canari': input should be 'champion', 'canary', 'blue-green' or"),
        (CANARY | {"mode": "champion"}, "d.yaml: challenger: not used in the mode champion"),
        ({"champion": "old", "mode": "canary"}, "d.yaml: challenger: needed in the mode canary"),
        (CANARY | {"mode": "ab"}, "d.yaml: share: needed in the mode ab, and in no other"),
        (CANARY | {"share": 0.5}, "d.yaml: share: needed in the mode ab, and in no other"),
        (CANARY | {"ramp": {"steps": [0.5, 0.1]}}, "d.yaml: ramp = {'steps': [0.5, 0.1]}: expected shares in"),
        (CANARY | {"ramp": {"steps": [0.0, 1.0]}}, "d.yaml: ramp.steps.0 = 0.0: input should be greater than 0"),
        (CANARY | {"guards": {"faild": 1}}, "d.yaml: guards.faild: unknown key; did you mean 'failed'?"),
        (CANARY | {"guard": {}}, "d.yaml: guard: unknown key; did you mean 'guards'?"),
        (CANARY | {"zzz": 1}, "d.yaml: zzz: unknown key; keys: champion, challenger, mode, share"),
        (CANARY | {"shadows": ["a"] * 5}, "d.yaml: shadows = "),
        ([], "d.yaml: "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_key(values: Any, line: str) -> None:
    with pytest.raises(DeploymentError) as error:
        parse_plan(values, "d.yaml")

    [told] = str(error.value).splitlines()
    assert told.startswith(line)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({"champion": "old"}, 0.0),
        (CANARY, 0.05),
        (CANARY | {"ramp": {"steps": [0.2, 1.0]}}, 0.2),
        (CANARY | {"mode": "blue-green"}, 0.0),
        (CANARY | {"mode": "ab", "share": 0.3}, 0.3),
    ],
)
def test_each_mode_begins_with_its_share(values: dict[str, Any], share: float) -> None:
    assert parse_plan(values, "d.yaml").first_share == share


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_values_are_split_as_declared(share: float) -> None:
    asked = sum(position(f"customer {number}", "salt") < share for number in range(20_000))

    assert abs(asked / 20_000 - share) < 4 * math.sqrt(share * (1 - share) / 20_000)


def test_a_value_keeps_its_place_and_a_salt_mixes_the_places() -> None:
    values = [f"customer {number}" for number in range(1000)]
    places = [position(value, "a") for value in values]

    assert places == [position(value, "a") for value in values]
    both = sum(position(value, "a") < 0.5 and position(value, "b") < 0.5 for value in values)
    assert 200 < both < 300  # a quarter: the two salts know nothing of each other
    assert position("\ud800", "a") != position("", "a")  # half of a surrogate pair


@pytest.mark.parametrize("name", ["../other", "/etc", "new/../../x", "link"])
def test_a_folder_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to(tmp_path)

    with pytest.raises(DeploymentError, match="outside"):
        check_inside(tmp_path / "project", name)
