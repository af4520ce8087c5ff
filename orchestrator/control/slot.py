"""One role: the generation that serves, and sometimes its successor beside it."""

from typing import final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.generation import Generation
from orchestrator.control.keeper import Keeper
from orchestrator.control.pins import Live
from orchestrator.control.services import Services
from orchestrator.errors import AgentsError, WorkloadNotReadyError
from orchestrator.model.names import RoleName
from orchestrator.model.rules import RolePolicy
from orchestrator.model.snapshot import Era, Route
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec


@final
class Slot:
    """One role. Changes are made one at a time; the caller sees to that."""

    def __init__(self, spec: WorkloadSpec, services: Services, group: TaskGroup) -> None:
        """Begin to keep the role's first or adopted generation."""
        self.role: RoleName = spec.role
        self._services = services
        self._group = group
        self._successor: Generation | None = None
        self._predecessor: Generation | None = None
        self._refused = ""
        self._published: Route | None = None
        self._is_stopped = False
        self._current = self._begin(spec)

    @property
    def spec(self) -> WorkloadSpec:
        """The generation that serves."""
        return self._current.spec

    @property
    def phase(self) -> Phase:
        """Where the process stands that speaks for the role."""
        return self._current.serving.phase

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way."""
        return self._successor is None and self._current.serving.is_settled

    def keepers(self) -> tuple[Keeper, ...]:
        """Tell every keeper at work, those included that only see their calls out."""
        generations = (self._current, self._successor, self._predecessor)
        return tuple(keeper for one in generations if one is not None for keeper in one.keepers())

    def status(self, url: str) -> RoleStatus:
        """Tell where the role stands."""
        status = self._current.status(url)
        if self._successor is None:
            if self._refused and not status.detail:
                return status.model_copy(
                    update={"detail": f"the last change was not taken: {self._refused}"}
                )
            return status
        generation = self._successor.spec.generation
        return status.model_copy(
            update={"settled": False, "detail": f"generation {generation} is being readied"}
        )

    def want(self, era: Era, owner: str) -> None:
        """Have a process for an era and an owner, where that makes sense."""
        self._current.want(era, owner)

    def unwant(self, owner: str) -> None:
        """End the processes of an owner who needs none any more."""
        self._current.unwant(owner)

    def pinned(self) -> tuple[WorkloadSpec, tuple[Live, ...]]:
        """Tell the generation that serves, and what its processes show."""
        return self.spec, self._current.lives()

    def note_pins_changed(self) -> None:
        """Route what is not held any more; no process is touched."""
        self._current.note_pins_changed()

    def adopt_policy(self, policy: RolePolicy) -> None:
        """Let calls be decided by another policy from now on; no process is touched.

        What the server may ask stays as its processes were told.
        """
        policy = policy.model_copy(update={"asks": self.spec.policy.asks})
        self._services.state.keep_role(self.role, self.spec.model_copy(update={"policy": policy}))
        self._current.adopt_policy(policy)
        self._publish()

    async def replace(self, spec: WorkloadSpec) -> None:
        """Bring up another generation, switch to it, drain and stop the old one.

        Raises:
            WorkloadNotReadyError: The new generation did not become ready; the old one serves on.
        """
        state = self._services.state
        if not self._current.has_traffic:
            # There is nothing to protect.
            try:
                await self._current.end()
            except AgentsError:
                # It could not be ended: somebody has to go on keeping it.
                self._current = self._begin(self.spec)
                raise
            state.keep_role(self.role, spec)
            self._refused = ""
            self._current = self._begin(spec)
            return
        if spec.policy != self.spec.policy:  # it holds, whatever becomes of the processes
            self.adopt_policy(spec.policy)
        self._successor = successor = self._begin(spec)
        problem: WorkloadNotReadyError | None = None
        try:
            await successor.settled()
            if not successor.serving.is_ready:
                problem = self._refusal(successor.serving)
                self._refused = str(problem)
        finally:
            if not successor.serving.is_ready and not self._takes_power(spec):
                self._successor = None
                with anyio.CancelScope(shield=True):
                    await successor.end()
                self._services.changed()
        if problem is not None and not self._takes_power(spec):
            raise problem
        self._refused = ""
        state.keep_role(self.role, spec)
        self._predecessor = previous = self._current
        self._current = successor
        self._successor = None
        self._publish()
        previous.withdraw()
        self._services.changed()
        try:
            await previous.drain()
        finally:
            with anyio.CancelScope(shield=True):
                await previous.end()
            self._predecessor = None
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
        self._is_stopped = True
        self._services.publisher.withdraw(self.role)
        self._current.withdraw()
        await self._current.drain()
        for generation in (self._successor, self._current):
            if generation is not None:
                await generation.end()

    def _begin(self, spec: WorkloadSpec) -> Generation:
        return Generation(spec, self._services, self._group, self._note)

    def _note(self, generation: Generation) -> None:
        if generation is self._current:
            self._publish()
        self._services.changed()

    def _publish(self) -> None:
        """Tell the gateway where the role's calls go, if that is news."""
        if self._is_stopped:
            return
        self._current.expose()
        route = self._current.route()
        if route != self._published:
            self._published = route
            self._services.publisher.publish(route)
