"""Tells in words what a call will do: a server file's text with the call's own arguments in it.

What is shown is taken from the arguments that will be sent, never from what an agent says of them.
A text that cannot be filled in tells that, and all arguments as they are.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from orchestrator.approvals.evm import read_transaction
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.receipt import PLACE
from orchestrator.model.text import visible

_LONGEST_VALUE: Final = 2_000
_LONGEST: Final = 16_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a person is told.

    Attributes:
        text: What will happen, in lines.
        warnings: What could not be told.
    """

    text: str
    warnings: tuple[str, ...] = ()


def write_receipt(template: str, arguments: JsonObject) -> Receipt:
    """Tell what a call does.

    Args:
        template: The tool's text; empty for all arguments as they are.
        arguments: The call's arguments.
    """
    if not template:
        return Receipt(_list(arguments))
    warnings: list[str] = []

    def fill(match: re.Match[str]) -> str:
        path, name = match[1], match[2] or "text"
        try:
            return _FILTERS[name](_find(arguments, path))
        except LookupError:
            warnings.append(f"the call has no argument {path}")
            return "(not given)"
        except ValueError as error:
            warnings.append(f"{path} cannot be read: {error}")
            return "(cannot be read)"

    text = PLACE.sub(fill, template).strip("\n")
    if left := divide(template, arguments)[1]:
        text += f"\n\nFurther arguments:\n{_list(left)}"
    if warnings:
        text += f"\n\nAll arguments as they are:\n{_list(arguments)}"
    if len(text) > _LONGEST:
        warnings.append("it is too long to be shown whole")
    return Receipt(_cut(text, _LONGEST), tuple(warnings))


def divide(template: str, arguments: JsonObject) -> tuple[JsonObject, JsonObject]:
    """Tell which arguments a text names, however deep they are, and what is left of all."""
    return _divide(arguments, [match[1].split(".") for match in PLACE.finditer(template)])


def _divide(value: JsonObject, paths: Sequence[Sequence[str]]) -> tuple[JsonObject, JsonObject]:
    named: JsonObject = {}
    left: JsonObject = {}
    for name, inner in value.items():
        below = [path[1:] for path in paths if path[0] == name]
        if not below:
            left[name] = inner
        elif not isinstance(inner, dict) or not all(below):
            named[name] = inner
        else:
            for part, found in zip((named, left), _divide(inner, below), strict=True):
                if found:
                    part[name] = found
    return named, left


def _find(arguments: JsonObject, path: str) -> Json:
    value: Json = arguments
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise LookupError(path)
        value = value[name]
    return value


def _text(value: Json) -> str:
    # A line end in it would let an agent write lines of its own.
    return _cut(visible(value, "") if isinstance(value, str) else _json(value), _LONGEST_VALUE)


def _json(value: Json) -> str:
    return visible(json.dumps(value, ensure_ascii=False, sort_keys=True), "")


def _evm(value: Json) -> str:
    if not isinstance(value, str):
        raise ValueError("it is no text")  # noqa: TRY004  one kind of error for all that is unreadable
    return read_transaction(value)


def _list(arguments: JsonObject) -> str:
    lines = [
        f"{visible(name, '')}: {_cut(_json(value), _LONGEST_VALUE)}"
        for name, value in arguments.items()
    ]
    return _cut("\n".join(lines), _LONGEST) or "(no arguments)"


def _cut(text: str, most: int) -> str:
    """Shorten a text, and say so."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text) - most} more characters are not shown)"


_FILTERS: Final[Mapping[str, Callable[[Json], str]]] = MappingProxyType(
    {"text": _text, "json": _json, "evm": _evm}
)
