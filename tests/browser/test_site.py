"""The folder of a page: what a browser cannot run is refused before anything is written."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mlops_pkg.browser.command import page
from mlops_pkg.browser.site import (
    browser_encoding,
    fetch_runtime,
    multi_model_site_files,
    pack_terms,
    read_runtime,
    site_files,
    write_site,
)
from mlops_pkg.bundle.explanation import LinearTerms
from mlops_pkg.bundle.file_format import FileFormat
from mlops_pkg.bundle.manifest import SIGNATURE, BundleError, write_folder
from tests.toy import TOY, seal, write_bundle

RUNTIME = {"ort.js": b"export {}", "ort.wasm": b"wasm"}


def describe(bundle: Path, name: str = "toy", **changes: Any) -> Path:
    """The bundle with a changed signature."""
    told = {"name": name, "description": "x", **replace(TOY, **changes).to_dict()}
    (bundle / SIGNATURE).write_text(json.dumps(told))
    return seal(bundle)


def test_a_site_holds_all_that_its_document_and_its_scripts_name(tmp_path: Path) -> None:
    files = site_files(write_bundle(tmp_path / "bundle"), RUNTIME)

    told = json.loads(files["site.json"])
    assert set(told["files"]) <= set(files)
    assert told["class_names"] == told["class_cells"] == ["0", "1"]
    for name in ("page.css", "answer.js", "start.js"):
        assert f'"{name}"'.encode() in files["index.html"]
    for script in (name for name in files if name.endswith(".js") and name != "ort.js"):
        for line in files[script].decode().splitlines():
            if line.startswith("import ") and "./" in line:
                assert line.split("'")[1].removeprefix("./") in files


def test_several_models_share_the_runtime_and_a_page_leads_to_each(tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path / "first"), describe(write_bundle(tmp_path / "second"), name="other")

    files = multi_model_site_files([first, second], RUNTIME)

    assert [name for name in files if name.endswith("ort.wasm")] == ["ort.wasm"]
    for name in ("toy", "other"):
        told = json.loads(files[f"{name}/site.json"])
        assert set(told["files"]) == {"model.onnx", "../ort.wasm"}
        assert files[f"{name}/ort.js"] == b"export * from '../ort.js';\n"
        assert f'<a href="{name}/">{name}</a>'.encode() in files["index.html"]
    for folders, reason in (
        ([first, first], "a second bundle of the name toy"),
        ([first, describe(second, name="../x")], "name: '../x' cannot be the name of a folder"),
    ):
        with pytest.raises(BundleError, match=re.escape(reason)):
            multi_model_site_files(folders, RUNTIME)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"encoding": "cp037"}, "file_format.encoding: a browser cannot read cp037"),
        ({"times": {"start": "%d %B %Y"}}, "file_format.times: start: a page cannot read %B"),
    ],
)
def test_a_file_format_that_a_browser_cannot_read_is_refused(
    written: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    bundle = describe(write_bundle(tmp_path / "bundle"), file_format=FileFormat(**written))

    with pytest.raises(BundleError, match=reason):
        site_files(bundle, RUNTIME)


def test_encodings_have_the_names_of_browsers() -> None:
    names = {"utf8": "utf-8", "utf-8-sig": "utf-8", "latin1": "latin-1", "windows-1252": "windows-1252"}
    names |= {"iso-8859-15": "iso-8859-15", "cp1250": "windows-1250"}

    assert {name: browser_encoding(name) for name in names} == names


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_page_is_not_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "site"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")

    with pytest.raises(BundleError, match="there already, and not written by this command"):
        write_site([write_bundle(tmp_path / "bundle")], target)
    assert (target if kind == "file" else target / "mine").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(BundleError, match=f"^{tmp_path / 'file' / 'site'}: cannot be written: "):
        write_folder({"site.json": b"{}"}, tmp_path / "file" / "site", "site.json")


def test_a_runtime_that_is_another_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "ort.tgz").write_bytes(b"not it")
    bundle = write_bundle(tmp_path / "bundle")
    done = CliRunner().invoke(
        page, ["--out", str(tmp_path / "site"), "--bundle", str(bundle), "--runtime", str(tmp_path / "ort.tgz")]
    )

    assert isinstance(done.exception, BundleError)
    assert "not onnxruntime-web" in str(done.exception)
    assert not (tmp_path / "site").exists()
    with pytest.raises(BundleError, match="no such file"):
        read_runtime(tmp_path / "missing.tgz")


def test_without_npm_it_is_told_how_to_get_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BundleError, match="npm, which fetches it, is not installed; run `npm pack onnxruntime-web@"):
        fetch_runtime(tmp_path / "cache")


@pytest.mark.parametrize(("script", "reason"), [("echo broken >&2; exit 1", "broken"), ("exit 0", "it wrote no file")])
def test_an_npm_that_fails_is_told_and_leaves_nothing(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    with pytest.raises(BundleError, match=f"`npm pack .*` failed: {reason}"):
        fetch_runtime(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_terms_of_a_linear_model_are_packed_whole() -> None:
    class Linear:
        terms = LinearTerms(
            {"coefficients": np.array([[2.0, -1.0]]), "intercept": np.array([1.0]), "means": np.ones(2)}
        )
        shares, base = np.eye(2), np.array([2.0])

    facts, content = pack_terms(Linear())  # type: ignore[arg-type]
    numbers = np.frombuffer(content)

    assert facts["base"] == [2.0]
    for name, values in (("coefficients", [2, -1]), ("means", [1, 1]), ("shares", [1, 0, 0, 1])):
        first, count = facts[name]
        assert numbers[first : first + count].tolist() == values
