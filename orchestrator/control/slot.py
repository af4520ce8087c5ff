"""One role: the generation that serves, and sometimes its successor beside it."""

from typing import final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.keeper import Keeper, Services
from orchestrator.errors import AgentsError, WorkloadNotReadyError
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec


@final
class _Running:
    """A keeper with the task that runs it."""

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
class Slot:
    """One role. Changes are made one at a time; the caller sees to that."""

    def __init__(self, spec: WorkloadSpec, services: Services, group: TaskGroup) -> None:
        """Begin to keep the role's first or adopted generation."""
        self.role: RoleName = spec.role
        self._services = services
        self._group = group
        self._successor: _Running | None = None
        self._refused = ""
        self._current = self._begin(spec, active=True)

    @property
    def spec(self) -> WorkloadSpec:
        """The generation that serves."""
        return self._current.keeper.spec

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way."""
        return self._successor is None and self._current.keeper.is_settled

    def keepers(self) -> tuple[Keeper, ...]:
        """Tell the keepers at work, the serving one first."""
        both = (self._current, self._successor)
        return tuple(running.keeper for running in both if running is not None)

    def keeper_of(self, workload: WorkloadName) -> Keeper | None:
        """Find the keeper of a workload."""
        return next((one for one in self.keepers() if one.spec.name == workload), None)

    def status(self, url: str) -> RoleStatus:
        """Tell where the role stands."""
        status = self._current.keeper.status(url)
        if self._successor is None:
            if self._refused and not status.detail:
                return status.model_copy(
                    update={"detail": f"the last change was not taken: {self._refused}"}
                )
            return status
        generation = self._successor.keeper.spec.generation
        return status.model_copy(
            update={"settled": False, "detail": f"generation {generation} is being readied"}
        )

    async def replace(self, spec: WorkloadSpec) -> None:
        """Bring up another generation, switch to it, drain and stop the old one.

        Raises:
            WorkloadNotReadyError: The new generation did not become ready; the old one serves on.
        """
        state = self._services.state
        if self._current.keeper.phase is not Phase.READY:
            # There is no traffic to protect.
            try:
                await self._end(self._current)
            except AgentsError:
                # It could not be ended: somebody has to go on keeping it.
                self._current = self._begin(self.spec, active=True)
                raise
            state.keep_role(self.role, spec)
            self._refused = ""
            self._current = self._begin(spec, active=True)
            return
        self._successor = successor = self._begin(spec, active=False)
        problem: WorkloadNotReadyError | None = None
        try:
            await successor.keeper.settled()
            if successor.keeper.phase is not Phase.READY:
                problem = self._refusal(successor.keeper)
                self._refused = str(problem)
        finally:
            if successor.keeper.phase is not Phase.READY and not self._takes_power(spec):
                self._successor = None
                with anyio.CancelScope(shield=True):
                    await self._end(successor)
                self._services.changed()
        if problem is not None and not self._takes_power(spec):
            raise problem
        self._refused = ""
        state.keep_role(self.role, spec)
        previous, self._current = self._current, successor
        self._successor = None
        successor.keeper.activate()
        previous.keeper.active = False
        self._services.changed()
        try:
            await self._drain(previous.keeper.spec)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(previous)
        if problem is not None:
            raise problem

    def _takes_power(self, spec: WorkloadSpec) -> bool:
        """Whether a change takes tools away: then the old generation must not go on serving."""
        return not self.spec.tools.keys() <= spec.tools.keys()

    def _refusal(self, keeper: Keeper) -> WorkloadNotReadyError:
        said = f"{keeper.spec.name} did not become ready: {keeper.detail}"
        old = f"generation {self.spec.generation}"
        if self._takes_power(keeper.spec):
            outcome = f"{old} is stopped all the same, as it has tools that the role lost"
        else:
            outcome = f"{old} keeps serving"
        return WorkloadNotReadyError(f"{said}; {outcome}", hint=keeper.hint or None)

    async def stop(self) -> None:
        """Unroute the role, drain it, and stop whatever runs for it."""
        self._current.keeper.active = False
        self._services.publisher.withdraw(self.role)
        if self._current.keeper.phase is Phase.READY:
            await self._drain(self.spec)
        for running in (self._successor, self._current):
            if running is not None:
                await self._end(running)

    async def _drain(self, spec: WorkloadSpec) -> None:
        plane = await self._services.publisher.plane()
        left = await plane.drain(spec.name, spec.stop.drain.total_seconds())
        if left:
            self._services.log.warning(
                "calls cut at the end of the drain", workload=spec.name, calls=left
            )

    def _begin(self, spec: WorkloadSpec, *, active: bool) -> _Running:
        running = _Running(Keeper(spec, self._services, active=active))
        self._group.start_soon(running.run, name=f"keep {spec.name}")
        return running

    async def _end(self, running: _Running) -> None:
        running.scope.cancel()
        await running.done.wait()
        keeper = running.keeper
        await self._services.runtime.stop(keeper.spec.name, keeper.spec.stop.grace)
        if keeper.process is not None:
            self._services.publisher.lose(keeper.spec.name, keeper.process.pid, "it was stopped")
        self._services.state.drop_process(keeper.spec.name)
