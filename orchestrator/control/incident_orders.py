"""Answers what is asked of incidents, and of those who are told."""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, cast, final

from orchestrator.control.incidents import Incidents
from orchestrator.errors import SettingsError
from orchestrator.model.admin import Progress, Result
from orchestrator.model.admin_governance import (
    IncidentCloseRequest,
    IncidentOrder,
    IncidentsRequest,
    IncidentStartRequest,
    NotifyTestRequest,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.incident import Incident
from orchestrator.model.names import RoleName

if TYPE_CHECKING:
    from orchestrator.notify.post import Postman

# As long as one try of a target may take.
_TEST_SECONDS = 65.0


@final
class IncidentOrders:
    """Starts and closes incidents, tells them, and tries the targets of messages."""

    def __init__(
        self,
        incidents: Incidents,
        postman: "Postman",
        roles: Callable[[], Collection[RoleName]],
        operator: str,
    ) -> None:
        """Prepare.

        Args:
            incidents: The incidents.
            postman: Tells people.
            roles: Tells the roles that are applied.
            operator: Whoever gives orders here.
        """
        self._incidents = incidents
        self._postman = postman
        self._roles = roles
        self._operator = operator

    async def answer(
        self, request: IncidentOrder | NotifyTestRequest
    ) -> AsyncGenerator[Progress | Result]:
        """Answer one request: an incident after each step, then as it is.

        Raises:
            AgentsError: It cannot be done.
        """
        match request:
            case IncidentsRequest(id=None):
                yield Result(body=[_json(one) for one in self._incidents.all()])
            case IncidentsRequest(id=str(name)):
                yield Result(body=_json(self._incidents.get(name)))
            case NotifyTestRequest():
                yield Result(body=await self._test(request.target))
            case _:
                last = None
                async with aclosing(self._work(request)) as states:
                    async for incident in states:
                        last = _json(incident)
                        yield Progress(body=last)
                yield Result(body=last)

    def _work(
        self, request: IncidentsRequest | IncidentStartRequest | IncidentCloseRequest
    ) -> AsyncGenerator[Incident]:
        if isinstance(request, IncidentStartRequest):
            return self._incidents.start(
                request.role, self._roles(), reason=request.reason, by=self._operator
            )
        if isinstance(request, IncidentCloseRequest):
            return self._incidents.close(request.id, reason=request.reason, by=self._operator)
        raise AssertionError("answered above")

    async def _test(self, target: str | None) -> list[Json]:
        known = self._postman.targets
        if not known or target not in {None, *known}:
            names = ", ".join(known) or "none"
            raise SettingsError(
                "nobody is told anything"
                if not known
                else f"agents.yaml has no target {target} under `notify:`",
                hint=f"`notify:` in agents.yaml, then `agents up`; applied: {names}.",
            )
        deliveries = await self._postman.deliver(
            "test.message",
            "A test message of Bandmaster",
            f"Sent by {self._operator}. Nothing happened.",
            grace=_TEST_SECONDS,
            only=target,
            once=True,
        )
        return [
            {"target": one.target, "state": one.state, "tries": one.tries, "note": one.note}
            for one in deliveries
        ]


def _json(incident: Incident) -> JsonObject:
    return cast("JsonObject", incident.model_dump(mode="json"))
