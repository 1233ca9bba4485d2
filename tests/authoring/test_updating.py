"""An edit of a module goes back into its cells, or nothing is changed."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("nbdev")

from mlops_pkg.authoring.saving import clean_content, export_all, make_module, process_saved
from mlops_pkg.authoring.updating import find_exporters, make_imports_absolute, split_module, update
from mlops_pkg.core.params import UserError
from mlops_pkg.project.files import notebooks, read_notebook, source
from tests.authoring.conftest import commit, edit, lines, sources_and_modules
from tests.conftest import ROOT
from tests.proof.conftest import notebook

NAME, MODULE = "nbs/pipeline/25_prices.ipynb", "mlops_pkg/pipeline/prices.py"
CELLS = (
    ("markdown", "# Prices\n\n> What a thing costs"),
    ("code", "#| default_exp pipeline.prices"),
    (
        "code",
        "#| export\nfrom pathlib import Path\n\nfrom mlops_pkg.core.rates import RATE\nfrom mlops_pkg import core",
    ),
    ("code", "#| export\n#| code-fold: true\n\ndef price(cost):\n    return cost * (1 + RATE)"),
    ("markdown", "Twice:"),
    ("code", "#| exporti\ndef _twice(cost):\n    return 2 * cost"),
    ("code", "price(100)"),
)


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the toy project, with one more notebook and recorded exports."""
    root = Path(shutil.copytree(template, tmp_path / "toy"))
    text = json.loads(notebook(*CELLS))
    text["cells"][6]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["110\n"]}]
    (root / NAME).write_bytes(clean_content(root, text))
    monkeypatch.chdir(root)
    done, failed = export_all(root)
    assert (done, failed) == ([f"{MODULE}: exported from {NAME}"], [])
    return root


def sources(root: Path) -> dict[str, str]:
    return {cell["id"]: source(cell) for cell in read_notebook(root / NAME)["cells"]}


def test_no_edit_changes_nothing(toy: Path) -> None:
    before = sources_and_modules(toy)

    assert update(toy) == []
    assert sources_and_modules(toy) == before


def test_no_module_of_this_package_holds_an_edit() -> None:
    before = {path: path.read_bytes() for path in notebooks(ROOT)}

    for path in before:
        if module := make_module(ROOT, path):
            head, blocks = split_module(module.content.decode())
            text = "\n".join([head, *(f"\n# %% {name}\n{code}" for name, code in blocks.items())])
            assert all(line in text for line in module.content.decode().splitlines() if not line.startswith("# %%"))
            ids = [cell["id"] for cell in read_notebook(path)["cells"]]
            assert [name for name in blocks if name != "auto"] == [name for name in ids if name in blocks]


def test_an_edit_goes_back_into_its_cell_and_into_no_other(toy: Path) -> None:
    before = sources_and_modules(toy)
    edit(toy / MODULE, "return cost * (1 + RATE)", 'return round(cost * (1 + RATE), 2)  # "net"\n')
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    edited = (toy / MODULE).read_text()

    assert update(toy) == [f"{NAME}: took the edits of step-3, step-5 from {MODULE}"]

    after = sources_and_modules(toy)
    assert {name for name in after if after[name] != before.get(name)} == {NAME, MODULE}
    assert sources(toy)["step-3"].startswith("#| export\n#| code-fold: true\n\ndef price(cost):\n    return round(")
    assert sources(toy)["step-5"] == "#| exporti\ndef _twice(cost):\n    return cost + cost"
    text = json.loads(before[NAME])
    for number in (3, 5):
        text["cells"][number]["source"] = read_notebook(toy / NAME)["cells"][number]["source"]
    assert json.loads(after[NAME]) == text, "more than two sources changed"
    assert [line for line in after[MODULE].decode().splitlines() if line] == [
        line for line in edited.splitlines() if line
    ]
    assert lines(toy) == []
    assert update(toy) == []


def test_the_export_after_an_update_is_the_edited_module_to_the_byte(toy: Path) -> None:
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    edited = (toy / MODULE).read_bytes()

    update(toy)

    module = make_module(toy, toy / NAME)
    assert module
    assert module.content == edited == (toy / MODULE).read_bytes()


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("from ..core.stage import STAGES", "from mlops_pkg.core.stage import STAGES"),
        ("from mlops_pkg.core.stage import STAGES", "from mlops_pkg.core.stage import STAGES"),
        ("from . import train", "from mlops_pkg.pipeline import train"),
        ("from .train import json", "from mlops_pkg.pipeline.train import json"),
        ("from .. import __version__", "from mlops_pkg import __version__"),
        ("from ..core import stage", "from mlops_pkg.core import stage"),
    ],
)
def test_an_import_of_the_package_comes_back_as_notebooks_write_it(toy: Path, added: str, expected: str) -> None:
    edit(toy / MODULE, "from ..core.rates import RATE\n", f"from ..core.rates import RATE\n{added}\n")

    update(toy)

    imports = sources(toy)["step-2"].splitlines()
    assert imports.count(expected) == 1
    assert [line for line in imports if line.startswith("from .")] == []
    made = make_module(toy, toy / NAME)
    assert made
    assert made.content == (toy / MODULE).read_bytes()
    package = ["mlops_pkg", "pipeline"]
    assert expected in make_imports_absolute(made.content.decode(), package)


