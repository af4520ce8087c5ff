"""Errors of our own as answers to the client, told as the gateway tells its own."""

from typing import Final

from orchestrator.errors import (
    AgentsError,
    MalformedMessageError,
    ProtocolError,
    TokenError,
    TooManyCallsError,
    UnreadableMessageError,
)
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc

# Own codes, as the gateway uses them.
_UPSTREAM: Final = (-31001, "upstream")
_AUTH: Final = (-31003, "auth")
_LIMIT: Final = (-31004, "limit")


def refusal(request_id: jsonrpc.RequestId | None, error: AgentsError) -> bytes:
    """Write the answer to a request that failed before the gateway answered it."""
    match error:
        case UnreadableMessageError():
            code, category = jsonrpc.PARSE_ERROR, "validation"
        case MalformedMessageError():
            code, category = jsonrpc.INVALID_REQUEST, "validation"
        case ProtocolError():
            code, category = jsonrpc.INVALID_PARAMS, "validation"
        case TokenError():
            code, category = _AUTH
        case TooManyCallsError():
            code, category = _LIMIT
        case _:
            code, category = _UPSTREAM
    message = str(error)
    data: JsonObject = {"category": category, "code": error.code, "message": message}
    if error.hint:
        data["requiredAction"] = error.hint
        message = f"{message}. {error.hint}"
    return jsonrpc.encode(jsonrpc.error_body(request_id, code, message, data))


def unexpected(request_id: jsonrpc.RequestId, error: Exception) -> bytes:
    """Write the answer to a request that failed in a way that nobody foresaw."""
    message = f"`agents connect` failed unexpectedly: {type(error).__name__}"
    data: JsonObject = {"category": "upstream", "code": AgentsError.code, "message": message}
    return jsonrpc.encode(jsonrpc.error_body(request_id, jsonrpc.INTERNAL_ERROR, message, data))
