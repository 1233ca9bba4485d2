"""A new project has the same bytes whoever makes it, and no more files than its owner needs."""

import io
import json
import sys
import zipfile
from pathlib import Path

import pexpect
import pytest

from mlops_pkg.authoring.generating import checkout_files, make_metadata, pack_wheel, read_settings
from mlops_pkg.authoring.new import new_project
from mlops_pkg.core.environment import locked_versions
from mlops_pkg.project.files import notebooks
from mlops_pkg.proof.sync import check_package, fresh_export
from tests.conftest import ROOT, contents, said_by

ANSWERS = {"title": "House prices", "package": "house_prices", "author": "Ada", "author_email": ""}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a new project from the flights."""
    root = tmp_path_factory.mktemp("made") / "project"
    new_project(root, {**ANSWERS, "start": "flights"}, ask=False)
    return root.resolve()


def files(root: Path) -> list[str]:
    return [name for name in contents(root) if not name.startswith(".git/")]


def test_the_wheel_has_the_same_bytes_twice_and_says_what_it_needs() -> None:
    found = checkout_files(ROOT)

    name, content = pack_wheel(found)

    assert pack_wheel(dict(reversed(found.items()))) == (name, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    assert {"mlops_pkg/cli.py", "mlops_pkg/_template/copier.yml", "mlops_pkg/_template/params.yaml"} <= set(names)
    assert "mlops_pkg/serving/static/page.html" in names
    assert not [one for one in names if "__pycache__" in one or one.startswith("tests/")]
    told = make_metadata(read_settings(ROOT))
    assert "Requires-Dist: numpy>=2.4,<3\n" in told
    assert "Requires-Dist: uvloop>=0.23,<0.30; (sys_platform!='win32') and extra == 'serve'\n" in told


def test_a_project_holds_what_its_owner_owns(made: Path) -> None:
    names = files(made)

    assert len(names) <= 48
    assert len(notebooks(made)) == 7
    lines = {name: len((made / name).read_text().splitlines()) for name in names if name.endswith(".py")}
    exported = {name: count for name, count in lines.items() if name.startswith("house_prices/pipeline/")}
    assert sum(exported.values()) <= 900
    assert max(exported.values()) <= 120
    assert sum(count for name, count in lines.items() if name.startswith("tests/")) <= 400
    for path in notebooks(made):
        assert len(json.loads(path.read_text())["cells"]) <= 30, path.name


def test_its_package_is_what_a_fresh_export_gives(made: Path, tmp_path: Path) -> None:
    fresh_export(made, tmp_path)

    assert check_package(made, tmp_path).findings == ()


def test_the_library_is_pinned_by_its_hash_in_every_lock(made: Path) -> None:
    (wheel,) = (made / "vendor").iterdir()
    listed = json.loads((made / "environment.json").read_text())["mlops-pkg"]

    for lock in ("requirements.txt", "requirements-pipeline.txt", "requirements-serve.txt"):
        assert locked_versions(made / lock)["mlops-pkg"] == listed
        assert f"./vendor/{wheel.name} \\\n    --hash=sha256:{listed.split(':')[1]}\n" in (made / lock).read_text()


def test_nothing_in_it_has_the_name_of_the_template_but_the_library(made: Path) -> None:
    for name in files(made):
        if name.endswith((".py", ".ipynb", ".yaml", ".toml", ".ini")):
            text = (made / name).read_text()
            assert "mlops_pkg.pipeline" not in text, name
            assert "mlops_pkg/pipeline" not in text, name
            assert "{{" not in text or name.startswith(".github"), f"{name}: something was not rendered"


def test_a_regression_and_an_own_table_keep_no_figures_of_another_task(tmp_path: Path) -> None:
    new_project(tmp_path / "minutes", {**ANSWERS, "start": "regression"}, ask=False)

    params = (tmp_path / "minutes" / "params.yaml").read_text()
    assert "task: regression" in params
    assert "positive_above" not in params
    for path in notebooks(tmp_path / "minutes"):
        assert [cell for cell in json.loads(path.read_text())["cells"] if cell.get("outputs")] == [], path.name


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"package": "2fast"}, "does not begin with a letter"),
        ({"package": "pandas"}, "would hide a module"),
        ({"package": "tests"}, "is a folder that the project has"),
        ({"title": " "}, "a title is needed"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_line_and_nothing_is_left(tmp_path: Path, changed: dict, told: str) -> None:
    folder = tmp_path / "project"

    assert told in said_by(lambda: new_project(folder, {**ANSWERS, "start": "flights", **changed}, ask=False))
    assert not folder.exists()


def test_what_is_answered_at_the_terminal_is_returned(tmp_path: Path) -> None:
    code = """
        import json, sys
        from pathlib import Path
        from mlops_pkg.authoring.new import new_project
        answers = new_project(Path(sys.argv[1]), json.loads(sys.argv[2]))
        print("ANSWERS", answers["start"], answers["table"], answers["target"])
    """
    arguments = ["-c", "\n".join(line.strip() for line in code.splitlines()), str(tmp_path / "p"), json.dumps(ANSWERS)]
    terminal = pexpect.spawn(sys.executable, arguments, timeout=60, encoding="utf-8", dimensions=(24, 120))
    down, enter = "\x1b[B", "\r"
    terminal.expect("What to start from")
    terminal.send(down + down + enter)
    terminal.expect("The file of your table")
    terminal.send("birds.csv" + enter)
    terminal.expect("The column to predict")
    terminal.send("weight" + enter)
    terminal.expect("ANSWERS (.*)\r\n")

    assert terminal.match[1] == "table birds.csv weight"
    assert "Warning" not in terminal.before


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    assert "choose a new or an empty folder" in said_by(lambda: new_project(tmp_path, ANSWERS, ask=False))
    assert (tmp_path / "mine.txt").read_text() == "mine"
