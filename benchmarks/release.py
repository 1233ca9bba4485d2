"""How long `registry register`, `promote` and `rollback` and `experiments` take, without a network.

    python -m benchmarks.release [TIMES]

Run it after `make run` and `mlops_pkg prove`, on a quiet machine. A clone with a bare repository and a DVC remote in a
folder gets a second version and 200 experiments. The figures go to benchmarks/release.json.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAME = "late-flights"


class Team:
    """A clone of this project that can be released from."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that is empty."""
        self.root, self.hub = folder / "team", folder / "hub.git"
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "MLOPS_PKG_CACHE": str(folder / "bundles")}

    def run(self, *command: str) -> float:
        """Wall time of a command that must end well."""
        started = time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env=self.environment, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        return time.perf_counter() - started

    def lay_out(self, storage: Path) -> None:
        """Clone the project with its outputs and the verdicts of its proofs."""
        subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(self.hub)], check=True)
        subprocess.run(["git", "clone", "--quiet", str(self.hub), str(self.root)], check=True)
        for name in ("user.name", "user.email"):
            self.run("git", "config", name, "benchmark@example.invalid")
        self.run("dvc", "cache", "dir", "--local", str(ROOT / ".dvc" / "cache"))
        self.run("dvc", "remote", "add", "--force", "--default", "storage", str(storage))
        self.run("git", "commit", "--quiet", "--all", "--message", "A remote")
        self.run("dvc", "checkout", "--quiet")
        shutil.copytree(ROOT / "reports", self.root / "reports", dirs_exist_ok=True)
        self.run("dvc", "push", "--quiet")

    def second_version(self) -> None:
        """Commit and push another model."""
        params = self.root / "params.yaml"
        params.write_text(params.read_text().replace("max_iter: 300", "max_iter: 290", 1))
        self.run("dvc", "repro", "--quiet", "package")
        self.run("git", "commit", "--quiet", "--all", "--message", "Fewer trees")
        self.run("dvc", "push", "--quiet")

    def forget(self, tag: str) -> None:
        """Remove a tag here and in the bare repository."""
        self.run("git", "tag", "--delete", tag)
        self.run("git", "push", "--quiet", "--delete", "origin", tag)

    def timed(self, times: int, tag: str, *command: str) -> float:
        """Return the median time of a command that writes a tag, which stays after the last time."""
        found = []
        for place in range(times):
            if place:
                self.forget(tag)
            found.append(self.run("mlops_pkg", *command))
        return round(statistics.median(found), 2)

    def median(self, times: int, *command: str) -> float:
        """Return the median time of a command."""
        return round(statistics.median(self.run("mlops_pkg", *command) for _ in range(times)), 2)

    def add_experiments(self, count: int) -> None:
        """Write experiments as `dvc exp` does: commits under refs/exps."""
        parent, tree = (self.said("git", "rev-parse", name) for name in ("HEAD", "HEAD^{tree}"))
        for number in range(count):
            commit = self.said("git", "commit-tree", tree, "-p", parent, "-m", f"experiment {number}")
            self.run("git", "update-ref", f"refs/exps/{parent[:2]}/{parent[2:]}/trial-{number}", commit)

    def said(self, *command: str) -> str:
        """Return what a command prints."""
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()


def main(times: int) -> None:
    """Measure and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        team = Team(Path(folder))
        team.lay_out(Path(folder) / "storage")
        release, why = ("registry", "promote"), ("--override", "a benchmark")
        figures: dict[str, float] = {
            "start": statistics.median(team.run("mlops_pkg", "--version") for _ in range(times))
        }
        figures["register"] = team.timed(times, f"{NAME}@v1.0.0", "registry", "register")
        figures["promote, nothing to replace"] = team.timed(times, f"{NAME}#prod#1", *release, f"{NAME}@v1.0.0", "prod")
        team.second_version()
        figures["register, second"] = team.timed(times, f"{NAME}@v1.1.0", "registry", "register", "--unproven")
        figures["promote"] = team.timed(times, f"{NAME}#prod#2", *release, f"{NAME}@v1.1.0", "prod", *why)
        figures["rollback"] = team.timed(times, f"{NAME}#prod#3", "registry", "rollback", NAME, "prod")
        team.add_experiments(200)
        figures["200 experiments"] = round(
            statistics.median(team.run("mlops_pkg", "experiments") for _ in range(times)), 2
        )
        figures = {name: round(value, 2) for name, value in figures.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"times": times, "seconds": figures}, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
