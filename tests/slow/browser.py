"""A real browser for the tests: Debian's Chromium without a screen, driven by Selenium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver

from tests.slow.needs import lack

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root, which CI may be
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # nothing but this machine is there
)


def need_chromium() -> tuple[str, str]:
    """The paths of browser and driver; without them the test is skipped with a line, and fails in CI."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        lack("Chromium or its driver is not installed; `apt-get install chromium chromium-driver` brings both")
    return str(found[0]), str(found[1])


@contextmanager
def chromium(
    folder: Path,  # for the browser's profile; its own home as well
    width: int = 1400,
    height: int = 1000,
) -> Iterator[webdriver.Chrome]:
    """A browser that can reach this machine alone, and keeps its console for `complaints`."""
    browser, driver = need_chromium()
    home = folder / "browser-home"
    home.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {**os.environ, "HOME": str(home)}
    service = webdriver.ChromeService(executable_path=driver, env=environment)
    started = webdriver.Chrome(options=options, service=service)
    try:
        yield started
    finally:
        started.quit()


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console has said in anger since it was asked last."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "ERROR")]
