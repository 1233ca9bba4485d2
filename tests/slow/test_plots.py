"""The page of `dvc plots` and the report, looked at in a real browser without a network."""

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.conftest import ROOT
from tests.slow.conftest import Project
from tests.slow.kills import commit

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

TABLES = {
    "train/iterations": [("iteration", "loss"), (10, 0.6), (20, 0.5)],
    "evaluate/roc": [
        ("model", "false_positive_rate", "true_positive_rate"),
        *(
            ("model", 0, 0),
            ("model", 0.2, 0.6),
            ("model", 1, 1),
            ("linear", 0, 0),
            ("linear", 0.4, 0.5),
            ("linear", 1, 1),
        ),
    ],
    "evaluate/pr": [
        ("model", "recall", "precision"),
        ("model", 1, 0.2),
        ("model", 0, 1),
        ("prior", 1, 0.2),
        ("prior", 0, 1),
    ],
    "evaluate/calibration": [("model", "predicted", "observed"), ("model", 0.1, 0.2), ("model", 0.5, 0.4)],
    "evaluate/confusion": [("actual", "predicted", "rows"), (0, 0, 1648), (0, 1, 190), (1, 0, 80), (1, 1, 69)],
    "evaluate/importance": [("column", "drop"), ("temp", 0.2), ("wind", 0.1)],
    "evaluate/shap": [("column", "label", "mean_abs"), ("temp", 1, 0.2), ("carrier", 1, 0.1)],
    "evaluate/shap_points": [
        ("label", "column", "axis", "kind", "line", "value", "rank", "offset", "contribution"),
        (1, "temp", "temp (F)", "number", 1, 30, 0, -0.5, -0.2),
        (1, "temp", "temp (F)", "number", 2, 60, 1, 0.5, 0.2),
        (1, "carrier", "carrier", "category", 1, "UA", "", -0.5, 0.1),
        (1, "carrier", "carrier", "category", 2, "DL", "", 0.5, 0.1),
    ],
    "evaluate/classes": [("label", "f1"), ("no", 0.9), ("yes", 0.4)],
    "evaluate/errors": [("quantile", "error"), (0.1, -0.5), (0.9, 0.5)],
    "evaluate/residuals": [("predicted", "error"), (1, 0.5), (2, -0.5)],
}


def write_tables(root: Path, scale: float) -> None:
    """What train and evaluate write for plots, small, with the last column scaled."""
    for name, (header, *rows) in TABLES.items():
        path = root / "artifacts" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            told = [(*row[:-1], int(row[-1] * scale) if row[-1] > 1 else row[-1] * scale) for row in rows]
            csv.writer(file).writerows([header, *told])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository with the plots of dvc.yaml in two revisions, small and kept in git, set up as `make setup` does."""
    project = Project(tmp_path_factory.mktemp("plots"))
    for command in ("git init --quiet --initial-branch main", "dvc init --quiet", "dvc config core.analytics false"):
        project.run(*command.split())
    shutil.copytree(ROOT / ".dvc" / "plots", project.root / ".dvc" / "plots")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    plots = [entry for stage in stages for entry in stage.get("plots", [])]
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    page = project.root / ".venv" / "plots.html"
    project.environment["PYTHONPATH"] = str(ROOT)
    project.run("python", "-m", "mlops_pkg.authoring.plots", str(page))
    project.run("dvc", "config", "--local", "plots.html_template", "../.venv/plots.html")
    (project.root / ".gitignore").write_text("/.venv\n")
    write_tables(project.root, 1.0)
    commit(project)
    project.run("git", "tag", "before")
    write_tables(project.root, 0.9)
    commit(project)
    return project


@pytest.fixture(scope="module")
def browser() -> Iterator["Chrome"]:
    """Chromium without a window and without a network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        said = "no browser: install the Debian packages chromium and chromium-driver"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    options = webdriver.ChromeOptions()
    options.binary_location = str(found[0])
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1300,2400"):
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    driver = webdriver.Chrome(options=options, service=Service(found[1]))
    yield driver
    driver.quit()


def open_page(browser: "Chrome", page: Path, plots: int) -> None:
    """Open a page and wait until all its plots are drawn; it may load nothing, and nothing in it may be broken."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda _: len(browser.find_elements("css selector", "canvas, svg.marks")) == plots)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def compared(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares the two revisions."""
    folder = tmp_path_factory.mktemp("compared")
    project.run("dvc", "plots", "diff", "before", "main", "--out", str(folder))
    return folder / "index.html"


def test_plots_of_two_revisions_are_drawn_without_a_network(compared: Path, browser: "Chrome") -> None:
    open_page(browser, compared, plots=len(TABLES))

    boxes = browser.execute_script(
        "return [...document.querySelectorAll('body > div')]"
        ".map(one => [one.offsetLeft, one.offsetTop, one.offsetWidth, one.scrollWidth])"
    )
    assert len({(left, top) for left, top, _, _ in boxes}) == len(TABLES), "plots lie on one another"
    assert [box for box in boxes if box[3] > box[2] + 1] == [], "a plot is wider than its place"


def test_each_plot_tells_revisions_and_models_apart(compared: Path) -> None:
    specs = [json.loads(text) for text in re.findall(r"var spec = (\{.*\});", compared.read_text())]

    assert len(specs) == len(TABLES)
    for spec, (name, (header, *rows)) in zip(specs, TABLES.items(), strict=True):
        drawing = json.dumps(spec)
        assert {row["rev"] for row in spec["data"]["values"]} == {"before", "main"}, name
        assert len(spec["data"]["values"]) == 2 * len(rows), name
        by_revision = ('"facet": {"field": "rev"', '"color": {"field": "rev"')
        assert any(text in drawing for text in by_revision), name
        assert ("model" in header) == ('"strokeDash": {"field": "model"' in drawing), (
            f"{name} joins the models by a line"
        )
        titles = {spec["title"]["text"], *re.findall(r'"title": "([^"]*)"', drawing)}
        assert not any("_" in title or "/" in title for title in titles), (name, titles)


def test_a_page_of_one_revision_is_drawn_too(project: Project, browser: "Chrome", tmp_path: Path) -> None:
    project.run("dvc", "plots", "show", "--out", str(tmp_path))

    open_page(browser, tmp_path / "index.html", plots=len(TABLES))
