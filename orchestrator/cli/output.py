"""How commands print: text for people, JSON for programs, colour only on a terminal."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from orchestrator.model.text import visible

_COLOURS: Final = {
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
    "red": "\x1b[31m",
    "dim": "\x1b[2m",
    "bold": "\x1b[1m",
}
_RESET: Final = "\x1b[0m"
NOT_DURABLE: Final = (
    "NOT DURABLE: all this holds now, but it is not on disk, and is forgotten if the daemon ends "
    "before it is. Free space on the disk and repeat the command; until then the daemon goes on "
    "trying to write it, and `agents status` shows it."
)
_STATE_COLOURS: Final = {
    "ready": "green",
    "starting": "yellow",
    "backoff": "yellow",
    "draining": "yellow",
    "stopped": "dim",
}


def is_colourful() -> bool:
    """Whether standard output is a terminal that wants colour. Source: https://no-color.org."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """Colour a text for a terminal, or leave it as it is."""
    return f"{_COLOURS[colour]}{text}{_RESET}" if is_colourful() else text


def paint_state(state: str) -> str:
    """Colour a role's state."""
    return paint(state, _STATE_COLOURS.get(state, "red"))


def say(text: str = "") -> None:
    """Print one line for a person, or for the program that reads our output."""
    _ = sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print one line beside the output, on standard error."""
    _ = sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(value: object) -> None:
    """Print a value as JSON, indented, keys in their own order; nothing in it steers a terminal."""
    say(visible(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows in columns as wide as their widest cell; colour does not count as width."""
    widths = [
        max([len(title), *(_width(row[column]) for row in rows)])
        for column, title in enumerate(head)
    ]
    lines = ["  ".join(title.ljust(width) for title, width in zip(head, widths, strict=True))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell + " " * (width - _width(cell)) for cell, width in cells))
    return [line.rstrip() for line in lines]


def _width(cell: str) -> int:
    for colour in (*_COLOURS.values(), _RESET):
        cell = cell.replace(colour, "")
    return len(cell)


def seconds(value: float | None) -> str:
    """Write a length of time as people read it; None becomes a dash."""
    if value is None:
        return "-"
    whole = int(value)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
