"""The current snapshot and its targets: swap, claim, drain, lose."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, final

from orchestrator.errors import (
    AgentsError,
    ApprovalTakenError,
    RoleClosedError,
    RoleHeldError,
    TargetLostError,
    TargetUnavailableError,
    UnknownToolError,
)
from orchestrator.gateway.log import get_log
from orchestrator.gateway.target import State, Target
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, ToolName, WorkloadName
from orchestrator.model.server import ToolClass
from orchestrator.model.snapshot import EMPTY, Era, Route, Snapshot, TargetRef
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.protocol.headers import ParameterHeader, parameter_headers

if TYPE_CHECKING:
    from orchestrator.gateway.context import Exchange

T = TypeVar("T")
# After this time a target that took no connection is tried again: it may have missed one only.
_LOOK_SECONDS: Final = 1.0


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
        policy: What decides about its calls, and how agents see its tools.
        target: The process that speaks for the role, or None.
        lanes: Further processes by era and owner.
        capabilities: What the instance can do; kept while it is away.
        instructions: What it wants models to know; kept while it is away.
        hold: While calls wait on purpose: how long each of them may, in seconds; otherwise 0.
    """

    route: Route
    tools: Mapping[str, Tool]
    policy: CompiledPolicy
    target: Target | None
    lanes: Mapping[tuple[Era, str], Target]
    capabilities: JsonObject
    instructions: str
    hold: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether a call can be made now."""
        return self.target is not None and self.target.is_open

    @property
    def is_known(self) -> bool:
        """Whether it is known what the instance can do."""
        return bool(self.tools) or self.is_ready

    @property
    def is_coming(self) -> bool:
        """Whether it makes sense to wait for a target.

        One that was lost or drains will be followed by another snapshot in a moment.
        """
        return self.route.waits or self.target is not None or self.hold > 0

    def owner_of(self, exchange: "Exchange") -> str:
        """Tell whose process serves this caller; empty for everybody's."""
        if self.route.sharing == "per-role" or exchange.principal is None:
            return ""
        if self.route.sharing == "per-session" and exchange.session is not None:
            return exchange.session.key
        # Without a session an agent is one.
        return exchange.principal.agent

    def is_refused(self, owner: str) -> bool:
        """Whether an owner can have no process of its own just now."""
        return bool(owner) and any(whose == owner for _, whose in self.route.refused)

    def find(self, era: Era, owner: str) -> Target | None:
        """Find an open process of exactly this era and owner."""
        if not owner and self.target is not None and self.target.ref.era == era:
            found: Target | None = self.target
        else:
            found = self.lanes.get((era, owner))
        return found if found is not None and found.is_open else None

    def speaker(self, owner: str) -> Target | None:
        """Find the one process whose news about resources an owner hears."""
        if not owner:
            return self.target
        return next((lane for (_, whose), lane in self.lanes.items() if whose == owner), None)

    def pick(self, era: Era, owner: str) -> "Target | tuple[Era, str] | None":
        """Choose the process for a call.

        Returns:
            The process; or the era and the owner of one that has to be started first; or None if
            there is nothing but to wait.
        """
        exact = self.find(era, owner)
        if exact is not None:
            return exact
        mirrors = self.route.mirrors
        other = _other(era)
        if era in mirrors and (era, owner) not in self.route.refused and self._is_worth(era, owner):
            return era, owner
        bridge = self.bridge(era, owner)
        if bridge is not None:
            return bridge
        if owner and (other, owner) not in self.route.refused and era not in mirrors:
            return other, owner
        return None

    def bridge(self, era: Era, owner: str) -> Target | None:
        """Find an open process of the owner's that speaks the other era."""
        return self.find(_other(era), owner)

    def _is_worth(self, era: Era, owner: str) -> bool:
        """Whether to ask for a further process: not in place of the role's own that comes back."""
        return bool(owner) or (self.target is not None and self.target.ref.era != era)


class WaitFor(Protocol):
    """How a request waits: it may be interrupted."""

    def __call__(self, future: "asyncio.Future[T]", /) -> Awaitable[T]:
        """Wait, or raise what interrupted the wait."""
        ...


