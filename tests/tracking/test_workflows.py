"""What the project's workflows do on a pull or merge request: valid by their schemas, and run on a real branch."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from tests.conftest import ROOT
from tests.registry.conftest import Team, git

GITHUB, GITLAB = ROOT / "template/.github/workflows/pr-report.yml", ROOT / "template/.gitlab-ci.yml"
SCHEMAS = {
    **{
        path: "vendor.github-workflows" for path in ROOT.glob("**/.github/workflows/*.yml") if ".venv" not in path.parts
    },
    GITLAB: "vendor.gitlab-ci",
}


def check(path: Path, schema: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--color", "never", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_workflow_is_valid_and_a_misspelt_key_is_not(path: Path, tmp_path: Path) -> None:
    job, wrong = ("script", "scripts") if path == GITLAB else ("runs-on", "run-on")
    broken = tmp_path / path.name
    broken.write_text(path.read_text().replace(f"{job}:", f"{wrong}:"))

    good, bad = check(path, SCHEMAS[path]), check(broken, SCHEMAS[path])

    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1
    assert wrong in bad.stdout


@pytest.fixture
def branch(team: Team) -> Path:
    """A branch of two commits, pushed, in a working copy whose environment is this one."""
    team.build("first")
    git(team.root, "switch", "--quiet", "--create", "more-trees")
    commit = team.build("better")
    git(
        team.root,
        "push",
        "--quiet",
        "--force",
        "origin",
        f"{commit}~1:refs/heads/main",
        f"{commit}:refs/heads/more-trees",
    )
    git(team.root, "fetch", "--quiet")
    (team.root / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return team.root


def run(root: Path, script: str, **variables: str) -> str:
    """Run lines of a workflow as its runner does."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_github_reports_what_the_branch_changes(branch: Path) -> None:
    steps = yaml.safe_load(GITHUB.read_text())["jobs"]["report"]["steps"]
    [line] = [step["run"] for step in steps if "pr-report" in step.get("run", "")]

    run(branch, line, GITHUB_BASE_REF="main")

    report = (branch / "report.md").read_text()
    assert report.startswith("# What this branch changes since `origin/main`")
    assert "`train.options.max_iter` | `20` | `60`" in report


class Notes(BaseHTTPRequestHandler):
    """The notes of a merge request, as GitLab's API keeps them."""

    notes: dict[int, str]

    def do_GET(self) -> None:
        self._reply([{"id": number, "body": body} for number, body in self.notes.items()])

    def do_POST(self) -> None:
        self._keep(max(self.notes, default=0) + 1)

    def do_PUT(self) -> None:
        self._keep(int(self.path.rpartition("/")[2]))

    def _keep(self, number: int) -> None:
        assert self.headers["PRIVATE-TOKEN"] == "a token"
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.notes[number] = parse_qs(sent)["body"][0]
        self._reply({"id": number})

    def _reply(self, value: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gitlab() -> Iterator[HTTPServer]:
    Notes.notes = {7: "Looks good"}
    server = HTTPServer(("127.0.0.1", 0), Notes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_gitlab_writes_one_comment_and_brings_it_up_to_date(branch: Path, team: Team, gitlab: HTTPServer) -> None:
    _, *lines = yaml.safe_load(GITLAB.read_text())["report"]["script"]
    variables = {
        "DVC_REMOTE_URL": str(team.storage),
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "REPORT_TOKEN": "a token",
        "NOTES": f"http://127.0.0.1:{gitlab.server_port}/notes",
        "PATH": f"{branch / '.venv' / 'bin'}:{os.environ['PATH']}",
        "no_proxy": "*",
    }

    run(branch, "\n".join(lines), **variables)
    first = dict(Notes.notes)
    commit = team.build("worse")
    git(branch, "push", "--quiet", "--force", "origin", f"{commit}~2:refs/heads/main")
    run(branch, "\n".join(lines), **variables)

    assert list(first) == [7, 8]
    assert first[8].startswith("# What this branch changes since `origin/main`")
    assert "`train.options.max_iter` | `20` | `60`" in first[8]
    assert list(Notes.notes) == [7, 8], "one comment, however often it is pushed"
    assert "`train.options.max_iter` | `20` | `1`" in Notes.notes[8]
