"""What governs calls, put together: guards, approvals, incidents."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import final

from orchestrator.errors import AgentsError
from orchestrator.model.admin import Progress, Result
from orchestrator.model.admin_governance import (
    ApprovalOrder,
    GovernanceRequest,
    GuardOrder,
    IncidentOrder,
)


@final
class Governance:
    """Answers what is asked of the parts, each by its own."""

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
            return self._guards(request)
        if isinstance(request, ApprovalOrder):
            return self._approvals(request)
        return self._incidents(request)

    async def _guards(self, request: GuardOrder) -> AsyncGenerator[Progress | Result]:
        raise AgentsError(f"{request.op} is not there yet")
        yield

    async def _approvals(self, request: ApprovalOrder) -> AsyncGenerator[Progress | Result]:
        raise AgentsError(f"{request.op} is not there yet")
        yield

    async def _incidents(self, request: IncidentOrder) -> AsyncGenerator[Progress | Result]:
        raise AgentsError(f"{request.op} is not there yet")
        yield
