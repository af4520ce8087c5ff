"""The form of the texts that tell people what a call does: words with places for arguments."""

import re
from typing import Final

PLACE: Final = re.compile(r"\{arguments\.([^{}|]+?)(?:\|([a-z]+))?\}")
# How an argument may be told: as it is, as JSON, or as what an unsigned EVM transaction does.
FILTERS: Final = ("text", "json", "evm")


def problems(template: str) -> list[str]:
    """Tell what is wrong with a tool's text, nothing if it can be used."""
    found = [
        f"`{match[2]}` is no way to tell an argument: {', '.join(FILTERS)}"
        for match in PLACE.finditer(template)
        if match[2] and match[2] not in FILTERS
    ]
    if re.search(r"[{}]", PLACE.sub("", template)):
        found.append("write {arguments.NAME}, or {arguments.NAME|evm}; other braces have no place")
    return found
