"""How a difference is told to a person."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.pindiff import CONTINUED, Difference, compare, show, unified
from orchestrator.control.pins import Live, Pins, accept, canonical, look, see_first
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ServerName, ToolName

PROMISED = frozenset(map(ToolName, ("look", "buy", "watch", "pay")))
NOW = "2026-11-20T12:00:00Z"
BUY: Mapping[str, Json] = {
    "description": "Buys.",
    "inputSchema": {"type": "object", "properties": {"sku": {"type": "string"}}},
}


def tool(name: str, **fields: Json) -> JsonObject:
    """Describe a tool as a server does."""
    return {"name": name, "inputSchema": {"type": "object"}, **fields}


def live(*tools: JsonObject, instructions: str = "") -> Live:
    """Show tools as a process does."""
    return look(PROMISED, "legacy", tools, instructions)


def pinned(*tools: JsonObject, instructions: str = "") -> Pins:
    """Pin tools at first sight."""
    empty = Pins(role=RoleName("reader"), server=ServerName("shop"))
    return see_first(empty, PROMISED, live(*tools, instructions=instructions), NOW)


def kinds(pins: Pins, *lives: Live) -> list[tuple[str, str, str]]:
    """Tell the kinds of all differences."""
    return [(one.kind, one.name, one.was) for one in compare(pins, PROMISED, lives)]


def test_nothing_differs() -> None:
    """What is as it was is not told."""
    assert kinds(pinned(tool("look")), live(tool("look")), live(tool("look"))) == []


def test_every_kind_is_told_by_name() -> None:
    """Changed, added and removed tools, and instructions last."""
    pins = pinned(tool("look"), tool("watch", **BUY))
    now = live(tool("look", title="x"), tool("pay"), instructions="Hurry.")
    assert kinds(pins, now) == [
        ("changed", "look", ""),
        ("added", "pay", ""),
        ("removed", "watch", ""),
        ("changed", "", ""),
    ]
    assert compare(pins, PROMISED, [now])[-1] == Difference("changed", "", '""', '"Hurry."')


def test_a_tool_with_the_same_schemas_under_another_name_was_renamed() -> None:
    """The old one is gone and the new one takes the same: that is told as one difference."""
    pins = pinned(tool("look"), tool("buy", **BUY))
    assert kinds(pins, live(tool("look"), tool("pay", **BUY))) == [("renamed", "pay", "buy")]
    other = tool("pay", description="Buys.", inputSchema={"type": "object", "required": ["sku"]})
    assert kinds(pins, live(tool("look"), other)) == [("removed", "buy", ""), ("added", "pay", "")]


def test_the_one_with_the_same_description_is_the_likelier_one() -> None:
    """Of several that are gone the one that said the same is named."""
    pins = pinned(tool("look", description="Looks."), tool("watch", description="Watches."))
    now = live(tool("pay", description="Watches."))
    assert kinds(pins, now) == [("removed", "look", ""), ("renamed", "pay", "watch")]


def test_a_tool_that_is_not_promised_any_more_is_not_missed() -> None:
    """What the operator took away is no difference."""
    pins = pinned(tool("look"), tool("buy"))
    assert compare(pins, frozenset({ToolName("look")}), [live(tool("look"))]) == ()


def test_each_live_variant_is_told() -> None:
    """Two processes that show a tool in two new ways are two differences from the newest pin."""
    pins = accept(pinned(tool("look", title="1")), PROMISED, [live(tool("look", title="2"))], NOW)
    both = compare(pins, PROMISED, [live(tool("look", title="3")), live(tool("look", title="4"))])
    assert [one.after for one in both] == [canonical(tool("look", title=t)) for t in "34"]
    assert {one.before for one in both} == {canonical(tool("look", title="2"))}


def test_a_diff_shows_the_lines_around_a_change() -> None:
    """It is the unified diff of the definitions as indented JSON, without names of files."""
    before, after = (canonical(tool("look", title=title)) for title in ("Old", "New"))
    assert list(unified(Difference("changed", "look", before, after))) == [
        "@@ -3,5 +3,5 @@",
        '     "type": "object"',
        "   },",
        '   "name": "look",',
        '-  "title": "Old"',
        '+  "title": "New"',
        " }",
    ]


def test_an_added_tool_is_shown_whole() -> None:
    """All its lines are new."""
    lines = list(unified(Difference("added", "look", None, canonical({"name": "look"}))))
    assert lines == ["@@ -0,0 +1,3 @@", "+{", '+  "name": "look"', "+}"]


def test_nothing_of_a_server_steers_a_terminal() -> None:
    """Escapes, bidirectional overrides and letters that nobody sees are written out."""
    evil = "\x1b[2Jx\u202e\u2066\u200b\U000e0041\ufe01\r\x07é"
    lines = "\n".join(show(canonical({"name": evil})))
    assert lines.isascii() == ("é" not in lines)
    assert all(letter.isprintable() or letter == "\n" for letter in lines)
    for written in ("\\u001b[2Jx\\u202e\\u2066\\u200b\\udb40\\udc41\\ufe01\\r\\u0007é",):
        assert written in lines


def test_a_description_cannot_pretend_to_be_another_part() -> None:
    """What follows a line's end inside of a text stands behind a mark of its own."""
    text = 'Harmless.\n  "annotations": {"readOnlyHint": true},\n' + "x" * 300
    lines = show(canonical({"description": text, "name": "look"}))
    assert lines[1] == '  "description": "Harmless.\\n'
    assert lines[2].startswith(f"  {CONTINUED} ")
    assert all(len(line) < 140 for line in lines)
    assert not any(line.strip().startswith('"annotations"') for line in lines)


@given(st.text(), st.text())
def test_two_texts_never_look_the_same(one: str, other: str) -> None:
    """Whatever is different is seen to be."""
    assert (show(canonical(one)) == show(canonical(other))) == (one == other)
