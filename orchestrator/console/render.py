"""Turns data into pages: Jinja with everything escaped, and what templates need beside it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict, cast, final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from orchestrator.model.base import Json
from orchestrator.model.text import cut, visible

HERE: Final = Path(__file__).parent
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
LIVE_SECONDS: Final = 2
LONGEST_SHOWN: Final = 100_000
LONGEST_CELL: Final = 2_000
MOST_NAMED: Final = 4
_PAIR: Final = re.compile(r"([A-Za-z][A-Za-z0-9 ()/._-]{0,39}):\s+(\S.*)")


@final
class Pages:
    """Renders templates; no text of anybody's can be markup, or hide what it is."""

    def __init__(self, home: str) -> None:
        """Load the templates' place.

        Args:
            home: What the address of every page begins with.
        """
        self._home = home
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_show,
            auto_reload=False,
        )
        # Jinja's own types know only the filters that it brings.
        cast("dict[str, object]", cast("object", self._environment.filters)).update(FILTERS)
        known = cast("dict[str, object]", cast("object", self._environment.globals))
        known.update(asset=asset, home=home)

    def render(self, template: str, fields: Mapping[str, object]) -> str:
        """Render a template with these fields, by name."""
        return self._environment.get_template(template).render(dict(fields))

    def live(self, name: str, fields: Mapping[str, object], query: Mapping[str, str]) -> "Live":
        """Render a part of a page that looks for itself whether it changed.

        Args:
            name: Its template is `live/NAME.html`, its address `/live/NAME`.
            fields: What the template needs.
            query: What the address needs beside.
        """
        inner = self.render(f"live/{name}.html", fields)
        seen = hashlib.sha256(inner.encode()).hexdigest()[:16]
        address = f"{self._home}/live/{name}?{urlencode({**query, 'seen': seen})}"
        frame = Markup(
            '<div id="live-{name}" hx-get="{address}" hx-trigger="every {seconds}s" '
            'hx-swap="outerHTML">{inner}</div>'
        )
        whole = frame.format(
            name=name,
            address=address,
            seconds=LIVE_SECONDS,
            inner=Markup(inner),  # noqa: S704  a template made it
        )
        return Live(whole, seen)


@final
class Live:
    """A part of a page, and what names its state."""

    def __init__(self, html: Markup, seen: str) -> None:
        """Keep both."""
        self.html = html
        self.seen = seen


def _show(value: object) -> object:
    """Make what is not seen as itself visible: a text must not turn its direction round."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return visible(value)


def moment(value: Json) -> datetime | None:
    """Read a moment; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def ago(value: Json) -> str:
    """Tell how far off a moment is, coarsely: pages that show it stay as they are for a while."""
    then = moment(value)
    if then is None:
        return ""
    seconds = (datetime.now(UTC) - then).total_seconds()
    if abs(seconds) < 60:  # noqa: PLR2004  a minute
        return "just now" if seconds >= 0 else "in a moment"
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def span(value: Json) -> str:
    """Write a length of time, given in seconds, as people read it."""
    if not isinstance(value, int | float):
        return "\u2013"
    for size, unit in _SPANS:
        if value >= size:
            return f"{int(value // size)} {unit}"
    return "under 1 min"


def clock(value: Json) -> str:
    """Tell the time of day of a moment, in UTC."""
    then = moment(value)
    return "" if then is None else then.astimezone(UTC).strftime("%H:%M:%S")


def day(value: Json) -> str:
    """Tell day and time of a moment, in UTC."""
    then = moment(value)
    return "" if then is None else then.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def milliseconds(value: Json) -> str:
    """Write microseconds as milliseconds."""
    return f"{value / 1000:,.1f}" if isinstance(value, int) else ""


def words(value: Json) -> str:
    """Write a name with dashes and dots as words."""
    return re.sub("[-_.]", " ", str(value)) if value is not None else ""


def pretty(value: Json) -> str:
    """Write a value as JSON over lines, up to a length that a browser takes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) <= LONGEST_SHOWN:
        return text
    left_out = len(text) - LONGEST_SHOWN
    return f"{text[:LONGEST_SHOWN]}\n... {left_out:,} more characters are not shown here"


def compact(value: Json) -> str:
    """Write a value as JSON on one line; cut where it is long."""
    return cut(json.dumps(value, ensure_ascii=False), LONGEST_CELL)


def ticks(text: str) -> Markup:
    """Set what stands between backticks, such as a command, apart from the words around it."""
    pieces = visible(text).split("`")
    if len(pieces) % 2 == 0:
        return escape(visible(text))
    made = (
        Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece)
        for place, piece in enumerate(pieces)
    )
    return Markup().join(made)


class Block(TypedDict):
    """Some lines of a receipt: sentences, then what is said as `Label: value`."""

    lines: list[str]
    pairs: list[tuple[str, str]]


def read_receipt(text: str) -> list[Block]:
    """Lay out a receipt's lines, all of them and in their order."""
    blocks: list[Block] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        if line[0].isspace() and blocks and blocks[-1]["pairs"]:
            # It goes on with what the line before says.
            label, value = blocks[-1]["pairs"][-1]
            blocks[-1]["pairs"][-1] = (label, f"{value}\n{line.strip()}")
            continue
        pair = _PAIR.fullmatch(line)
        if not blocks or (blocks[-1]["pairs"] and not pair):
            blocks.append(Block(lines=[], pairs=[]))
        if pair:
            blocks[-1]["pairs"].append((pair[1], pair[2]))
        else:
            blocks[-1]["lines"].append(line)
    return blocks


def gist(text: str) -> Block:
    """Tell what a receipt says first: a sentence if it has one, and some of what it names."""
    first = next(iter(read_receipt(text)), Block(lines=[], pairs=[]))
    pairs = [(label, value.partition("\n")[0]) for label, value in first["pairs"][:MOST_NAMED]]
    return Block(lines=first["lines"][:1], pairs=pairs)


def asset(name: str) -> str:
    """Give the address of a file of ours; it changes with what is in it."""
    known = _ASSETS.get(name)
    if known is None:
        digest = hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest()[:12]
        known = _ASSETS[name] = f"/static/{name}?{digest}"
    return known


_ASSETS: Final[dict[str, str]] = {}
FILTERS: Final[Mapping[str, Callable[..., object]]] = MappingProxyType(
    {
        "ago": ago,
        "clock": clock,
        "compact": compact,
        "cut": cut,
        "day": day,
        "gist": gist,
        "ms": milliseconds,
        "pretty": pretty,
        "receipt": read_receipt,
        "span": span,
        "ticks": ticks,
        "words": words,
    }
)
