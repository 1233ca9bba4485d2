"""The files of a deployment: complete, repeatable, and refused where an image could not answer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mlops_pkg.authoring.generating import library_wheel
from mlops_pkg.bundle.manifest import BundleError, read_bundle
from mlops_pkg.core.params import UserError
from mlops_pkg.deployment.command import deploy
from mlops_pkg.deployment.manifests import SERVE_LOCK, deployment_files, image_requirements
from mlops_pkg.serving.settings import Settings, load_settings
from tests.conftest import ROOT
from tests.toy import write_bundle

LOCK = ROOT / SERVE_LOCK
WHEEL = ("mlops_pkg-0.1.0-py3-none-any.whl", b"wheel")


def make(folder: Path, **options: Any) -> dict[str, bytes]:
    """The files for the toy bundle."""
    settings = options.pop("settings", Settings())
    return deployment_files(write_bundle(folder / "bundle"), LOCK, WHEEL, settings, **options)


def test_the_image_holds_the_bundle_and_what_the_lock_pins(tmp_path: Path) -> None:
    files = make(tmp_path)
    for name, content in files.items():
        (tmp_path / "deploy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "deploy" / name).write_bytes(content)

    assert read_bundle(tmp_path / "deploy" / "bundle").identity == read_bundle(tmp_path / "bundle").identity
    pins = re.findall(r"(?m)^([\w.-]+)==", files["requirements.txt"].decode())
    assert {"numpy", "onnxruntime", "fastapi", "uvicorn", "jinja2"} <= set(pins)
    assert files["requirements.txt"].count(b"--hash=sha256:") >= len(pins)
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", files["Dockerfile"].decode())
    for name in " ".join(copied).split():
        assert name in files or any(path.startswith(f"{name}/") for path in files), name
        assert f"!{name}" in files[".dockerignore"].decode().splitlines()


def test_equal_bundles_give_equal_files(tmp_path: Path) -> None:
    assert make(tmp_path / "one") == make(tmp_path / "two")


def test_the_limits_of_nginx_are_those_of_the_settings(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"header_seconds": 3.5, "max_arrow_bytes": 5 << 20, "max_header_bytes": 32 << 10}
    text = make(tmp_path, settings=Settings(**changes))["nginx.conf"].decode()

    for line in (
        "client_header_timeout 3.5s;",
        f"client_max_body_size {5 << 20};",
        "large_client_header_buffers 4 32k;",
    ):
        assert line in text


def test_the_settings_in_the_image_are_valid_and_hold_no_key(tmp_path: Path) -> None:
    settings = load_settings({}, environ={"SERVE_KEYS": "a:" + "1" * 64, "SERVE_MAX_RECORDS": "7"})
    files = make(tmp_path, settings=settings)
    (tmp_path / "serve.toml").write_bytes(files["serve.toml"])
    found = load_settings({}, tmp_path / "serve.toml", {})

    assert (found.max_records, found.port, found.bundle, found.keys) == (7, 8000, Path("/bundle"), ())
    assert not [name for name, content in files.items() if b"1" * 64 in content]


def test_every_manifest_names_the_image_and_the_model(tmp_path: Path) -> None:
    files = make(tmp_path, image="registry.example/toy:v1.2.0")
    documents = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")}

    assert len(documents) == 8
    images = re.findall(r"image: (\S+)", b"".join(text for name, text in files.items() if "kube" in name).decode())
    assert images == ["registry.example/toy:v1.2.0"]
    assert {one["metadata"]["name"] for name, one in documents.items() if "/" in name} == {"toy"}


def test_a_bundle_that_needs_classes_of_the_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_pkg.deployment import manifests

    bundle = write_bundle(tmp_path / "bundle")
    told = json.loads((bundle / "signature.json").read_text()) | {"types": {"flights.Model": "x"}}
    files = {"signature.json": json.dumps(told).encode(), "model.skops": b""}
    monkeypatch.setattr(manifests, "read_bundle", lambda _: type("Packed", (), {"files": files, "identity": "0" * 64}))

    with pytest.raises(BundleError, match="holds flights.Model; an image has the library, and no project"):
        deployment_files(bundle, LOCK, WHEEL, Settings())


def test_the_libraries_of_a_bundle_come_with_those_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(
        "numpy==2.4.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "./vendor/mlops_pkg-0.1.0-py3-none-any.whl \\\n    --hash=sha256:cc\n"
    )
    found = image_requirements(
        tmp_path / "lock.txt", "scipy==1.17.0 \\\n    --hash=sha256:dd\nnumpy==2.4.6 \\\n    --hash=sha256:aa\n"
    )

    assert re.findall(r"(?m)^\S+", found.replace("    ", "\t")) == ["numpy==2.4.6", "scipy==1.17.0"]
    assert "vendor" not in found
    assert "--hash=sha256:bb" in found
    with pytest.raises(UserError, match="none.txt: there is no such file"):
        image_requirements(tmp_path / "none.txt")


def test_the_command_writes_the_folder_and_replaces_only_its_own(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    for _ in range(2):
        done = CliRunner().invoke(deploy, ["manifests", "--out", str(tmp_path / "deploy")], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "makes the image" in done.output
    wheels = list((tmp_path / "deploy").glob("*.whl"))
    assert [wheel.name for wheel in wheels] == [library_wheel()[0]]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused = CliRunner().invoke(deploy, ["manifests", "--out", str(tmp_path / "mine")])
    assert isinstance(refused.exception, BundleError)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
