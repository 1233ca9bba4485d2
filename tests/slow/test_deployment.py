"""A bundle as a container: the files are valid, the image is built and started, and nginx keeps its promises."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlops_pkg.authoring.generating import library_wheel
from mlops_pkg.bundle.manifest import write_folder
from mlops_pkg.deployment.manifests import SERVE_LOCK, deployment_files
from mlops_pkg.serving.settings import Settings, new_key
from tests.conftest import ROOT
from tests.serving.conftest import DEADLINE, until
from tests.serving.wire import ask, asking
from tests.slow.needs import lack, need
from tests.toy import RECORD, toy_answer, write_bundle

pytestmark = pytest.mark.slow
LOCK = Path(__file__).with_name("deployment.txt")
USER, MEMORY = 65532, 512 << 20
Image = tuple[Path, dict[str, Any]]
SETTINGS = Settings(header_seconds=1, body_seconds=1, idle_seconds=2, max_connections=32, retry_seconds=7)

CHECK_BILL = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(error) if error else 0)
"""


def need_root(*commands: str) -> None:
    """Whoever runs the test must be root, and have these commands."""
    for command in commands:
        need(command)
    if os.getuid() != 0:
        lack("a container is built and started by root; run the test as root")


def spoken(*command: Any, **options: Any) -> str:
    """What a command says; it must end well."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a deployment of the toy bundle."""
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")
    destination = tmp_path_factory.mktemp("deployment") / "deploy"
    write_folder(deployment_files(bundle, ROOT / SERVE_LOCK, library_wheel(), SETTINGS), destination, "Dockerfile")
    return destination


# The files


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which Python finds the validators, and PATH their commands."""
    target = tmp_path_factory.mktemp("validators")
    spoken("uv", "pip", "install", "--quiet", "--require-hashes", "--target", target, "-r", LOCK)
    return {**os.environ, "PYTHONPATH": str(target), "PATH": f"{target / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_the_manifests_are_valid_for_kubernetes(folder: Path, tools: dict[str, str], version: str) -> None:
    paths = sorted((folder / "kubernetes").glob("*.yaml"))
    known = [path for path in paths if path.name != "monitor.yaml"]  # of Prometheus' operator, not of Kubernetes
    check = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version]

    assert len(known) == 5
    spoken(*check, *known, env=tools)
    wrong = folder.parent / f"wrong-{version}.yaml"
    wrong.write_text((folder / "kubernetes" / "deployment.yaml").read_text().replace("readinessProbe", "readyProbe"))
    assert subprocess.run([*check, str(wrong)], env=tools, capture_output=True, check=False).returncode != 0


def test_dockerfile_compose_file_and_bill_of_materials_are_valid(folder: Path, tools: dict[str, str]) -> None:
    spoken("hadolint", folder / "Dockerfile", env=tools)
    spoken("check-jsonschema", "--builtin-schema", "vendor.compose-spec", folder / "compose.yaml")
    spoken(sys.executable, "-c", CHECK_BILL, folder / "sbom.json", env=tools)
    listed = {one["name"] for one in json.loads((folder / "sbom.json").read_text())["components"]}
    assert {"numpy", "onnxruntime", "uvicorn"} <= listed
    assert listed == set(re.findall(r"(?m)^([\w.-]+)==", (folder / "requirements.txt").read_text()))


# The image


def debian() -> str:
    """The address of the packages of this Debian."""
    lists = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    found = re.findall(r"(?m)^(?:URIs: *|deb +(?:\[[^\]]*\] +)?)(\S+)", "\n".join(path.read_text() for path in lists))
    return next(address for address in found if re.search(r"/debian/?$", address))


@pytest.fixture(scope="module")
def image(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The root filesystem of the image, and what the image says of how it is run."""
    need_root("debootstrap", "buildah", "runc")
    scratch = tmp_path_factory.mktemp("image")
    storage = ["--root", str(scratch / "storage"), "--runroot", str(scratch / "run")]
    buildah = ["buildah", *storage, "--storage-driver", "vfs"]
    system = re.search(r"VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text())
    packages = "--include=python3,python3-venv,ca-certificates"
    spoken("debootstrap", "--variant=minbase", packages, system and system[1], scratch / "root", debian())
    spoken("tar", "-C", scratch / "root", "--exclude=./var/cache", "-cf", scratch / "root.tar", ".")
    shutil.rmtree(scratch / "root")
    (scratch / "base").mkdir()
    (scratch / "base" / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
    shutil.move(scratch / "root.tar", scratch / "base" / "root.tar")
    build = [*buildah, "bud", "--isolation", "chroot", "--format", "docker"]
    spoken(*build, "-t", "localhost/base", scratch / "base")
    mounts = [Path("/etc/pip.conf"), Path("/etc/ssl/certs"), *Path("/opt").glob("wheels"), *Path("/opt").glob("pypi*")]
    flags = [word for path in mounts if path.exists() for word in ("-v", f"{path}:{path}:ro")]
    flags += ["--network", "host", "--build-arg", "BASE=localhost/base"]
    spoken(*build, *flags, "-t", "localhost/late", folder)
    container = spoken(*buildah, "from", "--pull-never", "localhost/late").strip()
    told = json.loads(spoken(*buildah, "inspect", "--type", "image", "localhost/late"))["Docker"]["config"]
    try:
        yield Path(spoken(*buildah, "mount", container).strip()), told
    finally:
        subprocess.run([*buildah, "umount", "--all"], capture_output=True, check=False)
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def running(image: Image, scratch: Path, **environment: str) -> Iterator[tuple[str, Path, int]]:
    """The name, the log and the process of a container that has a network, a small memory and no right to write."""
    root, told = image
    name = f"mlops-{os.getpid()}-{time.monotonic_ns()}"
    spoken("runc", "spec", cwd=scratch)
    spec = json.loads((scratch / "config.json").read_text())
    user, _, group = told["User"].partition(":")
    spec["root"] = {"path": str(root), "readonly": True}
    spec["process"] |= {
        "terminal": False, "user": {"uid": int(user), "gid": int(group)}, "args": told["Entrypoint"],
        "env": [*told["Env"], *(f"{key}={value}" for key, value in environment.items())], "noNewPrivileges": True,
    }  # fmt: skip
    spec["process"].pop("rlimits", None)
    spec["process"]["capabilities"] = {kind: [] for kind in spec["process"]["capabilities"]}
    spec["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=64m"]}
    )
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["linux"] |= {"resources": {"memory": {"limit": MEMORY}}, "cgroupsPath": f"/{name}"}
    (scratch / "config.json").write_text(json.dumps(spec))
    log = scratch / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(["runc", "run", name], cwd=scratch, stdout=file, stderr=file) as process,
    ):
        try:
            yield name, log, process.pid
        finally:
            subprocess.run(["runc", "kill", name, "KILL"], capture_output=True, check=False)
            process.wait(DEADLINE)
            subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)


