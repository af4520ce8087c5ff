"""A tool's arguments: read from what a person gives, and told in short."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.errors import ProtocolError, SettingsError
from orchestrator.files import read_regular
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.text import cut, visible
from orchestrator.protocol import jsonrpc

# The gateway takes no longer body.
LONGEST: Final = 16 * 1024 * 1024
_SHOWN_VALUES: Final = 4
_LONGEST_TYPE: Final = 40


def read_arguments(text: str | None, pairs: Sequence[str], schema: Json) -> JsonObject:
    """Read the arguments of a call.

    Args:
        text: A JSON object, `@FILE`, `-` for standard input, or None for none.
        pairs: Further arguments as `KEY=VALUE`; a value is text where the schema wants a text, and
            JSON elsewhere if it is any.
        schema: The tool's `inputSchema`.

    Raises:
        SettingsError: They cannot be read; what was given is not repeated.
    """
    arguments = {} if text is None else _object(*_content(text))
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise SettingsError("--arg takes KEY=VALUE", hint="Such as: --arg symbol=ETH")
        arguments[key] = _value(value, _property(schema, key))
    return arguments


def _content(text: str) -> tuple[bytes, str]:
    """Tell the text that is meant, and what to call it."""
    if text == "-":
        content, name = sys.stdin.buffer.read(LONGEST + 1), "standard input"
    elif text.startswith("@"):
        name = text[1:]
        try:
            content, _ = read_regular(Path(name), LONGEST, follow=True)
        except OSError as error:
            raise SettingsError(f"{name} cannot be read: {error.strerror}") from error
    else:
        return text.encode("utf-8", "surrogateescape"), "the command line"
    if len(content) > LONGEST:
        raise SettingsError(f"{name}: more than {LONGEST // 1024 // 1024} MiB")
    return content, name


def _object(content: bytes, name: str) -> JsonObject:
    try:
        value = jsonrpc.decode(content)
    except ProtocolError as error:
        raise SettingsError(
            f"{name}: this is no JSON", hint="""Such as: '{"symbol": "ETH"}'"""
        ) from error
    if not isinstance(value, dict):
        raise SettingsError(f"{name}: arguments are one JSON object", hint="Such as: '{}'")
    return value


def _value(text: str, schema: JsonObject) -> Json:
    types = _types(schema)
    if types == ["string"]:
        return text
    try:
        value = jsonrpc.decode(text.encode("utf-8", "surrogateescape"))
    except ProtocolError:
        return text
    # Where a text would do, a number that nobody asked for is none.
    wants_text = "string" in types and not isinstance(value, dict | list)
    return text if wants_text and not _fits(value, types) else value


def _fits(value: Json, types: list[str]) -> bool:
    match value:
        case None:
            return "null" in types
        case bool():
            return "boolean" in types
        case int():
            return "integer" in types or "number" in types
        case float():
            return "number" in types
        case _:
            return False


def _property(schema: Json, key: str) -> JsonObject:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    found = properties.get(key) if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}


def _types(schema: JsonObject) -> list[str]:
    """Tell which JSON types a schema allows, as far as it says so itself; empty for any."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return [kinds]
    if isinstance(kinds, list):
        return [kind for kind in kinds if isinstance(kind, str)]
    choices = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(choices, list):
        found = [kind for one in choices if isinstance(one, dict) for kind in _types(one)]
        return list(dict.fromkeys(found))
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(one, str) for one in values):
        return ["string"]
    return []


def short_form(schema: Json) -> str:
    """Tell a tool's arguments in one line: `chain: ethereum|base, to: string, [memo: string]`."""
    if not isinstance(schema, dict):
        return ""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return ""
    needed = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    names = [key for key in needed if key in properties]
    names += [key for key in properties if key not in needed]
    parts: list[str] = []
    for name in names:
        part = f"{visible(name, '')}: {_short_type(properties[name])}"
        parts.append(part if name in needed else f"[{part}]")
    return ", ".join(parts)


def _short_type(schema: Json) -> str:
    if not isinstance(schema, dict):
        return "any"
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        shown = [visible(str(value), "") for value in values[:_SHOWN_VALUES]]
        return cut("|".join(shown + ["..."] * (len(values) > _SHOWN_VALUES)), _LONGEST_TYPE)
    choices = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(choices, list):
        found = [_short_type(one) for one in choices if one != {"type": "null"}]
        return cut("|".join(dict.fromkeys(found)), _LONGEST_TYPE) or "any"
    kinds = [kind for kind in _types(schema) if kind != "null"]
    if kinds == ["array"] and isinstance(items := schema.get("items"), dict):
        return f"{_short_type(items)}[]"
    return cut(visible("|".join(kinds), ""), _LONGEST_TYPE) or "any"
