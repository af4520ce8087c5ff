"""From errors to what an agent sees: one table.

Every error is told as `{category, code, message, requiredAction?, retryAfterMs?, requestId}`: as a
tool result with `isError` where the model can act on it, as data of a JSON-RPC error elsewhere.
The words are those of the table, or of an error whose words were written for agents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from orchestrator import errors
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp

Category: TypeAlias = Literal["validation", "upstream", "flow", "auth", "limit", "not_available"]

# Own codes lie outside of what JSON-RPC and MCP keep for themselves (-32768 to -32000).
_OWN_CODES: Final[Mapping[Category, int]] = MappingProxyType(
    {
        "validation": -31000,
        "upstream": -31001,
        "flow": -31002,
        "auth": -31003,
        "limit": -31004,
        "not_available": -31005,
    }
)
REQUEST_CANCELLED: Final = -32800


@dataclass(frozen=True, slots=True)
class Row:
    """How one class of errors is told.

    Attributes:
        category: One of the six.
        acts: Whether the model can act on it: a call then ends with a tool result.
        sentence: The words; None for the error's own, which were written for agents.
        rpc_code: Code of the JSON-RPC error; None for the category's own.
        required_action: What the agent has to do first.
        retry_after_ms: When another try makes sense.
        http_status: Status of a refusal before the message was read; None for the JSON-RPC code's.
        session_status: Status of a refusal for its session, whatever was asked in it.
        is_internal: Whether even the error's code is nobody's business.
        mark: Key in `_meta` of a tool result that is true; none if None.
    """

    category: Category
    acts: bool = False
    sentence: str | None = None
    rpc_code: int | None = None
    required_action: str | None = None
    retry_after_ms: int | None = None
    http_status: int | None = None
    session_status: int | None = None
    is_internal: bool = False
    mark: str | None = None


# Statuses beside which HTTP has a header for when to try again.
_LATER: Final = frozenset({429, 503})
_INTERNAL: Final = Row(
    "upstream", sentence="Internal error", rpc_code=jsonrpc.INTERNAL_ERROR, is_internal=True
)
_AUTH: Final = Row("auth", sentence="The token is not valid here")
_ASK_OPERATOR: Final = "Ask whoever runs the gateway; trying again does not help."
_CHECK_FIRST: Final = "Find out whether the call took effect before you make it again."

TABLE: Final[Mapping[type[errors.AgentsError], Row]] = MappingProxyType(
    {
        errors.RoleFileError: _INTERNAL,
        errors.SettingsError: _INTERNAL,
        errors.SecretRefError: _INTERNAL,
        errors.SecretNotFoundError: _INTERNAL,
        errors.SecretStoreUnavailableError: _INTERNAL,
        errors.TokenUnknownError: _AUTH,
        errors.TokenExpiredError: _AUTH,
        errors.TokenRevokedError: _AUTH,
        errors.TokenScopeError: Row(
            "auth", sentence="The token does not allow this role", http_status=403
        ),
        errors.TokenUncheckedError: Row(
            "not_available",
            sentence="Tokens cannot be checked right now; nothing was done",
            retry_after_ms=5_000,
            http_status=503,
        ),
        errors.CallDeniedError: Row("auth", acts=True),
        errors.RateLimitedError: Row("limit", acts=True, retry_after_ms=1_000),
        errors.BusyError: Row("limit", acts=True, retry_after_ms=1_000),
        errors.ArgumentsRefusedError: Row(
            "validation",
            acts=True,
            required_action="Correct the arguments as the tool's input schema says.",
        ),
        errors.SecretInArgumentsError: Row(
            "validation",
            acts=True,
            required_action="Leave secrets out of arguments; what a tool needs, its server has.",
        ),
        errors.SumExceededError: Row("limit", acts=True),
        errors.ApprovalRequiredError: Row("flow", acts=True),
        errors.ApprovalDeniedError: Row("flow", acts=True),
        errors.ApprovalTakenError: Row("flow", acts=True),
        errors.ApprovalUnknownError: _INTERNAL,  # told by commands only
        errors.ApprovalClosedError: _INTERNAL,
        errors.ApprovalChangedError: _INTERNAL,
        errors.ApproverError: _INTERNAL,
        errors.RoleFrozenError: Row("not_available", acts=True, required_action=_ASK_OPERATOR),
        errors.ToolDisabledError: Row("not_available", acts=True, required_action=_ASK_OPERATOR),
        errors.ShadowedError: Row(
            "flow",
            acts=True,
            required_action="Go on as if it could not be done; trying again does not help.",
            mark=mcp.SHADOW_KEY,
        ),
        errors.UnknownToolError: Row("not_available", rpc_code=jsonrpc.INVALID_PARAMS),
        errors.LinkRefusedError: _INTERNAL,  # told to people only
        errors.TooManyCallsError: Row(
            "limit",
            sentence="Too much is under way with this token; nothing was done",
            retry_after_ms=1_000,
            http_status=429,
        ),
        errors.RuntimeUnavailableError: _INTERNAL,
        errors.ContainerEngineError: _INTERNAL,
        errors.ContainerError: _INTERNAL,
        errors.WorkloadStartError: _INTERNAL,
        errors.WorkloadNotReadyError: _INTERNAL,
        errors.AttestationError: _INTERNAL,
        errors.TargetLostError: Row(
            "upstream",
            acts=True,
            sentence="The tool server ended during the call; the outcome is unknown",
            required_action=_CHECK_FIRST,
        ),
        errors.TargetUnavailableError: Row(
            "upstream",
            acts=True,
            sentence="The tool server is not available right now; nothing was done",
            retry_after_ms=2_000,
        ),
        errors.RoleHeldError: Row(
            "not_available",
            acts=True,
            sentence="A credential of the role is being replaced; nothing was done",
            retry_after_ms=5_000,
            http_status=503,
        ),
        errors.RoleClosedError: Row(
            "not_available",
            acts=True,
            sentence="The role was closed by its operator; nothing was done",
            required_action=_ASK_OPERATOR,
            http_status=503,
        ),
        errors.UpstreamTimeoutError: Row(
            "upstream",
            acts=True,
            sentence="The tool server did not answer in time; the outcome is unknown",
            required_action=_CHECK_FIRST,
        ),
        errors.UpstreamProtocolError: Row(
            "upstream",
            acts=True,
            sentence="The tool server's answer cannot be used; the outcome is unknown",
            required_action=_CHECK_FIRST,
        ),
        errors.NotRelayedError: Row("not_available", acts=True),
        errors.CallCancelledError: Row("flow", rpc_code=REQUEST_CANCELLED),
        errors.UndeliveredError: _INTERNAL,  # told by commands only
        errors.ToolFailedError: _INTERNAL,
        errors.CallerAskedError: _INTERNAL,
        errors.UnknownResourceError: Row("not_available", rpc_code=jsonrpc.INVALID_PARAMS),
        errors.UnknownPromptError: Row("not_available", rpc_code=jsonrpc.INVALID_PARAMS),
        errors.SessionRequiredError: Row(
            "validation", rpc_code=jsonrpc.INVALID_REQUEST, session_status=400
        ),
        errors.SessionUnknownError: Row(
            "validation", rpc_code=jsonrpc.INVALID_REQUEST, session_status=404
        ),
        errors.StateUnknownError: Row("validation", rpc_code=jsonrpc.INVALID_PARAMS),
        errors.UnreadableMessageError: Row("validation", rpc_code=jsonrpc.PARSE_ERROR),
        errors.MalformedMessageError: Row("validation", rpc_code=jsonrpc.INVALID_REQUEST),
        errors.HeaderMismatchError: Row("validation", rpc_code=mcp.HEADER_MISMATCH),
        errors.UnsupportedVersionError: Row("validation", rpc_code=mcp.UNSUPPORTED_VERSION),
        errors.InvalidParamsError: Row("validation", rpc_code=jsonrpc.INVALID_PARAMS),
        errors.MethodNotAllowedError: Row("not_available", rpc_code=jsonrpc.METHOD_NOT_FOUND),
        errors.IssuerError: _INTERNAL,  # told by commands only
        errors.IssuerUncertainError: _INTERNAL,
        errors.IssuerPersonError: _INTERNAL,
        errors.RotationBusyError: _INTERNAL,
        errors.RotationUnknownError: _INTERNAL,
        errors.LockHeldError: _INTERNAL,
        errors.StateCorruptError: _INTERNAL,
        errors.StateUnwritableError: _INTERNAL,
        errors.PinsChangedError: _INTERNAL,
        errors.RecordChangedError: _INTERNAL,
        errors.IncidentUnknownError: _INTERNAL,
        errors.RecordUnavailableError: Row(
            "not_available",
            acts=True,
            sentence="Calls cannot be recorded right now, so none is made; nothing was done",
            retry_after_ms=5_000,
            http_status=503,
        ),
        errors.OutcomeUnrecordedError: Row(
            "upstream",
            acts=True,
            sentence="The call was made; its outcome cannot be recorded, so it is not told",
            required_action=_CHECK_FIRST,
        ),
        errors.NotRunningError: _INTERNAL,
        errors.ControlUnavailableError: _INTERNAL,
    }
)


def _unauthorized(request_id: jsonrpc.RequestId | None) -> bytes:
    return jsonrpc.encode(
        jsonrpc.error_body(
            request_id,
            _OWN_CODES["auth"],
            "Unauthorized: the token is not valid here",
            {"category": "auth", "code": "token", "message": "The token is not valid here"},
        )
    )


# The same bytes for every reason, so that nobody learns which it was; the id is in the header.
# Clients show the message of a 401 only if its body is a JSON-RPC error.
_UNAUTHORIZED: Final = Reply(
    401,
    _unauthorized(None),
    headers=((b"www-authenticate", b'Bearer error="invalid_token"'),),
    category="auth",
)


def refuse(exchange: Exchange, error: errors.AgentsError) -> Reply:
    """Tell the caller an error, in the caller's era."""
    row = TABLE.get(type(error), _INTERNAL)
    code = errors.AgentsError.code if row.is_internal else error.code
    if row is _AUTH:
        # On a stream that has begun the request has to be answered by its id.
        identity = exchange.request_id if exchange.is_streaming else None
        body = _UNAUTHORIZED.body if identity is None else _unauthorized(identity)
        return Reply(401, body, "auth", code, _UNAUTHORIZED.headers)
    data = _describe(exchange, error, row, code)
    if row.acts and exchange.method == "tools/call" and exchange.request_id is not None:
        return _tell_model(exchange, exchange.request_id, data, row, code)
    if isinstance(error, errors.UnsupportedVersionError):
        data |= {"supported": [*mcp.MODERN_VERSIONS], "requested": error.requested}
    rpc_code = _OWN_CODES[row.category] if row.rpc_code is None else row.rpc_code
    status = status_of(exchange, rpc_code)
    if row.http_status is not None and exchange.request_id is None:
        status = row.http_status
    if row.session_status is not None:
        status = row.session_status
    retry_after_ms = data.get("retryAfterMs")
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status in _LATER and isinstance(retry_after_ms, int):
        headers = ((b"retry-after", b"%d" % math.ceil(retry_after_ms / 1_000)),)
    body = jsonrpc.error_body(exchange.request_id, rpc_code, str(data["message"]), data)
    return Reply(status, jsonrpc.encode(body), row.category, code, headers)


