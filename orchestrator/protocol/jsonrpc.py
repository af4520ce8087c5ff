"""JSON-RPC 2.0 messages: bytes to messages and back, without I/O.

What is read here is what every later step decides on, and what goes upstream is written from it.
So nothing may be read that would be written as something else: numbers keep their value, and text
that parsers read in different ways is refused.
"""

import json
from dataclasses import dataclass
from typing import TypeAlias, cast

import orjson

from orchestrator.errors import MalformedMessageError, UnreadableMessageError
from orchestrator.model.base import Json, JsonObject

RequestId: TypeAlias = str | int

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

# Below orjson's own limit for writing (254), so that whatever is read can be written again.
MAX_DEPTH = 128
# Values in one message: each costs many times its bytes once it is read.
MAX_VALUES = 200_000
# Of servers, which are trusted more, and whose results are larger.
MAX_ANSWER_VALUES = 2_000_000

_ONLY_DIGITS = bytes(ord("0") if ord("0") <= byte <= ord("9") else 0 for byte in range(256))
_LONG_NUMBER = b"0" * 19


# Messages are not frozen, as that would be a good part of what they cost; nobody changes one.


@dataclass(slots=True)
class Request:
    """A call that is owed an answer."""

    id: RequestId
    method: str
    params: JsonObject


@dataclass(slots=True)
class Notification:
    """A message that is owed none."""

    method: str
    params: JsonObject


@dataclass(slots=True)
class Response:
    """An answer; exactly one of `result` and `error` is set."""

    id: RequestId
    result: JsonObject | None
    error: JsonObject | None


Message: TypeAlias = Request | Notification | Response


def decode(data: bytes) -> Json:
    """Read one JSON text.

    Raises:
        UnreadableMessageError: It is no JSON by RFC 8259: also NaN, infinities, a number outside
            a double's range, lone surrogates, bytes that are no UTF-8, a byte order mark.
    """
    try:
        value = cast("Json", orjson.loads(data))
        # Not `in`, which tries to read what is looked for as a number first, and formats an error.
        if data.translate(_ONLY_DIGITS).find(_LONG_NUMBER) >= 0:
            # orjson reads an integer beyond 64 bits as the nearest double; an amount in a
            # blockchain's smallest unit is such a number, and must stay what it was.
            value = cast("Json", json.loads(data))
    except (ValueError, RecursionError) as error:
        raise UnreadableMessageError("The body is not valid JSON") from error
    return value


def encode(value: Json) -> bytes:
    """Write one JSON text, compact.

    Raises:
        ValueError: There is no JSON for it: NaN or an infinity.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates, and nesting beyond orjson's limit.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def check_breadth(data: bytes, limit: int | None = None) -> None:
    """Refuse a text that would be read into too many values, before it is read.

    Args:
        data: A JSON text; of anything else it does not matter what is told.
        limit: How many values it may hold; `MAX_VALUES` if None.

    Raises:
        MalformedMessageError: It holds more; a long text is one value.
    """
    most = MAX_VALUES if limit is None else limit
    if _count_separators(data) <= most:
        return
    # Without escapes every other piece between quotes is outside of strings. No value has more
    # than one key, so it takes twice as many strings, with two quotes each, to be too many.
    quotes = 4 * most
    pieces = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', quotes + 1)
    if len(pieces) > quotes + 1 or _count_separators(b"".join(pieces[::2])) > most:
        raise MalformedMessageError("The message holds too many values")


def _count_separators(data: bytes) -> int:
    return data.count(b"{") + data.count(b"[") + data.count(b",")


def check_depth(data: bytes, value: Json) -> None:
    """Refuse nesting that a later reader may not stand.

    Args:
        data: The text that `value` was read from; it tells quickly that there is nothing to look
            for.
        value: What was read.

    Raises:
        MalformedMessageError: It is nested deeper than `MAX_DEPTH`.
    """
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Json] = []
        for node in level:
            if isinstance(node, dict):
                deeper.extend(child for child in node.values() if isinstance(child, dict | list))
            elif isinstance(node, list):
                deeper.extend(child for child in node if isinstance(child, dict | list))
        if not deeper:
            return
        level = deeper
    raise MalformedMessageError("The body is nested too deeply")


def parse(value: Json) -> Message:
    """Tell which message a JSON value is.

    Raises:
        MalformedMessageError: It is none, or several at once.

    Source: JSON-RPC 2.0, sections 4 and 5; MCP narrows `id` and `params`.
    """
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise MalformedMessageError("The body must be one JSON-RPC 2.0 message")
    if "method" not in value:
        return _parse_response(value)
    method = value["method"]
    params = value.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise MalformedMessageError("`method` must be a text, and `params` an object")
    if "result" in value or "error" in value:
        raise MalformedMessageError("A message is a request or a response, not both")
    if "id" not in value:
        return Notification(method, params)
    return Request(_parse_id(value["id"]), method, params)


def _parse_response(value: JsonObject) -> Response:
    result, error = value.get("result"), value.get("error")
    if isinstance(result, dict) and "error" not in value:
        return Response(_parse_id(value.get("id")), result, None)
    if isinstance(error, dict) and "result" not in value:
        code, message = error.get("code"), error.get("message")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(message, str):
            return Response(_parse_id(value.get("id")), None, error)
    raise MalformedMessageError("The body is no request and no response")


def _parse_id(value: Json) -> RequestId:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise MalformedMessageError("`id` must be a text or an integer")


def request_body(request_id: RequestId, method: str, params: JsonObject) -> JsonObject:
    """Build a request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def notification_body(method: str, params: JsonObject) -> JsonObject:
    """Build a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result_body(request_id: RequestId, result: JsonObject) -> JsonObject:
    """Build an answer that succeeded."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_body(
    request_id: RequestId | None, code: int, message: str, data: Json = None
) -> JsonObject:
    """Build an answer that failed; the id is None where the request's could not be read."""
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
