"""JupyterLab as `make lab` starts it, in a real browser: run all, edit, save, break, undo."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import IDENTITY, ROOT, STAGES
from tests.slow.browser import chromium, complaints, need_chromium
from tests.slow.conftest import Project, make_project

pytestmark = pytest.mark.slow

NOTEBOOK, MODULE = "nbs/pipeline/22_train.ipynb", "mlops_pkg/pipeline/train.py"
WRITTEN = '    write_models(workspace, "train", whole, scores, curve)'
CHANGED = WRITTEN.replace("curve)", "curv8)")  # still Python, though not what anybody wants
BUILT = (*STAGES, "notebook-train")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project on the sample with an environment that make holds for ready: the one of this test."""
    need_chromium()
    project = make_project(tmp_path_factory.mktemp("lab") / "project")
    root = project.root
    shutil.copytree(ROOT / ".jupyter", root / ".jupyter")
    for name in ("Makefile", "requirements.txt", "requirements-bootstrap.txt"):
        shutil.copy(ROOT / name, root)
    project.run("git", "add", ".")
    project.run("git", *IDENTITY, "commit", "--quiet", "--message", "The tools of a day")
    project.repro("package", "notebook-train")
    (root / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name in ("bin", "lib", "lib64", "include", "share", "etc", "pyvenv.cfg"):
            (root / ".venv" / path.name).symlink_to(path)
    for name in (".ready", ".data"):
        (root / ".venv" / name).touch()
    return project


class Lab:
    """A running `make lab`."""

    def __init__(self, project: Project, home: Path) -> None:
        self.project, self.home, self.log = project, home, home.with_name("lab.log")
        keep = {name: value for name, value in project.environment.items() if not name.startswith(("JUPYTER", "XDG"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["make", "lab", "ARGS=--allow-root --no-browser"],
                cwd=project.root,
                env=keep | {"HOME": str(home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        runtime = project.root / ".venv" / "jupyter" / "runtime"
        self.server: dict[str, Any] = {}
        wait_for(lambda: list(runtime.glob("jpserver-*.json")) or self.process.poll() is not None, "JupyterLab starts")
        assert self.process.poll() is None, self.log.read_text()
        (found,) = runtime.glob("jpserver-*.json")
        self.server = json.loads(found.read_text())

    def ask(self, what: str) -> Any:
        """The answer of the server's own interface."""
        from urllib.request import Request, urlopen

        headers = {"Authorization": f"token {self.server['token']}"}
        with urlopen(Request(f"{self.server['url']}api/{what}", headers=headers), timeout=10) as answer:
            return json.load(answer)

    def open(self, browser: webdriver.Chrome, name: str) -> None:
        """Open a notebook and wait for its kernel."""
        browser.get(f"{self.server['url']}lab/tree/{name}?reset&token={self.server['token']}")
        wait_for(lambda: idle(browser), f"{name} opens with a kernel that is idle")

    def end(self) -> None:
        """End it, with its kernels."""
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=30)


@pytest.fixture
def lab(project: Project, tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab for a user whose home holds kernels that would win, were they asked."""
    home = tmp_path / "home"
    for name in ("python3", "other"):
        kernel = home / ".local" / "share" / "jupyter" / "kernels" / name / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text('{"argv": ["false"], "display_name": "a strange kernel", "language": "python"}')
    running = Lab(project, home)
    yield running
    running.end()


def wait_for(holds: Callable[[], Any], what: str, seconds: float = 180) -> None:
    """Wait until something holds; the test fails with its words where it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def idle(browser: webdriver.Chrome) -> bool:
    """Whether cells are shown and the kernel has nothing to do."""
    script = """return document.querySelectorAll('.jp-Notebook .jp-Cell').length > 0
        && document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'
        && document.querySelector('#jp-main-statusbar')?.textContent.includes('| Idle')"""
    return bool(browser.execute_script(script))


def run_all(browser: webdriver.Chrome) -> None:
    """Choose Run All Cells from the menu."""
    menus = browser.find_elements("css selector", ".lm-MenuBar-item")
    next(menu for menu in menus if menu.text == "Run").click()
    item = '.lm-Menu-item[data-command="runmenu:run-all"]'
    WebDriverWait(browser, 60).until(lambda here: here.find_element("css selector", item)).click()


def put_cursor(browser: webdriver.Chrome, text: str) -> None:
    """Put the cursor to the end of the one line that holds the text; cells out of sight are not in the page."""
    script = """
        const lines = [...document.querySelectorAll('.jp-Notebook .cm-line')];
        const line = lines.find(one => one.textContent.includes(arguments[0]));
        const panel = document.querySelector('.jp-Notebook .jp-WindowedPanel-outer');
        if (line) { line.scrollIntoView({block: 'center'}); return line; }
        const end = panel.scrollTop + panel.clientHeight >= panel.scrollHeight - 2;
        panel.scrollTop = end ? 0 : panel.scrollTop + panel.clientHeight / 2;
        return null;"""
    WebDriverWait(browser, 180, 0.1).until(lambda here: here.execute_script(script, text))
    time.sleep(0.3)  # the list of cells settles
    browser.execute_script(script, text).click()
    press(browser, Keys.END)


def press(browser: webdriver.Chrome, *keys: str) -> None:
    """Type on the keyboard."""
    ActionChains(browser).send_keys(*keys).perform()


def save(browser: webdriver.Chrome) -> None:
    """Save with the keyboard."""
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()


def dialogs(browser: webdriver.Chrome) -> list[str]:
    """The text of each dialog that stands open, such as that a file has changed on the disk."""
    return [found.text for found in browser.find_elements("css selector", ".jp-Dialog")]


def dirty(browser: webdriver.Chrome) -> bool:
    """Whether the tab says that there is something to save."""
    return bool(browser.find_elements("css selector", ".lm-TabBar-tab.jp-mod-dirty, .lm-TabBar-tab.lm-mod-dirty"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def kinds_of(notebook: Path) -> dict[str, list[str]]:
    """The kinds of outputs of each cell; an error would be one."""
    return {cell["id"]: [output["output_type"] for output in cell["outputs"]] for cell in cells_of(notebook)}


def stale(project: Project) -> set[str]:
    """What `dvc status` names, of the stages that were built."""
    return set(json.loads(project.run("dvc", "status", "--json", *BUILT).stdout))


def concerned(project: Project, *paths: str) -> set[str]:
    """The stages that depend on one of the paths by dvc.yaml, of those that were built."""
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    return {
        name
        for name in BUILT
        for dependency in stages[name]["deps"]
        if any(path == dependency or path.startswith(f"{dependency}/") for path in paths)
    }


def sync(project: Project) -> str:
    """What sync prints."""
    return project.run(sys.executable, "-m", "mlops_pkg", "sync", check=False).stdout


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_day_in_jupyterlab(project: Project, lab: Lab, tmp_path: Path) -> None:
    root, notebook, module = project.root, project.root / NOTEBOOK, project.root / MODULE
    good, home = module.read_text(), files(lab.home)
    assert stale(project) == set()
    assert list(lab.ask("kernelspecs")["kernelspecs"]) == ["python3"], "another kernel is offered"

    with chromium(tmp_path) as browser:
        lab.open(browser, NOTEBOOK)
        walked = root / "research" / "train" / "iterations.csv"
        shutil.rmtree(root / "research" / "train")
        run_all(browser)
        wait_for(lambda: walked.exists() and idle(browser), "all cells run")
        before, kinds = notebook.read_bytes(), kinds_of(notebook)
        save(browser)
        # JupyterLab writes in place, so the file is empty for a moment
        wait_for(lambda: notebook.read_bytes() not in (before, b"") and not dirty(browser), "the new outputs are saved")
        assert kinds_of(notebook) == kinds, "a cell did not run, or failed"
        assert {cell["execution_count"] for cell in cells_of(notebook)} == {None}, "not cleaned"
        assert [cell["metadata"] for cell in cells_of(notebook) if cell["metadata"]] == [{"tags": ["parameters"]}]
        assert module.read_text() == good

        put_cursor(browser, WRITTEN)
        press(browser, Keys.ARROW_LEFT, Keys.BACKSPACE, "8")
        save(browser)
        wait_for(lambda: module.read_text() != good, "the module follows the save")
        assert module.read_text() == good.replace(WRITTEN, CHANGED)
        browser.save_screenshot(str(tmp_path / "saved.png"))
        assert "sync: green" in sync(project)
        assert stale(project) == concerned(project, NOTEBOOK, MODULE) == {"train", "package", "notebook-train"}

        press(browser, Keys.END, " +")
        save(browser)
        wait_for(lambda: "not valid Python" in lab.log.read_text(), "the log names the broken cell")
        browser.save_screenshot(str(tmp_path / "broken.png"))
        assert dialogs(browser) == [], "the browser holds its own save for another's"
        (line,) = [line for line in lab.log.read_text().splitlines() if "not valid Python" in line]
        assert f"{NOTEBOOK}: cell run: not valid Python" in line, line
        assert module.read_text() == good.replace(WRITTEN, CHANGED), "the last good module is gone"
        assert any(f"{CHANGED} +" in "".join(cell["source"]) for cell in cells_of(notebook)), "not saved"
        red = sync(project)
        assert "sync: red" in red
        assert f"{NOTEBOOK}: cell run: not valid Python" in red, red

        press(browser, Keys.BACKSPACE, Keys.BACKSPACE, Keys.ARROW_LEFT, Keys.BACKSPACE, "e")
        save(browser)
        wait_for(lambda: module.read_text() == good, "the module is as it was")
        assert dialogs(browser) == []
        assert complaints(browser) == []

    assert "sync: green" in sync(project)
    assert stale(project) <= {"notebook-train"}, "an undone edit makes production stale"
    assert files(lab.home) == home, "JupyterLab wrote to the home folder"
    assert project.run("git", "status", "--porcelain", "nbs", "mlops_pkg").stdout.split() == ["M", NOTEBOOK]


def test_a_notebook_of_another_kernel_opens_with_the_projects(project: Project, lab: Lab, tmp_path: Path) -> None:
    strange = json.loads((project.root / "nbs" / "index.ipynb").read_text())
    strange["metadata"] = {"kernelspec": {"name": "conda-env-other", "display_name": "other", "language": "python"}}
    strange["cells"] = strange["cells"][:1]
    (project.root / "strange.ipynb").write_text(json.dumps(strange))

    try:
        with chromium(tmp_path) as browser:
            lab.open(browser, "strange.ipynb")
            assert dialogs(browser) == [], "the user is asked for a kernel"
        (session,) = lab.ask("sessions")
        assert session["kernel"]["execution_state"] == "idle"
    finally:
        (project.root / "strange.ipynb").unlink()


def test_a_port_in_use_is_one_clear_line(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = project.run("make", "lab", f"PORT={port}", "ARGS=--allow-root --no-browser", check=False)

    assert done.returncode != 0
    told = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert told == [f"PORT={port}: address already in use; give another one, or none for the next that is free"]
