"""The page that runs a bundle in the browser: what it answers, in Chromium and in node, is what `predict` writes."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from mlops_pkg.browser.site import write_site
from mlops_pkg.bundle.file_format import FileFormat
from mlops_pkg.bundle.manifest import CARD, SIGNATURE
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace
from mlops_pkg.proof.runtimes import Reference, find_difference, predict_by_page, predict_reference, read_subject
from mlops_pkg.scoring.files import score_file
from tests.conftest import ROOT
from tests.serving.conftest import until
from tests.slow.browser import chromium, complaints
from tests.slow.needs import need
from tests.slow.servers import LOOPBACK, free_port
from tests.slow.servers import Server as StartedServer
from tests.slow.test_serving_page import press, show, wait
from tests.toy import TOY, seal, write_bundle

pytestmark = pytest.mark.slow

BUNDLE = ROOT / "artifacts" / "package"
EVIL = "<img src=x onerror=document.title='evil'>\"'<script>document.title='evil'</script>"
NUMBERS = """|NA|nan|inf|1e999|-1e999|1|1.5|1,5|1.000,5|1,000.5|1.000|+3|-10|-10.5|250|250.0001|5.|.5|e5|1e5|
1E-7|1_000| 1|1 |0x10|٣|-0|0.1|1e-320|123456789012345678901|text|it's|"q"|-0.0001|1e2 """.replace("\n", "").split("|")
TIMES = """|NA|2013-01-01|2013-01-01T05:15|2013-01-01 05:15:00|2013-02-30|2013-01-01T24:00|2013-01-01T05:15:60|
2013-01-01T05:15+02|2013-01-01T05:15:00.123456789|2013-01-01T05:15:00.1|2013-01-01T05:15Z|
2013-01-01T05:15 +02:00|2013-01-01T05:15+0230|٢013-01-01|2013-01-01T05:15-25:00|
2013-01-01T05:15+23:60|2013-01-01Z|0000-01-01|0001-01-01|0001-01-01T00:00+01:00|
2013-01-01T05:15:00.Z|9999-12-31T23:59:59.999999|9999-12-31T23:59-01:00|2013-1-1|2013-01-01t05:15|
20130101|2013-01-01T05|abc|2013-01-01T05:15:00,5|41275|41275.5|41275,25|1.1.2013|01.02.2013 05:15|
31.02.2013 1:2|2012-02-29|1900-02-29|1969-12-31T23:59:59.9|13-Jan-2013|3-feb-13 5:07:09.25""".replace("\n", "").split(
    "|"
)
NAMES = ["", "NA", "EWR", "JFK", "x", "é", "e\u0301", "a,b", 'a"b', "a\nb", "ewr", "None", "nan", " EWR"]
FORMATS: tuple[dict[str, Any], ...] = (
    {},
    {"separator": ";", "decimal": ",", "thousands": "."},
    {"separator": "\t", "missing": ("NA", "-")},
    {"times": {"start": "%d.%m.%Y %H:%M"}},
    {"times": {"start": "%d-%b-%y %H:%M:%S.%f"}},
    {"times": {"start": "excel"}, "decimal": ","},
    {"times": {"start": "zoned"}},
    {"encoding": "cp1252"},
    {"encoding": "latin-1"},
    {"thousands": ","},
)


