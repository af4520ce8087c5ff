"""What differs between pinned and live definitions, laid out for a person; pure."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, TypeAlias, cast

from orchestrator.control.pins import Live, Pins, is_accepted
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import ToolName
from orchestrator.model.text import visible

# Begins a line that goes on with the text of the line before.
CONTINUED: Final = "\u2506"
_WIDTH: Final = 120
# One letter of a JSON text, escapes whole.
_LETTER: Final = re.compile(r"\\u[0-9a-f]{4}|\\.|[^\\]")

Kind: TypeAlias = Literal["changed", "added", "removed", "renamed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which what is live differs from what is pinned.

    Attributes:
        kind: What happened.
        name: The tool as it is called now; empty for the instructions.
        before: The newest accepted definition; None where there is none.
        after: A definition that is live; None where there is none.
        was: The tool's pinned name, if it seems to be the same one renamed.
    """

    kind: Kind
    name: str
    before: str | None
    after: str | None
    was: str = ""


def compare(
    pins: Pins, promised: AbstractSet[ToolName], lives: Iterable[Live]
) -> tuple[Difference, ...]:
    """Tell every difference between what is pinned and what is live, by name.

    A removed and an added tool with the same schemas are told as one that was renamed.
    """
    lives = tuple(lives)
    shown = {name for live in lives for name in live.tools}
    gone = {
        name: accepted[-1].text
        for name, accepted in pins.tools.items()
        if accepted and name in promised and name not in shown
    }
    found: list[Difference] = []
    for name, text in _not_accepted(pins, lives):
        accepted = pins.tools.get(name, ())
        was = "" if accepted else _former_name(text, gone)
        if accepted:
            found.append(Difference("changed", name, accepted[-1].text, text))
        elif was:
            found.append(Difference("renamed", name, gone.pop(ToolName(was)), text, was))
        else:
            found.append(Difference("added", name, None, text))
    found += [Difference("removed", name, text, None) for name, text in gone.items()]
    found.sort(key=lambda one: one.name)
    before = pins.instructions[-1].text if pins.instructions else None
    said = {
        live.instructions: Difference("changed", "", before, live.instructions)
        for live in lives
        if not is_accepted(pins.instructions, live.era, live.instructions)
    }
    return (*found, *said.values())


def show(text: str) -> tuple[str, ...]:
    """Lay a canonical text out in lines for a person.

    A long text of the server's goes on in lines of its own, each with a mark that no line of JSON
    begins with, so that none can pretend to be another part of the definition. Nothing in them
    steers a terminal.
    """
    value = cast("Json", json.loads(text))
    lines = visible(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)).split("\n")
    return tuple(part for line in lines for part in _fold(line))


def _fold(line: str) -> Iterator[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    lead, part, width = "", "", 0
    for match in _LETTER.finditer(line):
        part += match[0]
        width += 1
        if (match[0] == "\\n" and match.end() < len(line) - 2) or width == _WIDTH:
            yield f"{lead}{part}"
            lead, part, width = f"{indent}{CONTINUED} ", "", 0
    if part:
        yield f"{lead}{part}"


def unified(difference: Difference) -> Iterator[str]:
    """Tell a difference line by line, as `diff -u` does, without its head."""
    before, after = (
        () if text is None else show(text) for text in (difference.before, difference.after)
    )
    # The first two lines would name files.
    yield from islice(difflib.unified_diff(before, after, lineterm="", n=3), 2, None)


def _not_accepted(pins: Pins, lives: Iterable[Live]) -> list[tuple[ToolName, str]]:
    found = {
        (name, text): None
        for live in lives
        for name, text in live.tools.items()
        if not is_accepted(pins.tools.get(name, ()), live.era, text)
    }
    return sorted(found)


def _former_name(text: str, gone: Mapping[ToolName, str]) -> str:
    """Find the tool that this one seems to have been, empty without one."""
    new = _read(text)
    alike = [
        (old.get("description") != new.get("description"), name)
        for name, old in ((name, _read(before)) for name, before in gone.items())
        if all(old.get(key) == new.get(key) for key in ("inputSchema", "outputSchema"))
    ]
    return min(alike)[1] if alike else ""


def _read(text: str) -> JsonObject:
    value = cast("Json", json.loads(text))
    return value if isinstance(value, dict) else {}
