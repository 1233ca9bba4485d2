"""A bundle that takes over, and one that does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_pkg.bundle.manifest import MANIFEST, MODEL, SIGNATURE, BundleError
from mlops_pkg.serving.models import Models, load_model
from tests.toy import GRAPH, RECORD, seal, write_bundle

OTHER = GRAPH.replace("calm = {1.0}", "calm = {2.0}").replace("pace = {0.1}", "pace = {0.2}")


def watched(folder: Path) -> tuple[Models, list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    return Models(folder, lambda event, **facts: told.append((event, facts))), told


def replaced(folder: Path, other: Path) -> None:
    """Another bundle in the folder, as a copy writes it: file by file, in place."""
    for path in sorted(other.iterdir()):
        shutil.copy(path, folder / path.name)


def test_a_loaded_model_has_answered_and_tells_who_it_is(bundle: Path) -> None:
    model = load_model(bundle)

    assert model.info.name == "toy"
    assert model.info.digest.startswith(model.info.version)
    assert model.predictor.predict([RECORD]).rejects == ()


def test_nothing_new_is_no_news(tmp_path: Path) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))

    assert not models.reload()
    assert told == []


def test_a_new_bundle_takes_over_and_the_old_one_finishes_what_it_began(tmp_path: Path) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))
    before = models.current
    old = before.predictor.predict([RECORD]).answer
    replaced(tmp_path / "bundle", write_bundle(tmp_path / "other", OTHER))

    assert models.reload()

    assert models.current.info.digest != before.info.digest
    assert models.current.predictor.predict([RECORD]).answer != old
    assert before.predictor.predict([RECORD]).answer == old
    assert [(event, facts["before"]) for event, facts in told] == [("bundle_taken", before.info.digest)]


def test_the_same_bundle_written_again_takes_nothing_over(tmp_path: Path) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))
    before = models.current
    replaced(tmp_path / "bundle", write_bundle(tmp_path / "same"))

    assert not models.reload()
    assert (models.current, told) == (before, [])


def cut(folder: Path) -> None:
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[: len(content) // 2])


def forge(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][MODEL] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


def poison(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    seal(folder)


def misfit(folder: Path) -> None:
    """Sealed as it must be, but the signature tells of a field that the graph does not have."""
    told = json.loads((folder / SIGNATURE).read_text())
    told["fields"][0]["name"] = "place"
    (folder / SIGNATURE).write_text(json.dumps(told))
    seal(folder)


def nonsense(folder: Path) -> None:
    (folder / SIGNATURE).write_text('{"name": "toy", "description": "", "fields": [{}]}')
    seal(folder)


def lost(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [cut, forge, poison, misfit, nonsense, lost])
def test_a_broken_bundle_is_refused_once_and_the_one_before_goes_on(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))
    before, answer = models.current, models.current.predictor.predict([RECORD]).answer

    damage(tmp_path / "bundle")
    looks = [models.reload() for _ in range(3)]

    assert looks == [False] * 3
    assert models.current is before
    assert before.predictor.predict([RECORD]).answer == answer
    [(event, facts)] = told
    assert (event, facts["digest"]) == ("bundle_refused", before.info.digest)
    assert facts["reason"]


def test_after_a_broken_bundle_a_good_one_takes_over(tmp_path: Path) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))
    cut(tmp_path / "bundle")
    models.reload()
    replaced(tmp_path / "bundle", write_bundle(tmp_path / "other", OTHER))

    assert models.reload()
    assert [event for event, _ in told] == ["bundle_refused", "bundle_taken"]


def test_a_bundle_that_is_replaced_file_by_file_is_never_taken_half(tmp_path: Path) -> None:
    models, told = watched(write_bundle(tmp_path / "bundle"))
    before = models.current
    taken = []
    for path in sorted(write_bundle(tmp_path / "other", OTHER).iterdir()):
        shutil.copy(path, tmp_path / "bundle" / path.name)
        taken.append(models.reload())
        assert (models.current is before) == (not any(taken))

    assert sum(taken) == 1
    assert [event for event, _ in told].count("bundle_taken") == 1


def test_a_broken_bundle_is_no_start(tmp_path: Path) -> None:
    cut(write_bundle(tmp_path / "bundle"))

    with pytest.raises(BundleError, match=f"{MODEL}: changed since it was packed"):
        watched(tmp_path / "bundle")
