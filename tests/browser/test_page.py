"""What every page of a model shows: the card as HTML that can run nothing."""

import re

import pytest

from mlops_pkg.browser.page import card_html
from tests.conftest import ROOT
from tests.serving.test_page import Elements


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# One\n## Two", "<h3>One</h3>\n<h4>Two</h4>"),
        ("a\nb\n\nc", "<p>a\nb</p>\n<p>c</p>"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("`a < b` **c**", "<p><code>a &lt; b</code> <strong>c</strong></p>"),
        ("#no heading", "<p>#no heading</p>"),
        ("", ""),
    ],
)
def test_markdown_is_read(text: str, html: str) -> None:
    assert card_html(text) == html


def test_a_table_of_markdown_has_a_head_and_cells() -> None:
    elements = Elements(table := card_html("| a | b |\n| --- | --- |\n| 1 | x \\| y |\n| 2 |  |"))

    assert [len(elements.of(tag)) for tag in ("th", "td", "tr")] == [2, 4, 3]
    assert "<td>x | y</td>" in table
    assert card_html("|") != ""
    code = card_html("| `` a`b \\| c `` and `<i>` | `d` |\n| --- | --- |")
    assert "<code>a`b | c</code> and <code>&lt;i&gt;</code></th>" in code


def test_the_real_card_is_read_whole() -> None:
    card = ROOT / "artifacts" / "package" / "card.md"
    if not card.is_file():
        pytest.skip("artifacts/package: missing; `make run` writes it")
    html = card_html(card.read_text(encoding="utf-8"))

    assert "| ---" not in html
    assert len(Elements(html).of("table")) == card.read_text(encoding="utf-8").count("\n| ---")
    assert not re.search(r">\s*[#|]", html)
