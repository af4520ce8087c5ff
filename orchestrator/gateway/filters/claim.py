"""Last before the server: hold the current instance until the reply has been sent."""

from typing import final

from orchestrator.errors import TargetUnavailableError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.table import Table


@final
class Claim:
    """Takes the role's target for the length of the exchange, so that draining sees the call."""

    def __init__(self, table: Table) -> None:
        """Claim from this table."""
        self._table = table

    async def __call__(self, exchange: Exchange, then: Handler, /) -> Reply:
        """Claim, and let go when the reply's last byte has been handed over.

        Raises:
            TargetUnavailableError: No instance takes calls, and none came in time.
            UnknownToolError: The role lost the tool while the call waited.
        """
        if exchange.place is None or exchange.call is None:
            raise TargetUnavailableError("Only tool calls need an instance")
        target = await self._table.claim(
            exchange.role, exchange.place, exchange.call.name, exchange.wait
        )
        exchange.finally_do(target.release)
        exchange.target = target
        return await then(exchange)
