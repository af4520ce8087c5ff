"""What becomes text on a page, and how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from markupsafe import Markup

from orchestrator.console import render
from orchestrator.console.acts import ACTS, about
from orchestrator.console.pages.guards import back_to
from orchestrator.model.base import JsonObject


def test_every_text_is_escaped_and_seen() -> None:
    """Markup, invisible characters and what turns the direction round are shown as themselves."""
    page = render.Pages("/home").render(
        "failure.html",
        {"sentence": "<b>\u202e`x`", "hint": "a`b", "code": "\x1b[1m", "path": '"><i>'},
    )
    assert "&lt;b&gt;\\u202e<code>x</code>" in page
    assert "a`b" in page
    assert "\\u001b[1m" in page
    assert "<i>" not in page


def test_commands_in_a_sentence_are_set_apart() -> None:
    """Only where the backticks are pairs; what is between them stays a text."""
    assert render.ticks("run `a <b>`, then `c`") == Markup(
        "run <code>a &lt;b&gt;</code>, then <code>c</code>"
    )
    assert render.ticks("one ` only <b>") == Markup("one ` only &lt;b&gt;")


def test_a_receipt_keeps_all_its_lines_in_their_order() -> None:
    """Sentences and pairs make blocks; nothing is left out."""
    text = 'Sends 2 ETH\nTo: 0xabc\nFee: 1\n\nNot decoded\nhttp://x\nwalletName: "t"'
    blocks = render.read_receipt(text)
    assert [block["lines"] for block in blocks] == [["Sends 2 ETH"], ["Not decoded", "http://x"]]
    assert blocks[0]["pairs"] == [("To", "0xabc"), ("Fee", "1")]
    assert blocks[1]["pairs"] == [("walletName", '"t"')]
    assert render.gist(text) == {"lines": ["Sends 2 ETH"], "pairs": [("To", "0xabc"), ("Fee", "1")]}
    assert render.read_receipt("Fee: 1\n  a gas\n\n") == [
        {"lines": [], "pairs": [("Fee", "1\na gas")]}
    ]
    assert render.gist("Fee: 1\n  a gas")["pairs"] == [("Fee", "1")]
    assert (render.gist(""), render.read_receipt("")) == ({"lines": [], "pairs": []}, [])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (59, "just now"), (61, "1 min ago"), (7300, "2 h ago"), (-90, "in 1 min")],
)
def test_moments_are_told_coarsely(seconds: int, words: str) -> None:
    """So that a page that looks again finds nothing new."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    assert render.ago(then.isoformat()) == words or seconds in {0, 59, -90}
    assert render.ago("yesterday") == render.ago(None) == ""


def test_long_values_are_cut_and_say_so() -> None:
    """Ten megabytes of arguments do not reach a browser."""
    long: JsonObject = {"x": "y" * 10_000_000}
    assert len(render.pretty(long)) < render.LONGEST_SHOWN + 100
    assert "more characters are not shown" in render.pretty(long)
    assert len(render.compact(long)) == render.LONGEST_CELL


def test_what_can_be_done_is_described_whole() -> None:
    """Every sentence names what it is about, and every field is known."""
    for act in ACTS.values():
        assert "{what}" in act.title
        assert set(act.asks) <= {"read_only", "lasts"}
        assert {one.removesuffix("?") for one in act.takes} <= {"role", "tool", "id"}
    assert about({"role": "", "tool": ""}) == "every role"
    assert about({"role": "a", "tool": "b"}) == "b at a"


@pytest.mark.parametrize("address", ["//evil.example", "/roles/a/b", "https://x", "/roles/\\x", ""])
def test_nobody_is_sent_elsewhere(address: str) -> None:
    """Only addresses of ours come after a form."""
    assert back_to(address) == "/"
    assert back_to("/roles/executor") == "/roles/executor"
