"""Processes and containers side by side: each workload on the engine that its spec names.

One engine that is down stops nothing of the other.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import ContainerEngineError, RuntimeUnavailableError
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import WorkloadExit, WorkloadSpec, WorkloadStatus
from orchestrator.runtimes.base import FeedGap, Process, Runtime
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.identity import look_up

_RETRY_SECONDS: Final = 1.0
# As long may a container reach this machine when somebody flushed the rules against it.
_GUARD_SECONDS: Final = 2.0


@final
class BothRuntimes(Runtime):
    """One engine for processes, one for containers."""

    def __init__(self, processes: Runtime, containers: DockerRuntime) -> None:
        """Keep both."""
        self._processes = processes
        self._containers = containers
        self._unswept: frozenset[WorkloadName] | None = None
        self._started: set[WorkloadName] = set()
        self._used = asyncio.Event()
        self._processes_seen: Mapping[WorkloadName, WorkloadStatus] = {}

    @override
    def notes(self) -> tuple[str, ...]:
        return (*self._processes.notes(), *self._containers.notes())

    @override
    async def observe(self) -> Mapping[WorkloadName, WorkloadStatus]:
        """Tell every workload that either engine knows.

        Of an engine that does not answer those are told that were seen and still run.
        """
        if not self._containers.is_used:
            return await self._processes.observe()
        try:
            containers = await self._containers.observe()
        except ContainerEngineError:
            containers = self._containers.remembered()
        try:
            self._processes_seen = await self._processes.observe()
        except RuntimeUnavailableError:
            self._processes_seen = {
                name: status for name, status in self._processes_seen.items() if _runs(status.pid)
            }
        return {**self._processes_seen, **containers}

    @override
    async def start(self, spec: WorkloadSpec) -> None:
        if spec.container is None:
            return await self._processes.start(spec)
        self._started.add(spec.name)
        is_first = not self._containers.is_used
        await self._containers.choose(spec.container.engine)
        self._used.set()
        if is_first:
            # The state may have been deleted under containers that run.
            self._unswept = frozenset()
            _ = await self._sweep_containers()
        return await self._containers.start(spec)

    @override
    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        return await self._of(spec).launch(spec, secrets)

    @override
    async def signal(self, name: WorkloadName, number: int) -> None:
        await self._runtime_of(name).signal(name, number)

    @override
    async def stop(self, name: WorkloadName, grace: timedelta) -> None:
        await self._runtime_of(name).stop(name, grace)
        self._started.discard(name)

    @override
    async def exits(self) -> AsyncGenerator[WorkloadExit | FeedGap]:
        """Follow the ends on both engines.

        It ends when the one for processes is gone; the other one is asked again until it is back,
        and each time there is a gap.
        """
        news: asyncio.Queue[WorkloadExit | FeedGap | RuntimeUnavailableError] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._follow_processes(news)),
            asyncio.create_task(self._follow_containers(news)),
            asyncio.create_task(self._guard()),
        ]
        try:
            while True:
                item = await news.get()
                if isinstance(item, RuntimeUnavailableError):
                    raise item
                yield item
        finally:
            for task in tasks:
                _ = task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    @override
    async def sweep(self, keep: Collection[WorkloadName]) -> tuple[WorkloadName, ...]:
        swept = await self._processes.sweep(keep)
        if not self._containers.is_used:
            return swept
        self._unswept = frozenset(keep)
        return (*swept, *await self._sweep_containers())

    async def _sweep_containers(self) -> tuple[WorkloadName, ...]:
        """Sweep once, as soon as there is an engine; what was started meanwhile is no stray."""
        if self._unswept is None:
            return ()
        try:
            swept = await self._containers.sweep(self._unswept | self._started)
        except ContainerEngineError:
            return ()
        self._unswept = None
        return swept

    def _of(self, spec: WorkloadSpec) -> Runtime:
        return self._processes if spec.container is None else self._containers

    def _runtime_of(self, name: WorkloadName) -> Runtime:
        return self._containers if self._containers.knows(name) else self._processes

    async def _follow_processes(
        self, news: asyncio.Queue[WorkloadExit | FeedGap | RuntimeUnavailableError]
    ) -> None:
        try:
            async for item in self._processes.exits():
                news.put_nowait(item)
        except RuntimeUnavailableError as error:
            news.put_nowait(error)

    async def _follow_containers(
        self, news: asyncio.Queue[WorkloadExit | FeedGap | RuntimeUnavailableError]
    ) -> None:
        await self._wait_for_use()
        while True:
            try:
                async for item in self._containers.exits():
                    if isinstance(item, FeedGap):
                        _ = await self._sweep_containers()
                    news.put_nowait(item)
            except ContainerEngineError:
                pass
            # What ends meanwhile is seen by looking.
            news.put_nowait(FeedGap())
            await asyncio.sleep(_RETRY_SECONDS)

    async def _guard(self) -> None:
        await self._wait_for_use()
        while True:
            await self._containers.guard()
            await asyncio.sleep(_GUARD_SECONDS)

    async def _wait_for_use(self) -> None:
        while not self._containers.is_used:
            _ = await self._used.wait()


def _runs(pid: int) -> bool:
    facts = look_up(pid) if pid else None
    return facts is not None and facts.state not in {"Z", "X"}
