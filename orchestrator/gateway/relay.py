"""The end of the chain: one tool call to one instance, and its answer in the caller's era."""

import asyncio
from collections.abc import Awaitable
from typing import Final, final

from orchestrator.errors import (
    NotRelayedError,
    TargetUnavailableError,
    TokenExpiredError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.gateway.replies import status_of
from orchestrator.gateway.settings import Common
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp

# Errors that speak of the connection between the gateway and the instance: a caller would take
# them for its own.
_OF_THIS_HOP: Final = frozenset({mcp.HEADER_MISMATCH, mcp.UNSUPPORTED_VERSION})
# Errors that ask for something a caller cannot give through the gateway.
_ASKS_CALLER: Final = frozenset({mcp.MISSING_CAPABILITY, mcp.URL_ELICITATION_REQUIRED})


@final
class Relay:
    """Makes tool calls."""

    def __init__(self, common: Common, *, call_seconds: float, patience: float) -> None:
        """Set the bounds of a call.

        Args:
            common: The gateway.
            call_seconds: Longest time that a call may take.
            patience: Seconds before it is looked whether the caller is still there.
        """
        self._server_info = common.info
        self._clock = common.clock
        self._call_seconds = call_seconds
        self._patience = patience

    async def __call__(self, exchange: Exchange, /) -> Reply:
        """Make the call that the exchange was found to be.

        Raises:
            UpstreamError: There is no usable answer.
            TokenError: The caller's token ended meanwhile.
        """
        self._set_deadline(exchange)
        # From here to the pipe nothing waits: what ended the token until now ends the call unsent.
        exchange.require_whole()
        if exchange.era == "modern":
            # In the legacy era a hang-up is no cancel.
            exchange.watch(self._patience)
        request_id, answer = _send(exchange)
        return self._adapt(exchange, request_id, await answer)

    def _set_deadline(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        error = UpstreamTimeoutError("The instance did not answer in time")
        timer = loop.call_later(self._call_seconds, exchange.interrupt, error)
        exchange.finally_do(timer.cancel)
        if exchange.principal is None:
            return
        left = (exchange.principal.expires_at - self._clock.now()).total_seconds()
        if left < self._call_seconds:
            expired = TokenExpiredError("The token's time is over")
            if left <= 0:
                raise expired
            exchange.finally_do(loop.call_later(left, exchange.interrupt, expired).cancel)

    def _adapt(
        self, exchange: Exchange, request_id: jsonrpc.RequestId, response: jsonrpc.Response
    ) -> Reply:
        if response.error is not None:
            return _relay_error(exchange, request_id, response.error)
        result = {} if response.result is None else response.result
        mcp.check_relayed(result)
        result = mcp.result_for(exchange.era, result, self._server_info)
        category = "tool_error" if result.get("isError") is True else "ok"
        try:
            body = jsonrpc.encode(jsonrpc.result_body(request_id, result))
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError("The answer cannot be written as JSON") from error
        return Reply(200, body, category)


def _send(exchange: Exchange) -> tuple[jsonrpc.RequestId, Awaitable[jsonrpc.Response]]:
    """Hand the call to the wire, and let go of its content: from now on it is a line there.

    Returns:
        The caller's id of the request, and the answer.
    """
    target, call, request_id = exchange.target, exchange.call, exchange.request_id
    if target is None or call is None or request_id is None:
        raise TargetUnavailableError("Only tool calls go to an instance")
    answer = target.call(call, exchange.id, exchange.wait)
    exchange.call = mcp.ToolCall(call.name, None, {})
    exchange.params = {}
    exchange.held_bytes = 0
    return request_id, answer


def _relay_error(exchange: Exchange, request_id: jsonrpc.RequestId, error: JsonObject) -> Reply:
    """Pass on an error as the server made it: code, message and data."""
    code = error["code"]
    if not isinstance(code, int) or code in _OF_THIS_HOP:
        raise UpstreamProtocolError("The instance refused the gateway's own words")
    if code in _ASKS_CALLER:
        raise NotRelayedError("The tool asks its caller for more, which is not available here")
    body: JsonObject = {"jsonrpc": "2.0", "id": request_id, "error": error}
    return Reply(status_of(exchange, code), jsonrpc.encode(body), "rpc_error")
