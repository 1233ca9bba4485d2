"""The page and the documentation: made from the signature, of this server alone, with nothing in them that can run."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from mlops_pkg.bundle.example import example_record
from mlops_pkg.bundle.manifest import BundleError
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.serving.messages import ModelInfo
from mlops_pkg.serving.page import add_pages, page, static_files
from mlops_pkg.serving.schema import STATIC
from mlops_pkg.serving.service import families
from mlops_pkg.serving.settings import Settings, new_key
from tests.toy import TOY

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@dataclass
class About:
    """What the page reads of a predictor."""

    name: str
    description: str
    signature: Signature
    explained: bool = False
    identity: str = "0" * 64

    @property
    def explainer(self) -> bool:
        if not self.explained:
            raise BundleError("no explanation")
        return True


@dataclass
class Shown:
    """What the page reads of a model."""

    info: ModelInfo
    predictor: About
    card: str = "# toy\n\n- one"
    reference: Any = None


MODEL: Any = Shown(ModelInfo("toy", "0" * 12, "0" * 64), About("toy", "Late in the day", TOY))


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [facts for found, facts in self.found if found == tag]


@contextmanager
def served(models: list[Any], **settings: Any) -> Iterator[httpx.Client]:
    """Who asks a real server for the pages of the last of some models."""
    app = Starlette()
    add_pages(app, lambda: models[-1], Settings(**settings))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False) as asking:
            yield asking
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Who asks for the pages of the toy model."""
    with served([MODEL]) as asking:
        yield asking


def test_each_field_is_a_labelled_input_filled_with_the_example() -> None:
    elements = Elements(page(MODEL, needs_key=False))
    inputs = {facts["data-name"]: facts for facts in elements.of("input")}
    labels = {facts["for"] for facts in elements.of("label")}

    assert list(inputs) == [field.name for field in TOY.fields]
    assert {facts["id"] for facts in inputs.values()} == labels
    assert [inputs[name]["type"] for name in ("origin", "wind", "start")] == ["text", "number", "datetime-local"]
    assert (inputs["wind"]["min"], inputs["wind"]["max"], inputs["wind"]["step"]) == ("-10", "250", "any")
    assert [facts["value"] for facts in elements.of("option")] == ["EWR", "JFK"]
    example = example_record(TOY)
    assert inputs["origin"]["value"] == example["origin"]
    assert float(inputs["wind"]["value"] or "") == example["wind"]
    assert inputs["start"]["value"] == example["start"]
    ids = [facts["id"] for _, facts in elements.found if "id" in facts]
    assert len(ids) == len(set(ids))


def test_a_moment_is_written_as_its_input_takes_it() -> None:
    for first, value in (("2013-01-01", "2013-01-01T00:00"), ("2013-01-01 05:15:00.123456", "2013-01-01T05:15:00")):
        model = replace(MODEL, reference={"columns": {"start": {"first": first}}})
        assert [one["value"] for one in Elements(page(model, False)).of("input")][2] == value


