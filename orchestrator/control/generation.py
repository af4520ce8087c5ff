"""All processes of one generation of a role: the one that serves, its spare, its lanes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.eras import mirrors
from orchestrator.control.keeper import ENGINE_POLL_SECONDS, Keeper
from orchestrator.control.lanes import Lanes, left_lanes
from orchestrator.control.pins import Held, Live
from orchestrator.control.release import release, tell
from orchestrator.control.report import report_process, report_role
from orchestrator.control.services import Services
from orchestrator.control.state import ControlState
from orchestrator.errors import RuntimeUnavailableError
from orchestrator.model.names import SECOND, ToolName, WorkloadName, lane_part
from orchestrator.model.rules import RolePolicy
from orchestrator.model.server import ToolClass
from orchestrator.model.snapshot import Era, Route
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec


@final
class _Member:
    """One of the processes that can serve: its keeper, with the task that runs it."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                await self.keeper.run()
        finally:
            self.done.set()


@final
class Generation:
    """One generation of one role.

    Its first process serves. With `standby: 1` a second one stands by, and which of the two serves
    changes whenever the serving one is lost and the other is ready. Nothing is published here: the
    owner is told of every change and asks for the route.
    """

    def __init__(
        self,
        spec: WorkloadSpec,
        services: Services,
        group: TaskGroup,
        changed: Callable[["Generation"], None],
    ) -> None:
        """Begin to keep it, with what an earlier run left of it.

        Args:
            spec: What to keep.
            services: What keepers work with.
            group: Runs them.
            changed: Called after every change.
        """
        self.spec = spec
        self._services = services
        self._group = group
        self._changed = changed
        self._classes: Mapping[ToolName, ToolClass] = MappingProxyType(dict(spec.tools))
        self._is_over = False
        self._told = Held()
        self._lanes = Lanes(spec, services, group, self._note)
        self._serving = self._begin(spec)
        self._members = [self._serving]
        if spec.standby and _second_of(spec).name in services.state.state.processes:
            self._begin_second()

    @property
    def serving(self) -> Keeper:
        """The keeper whose process speaks for the role."""
        return self._serving.keeper

    @property
    def has_traffic(self) -> bool:
        """Whether any process may have calls."""
        return self.serving.is_ready or any(one.is_ready for one in self._lanes.keepers())

    def keepers(self) -> tuple[Keeper, ...]:
        """Tell every keeper at work."""
        members = (member.keeper for member in self._members)
        return (*members, *self._lanes.every_keeper())

    def expose(self) -> None:
        """Leave the processes that are part of the route to the gateway from now on."""
        for keeper in (self.serving, *self._lanes.keepers()):
            if keeper.is_ready:
                keeper.expose()

    def route(self) -> Route:
        """Build the route."""
        spec, serving = self.spec, self.serving
        target = serving.ref()
        lanes = [ref for keeper in self._lanes.keepers() if (ref := keeper.ref()) is not None]
        route = Route(
            role=spec.role,
            server=spec.server,
            target=target,
            tools=serving.tools,
            classes=self._classes,
            reason="" if target is not None else str(serving.phase),
            waits=target is None and serving.is_coming,
            lanes=tuple(lanes),
            sharing=spec.sharing,
            mirrors=self._mirrors(),
            refused=MappingProxyType(self._lanes.refused()),
            policy=spec.policy,
        )
        return release(route, self.held())

    def lives(self) -> tuple[Live, ...]:
        """Tell what each process shows that may have calls, or stands by for them."""
        keepers = (*(member.keeper for member in self._members), *self._lanes.keepers())
        return tuple(keeper.live for keeper in keepers if keeper.live is not None)

    def held(self) -> Held:
        """Tell what agents do not get, as nobody has approved it."""
        return self._services.pins.held(self.spec, self.lives())

    def note_pins_changed(self) -> None:
        """Take the news that something was approved."""
        self._note()

    def status(self, url: str) -> RoleStatus:
        """Tell where the role stands."""
        spares = [one.keeper for one in self._members if one is not self._serving]
        clock = self._services.clock
        status = report_role(self.serving, clock, url).model_copy(
            update={
                "restarts": sum(member.keeper.restarts for member in self._members),
                "spare": report_process(spares[0], clock) if spares else None,
                "lanes": tuple(
                    sorted(
                        (report_process(keeper, clock) for keeper in self._lanes.keepers()),
                        key=lambda lane: lane.workload,
                    )
                ),
            }
        )
        return tell(status, self.spec, self.held())

    def adopt_policy(self, policy: RolePolicy) -> None:
        """Let calls be decided by another policy; no process is touched."""
        self.spec = self.spec.model_copy(update={"policy": policy})

    def want(self, era: Era, owner: str) -> None:
        """Have a process for an era and an owner, where that makes sense."""
        if self._is_over or (self.spec.sharing == "per-role") != (not owner):
            return
        if era not in self._mirrors():
            # Found out elsewhere, since whoever asks got the route.
            self._group.start_soon(self._lanes.tell)
        elif owner or self.serving.era not in (None, era):
            self._lanes.want(era, owner)

    def unwant(self, owner: str) -> None:
        """End the processes of an owner who needs none any more."""
        if owner:
            self._lanes.unwant(owner)

    async def settled(self) -> None:
        """Wait until the process that serves is in a state that stays."""
        await self.serving.settled()

    def withdraw(self) -> None:
        """Begin nothing any more, and leave what runs to those who end it."""
        self._is_over = True
        for member in self._members:
            member.keeper.withdraw()
        self._lanes.close()

    async def drain(self) -> None:
        """Wait until the calls of the serving process are done; lanes drain by themselves."""
        keeper = self.serving
        if not keeper.is_ready:
            return
        plane = await self._services.publisher.plane()
        left = await plane.drain(keeper.spec.name, keeper.spec.stop.drain.total_seconds())
        if left:
            self._services.log.warning(
                "calls cut at the end of the drain", workload=keeper.spec.name, calls=left
            )

    async def end(self) -> None:
        """End every process.

        Raises:
            RuntimeUnavailableError: There is no engine to do it.
        """
        self.withdraw()
        troubles: list[RuntimeUnavailableError] = []

        async def end(member: _Member) -> None:
            try:
                await self._end(member)
            except RuntimeUnavailableError as error:
                troubles.append(error)

        async with anyio.create_task_group() as group:
            for member in self._members:
                group.start_soon(end, member)
        if troubles:
            raise troubles[0]
        await self._lanes.gone()

    async def _end(self, member: _Member) -> None:
        member.scope.cancel()
        await member.done.wait()
        keeper = member.keeper
        await self._services.runtime.stop(keeper.spec.name, keeper.spec.stop.grace)
        if keeper.process is not None:
            self._services.publisher.lose(keeper.spec.name, keeper.process.pid, "it was stopped")
        self._services.state.drop_process(keeper.spec.name)

    def _begin(self, spec: WorkloadSpec) -> _Member:
        member = _Member(Keeper(spec, self._services, self._note))
        self._group.start_soon(member.run, name=f"keep {spec.name}")
        return member

    def _begin_second(self) -> None:
        self._members.append(self._begin(_second_of(self.spec)))

    def _note(self) -> None:
        """Choose who serves, and see to it that one stands by."""
        serving = self.serving
        if self._is_over:
            pass
        elif serving.phase is Phase.QUARANTINED:
            self._withdraw_others()
        elif not serving.is_ready:
            self._let_another_serve()
        elif self.spec.standby and len(self._members) == 1:
            self._begin_second()
        self._tell_held()
        self._changed(self)

    def _tell_held(self) -> None:
        """Log what is held now, if that is news."""
        held = self.held()
        if held != self._told:
            self._told, log = held, self._services.log.bind(role=self.spec.role)
            if held:
                log.warning("tools held", tools=held.tools, instructions=held.instructions)
            else:
                log.info("nothing held any more")

    def _let_another_serve(self) -> None:
        for member in self._members:
            if member.keeper.is_ready:
                self._serving = member
                self._services.log.warning("spare takes over", workload=member.keeper.spec.name)
                return

    def _withdraw_others(self) -> None:
        """Take everything down beside a process that shows too much: it is the same program."""
        self.withdraw()
        for member in self._members:
            if member is not self._serving:
                self._group.start_soon(self._end_some_time, member)

    async def _end_some_time(self, member: _Member) -> None:
        """End a process as soon as there is an engine."""
        while True:
            try:
                await self._end(member)
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                break
        self._members.remove(member)
        self._changed(self)

    def _mirrors(self) -> frozenset[Era]:
        state = self._services.state.state
        return mirrors(self.spec, state.eras, state.unspoken) - self._lanes.unspoken


def names_of(spec: WorkloadSpec, state: ControlState) -> frozenset[WorkloadName]:
    """Tell every workload of a generation that an earlier run may have left."""
    parts = [lane_part(*key) for key in left_lanes(spec, state)]
    second = [_second_of(spec).name] if spec.standby else []
    return frozenset(
        [spec.name, *second, *(spec.model_copy(update={"part": part}).name for part in parts)]
    )


def _second_of(spec: WorkloadSpec) -> WorkloadSpec:
    return spec.model_copy(update={"part": SECOND})
