"""What is answered from the snapshot: only what was attested is ever shown.

It stands before the claim, so that an agent opens and lists whatever its instance does just now.
"""

from typing import final

from orchestrator.errors import InvalidParamsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp


@final
class Disclose:
    """Answers everything but tool calls."""

    def __init__(self, server_info: JsonObject) -> None:
        """Answer as this server."""
        self._server_info = server_info

    async def __call__(self, exchange: Exchange, then: Handler, /) -> Reply:
        """Answer, or pass a tool call on.

        Raises:
            InvalidParamsError: The parameters do not have the method's shape.
        """
        result: JsonObject
        match exchange.served:
            case "tools/call" | None:
                return await then(exchange)
            case "initialize":
                version = mcp.agree_on_version(exchange.params)
                result = mcp.initialize_result(version, self._server_info)
            case "server/discover":
                result = mcp.discover_result()
            case "ping":
                result = {}
            case "tools/list":
                if exchange.params.get("cursor") is not None:
                    # There is one page, so no cursor was ever given out.
                    raise InvalidParamsError("Invalid params: unknown cursor")
                tools = () if exchange.place is None else exchange.place.route.tools
                result = mcp.list_result(tools)
        if exchange.request_id is None:
            return await then(exchange)
        result = mcp.result_for(exchange.era, result, self._server_info)
        return Reply(200, jsonrpc.encode(jsonrpc.result_body(exchange.request_id, result)))
