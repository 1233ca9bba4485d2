"""PMML asked of a real engine, PMML4S on the Java machine: every kind of model gives the graph's answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.slow.needs import lack

pytestmark = pytest.mark.slow
LOCK = Path(__file__).with_name("pmml.txt")
SPOKEN: Any = {"capture_output": True, "text": True}
SINGLE = 1e-4  # XGBoost adds 32-bit floats, PMML doubles
SCORE = """
import json
from dataclasses import asdict
from mlops_pkg.conversion.convert import ReferenceRun, compare_answers, score_pmml
from mlops_pkg.conversion.pmml import make_pmml
from tests.conversion.examples import EXPLAINED, NO_LINK, example

for name in EXPLAINED:
    if name not in NO_LINK:
        it = example(name, 400)
        document = make_pmml(it.terms, it.signature, it.link, name)
        found = score_pmml(document, ReferenceRun({}, {"features": it.features}), it.signature)
        print(json.dumps({"name": name, **asdict(compare_answers(it.answer, found, it.signature))}), flush=True)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables with which Python finds pypmml."""
    if not shutil.which("java"):
        lack("Java is not installed, and PMML4S needs it; `apt-get install default-jre-headless` brings it")
    folder = tmp_path_factory.mktemp("pypmml")
    command = ["uv", "pip", "install", "--quiet", "--require-hashes", "--target", str(folder), "-r", str(LOCK)]
    subprocess.run(command, check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_every_kind_of_model_gives_the_graphs_answers(engine: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", SCORE], check=False, **SPOKEN, cwd=ROOT, env=engine)

    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) > 30
    for one in found:
        assert one["rows"] > 300, one
        assert one["largest"] <= (SINGLE if one["name"].startswith("XGB") else 1e-9), one


def test_the_command_says_that_all_rows_are_equal(built: Path, engine: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlops_pkg", "convert", str(tmp_path / "late.pmml"), "--to", "pmml", "--exact"]
    done = subprocess.run(command, check=False, **SPOKEN, cwd=built, env=engine)

    assert done.returncode == 0, done.stderr
    assert re.search(
        r"bytes; against the bundle: 0 of 9\d\d rows differ, by .*; the predicted class differs for 0", done.stdout
    )
