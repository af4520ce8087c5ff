"""What the console reads in the record: bounded, so that a page is quick whatever its size."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from orchestrator.audit.query import tone
from orchestrator.audit.reader import newest_first, parse
from orchestrator.model.base import JsonObject

# Lines that are looked through for one page; all further ones are for `agents audit search`.
MOST_LINES: Final = 50_000
_CALLS: Final = frozenset({"outcome", "decision", "gap", "omitted"})


def last_calls(directory: Path, wanted: Mapping[str, str], most: int) -> list[JsonObject]:
    """Give requests as they ended, the newest first.

    Args:
        directory: Where the record lies.
        wanted: What their fields have to be, by name; `text` is looked for anywhere, `outcome` is
            `ok`, `refused` or `failed`, and a `what` of `tools` leaves out what calls no tool.
        most: How many.
    """
    calls = (line for line in lines(directory) if line.get("event") in _CALLS)
    return list(islice((call for call in calls if _is_wanted(call, wanted)), most))


def lines(directory: Path) -> Iterator[JsonObject]:
    """Give the newest lines of the record, the newest first."""
    for raw in islice(newest_first(directory), MOST_LINES):
        line = parse(raw)
        if line is not None:
            yield line


def _is_wanted(call: JsonObject, wanted: Mapping[str, str]) -> bool:
    for name, value in wanted.items():
        if not value:
            continue
        if name == "text":
            if value.casefold() not in " ".join(map(str, call.values())).casefold():
                return False
        elif name == "what":
            if "tool" not in call and tone(call) == "ok":
                return False
        elif name == "outcome":
            if tone(call) != value:
                return False
        elif call.get(name) != value:
            return False
    return True
