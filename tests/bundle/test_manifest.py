"""The manifest: a file that was edited, lost or added is refused by its name, and what was checked is what is used."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_pkg.bundle import manifest
from mlops_pkg.bundle.manifest import FILES, MANIFEST, BundleError, manifest_bytes, read_bundle, verify

NOT_PLAIN = "not a plain file; a bundle holds no folders and no links"


def make_bundle(folder: Path) -> Path:
    """A bundle whose files hold their names, and one of them nothing."""
    folder.mkdir(parents=True)
    for name in FILES - {MANIFEST}:
        (folder / name).write_text(name)
    (folder / "card.md").write_bytes(b"")
    return seal(folder)


def seal(folder: Path) -> Path:
    """The folder with a manifest of all that is in it."""
    (folder / MANIFEST).write_bytes(manifest_bytes(folder))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return make_bundle(tmp_path / "bundle")


def test_the_manifest_lists_every_file_with_its_digest(bundle: Path) -> None:
    listed = json.loads((bundle / MANIFEST).read_bytes())["files"]

    assert list(listed) == ["card.md", "lineage.json", "metrics.json", "model.onnx", "reference.json", "signature.json"]
    assert listed["model.onnx"] == hashlib.sha256(b"model.onnx").hexdigest()


def test_an_untouched_bundle_is_known_by_its_manifest(bundle: Path) -> None:
    assert verify(bundle) == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()


def test_a_bundle_is_read_as_it_was_packed(bundle: Path) -> None:
    read = read_bundle(bundle)

    assert read.identity == verify(bundle)
    assert read.files == {name: (bundle / name).read_bytes() for name in FILES - {MANIFEST}}


def test_each_file_is_read_once_so_that_what_was_checked_is_what_is_used(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = Path.open

    def counting(path: Path, *arguments: str) -> object:
        opened.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(Path, "open", counting)

    read_bundle(bundle)

    assert sorted(opened) == sorted(FILES)


def test_equal_bundles_have_one_identity_wherever_they_stand(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "elsewhere" / "copy")
    identity = verify(bundle)

    assert verify(other) == identity
    (other / "signature.json").write_text("{ }")
    assert verify(seal(other)) != identity


def test_a_bundle_may_be_reached_through_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)

    assert verify(tmp_path / "current") == verify(bundle)


def test_writing_the_manifest_again_changes_nothing(bundle: Path) -> None:
    assert manifest_bytes(bundle) == (bundle / MANIFEST).read_bytes()


def exchange(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lambda b: (b / "signature.json").write_text("{ }"), "signature.json", "changed since it was packed"),
        (lambda b: (b / "model.onnx").write_bytes(b"model.onny"), "model.onnx", "changed since it was packed"),
        (lambda b: (b / "card.md").unlink(), "card.md", "missing; every bundle has one"),
        (lambda b: (b / "model.pkl").touch(), "model.pkl", "extra; the manifest does not list it"),
        (lambda b: (b / ".hidden").touch(), ".hidden", "extra; the manifest does not list it"),
        (lambda b: (b / "more").mkdir(), "more", NOT_PLAIN),
        (
            lambda b: exchange(b / "card.md", lambda path: path.symlink_to("/dev/null")),
            "card.md",
            NOT_PLAIN,
        ),
        (
            lambda b: exchange(b / "card.md", os.mkfifo),
            "card.md",
            NOT_PLAIN,
        ),
    ],
    ids=["edited", "one bit", "missing", "extra", "hidden", "a folder", "a link", "a pipe"],
)
def test_a_bundle_that_is_not_what_was_packed_is_refused_by_name(
    bundle: Path, change: Callable[[Path], object], name: str, said: str
) -> None:
    change(bundle)

    with pytest.raises(BundleError) as caught:
        verify(bundle)

    assert str(caught.value) == f"{bundle / name}: {said}"


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lambda b: (b / "model.pkl").touch(), "model.pkl", "no part of a bundle, though the manifest lists it"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx", "missing; every bundle has one"),
    ],
    ids=["a pickle", "no model"],
)
def test_a_forged_manifest_does_not_help(bundle: Path, change: Callable[[Path], object], name: str, said: str) -> None:
    change(bundle)
    seal(bundle)

    with pytest.raises(BundleError, match=re.escape(f"{bundle / name}: {said}")):
        verify(bundle)


def test_a_manifest_that_points_elsewhere_is_refused(bundle: Path) -> None:
    (bundle.parent / "secret").write_text("")
    values = json.loads((bundle / MANIFEST).read_bytes())
    values["files"]["../secret"] = hashlib.sha256(b"").hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(values))

    with pytest.raises(BundleError, match="secret: no part of a bundle"):
        verify(bundle)


def test_a_file_that_is_too_large_is_refused_unread(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (bundle / "model.onnx").open("wb") as file:
        file.truncate(manifest.MAX_BYTES + 1)

    with pytest.raises(BundleError, match=re.escape("model.onnx: 1,073,741,825 bytes, more than the 1,073,741,824")):
        verify(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(BundleError, match=re.escape(f"{tmp_path}: no manifest.json, so this is no bundle")):
        verify(tmp_path)


def test_a_folder_that_is_not_there_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: there is no such folder; get it with `dvc pull`"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\xff\xfe",
        b'{"format": 3}',
        b'{"files": {}}',
        b'{"format": 3, "files": ["signature.json"]}',
        b'{"format": 3, "files": null}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)

    with pytest.raises(BundleError, match="not a manifest"):
        verify(bundle)


def test_another_format_is_refused(bundle: Path) -> None:
    values = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_text(json.dumps({**values, "format": 1}))

    with pytest.raises(BundleError, match="format 1; this version reads format 4"):
        verify(bundle)


def test_a_file_in_the_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").touch()

    with pytest.raises(BundleError):
        verify(tmp_path / "bundle")


def test_reading_a_bundle_needs_no_heavy_library() -> None:
    code = (
        "import sys, mlops_pkg.bundle.manifest, mlops_pkg.bundle.signature\n"
        "heavy = {'numpy', 'pandas', 'sklearn', 'feature_engine', 'skops', 'pydantic', 'yaml'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