def test_the_container_answers_as_another_user_without_writing(image: Image, tmp_path: Path) -> None:
    key, stored = new_key("clients")
    with running(image, tmp_path, SERVE_KEYS=f"{stored.name}:{stored.sha256}") as (name, log, _):
        until(lambda: '"ready"' in log.read_text(), 60)
        reply = ask(8000, asking([RECORD] * 100, {"authorization": f"Bearer {key}"}))
        health = image[1]["Healthcheck"]["Test"]
        spoken("runc", "exec", name, *health[1:])
        who = spoken("runc", "exec", name, "/app/bin/python", "-c", "import os; print(os.getuid(), os.getgid())")
        write = ["runc", "exec", name, "/app/bin/python", "-c", "open('/app/x', 'w')"]
        refused = subprocess.run(write, capture_output=True, text=True, check=False)
        used = json.loads(spoken("runc", "events", "--stats", name))["data"]["memory"]["usage"]["max"]
        state = json.loads(spoken("runc", "state", name))
        os.kill(state["pid"], signal.SIGTERM)
        until(lambda: '"ended"' in log.read_text())

    assert reply.status == 200
    assert [one["probability"] for one in reply.json["predictions"]] == [toy_answer(**RECORD)] * 100
    assert who.split() == [str(USER), str(USER)]
    assert "Read-only file system" in refused.stderr
    assert 0 < used < MEMORY // 2
    assert not list((image[0] / "app").glob("lib/*/site-packages/pip"))
    assert json.loads((image[0] / "app" / "sbom.json").read_text())["components"]


def test_a_container_without_keys_says_so_and_ends(image: Image, tmp_path: Path) -> None:
    with running(image, tmp_path) as (_, log, _pid):
        until(lambda: "others can reach it, and there are no keys" in log.read_text(), 60)