def test_a_new_function_in_a_block_comes_to_all(toy: Path) -> None:
    edit(toy / MODULE, "(1 + RATE)\n", "(1 + RATE)\n\n\ndef thrice(cost):\n    return 3 * cost\n")

    update(toy)

    assert "'thrice'" in (toy / MODULE).read_text().partition("# %% ../../nbs")[0]
    assert "prices.thrice" in (toy / "mlops_pkg" / "_modidx.py").read_text()
    assert lines(toy) == []


def test_blank_lines_of_a_formatter_are_no_edit_of_a_cell(toy: Path) -> None:
    before = sources_and_modules(toy)
    text = (toy / MODULE).read_text()
    (toy / MODULE).write_text(text.replace("\n\n# %% ", "\n\n\n\n# %% "))

    assert update(toy) == [f"{NAME}: has already what stands in {MODULE}"]
    assert sources_and_modules(toy) == before


def test_edits_of_both_sides_in_different_cells_are_both_kept(toy: Path) -> None:
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    edit(toy / NAME, "return cost * (1 + RATE)", "return cost / (1 - RATE)")
    with pytest.raises(UserError, match="`mlops_pkg update`"):
        process_saved(toy, toy / NAME)

    assert update(toy) == [f"{NAME}: took the edits of step-5 from {MODULE}"]

    for part in ("return cost + cost", "return cost / (1 - RATE)"):
        assert part in (toy / MODULE).read_text()
        assert part in (toy / NAME).read_text()
    assert lines(toy) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# %% ../../nbs/pipeline/25_prices.ipynb #step-5\n", "", "cell step-5: its mark is gone"),
        ("ipynb #step-5", "ipynb #step-9", "cell step-9: not in the notebook; add the cell there"),
        ("ipynb #step-5", "ipynb #step-3", "stands twice"),
        ("ipynb #step-5", "ipynb", "names no cell"),
        ('"""What a thing costs"""', '"""What it costs"""', "made from the notebook's title"),
        ("# %% auto #0", "import sys\n\n# %% auto #0", "made from the notebook's title"),
        ("__all__ = ['price']", "__all__ = []", "`__all__` was edited"),
        ("__all__ = ['price']", "__all__ = ['price']\nVAT = 0.2", "`__all__` was edited"),
        ("def price(cost):", "def price(cost)", "not valid Python: expected ':' (line "),
        ("def _twice(cost):\n    return 2 * cost", "", "cell step-5: its block is empty"),
        ("return 2 * cost", "return 2 * cost\n#| hide\n%time", "not valid Python"),
    ],
)
def test_an_edit_without_a_cell_is_refused_and_changes_nothing(toy: Path, old: str, new: str, said: str) -> None:
    edit(toy / MODULE, old, new)
    before = sources_and_modules(toy)

    with pytest.raises(UserError, match=re.escape(said)) as raised:
        update(toy)

    assert str(raised.value).startswith(MODULE)
    assert "\n" not in str(raised.value)
    assert sources_and_modules(toy) == before


def test_a_cell_edited_on_both_sides_is_refused_and_neither_edit_is_lost(toy: Path) -> None:
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    edit(toy / NAME, "return 2 * cost", "return cost << 1")
    before = sources_and_modules(toy)

    with pytest.raises(UserError, match="cell step-5: edited in the notebook as well since the last export"):
        update(toy)
    with pytest.raises(UserError, match="edited since its last export"):
        process_saved(toy, toy / NAME)

    assert sources_and_modules(toy) == before


def test_one_refusal_keeps_every_module_from_being_taken(toy: Path) -> None:
    edit(toy / "mlops_pkg" / "core" / "rates.py", "RATE = 0.1", "RATE = 0.2")
    edit(toy / MODULE, "__all__ = ['price']", "__all__ = []")
    before = sources_and_modules(toy)

    with pytest.raises(UserError, match=MODULE):
        update(toy)
    assert sources_and_modules(toy) == before
    assert update(toy, ["mlops_pkg.core.rates"]) == [
        "nbs/core/00_rates.ipynb: took the edits of step-2 from mlops_pkg/core/rates.py"
    ]


def test_a_cell_deleted_in_the_notebook_is_not_brought_back_by_an_edit(toy: Path) -> None:
    text = read_notebook(toy / NAME)
    text["cells"] = [cell for cell in text["cells"] if cell["id"] != "step-5"]
    (toy / NAME).write_bytes(clean_content(toy, text))
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")

    with pytest.raises(UserError, match="cell step-5: deleted in the notebook, edited in the module"):
        update(toy)


@pytest.mark.parametrize("name", ["pipeline.prices", "mlops_pkg.pipeline.prices", MODULE])
def test_a_module_may_be_named_in_each_form(toy: Path, name: str) -> None:
    assert find_exporters(toy, [name]) == [toy / NAME]


def test_an_unknown_module_is_named_with_the_nearest(toy: Path) -> None:
    with pytest.raises(UserError, match=r"pipeline\.price: no notebook exports this module; did you mean 'pipeline\."):
        update(toy, ["pipeline.price"])


def test_a_fresh_clone_knows_the_last_export_from_its_commit(toy: Path) -> None:
    shutil.rmtree(toy / ".venv")
    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    with pytest.raises(UserError, match="no export of it is known"):
        update(toy)
    edit(toy / MODULE, "return cost + cost", "return 2 * cost")
    commit(toy, "nbs", "mlops_pkg")

    edit(toy / MODULE, "return 2 * cost", "return cost + cost")
    assert update(toy) == [f"{NAME}: took the edits of step-5 from {MODULE}"]
