"""Makes the project run what it should: observe, plan, act, and keep every role."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final, final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from orchestrator.control.bootstrap import Bootstraps
from orchestrator.control.generation import names_of
from orchestrator.control.keeper import Keeper
from orchestrator.control.pins import Live
from orchestrator.control.plan import Action, Remove, Replace, Start, Update, plan
from orchestrator.control.services import Services
from orchestrator.control.slot import Slot
from orchestrator.control.state import ControlState
from orchestrator.errors import (
    AgentsError,
    NotRunningError,
    RuntimeUnavailableError,
    SettingsError,
)
from orchestrator.model.desired import Desired
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.snapshot import Era
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import EngineState, Phase, WorkloadExit, WorkloadSpec
from orchestrator.runtimes.base import FeedGap
from orchestrator.runtimes.identity import is_alive

OBSERVE_SECONDS: Final = 15.0
ENGINE_SECONDS: Final = 1.0
STRAY_GRACE: Final = timedelta(seconds=5)
_STUCK: Final = frozenset({Phase.BLOCKED, Phase.QUARANTINED, Phase.CRASH_LOOPING, Phase.FAILED})


@final
class Reconciler:
    """All roles of a project. `run` works until cancelled; changes are made one at a time."""

    def __init__(
        self, services: Services, bootstraps: Bootstraps, url: Callable[[str], str]
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            services: What keepers work with; `changed` is chained, not replaced.
            bootstraps: What has to be done once before some roles can start.
            url: Tells a role's address, or "" while the gateway does not listen.
        """
        self._services = replace(services, changed=self._note_change)
        self._outer_change = services.changed
        self._bootstraps = bootstraps
        self._url = url
        self._slots: dict[RoleName, Slot] = {}
        self._lock = anyio.Lock()
        self._group: TaskGroup | None = None
        self._change = anyio.Event()
        self._engine_trouble = ""
        self._change_scope: anyio.CancelScope | None = None

    def statuses(self) -> tuple[RoleStatus, ...]:
        """Tell where every role stands, by name."""
        return tuple(slot.status(self._url(role)) for role, slot in sorted(self._slots.items()))

    def is_settled(self) -> bool:
        """Whether no role is on its way anywhere."""
        return all(slot.is_settled for slot in self._slots.values())

    def touch(self) -> None:
        """Tell everybody who waits for a change that there is something to see."""
        self._note_change()

    def notes(self) -> tuple[str, ...]:
        """Tell in words what is wrong beside the roles."""
        more = self._services.runtime.notes()
        if not self._engine_trouble:
            return more
        return (
            *more,
            "the process engine is gone; instances run on, `agents up` starts it again",
        )

    def note_tools_changed(self, workload: WorkloadName) -> None:
        """Take the news that a live server says its tools changed."""
        for keeper in self._keepers_of(workload):
            keeper.note_tools_changed()

    def note_wanted(self, role: RoleName, era: Era, owner: str) -> None:
        """Take the news that a caller needs a process of an era, and of an owner where that counts.

        Called as often as anybody likes, from the event loop.
        """
        slot = self._slots.get(role)
        if slot is not None:
            slot.want(era, owner)

    def note_unwanted(self, role: RoleName, owner: str) -> None:
        """Take the news that an owner will not call any more."""
        slot = self._slots.get(role)
        if slot is not None:
            slot.unwant(owner)

    def pinned(self, role: RoleName) -> tuple[WorkloadSpec, tuple[Live, ...]]:
        """Tell what a role runs, and what its processes show of their tools.

        Raises:
            NotRunningError: The role is not applied.
        """
        return self.slot(role).pinned()

    def every_pinned(self) -> tuple[tuple[WorkloadSpec, tuple[Live, ...]], ...]:
        """Tell the same of all roles."""
        return tuple(slot.pinned() for slot in self._slots.values())

    def note_pins_changed(self, role: RoleName) -> None:
        """Take the news that an operator approved what a role shows."""
        self.slot(role).note_pins_changed()

    async def change(self) -> None:
        """Wait for the next change that a person would see."""
        await self._change.wait()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take up what ran before, then keep all roles until cancelled."""
        runtime, state = self._services.runtime, self._services.state
        async with anyio.create_task_group() as group:
            self._group = group
            await group.start(self._follow_exits)
            wanted = _wanted(state.state)
            state.keep_only(wanted)
            for name in (await runtime.observe()).keys() - wanted:
                await runtime.stop(name, STRAY_GRACE)
            swept = await runtime.sweep(wanted)
            if swept:
                self._services.log.warning("left-over processes ended", workloads=swept)
            self._bootstraps.begin(state.state.bootstraps, group)
            for role, spec in state.state.roles.items():
                self._slots[role] = Slot(spec, self._services, group)
            group.start_soon(self._observe_now_and_then)
            task_status.started()

    async def apply(self, desired: Desired) -> None:
        """Make the project run exactly this; roles that are stuck are tried again.

        Raises:
            SettingsError: The gateway's own settings changed; they need a restart.
            AgentsError: A replacement did not become ready; the old generation serves on.
        """
        state = self._services.state
        async with self.turn():
            if state.state.gateway not in (None, desired.gateway):
                raise SettingsError(
                    "the gateway's address, allowed hosts or `auth:` changed in agents.yaml",
                    hint="Run `agents down`, then `agents up`.",
                )
            state.update(
                bootstraps=desired.bootstraps,
                credentials=desired.credentials,
                notify=desired.notify,
                audit=desired.audit,
            )
            self._bootstraps.begin(desired.bootstraps, self._tasks())
            current = {role: slot.spec for role, slot in self._slots.items()}
            actions = plan(desired.roles, current)
            touched = {action.role for action in actions}
            work = [step for action in actions if (step := self._begin(action)) is not None]
            for role, slot in self._slots.items():
                if role not in touched and slot.phase in _STUCK:
                    work.append(self._replacement(role, slot.spec))
            await self._all(work)

    async def restart(self, role: RoleName) -> None:
        """Replace a role's instance by a fresh one of the same spec.

        Raises:
            NotRunningError: The role is not applied.
            WorkloadNotReadyError: The fresh one did not become ready; the old one serves on.
        """
        async with self.turn():
            slot = self._open_slot(role)
            self._bootstraps.begin(self._services.state.state.bootstraps, self._tasks())
            # Whoever restarts it may have put another program in its place.
            self._services.state.forget_eras(slot.spec.server)
            await self._replacement(role, slot.spec)()

    async def attach(self, role: RoleName, url: str) -> None:
        """Have the server at another address serve a role; the one before finishes what it has.

        Raises:
            NotRunningError: The role is not applied, or its server is ours.
            WorkloadNotReadyError: The other one did not become ready; the one before serves on.
        """
        async with self.turn():
            slot = self._open_slot(role)
            if not slot.spec.attached:
                raise NotRunningError(f"the server of {role} is started here, by `agents up`")
            await self._replacement(role, slot.spec.model_copy(update={"attached": url}))()

    async def shutdown(self) -> None:
        """Unroute, drain and stop every role; what should run is forgotten.

        A change that is under way is given up: nobody waits for a slow start in order to stop.
        """
        if self._change_scope is not None:
            self._change_scope.cancel()
        async with self._lock:
            await self._all([self._removal(role) for role in self._slots])

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Make changes one at a time.

        Raises:
            NotRunningError: The change was given up for a shutdown.
        """
        async with self._lock:
            with anyio.CancelScope() as scope:
                self._change_scope = scope
                try:
                    yield
                finally:
                    self._change_scope = None
        if scope.cancelled_caught:
            raise NotRunningError("the project is being stopped")

    def slot(self, role: RoleName) -> Slot:
        """Find a role.

        Raises:
            NotRunningError: The role is not applied.
        """
        slot = self._slots.get(role)
        if slot is None:
            known = ", ".join(sorted(self._slots)) or "none"
            raise NotRunningError(f"role {role} is not running here; running: {known}")
        return slot

    def _open_slot(self, role: RoleName) -> Slot:
        slot = self.slot(role)
        if slot.closed is not None:
            raise NotRunningError(
                f"role {role} is closed: {slot.closed}",
                hint=f"`agents reopen {role}` lets it run again.",
            )
        return slot

    def _tasks(self) -> TaskGroup:
        if self._group is None:
            raise NotRunningError("the control plane has not begun")
        return self._group

    def _begin(self, action: Action) -> Callable[[], Awaitable[None]] | None:
        """Do the part of an action that takes no time, and tell the rest of it."""
        match action:
            case Start(role, spec):
                self._start(role, spec)
                return None
            case Update(role, spec):
                return self._update(role, spec)
            case Replace(role, spec, changes):
                if "argv" in changes:  # another program may speak other eras
                    self._services.state.forget_eras(spec.server)
                return self._replacement(role, spec)
            case Remove(role):
                return self._removal(role)

    def _start(self, role: RoleName, spec: WorkloadSpec) -> None:
        fresh = self._next(role, spec)
        self._services.state.keep_role(role, fresh)
        self._slots[role] = Slot(fresh, self._services, self._tasks())

    def _next(self, role: RoleName, spec: WorkloadSpec) -> WorkloadSpec:
        generation = self._services.state.next_generation(role)
        return spec.model_copy(update={"generation": generation})

    def _replacement(self, role: RoleName, spec: WorkloadSpec) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            slot = self._slots[role]
            fresh = self._next(role, spec)
            # Who runs with a certain version goes on with it, unless somebody else issues it now.
            same = _issuer_of(spec) == _issuer_of(slot.spec)
            credential = slot.spec.credential if same else ""
            await slot.replace(fresh.model_copy(update={"credential": credential}))

        return work

    def _update(self, role: RoleName, spec: WorkloadSpec) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self._slots[role].adopt(spec)

        return work

    def _removal(self, role: RoleName) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            # Forgotten first: a crash from here on leaves a stray, which the next start ends.
            self._services.state.drop_role(role)
            await self._slots[role].stop()
            del self._slots[role]
            self._note_change()

        return work

    async def _all(self, work: list[Callable[[], Awaitable[None]]]) -> None:
        """Do several things beside each other, all to their end; then raise the first error."""
        errors: list[AgentsError] = []

        async def guarded(one: Callable[[], Awaitable[None]]) -> None:
            try:
                await one()
            except AgentsError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for one in work:
                group.start_soon(guarded, one)
        if errors:
            raise errors[0]

    async def _follow_exits(
        self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Hand the engine's news to the keepers; the feed begins with a gap."""
        while True:
            try:
                async for item in self._services.runtime.exits():
                    self._trouble("")
                    if isinstance(item, FeedGap):
                        await self._observe()
                    else:
                        self._hand_over(item)
                    task_status.started()
                    task_status = anyio.TASK_STATUS_IGNORED
            except RuntimeUnavailableError as error:
                self._trouble(str(error))
                self._look_for_ends()
                await anyio.sleep(ENGINE_SECONDS)

    def _hand_over(self, end: WorkloadExit) -> None:
        facts = {"workload": end.name, "pid": end.pid, "code": end.code, "reason": end.cause}
        told = {name: value for name, value in facts.items() if value is not None and value != ""}
        self._services.mention("instance.ended", {"role": end.name.partition(".")[0], **told})
        for keeper in self._keepers_of(end.name):
            keeper.note_exit(end.pid, end.code, end.cause)
        self._bootstraps.note_exit(end)

    def _keepers_of(self, workload: WorkloadName) -> list[Keeper]:
        """Find who keeps a workload; a lane that ends may have a successor that waits for that."""
        keepers = (keeper for slot in self._slots.values() for keeper in slot.keepers())
        return [keeper for keeper in keepers if keeper.spec.name == workload]

    def _trouble(self, detail: str) -> None:
        if detail != self._engine_trouble:
            self._engine_trouble = detail
            if detail:
                self._services.log.error("the process engine is gone", detail=detail)
            self._note_change()

    def _look_for_ends(self) -> None:
        """Without an engine: find processes that are gone, so that nobody waits for them."""
        for slot in self._slots.values():
            for keeper in slot.keepers():
                process = keeper.process
                if process and not is_alive(process.pid, process.started, process.boot_id):
                    keeper.note_exit(process.pid, None)

    async def _observe_now_and_then(self) -> None:
        while True:
            await anyio.sleep(OBSERVE_SECONDS)
            try:
                await self._observe()
            except AgentsError as error:
                self._services.log.warning("the engine does not answer", detail=str(error))

    async def _observe(self) -> None:
        """Find processes that ended without news of it."""
        # Processes are noted before the engine is asked: one that is launched meanwhile is newer
        # than the answer.
        before = [
            (keeper, process)
            for slot in self._slots.values()
            for keeper in slot.keepers()
            if (process := keeper.process) is not None
        ]
        if not before:
            return
        observed = await self._services.runtime.observe()
        for keeper, process in before:
            status = observed.get(keeper.spec.name)
            alive = status is not None and status.state is EngineState.RUNNING
            same = status is not None and status.pid == process.pid
            if keeper.process is process and not (alive and same):
                keeper.note_exit(process.pid, None)

    def _note_change(self) -> None:
        event, self._change = self._change, anyio.Event()
        event.set()
        self._outer_change()


def _wanted(state: ControlState) -> set[WorkloadName]:
    """Tell every workload that may go on from an earlier run."""
    specs = [spec for role, spec in state.roles.items() if role not in state.closed]
    specs += state.staged.values()
    specs += [spec for leaving in state.leaving.values() for spec in leaving]
    return {name for spec in specs for name in names_of(spec, state)}


def _issuer_of(spec: WorkloadSpec) -> str | None:
    return None if spec.rotation.upstream is None else spec.rotation.upstream.issuer
