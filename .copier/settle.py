"""Write a project of its own from this template: `copier copy` and `copier update` call it, nothing else does.

    python .copier/settle.py TEMPLATE ANSWERS      in the new project's folder; ANSWERS is copier's own, as JSON

What it writes is a function of the template's files and the answers alone, so that `copier update` can make the old and
the new version of a project afresh, and merge what lies between. Standard library only: it runs in copier's Python.

Lines are kept only for some projects where a comment says so, at a line's end or around a block:

    x = 1  # only with WORD                    <!-- only with WORD -->
    # >>> only with WORD ... # <<< only with WORD    (in Markdown within <!-- -->)

WORD is a floor, `classification`, `regression`, or `template`, which no project is with. A file that is left empty is
not written. To make a folder optional, add it to FLOORS and to copier.yml; mark its lines in other files.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pprint import pformat

NAME, DASHED = "mlops_pkg", "mlops-pkg"  # what the template's package and its distribution are called
# Each optional floor is nbs/FLOOR, its modules and tests/FLOOR; and what of it lies elsewhere.
FLOORS = {
    "scoring": ("tests/fuzz/test_files.py",),
    "serving": (
        "benchmarks/serving",
        "tests/fuzz/test_endpoint.py",
        "tests/proof/test_endpoint.py",
        "tests/slow/test_serving_benchmark.py",
        "tests/slow/test_serving_faults.py",
        "tests/slow/test_serving_page.py",
    ),
}
ANSWERS = ".copier-answers.yml"
# What belongs to the template alone, or is made by a build.
LEFT_OUT = (
    ".copier",
    "CHANGELOG.md",  # copier writes its own, from .copier/project
    "artifacts",
    "copier.yml",
    "dvc.lock",
    "tests/slow/test_template.py",
    "tests/template",
)
NOT_COPIED = {".git", ".venv", "data", "research", "reports", "__pycache__", ".ipynb_checkpoints"}

_WORD = r"only with ([a-z]+)"
_KNOWN = {*FLOORS, "classification", "regression", "template"}
_OPEN, _CLOSE = (re.compile(rf"^\W*{arrows} {_WORD}\W*$") for arrows in (">>>", "<<<"))
_LINE = re.compile(rf"  # {_WORD}$| <!-- {_WORD} -->(?= \|$|$)")

# What a regression says instead: file, what stands there, what comes in its place. Each must stand there once.
REGRESSION = (
    ("params.yaml", "task: classification  # or regression", "task: regression  # or classification"),
    (
        "params.yaml",
        "target: {name: late, positive_above: 15}  # minutes of arrival delay",
        "target: {name: delay, unit: minutes}  # of delay on arrival",
    ),
    ("params.yaml", "name: late-flights", "name: flight-delays"),
    (
        "params.yaml",
        "Whether a flight out of New York will arrive more than 15 minutes late, from what is",
        "By how many minutes a flight out of New York will arrive late, from what is",
    ),
    ("params.yaml", "One answer is a probability, and no reason", "One answer is an estimate, and no reason"),
    ("params.yaml", "There it promises more delay than came.", "Its errors there are larger."),
    (
        "README.md",
        "predicts whether a flight out of New York will arrive more than 15 minutes late,",
        "predicts by how many minutes a flight out of New York will arrive late,",
    ),
)
# What is counted otherwise without a floor: floor, file, what stands there once, what comes in its place.
WITHOUT = tuple(("serving", file, "7 of 7 runtimes", "4 of 4 runtimes") for file in ("README.md", "nbs/index.ipynb"))


class TemplateError(Exception):
    """A line of the template that this task relies on is not there."""


def only_with(text: str, words: set[str]) -> str:
    """The text without the lines that are for other projects, and without the marks."""
    if "only with" not in text:
        return text
    kept, inside = [], []
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        for mark in (_OPEN.match(bare), _CLOSE.match(bare), _LINE.search(bare)):
            if mark and not _KNOWN.intersection(mark.groups()):
                raise TemplateError(f"`{bare.strip()}`: what is meant is one of {', '.join(sorted(_KNOWN))}")
        if opened := _OPEN.match(bare):
            inside.append(opened[1])
        elif closed := _CLOSE.match(bare):
            if not inside or inside.pop() != closed[1]:
                raise TemplateError(f"`{bare.strip()}` closes what was not opened")
        elif words.issuperset(inside):
            marked = _LINE.search(bare)
            if not marked or (marked[1] or marked[2]) in words:
                kept.append(_LINE.sub("", bare) + line[len(bare) :])
    if inside:
        raise TemplateError(f"`only with {inside[-1]}` is not closed")
    return "".join(kept).rstrip("\n") + "\n" * (len(kept) > 0)


def renamed(text: str, package: str) -> str:
    """The text with the project's name for the template's."""
    return text.replace(NAME, package).replace(DASHED, package.replace("_", "-"))


def placed(text: str, old: str, new: str) -> str:
    """The text with other lines for some whole lines."""
    return f"\n{text}\n".replace(f"\n{old}\n", f"\n{new}\n")[1:-1]


def formed(text: str, forms: list[tuple[str, str]]) -> str:
    """The code as the formatter wraps it under the project's name."""
    for old, new in forms:
        text = placed(text, old, new)
    return text


