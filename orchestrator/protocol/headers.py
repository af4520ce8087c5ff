"""Header values that repeat parts of a modern request, without I/O.

Source: MCP 2026-07-28, Streamable HTTP, standard and custom headers.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import HeaderMismatchError
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol.mcp import LATEST_MODERN, NAME_PARAMETER

PARAMETER_PREFIX: Final = b"mcp-param-"
ANNOTATION: Final = "x-mcp-header"

_ENCODED = re.compile(r"=\?base64\?(?P<payload>.*)\?=")
_SAFE = re.compile(r"[\x20-\x7e]*")
# Source: RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VERSION = LATEST_MODERN.encode()
_DECIMAL = re.compile(r"(-?[0-9]+)(?:\.(0+))?")
# Far below the length at which Python refuses to read an integer.
_MAX_DIGITS = 1_000
_ANNOTATED_TYPES = frozenset({"string", "integer", "boolean"})

# JSON Schema 2020-12 keywords that hold schemas, by the shape of their values. `properties` is the
# only one along which an annotation may be reached.
_HOLDS_ONE = frozenset(
    {
        "items",
        "contains",
        "unevaluatedItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
_HOLDS_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_HOLDS_MAP = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})


def encode_value(value: str) -> str:
    """Write a text as a header's value; whatever a header could spoil is wrapped in Base64."""
    if _SAFE.fullmatch(value) and value == value.strip() and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


def decode_value(value: bytes) -> str | None:
    """Read a header's value; None when its wrapping is broken, so that it matches nothing."""
    text = value.decode("latin-1")
    match = _ENCODED.fullmatch(text)
    if match is None:
        return text
    payload = match["payload"]
    try:
        decoded = base64.b64decode(payload, validate=True)
        # Two spellings of one value would let two readers differ.
        return decoded.decode() if base64.b64encode(decoded).decode("ascii") == payload else None
    except (binascii.Error, ValueError):
        return None


def plain_tool(headers: Mapping[bytes, bytes]) -> str | None:
    """Tell which tool the standard headers say is called.

    Returns:
        None if they do not say that of today's revision, or wrap the name: they may be right all
        the same, and `check_standard` finds out.
    """
    name = headers.get(b"mcp-name", b"").decode("latin-1")
    says_so = (
        headers.get(b"mcp-protocol-version") == _VERSION
        and headers.get(b"mcp-method") == b"tools/call"
        and _NAME.fullmatch(name)
    )
    return name if says_so else None


def check_standard(
    headers: Mapping[bytes, bytes], version: Json, method: str, params: JsonObject
) -> None:
    """Check that the standard headers repeat the body.

    Args:
        headers: The request's headers, names in lower case.
        version: The revision that the body names.
        method: The body's method.
        params: The body's parameters.

    Raises:
        HeaderMismatchError: One does not.
    """
    found = headers.get(b"mcp-protocol-version")
    if found is None or found.decode("latin-1") != version:
        raise HeaderMismatchError("The mcp-protocol-version header does not match the body")
    if headers.get(b"mcp-method", b"").decode("latin-1") != method:
        raise HeaderMismatchError("The mcp-method header does not match the body's method")
    parameter = NAME_PARAMETER.get(method)
    if parameter is None or params.get(parameter) is None:
        return
    if decode_value(headers.get(b"mcp-name", b"")) != params[parameter]:
        raise HeaderMismatchError(f"The mcp-name header does not match the body's {parameter!r}")


def write_standard(version: str, method: str, params: JsonObject) -> list[tuple[str, str]]:
    """Write the headers that repeat a modern message.

    Args:
        version: The revision, a plain word.
        method: The method, a plain word.
        params: The message's parameters.
    """
    headers = [("mcp-protocol-version", version), ("mcp-method", method)]
    parameter = NAME_PARAMETER.get(method)
    if parameter is not None and isinstance(name := params.get(parameter), str):
        headers.append(("mcp-name", encode_value(name)))
    return headers


@dataclass(frozen=True, slots=True)
class ParameterHeader:
    """One argument that a header has to repeat.

    Attributes:
        name: The header's name, in lower case.
        path: Keys that lead to the argument.
        kind: Its type: string, integer or boolean.
    """

    name: bytes
    path: tuple[str, ...]
    kind: str


