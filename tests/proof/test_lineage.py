"""Lineage: every kind of thing is found, and what is told of it is true."""

import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from mlops_pkg.bundle.manifest import BundleError, manifest_bytes
from mlops_pkg.core.params import UserError
from mlops_pkg.core.workspace import Workspace, digest
from mlops_pkg.history.lineage import Lineage, as_json, as_mermaid, as_text, lineage
from mlops_pkg.project.lock import read_lock
from tests.proof.origins import commit, record, seal

MODEL = "artifacts/train/model.skops"
THINGS = {  # what is asked, then a thing before it and a thing after it
    MODEL: ("nbs/pipeline/22_train.ipynb", "artifacts/package"),
    "data": (None, "artifacts/package"),
    "data.dvc": (None, "artifacts/package"),
    "data/rows.csv": (None, MODEL),
    "mlops_pkg/pipeline/train.py": ("nbs/pipeline/22_train.ipynb", MODEL),
    "mlops_pkg/core": ("mlops_pkg/core/params.py", MODEL),
    "nbs/pipeline/22_train.ipynb": (None, "research/train"),
    "params.yaml": ("params.yaml:train", MODEL),
    "params.yaml:train": (None, MODEL),
    "params.yaml:train.options.learning_rate": (None, MODEL),
    "environment.json": ("environment.json:numpy", MODEL),
    "environment.json:ruamel.yaml": (None, MODEL),
    "requirements-pipeline.txt": (None, "artifacts/package"),
    "research/train/rows.csv": ("nbs/pipeline/22_train.ipynb", "reports/parity.json"),
    "reports/parity.json": (MODEL, None),
    "artifacts": ("data", "reports/parity.json"),
    "artifacts/train": (MODEL, "artifacts/package"),
    "artifacts/package": ("data", "reports/parity.json"),
    "artifacts/package/": ("data", "reports/parity.json"),
    "train": ("artifacts/ingest/train.parquet", MODEL),
}


def ask(thing: str | None, root: Path) -> Lineage:
    return lineage(thing, Workspace(root))


@pytest.mark.parametrize("thing", THINGS)
def test_every_kind_of_thing_is_found_with_what_is_before_and_after_it(toy_origins: Path, thing: str) -> None:
    before, after = THINGS[thing]

    found = ask(thing, toy_origins)

    assert found.name == thing.removesuffix("/").removesuffix(".dvc")
    assert before is None or before in found.before
    assert after is None or after in found.after
    assert set(found.before).isdisjoint(found.after)
    assert as_text(found).startswith(f"{found.name}: ")


def test_nothing_asked_is_the_bundle(toy_origins: Path) -> None:
    assert ask(None, toy_origins) == ask("artifacts/package", toy_origins)


def test_text_tells_the_maker_its_settings_and_its_cells(toy_origins: Path) -> None:
    text = as_text(ask(MODEL, toy_origins), cells=True)

    assert f"{MODEL}: output, made by train\n" in text
    assert re.search(
        r"\nmade by train, from\n.*params.yaml:train \(.*\nfeatures, from\n.*\ningest, from\n", text, re.DOTALL
    )
    assert "numpy 2.4.0, ruamel.yaml 0.19.1" in text
    assert re.search(r"nbs/pipeline/22_train.ipynb, imports, run", text)
    assert "stages       evaluate, package" in text
    assert "[" not in text.replace("[0-9]", ""), "nothing has changed, so nothing is marked"


def test_a_changed_module_is_told_where_it_was_read_and_where_it_is_asked(toy_origins: Path) -> None:
    (toy_origins / "mlops_pkg/pipeline/train.py").write_text("# %% ../../nbs/pipeline/22_train.ipynb #fit\nx = 1\n")

    assert "22_train.ipynb, 1 cell) [changed since]" in as_text(ask(MODEL, toy_origins))
    assert "it [changed since], in the record of train" in as_text(ask("mlops_pkg/pipeline/train.py", toy_origins))
    assert "mlops_pkg/pipeline (4 modules) [changed since]: train.py" in as_text(ask(None, toy_origins))
    assert "changed since" not in as_text(ask("artifacts/features/features.skops", toy_origins))


def test_a_changed_param_is_told_down_to_its_key(toy_origins: Path) -> None:
    path = toy_origins / "params.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.05", "learning_rate: 0.5"))

    text = as_text(ask("params.yaml:train.options.learning_rate", toy_origins))

    assert "params.yaml:train.options.learning_rate = 0.05" in text
    assert "it [changed since], in the record of train" in text
    assert "changed since" not in as_text(ask("params.yaml:train.options.max_iter", toy_origins)).split("used by")[0]


