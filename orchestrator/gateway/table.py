"""The current snapshot and its targets: swap, claim, drain, lose."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

from orchestrator.errors import (
    TargetLostError,
    TargetUnavailableError,
    UnknownToolError,
)
from orchestrator.gateway.log import get_log
from orchestrator.gateway.target import Target
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, ToolName, WorkloadName
from orchestrator.model.server import ToolClass
from orchestrator.model.snapshot import EMPTY, Route, Snapshot, TargetRef
from orchestrator.protocol.headers import ParameterHeader, parameter_headers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tool:
    """What the filters need to know of one attested tool.

    Attributes:
        kind: Its class.
        headers: Arguments that modern callers repeat in headers.
    """

    kind: ToolClass
    headers: tuple[ParameterHeader, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One role at one revision.

    Attributes:
        route: What control published.
        tools: Its attested tools by name.
        target: The process, or None.
    """

    route: Route
    tools: Mapping[str, Tool]
    target: Target | None

    @property
    def is_ready(self) -> bool:
        """Whether a call can be made now."""
        return self.target is not None and self.target.is_open

    @property
    def is_coming(self) -> bool:
        """Whether it makes sense to wait for a target.

        One that was lost or drains will be followed by another snapshot in a moment.
        """
        return self.route.waits or self.target is not None


class WaitFor(Protocol):
    """How a request waits: it may be interrupted."""

    def __call__(self, future: "asyncio.Future[T]", /) -> Awaitable[T]:
        """Wait, or raise what interrupted the wait."""
        ...


@final
class Table:
    """All roles at the current revision.

    Attributes:
        revision: Revision of the current snapshot.
    """

    def __init__(
        self,
        open_target: Callable[[TargetRef], Target],
        *,
        patience: float,
        max_waiting: int,
    ) -> None:
        """Start without any role.

        Args:
            open_target: Connects to a process; may raise `TargetUnavailableError`.
            patience: How long a call waits for a target that is on its way, in seconds.
            max_waiting: How many calls of one role may wait.
        """
        self.revision = EMPTY.revision
        self._open_target = open_target
        self._patience = patience
        self._max_waiting = max_waiting
        self._places: dict[RoleName, Place] = {}
        self._targets: dict[WorkloadName, Target] = {}
        self._waiting: dict[RoleName, set[asyncio.Future[None]]] = {}

    def swap(self, snapshot: Snapshot) -> None:
        """Serve from a snapshot, from the next call on.

        Targets that it does not name take no more calls and close when their last one is done.
        """
        named = {
            route.target.workload: self._keep_or_open(route.target)
            for route in snapshot.routes.values()
            if route.target is not None
        }
        before, self._places = self._places, {}
        for role, route in snapshot.routes.items():
            target = None if route.target is None else named[route.target.workload]
            self._places[role] = Place(route, _tools_of(route, before.get(role)), target)
        self.revision = snapshot.revision
        for workload, target in tuple(self._targets.items()):
            if workload not in named:
                target.retire()
                if not target.claims:
                    del self._targets[workload]
        for role in tuple(self._waiting):
            self._wake(role)

    def _keep_or_open(self, ref: TargetRef) -> Target | None:
        known = self._targets.get(ref.workload)
        if known is not None:
            if known.ref.pid == ref.pid and known.is_open:
                known.ref = ref
                return known
            if known.ref.pid == ref.pid:
                return known  # draining or lost; it does not come back
            known.lose(TargetLostError("The process was replaced"))
        try:
            target = self._open_target(ref)
        except TargetUnavailableError:
            _ = get_log(__name__).warning("target_unreachable", workload=ref.workload, pid=ref.pid)
            return None
        self._targets[ref.workload] = target
        return target

    def _wake(self, role: RoleName) -> None:
        for future in self._waiting.pop(role, ()):
            if not future.done():
                future.set_result(None)

    def places(self) -> Mapping[RoleName, Place]:
        """Tell every role."""
        return self._places

    def target(self, workload: WorkloadName) -> Target | None:
        """Find the process of a workload."""
        return self._targets.get(workload)

    async def attested(self, role: RoleName, wait: WaitFor) -> Place:
        """Find a role whose tools are known, waiting a moment if they soon will be.

        Raises:
            TargetUnavailableError: They are not, or the role is gone.
        """
        place = self._places.get(role)
        if place is not None and (place.tools or place.is_ready):
            return place
        return await self._await_place(role, wait, lambda place: bool(place.tools))

    async def claim(self, role: RoleName, decided: Place, tool: str, wait: WaitFor) -> Target:
        """Claim the role's target for one call, waiting a moment if it is on its way.

        Nothing has been sent so far, so waiting is safe for every class of tool.

        Args:
            role: The role.
            decided: The place that the call was allowed by.
            tool: The tool, looked up again if the place has changed since.
            wait: How to wait.

        Raises:
            TargetUnavailableError: There is none in time.
            UnknownToolError: The role lost the tool meanwhile.
        """
        place = self._places.get(role)
        if place is None or not place.is_ready:
            place = await self._await_place(role, wait, lambda place: place.is_ready)
        if place is not decided and tool not in place.tools:
            raise UnknownToolError(tool)
        target = place.target
        if target is None:
            raise TargetUnavailableError("The role has no instance")
        target.claim()
        return target

    async def _await_place(
        self, role: RoleName, wait: WaitFor, suits: Callable[[Place], bool]
    ) -> Place:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            place = self._places.get(role)
            if place is not None and (suits(place) or place.is_ready):
                return place
            waiting = self._waiting.setdefault(role, set())
            if place is None or not place.is_coming or len(waiting) >= self._max_waiting:
                raise TargetUnavailableError("The role has no instance that takes calls")
            future: asyncio.Future[None] = loop.create_future()
            waiting.add(future)
            late = TargetUnavailableError("No instance came in time")
            timer = loop.call_at(deadline, _expire, future, late)
            try:
                await wait(future)
            finally:
                timer.cancel()
                waiting.discard(future)


def _expire(future: "asyncio.Future[None]", error: TargetUnavailableError) -> None:
    if not future.done():
        future.set_exception(error)


def _tools_of(route: Route, before: Place | None) -> Mapping[str, Tool]:
    if (
        before is not None
        and before.route.tools is route.tools
        and before.route.classes == route.classes
    ):
        return before.tools
    tools: dict[str, Tool] = {}
    for tool in route.tools:
        name = str(tool["name"])
        # A tool without a class never gets here; if one did, it would be the worst there is.
        kind = route.classes.get(ToolName(name), "DESTRUCTIVE")
        tools[name] = Tool(kind, parameter_headers(_schema(tool)))
    return tools


def _schema(tool: JsonObject) -> JsonObject:
    schema = tool.get("inputSchema")
    return schema if isinstance(schema, dict) else {}