def parameter_headers(schema: Json) -> tuple[ParameterHeader, ...]:
    """Read which arguments of a tool have to be repeated in headers.

    Returns:
        One for each annotation; none at all if one is invalid, as conforming clients drop such a
        tool and send no headers for it.
    """
    rules: dict[bytes, ParameterHeader] = {}
    for path, node in _walk(schema):
        if ANNOTATION not in node:
            continue
        token, kind = node[ANNOTATION], node.get("type")
        if not path or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return ()
        if not isinstance(kind, str) or kind not in _ANNOTATED_TYPES:
            return ()
        name = PARAMETER_PREFIX + token.lower().encode("ascii")
        if name in rules:
            return ()
        rules[name] = ParameterHeader(name, path, kind)
    return tuple(rules.values())


def _walk(schema: Json) -> Iterator[tuple[tuple[str, ...] | None, JsonObject]]:
    """Yield every schema inside a schema, with the `properties` that lead to it, or None."""
    stack: list[tuple[tuple[str, ...] | None, Json]] = [((), schema)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for keyword, value in node.items():
            if keyword == "properties" and isinstance(value, dict):
                for key, child in value.items():
                    stack.append((None if path is None else (*path, key), child))
            elif keyword in _HOLDS_ONE:
                stack.append((None, value))
            elif keyword in _HOLDS_LIST and isinstance(value, list):
                stack.extend((None, child) for child in value)
            elif keyword in _HOLDS_MAP and isinstance(value, dict):
                stack.extend((None, child) for child in value.values())


def write_parameters(rules: tuple[ParameterHeader, ...], arguments: Json) -> list[tuple[str, str]]:
    """Write the headers that repeat the arguments of a call; no argument, no header.

    Args:
        rules: What the tool asks for.
        arguments: The call's arguments.
    """
    return [
        (rule.name.decode("ascii"), encode_value(text))
        for rule in rules
        if (text := _write(_value_at(arguments, rule.path))) is not None
    ]


def check_parameters(
    rules: tuple[ParameterHeader, ...],
    arguments: JsonObject,
    headers: Iterable[tuple[bytes, bytes]],
) -> None:
    """Check that the headers of a call repeat the arguments that its tool asks for.

    A header whose argument is absent is refused too: somebody on the way may have decided by it.

    Args:
        rules: What the tool asks for; headers that it does not know are nobody's business here.
        arguments: The call's arguments.
        headers: The request's headers as they came, names in lower case, duplicates included.

    Raises:
        HeaderMismatchError: One is missing, repeated, or different.
    """
    found: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in headers:
        if name.startswith(PARAMETER_PREFIX):
            if name in found:
                repeated.add(name)
            found[name] = value
    for rule in rules:
        name = rule.name.decode("ascii")
        raw, value = found.get(rule.name), _value_at(arguments, rule.path)
        if rule.name in repeated:
            raise HeaderMismatchError(f"The {name} header appears more than once")
        written = _write(value)
        if (raw is None) != (written is None):
            raise HeaderMismatchError(f"The {name} header and its argument must come together")
        if raw is None or written is None:
            continue
        decoded = decode_value(raw)
        if decoded != written and not _same_number(rule.kind, value, decoded):
            raise HeaderMismatchError(f"The {name} header does not match its argument")


def _value_at(arguments: Json, path: tuple[str, ...]) -> Json:
    node: Json = arguments
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def _write(value: Json) -> str | None:
    """Write an argument as a client writes it into a header; None where it writes no header."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | float():
            return str(value)
        case int():
            try:
                return str(value)
            except ValueError:  # more digits than Python writes
                return None
        case _:
            return None


def _same_number(kind: str, value: Json, decoded: str | None) -> bool:
    """Tell whether an integer argument and a header are one number: `42` and `42.0` are."""
    if kind != "integer" or decoded is None or isinstance(value, bool):
        return False
    match = _DECIMAL.fullmatch(decoded)
    if match is None or len(match[1]) > _MAX_DIGITS:
        return False
    return isinstance(value, int | float) and value == int(match[1])
