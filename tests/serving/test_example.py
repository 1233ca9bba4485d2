"""The request that docs/serving.md shows."""

import json
import re
import shlex
import shutil
import subprocess

from mlops_pkg.bundle.predictor import Predictor
from benchmarks.serving.report import table
from tests.conftest import ROOT
from tests.serving.conftest import Server, start

README = (ROOT / "docs" / "serving.md").read_text()  # the page of the endpoint


def curl() -> list[str]:
    """The words of the README's request."""
    return shlex.split(re.findall(r"^curl .*?^```", README, re.MULTILINE | re.DOTALL)[0].removesuffix("```"))


def asked(server: Server) -> bytes:
    """What the server says to that request: of curl itself, where it is installed."""
    words = [word.replace("http://127.0.0.1:8000", server.url) for word in curl()]
    if shutil.which("curl"):
        return subprocess.run(words, capture_output=True, check=True).stdout
    return server.ask(words[words.index("-d") + 1].encode()).body


def test_the_request_that_the_readme_shows_is_answered_as_it_shows() -> None:
    bundle = ROOT / "artifacts" / "package"
    with start(bundle) as server:
        found = json.loads(asked(server))

    records = json.loads(curl()[curl().index("-d") + 1])["records"]
    answer = Predictor.load(bundle).predict(records).answer.tolist()
    [one] = found["predictions"]
    assert answer == [one.get("probability", one["prediction"])]
    shown = re.findall(r'^\{"predictions": (\[.*?\])', README, re.MULTILINE)
    assert [json.loads(text) for text in shown] in ([found["predictions"]], []), "the README shows another answer"


def test_the_figures_of_the_readme_are_those_of_the_last_run() -> None:
    home = ROOT / "benchmarks" / "serving"
    figures = table(json.loads((home / "figures.json").read_text())).splitlines()
    measured = README.partition("## Measured")[2]
    shown = [line for line in measured.splitlines() if line.startswith("| ") and not line.startswith("| ---")]

    assert len(shown) == 16
    assert [line for line in shown if line not in figures] == []
    assert f"{json.loads((home / 'fuzz.json').read_text())['requests']:,} malformed" in README
