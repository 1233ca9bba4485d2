"""From the wheel alone to a green project on a table of one's own; a stage more and less; the next version."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mlops_pkg.authoring.generating import checkout_files, pack_wheel
from tests.conftest import IDENTITY, ROOT
from tests.forms import write_sheets

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


def sales() -> str:
    """Nine hundred rows as a spreadsheet writes them: semicolons, decimal commas, days first, NA where missing."""
    rows = []
    for n in range(900):
        price = "NA" if n % 41 == 7 else f"{n % 5 * 1.5}".replace(".", ",")
        shop = "NA" if n % 53 == 9 else ("Zürich", "Genève", "Bern")[n % 3]
        sold = n % 7 * 2 + n % 5 + n % 3 * 4 + n % 2
        rows.append(f"{n % 7};{price};{shop};{n % 28 + 1:02}.{n // 30 % 12 + 1:02}.2013;{sold}")
    return "weekday;price;shop;day;sold\n" + "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("own").resolve()
    name, content = pack_wheel(checkout_files(ROOT))
    (folder / name).write_bytes(content)
    uv = [sys.executable, "-m", "uv"]
    run(folder, *uv, "venv", "--quiet", "--python", sys.executable, ".venv")
    python = str(folder / ".venv" / "bin" / "python")
    locked = ["--require-hashes", "--requirement", str(ROOT / "requirements.txt")]
    run(folder, *uv, "pip", "install", "--quiet", "--python", python, *locked)
    run(folder, *uv, "pip", "install", "--quiet", "--python", python, "--no-deps", f"./{name}")
    return folder


@pytest.fixture(scope="module")
def own(installed: Path) -> Path:
    """A project on a csv of one's own, made from an installed wheel, and run."""
    (installed / "sales.csv").write_bytes(sales().encode("latin-1"))
    words = ["--title", "Sales", "--author", "Ada", "--table", "sales.csv", "--target", "sold", "--defaults"]
    run(installed, "mlops_pkg", "new", "project", *words)
    root = installed / "project"
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


def visits() -> str:
    """Fifty thousand rows: names with blanks, brackets and umlauts, a category of 20,000 values, times in a zone."""
    names = ("Größe (cm)", "Straße", "Zeit [MEZ]", "2. Wert", "class", "Praxis: Ort", "Wartezeit in min")
    rows = [";".join(f'"{name}"' for name in names)]
    for n in range(50_000):
        when = f"2023-{n % 12 + 1:02}-{n * 7 % 28 + 1:02}T{n * 5 % 24:02}:{n % 60:02}:00+01:00"
        size, second, group = 120 + n * 37 % 800 / 10, n * 7919 % 1000 / 8, ("A", "B", "")[n * 11 % 3]
        wait = 5 + size / 40 + (n * 5 % 24) / 3 + 4 * (group == "B") + n * 104_729 % 97 / 50
        cells = [size, f"Weg {n * 7919 % 20_000}", when, second, group, ("Köln", "Bonn")[n % 2], round(wait, 2)]
        rows.append(";".join(str(cell).replace(".", ",") if isinstance(cell, float) else str(cell) for cell in cells))
    return "\n".join(rows) + "\n"


def test_a_large_table_with_names_of_all_kinds_is_green(installed: Path) -> None:
    (installed / "Besuche 2023.csv").write_bytes(visits().encode("utf-8-sig"))
    words = ["--title", "Visits", "--author", "Ada", "--table", "Besuche 2023.csv", "--target", "Wartezeit in min"]
    run(installed, "mlops_pkg", "new", "visits", *words, "--defaults")
    root = installed / "visits"
    run(root, "make", "run")

    asked = {one["runtime"]: one for one in json.loads((root / "reports" / "parity.json").read_text())["runtimes"]}
    assert asked["source file Besuche 2023.csv"]["equal"]
    assert asked["source file Besuche 2023.csv"]["rows"] == 50_000
    params = (root / "params.yaml").read_text()
    assert "# Straße: left out, names rows rather than groups of rows: 20,000 values in 50,000 rows" in params
    assert "by: 'Zeit [MEZ]_month'" in params
    assert "{separator: ;, decimal: ',', missing: [NA], times: {'Zeit [MEZ]': zoned}}" in params
    run(root, "ruff", "check", "nbs", "tests")