class Watcher(Protocol):
    """Hears of changes of a role, after they hold."""

    def __call__(self, role: RoleName, before: Place | None, after: Place | None, /) -> None:
        """Take a change; None stands for a role that was not there or is gone."""
        ...


_NOTHING: Final[Mapping[str, Tool]] = MappingProxyType({})


@final
class Table:
    """All roles at the current revision.

    Attributes:
        revision: Revision of the current snapshot.
        on_wanted: Is asked for a process of a role, an era and an owner.
    """

    def __init__(
        self,
        open_target: Callable[[TargetRef, Route], Target],
        *,
        patience: float,
        max_waiting: int,
        watcher: Watcher,
    ) -> None:
        """Start without any role.

        Args:
            open_target: Connects to a process; may raise `TargetUnavailableError`.
            patience: How long a call waits for a target that is on its way, in seconds.
            max_waiting: How many calls of one role may wait.
            watcher: Hears of changes.
        """
        self.revision = EMPTY.revision
        self.on_wanted: Callable[[RoleName, Era, str], None] = _ignore
        self._open_target = open_target
        self._patience = patience
        self._max_waiting = max_waiting
        self._watcher = watcher
        self._places: dict[RoleName, Place] = {}
        self._targets: dict[WorkloadName, Target] = {}
        self._waiting: dict[RoleName, set[asyncio.Future[None]]] = {}
        self._holds: dict[RoleName, float] = {}

    def swap(self, snapshot: Snapshot) -> None:
        """Serve from a snapshot, from the next call on.

        Targets that it does not name take no more calls and close when their last one is done.
        Those that it names as leaving stay for what goes on with the calls that they had.
        """
        named = self._open_all(snapshot)
        before, self._places = self._places, {}
        for role, route in snapshot.routes.items():
            place = _place(route, before.get(role), named)
            self._places[role] = self._hold(place) if role in self._holds else place
        self.revision = snapshot.revision
        for workload, target in tuple(self._targets.items()):
            if workload not in named:
                target.retire()
                if not target.claims:
                    del self._targets[workload]
        for role in tuple(self._waiting):
            self._wake(role)
        for role in {**before, **self._places}:
            self._watcher(role, before.get(role), self._places.get(role))

    def _open_all(self, snapshot: Snapshot) -> dict[WorkloadName, Target | None]:
        named: dict[WorkloadName, Target | None] = {}
        for route in snapshot.routes.values():
            for ref in (*((route.target,) if route.target else ()), *route.lanes):
                named[ref.workload] = self._keep_or_open(ref, route)
            for ref in route.leaving:
                named[ref.workload] = leaving = self._keep_or_open(ref, route)
                if leaving is not None:
                    leaving.leave()
        return named

    def hold(self, role: RoleName, seconds: float) -> None:
        """Let all calls of a role wait that no process has yet, each at most so long."""
        self._holds[role] = seconds
        place = self._places.get(role)
        if place is not None:
            self._places[role] = self._hold(place)

    def _hold(self, place: Place) -> Place:
        # Without targets: whoever claims one finds none, at no cost for all others.
        return replace(place, target=None, lanes={}, hold=self._holds[place.route.role])

    def release(self, role: RoleName) -> None:
        """Let calls through again."""
        held = self._places.get(role)
        if self._holds.pop(role, None) is None or held is None:
            return
        named: dict[WorkloadName, Target | None] = dict(self._targets)
        place = self._places[role] = _place(held.route, held, named)
        self._wake(role)
        self._watcher(role, held, place)

    def _keep_or_open(self, ref: TargetRef, route: Route) -> Target | None:
        known = self._targets.get(ref.workload)
        if known is not None:
            if known.ref.pid == ref.pid and known.is_open:
                known.ref = ref
                return known
            if known.ref.pid == ref.pid:
                return known  # draining or lost; it does not come back
            known.lose(TargetLostError("The process was replaced"))
        try:
            target = self._open_target(ref, route)
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

    def targets(self, role: RoleName) -> tuple[Target, ...]:
        """Tell every process of a role."""
        place = self._places.get(role)
        if place is None:
            return ()
        return tuple(one for one in (place.target, *place.lanes.values()) if one is not None)

    def every_target(self, role: RoleName) -> tuple[Target, ...]:
        """Tell every process of a role, those included that only finish what they have."""
        return tuple(one for one in self._targets.values() if one.role == role)

    def target(self, workload: WorkloadName) -> Target | None:
        """Find the process of a workload."""
        return self._targets.get(workload)

    async def attested(self, role: RoleName, wait: WaitFor) -> Place:
        """Find a role whose tools are known, waiting a moment if they soon will be.

        Raises:
            TargetUnavailableError: They are not, or the role is gone.
        """
        return self.known(role) or await self._await_place(role, wait)

    def known(self, role: RoleName) -> Place | None:
        """Find a role whose tools are known now."""
        place = self._places.get(role)
        return place if place is not None and place.is_known else None

    def try_claim(self, exchange: "Exchange", decided: Place) -> Target | None:
        """Claim the target for a request if nothing has changed and there is one now."""
        place = self._places.get(exchange.role)
        if place is None or place is not decided:
            return None
        target = place.target
        if (
            target is None
            or target.state is not State.OPEN
            or target.ref.era != exchange.era
            or place.route.sharing != "per-role"
        ):
            return None
        target.claim()
        return target

    async def claim(
        self,
        exchange: "Exchange",
        decided: Place,
        given_by: str | None = None,
        *,
        deadline: float = 0.0,
    ) -> Target:
        """Claim the target for a request, waiting a moment if it is on its way.

        Nothing has been sent so far, so waiting is safe for every class of tool.

        Args:
            exchange: The request.
            decided: The place that it was allowed by; it is decided again if that has changed.
            given_by: The workload that gave the caller what it answers now; while that is there,
                the answer goes to it.
            deadline: When it has waited for long enough, by the loop's clock; 0 begins to count.

        Raises:
            TargetUnavailableError: There is none in time.
            RoleHeldError: Calls wait on purpose, and this one did for long enough.
            RoleClosedError: The role is closed.
            PolicyError: The role does not allow the call any more.
        """
        role = exchange.role
        while True:
            place = self._places.get(role)
            picked = None
            if place is not None:
                owner = place.owner_of(exchange)
                picked = self._giver(given_by, place) or place.pick(exchange.era, owner)
                if isinstance(picked, Target):
                    _decide_again(exchange, place, decided)
                    picked.claim()
                    return picked
                if picked is not None:
                    self.on_wanted(role, *picked)
                elif place.is_refused(owner):
                    raise TargetUnavailableError("There is no instance of the caller's own")
            patience = self._patience if place is None else place.hold or self._patience
            deadline = deadline or asyncio.get_running_loop().time() + patience
            try:
                await self._wait_for_swap(
                    role, place, exchange.wait, deadline, is_wanted=picked is not None
                )
            except TargetUnavailableError:
                # One of the caller's era is long in coming: the other one will do.
                bridge = None if picked is None or place is None else place.bridge(*picked)
                if bridge is None or place is None:
                    raise
                _decide_again(exchange, place, decided)
                bridge.claim()
                return bridge

    async def look_again(self, exchange: "Exchange", target: Target, deadline: float) -> float:
        """Wait for news of a target that took no connection: its end may not be known yet.

        Args:
            exchange: The request, of which nothing was sent.
            target: The target, without a claim.
            deadline: When it has waited for long enough, by the loop's clock; 0 begins to count.

        Returns:
            The deadline; until then it makes sense to claim a target once more.

        Raises:
            TargetUnavailableError: The time is over, or too many wait.
        """
        now = asyncio.get_running_loop().time()
        deadline = deadline or now + self._patience
        if now >= deadline:
            raise TargetUnavailableError("The instance takes no connection")
        if target.state in {State.OPEN, State.LEAVING}:
            pause = min(deadline, now + _LOOK_SECONDS)
            place = self._places.get(exchange.role)
            try:
                await self._wait_for_swap(
                    exchange.role, place, exchange.wait, pause, is_wanted=True
                )
            except TargetUnavailableError:
                if asyncio.get_running_loop().time() < pause:
                    raise
        return deadline

    def _giver(self, workload: str | None, place: Place) -> Target | None:
        """Find the process that gave a caller what it answers, while it is there."""
        if not workload or place.hold:
            return None
        target = self._targets.get(WorkloadName(workload))
        return target if target is not None and target.goes_on else None

    async def _await_place(self, role: RoleName, wait: WaitFor) -> Place:
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            place = self._places.get(role)
            if place is not None and place.is_known:
                return place
            await self._wait_for_swap(role, place, wait, deadline, is_wanted=False)

    async def _wait_for_swap(
        self,
        role: RoleName,
        place: Place | None,
        wait: WaitFor,
        deadline: float,
        *,
        is_wanted: bool,
    ) -> None:
        """Wait for the next snapshot.

        Raises:
            TargetUnavailableError: It makes no sense to wait, or none came in time.
            RoleHeldError: Calls wait on purpose, and this one did for long enough.
            RoleClosedError: The role is closed.
        """
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(role, set())
        if place is not None and place.route.closed:
            raise RoleClosedError("The role was closed by its operator; nothing was done")
        late: AgentsError = TargetUnavailableError("No instance came in time")
        if place is not None and place.hold:
            late = RoleHeldError("A credential of the role is being replaced; nothing was done")
        makes_sense = place is not None and (is_wanted or place.is_coming)
        if not makes_sense:
            raise TargetUnavailableError("The role has no instance that takes calls")
        if len(waiting) >= self._max_waiting:
            raise late
        future: asyncio.Future[None] = loop.create_future()
        waiting.add(future)
        timer = loop.call_at(deadline, _expire, future, late)
        try:
            await wait(future)
        finally:
            timer.cancel()
            waiting.discard(future)


