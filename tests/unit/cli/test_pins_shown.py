"""Differences of pins, and tools, laid out for a person."""

import json

import pytest

from orchestrator.cli.pins import _show
from orchestrator.cli.tools import _narrowed, _row
from orchestrator.model.base import JsonObject

Captured = pytest.CaptureFixture[str]


def difference(**fields: object) -> dict[str, object]:
    """Make a difference as the daemon tells it."""
    nothing: dict[str, object] = {"was": None, "pinned": None, "live": None}
    return {"kind": "changed", "tool": "look", **nothing, **fields}


def test_a_short_difference_is_shown_whole(capsys: Captured) -> None:
    """Its title says what happened to which tool."""
    one = difference(pinned='{"name":"look","title":"a"}', live='{"name":"look","title":"b"}')
    assert not _show(one, 200)
    assert capsys.readouterr().out.splitlines() == [
        "changed: look",
        "@@ -1,4 +1,4 @@",
        " {",
        '   "name": "look",',
        '-  "title": "a"',
        '+  "title": "b"',
        " }",
        "",
    ]


def test_a_long_difference_is_cut_and_says_so(capsys: Captured) -> None:
    """Nobody can miss that there is more; without a limit all of it is shown."""
    live = json.dumps({"name": "look", "tags": [str(number) for number in range(500)]})
    assert _show(difference(kind="added", live=live), 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "added: look"
    assert lines[-2] == "... 496 more lines"
    assert len(lines) == 13
    assert not _show(difference(kind="added", live=live), None)
    assert len(capsys.readouterr().out.splitlines()) == 508


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"kind": "renamed", "tool": "buy", "was": "order"}, "renamed: order -> buy"),
        ({"tool": None, "pinned": '""', "live": '"Hurry."'}, "changed: instructions"),
        ({"kind": "removed", "pinned": '{"name":"look"}'}, "removed: look"),
    ],
)
def test_titles(capsys: Captured, fields: dict[str, object], title: str) -> None:
    """Renamed tools have both names, instructions have none."""
    _ = _show(difference(**fields), 200)
    assert capsys.readouterr().out.splitlines()[0] == title


def test_a_tool_fits_on_a_line_of_a_terminal() -> None:
    """Long arguments and descriptions are cut; elsewhere nothing is."""
    properties: JsonObject = {f"argument_{number}": {"type": "string"} for number in range(9)}
    tool: JsonObject = {
        "name": "look",
        "description": "\n  First line, " + "long " * 40 + "\nSecond.",
        "inputSchema": {"type": "object", "properties": properties},
    }
    row = _row(tool, "READ")
    assert row[3].startswith("First line, long")
    assert "Second" not in row[3]
    assert _narrowed([row], 0) == [row]
    (cut,) = _narrowed([row], 120)
    assert len("  ".join(cut)) <= 120
    assert cut[2].endswith("...")
    assert cut[3].endswith("...")


def test_a_tool_without_words_has_a_row() -> None:
    """Whatever a server leaves out."""
    assert _row({"name": "x\x1b", "description": 5}, "-") == ["x\\u001b", "-", "", ""]
