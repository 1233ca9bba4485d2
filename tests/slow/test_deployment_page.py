"""The page of a deployment in a real browser: it shows the split and the ledger, and its buttons decide."""

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mlops_pkg.deployment.ledger import State, decide, read_state
from tests.deployment.conftest import project, start
from tests.deployment.test_server import KEY, running, steered
from tests.slow.browser import chromium, complaints

pytestmark = pytest.mark.slow
__all__ = ["project", "start"]  # fixtures

HOSTILE = "<img src=x onerror=document.title='taken'>"


def test_the_page_shows_and_decides(start: Callable[..., State], project: Path) -> None:
    start(challenger="new", mode="blue-green", shadows=["other"])
    decide(project / "deployment", "promote", "ann", HOSTILE)
    with running(project, **steered()) as server, chromium(project) as browser:
        browser.get(f"http://operator:{KEY}@127.0.0.1:{server.port}/deployment/page")
        wait = WebDriverWait(browser, 20)
        wait.until(lambda _: "100.00 %" in browser.find_element(By.ID, "condition").text)
        ledger = browser.find_element(By.ID, "ledger").text
        models = browser.find_element(By.ID, "models").text
        browser.find_element(By.ID, "reason").send_keys("the desk is called too often")
        browser.find_element(By.CSS_SELECTOR, "[data-decision=rollback]").click()
        wait.until(lambda _: "0.00 % of the requests; over: rollback" in browser.find_element(By.ID, "condition").text)
        browser.find_element(By.CSS_SELECTOR, "[data-decision=rollback]").click()
        wait.until(lambda _: "nothing to do" in browser.find_element(By.ID, "told").text)
        title, said = browser.title, complaints(browser)

    assert HOSTILE in ledger
    assert title == "Deployment of toy"
    assert all(role in models for role in ("champion", "challenger", "shadow-1"))
    assert [line for line in said if "409" not in line] == []
    state = read_state(project / "deployment")
    assert (state.by, state.reason, state.share) == ("key operator", "the desk is called too often", 0.0)