def test_a_sheet_of_excel_is_green_and_rebuilt_from_what_dvc_yaml_declares(installed: Path) -> None:
    days = [datetime(2023, 1, 1) + timedelta(days=n) for n in range(600)]
    price = ["NA" if n % 41 == 7 else n % 5 * 1.5 for n in range(600)]
    rows = [[day, n % 7, price[n], n % 9 == 0, n % 7 * 2 + n % 5] for n, day in enumerate(days)]
    notes = [["Verkäufe je Tag"], ["ohne Gewähr"]]
    sheets = {"Notizen": notes, "Verkäufe": [["Tag", "Wochentag", "Preis (€)", "Feiertag", "verkauft"], *rows]}
    write_sheets(installed / "Verkäufe.xlsx", sheets)
    words = ["--title", "Shop", "--author", "Ada", "--table", "Verkäufe.xlsx", "--target", "verkauft", "--defaults"]
    run(installed, "mlops_pkg", "new", "shop", *words, "--sheet", "Verkäufe")
    root = installed / "shop"
    run(root, "make", "run")
    run(root, "mlops_pkg", "rebuild", "ingest")

    asked = {one["runtime"]: one for one in json.loads((root / "reports" / "parity.json").read_text())["runtimes"]}
    assert (asked["source file Verkaufe.xlsx"]["equal"], asked["source file Verkaufe.xlsx"]["rows"]) == (True, 600)
    assert "# The sheet 'Verkäufe' of 2; file_format.sheet names another." in (root / "params.yaml").read_text()


READ = "      - artifacts/bands/bands.parquet\n"
BANDS = '''#| export
def add_bands(table: pd.DataFrame) -> pd.DataFrame:
    """Return the line of each row, and in which third of the prices it lies."""
    band = pd.cut(table["price"], 3, labels=False).fillna(-1).astype("int64")
    return pd.DataFrame({"line": table["line"], "band": band})
'''
RUN = '''#| export
def run(params: Params, workspace: Workspace) -> None:  # noqa: ARG001
    """Write the band of each training row."""
    table = read_table(workspace.input("features", "train.parquet"))
    write_table(workspace.output("bands", "bands.parquet"), add_bands(table))
'''
TEST = """from pathlib import Path

import pandas as pd
from sales.pipeline import bands


def test_there_are_three_bands() -> None:
    table = pd.DataFrame({"line": [2, 3, 4], "price": [0.0, 5.0, 9.0]})

    assert bands.add_bands(table)["band"].tolist() == [0, 1, 2]
"""


def edit_cells(path: Path, **sources: str) -> None:
    """Write the sources of cells, whose ids have hyphens where the names here have underscores."""
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if (text := sources.pop(cell["id"].replace("-", "_"), None)) is not None:
            cell["source"] = text.strip().splitlines(keepends=True)
    assert not sources, f"{path.name} has no cells {sorted(sources)}"
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def source_of(path: Path, name: str) -> str:
    (cell,) = [cell for cell in json.loads(path.read_text())["cells"] if cell["id"] == name]
    return "".join(cell["source"])


def test_the_source_file_gets_the_answers_of_the_fitted_pipeline(own: Path) -> None:
    asked = {one["runtime"]: one for one in json.loads((own / "reports" / "parity.json").read_text())["runtimes"]}
    kept = json.loads((own / "artifacts" / "ingest" / "rows.json").read_text())["splits"]
    assert asked["source file sales.csv"]["equal"]
    assert asked["source file sales.csv"]["rows"] == sum(kept.values()) == 900

    told = run(own, "mlops_pkg", "predict", "data/sales.csv", "scored.csv").stdout
    plain = (own / "scored.csv").read_bytes()
    (own / "sales.csv.gz").write_bytes(gzip.compress((own / "data" / "sales.csv").read_bytes()))
    run(own, "mlops_pkg", "predict", "sales.csv.gz", "scored.csv")

    assert told.startswith("900 rows: 900 answered, 0 rejected")
    assert (own / "scored.csv").read_bytes() == plain
    params = (own / "params.yaml").read_text()
    for part in ("separator: ;", "encoding: latin-1", "decimal: ','", "missing: [NA]", "times: {day: '%d.%m.%Y'}"):
        assert part in params
    for name in ("scored.csv", "sales.csv.gz"):
        (own / name).unlink()


def test_a_reading_of_its_own_turns_the_source_file_red(own: Path) -> None:
    library = Path(run(own, "python", "-c", "import mlops_pkg; print(mlops_pkg.__file__)").stdout.strip()).parent
    module = library / "scoring" / "scores.py"
    before = module.read_bytes()
    module.unlink()
    module.write_bytes(before.replace(b"missing = set(written.missing)", b"missing = set()"))

    done = run(own, "mlops_pkg", "parity", check=False)

    module.write_bytes(before)
    assert done.returncode == 1
    assert re.search(r"source file sales.csv +900 +red", done.stdout), done.stdout
    assert run(own, "mlops_pkg", "parity").returncode == 0


