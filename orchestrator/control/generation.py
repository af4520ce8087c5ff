"""All processes of one generation of a role: the one that serves, its spare, its lanes."""

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.eras import mirrors
from orchestrator.control.keeper import ENGINE_POLL_SECONDS, Keeper
from orchestrator.control.lanes import Key, Lanes, left_lanes
from orchestrator.control.pins import Held, Live
from orchestrator.control.release import release, tell
from orchestrator.control.report import report_process, report_role
from orchestrator.control.services import Services
from orchestrator.control.state import ControlState
from orchestrator.errors import RuntimeUnavailableError
from orchestrator.model.names import SECOND, ToolName, WorkloadName, lane_part
from orchestrator.model.rotation import Check, Drain
from orchestrator.model.server import ToolClass
from orchestrator.model.snapshot import Era, Route, TargetRef
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec
from orchestrator.runtimes.identity import kill_group


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

    def __init__(  # noqa: PLR0913 - three ways to begin
        self,
        spec: WorkloadSpec,
        services: Services,
        group: TaskGroup,
        changed: Callable[["Generation"], None],
        *,
        check: Check | None = None,
        leaves: bool = False,
        closed: str | None = None,
    ) -> None:
        """Begin to keep it, with what an earlier run left of it.

        Args:
            spec: What to keep.
            services: What keepers work with.
            group: Runs them.
            changed: Called after every change.
            check: A call that has to succeed before its first process is ready.
            leaves: Whether it served before, and only finishes what it has.
            closed: Why it does not run at all, None if it does.
        """
        self.spec = spec
        self._services = services
        self._group = group
        self._changed = changed
        self._classes: Mapping[ToolName, ToolClass] = MappingProxyType(dict(spec.tools))
        self._is_over = False
        self._is_restored = leaves
        self._is_finished = False
        self._told = Held()
        self._lanes = Lanes(spec, services, group, self._note)
        self._serving = self._begin(spec, check, closed)
        self._members = [self._serving]
        if closed is not None:
            self._is_over = True
            return
        if spec.standby and _second_of(spec).name in services.state.state.processes:
            self._begin_second()
        if leaves:
            self.leave()

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

    def refs(self) -> tuple[TargetRef, ...]:
        """Tell how the gateway reaches each process that may have something to finish."""
        if self._is_finished:
            return ()
        return tuple(ref for keeper in self._served() if (ref := keeper.ref()) is not None)

    def _served(self) -> tuple[Keeper, ...]:
        return (*(member.keeper for member in self._members), *self._lanes.keepers())

    def lives(self) -> tuple[Live, ...]:
        """Tell what each process shows that may have calls, or stands by for them."""
        return tuple(keeper.live for keeper in self._served() if keeper.live is not None)

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

    def adopt(self, spec: WorkloadSpec) -> None:
        """Take another spec that differs in what is no concern of processes."""
        self.spec = spec

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
        """Wait until the process that serves is in a state that stays, or it is ended."""
        await self.serving.settled()

    def lane_keys(self) -> tuple[Key, ...]:
        """Tell for whom there are further processes."""
        return self._lanes.keys()

    async def warm(self, keys: Collection[Key]) -> None:
        """Have further processes, as many as can be had, before anybody calls them."""
        for era, owner in keys:
            self.want(era, owner)
        await self._lanes.settled()

    def leave(self) -> None:
        """Begin nothing any more, and let what runs finish what it has."""
        self._is_over = True
        for member in self._members:
            member.keeper.withdraw()
        self._lanes.leave()

    def finish(self) -> None:
        """Take nothing any more, not even what goes on with calls that were here."""
        self._is_finished = True
        for keeper in self.keepers():
            keeper.end()

    def pin(self, spec: WorkloadSpec) -> None:
        """Have every process come back with the credential of this spec."""
        self.spec = spec
        self._lanes.pin(spec)
        for keeper in self.keepers():
            keeper.spec = keeper.spec.model_copy(update={"credential": spec.credential})

    async def see_out(self, grace: float, *, promises: bool = True) -> Drain:
        """Wait until nothing uses what runs; nothing is stopped, and no call is cut.

        Args:
            grace: Longest wait, in seconds. What an earlier run of the control plane left may be
                at work for callers that nobody knows any more: that takes all of it.
            promises: Whether to wait for callers, too, who were asked something.
        """
        plane = await self._services.publisher.plane()
        drains: list[Drain] = []

        async def see_out(keeper: Keeper) -> None:
            drains.append(await plane.see_out(keeper.spec.name, grace, promises=promises))

        async with anyio.create_task_group() as group:
            for keeper in self._served():
                if keeper.is_ready:
                    group.start_soon(see_out, keeper)
                    if self._is_restored:
                        group.start_soon(anyio.sleep, grace)
        return Drain(
            sum(drain.left for drain in drains), max((drain.oldest for drain in drains), default=0)
        )

    async def kill(self) -> None:
        """End every process at once, with whatever it has."""
        self.finish()
        for keeper in self.keepers():
            if (process := keeper.process) is not None:
                kill_group(process.pid, process.started, process.boot_id)
        self._lanes.kill()
        self.withdraw()
        async with anyio.create_task_group() as group:
            for member in self._members:
                group.start_soon(self._kill, member)
        await self._lanes.gone()

    async def _kill(self, member: _Member) -> None:
        while True:
            try:
                await self._end(member, timedelta(0))
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                return

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
        self.finish()
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

    async def _end(self, member: _Member, grace: timedelta | None = None) -> None:
        member.scope.cancel()
        await member.done.wait()
        keeper = member.keeper
        await self._services.runtime.stop(
            keeper.spec.name, keeper.spec.stop.grace if grace is None else grace
        )
        if keeper.process is not None:
            self._services.publisher.lose(keeper.spec.name, keeper.process.pid, "it was stopped")
        self._services.state.drop_process(keeper.spec.name)

    def _begin(
        self, spec: WorkloadSpec, check: Check | None = None, closed: str | None = None
    ) -> _Member:
        member = _Member(Keeper(spec, self._services, self._note, check=check))
        if closed is None:
            self._group.start_soon(member.run, name=f"keep {spec.name}")
        else:
            member.keeper.rest(
                f"closed: {closed}", f"`agents reopen {spec.role}` lets it run again."
            )
            member.done.set()
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
        elif not serving.is_ready and not serving.is_returning:
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
            facts = {"role": self.spec.role, "tools": ", ".join(held.tools)}
            self._services.mention("role.held" if held else "role.released", facts)

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