def test_commit_is_told_once_there_is_one(toy_origins: Path) -> None:
    assert "commit" not in as_text(ask(MODEL, toy_origins))
    hash_ = commit(toy_origins, "The first model")
    assert f"first in commit {hash_[:10]}" in as_text(ask(MODEL, toy_origins))
    (toy_origins / MODEL).write_text("another model")
    record(toy_origins)
    assert "not committed yet" in as_text(ask(MODEL, toy_origins))


def test_a_clone_without_data_tells_the_same_origins(toy_origins: Path) -> None:
    whole = ask(MODEL, toy_origins)
    for name in ("data", "artifacts", "research", "reports"):
        shutil.rmtree(toy_origins / name)

    found = ask(MODEL, toy_origins)

    assert (found.before, found.after) == (whole.before, whole.after)
    assert "not here; get it with `dvc pull`" in as_text(found)
    assert "changed since" not in as_text(found)
    assert ask("data/rows.csv", toy_origins).name == "data/rows.csv"
    assert ask(None, toy_origins).packed is None


@pytest.mark.parametrize("name", ["bundle", "anything else"])
def test_a_copy_of_the_bundle_is_recognised_by_what_it_holds(toy_origins: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(toy_origins / "artifacts" / "package", tmp_path / name)
    shutil.rmtree(toy_origins / "artifacts" / "package")

    found = ask(str(copy), toy_origins)

    assert found.name == "artifacts/package"
    assert found.packed is not None
    assert found.packed.known == "present"
    assert {claim.state for claim in found.packed.claims} == {"agrees"}, "the sections' digests are those of the stage"
    assert f"{copy} is a copy of it" in " ".join(as_text(found).split())


def test_a_former_bundle_is_told_with_its_commit_and_what_differs(toy_origins: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy_origins / "artifacts" / "package", tmp_path / "former")
    hash_ = commit(toy_origins, "The first bundle")
    (toy_origins / "requirements-pipeline.txt").write_text("numpy==3\n")
    seal(toy_origins)
    record(toy_origins)
    commit(toy_origins, "The second bundle")

    found = ask(str(copy), toy_origins)

    assert found.packed is not None
    assert found.packed.known == "former"
    assert [claim.name for claim in found.packed.claims if claim.state == "differs"] == ["requirements-pipeline.txt"]
    assert f"first in commit {hash_[:10]}" in as_text(found)
    assert "differs      requirements-pipeline.txt" in as_text(found)


def test_a_foreign_bundle_is_told_to_be_unknown(toy_origins: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(toy_origins, tmp_path / "other"))
    (other / "mlops_pkg" / "pipeline" / "train.py").write_text("x = 1\n")
    (other / "params.yaml").write_text((other / "params.yaml").read_text().replace("seed: 0", "seed: 7"))
    seal(other)
    (toy_origins / MODEL).unlink()

    found = ask(str(other / "artifacts" / "package"), toy_origins)

    assert found.packed is not None
    assert found.packed.known == "unknown"
    states = {claim.name: claim.state for claim in found.packed.claims}
    assert states["mlops_pkg/pipeline/train.py"] == states["params.yaml:seed"] == "differs"
    assert states[MODEL] == "not here"
    assert states["data"] == "agrees"
    text = as_text(found)
    assert "no dvc.lock of this project has recorded it" in text
    assert "mlops_pkg/pipeline/train.py (nbs/pipeline/22_train.ipynb, 2 cells)" in text


def test_a_damaged_or_silent_bundle_ends_in_one_line(toy_origins: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(toy_origins / "artifacts" / "package", tmp_path / "damaged"))
    (damaged / "model.onnx").write_text("other")
    silent = Path(shutil.copytree(toy_origins / "artifacts" / "package", tmp_path / "silent"))
    (silent / "lineage.json").write_text("{}")
    (silent / "manifest.json").unlink()
    (silent / "manifest.json").write_bytes(manifest_bytes(silent))

    with pytest.raises(BundleError, match="changed since it was packed"):
        ask(str(damaged), toy_origins)
    with pytest.raises(UserError, match=r"lineage\.json: it does not tell") as told:
        ask(str(silent), toy_origins)
    assert "\n" not in str(told.value)


def test_the_projects_own_damaged_bundle_is_still_told_from_the_record(toy_origins: Path) -> None:
    (toy_origins / "artifacts" / "package" / "model.onnx").write_text("other")

    text = as_text(ask(None, toy_origins))

    assert "artifacts/package/model.onnx [changed since], in the record of package" in text
    assert "made by package, from" in text


def test_a_bundle_that_was_made_anew_without_a_record_keeps_its_recorded_origins(toy_origins: Path) -> None:
    (toy_origins / "artifacts" / "package" / "card.md").write_text("other")
    seal(toy_origins)

    text = as_text(ask(None, toy_origins))

    assert "no dvc.lock of this project has recorded it" in text
    assert "artifacts/package/card.md [changed since], in the record of package" in text
    assert "made by package, from" in text


def test_digests_whole_or_begun_of_dvc_lock_and_of_the_bundle_are_found(toy_origins: Path) -> None:
    md5 = read_lock(toy_origins)["train"].outs[MODEL]
    bundle = toy_origins / "artifacts" / "package"
    digests = {
        md5: MODEL,
        digest(toy_origins / MODEL): MODEL,
        read_lock(toy_origins)["ingest"].deps["data"]: "data",
        digest(toy_origins / "mlops_pkg/pipeline/train.py"): "mlops_pkg/pipeline/train.py",
        digest(bundle / "model.onnx"): "artifacts/package/model.onnx",
        digest(bundle / "manifest.json"): "artifacts/package",
    }

    for sha, name in digests.items():
        assert {ask(begun, toy_origins).name for begun in (sha, sha[:16], sha[:16].upper())} == {name}


def test_an_ambiguous_prefix_names_the_candidates(toy_origins: Path) -> None:
    seen: dict[str, str] = {}
    for number in itertools.count():
        prefix = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:6]
        if prefix in seen:
            break
        seen[prefix] = str(number)
    (toy_origins / MODEL).write_text(seen[prefix])
    (toy_origins / "artifacts/train/baseline.skops").write_text(str(number))
    record(toy_origins)

    with pytest.raises(UserError, match=f"^{prefix}: 2 digests begin so") as told:
        ask(prefix, toy_origins)

    assert MODEL in str(told.value)
    assert "artifacts/train/baseline.skops" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("thing", "hint"),
    [
        ("artifacts/train/modle.skops", "did you mean artifacts/train/model.skops?"),
        ("model.skops", "did you mean artifacts/train/model.skops?"),
        ("params.yaml:train.learning_rat", "did you mean params.yaml:train?"),
        ("trian", "did you mean train?"),
        ("data/none.csv", "did you mean data?"),
        ("abc12", "give six digits or more"),
        ("0123456789", "has a digest that begins so"),
        ("quite something else, really", "name a path, a stage, params.yaml:KEY or a digest"),
        ("settings.ini", "no stage of dvc.yaml reads or writes it"),
        (".", "name a path"),
        ("..", "name a path"),
        ("", "name a path"),
        ("a" * 5000, "too long for a name"),
    ],
)
def test_what_nobody_knows_ends_in_one_line_with_a_hint(toy_origins: Path, thing: str, hint: str) -> None:
    (toy_origins / "settings.ini").write_text("[DEFAULT]\nlib_name = mlops_pkg\n")

    with pytest.raises(UserError, match=re.escape(hint)) as told:
        ask(thing, toy_origins)

    assert "\n" not in str(told.value)