def run_node(site: Path, source: Path, scored: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the scripts of a page do with a file."""
    command = [need("node", "nodejs"), str(site / "score.js"), str(source), str(scored), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_site(folder: Path, bundle: Path) -> Path:
    """The page of a bundle."""
    need("npm")
    write_site([bundle], folder)
    return folder


@contextmanager
def static_server(folder: Path) -> Iterator[str]:
    """The address of a plain server of static files."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", LOOPBACK, "--directory", str(folder)]
    server = StartedServer(command, port, Path(os.devnull))
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.kill()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every test and live row of the project, as csv."""
    if not (BUNDLE / "manifest.json").is_file():
        pytest.skip("artifacts/package: missing; `make run` writes it")
    names = [field.name for field in Predictor.load(BUNDLE).signature.fields]
    parts = [pd.read_parquet(ROOT / "artifacts" / "ingest" / f"{name}.parquet")[names] for name in ("test", "live")]
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def scored(rows: Path) -> Path:
    """What `predict` writes for these rows, which is what the fitted pipeline answers."""
    score_file(BUNDLE, rows, path := rows.with_name("scored.csv"))
    return path


@pytest.fixture(scope="module")
def site(rows: Path) -> Path:
    """The page of this project's bundle."""
    return make_site(rows.with_name("site"), BUNDLE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(folder := tmp_path_factory.mktemp("browser")) as started:
        downloads = {"behavior": "allow", "downloadPath": str(folder)}
        started.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        started.downloads = folder
        yield started


def is_ready(browser: webdriver.Chrome) -> bool:
    script = "return !document.querySelector('button[type=submit]').disabled"
    return bool(wait(browser, script, 60))


def score_in_page(browser: webdriver.Chrome, source: Path) -> Path:
    """The csv file that the page offers for a file of records."""
    browser.find_element(By.ID, "file").send_keys(str(source))
    wait(browser, "return document.getElementById('tally').textContent.includes(' answered')", 120)
    browser.find_element(By.ID, "answers").click()
    downloaded = Path(browser.downloads) / f"{source.stem}.predictions.csv"
    until(downloaded.exists)
    return downloaded


def test_every_test_and_live_row_is_answered_in_the_browser_as_by_predict(
    browser: webdriver.Chrome, site: Path, rows: Path, scored: Path
) -> None:
    with static_server(site) as address:
        show(browser, address)
        assert is_ready(browser)
        found = score_in_page(browser, rows)
        hosts = set(browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)"))

    assert found.read_bytes() == scored.read_bytes()
    assert len(scored.read_text().splitlines()) > 100_000
    assert all(one.startswith((f"{address}/", "data:", "blob:")) for one in hosts)
    assert complaints(browser) == []


def test_the_form_answers_and_explains_also_when_the_server_is_gone(browser: webdriver.Chrome, site: Path) -> None:
    with static_server(site) as address:
        show(browser, address)
        assert is_ready(browser)
    shown = press(browser)
    predictor = Predictor.load(BUNDLE)
    record = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('input[data-name]')].map(one => [one.dataset.name, "
        "one.value === '' ? null : one.dataset.kind === 'number' ? Number(one.value) : one.value]))"
    )
    answers = predictor.predict([record])

    assert answers.label is not None
    assert shown == str(answers.classes[answers.label[0]])
    assert float(browser.execute_script("return document.getElementById('big').title")) == answers.answer[0]
    told = browser.find_element(By.ID, "reasons").get_attribute("aria-label")
    explanation = predictor.explain([record])
    largest = int(np.abs(explanation.contributions[0]).argmax())
    assert told.startswith(f"{explanation.fields[largest]} {explanation.contributions[0][largest]:.3f}")


def test_one_site_has_several_models(browser: webdriver.Chrome, rows: Path, tmp_path: Path) -> None:
    write_site([BUNDLE, write_bundle(tmp_path / "toy")], tmp_path / "sites")
    with static_server(tmp_path / "sites") as url:
        for predictor in map(Predictor.load, (BUNDLE, tmp_path / "toy")):
            name, fields = predictor.name, len(predictor.signature.fields)
            browser.get(url)
            browser.find_element(By.LINK_TEXT, name).click()
            assert is_ready(browser)
            assert len(browser.find_elements(By.CSS_SELECTOR, "input[data-name]")) == fields
            assert press(browser) in ("0", "1")
        assert complaints(browser) == []
    scored = tmp_path / "scored.csv"
    done = run_node(tmp_path / "sites" / Predictor.load(BUNDLE).name, rows, scored)
    assert done.returncode == 0, done.stderr


def test_a_wrong_value_is_marked_and_a_wrong_file_is_named(
    browser: webdriver.Chrome, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with static_server(site) as address:
        show(browser, address)
        assert is_ready(browser)
        browser.execute_script("document.querySelector('input[data-name=distance]').value = -5")
        assert press(browser) == "No answer"
        assert "below the minimum of 0 miles" in browser.find_element(By.ID, "form").text
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "other.csv"))
        missing = "return document.getElementById('tally').textContent.includes(\"column 'carrier' is missing\")"
        assert wait(browser, missing)


