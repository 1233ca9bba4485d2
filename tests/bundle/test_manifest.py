"""The manifest: a file that was edited, lost or added is refused by its name."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_pkg.bundle.manifest import MANIFEST, BundleError, manifest_bytes, verify


def make_bundle(folder: Path) -> Path:
    """A bundle of three files, one of them in a folder and one empty."""
    (folder / "more").mkdir(parents=True)
    (folder / "signature.json").write_text("{}")
    (folder / "more" / "model.onnx").write_bytes(b"\x00\x01")
    (folder / "empty").touch()
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return make_bundle(tmp_path / "bundle")


def test_the_manifest_lists_every_file_with_its_digest(bundle: Path) -> None:
    listed = json.loads((bundle / MANIFEST).read_bytes())["files"]

    assert list(listed) == ["empty", "more/model.onnx", "signature.json"]
    assert listed["more/model.onnx"] == hashlib.sha256(b"\x00\x01").hexdigest()


def test_an_untouched_bundle_is_known_by_its_manifest(bundle: Path) -> None:
    assert verify(bundle) == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()


def test_equal_bundles_have_one_identity_wherever_they_stand(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "elsewhere" / "copy")
    identity = verify(bundle)

    assert verify(other) == identity
    (other / "signature.json").write_text("{ }")
    (other / MANIFEST).write_bytes(manifest_bytes(other))
    assert verify(other) != identity


def test_writing_the_manifest_again_changes_nothing(bundle: Path) -> None:
    assert manifest_bytes(bundle) == (bundle / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lambda b: (b / "signature.json").write_text("{ }"), "signature.json", "changed since it was packed"),
        (
            lambda b: (b / "more" / "model.onnx").write_bytes(b"\x00\x03"),
            "more/model.onnx",
            "changed since it was packed",
        ),
        (lambda b: (b / "empty").unlink(), "empty", "missing; the manifest lists it"),
        (lambda b: (b / "note.txt").touch(), "note.txt", "extra; the manifest does not list it"),
        (lambda b: (b / "more" / ".hidden").touch(), "more/.hidden", "extra; the manifest does not list it"),
        (lambda b: (b / "more" / MANIFEST).touch(), "more/manifest.json", "extra; the manifest does not list it"),
    ],
    ids=["edited", "one bit", "missing", "extra", "hidden", "a second manifest"],
)
def test_a_bundle_that_is_not_what_was_packed_is_refused_by_name(
    bundle: Path, change: Callable[[Path], object], name: str, said: str
) -> None:
    change(bundle)

    with pytest.raises(BundleError) as caught:
        verify(bundle)

    assert str(caught.value) == f"{bundle / name}: {said}"


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=re.escape(f"{tmp_path}: no manifest.json, so this is no bundle")):
        verify(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"files": {}}',
        b'{"format": 1, "files": ["signature.json"]}',
        b'{"format": 1, "files": null}',
    ],
)
def test_a_file_that_is_no_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)

    with pytest.raises(BundleError, match="not a manifest"):
        verify(bundle)


def test_a_later_format_is_refused(bundle: Path) -> None:
    values = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_text(json.dumps({**values, "format": 2}))

    with pytest.raises(BundleError, match="format 2; this version reads format 1"):
        verify(bundle)


def test_a_file_in_the_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").touch()

    with pytest.raises(BundleError):
        verify(tmp_path / "bundle")


def test_reading_a_bundle_needs_no_heavy_library() -> None:
    code = (
        "import sys, mlops_pkg.bundle.manifest, mlops_pkg.bundle.signature\n"
        "print(*sorted({'pandas', 'sklearn', 'feature_engine', 'skops', 'pydantic', 'yaml'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
