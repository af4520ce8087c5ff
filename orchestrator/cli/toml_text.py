"""Keeps one table in a TOML text, between two comments; every other byte stays as it is."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final, TypeAlias, cast

Table: TypeAlias = "dict[str, object]"

_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class StructureError(ValueError):
    """The text is TOML, and the table cannot be set without touching what is not ours."""


def write_table(parent: str, name: str, values: Mapping[str, str | list[str]]) -> str:
    """Write the table, with the comments around it."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items()]
    begin, end = _marks(name)
    return "\n".join((begin, f"[{parent}.{name}]", *lines, end, ""))


def set_table(text: str, parent: str, name: str, values: Mapping[str, str | list[str]]) -> str:
    """Set a table; keys that somebody added to it are kept.

    Args:
        text: The whole text.
        parent: The table around it.
        name: Its name, a bare key.
        values: Its values.

    Returns:
        The new text.

    Raises:
        tomllib.TOMLDecodeError: The text is no TOML.
        StructureError: There is such a table that was not written here, or it was rewritten.
    """
    wanted = cast("Table", tomllib.loads(text))
    around = wanted.setdefault(parent, {})
    if not isinstance(around, dict):
        raise StructureError(f"{parent!r} is no table")
    tables = cast("dict[str, Table]", around)
    is_there = name in tables
    tables[name] = {**tables.get(name, {}), **values}
    newline = "\r\n" if "\r\n" in text else "\n"
    new = _replace(text, name, values) if is_there else _append(text, parent, name, values, newline)
    try:
        is_right = tomllib.loads(new) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise StructureError(
            f"[{parent}.{name}] cannot be set without touching what was not written here"
        )
    return new


def _append(
    text: str, parent: str, name: str, values: Mapping[str, str | list[str]], newline: str
) -> str:
    gap = "" if not text or text.endswith(("\n\n", "\n\r\n")) else newline
    end = "" if not text or text.endswith("\n") else newline
    return text + end + gap + write_table(parent, name, values).replace("\n", newline)


def _replace(text: str, name: str, values: Mapping[str, str | list[str]]) -> str:
    begin, end = _marks(name)
    pattern = rf"(?ms)^{re.escape(begin)}\r?$.*?^{re.escape(end)}\r?$"
    match = re.search(pattern, text)
    if match is None:
        return text
    block = match[0]
    for key, value in values.items():
        line = f"{key} = {_value(value)}"
        block = re.sub(
            rf"(?m)^{re.escape(key)}[ \t]*=[^\r\n]*", lambda _, line=line: line, block, count=1
        )
    return text[: match.start()] + block + text[match.end() :]


def _marks(name: str) -> tuple[str, str]:
    return (
        f"# {name}: begin (written by `agents config`)",
        f"# {name}: end",
    )


def _value(value: str | list[str]) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = "".join(
        _ESCAPES.get(char) or (char if char.isprintable() else f"\\U{ord(char):08x}")
        for char in value
    )
    return f'"{text}"'
