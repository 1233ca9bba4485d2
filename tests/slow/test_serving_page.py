"""The page in a real browser without a network: a question is asked, a fault is seen, the figures move."""

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.serving.settings import new_key
from tests.conftest import ROOT
from tests.slow.browser import chromium, complaints, need_chromium
from tests.slow.test_report_page import contrasts
from tests.toy import TOY, write_bundle

pytestmark = pytest.mark.slow

SIZES = ((1400, 900), (400, 800))


@contextmanager
def serving(bundle: Path, *flags: str) -> Iterator[str]:
    """The address of a server of a bundle."""
    command = [sys.executable, "-m", "mlops_pkg", "serve", "--bundle", str(bundle), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stderr
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, "the server has ended"
                found = re.search(r"http://[\d.:]+", line)
            yield found[0]
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of this project, or a toy where there is none."""
    package = ROOT / "artifacts" / "package"
    return package if (package / "manifest.json").is_file() else write_bundle(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    need_chromium()
    with serving(bundle) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


def show(browser: webdriver.Chrome, url: str, size: tuple[int, int] = SIZES[0], scheme: str = "light") -> None:
    """Open a page in a window of this size, for a person who wants it light or dark."""
    window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.get(url)


def wait(browser: webdriver.Chrome, script: str, seconds: float = 20) -> Any:
    """What a script gives, as soon as that is something."""
    return WebDriverWait(browser, seconds, 0.05).until(lambda _: browser.execute_script(script), script)


def fill(browser: webdriver.Chrome, name: str, value: str) -> None:
    """Put a value into the input of a field, as typing does."""
    script = """
        const input = [...document.querySelectorAll('input')].find(one => one.dataset.name === arguments[0]);
        input.value = arguments[1];
        input.dispatchEvent(new Event('input', {bubbles: true}));"""
    browser.execute_script(script, name, value)


def press(browser: webdriver.Chrome) -> str:
    """Ask, and read the large words of the answer."""
    browser.execute_script("document.getElementById('big').textContent = ''")
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    return str(wait(browser, "return document.getElementById('big').textContent"))


def field_of(bundle: Path, kind: str, has_bounds: bool = False) -> Any:
    """A field of a kind."""
    fields = Predictor.load(bundle).signature.fields
    return next(one for one in fields if one.kind == kind and (not has_bounds or one.maximum is not None))


def hosts(browser: webdriver.Chrome) -> set[str]:
    """Where everything came from that the page has loaded."""
    script = "return performance.getEntriesByType('resource').map(one => new URL(one.name).origin)"
    return set(browser.execute_script(script))


def test_an_answer_is_seen_that_is_the_predictors(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    show(browser, address)
    field = field_of(bundle, "number", has_bounds=True)
    fill(browser, field.name, str(field.maximum))
    shown = press(browser)
    record = browser.execute_script("return record()")
    answers = Predictor.load(bundle).predict([record])
    exact = float(browser.execute_script("return document.getElementById('big').title"))

    assert record[field.name] == field.maximum
    assert exact == answers.answer[0]
    if answers.label is not None:
        assert shown == str(answers.classes[answers.label[0]])
        told = browser.find_element(By.ID, "told").text
        positive = answers.classes[1]
        assert f"({positive} from " in told
        assert f"{positive} {100 * exact:.1f} %" in told
    assert complaints(browser) == []
    assert hosts(browser) == {address}


def test_the_line_for_a_terminal_asks_the_same(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    show(browser, address)
    fill(browser, field_of(bundle, "category").name, 'it\'s "new"')
    line = browser.find_element(By.ID, "curl").text
    reply = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    press(browser)
    exact = float(browser.execute_script("return document.getElementById('big').title"))
    (prediction,) = json.loads(reply.stdout)["predictions"]

    assert line.startswith("curl ")
    assert prediction.get("probability", prediction["prediction"]) == exact


def test_an_error_is_seen_beside_its_field(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    show(browser, address)
    field = field_of(bundle, "number", has_bounds=True)
    fill(browser, field.name, str(field.maximum + 1))
    assert press(browser) == "No answer"
    wrong = browser.find_elements(By.CSS_SELECTOR, "[aria-invalid]")

    assert [one.get_attribute("data-name") for one in wrong] == [field.name]
    beside = browser.find_element(By.ID, "e" + str(wrong[0].get_attribute("id"))[1:])
    assert beside.text.startswith("above the maximum")
    assert browser.execute_script("return document.activeElement.dataset.name") == field.name
    assert "marked in the form" in browser.find_element(By.ID, "told").text

    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait(browser, "return !document.querySelector('[aria-invalid]')")
    assert press(browser) != "No answer"
    complaints(browser)  # Chromium writes each 422 into its console


def test_what_cannot_be_read_is_not_sent_as_nothing(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    show(browser, address)
    name = field_of(bundle, "number").name
    box = browser.find_element(By.CSS_SELECTOR, f"input[data-name='{name}']")
    box.clear()
    box.send_keys("1e")

    assert press(browser) == "No answer"
    assert browser.find_element(By.CSS_SELECTOR, "[aria-invalid]").get_attribute("data-name") == name
    paths = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert not [path for path in paths if path.endswith("/predict")]


def test_an_empty_field_says_whether_it_may_be_empty(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    show(browser, address)
    signature = Predictor.load(bundle).signature
    for field in signature.fields:
        fill(browser, field.name, "")
    assert press(browser) == "No answer"
    marked = browser.execute_script("return inputs.filter(i => i.ariaInvalid).map(i => i.dataset.name)")

    assert marked == [field.name for field in signature.fields if not field.nullable]
    complaints(browser)


def test_the_figures_move(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    script = "return document.getElementById('requests').textContent.replaceAll(',', '')"
    before = int(wait(browser, script))
    for _ in range(5):
        press(browser)
    wait(browser, f"{script} >= {before + 5}")
    wait(browser, "return document.getElementById('p99').textContent.endsWith('ms')")
    wait(browser, "return parseFloat(document.getElementById('rate').textContent) > 0")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('#bars .bar')].map(b => +b.getAttribute('height'))"
    )

    assert max(heights) == 80
    assert complaints(browser) == []


def test_figures_that_do_not_come_are_told(browser: webdriver.Chrome, bundle: Path) -> None:
    with serving(bundle) as address:
        show(browser, address)
        wait(browser, "return document.getElementById('requests').textContent")
    wait(browser, "return document.getElementById('quiet').textContent.startsWith('No figures')")
    assert press(browser) == "No answer"
    assert "cannot be reached" in browser.find_element(By.ID, "told").text
    complaints(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
def test_the_page_is_whole_and_readable(
    browser: webdriver.Chrome, address: str, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    show(browser, address, size, scheme)
    press(browser)
    wait(browser, "return document.querySelector('#bars .bar')")
    browser.save_screenshot(str(tmp_path / f"page-{scheme}-{size[0]}.png"))

    widths = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1], "the page is wider than its window"
    assert [pair for pair in contrasts(browser) if pair[1] < 4.5] == []
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 100")
    assert dark == (scheme == "dark")
    headings = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "h2")]
    assert headings == ["Try it", "Answer", "Right now", "From a terminal", "The model card"]
    assert complaints(browser) == []


def test_the_form_can_be_filled_with_the_keyboard_alone(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    browser.execute_script("document.getElementById('big').textContent = ''; inputs[0].focus()")
    browser.switch_to.active_element.send_keys("\n")
    wait(browser, "return document.getElementById('big').title")

    names = browser.execute_script(
        "return inputs.map(input => document.querySelector(`label[for=${input.id}]`).textContent)"
    )
    assert names == browser.execute_script("return inputs.map(input => input.dataset.name)")


def try_it_out(browser: webdriver.Chrome, url: str) -> tuple[str, Any]:
    """Status and body of the reply to the example, as Swagger UI shows them."""
    show(browser, url)
    for step in (".opblock-post .opblock-summary-control", ".try-out__btn", ".execute"):
        wait(browser, f"return document.querySelector('{step}')")
        browser.execute_script(f"document.querySelector('{step}').click()")
    row = "document.querySelector('.live-responses-table .response')"
    status = wait(browser, f"return {row}?.querySelector('.response-col_status').textContent")
    body = browser.execute_script(
        f"return {row}.querySelector('.highlight-code .microlight, .highlight-code code').textContent"
    )
    return str(status).strip(), json.loads(body)


def test_the_documentation_renders_and_can_be_tried(browser: webdriver.Chrome, address: str, bundle: Path) -> None:
    status, body = try_it_out(browser, f"{address}/docs")
    predictor = Predictor.load(bundle)

    assert status == "200"
    assert len(body["predictions"]) == 1
    assert body["model"]["digest"] == predictor.identity
    assert hosts(browser) == {address}
    assert complaints(browser) == []


def test_nothing_but_this_server_may_be_asked(browser: webdriver.Chrome, address: str) -> None:
    """The policy of the page refuses what the page itself never does."""
    show(browser, address)
    script = """
        const done = arguments[arguments.length - 1];
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
        fetch('http://localhost:1/').catch(() => 0);"""
    assert browser.execute_async_script(script) == "connect-src"
    evil = """
        const done = arguments[arguments.length - 1];
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'document.title = "taken"';
        document.body.append(script);"""
    assert browser.execute_async_script(evil).startswith("script-src")
    assert browser.title != "taken"
    complaints(browser)


def test_a_browser_that_has_given_the_key_is_answered(browser: webdriver.Chrome, bundle: Path, tmp_path: Path) -> None:
    key, stored = new_key("planning")
    config = tmp_path / "serve.toml"
    config.write_text(f'[[keys]]\nname = "{stored.name}"\nsha256 = "{stored.sha256}"\n')
    with serving(bundle, "--config", str(config)) as address:
        show(browser, address.replace("://", f"://any:{key}@"))
        assert press(browser) != "No answer"
        wait(browser, "return document.getElementById('requests').textContent")
        line = browser.find_element(By.ID, "curl").text
        assert '-H "authorization: Bearer $KEY"' in line
        assert key not in browser.page_source
        told = subprocess.run(["sh", "-c", line], env={"KEY": key}, capture_output=True, text=True, check=True)
        assert json.loads(told.stdout)["predictions"][0]["prediction"] is not None

        request = urllib.request.Request(f"{address}/page.js")
        request.add_header("authorization", "Basic " + base64.b64encode(b"any:wrong").decode())
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    complaints(browser)


def test_the_page_of_another_model_is_made_of_its_fields(browser: webdriver.Chrome, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", signature=replace(TOY, task="regression", threshold=None))
    with serving(bundle) as address:
        show(browser, address)
        assert browser.execute_script("return inputs.map(i => i.dataset.name)") == [field.name for field in TOY.fields]
        shown = press(browser)
        (exact,) = Predictor.load(bundle).predict([browser.execute_script("return record()")]).answer.tolist()
        assert float(browser.execute_script("return document.getElementById('big').title")) == exact
        assert float(shown) == pytest.approx(exact, rel=1e-5)
        assert browser.find_element(By.ID, "told").text == TOY.target
    complaints(browser)