def test_a_page_that_was_changed_answers_nothing(browser: webdriver.Chrome, site: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(site, tmp_path / "site")
    content = bytearray((broken / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "model.onnx").write_bytes(content)
    with static_server(broken) as address:
        show(browser, address)
        assert wait(browser, "return document.getElementById('told').textContent.includes('model.onnx: changed')", 60)
        assert not browser.find_element(By.CSS_SELECTOR, "button[type=submit]").is_enabled()


def test_what_a_bundle_says_is_text_on_the_page(browser: webdriver.Chrome, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    fields = (replace(TOY.fields[0], categories=(EVIL, "EWR")), *TOY.fields[1:])
    told = {"name": EVIL, "description": EVIL, **replace(TOY, target=EVIL, fields=fields).to_dict()}
    (bundle / SIGNATURE).write_text(json.dumps(told))
    (bundle / CARD).write_text(f"# {EVIL}\n\n[a](javascript:alert(1)) {EVIL}\n")
    with static_server(make_site(tmp_path / "site", seal(bundle))) as address:
        show(browser, address)
        assert is_ready(browser)
        assert press(browser) in ("0", "1")
        assert browser.title == EVIL
        assert browser.execute_script("return document.querySelectorAll('img, header script, .card a').length") == 0


def test_ten_thousand_rows_are_scored_in_the_page_within_seconds(
    browser: webdriver.Chrome, site: Path, rows: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(rows.open().readlines()[:10_001]))
    with static_server(site) as address:
        show(browser, address)
        assert is_ready(browser)
        began = time.monotonic()
        found = score_in_page(browser, few)
        took = time.monotonic() - began
    assert len(found.read_text().splitlines()) == 10_001
    assert took < 30  # it is about one second


@pytest.mark.parametrize("number", range(len(FORMATS)))
def test_cells_of_every_kind_are_read_and_refused_as_predict_does(number: int, tmp_path: Path) -> None:
    written, draw = FileFormat(**FORMATS[number]), random.Random(number)
    bundle, source = write_bundle(tmp_path / "bundle"), tmp_path / "rows.csv"
    told = {"name": "toy", "description": "x", **replace(TOY, file_format=written).to_dict()}
    (bundle / SIGNATURE).write_text(json.dumps(told))
    site = make_site(tmp_path / "site", seal(bundle))
    cells = [[draw.choice(NAMES), draw.choice(NUMBERS), draw.choice(TIMES)] for _ in range(2000)]
    cells += [["EWR", "1", time] for time in TIMES] + [["EWR", number, "2013-01-01"] for number in NUMBERS]
    cells += [[name, "1", "2013-01-01"] for name in NAMES] + [["EWR", "1"], [], [], ["EWR", "1", "2", "3"]]
    with source.open("w", newline="", encoding=written.encoding, errors="ignore") as file:
        end = "\r\n" if number % 2 else "\n"
        writer = csv.writer(file, delimiter=written.separator, lineterminator=end)
        writer.writerows([["origin", "wind", "start"], *cells])
    tally = score_file(bundle, source, tmp_path / "by_predict.csv")
    done = run_node(site, source, tmp_path / "by_page.csv")

    assert done.returncode == 0, done.stderr
    assert 0 < tally.rejected < tally.rows
    for end in (".csv", ".rejects.csv"):
        assert (tmp_path / f"by_page{end}").read_text() == (tmp_path / f"by_predict{end}").read_text()


@pytest.mark.parametrize("text", ['"open', 'EWR,"1"x,2013-01-01', "", "origin;wind;start\n"])
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    site, source = make_site(tmp_path / "site", write_bundle(tmp_path / "bundle")), tmp_path / "rows.csv"
    source.write_text(f"origin,wind,start\n{text}\n" if text and ";" not in text else text)
    done = run_node(site, source, tmp_path / "scored.csv")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{source}: ")
    assert not (tmp_path / "scored.csv").exists()


def test_node_with_onnxruntime_of_its_own_answers_alike(site: Path, rows: Path, scored: Path, tmp_path: Path) -> None:
    install = [need("npm"), "install", "--silent", "--ignore-scripts", "onnxruntime-node@1.30.0"]
    subprocess.run(install, cwd=tmp_path, check=True)
    runtime = tmp_path / "node_modules" / "onnxruntime-node" / "dist" / "index.js"
    done = run_node(site, rows, tmp_path / "by_node.csv", "--runtime", str(runtime))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "by_node.csv").read_bytes() == scored.read_bytes()


@pytest.fixture(scope="module")
def fitted(site: Path) -> Reference:  # the site is skipped without a bundle
    """Every test and live row with the answer of the fitted pipeline."""
    subject = read_subject(ROOT)
    assert subject is not None
    return predict_reference(Workspace(ROOT), subject)


def test_the_page_is_a_runtime_of_parity(fitted: Reference, site: Path) -> None:
    assert find_difference(fitted, predict_by_page(fitted, site, BUNDLE)) is None
    assert len(fitted.rows) > 100_000


def test_one_bit_of_the_page_and_a_page_of_another_bundle_are_red(
    fitted: Reference, site: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(site, tmp_path / "site"))
    script = (other / "model.js").read_text()
    planted = script.replace("values[0]]};", "values[0] + (values[0] > 0.9 ? 2e-9 : 0)]};")
    assert planted != script
    (other / "model.js").write_text(planted)
    few = fitted.sample(5000)
    found = find_difference(few, predict_by_page(few, other, BUNDLE))
    assert found is not None
    assert " rows; " in found
    with pytest.raises(UserError, match="site/: holds another bundle; write it again with `mlops_pkg page --out site`"):
        predict_by_page(few, other, write_bundle(tmp_path / "bundle"))
    with pytest.raises(UserError, match="empty/: not a page"):
        predict_by_page(few, tmp_path / "empty", BUNDLE)
    (other / "terms.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"terms\.bin: changed since this page was written"):
        predict_by_page(few, other, BUNDLE)


EXPLAIN = """
import {readFile} from 'node:fs/promises';
import {pathToFileURL} from 'node:url';
const [site, source, count] = process.argv.slice(1);
const load = name => import(pathToFileURL(`${site}/${name}`));
const [ort, {Model}, {readTable}] = await Promise.all(['ort.js', 'model.js', 'table.js'].map(load));
const model = await Model.open(ort, name => readFile(`${site}/${name}`));
const {columns} = readTable(await readFile(source, 'utf8'), model.signature), found = [];
for (let row = 0; row < Number(count); row += 1) found.push(await model.explain(columns, row));
console.log(JSON.stringify(found));
"""


def test_the_page_explains_as_the_bundle_does(site: Path, rows: Path) -> None:
    command = [need("node", "nodejs"), "--input-type=module", "-e", EXPLAIN, str(site), str(rows), "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predictor, frame = Predictor.load(BUNDLE), pd.read_csv(rows, nrows=200)
    kinds = {field.name: field.kind for field in predictor.signature.fields}
    columns = {name: pd.to_datetime(frame[name]) if kind == "datetime" else frame[name] for name, kind in kinds.items()}
    wanted = predictor.explain(columns)

    for row, found in enumerate(json.loads(done.stdout)):
        added = [values[0] for values in found["contributions"].values()]
        np.testing.assert_allclose(added, wanted.contributions[row], rtol=0, atol=1e-9)
        assert abs(found["base"][0] + sum(added) - wanted.margin[row]) < 1e-9


def test_a_number_and_three_classes_are_written_as_predict_writes_them(tmp_path: Path) -> None:
    graphs = {
        "regression": ("double[rows] margin, double[rows] answer", "margin = Identity(x)\n answer = Identity(x)"),
        "classes": (
            "double[rows,3] margin, double[rows,3] answer",
            "axis = Constant <value = int64[1] {1}> ()\n tiny = Constant <value = double {1e-7}> ()\n"
            "wide = Unsqueeze(x, axis)\n small = Mul(wide, tiny)\n"
            "margin = Concat <axis = 1> (wide, small, wide)\n answer = Identity(margin)",
        ),
    }
    fields = (Field("x", "number", nullable=False),)
    signatures = {
        "regression": Signature("regression", "y", None, fields),
        "classes": Signature("classification", "y", None, fields, labels=(1.0, 2.5, 1e22)),
    }
    source = tmp_path / "rows.csv"
    values = [
        "0",
        "-0",
        "1",
        "0.1",
        "1e-5",
        "123456.789",
        "1e15",
        "1e16",
        "1e-4",
        "1e22",
        "2.5e-310",
        "0.30000000000000004",
    ]
    source.write_text("x\n" + "\n".join(values) + "\n")
    for name, (outputs, body) in graphs.items():
        graph = f'<ir_version: 10, opset_import: ["": 19]>\ntoy (double[rows] x) => ({outputs})\n{{\n{body}\n}}'
        bundle = write_bundle(tmp_path / name / "bundle", graph)
        told = {"name": "toy", "description": "x", **signatures[name].to_dict()}
        (bundle / SIGNATURE).write_text(json.dumps(told))
        site = make_site(tmp_path / name / "site", seal(bundle))
        score_file(bundle, source, tmp_path / f"{name}.csv")
        done = run_node(site, source, tmp_path / f"{name}.js.csv")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{name}.js.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