def test_a_stage_more_is_used_by_the_next_and_gone_again(own: Path) -> None:
    before = run(own, "git", "rev-parse", "HEAD").stdout
    run(own, "mlops_pkg", "add", "stage", "bands", "--after", "features")
    notebook, train = own / "nbs" / "pipeline" / "21a_bands.ipynb", own / "nbs" / "pipeline" / "22_train.ipynb"
    edit_cells(
        notebook,
        imports=source_of(notebook, "imports").replace("write_json", "write_table"),
        count_rows=BANDS,
        use_count_rows="bands = add_bands(table)\nbands['band'].value_counts()",
        run=RUN,
        use_run='write_table(workspace.output("bands", "bands.parquet"), bands)',
    )
    kept = '[{0}["line"].isin(bands.loc[bands["band"] > 0, "line"])]'
    read = 'bands = read_table(workspace.input("bands", "bands.parquet"))'
    edit_cells(
        train,
        use_imports=source_of(train, "use-imports") + f"\n{read}\ntrain = train{kept.format('train')}",
        run=source_of(train, "run").replace(
            "    (X, y), validation",
            f"    {read}\n    tables[0] = tables[0]{kept.format('tables[0]')}\n    (X, y), validation",
        ),
    )
    (own / "tests" / "test_bands.py").write_text(TEST)
    dvc = (own / "dvc.yaml").read_text().replace("artifacts/bands/bands.json", "artifacts/bands/bands.parquet")
    dvc = re.sub(r"^(  (?:notebook-)?train:\n(?:    .*\n)*?    deps:\n)", rf"\1{READ}", dvc, flags=re.MULTILINE)
    assert dvc.count("- artifacts/bands/bands.parquet") == 3, "an output of bands, an input of train and of its walk"
    (own / "dvc.yaml").write_text(dvc)
    run(own, "make", "export")
    run(own, "make", "run")
    run(own, "make", "prove")
    run(own, "python", "-m", "pytest", "-q")
    assert verdicts(own) == {"sync": True, "rebuild": True, "parity": True}
    covered = {one["stage"] for one in json.loads((own / "reports" / "rebuild.json").read_text())["stages"]}
    assert "bands" in covered
    assert "bands" in run(own, "mlops_pkg", "lineage", "artifacts/train/model.skops").stdout
    commit(own, "A stage")

    refused = run(own, "mlops_pkg", "remove", "stage", "bands", check=False)
    assert refused.returncode == 1
    assert "bands is still used: dvc.yaml: train: artifacts/bands/bands.parquet" in refused.stderr
    assert "bands is still used: nbs/pipeline/22_train.ipynb: cell run:" in refused.stderr
    edit_cells(train, use_imports=source_of(train, "use-imports").partition("\nbands = ")[0])
    run(own, "git", "checkout", before.strip(), "--", "nbs/pipeline/22_train.ipynb", "sales/pipeline/train.py")
    text = (own / "dvc.yaml").read_text()
    (own / "dvc.yaml").write_text(text.replace(f"    deps:\n{READ}", "    deps:\n"))
    run(own, "mlops_pkg", "remove", "stage", "bands")
    run(own, "make", "run")
    run(own, "make", "prove")

    assert verdicts(own) == {"sync": True, "rebuild": True, "parity": True}
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
        ("20_ingest", "How often are flights late?", "How often is a flight late?"),
        ("22_train", "This project uses", "We use"),
        ("23_evaluate", "An average hides the slices", "A mean hides the slices"),
    ):
        replace(project / "nbs" / "pipeline" / f"{notebook}.ipynb", old, new)
    replace(project / "params.yaml", "max_iter: 300", "max_iter: 200")
    commit(project, "Ours")

    replace(template / "settings.ini", "version = ", "version = 9.")
    replace(template / "nbs" / "pipeline" / "22_train.ipynb", "How many trees are enough?", "How many trees suffice?")
    replace(
        template / "nbs" / "pipeline" / "23_evaluate.ipynb", "An average hides the slices", "A metric hides the slices"
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
    assert "How often is a flight late?" in (project / "nbs" / "pipeline" / "20_ingest.ipynb").read_text()
    train = (project / "nbs" / "pipeline" / "22_train.ipynb").read_text()
    assert "How many trees suffice?" in train
    assert "We use" in train
    conflicts = run(project, "git", "diff", "--name-only", "--diff-filter=U").stdout.split()
    assert conflicts == ["nbs/pipeline/23_evaluate.ipynb"], "both changed the same cell there, and nowhere else"
