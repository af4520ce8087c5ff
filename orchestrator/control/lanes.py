"""Further processes of one generation, each started when the first caller needs it.

A lane speaks the other era than the role's own process, or belongs to one owner alone. It is
attested against the same promise, and ends when nobody has called it for a while.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, TypeAlias, final

import anyio
from anyio.abc import TaskGroup

from orchestrator.control.keeper import Keeper
from orchestrator.control.services import Services
from orchestrator.control.state import ControlState, ProcessRecord
from orchestrator.errors import RuntimeUnavailableError
from orchestrator.model.names import lane_part
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import Phase, WorkloadSpec
from orchestrator.runtimes.identity import is_alive

ENGINE_POLL_SECONDS: Final = 1.0
# Refusals for want of room that are remembered; a caller that was forgotten is refused again.
_MOST_REFUSALS: Final = 256

Key: TypeAlias = tuple[Era, str]

_REASONS: Final[Mapping[Phase, str]] = {
    Phase.BLOCKED: "an instance for it cannot start, as something that it needs is missing",
    Phase.QUARANTINED: "an instance for it showed tools that it must not have",
    Phase.FAILED: "an instance for it failed again and again, and was given up",
}
_DOES_NOT_START: Final = "an instance for it does not become ready"


@final
class Lane:
    """One lane.

    Attributes:
        keeper: Keeps its process.
        wanted_at: Monotonic seconds at which somebody asked for it last.
        refusal: Why it is not to be had; empty while it is, or soon will be.
        over: Set when it is to end.
        gone: Set when its process is gone.
        is_killed: Whether it ends without a drain and without any grace.
    """

    def __init__(self, keeper: Keeper, wanted_at: float) -> None:
        """Begin; nothing runs yet."""
        self.keeper = keeper
        self.wanted_at = wanted_at
        self.refusal = ""
        self.over = anyio.Event()
        self.gone = anyio.Event()
        self.is_killed = False


@final
class Lanes:
    """All lanes of one generation, by era and owner."""

    def __init__(
        self,
        spec: WorkloadSpec,
        services: Services,
        group: TaskGroup,
        changed: Callable[[], None],
    ) -> None:
        """Take up the lanes that an earlier run left.

        Args:
            spec: The generation.
            services: What keepers work with.
            group: Runs the lanes.
            changed: Called after every change.
        """
        self._spec = spec
        self._services = services
        self._group = group
        self._changed = changed
        self._lanes: dict[Key, Lane] = {}
        self._ending: dict[Key, Lane] = {}
        self._no_room: dict[Key, None] = {}
        self._closed = False
        # What could not be written down is known at least here.
        self.unspoken: set[Era] = set()
        for key in left_lanes(spec, services.state.state):
            self._begin(*key)

    def keepers(self) -> tuple[Keeper, ...]:
        """Tell the keepers of all lanes that are not about to end."""
        return tuple(lane.keeper for lane in self._lanes.values())

    def every_keeper(self) -> tuple[Keeper, ...]:
        """Tell the keepers of all lanes, those included that are about to end."""
        return (*self.keepers(), *(lane.keeper for lane in self._ending.values()))

    def refused(self) -> dict[Key, str]:
        """Tell which lanes are not to be had, and why."""
        most = self._services.most_owners
        full = f"{most} callers have instances of their own, and more are not allowed"
        found = dict.fromkeys(self._no_room, full)
        return found | {key: lane.refusal for key, lane in self._lanes.items() if lane.refusal}

    def want(self, era: Era, owner: str) -> None:
        """Have a lane, unless it is there or on its way; the caller sees that it makes sense."""
        key = (era, owner)
        lane = self._lanes.get(key)
        if lane is not None:
            lane.wanted_at = self._services.clock.monotonic()
            return
        if self._closed or key in self._no_room:
            return
        owners = {whose for _, whose in self._lanes}
        if owner not in owners and len(owners) >= self._services.most_owners:
            self._no_room[key] = None
            if len(self._no_room) > _MOST_REFUSALS:
                del self._no_room[next(iter(self._no_room))]
            self._services.log.warning("no room for a lane", role=self._spec.role, owner=owner)
        else:
            self._begin(era, owner)
        self._group.start_soon(self.tell)

    async def tell(self) -> None:
        """Tell of a change in a turn of its own, as whoever asks does not expect an answer yet."""
        self._changed()

    def pin(self, spec: WorkloadSpec) -> None:
        """Begin lanes with the credential of this spec from now on."""
        self._spec = spec

    def unwant(self, owner: str) -> None:
        """End the lanes of an owner who needs none any more."""
        self._end(*(key for key in self._lanes if key[1] == owner))

    def keys(self) -> tuple[Key, ...]:
        """Tell the lanes that are not about to end."""
        return tuple(self._lanes)

    async def settled(self) -> None:
        """Wait until every lane is in a state that stays, or is over."""
        for lane in tuple(self._lanes.values()):
            await lane.keeper.settled()

    def leave(self) -> None:
        """Begin none any more, and let those that are there finish what they have."""
        self._closed = True
        for keeper in self.every_keeper():
            keeper.withdraw()

    def close(self) -> None:
        """End all, and begin none any more."""
        self._closed = True
        self._end(*self._lanes)

    def kill(self) -> None:
        """End all at once."""
        for lane in (*self._lanes.values(), *self._ending.values()):
            lane.is_killed = True
        self.close()

    async def gone(self) -> None:
        """Wait until the processes of all lanes that were ended are gone."""
        for lane in list(self._ending.values()):
            await lane.gone.wait()

    def _begin(self, era: Era, owner: str) -> None:
        key = (era, owner)
        spec = self._spec.model_copy(update={"era": era, "part": lane_part(era, owner)})
        taken = {keeper.spec.name: keeper.owner for keeper in self.every_keeper()}
        if taken.get(spec.name, owner) != owner:
            self._no_room[key] = None  # one in 10^12: it may have the name when that one is gone
            return
        keeper = Keeper(
            spec,
            self._services,
            lambda: self._note(lane),
            owner=owner,
            on_era_refused=lambda: self._note_unspoken(key),
        )
        lane = Lane(keeper, self._services.clock.monotonic())
        self._lanes[key] = lane
        self._group.start_soon(
            self._live, key, lane, self._ending.get(key), name=f"lane {spec.name}"
        )

    def _note(self, lane: Lane) -> None:
        keeper = lane.keeper
        if keeper.is_ready:
            lane.refusal = ""
        elif keeper.is_settled:
            # It stays until it is ready: each try would let callers wait for nothing.
            lane.refusal = _REASONS.get(keeper.phase, _DOES_NOT_START)
        self._changed()

    def _note_unspoken(self, key: Key) -> None:
        """The server does not speak the era: say so, and end the lane."""
        era, server, state = key[0], self._spec.server, self._services.state
        self._services.log.info("era not spoken", server=server, era=era, role=self._spec.role)
        self.unspoken.add(era)
        self._end(key)
        known = state.state.unspoken.get(server, ())
        if era not in known:
            state.update(unspoken={**state.state.unspoken, server: (*known, era)})

    def _end(self, *keys: Key) -> None:
        """Route nobody to these lanes any more; their own tasks do the rest."""
        ended = [(key, lane) for key in keys if (lane := self._lanes.pop(key, None)) is not None]
        for key, lane in ended:
            lane.keeper.withdraw()
            lane.keeper.end()
            self._services.state.forget_process(lane.keeper.spec.name)
            self._ending[key] = lane
            lane.over.set()
        if ended:
            self._no_room.clear()
            self._changed()

    async def _live(self, key: Key, lane: Lane, predecessor: Lane | None) -> None:
        """Keep a lane from its beginning to its end; what runs outlives a cancellation."""
        if predecessor is not None:
            await predecessor.gone.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(lane.keeper.run, name=f"keep {lane.keeper.spec.name}")
            await self._until_over(key, lane)
            spec = lane.keeper.spec
            if lane.keeper.is_ready and not lane.is_killed:
                plane = await self._services.publisher.plane()
                _ = await plane.drain(spec.name, spec.stop.drain.total_seconds())
            group.cancel_scope.cancel()
        await self._stop(lane)
        lane.gone.set()
        if self._ending.get(key) is lane:
            del self._ending[key]

    async def _until_over(self, key: Key, lane: Lane) -> None:
        """Wait until a lane is to end; one that nobody has called for a while is."""
        longest = self._services.lane_idle.total_seconds()
        while not lane.over.is_set():
            now = self._services.clock.monotonic()
            left = self._last_used(lane, now) + longest - now
            if left <= 0:
                self._services.log.info("lane idle", workload=lane.keeper.spec.name)
                self._end(key)
                return
            with anyio.move_on_after(left):
                await lane.over.wait()

    def _last_used(self, lane: Lane, now: float) -> float:
        pulse = self._services.publisher.pulse(lane.keeper.spec.name)
        if (pulse is not None and pulse.in_flight) or not lane.keeper.is_settled:
            return now  # one that is still on its way was called by nobody for want of it
        called = pulse.last_call if pulse is not None else 0.0
        return max(called, lane.wanted_at, lane.keeper.ready_since or 0.0)

    async def _stop(self, lane: Lane) -> None:
        """Have the engine end the process, as soon as there is an engine."""
        keeper, name = lane.keeper, lane.keeper.spec.name
        grace = timedelta(0) if lane.is_killed else keeper.spec.stop.grace
        while True:
            try:
                await self._services.runtime.stop(name, grace)
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                break
        if keeper.process is not None:
            self._services.publisher.lose(name, keeper.process.pid, "it was stopped")


def left_lanes(spec: WorkloadSpec, state: ControlState) -> dict[Key, ProcessRecord]:
    """Tell the lanes of a generation that an earlier run launched and that still run."""
    found: dict[Key, ProcessRecord] = {}
    for name, record in state.processes.items():
        part = lane_part(record.era, record.owner)
        if name == spec.model_copy(update={"part": part}).name and is_alive(
            record.pid, record.started, record.boot_id
        ):
            found[(record.era, record.owner)] = record
    return found
