"""The processes of roles, as whoever replaces their credentials sees them."""

from collections.abc import Mapping
from contextlib import suppress
from typing import final

from orchestrator.control.publish import Publisher
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.state import StateFile
from orchestrator.errors import NotRunningError, StateUnwritableError, WorkloadNotReadyError
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.rotation import Drain


@final
class Instances:
    """What rotations may do to processes. Every verb may be called again.

    A rotation takes the turn of a change only to begin a generation and to switch to it: others
    make their changes meanwhile. Whatever replaces the role discards what is being readied, and
    the next `ready` makes it anew.
    """

    def __init__(self, reconciler: Reconciler, publisher: Publisher, state: StateFile) -> None:
        """Act on the roles of this reconciler."""
        self._reconciler = reconciler
        self._publisher = publisher
        self._state = state

    async def ready(self, role: RoleName, version: str) -> None:
        """Have a generation that runs with exactly this version beside the one that serves.

        Returns when it was probed, attested and checked. If the serving one runs with it already,
        nothing is done.

        Raises:
            WorkloadNotReadyError: It did not become ready; it is ended again, the old one serves.
                Or another change of the role took its place.
            NotRunningError: The role is not applied.
        """
        async with self._reconciler.turn():
            slot = self._reconciler.slot(role)
            staged = await slot.stage(version)
        if staged is not None:
            await slot.readied(staged)

    async def switch(self, role: RoleName, version: str) -> None:
        """Send all new calls to the generation of this version; on disk before this returns.

        Raises:
            WorkloadNotReadyError: There is none that is ready.
            NotRunningError: The role is not applied.
        """
        async with self._reconciler.turn():
            await self._reconciler.slot(role).switch(version)

    async def drain(self, role: RoleName, grace: float) -> Drain:
        """Wait until nothing uses what served before, then end its process groups.

        Args:
            role: The role.
            grace: Longest wait, in seconds. Calls that change something are never cut, nor are
                callers forgotten who were asked something: while there are any at the end of the
                wait, the processes run on. Calls that only read are made again by what serves now.
        """
        try:
            slot = self._reconciler.slot(role)
        except NotRunningError:
            return Drain(0)
        return await slot.drain(grace)

    async def discard(self, role: RoleName) -> None:
        """End the generation that does not serve yet."""
        try:
            async with self._reconciler.turn():
                await self._reconciler.slot(role).discard()
        except NotRunningError:
            return

    async def hold(self, role: RoleName, seconds: float) -> None:
        """Let new calls wait, each at most so long, until `release`; calls in flight end meanwhile.

        They have half of the time for it: the other half is for what the wait is about.

        Raises:
            WorkloadNotReadyError: Some did not end in that half; calls are let through again.
            NotRunningError: The role is not applied.
        """
        slot = self._reconciler.slot(role)
        plane = await self._publisher.plane()
        grace = seconds / 2
        plane.hold(role, seconds)
        try:
            drain = await slot.quiet(grace)
        except BaseException:
            plane.release(role)
            raise
        if drain.left:
            plane.release(role)
            raise WorkloadNotReadyError(
                f"{drain.left} calls of {role} did not end within {grace:g} s, "
                f"the oldest began {drain.oldest:.0f} s ago"
            )

    async def release(self, role: RoleName) -> None:
        """Let calls through again."""
        (await self._publisher.plane()).release(role)

    async def close(self, role: RoleName, reason: str) -> int:
        """Kill every process of a role at once and keep it down, on disk, until `reopen`.

        Waits for no change that is under way: that one finds the role closed. Nor for a disk: what
        cannot be written, the state file is behind with.

        Returns:
            How many calls were cut.
        """
        try:
            slot = self._reconciler.slot(role)
        except NotRunningError:
            with suppress(StateUnwritableError):
                self._state.close(role, reason)  # it must not be started either
            return 0
        return await slot.close(reason)

    async def reopen(self, role: RoleName) -> None:
        """Let a role run again that was closed, with whichever credential is current."""
        async with self._reconciler.turn():
            try:
                self._reconciler.slot(role).reopen()
            except NotRunningError:
                self._state.reopen(role)

    def using(self, role: RoleName) -> Mapping[WorkloadName, str]:
        """Tell the version that each live process of a role was started with."""
        try:
            return self._reconciler.slot(role).using()
        except NotRunningError:
            return {}
