"""Changes one place of a JSON text; every other byte stays as it is."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

Object: TypeAlias = "dict[str, object]"

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_INDENT: Final = re.compile(r"\n([ \t]+)\S")


class StructureError(ValueError):
    """The text is JSON, and not of the shape that is needed."""


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    value: object
    start: int
    end: int


def set_member(text: str, path: Sequence[str], value: object) -> str:
    """Set one member of a JSON text, and make the objects around it if there are none.

    Args:
        text: The text, an object; or nothing but spaces.
        path: Keys that lead to the member.
        value: Its new value.

    Returns:
        The new text.

    Raises:
        json.JSONDecodeError: The text is no JSON.
        StructureError: Something on the path is no object, or there twice.
    """
    if not text.strip():
        text = "{}\n"
    _ = cast("object", json.loads(text))  # so that all of it is known to be JSON from here on
    return _set(text, _skip(text, 0), list(path), value, 0)


def _set(text: str, start: int, path: list[str], value: object, depth: int) -> str:
    members = _members(text, start)
    key, rest = path[0], path[1:]
    found = [member for member in members if member.key == key]
    if len(found) > 1:
        raise StructureError(f"{key!r} is there twice")
    if found and rest:
        return _set(text, found[0].start, rest, value, depth + 1)
    if found:
        piece = _write(text, value, depth + 1, is_flat=False)
        return text[: found[0].start] + piece + text[found[0].end :]
    for name in reversed(rest):
        value = {name: value}
    return _add(text, start, members, (key, value), depth + 1)


def _add(text: str, start: int, members: list[_Member], new: tuple[str, object], depth: int) -> str:
    if not members:
        end = _skip(text, start + 1)
        is_flat = False
        before = ""
    else:
        # On one line, if the others are.
        end = members[-1].end
        is_flat = "\n" not in text[start : members[0].start]
        before = "," + (" " if is_flat else "")
    key, value = new
    piece = f"{json.dumps(key)}: {_write(text, value, depth, is_flat=is_flat)}"
    if is_flat:
        return text[:end] + before + piece + text[end:]
    newline, unit = _style(text)
    piece = f"{before}{newline}{unit * depth}{piece}"
    if not members:
        return text[: start + 1] + piece + newline + unit * (depth - 1) + text[end:]
    return text[:end] + piece + text[end:]


def _write(text: str, value: object, depth: int, *, is_flat: bool) -> str:
    if is_flat:
        return json.dumps(value, ensure_ascii=False)
    newline, unit = _style(text)
    lines = json.dumps(value, ensure_ascii=False, indent=unit).split("\n")
    return (newline + unit * depth).join(lines)


def _style(text: str) -> tuple[str, str]:
    match = _INDENT.search(text)
    return ("\r\n" if "\r\n" in text else "\n"), (match[1] if match else "  ")


def _members(text: str, start: int) -> list[_Member]:
    if text[start] != "{":
        raise StructureError("an object is expected where something else is")
    members: list[_Member] = []
    place = _skip(text, start + 1)
    while text[place] != "}":
        key, place = cast("tuple[str, int]", _DECODER.raw_decode(text, place))
        begin = _skip(text, _skip(text, place) + 1)
        value, end = cast("tuple[object, int]", _DECODER.raw_decode(text, begin))
        members.append(_Member(key, value, begin, end))
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return members


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return place if match is None else match.end()
