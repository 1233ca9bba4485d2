"""A new project carries its own name, and nothing of the template is left in it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.conftest import ROOT
from tests.template.conftest import ANSWERS, copy, git, readable

SHORTEST, LONGEST = "zz", "aa_is_a_name_of_24_chars"
BARE = {"task": "regression", "floors": []}
TEMPLATE = re.compile(r"mlops[\W_]?pkg", re.IGNORECASE)


@pytest.fixture(scope="module")
def settle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settle", ROOT / ".copier" / "settle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def laid_out(settle: ModuleType, template: Path, root: Path, **answers: object) -> Path:
    """A project under git as the task writes it, without copier."""
    root.mkdir()
    settle.settle(template, root, {**ANSWERS, **answers})
    settle.begin(root, "Ann Author", "")
    return root


def ran(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of this environment on the project's own package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1", "PATH": path}
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)


def named(project: Path, word: re.Pattern[str]) -> list[str]:
    """Where a word stands, in text or in the name of a file."""
    found = [name for name in git(project, "ls-files").splitlines() if word.search(name)]
    for name, text in readable(project).items():
        lines = [line for line in text.splitlines() if not (name == ".copier-answers.yml" and "_src_path" in line)]
        found += [f"{name}: {line.strip()[:150]}" for line in lines if word.search(line)]
    return found


def test_no_name_of_the_template_is_left(generated: Path) -> None:
    assert len(git(generated, "ls-files").splitlines()) > 150
    assert named(generated, TEMPLATE) == []
    assert named(generated, re.compile(r"only with (scoring|serving|classification|regression|template)")) == []


def test_nothing_is_in_it_that_is_only_the_templates(generated: Path) -> None:
    names = git(generated, "ls-files").splitlines()

    left = [name for name in names if name.startswith((".copier/", "tests/template/", "artifacts/", "copier"))]
    assert left == []
    assert not {"dvc.lock", "tests/slow/test_template.py"} & set(names)
    assert {"house_prices/cli.py", "nbs/90_cli.ipynb", "data.dvc", ".dvc/config", ".ci/run"} <= set(names)
    assert os.access(generated / ".ci" / "run", os.X_OK) == os.access(ROOT / ".ci" / "run", os.X_OK)


def test_it_is_the_authors(generated: Path) -> None:
    text = readable(generated)

    assert text["README.md"].startswith("# House prices\n")
    assert "Copyright: Ann Author." in text["README.md"]
    assert "\nauthor = Ann Author\nauthor_email = ann@example.invalid\n" in text["settings.ini"]
    assert "\ncopyright = Ann Author\n" in text["settings.ini"]
    assert "maintainers" not in text["settings.ini"]
    assert len(text["CHANGELOG.md"]) < 100
    assert git(generated, "log", "--format=%s") == "The project begins, from a template\n"
    assert git(generated, "status", "--porcelain") == ""


def test_it_remembers_the_answers(generated: Path, template: Path) -> None:
    answers = yaml.safe_load((generated / ".copier-answers.yml").read_text())

    assert answers == {**ANSWERS, "_commit": "v0.1.0", "_src_path": str(template)}


@pytest.mark.parametrize("answers", [{}, BARE], ids=["everything", "bare"])
@pytest.mark.parametrize("package", [SHORTEST, LONGEST])
def test_under_any_name_it_is_linted_formatted_and_in_sync(
    settle: ModuleType, template: Path, tmp_path: Path, package: str, answers: dict[str, object]
) -> None:
    project = laid_out(settle, template, tmp_path / "project", package=package, **answers)

    again = "; run `python .copier/forms.py` in the template"
    linted = ran(project, "ruff", "check", "--output-format", "concise", "--no-cache")
    assert linted.returncode == 0, linted.stdout
    formatted = ran(project, "ruff", "format", "--no-cache", "--diff", "nbs", "tests", "benchmarks", "setup.py")
    assert formatted.returncode == 0, formatted.stdout + again
    synced = ran(project, sys.executable, "-m", package, "sync")
    assert synced.returncode == 0, synced.stdout
    assert named(project, TEMPLATE) == []


def test_without_a_floor_nothing_of_it_is_left(settle: ModuleType, template: Path, tmp_path: Path) -> None:
    project = laid_out(settle, template, tmp_path / "project", **BARE)

    names = git(project, "ls-files").splitlines()
    assert [name for name in names if "scoring" in name or "serving" in name] == []
    gone = r"house_prices[./](scoring|serving)|house_prices (predict|serve)\b(?!.*:\s*\{$)"
    assert named(project, re.compile(gone)) == []
    shown = ran(project, sys.executable, "-m", "house_prices", "--help")
    assert shown.returncode == 0
    assert "predict" not in shown.stdout
    assert "serve" not in shown.stdout
    assert ran(project, "lint-imports", "--no-cache").returncode == 0


def test_without_the_endpoint_parity_counts_the_runtimes_that_are_left(
    settle: ModuleType, template: Path, tmp_path: Path
) -> None:
    without, everything = (
        readable(laid_out(settle, template, tmp_path / "-".join(floors), floors=floors))
        for floors in (["scoring"], ["scoring", "serving"])
    )

    for name in ("README.md", "nbs/index.ipynb"):
        assert ("4 of 4 runtimes" in without[name], "7 of 7 runtimes" in without[name]) == (True, False)
        assert ("4 of 4 runtimes" in everything[name], "7 of 7 runtimes" in everything[name]) == (False, True)
    assert "serving" not in without["dvc.yaml"]
    assert "serving" in everything["dvc.yaml"]


def test_a_regression_is_one_from_the_start(settle: ModuleType, template: Path, tmp_path: Path) -> None:
    project = laid_out(settle, template, tmp_path / "project", **BARE)

    params = yaml.safe_load((project / "params.yaml").read_text())
    assert (params["task"], params["data"]["target"]) == ("regression", {"name": "delay", "unit": "minutes"})
    assert "15 minutes" not in (project / "README.md").read_text() + (project / "params.yaml").read_text()
    stage = json.loads((project / "nbs" / "pipeline" / "23_evaluate.ipynb").read_text())
    assert [cell["id"] for cell in stage["cells"] if cell.get("outputs")] == [], "these show another task's figures"
    other = json.loads((project / "nbs" / "core" / "06_differences.ipynb").read_text())
    assert [cell for cell in other["cells"] if cell.get("outputs")], "no data of the project's own is shown here"


def test_the_task_gives_the_same_bytes_again(settle: ModuleType, template: Path, project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in git(project, "ls-files").splitlines()}
    answers = yaml.safe_load(before[".copier-answers.yml"])

    settle.settle(template, project, answers)

    assert {name: (project / name).read_bytes() for name in before} == before
    assert git(project, "status", "--porcelain") == ""


def test_a_mark_that_is_not_closed_or_not_known_is_an_error(settle: ModuleType) -> None:
    with pytest.raises(settle.TemplateError, match="one of classification, regression, scoring, serving, template"):
        settle.only_with("a = 1  # only with scorin\n", {"scoring"})
    with pytest.raises(settle.TemplateError, match="`only with scoring` is not closed"):
        settle.only_with("a\n# >>> only with scoring\nb\n", {"scoring"})
    with pytest.raises(settle.TemplateError, match="closes what was not opened"):
        settle.only_with("a\n# <<< only with scoring\n", {"scoring"})


REFUSED = {
    "1st_model": "'1st_model' does not begin with a letter",
    "House": "'House' does not begin with a letter from a to z",
    "house-prices": "'house-prices' holds something other than the letters a to z, digits and _; try 'house_prices'",
    "h": "'h' has 1 characters; 2 to 24 fit",
    "a_name_of_25_characters_x": "'a_name_of_25_characters_x' has 25 characters; 2 to 24 fit",
    "house__prices": "ends in _ or doubles it",
    "class": "'class' is a word of Python; try 'class_model'",
    "json": "'json' would hide a module of Python or of a library",
    "sklearn": "'sklearn' would hide a module of Python or of a library",
    "tests": "'tests' is a folder that the project has or makes",
    "mlops_pkg": "holds the name of the template itself",
}


@pytest.mark.parametrize("package", REFUSED)
def test_a_name_that_cannot_be_is_refused_in_one_line(package: str, template: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[package])) as refused:
        copy(template, tmp_path / "new", package=package)

    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"title": "100 % sure"}, "one line without % < >"),
        ({"author": ""}, "a name is needed"),
        ({"author_email": "nowhere"}, "'nowhere' is no address; write name@host, or nothing"),
    ],
)
def test_an_answer_that_would_break_a_file_is_refused(
    answers: dict[str, str], told: str, template: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        copy(template, tmp_path / "new", **answers)

    assert len(str(refused.value).splitlines()) == 1


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`copier copy` as somebody types it in a folder."""
    command = [str(Path(sys.executable).parent / "copier"), "copy", *words]
    told = ["--defaults", "--data", "title=New", "--data", "author=Ann"]
    environment = {**os.environ, "PWD": str(folder)}
    return subprocess.run([*command, *told], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_trust_copier_names_the_flag(template: Path, tmp_path: Path) -> None:
    done = typed(tmp_path, str(template), "new")

    assert done.returncode != 0
    assert "--trust" in done.stderr
    assert not (tmp_path / "new").exists()


def test_from_a_path_beside_it_an_update_finds_the_template(template: Path, tmp_path: Path) -> None:
    (tmp_path / "template").symlink_to(template)

    done = typed(tmp_path, "--trust", "template", "new")

    assert done.returncode == 0, done.stderr
    assert "make run" in done.stderr, "the message tells how to go on"
    answers = yaml.safe_load((tmp_path / "new" / ".copier-answers.yml").read_text())
    assert answers["_src_path"] == str(template.resolve())


def test_a_folder_with_other_files_is_left_alone(settle: ModuleType, template: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine\n")

    with pytest.raises(settle.TemplateError, match=r"^README.md: there already; choose a new or an empty folder$"):
        settle.settle(template, tmp_path, ANSWERS)

    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_without_git_one_line_says_so(
    settle: ModuleType,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert settle.main(str(template), json.dumps({**ANSWERS, "_src_path": "gh:one/another"}), "copy") == 1

    assert capsys.readouterr().err == "git: not found; install it, a project and its updates need it\n"
    assert list(tmp_path.iterdir()) == []


def test_inside_a_repository_it_makes_none_of_its_own(settle: ModuleType, template: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")

    project = laid_out(settle, template, tmp_path / "project")

    assert not (project / ".git").exists()


def test_without_an_identity_the_author_commits(
    settle: ModuleType, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    project = laid_out(settle, template, tmp_path / "project")

    assert git(project, "log", "--format=%an <%ae>") == "Ann Author <nobody@example.invalid>\n"


def test_the_reserved_names_are_those_of_the_locked_environment() -> None:
    reserved = set((ROOT / ".copier" / "reserved.txt").read_text().split())

    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    found = metadata.packages_distributions().items()
    installed = {name for name, owners in found if locked & {re.sub(r"[_.]+", "-", owner.lower()) for owner in owners}}
    names = {*sys.stdlib_module_names, *installed}
    fitting = {
        name.lower() for name in names if re.fullmatch(r"[a-z](?:_?[a-z0-9])+", name.lower()) and len(name) <= 24
    }
    lacking = fitting - reserved - {"mlops_pkg", "tests"}
    assert not lacking, f"add to .copier/reserved.txt: {' '.join(sorted(lacking))}"
