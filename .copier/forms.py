"""Write .copier/forms.json: the lines that the formatter wraps otherwise where the package's name is shorter or longer.

    python .copier/forms.py

A new project is formatted without a formatter at hand: `settle.py` takes these lines as ruff wrote them here, once
for each length that a name may have. Run it when tests/template says that a new project is not formatted.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path

import settle

LENGTHS = [length for length in range(2, 25) if length != len(settle.NAME)]
ANSWERS = {"title": "T", "author": "A", "author_email": "", "task": "classification", "floors": list(settle.FLOORS)}


def sources(root: Path, name: str) -> list[str]:
    """The pieces of code in a file: its text, or that of each cell."""
    text = (root / name).read_text(encoding="utf-8")
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"]] if name.endswith(".ipynb") else [text]


def changes(before: str, after: str) -> Iterator[tuple[str, str]]:
    """The blocks of lines that differ, with what comes in their place."""
    old, new = before.splitlines(), after.splitlines()
    found = SequenceMatcher(None, old, new, autojunk=False)
    for apart in (0, 1, 2):
        blocks = [
            ("\n".join(old[group[0][1] : group[-1][2]]), "\n".join(new[group[0][3] : group[-1][4]]))
            for group in found.get_grouped_opcodes(apart)
        ]
        if all(settle.placed(before, *block) != before for block in blocks):
            break
    yield from blocks


def renamed_back(text: str, name: str) -> str:
    """The text with the template's name for the project's."""
    return text.replace(name, settle.NAME).replace(name.replace("_", "-"), settle.DASHED)


def forms(length: int) -> Iterator[tuple[str, str, str]]:
    """File, lines and their form under a name of that length."""
    name = ("z_" if length > 2 else "z") + "q" * (length - 2 if length > 2 else 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project = settle.render(Path(settle.__file__).parents[1], {**ANSWERS, "package": name}, wrapped=False)
        checked = [file for file in project if file.endswith((".py", ".ipynb")) and not file.startswith(f"{name}/")]
        for file in [*checked, "pyproject.toml"]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(project[file])
        before = {file: sources(root, file) for file in checked}
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *checked], cwd=root, check=True)
        for file in checked:
            for was, now in zip(before[file], sources(root, file), strict=True):
                if was != now:
                    for block in changes(was, now):
                        yield file, *(renamed_back(text, name) for text in block)


def main() -> None:
    """Write the forms, each with the lengths from and to which it is used."""
    lengths: dict[tuple[str, str, str], list[int]] = {}
    for length in LENGTHS:
        for form in forms(length):
            lengths.setdefault(form, []).append(length)
    written = []
    for (file, old, new), used in sorted(lengths.items()):
        for _, run in groupby(enumerate(used), lambda pair: LENGTHS.index(pair[1]) - pair[0]):
            one = [length for _, length in run]
            written.append({"file": file, "lengths": [one[0], one[-1]], "old": old, "new": new})
    text = json.dumps(written, indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(written)} forms")


if __name__ == "__main__":
    main()
