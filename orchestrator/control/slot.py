"""One role: the generation that serves, and others that come or go beside it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.generation import Generation
from orchestrator.control.keeper import ENGINE_POLL_SECONDS, KILL_SECONDS, Keeper
from orchestrator.control.pins import Live
from orchestrator.control.report import report_process
from orchestrator.control.services import Services
from orchestrator.errors import (
    AgentsError,
    RuntimeUnavailableError,
    StateUnwritableError,
    WorkloadNotReadyError,
)
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Era, Route
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec


@final
class Slot:
    """One role.

    Changes are made one at a time; the caller sees to that. What only readies or ends processes
    beside the ones that serve is no change, nor is `close`, which waits for nobody.
    """

    def __init__(self, spec: WorkloadSpec, services: Services, group: TaskGroup) -> None:
        """Begin to keep the role's first or adopted generations."""
        self.role: RoleName = spec.role
        self._services = services
        self._group = group
        self._successor: Generation | None = None
        self._predecessor: Generation | None = None
        self._refused = ""
        self._published: Route | None = None
        self._is_stopped = False
        state = services.state.state
        self._closed = state.closed.get(spec.role)
        self._current = self._begin(spec)
        self._staged: Generation | None = None
        self._leaving: list[Generation] = []
        if self._closed is not None:
            self._publish()
            return
        if (staged := state.staged.get(spec.role)) is not None:
            self._staged = self._begin_checked(staged)
        for one in state.leaving.get(spec.role, ()):
            self._leaving.append(Generation(one, services, group, self._note, leaves=True))

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
        """Whether nothing is under way that a person waits for."""
        return self._successor is None and self._current.serving.is_settled

    @property
    def closed(self) -> str | None:
        """Why the role is closed, None if it is not."""
        return self._closed

    def keepers(self) -> tuple[Keeper, ...]:
        """Tell every keeper at work, those included that only see their calls out."""
        return tuple(keeper for one in self._generations() for keeper in one.keepers())

    def _generations(self) -> tuple[Generation, ...]:
        some = (self._current, self._staged, self._successor, self._predecessor)
        return (*(one for one in some if one is not None), *self._leaving)

    def status(self, url: str) -> RoleStatus:
        """Tell where the role stands."""
        clock = self._services.clock
        status = self._current.status(url)
        if self._leaving:
            leaving = [keeper for one in self._leaving for keeper in one.keepers()]
            status = status.model_copy(
                update={"leaving": tuple(report_process(keeper, clock) for keeper in leaving)}
            )
        if self._successor is not None:
            generation = self._successor.spec.generation
            return status.model_copy(
                update={"settled": False, "detail": f"generation {generation} is being readied"}
            )
        if status.detail:
            return status
        if self._staged is not None:
            generation = self._staged.spec.generation
            detail = f"generation {generation} is being readied with another credential"
            return status.model_copy(update={"detail": detail})
        if self._refused:
            return status.model_copy(
                update={"detail": f"the last change was not taken: {self._refused}"}
            )
        return status

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

    def adopt(self, spec: WorkloadSpec) -> None:
        """Take what is no concern of processes: how calls are decided, credentials replaced.

        What the server may ask stays as its processes were told.
        """
        state = self._services.state
        policy = spec.policy.model_copy(update={"asks": self.spec.policy.asks})
        news = {"policy": policy, "rotation": spec.rotation}
        if self._staged is not None:
            self._staged.adopt(self._staged.spec.model_copy(update=news))
            state.keep_staged(self._staged.spec)
        state.keep_role(self.role, self.spec.model_copy(update=news))
        self._current.adopt(self.spec.model_copy(update=news))
        self._publish()

    async def replace(self, spec: WorkloadSpec) -> None:
        """Bring up another generation, switch to it, drain and stop the old one.

        One that was readied with another credential is discarded: it is made of the old spec.

        Raises:
            WorkloadNotReadyError: The new generation did not become ready; the old one serves on.
        """
        state = self._services.state
        if self._closed is not None:
            state.keep_role(self.role, spec)
            self._current = self._begin(spec)
            self._publish()
            return
        await self.discard()
        if not self._current.has_traffic:
            await self._replace_idle(spec)
            return
        if (spec.policy, spec.rotation) != (self.spec.policy, self.spec.rotation):
            self.adopt(spec)  # it holds, whatever becomes of the processes
        self._successor = successor = self._begin(spec)
        problem: WorkloadNotReadyError | None = None
        try:
            await successor.settled()
            self._require_open()
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
        state.keep_role(self.role, spec)
        await self._succeed(successor)
        if problem is not None:
            raise problem

    async def _replace_idle(self, spec: WorkloadSpec) -> None:
        """Replace what has no traffic: there is nothing to protect."""
        try:
            await self._current.end()
        except AgentsError:
            # It could not be ended: somebody has to go on keeping it.
            self._current = self._begin(self.spec)
            raise
        self._require_open()
        self._services.state.keep_role(self.role, spec)
        self._refused = ""
        self._current = self._begin(spec)

    async def _succeed(self, successor: Generation) -> None:
        """Route everything to another generation, then drain and stop the one before."""
        self._refused = ""
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

    # Another credential.

    async def stage(self, version: str) -> Generation | None:
        """Begin a generation with another credential beside the one that serves.

        Returns:
            The generation, to be waited for by `readied`; None if the version serves already.

        Raises:
            WorkloadNotReadyError: The role is closed.
        """
        self._require_open()
        if self._serves(version):
            return None
        if self._staged is not None and self._staged.spec.credential == version:
            return self._staged
        await self.discard()
        self._pin()
        spec = self._next(self.spec, version)
        self._services.state.keep_staged(spec)
        self._staged = self._begin_checked(spec)
        self._services.changed()
        return self._staged

    async def readied(self, staged: Generation) -> None:
        """Wait until a staged generation is ready, with as many processes as serve now.

        Raises:
            WorkloadNotReadyError: It is not, and is ended; or another change took its place.
        """
        await staged.settled()
        self._require_staged(staged)
        if not staged.serving.is_ready:
            keeper = staged.serving
            problem = WorkloadNotReadyError(
                f"{keeper.spec.name} did not become ready: {keeper.detail}; "
                f"generation {self.spec.generation} keeps serving",
                hint=keeper.hint or None,
            )
            await self.discard()
            raise problem
        lost = _tools_of(self._current) - _tools_of(staged)
        if lost:
            await self.discard()
            names = ", ".join(sorted(lost))
            raise WorkloadNotReadyError(f"{staged.spec.name} would serve without {names}")
        await staged.warm(self._current.lane_keys())
        self._require_staged(staged)

    async def switch(self, version: str) -> None:
        """Let the staged generation serve; what served before finishes what it has.

        Raises:
            WorkloadNotReadyError: No generation with this version is ready.
        """
        self._require_open()
        if self._serves(version):
            return
        staged = self._staged
        if staged is None or staged.spec.credential != version:
            raise WorkloadNotReadyError(f"no instance of {self.role} was readied with {version}")
        await self.readied(staged)
        previous = self._current
        self._services.state.switch(staged.spec, previous.spec)
        self._current, self._staged, self._refused = staged, None, ""
        self._leaving.append(previous)
        previous.leave()
        self._publish()
        self._services.changed()

    async def drain(self, grace: float) -> Drain:
        """Wait until nothing uses what served before, then end it."""
        drains: list[Drain] = []

        async def see_out(generation: Generation) -> None:
            drain = await generation.see_out(grace)
            if drain.left:
                drains.append(drain)
                return
            generation.finish()
            self._publish()
            await self._end(generation)
            if generation in self._leaving:
                self._leaving.remove(generation)
                self._services.state.drop_leaving(generation.spec)
            self._services.changed()

        async with anyio.create_task_group() as group:
            for generation in tuple(self._leaving):
                group.start_soon(see_out, generation)
        return merged(drains)

    async def quiet(self, seconds: float) -> Drain:
        """Wait until no call is in flight at what serves; new ones have to be held meanwhile."""
        return await self._current.see_out(seconds, promises=False)

    async def discard(self) -> None:
        """End the generation that does not serve yet."""
        staged, self._staged = self._staged, None
        if staged is not None:
            self._services.state.drop_staged(self.role)
            await self._end(staged)
            self._services.changed()

    def using(self) -> Mapping[WorkloadName, str]:
        """Tell the version that each live process was started with."""
        return {
            keeper.spec.name: keeper.credential
            for keeper in self.keepers()
            if keeper.process is not None
        }

    def _serves(self, version: str) -> bool:
        if self.spec.credential:
            return self.spec.credential == version
        keeper = self._current.serving
        return keeper.is_ready and keeper.credential == version

    def _pin(self) -> None:
        """Have what serves come back with the credential that it has, whichever is current."""
        version = self._current.serving.credential
        if version and not self.spec.credential:
            spec = self.spec.model_copy(update={"credential": version})
            self._services.state.keep_role(self.role, spec)
            self._current.pin(spec)

    def _require_staged(self, staged: Generation) -> None:
        self._require_open()
        if staged is not self._staged:
            raise WorkloadNotReadyError(f"another change of {self.role} took its place")

    # An emergency.

    async def close(self, reason: str) -> int:
        """Kill every process at once, and run none until `reopen`.

        Without a disk, too: what is not written then, the state file is behind with.

        Returns:
            How many calls were cut.
        """
        doomed = self._generations()
        self._closed = reason
        fresh = self.spec
        with suppress(StateUnwritableError):
            self._services.state.close(self.role, reason)
            fresh = self._next(self.spec, "")
            self._services.state.keep_role(self.role, fresh)
        self._current = self._begin(fresh)
        self._staged = self._successor = self._predecessor = None
        self._leaving = []
        self._publish()
        cut = self._services.publisher.cut(self.role)
        # Without an engine they are dead all the same, and forgotten when there is one.
        gone = [self._kill(generation) for generation in doomed]
        with anyio.move_on_after(KILL_SECONDS):
            for event in gone:
                await event.wait()
        self._services.changed()
        return cut

    def _kill(self, generation: Generation) -> anyio.Event:
        gone = anyio.Event()

        async def kill() -> None:
            await generation.kill()
            gone.set()

        self._group.start_soon(kill)
        return gone

    def reopen(self) -> None:
        """Run again, with whichever credential is current."""
        if self._closed is None:
            return
        spec = self._next(self.spec, "")
        self._services.state.keep_role(self.role, spec)
        self._services.state.reopen(self.role)
        self._closed = None
        self._current = self._begin(spec)
        self._publish()
        self._services.changed()

    def _require_open(self) -> None:
        if self._closed is not None:
            raise WorkloadNotReadyError(
                f"{self.role} is closed: {self._closed}",
                hint=f"`agents reopen {self.role}` lets it run again.",
            )

    async def stop(self) -> None:
        """Unroute the role, drain it, and stop whatever runs for it."""
        self._is_stopped = True
        self._services.publisher.withdraw(self.role)
        old = (self._current, *self._leaving)
        async with anyio.create_task_group() as group:
            for generation in old:
                generation.withdraw()
                group.start_soon(generation.drain)
        for generation in self._generations():
            await generation.end()

    def _next(self, spec: WorkloadSpec, credential: str) -> WorkloadSpec:
        generation = self._services.state.next_generation(self.role)
        return spec.model_copy(update={"generation": generation, "credential": credential})

    def _begin(self, spec: WorkloadSpec) -> Generation:
        return Generation(spec, self._services, self._group, self._note, closed=self._closed)

    def _begin_checked(self, spec: WorkloadSpec) -> Generation:
        upstream = spec.rotation.upstream
        check = None if upstream is None else upstream.check
        return Generation(spec, self._services, self._group, self._note, check=check)

    async def _end(self, generation: Generation) -> None:
        """End a generation as soon as there is an engine."""
        while True:
            try:
                await generation.end()
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                return

    def _note(self, generation: Generation) -> None:
        if generation is self._current or generation in self._leaving:
            self._publish()
        self._services.changed()

    def _publish(self) -> None:
        """Tell the gateway where the role's calls go, if that is news."""
        if self._is_stopped:
            return
        self._current.expose()
        leaving = tuple(ref for one in self._leaving for ref in one.refs())
        route = replace(self._current.route(), leaving=leaving, closed=self._closed is not None)
        if route != self._published:
            self._published = route
            self._services.publisher.publish(route)


def _tools_of(generation: Generation) -> set[str]:
    return {str(tool["name"]) for tool in generation.route().tools}


def merged(drains: list[Drain]) -> Drain:
    """Tell of several ends as of one."""
    return Drain(
        sum(drain.left for drain in drains), max((drain.oldest for drain in drains), default=0.0)
    )
