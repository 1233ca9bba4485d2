"""Two people label in two browsers with the keyboard alone, and never have the same case."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mlops_pkg.deployment.cases import read_labels
from mlops_pkg.deployment.ledger import State
from tests.deployment.conftest import project, start
from tests.deployment.test_server import CLIENT, PEOPLE, running, steered
from tests.serving.conftest import JSON
from tests.slow.browser import chromium, complaints
from tests.toy import RECORD

pytestmark = pytest.mark.slow
__all__ = ["project", "start"]  # fixtures

HOSTILE = "<img src=x onerror=document.title='taken'>"


def _number(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "number").text


def test_two_people_label_with_the_keyboard(start: Callable[..., State], project: Path, tmp_path: Path) -> None:
    start(automation={"level": "assist", "twice": 0.0})
    records = [RECORD | {"origin": HOSTILE}] * 6
    asked = {"authorization": f"Bearer {CLIENT}", "content-type": JSON}
    with (
        running(project, **steered()) as server,
        chromium(tmp_path / "ann") as ann,
        chromium(tmp_path / "bob") as bob,
    ):
        assert server.get("/predict", asked, json.dumps({"records": records}).encode()).status == 200
        people = dict(zip(PEOPLE, (ann, bob), strict=True))
        for name, browser in people.items():
            browser.get(f"http://{name}:{PEOPLE[name][0]}@127.0.0.1:{server.port}/cases/page")
            WebDriverWait(browser, 20).until(lambda _, browser=browser: _number(browser))
        seen = [_number(ann), _number(bob)]
        shown, opinion = ann.find_element(By.ID, "fields").text, ann.find_element(By.ID, "shown").text
        for turn in range(3):
            for browser in people.values():
                before = _number(browser)
                ActionChains(browser).send_keys("01"[turn % 2]).perform()
                WebDriverWait(browser, 20).until(lambda _, browser=browser, before=before: _number(browser) != before)
                seen.append(_number(browser))
        ends = [browser.find_element(By.ID, "question").text for browser in people.values()]
        titles, said = [browser.title for browser in people.values()], complaints(ann) + complaints(bob)

    assert sorted(number for number in seen if number) == [f"no. {number}" for number in range(1, 7)]
    assert HOSTILE in shown
    assert re.fullmatch(r"The model says 1, with a probability of \d\d\.\d %\.", opinion)
    assert ends == ["No case waits for you"] * 2
    assert titles == ["Cases of toy"] * 2
    assert said == []
    labels = read_labels(project / "deployment" / "cases.sqlite")
    assert sorted((one["who"], one["label"]) for one in labels) == [
        ("ann", "0"), ("ann", "0"), ("ann", "1"), ("bob", "0"), ("bob", "0"), ("bob", "1"),
    ]  # fmt: skip
