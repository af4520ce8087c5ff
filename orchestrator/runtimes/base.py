"""What the control plane asks of an engine that runs workloads."""

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pydantic import SecretStr

from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import WorkloadExit, WorkloadSpec, WorkloadStatus


@dataclass(frozen=True, slots=True)
class Process:
    """One launched process, known again after a restart of whoever watches it.

    Attributes:
        workload: The workload that it is.
        pid: Its process id, also the id of its process group.
        started: Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
        boot_id: The machine's boot, so that a pid of another boot is never believed.
        directory: Directory that holds its FIFOs `in` and `out`.
        address: Where it serves HTTP, as `runtimes.address` writes it; empty for a stdio server.
    """

    workload: WorkloadName
    pid: int
    started: int
    boot_id: str
    directory: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class FeedGap:
    """The feed of exits lost something: observe again."""


class Runtime(Protocol):
    """An engine. All of it may be called again after a crash of the caller at any point."""

    async def observe(self) -> Mapping[WorkloadName, WorkloadStatus]:
        """Tell every workload that the engine knows.

        Raises:
            RuntimeUnavailableError: The engine does not answer.
        """
        ...

    async def start(self, spec: WorkloadSpec) -> None:
        """Have the engine keep a seat for the workload, now and after every exit.

        Raises:
            RuntimeUnavailableError: The engine does not answer or refuses.
        """
        ...

    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        """Turn the waiting seat into the server.

        Args:
            spec: The workload.
            secrets: Values of `spec.secrets`, complete.

        Raises:
            WorkloadStartError: No seat came, it was not the engine's own, or it refused the frame.
        """
        ...

    async def signal(self, name: WorkloadName, number: int) -> None:
        """Signal the workload's whole process group; nothing happens if there is none."""
        ...

    async def stop(self, name: WorkloadName, grace: timedelta) -> None:
        """End the workload's process group and have the engine forget it.

        Args:
            name: The workload; an unknown one is already stopped.
            grace: How long it may take after SIGTERM before it is killed.
        """
        ...

    def exits(self) -> AsyncGenerator[WorkloadExit | FeedGap]:
        """Follow the ends of processes, from the moment of the first item asked for."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Tell in words what is wrong with the engine and stops nobody; mostly nothing."""
        return ()

    async def sweep(self, keep: Collection[WorkloadName]) -> tuple[WorkloadName, ...]:
        """End processes of workloads that neither the engine nor `keep` knows.

        Returns:
            The workloads that were ended.
        """
        ...
