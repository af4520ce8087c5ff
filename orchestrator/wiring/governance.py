"""What governs calls, put together: guards, approvals, incidents."""

import os
import pwd
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, final

from orchestrator.control.guarding import GuardOrders
from orchestrator.control.incident_orders import IncidentOrders
from orchestrator.model.admin import Progress, Result
from orchestrator.model.admin_governance import (
    ApprovalOrder,
    ConsoleOrder,
    GovernanceRequest,
    GuardOrder,
)

if TYPE_CHECKING:
    # It brings SQLAlchemy, which the daemon loads beside its first instances' start.
    from orchestrator.approvals.orders import ApprovalOrders
    from orchestrator.wiring.console import ConsoleOrders


def operator_name() -> str:
    """Name whoever gives orders on this machine, as the record does."""
    uid = os.geteuid()
    try:
        return f"operator:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"operator:{uid}"


@final
class Governance:
    """Answers what is asked of the parts, each by its own."""

    def __init__(
        self,
        console: "ConsoleOrders",
        guards: GuardOrders,
        approvals: "ApprovalOrders",
        incidents: IncidentOrders,
    ) -> None:
        """Take what the parts work with.

        Args:
            console: Answers what the console asks for itself.
            guards: Answers what is asked of guards.
            approvals: Answers what is asked of approvals.
            incidents: Answers what is asked of incidents.
        """
        self._console = console
        self._guards = guards
        self._approve = approvals
        self._incidents = incidents

    async def answer(self, request: GovernanceRequest) -> AsyncGenerator[Progress | Result]:
        """Answer one request: any progress, then the result.

        Raises:
            AgentsError: It cannot be done.
        """
        async with aclosing(self._part(request)) as replies:
            async for reply in replies:
                yield reply

    def _part(self, request: GovernanceRequest) -> AsyncGenerator[Progress | Result]:
        if isinstance(request, GuardOrder):
            return self._guards.answer(request)
        if isinstance(request, ApprovalOrder):
            return self._approvals(request)
        if isinstance(request, ConsoleOrder):
            return self._console.answer(request)
        return self._incidents.answer(request)

    async def _approvals(self, request: ApprovalOrder) -> AsyncGenerator[Progress | Result]:
        yield Result(body=await self._approve.answer(request))