def test_whatever_a_bundle_says_is_text_on_the_page() -> None:
    fields = (Field(EVIL, "category", True, EVIL, categories=(EVIL,)), Field("n", "number", False, EVIL, 0, 1))
    signature = Signature("classification", EVIL, 0.5, fields)
    card = f"# {EVIL}\n\n{EVIL}\n\n- {EVIL} `{EVIL}` **{EVIL}**\n\n| {EVIL} |\n| --- |\n| {EVIL} |\n"
    evil: Any = Shown(ModelInfo(EVIL, EVIL, EVIL), About(EVIL, EVIL, signature, identity=EVIL), card)

    with served([evil]) as asking:
        pages = [asking.get(path).text for path in ("/", "/docs")]

    for text in pages:
        elements = Elements(text)
        assert not elements.of("img")
        assert all(facts.get("src") for facts in elements.of("script")), "a script stands in the page"
        assert "alert(1)</script>" not in text
        assert not [name for _, facts in elements.found for name in facts if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("explained", [True, False])
def test_the_page_asks_for_an_explanation_where_there_is_one(explained: bool) -> None:
    shown: Any = Shown(ModelInfo("toy", "0" * 12, "0" * 64), About("toy", "Late", TOY, explained))

    with served([shown]) as asking:
        text = asking.get("/").text
        script = asking.get("/answer.js").text + asking.get("/page.js").text

    (main,) = Elements(text).of("main")
    assert main["data-explain"] == ("1" if explained else "")
    assert "explain: Boolean(facts.explain)" in script
    for name in ("why", "reasons"):
        assert f"at('{name}')" in script
        assert f'id="{name}"' in text


def test_the_check_of_escaping_sees_markup() -> None:
    elements = Elements(f"<p>{EVIL}</p>")

    assert elements.of("img")
    assert not all(facts.get("src") for facts in elements.of("script"))


def test_nothing_is_loaded_from_another_host(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        for tag, facts in Elements(client.get(path).text).found:
            for name in ("src", "href", "action"):
                told = facts.get(name) or ""
                assert not re.match(r"(\w+:)?//", told), (path, tag, told)
    assert not re.search(r"@import|url\(|https?:", client.get("/page.css").text)
    scripts = client.get("/answer.js").text + client.get("/page.js").text
    assert set(re.findall(r"https?:[^'\" ]+", scripts)) == {"http://www.w3.org/2000/svg"}


def test_every_file_that_a_page_names_is_there(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        elements = Elements(client.get(path).text)
        named = [facts["src"] for facts in elements.of("script")] + [facts["href"] for facts in elements.of("link")]
        for name in named:
            if name and not name.startswith("data:"):
                reply = client.get(f"/{name}")
                assert reply.status_code == 200, name
                assert reply.headers["x-content-type-options"] == "nosniff"
    media_types = {name: client.get(name).headers["content-type"].partition(";")[0] for name in static_files()}
    assert {media_types[name] for name in media_types if name.endswith(".js")} <= {
        "text/javascript",
        "application/javascript",
    }
    assert {media_types[name] for name in media_types if name.endswith(".css")} == {"text/css"}
    here = {path.name for path in STATIC.glob("*") if path.suffix in (".css", ".js")}
    ours = {path.name for path in static_files().values() if path.parent == STATIC}
    assert here - ours == {"deployment.js", "cases.js"}  # of pages that need keys of their own, see tests/slow
    assert client.get("/openapi.json").json()["info"]["title"] == "toy"
    assert client.get("/docs/../settings").status_code == client.get("/docs/%2e%2e/page.js").status_code == 404


def test_a_page_may_load_what_this_server_gives_and_nothing_else(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self';" in client.get("/docs").headers["content-security-policy"]


def test_the_pages_are_of_the_model_that_answers_now() -> None:
    models = [MODEL]
    with served(models) as asking:
        other = replace(MODEL.predictor, name="another")
        models.append(replace(MODEL, info=ModelInfo("another", "1" * 12, "1" * 64), predictor=other))
        for path in ("/", "/docs", "/openapi.json"):
            assert "another" in asking.get(path).text, path


def test_the_line_for_a_terminal_shows_where_the_key_goes() -> None:
    _, key = new_key("planning")
    for keys in ((), (key,)):
        with served([MODEL], keys=keys) as asking:
            (main,) = Elements(asking.get("/").text).of("main")
            assert main["data-key"] == ("1" if keys else "")
            assert key.sha256 not in asking.get("/").text


def test_the_script_reads_metrics_that_are_counted(client: httpx.Client) -> None:
    counted = {f"{family.name}_total" if family.kind == "counter" else family.name for family in families(MODEL)}
    script = client.get("/page.js").text
    read = re.findall(r"(?:sum|buckets)\('(\w+)'", script)

    assert len(read) >= 6
    assert set(read) <= counted