def forms_of(template: Path, package: str) -> dict[str, list[tuple[str, str]]]:
    """For each file the lines that are wrapped otherwise under a name of this length; see forms.py."""
    found: dict[str, list[tuple[str, str]]] = {}
    for form in json.loads((template / ".copier" / "forms.json").read_text(encoding="utf-8")):
        if form["lengths"][0] <= len(package) <= form["lengths"][1]:
            found.setdefault(form["file"], []).append((form["old"], form["new"]))
            if form["file"].endswith(".ipynb"):
                code = (template / form["file"]).read_text(encoding="utf-8")
                if exported := re.search(r"#\| default_exp ([\w.]+)", code):
                    module = f"{NAME}/{exported[1].replace('.', '/')}.py"
                    found.setdefault(module, []).append((form["old"], form["new"]))
    return found


def notebook(text: str, words: set[str], stale: bool, forms: list[tuple[str, str]]) -> str:
    """A notebook's text; `stale`: its outputs are those of another task, where it looks at the project's own data."""
    content = json.loads(text)
    before = json.dumps(content)
    code = "".join(part for cell in content["cells"] if cell["cell_type"] == "code" for part in cell["source"])
    stale = stale and re.search(r"Workspace\.find\(|load_params\(|read_params\(|project_root\(", code) is not None
    cells = []
    for cell in content["cells"]:
        was = "".join(cell["source"])
        now = formed(only_with(was, words), forms)
        if was and not now.strip():
            continue
        if now != was:
            cell["source"] = now.rstrip("\n").splitlines(keepends=True)
        if stale and cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        cells.append(cell)
    content["cells"] = cells
    if json.dumps(content) == before:
        return text
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # as nbdev writes it


def index(text: str, modules: set[str]) -> str:
    """The index of the package, as nbdev's export writes it for those modules."""
    head, _, body = text.partition("d = ")
    content = ast.literal_eval(body)
    content["syms"] = {module: found for module, found in content["syms"].items() if module in modules}
    return head + "d = " + pformat(content, width=140, indent=2, compact=True) + "\n"