def _decide_again(exchange: "Exchange", place: Place, decided: Place) -> None:
    """Decide about a request by another place than the one that it was allowed by.

    What it was charged for stays as it is.

    Raises:
        PolicyError: It is not allowed any more.
        TargetUnavailableError: What it needs now cannot be found out here.
    """
    if place is decided:
        return
    exchange.place = place
    call, policy, before = exchange.call, place.policy, decided.policy
    if call is not None:
        tool = place.tools.get(call.name)
        if tool is None:
            raise UnknownToolError(call.name)
        exchange.kind = tool.kind
    if policy is before or policy.revision == before.revision:
        return
    if call is None:
        rules, old = place.route.policy, decided.route.policy
        if (rules.resources, rules.prompts) != (old.resources, old.prompts):
            raise TargetUnavailableError("The role's rules changed while the request waited")
        return
    name = ToolName(call.name)
    if exchange.approval:
        raise ApprovalTakenError(
            "The role's policy changed while the call waited; nothing was done",
            approval=exchange.approval,
            required_action="Make the call again: it asks for an approval of its own.",
        )
    if name in policy.approval or place.route.policy.shadow != decided.route.policy.shadow:
        # Nobody was asked about it, or it would only be recorded now.
        raise TargetUnavailableError("What the role asks people for changed while the call waited")
    policy.check(name, call.arguments, b"")
    if policy.policy.sums != before.policy.sums and policy.has_sums(name):
        raise TargetUnavailableError("The role's sums changed while the call waited")