def _describe(exchange: Exchange, error: errors.AgentsError, row: Row, code: str) -> JsonObject:
    """Tell what an agent hears of an error."""
    message = error.message if row.sentence is None else row.sentence
    data: JsonObject = {"category": row.category, "code": code, "message": message}
    required_action = row.required_action
    if isinstance(error, errors.ApprovalError) and not row.is_internal:
        required_action = error.required_action
        if error.approval:
            data["approvalId"] = error.approval
    if required_action is not None:
        data["requiredAction"] = required_action
    retry_after_ms = row.retry_after_ms
    if isinstance(error, errors.RuleError) and error.retry_after_ms is not None:
        retry_after_ms = error.retry_after_ms
    if retry_after_ms is not None:
        data["retryAfterMs"] = retry_after_ms
    data["requestId"] = exchange.id
    return data


def refuse_unexpected(exchange: Exchange) -> Reply:
    """Tell the caller that something went wrong that nobody foresaw; only the id says more."""
    data: JsonObject = {
        "category": "upstream",
        "code": errors.AgentsError.code,
        "message": "Internal error",
        "requestId": exchange.id,
    }
    body = jsonrpc.error_body(exchange.request_id, jsonrpc.INTERNAL_ERROR, "Internal error", data)
    return Reply(500, jsonrpc.encode(body), "upstream", errors.AgentsError.code)


