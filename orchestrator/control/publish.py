"""Builds the snapshots that a gateway serves from, one route at a time."""

from contextlib import suppress
from types import MappingProxyType
from typing import Final, final

import anyio

from orchestrator.control.dataplane import DataPlane
from orchestrator.control.state import StateFile
from orchestrator.errors import StateUnwritableError
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.snapshot import EMPTY, Pulse, Route, Snapshot

_ROOM: Final = 1_000


@final
class Publisher:
    """The one place that changes what a gateway serves.

    A gateway may be attached after the first routes are known: it then starts with all of them.
    """

    def __init__(self, state: StateFile) -> None:
        """Continue the revisions of an earlier run."""
        self._state = state
        # Revisions are written in strides, so that not every change of a route costs a sync.
        first = state.state.revision
        self._reserve(first)
        self._snapshot = Snapshot(first, EMPTY.routes)
        self._plane: DataPlane | None = None
        self._attached = anyio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    def attach(self, plane: DataPlane) -> None:
        """Serve everything published so far, and all that follows, through this gateway."""
        self._plane = plane
        plane.swap(self._snapshot)
        self._attached.set()

    async def plane(self) -> DataPlane:
        """Wait for the gateway."""
        await self._attached.wait()
        if self._plane is None:
            raise AssertionError("attached without a plane")
        return self._plane

    def lose(self, workload: WorkloadName, pid: int, reason: str) -> None:
        """Tell the gateway, if there is one yet, that a process is gone."""
        if self._plane is not None:
            self._plane.lose(workload, pid, reason)

    def cut(self, role: RoleName) -> int:
        """End what is under way at a role whose route is closed; tell how many calls that were."""
        return 0 if self._plane is None else self._plane.cut(role)

    def pulse(self, workload: WorkloadName) -> Pulse | None:
        """Tell what the gateway knows of a workload's life, None if it does not know it (yet)."""
        return None if self._plane is None else self._plane.pulse(workload)

    def publish(self, route: Route) -> None:
        """Replace one role's route."""
        self._swap({**self._snapshot.routes, route.role: route})

    def withdraw(self, role: RoleName) -> None:
        """Remove one role's route."""
        self._swap({name: r for name, r in self._snapshot.routes.items() if name != role})

    def _reserve(self, revision: int) -> None:
        # On a full disk the instances that run have to be served all the same.
        with suppress(StateUnwritableError):
            self._state.update(revision=revision + _ROOM)

    def _swap(self, routes: dict[RoleName, Route]) -> None:
        revision = self._snapshot.revision + 1
        if revision >= self._state.state.revision:
            self._reserve(revision)
        self._snapshot = Snapshot(revision, MappingProxyType(routes))
        if self._plane is not None:
            self._plane.swap(self._snapshot)