def test_a_digest_of_the_past_is_told_with_its_commit(toy_origins: Path) -> None:
    md5 = read_lock(toy_origins)["train"].outs[MODEL]
    hash_ = commit(toy_origins, "The first model")
    (toy_origins / MODEL).write_text("another")
    record(toy_origins)

    with pytest.raises(UserError, match=f"it did for {MODEL} in {hash_[:10]}"):
        ask(md5[:12], toy_origins)


def test_a_path_is_read_from_where_one_stands(
    toy_origins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_origins / "nbs")
    assert lineage("pipeline/22_train.ipynb").name == "nbs/pipeline/22_train.ipynb"
    assert lineage(MODEL).name == MODEL
    assert lineage("../params.yaml:seed").name == "params.yaml:seed"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(toy_origins)
    for thing in (toy_origins / MODEL, tmp_path / "link" / MODEL):
        assert ask(str(thing), toy_origins).name == MODEL
    (tmp_path / "linked").mkdir()
    (toy_origins / MODEL).rename(tmp_path / "linked" / "cached")
    (toy_origins / MODEL).symlink_to(tmp_path / "linked" / "cached")
    linked = ask(MODEL, toy_origins)
    assert (linked.name, linked.note) == (MODEL, ""), "DVC may link a file to its cache"


