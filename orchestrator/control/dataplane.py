"""What the control plane asks of the gateway."""

from typing import Protocol

from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Pulse, Snapshot


class DataPlane(Protocol):
    """A gateway, as the control plane sees it."""

    def swap(self, snapshot: Snapshot) -> None:
        """Serve from this snapshot, from the next call on."""
        ...

    async def drain(self, workload: WorkloadName, grace: float) -> int:
        """Refuse new calls to a workload and wait for those in flight.

        Args:
            workload: The workload.
            grace: Longest wait, in seconds.

        Returns:
            How many calls were still in flight when the wait ended; 0 is a clean drain.
        """
        ...

    async def see_out(self, workload: WorkloadName, grace: float, *, promises: bool) -> Drain:
        """Wait until nothing uses a workload that gets no new calls.

        Calls that are still there at the end of the wait and may be made again are made again, by
        whoever takes calls then. All others stay.

        Args:
            workload: The workload.
            grace: Longest wait, in seconds.
            promises: Whether to wait for callers, too, who were asked something by it.
        """
        ...

    def hold(self, role: RoleName, seconds: float) -> None:
        """Let new calls of a role wait, each at most so long, until `release`."""
        ...

    def release(self, role: RoleName) -> None:
        """Let the calls of a role through again."""
        ...

    def cut(self, role: RoleName) -> int:
        """End everything that is under way at a role whose route is closed.

        Returns:
            How many calls that were.
        """
        ...

    def lose(self, workload: WorkloadName, pid: int, reason: str) -> None:
        """End the calls in flight of a process that is gone."""
        ...

    def pulse(self, workload: WorkloadName) -> Pulse | None:
        """Tell what is known of a workload's life, or None if it has no target."""
        ...

    async def ping(self, workload: WorkloadName) -> None:
        """Ask a workload for a sign of life; the caller bounds the wait.

        Raises:
            UpstreamError: There is no target, or it went away.
        """
        ...

    async def list_tools(self, workload: WorkloadName) -> tuple[JsonObject, ...]:
        """Ask a workload for all its tools.

        Raises:
            UpstreamError: It did not answer properly.
        """
        ...
