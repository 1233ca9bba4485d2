"""From the wheel alone to a green project on a table of one's own; a stage more and less; the next version."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_pkg.authoring.generating import checkout_files, pack_wheel
from tests.conftest import IDENTITY, ROOT

pytestmark = pytest.mark.slow
CALM = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")}


def run(root: Path, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """A command in a project, with the project's own environment first."""
    path = os.pathsep.join((str(root / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**CALM, "PATH": path, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def commit(root: Path, subject: str) -> None:
    run(root, "git", "add", "--all")
    run(root, "git", *IDENTITY, "commit", "--quiet", "--message", subject)


def verdicts(root: Path) -> dict[str, bool]:
    return {
        name: json.loads((root / "reports" / f"{name}.json").read_text())["ok"]
        for name in ("sync", "rebuild", "parity")
    }


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on a csv of one's own, made from an installed wheel in an empty folder, and run."""
    folder = tmp_path_factory.mktemp("own").resolve()
    name, content = pack_wheel(checkout_files(ROOT))
    (folder / name).write_bytes(content)
    uv = [sys.executable, "-m", "uv"]
    run(folder, *uv, "venv", "--quiet", "--python", sys.executable, ".venv")
    python = str(folder / ".venv" / "bin" / "python")
    locked = ["--require-hashes", "--requirement", str(ROOT / "requirements.txt")]
    run(folder, *uv, "pip", "install", "--quiet", "--python", python, *locked)
    run(folder, *uv, "pip", "install", "--quiet", "--python", python, "--no-deps", f"./{name}")
    rows = [f"{n % 7},{n % 5 * 1.5},{'abc'[n % 3]},{n % 7 * 2 + n % 5 + n % 3 * 4 + n % 2}" for n in range(900)]
    (folder / "sales.csv").write_text("weekday,price,shop,sold\n" + "\n".join(rows) + "\n")
    words = ["--title", "Sales", "--author", "Ada", "--table", "sales.csv", "--target", "sold", "--defaults"]
    run(folder, "mlops_pkg", "new", "project", *words)
    root = folder / "project"
    run(root, "make", "run")
    commit(root, "The first run")
    return root


def test_a_table_of_ones_own_is_green_and_the_project_speaks_of_it_alone(own: Path) -> None:
    run(own, "make", "prove")
    tested = run(own, "make", "test").stdout

    assert verdicts(own) == {"sync": True, "rebuild": True, "parity": True}
    assert re.search(r"\d+ passed", tested)
    texts = [
        own / name for name in run(own, "git", "ls-files").stdout.splitlines() if not name.startswith(("req", "ven"))
    ]
    speak = [path.name for path in texts if re.search(r"flight|carrier|New York", path.read_text(errors="replace"))]
    assert speak == []


def test_a_stage_more_is_used_by_the_next_and_gone_again(own: Path) -> None:
    before = run(own, "git", "rev-parse", "HEAD").stdout
    run(own, "mlops_pkg", "add", "stage", "bands", "--after", "features")
    run(own, "mlops_pkg", "run")
    assert json.loads((own / "artifacts" / "bands" / "bands.json").read_text())["rows"] > 0
    run(own, "make", "prove")
    run(own, "python", "-m", "pytest", "-q")
    assert verdicts(own) == {"sync": True, "rebuild": True, "parity": True}
    commit(own, "A stage")

    run(own, "mlops_pkg", "remove", "stage", "bands")
    run(own, "mlops_pkg", "run")

    assert verdicts(own)["sync"]
    assert run(own, "git", "diff", "--name-only", before.strip()).stdout.split() in ([], ["dvc.lock"])


def test_an_edited_library_is_named_by_sync(own: Path) -> None:
    library = Path(run(own, "python", "-c", "import mlops_pkg; print(mlops_pkg.__file__)").stdout.strip()).parent
    module = library / "core" / "splits.py"
    before = module.read_bytes()
    module.unlink()  # a hard link to the installer's cache must not be written to
    module.write_bytes(before + b"# changed\n")

    done = run(own, "mlops_pkg", "sync", check=False)

    module.write_bytes(before)
    assert done.returncode == 1
    assert "mlops_pkg/core/splits.py: not the file of the library's wheel" in done.stdout
    assert run(own, "mlops_pkg", "sync").returncode == 0


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def test_the_next_version_comes_with_update_and_keeps_what_was_edited(tmp_path: Path) -> None:
    template, project = tmp_path / "template", tmp_path / "project"
    run(tmp_path, "git", "clone", "--quiet", str(ROOT), str(template))
    for name in run(ROOT, "git", "ls-files", "--modified", "--others", "--exclude-standard").stdout.splitlines():
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, template / name)
    if run(template, "git", "status", "--porcelain").stdout:
        commit(template, "As it stands here")
    run(template, "git", "tag", "v1.0.0")
    data = [word for pair in ("title=Late", "package=late", "author=Ada") for word in ("--data", pair)]
    run(tmp_path, "copier", "copy", "--quiet", "--trust", "--defaults", *data, str(template), str(project))
    for notebook, old, new in (
        ("20_ingest", "How late is late?", "How late is too late?"),
        ("22_train", "what this project uses", "what we use"),
        ("23_evaluate", "An average hides the corner", "A mean hides the corner"),
    ):
        replace(project / "nbs" / "pipeline" / f"{notebook}.ipynb", old, new)
    replace(project / "params.yaml", "max_iter: 300", "max_iter: 200")
    commit(project, "Ours")

    replace(template / "settings.ini", "version = ", "version = 9.")
    replace(template / "nbs" / "pipeline" / "22_train.ipynb", "How many trees are enough?", "How many trees suffice?")
    replace(
        template / "nbs" / "pipeline" / "23_evaluate.ipynb", "An average hides the corner", "A figure hides the corner"
    )
    replace(template / "dvc.yaml", "title: ROC on the test rows", "title: The ROC on the test rows")
    replace(template / "mlops_pkg" / "core" / "splits.py", "def drop_without(", "LATER = True\n\n\ndef drop_without(")
    commit(template, "The next version")
    run(template, "git", "tag", "v2.0.0")
    run(project, "copier", "update", "--quiet", "--trust", "--defaults")

    (wheel,) = (project / "vendor").glob("*.whl")
    assert wheel.name.startswith("mlops_pkg-9.")
    assert f"./vendor/{wheel.name}" in (project / "requirements.txt").read_text()
    assert "title: The ROC on the test rows" in (project / "dvc.yaml").read_text()
    assert "max_iter: 200" in (project / "params.yaml").read_text()
    assert "How late is too late?" in (project / "nbs" / "pipeline" / "20_ingest.ipynb").read_text()
    train = (project / "nbs" / "pipeline" / "22_train.ipynb").read_text()
    assert "How many trees suffice?" in train
    assert "what we use" in train
    conflicts = run(project, "git", "diff", "--name-only", "--diff-filter=U").stdout.split()
    assert conflicts == ["nbs/pipeline/23_evaluate.ipynb"], "both changed the same cell there, and nowhere else"