def test_a_file_from_elsewhere_is_recognised_by_its_digest(toy_origins: Path, tmp_path: Path) -> None:
    shutil.copy(toy_origins / MODEL, tmp_path / "attachment.bin")

    found = ask(str(tmp_path / "attachment.bin"), toy_origins)

    assert found.name == MODEL
    assert "is a copy of it" in found.note


def test_json_holds_everything(toy_origins: Path) -> None:
    commit(toy_origins, "The first model")
    found = ask("artifacts/package", toy_origins)

    told = json.loads(as_json(found))

    assert (told["before"], told["after"]) == ([*found.before], [*found.after])
    assert {node["name"] for node in told["nodes"]} == {found.name, *found.before, *found.after}
    reads = {(edge["source"], edge["target"]): edge for edge in told["edges"]}
    assert reads["params.yaml:train", "train"]["value"]["options"]["learning_rate"] == 0.05
    assert "run" in reads["nbs/pipeline/22_train.ipynb", "mlops_pkg/pipeline/train.py"]["value"]
    assert told["commits"][reads["train", MODEL]["recorded"]]["subject"] == "The first model"
    assert told["bundle"]["known"] == "present"
    assert {claim["state"] for claim in told["bundle"]["claims"]} == {"agrees"}


NODE = re.compile(r'  (n\d+)(?:\["([^"]*)"\]|\[\["([^"]*)"\]\]|\{\{"([^"]*)"\}\}|\("([^"]*)"\))')


def drawn(text: str) -> dict[str, str]:
    """The labels of a flowchart by their ids; every line must be one of the few kinds, and name known ids alone."""
    head, *lines = text.splitlines()
    assert head == "flowchart LR"
    nodes = {}
    for line in lines:
        if node := NODE.fullmatch(line):
            assert node[1] not in nodes, f"{node[1]} stands for two things"
            nodes[node[1]] = next(label for label in node.groups()[1:] if label is not None)
        elif arrow := re.fullmatch(r"  (n\d+) --> (n\d+)", line):
            assert {arrow[1], arrow[2]} <= nodes.keys(), line
        else:
            assert re.fullmatch(r"  (classDef [a-z]+ [a-z0-9:,# -]+|class n\d+(,n\d+)* [a-z]+)", line), line
    return nodes


@pytest.mark.parametrize("thing", THINGS)
def test_picture_of_everything_is_valid(toy_origins: Path, thing: str) -> None:
    text = as_mermaid(ask(thing, toy_origins))

    labels = [name for label in drawn(text).values() for name in label.split("<br/>")]
    assert len(labels) == len(set(labels)), "a thing is drawn twice"
    assert re.search(r"  class n\d+ asked$", text)


def test_picture_survives_names_with_marks_of_its_own_language(toy_origins: Path) -> None:
    odd = 'a "b" <c> #d [e] `f` {g} & h.csv'
    stages = json.loads(json.dumps({"stages": {"fit": {"cmd": "fit", "deps": [odd], "outs": ["model"]}}}))
    (toy_origins / odd).write_text("1\n")
    (toy_origins / "dvc.yaml").write_text(json.dumps(stages))
    (toy_origins / "model").write_text("model")
    record(toy_origins)

    text = as_mermaid(ask(odd, toy_origins))

    assert "a #quot;b#quot; &lt;c&gt; #35;d [e] #96;f#96; {g} &amp; h.csv" in drawn(text).values()


def test_picture_marks_what_was_asked_and_what_has_changed(toy_origins: Path) -> None:
    (toy_origins / "mlops_pkg/pipeline/train.py").write_text("x = 1\n")

    text = as_mermaid(ask(MODEL, toy_origins))

    ids = {label: name for name, label in drawn(text).items()}
    assert f"class {ids[MODEL]} asked" in text
    assert f"class {ids['mlops_pkg/pipeline/train.py']} changed" in text


def test_a_project_without_a_bundle_says_so(toy_origins: Path) -> None:
    (toy_origins / "dvc.yaml").write_text("stages: {}")
    (toy_origins / "dvc.lock").write_text("schema: '2.0'")

    with pytest.raises(UserError, match="no stage writes a bundle"):
        ask(None, toy_origins)