def replaced(name: str, text: str, *pairs: tuple[str, str]) -> str:
    """The text with each second for each first, which must stand there once."""
    for old, new in pairs:
        if text.count(old) != 1:
            raise TemplateError(f"{name}: `{old}` stands there {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


def own(name: str, text: str, answers: dict) -> str:
    """The text with the answers in it: title, author, licence holder, task."""
    title, author = answers["title"], answers["author"]
    if answers["task"] == "regression":
        text = replaced(name, text, *((old, new) for file, old, new in REGRESSION if file == name))
    else:
        gone = [one[1:] for one in WITHOUT if one[0] not in answers["floors"]]
        text = replaced(name, text, *((old, new) for file, old, new in gone if file == name))
    if name == "settings.ini":
        lines = (("title", title), ("author", author), ("author_email", answers["author_email"]), ("copyright", author))
        for key, value in lines:
            line = f"{key} = {value}".rstrip()
            text, found = re.subn(rf"^{key} = .*$", lambda _, line=line: line, text, flags=re.MULTILINE)
            if found != 1:
                raise TemplateError(f"settings.ini: {found} lines begin with `{key} =`")
    if name == "pyproject.toml" and len(answers["package"]) > len(NAME):
        told = '    "E501",  # texts that name the package; the formatter wraps all the rest\n'
        text = replaced(name, text, ("ignore = [\n", f"ignore = [\n{told}"))
    if name == "README.md":
        text = replaced(name, text, (f"# {NAME}\n", f"# {title}\n"))
        text = replaced(name, text, ("Licence: Apache-2.0.", f"Licence: Apache-2.0. Copyright: {author}."))
    return text


def files(template: Path) -> list[str]:
    """The template's files that a project may have."""
    found = []
    for folder, folders, names in os.walk(template):
        folders[:] = sorted(set(folders) - NOT_COPIED)
        found += [(Path(folder) / name).relative_to(template).as_posix() for name in names]
    return sorted(name for name in found if not name.endswith(".pyc") and not below(name, LEFT_OUT))


def below(name: str, places: tuple[str, ...]) -> bool:
    """Whether a file is one of the places, or lies in one."""
    return any(name == place or name.startswith(f"{place}/") for place in places)


def render(template: Path, answers: dict, wrapped: bool = True) -> dict[str, bytes]:
    """Each file of the project by its name; `wrapped`: as the formatter wraps lines with this name in them."""
    package, floors = answers["package"], set(answers["floors"])
    words = floors | {answers["task"]}
    missing = [floor for floor in FLOORS if floor not in floors]
    gone = [f"{root}/{floor}" for floor in missing for root in ("nbs", NAME, "tests")]
    gone += [place for floor in missing for place in FLOORS[floor]]
    forms = forms_of(template, package) if wrapped else {}
    project: dict[str, bytes] = {}
    for name in files(template):
        if below(name, tuple(gone)):
            continue
        content = (template / name).read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            project[renamed(name, package)] = content
            continue
        if name.endswith(".ipynb"):
            text = notebook(text, words, answers["task"] != "classification", forms.get(name, []))
        else:
            text = formed(only_with(text, words), forms.get(name, []))
        if text or not content:
            project[renamed(name, package)] = renamed(own(name, text, answers), package).encode()
    modules = {
        name[: -len(".py")].replace("/", ".")
        for name in project
        if name.startswith(f"{package}/") and name.endswith(".py")
    }
    listing = f"{package}/_modidx.py"
    project[listing] = index(project[listing].decode(), modules).encode()
    return project


def remembered(answers: dict) -> str:
    """The file from which `copier update` takes the answers; JSON's values are YAML's."""
    head = "# What copier was told. `copier update` reads and writes it; do not edit it.\n"
    return head + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in sorted(answers.items()))


def settle(template: Path, project: Path, answers: dict) -> None:
    """Write the project's files; refuses a folder that holds other files under their names."""
    content = render(template, answers)
    there = not (project / ANSWERS).exists() and [
        name
        for name, wanted in content.items()
        if (project / name).is_file() and (project / name).read_bytes() != wanted
    ]
    if there:
        raise TemplateError(f"{there[0]}: there already; choose a new or an empty folder")
    for name, wanted in content.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted)
        original = template / name.replace(answers["package"], NAME)
        if original.is_file():
            path.chmod(original.stat().st_mode & 0o777)
    (project / ANSWERS).write_text(remembered(answers), encoding="utf-8")


def begin(project: Path, author: str, email: str) -> None:
    """A git history of its own with one commit, where the project lies in none."""

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-inside-work-tree").returncode == 0:
        return
    identity = []
    if git("config", "user.name").returncode or git("config", "user.email").returncode:
        identity = ["-c", f"user.name={author}", "-c", f"user.email={email or 'nobody@example.invalid'}"]
    commit = [*identity, "commit", "--quiet", "--no-verify", "--message", "The project begins, from a template"]
    for words in (["init", "--quiet", "--initial-branch", "main"], ["add", "--all"], commit):
        done = git(*words)
        if done.returncode:
            raise TemplateError(f"git {words[0]}: {done.stderr.strip()}")


def main(template: str, answers: str, operation: str) -> int:
    """Write the project in the current folder; 1 with one line where that cannot be."""
    told, project = json.loads(answers), Path.cwd()
    source = Path(os.environ.get("PWD", "/")) / told["_src_path"]  # PWD is where copier was called
    if operation == "copy" and source.is_dir():
        told["_src_path"] = str(source.resolve())  # or an update from within the project would not find it
    try:
        if not shutil.which("git"):
            raise TemplateError("git: not found; install it, a project and its updates need it")
        settle(Path(template), project, told)
        if operation == "copy":
            begin(project, told["author"], told["author_email"])
    except (TemplateError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
