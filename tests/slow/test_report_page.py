"""The report in a real browser without a network: quiet, whole, readable in light and dark, wide and narrow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.conftest import ROOT
from tests.slow.browser import chromium, complaints, need_chromium

pytestmark = pytest.mark.slow

SECTIONS = {"How good is it", "Plots", "Proofs", "Rows", "Stages"}
SIZES = ((1400, 900), (400, 800))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project's report, away from everything that it could lean on."""
    need_chromium()
    if not (ROOT / "reports" / "index.html").is_file():
        pytest.fail("reports/index.html: missing; `make run` writes it")
    copy = tmp_path_factory.mktemp("report") / "reports"
    shutil.copytree(ROOT / "reports", copy)
    return copy / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


def show(browser: webdriver.Chrome, page: Path, size: tuple[int, int] = SIZES[0], scheme: str = "light") -> None:
    """Open a page in a window of this size, for a person who wants it light or dark."""
    width, height = size
    window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.get(page.as_uri())


def contrasts(browser: webdriver.Chrome) -> list[tuple[str, float]]:
    """Each text that is shown, with the contrast of its colour to what lies behind it, as WCAG reckons it."""
    script = """
        const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = colour => {
            const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = numbers(colour).map(part);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = node => {
            for (; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (numbers(colour)[3] !== 0) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        const found = [];
        for (const node of document.querySelectorAll('h1, h2, h3, p, td, th, a, summary')) {
            if (!node.textContent.trim() || !node.getClientRects().length) continue;
            const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
            found.push([node.textContent.trim().slice(0, 40), (pair[0] + 0.05) / (pair[1] + 0.05)]);
        }
        return found;"""
    return [(text, ratio) for text, ratio in browser.execute_script(script)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
def test_the_report_is_whole_and_readable(
    browser: webdriver.Chrome, page: Path, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    show(browser, page, size, scheme)
    browser.save_screenshot(str(tmp_path / f"report-{scheme}-{size[0]}.png"))

    assert complaints(browser) == []
    headings = browser.find_elements("css selector", "h2")
    assert {heading.text for heading in headings if heading.is_displayed()} >= SECTIONS
    widths = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1], "the page is wider than its window"
    assert [pair for pair in contrasts(browser) if pair[1] < 4.5] == []
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 100")
    assert dark == (scheme == "dark")
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('svg, img')].filter(e => e.getClientRects().length)"
        ".map(e => [e.getBoundingClientRect().width, e.tagName == 'IMG' ? e.naturalWidth : 1])"
    )
    assert len(pictures) >= 5
    assert all(0 < width <= size[0] and natural for width, natural in pictures)


def test_each_link_of_the_report_opens_a_page_without_complaint(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    links = browser.execute_script("return [...document.querySelectorAll('a[href]')].map(link => link.href)")

    assert len(links) >= 5
    for link in dict.fromkeys(links):
        assert link.startswith(page.parent.as_uri()), f"{link} leads out of the report"
        browser.get(link)
        assert browser.find_elements("css selector", "h1"), link
        assert not browser.find_elements("css selector", "#main-frame-error"), f"{link} leads nowhere"
        assert complaints(browser) == [], link
