"""Default deny: only methods of the table, and only tools that the role was attested to have."""

from typing import final

from orchestrator.errors import MethodNotAllowedError, UnknownToolError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.table import Table
from orchestrator.protocol import headers, mcp


@final
class Authorize:
    """Decides from the parsed message whether it may go on."""

    def __init__(self, table: Table) -> None:
        """Decide by the table's current snapshot."""
        self._table = table

    async def __call__(self, exchange: Exchange, then: Handler, /) -> Reply:
        """Let served methods through, and calls of the role's own tools.

        Raises:
            MethodNotAllowedError: The method is not served in the caller's era.
            UnknownToolError: The role has no such tool.
            InvalidParamsError: The parameters do not have the method's shape.
            HeaderMismatchError: A modern caller's headers tell other arguments than its body.
            TargetUnavailableError: Nobody knows yet which tools the role has.
        """
        served = mcp.SERVED[exchange.era].get(exchange.method)
        if served is None:
            raise MethodNotAllowedError("Method not found")
        exchange.served = served
        if served == "tools/call":
            exchange.call = mcp.parse_tool_call(exchange.params)
            exchange.place = await self._table.attested(exchange.role, exchange.wait)
            tool = exchange.place.tools.get(exchange.call.name)
            if tool is None:
                # The same words for a hidden tool, so that nobody learns that it exists.
                raise UnknownToolError(exchange.call.name)
            exchange.kind = tool.kind
            if exchange.era == "modern":
                headers.check_parameters(
                    tool.headers, exchange.call.arguments or {}, exchange.head.raw
                )
        elif served == "tools/list":
            exchange.place = await self._table.attested(exchange.role, exchange.wait)
        return await then(exchange)