def refuse_http(
    exchange: Exchange,
    status: int,
    message: str,
    *,
    code: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Reply:
    """Tell the caller that a request is not even one, as HTTP."""
    data: JsonObject = {
        "category": "validation",
        "code": code,
        "message": message,
        "requestId": exchange.id,
    }
    body = jsonrpc.error_body(None, jsonrpc.INVALID_REQUEST, message, data)
    return Reply(status, jsonrpc.encode(body), "validation", code, headers)


def status_of(exchange: Exchange, rpc_code: int) -> int:
    """Tell the HTTP status of a JSON-RPC error in the caller's era."""
    if exchange.era == "legacy" and exchange.request_id is not None:
        return 200
    return mcp.STATUS_OF_CODE.get(rpc_code, 400 if exchange.request_id is None else 200)


def _tell_model(
    exchange: Exchange,
    request_id: jsonrpc.RequestId,
    data: JsonObject,
    row: Row,
    code: str,
) -> Reply:
    result: JsonObject = {
        "content": [{"type": "text", "text": jsonrpc.encode(data).decode()}],
        "structuredContent": data,
        "isError": True,
    }
    if row.mark is not None:
        result["_meta"] = {row.mark: True}
    if exchange.era == "modern":
        result["resultType"] = "complete"
    return Reply(200, jsonrpc.encode(jsonrpc.result_body(request_id, result)), row.category, code)