def _other(era: Era) -> Era:
    return "legacy" if era == "modern" else "modern"


def _ignore(_: RoleName, __: Era, ___: str) -> None:
    """Ask nobody."""


def _expire(future: "asyncio.Future[None]", error: AgentsError) -> None:
    if not future.done():
        future.set_exception(error)


def _place(
    route: Route, before: Place | None, named: Mapping[WorkloadName, Target | None]
) -> Place:
    target = None if route.target is None else named.get(route.target.workload)
    lanes: dict[tuple[Era, str], Target] = {
        (ref.era, ref.owner): lane
        for ref in route.lanes
        if (lane := named.get(ref.workload)) is not None
    }
    speaks = route.target
    if speaks is not None:
        capabilities, instructions = speaks.capabilities, speaks.instructions
    elif before is not None and route.tools:
        capabilities, instructions = before.capabilities, before.instructions
    else:
        capabilities, instructions = {}, ""
    tools = _tools_of(route, before)
    if before is not None and tools is before.tools and route.policy == before.route.policy:
        policy = before.policy
    else:
        policy = CompiledPolicy(route.policy, route.tools, route.classes)
    return Place(route, tools, policy, target, lanes, capabilities, instructions)


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
    return tools or _NOTHING


def _schema(tool: JsonObject) -> JsonObject:
    schema = tool.get("inputSchema")
    return schema if isinstance(schema, dict) else {}
