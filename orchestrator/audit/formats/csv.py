"""Tables for spreadsheets. Source: RFC 4180.

A cell that a spreadsheet would take for a formula begins with an apostrophe: agents choose some of
what is in them. Source: OWASP, CSV Injection.
"""

import re
from typing import TYPE_CHECKING, Final

import orjson

from orchestrator.audit.formats.base import Format

if TYPE_CHECKING:
    from orchestrator.model.base import Json, JsonObject

COLUMNS: Final = (
    *("seq", "time", "event", "role", "agent", "client", "method", "tool", "class", "resources"),
    *("outcome", "code", "status", "duration_us", "rule", "policy", "approval", "request", "run"),
    *("session", "trace", "token", "arguments_sha256", "workload", "by", "reason"),
)
# What stands in columns of its own, and what says nothing without the lines before it.
_KNOWN: Final = frozenset({*COLUMNS, "key", "prev", "signature", "v"})
_QUOTED: Final = re.compile(r'[",\r\n]')
_FORMULA: Final = re.compile(r"[=+\-@\t\r]")


def render(_: bytes, told: "JsonObject") -> bytes:
    """Write one row; what has no column of its own is in the last one, as JSON."""
    rest = {name: value for name, value in told.items() if name not in _KNOWN}
    cells = [_cell(told.get(name)) for name in COLUMNS]
    return ",".join((*cells, _cell(rest or None))).encode("utf-8", "replace")


def _cell(value: "Json") -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if _FORMULA.match(text):
        text = f"'{text}"
    if _QUOTED.search(text):
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    return text


CSV: Final = Format(
    "csv", "text/csv", render, head=",".join((*COLUMNS, "more")).encode() + b"\r\n", end=b"\r\n"
)
