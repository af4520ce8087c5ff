"""Short-lived instances in their owner's mode, which make credentials and never get a route."""

import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, final

import anyio
from pydantic import SecretStr

from orchestrator.control.bootstrap import Caller, Converse
from orchestrator.control.race import unless
from orchestrator.control.state import StateFile
from orchestrator.errors import NotRunningError, RuntimeUnavailableError, WorkloadStartError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, SecretName, ToolName
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.runtimes.identity import is_alive

_STOP_SECONDS: Final = 30.0


@final
class OwnerInstance:
    """One that runs.

    Attributes:
        home: The home of such instances of the role, and of nothing else.
    """

    def __init__(self, home: Path, process: Process, caller: Caller) -> None:
        """Keep the parts."""
        self.home = home
        self._process = process
        self._caller = caller

    async def call_tool(self, tool: ToolName, arguments: JsonObject) -> JsonObject:
        """Call one tool.

        Raises:
            WorkloadStartError: The instance ended before it answered.
            UpstreamProtocolError: It refused the call itself.
        """
        ended = partial(_end_of, self._process)
        answer = await unless(ended, lambda: self._caller(tool, arguments))
        if answer is None:
            raise WorkloadStartError(
                "it ended in the middle of a call", hint="See `agents logs bootstrap`."
            )
        return answer[0]


@final
class OwnerInstances:
    """Runs them, one at a time for each role."""

    def __init__(
        self,
        runtime: Runtime,
        state: StateFile,
        resolve: Callable[[WorkloadSpec], Awaitable[Mapping[SecretName, SecretStr]]],
        converse: Converse,
    ) -> None:
        """Prepare; nothing runs yet."""
        self._runtime = runtime
        self._state = state
        self._resolve = resolve
        self._converse = converse
        self._turns: defaultdict[RoleName, anyio.Lock] = defaultdict(anyio.Lock)

    @asynccontextmanager
    async def open(self, role: RoleName) -> AsyncGenerator[OwnerInstance]:
        """Run one for the length of a block; its process group is gone after it.

        Raises:
            WorkloadError: It did not start, or ended in the middle.
            SecretError: A secret of it does not resolve.
            NotRunningError: The role has none.
        """
        async with self._turns[role]:
            spec = self._state.state.credentials.owners.get(role)
            if spec is None:
                raise NotRunningError(
                    f"no owner's instance is known for {role}", hint="Run `agents up`."
                )
            # One that a crash left behind is not continued: nobody knows what it was asked.
            await self._runtime.stop(spec.name, spec.stop.grace)
            try:
                async with self._running(spec) as instance:
                    yield instance
            finally:
                # Without an engine it is ended as a stray, when there is one again.
                with (
                    anyio.CancelScope(shield=True),
                    anyio.move_on_after(_STOP_SECONDS),
                    suppress(RuntimeUnavailableError),
                ):
                    await self._runtime.stop(spec.name, spec.stop.grace)

    @asynccontextmanager
    async def _running(self, spec: WorkloadSpec) -> AsyncGenerator[OwnerInstance]:
        secrets = await self._resolve(spec)
        await self._runtime.start(spec)
        process = await self._runtime.launch(spec, secrets)
        home = Path(spec.env[SecretName("HOME")])
        with anyio.move_on_after(spec.probe.startup.total_seconds()) as patience:
            async with self._converse(process, spec) as caller:
                patience.deadline = float("inf")
                yield OwnerInstance(home, process, caller)
        if patience.cancelled_caught:
            raise WorkloadStartError(
                f"{spec.name} did not answer within `probe.startup`",
                hint="See `agents logs bootstrap`.",
            )


async def _end_of(process: Process) -> None:
    """Wait until a process has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # Asked only now: from here on the descriptor means that process and no other.
        if is_alive(process.pid, process.started, process.boot_id):
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
