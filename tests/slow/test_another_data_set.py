"""Another table, a regression without a time column: the guide is followed, and two files by hand are enough."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import IDENTITY, ROOT
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow

GUIDE = Path("docs/another-data-set/guide.md")
BY_HAND = {"nbs/pipeline/20_ingest.ipynb", "params.yaml"}
MADE = {
    "data.dvc",
    "dvc.lock",
    "artifacts/evaluate/metrics.json",
    "mlops_pkg/pipeline/ingest.py",
    "mlops_pkg/_modidx.py",
}
# What `make` does in the environment of a checkout, done in the environment of the tests.
AS_MAKE_DOES = {"make export": "nbdev_export && nbdev_clean"}


def blocks(language: str) -> list[str]:
    """The code of the guide in this language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / GUIDE).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, str]]:
    """A project in which the guide was followed, and what each command said."""
    project = make_project(tmp_path_factory.mktemp("another") / "project")
    shutil.copytree(ROOT / GUIDE.parent, project.root / GUIDE.parent)
    project.run("git", "add", ".")
    project.run("git", *IDENTITY, "commit", "--quiet", "--message", "The guide")
    said = {}
    for command in "".join(blocks("sh")).splitlines():
        said[command] = project.run("bash", "-euc", AS_MAKE_DOES.get(command, command)).stdout
    return project, said


def test_the_guide_changes_two_files_and_what_is_made_from_them(followed: tuple[Project, dict[str, str]]) -> None:
    project, _ = followed

    status = project.run("git", "status", "--porcelain", "--untracked-files=all").stdout.splitlines()

    assert {line[3:] for line in status} == BY_HAND | MADE


def test_all_proofs_are_green(followed: tuple[Project, dict[str, str]]) -> None:
    project, said = followed

    verdicts = {
        name: json.loads((project.root / "reports" / f"{name}.json").read_text()) for name in ("sync", "rebuild")
    }
    parity = json.loads((project.root / "reports" / "parity.json").read_text())

    assert all(verdict["ok"] for verdict in verdicts.values())
    assert parity["ok"]
    assert "red" not in said["mlops_pkg prove"].split()
    rows = json.loads((project.root / "artifacts" / "ingest" / "rows.json").read_text())["splits"]
    assert sum(rows.values()) == 342
    asked = {one["runtime"]: (one["rows"], one["equal"]) for one in parity["runtimes"]}
    assert len(asked) >= 4
    assert set(asked.values()) == {(rows["test"] + rows["live"], True)}


def test_the_bundle_answers_the_record_of_the_guide(followed: tuple[Project, dict[str, str]]) -> None:
    project, _ = followed
    (program,) = blocks("python")

    answer = project.run("python", "-c", program).stdout

    assert 4000 < float(answer.strip().strip("[]")) < 6000


def test_the_card_and_the_report_name_the_new_target_and_its_unit(followed: tuple[Project, dict[str, str]]) -> None:
    project, _ = followed

    card = (project.root / "artifacts" / "package" / "card.md").read_text()
    page = (project.root / "reports" / "index.html").read_text()

    assert "target: `body_mass` in g, split at random, seed 0" in card
    assert "A regression of body_mass in g." in page
    for text in (card, page):
        assert not re.findall(r"\b(flights?|carrier|late|months?)\b", text, re.IGNORECASE), (
            "it still tells of the flights"
        )


def test_the_model_is_better_than_the_mean(followed: tuple[Project, dict[str, str]]) -> None:
    project, _ = followed

    test = json.loads((project.root / "artifacts" / "evaluate" / "comparison.json").read_text())["test"]

    assert test["model"]["mae"]["high"] < test["prior"]["mae"]["low"]


@pytest.mark.parametrize("name", ["index", "proof/33_runtimes", "proof/36_lineage"])
def test_the_notebooks_that_read_what_a_build_left_run_on_it(
    followed: tuple[Project, dict[str, str]], name: str
) -> None:
    project, _ = followed
    execute = ("jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", "--log-level=ERROR")

    shown = project.run("env", f"PYTHONPATH={project.root}", *execute, f"nbs/{name}.ipynb").stdout

    assert json.loads(shown)["cells"]


def test_every_command_of_the_guide_was_run(followed: tuple[Project, dict[str, str]]) -> None:
    _, said = followed

    assert {"dvc add data", "make export", "dvc repro", "mlops_pkg prove"} <= said.keys()
    assert all(shlex.split(command) for command in said)
