"""What the control plane asks of the gateway."""

from typing import Protocol

from orchestrator.model.base import JsonObject
from orchestrator.model.names import WorkloadName
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
