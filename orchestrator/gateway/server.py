"""The gateway as its owner holds it: the table behind, the HTTP server in front."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self, cast, final

import anyio
import uvicorn
from anyio.abc import TaskGroup, TaskStatus
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import TargetLostError, TargetUnavailableError
from orchestrator.gateway.app import Application, build_chain
from orchestrator.gateway.filters.record import LogRecorder, Recorder
from orchestrator.gateway.front import BoundedProtocol
from orchestrator.gateway.settings import Common, GatewaySettings
from orchestrator.gateway.table import Table
from orchestrator.gateway.target import Target
from orchestrator.gateway.upstream.stdio import Wire
from orchestrator.model.base import JsonObject
from orchestrator.model.names import WorkloadName
from orchestrator.model.snapshot import Pulse, Snapshot, TargetRef
from orchestrator.runtimes.channel import Channel
from orchestrator.tokens.verify import TokenIndex

# Until uvicorn cancels what is left; by then the gateway has ended it with an answer.
_SLACK_SECONDS: Final = 2


def open_channel(ref: TargetRef) -> Channel:
    """Open the FIFOs of a process; its readiness probe used them before.

    Raises:
        TargetUnavailableError: They are not there, or are not ours.
    """
    return Channel(ref.directory, resume=True)


def _ignore(_: WorkloadName) -> None:
    """Tell nobody."""


@final
class _Server(uvicorn.Server):
    """Uvicorn inside a process that has other things to do: signals stay with their owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to shut down."""
        self.should_exit = True
        self.stopping.set()

    @override
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@final
class Gateway:
    """The data plane. Enter it before use: it owns the tasks that read from the instances.

    Attributes:
        app: The ASGI application.
        on_tools_changed: Is told of a workload that says that its tools changed.
    """

    def __init__(
        self,
        tokens: TokenIndex,
        *,
        clock: Clock,
        settings: GatewaySettings | None = None,
        recorder: Recorder | None = None,
        open_wire: Callable[[TargetRef], Wire] = open_channel,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            tokens: Tokens that are accepted; the gateway hears from it which ones end early.
            clock: Where time comes from.
            settings: Bounds; the defaults if None.
            recorder: Keeps a record of each request; the log if None.
            open_wire: Connects to a process; may raise `TargetUnavailableError`.
        """
        self.on_tools_changed: Callable[[WorkloadName], None] = _ignore
        self._settings = settings or GatewaySettings()
        self._open_wire = open_wire
        info: JsonObject = {"name": "bandmaster", "version": self._settings.version}
        self._common = Common(info, secrets.token_hex(4), clock)
        self._table = Table(
            self._open_target,
            patience=self._settings.target_patience_seconds,
            max_waiting=self._settings.max_waiting,
        )
        handler = build_chain(
            self._table, tokens, recorder or LogRecorder(), self._common, self._settings
        )
        self.app = Application(handler, self._table, clock)
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Be ready for instances."""
        self._group = anyio.create_task_group()
        _ = await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Let go of every instance; they run on."""
        group, self._group = self._group, None
        if group is None:
            return None
        group.cancel_scope.cancel()
        if isinstance(error, Exception):
            # The owner's own error is no failure of a target: it passes as it is, in no group.
            _ = await group.__aexit__(None, None, None)
            return None
        return await group.__aexit__(kind, error, trace)

    def _open_target(self, ref: TargetRef) -> Target:
        if self._group is None:
            raise TargetUnavailableError("The gateway is not open")
        target = Target(
            ref,
            self._open_wire(ref),
            self._common,
            lambda: self.on_tools_changed(ref.workload),
        )
        self._group.start_soon(target.run, name=f"target {ref.workload}")
        return target

    def swap(self, snapshot: Snapshot) -> None:
        """Serve from this snapshot, from the next call on."""
        self._table.swap(snapshot)

    async def drain(self, workload: WorkloadName, grace: float) -> int:
        """Refuse new calls to a workload and wait for those in flight.

        Args:
            workload: The workload.
            grace: Longest wait, in seconds.

        Returns:
            How many calls were still in flight when the wait ended; 0 is a clean drain.
        """
        target = self._table.target(workload)
        return 0 if target is None else await target.drain(grace)

    def lose(self, workload: WorkloadName, pid: int, reason: str) -> None:
        """End the calls in flight of a process that is gone."""
        target = self._table.target(workload)
        if target is not None and target.ref.pid == pid:
            target.lose(TargetLostError(f"The process ended: {reason}"))

    def pulse(self, workload: WorkloadName) -> Pulse | None:
        """Tell what is known of a workload's life, or None if it has no target."""
        target = self._table.target(workload)
        return None if target is None else target.pulse()

    async def ping(self, workload: WorkloadName) -> None:
        """Ask a workload for a sign of life; the caller bounds the wait.

        Raises:
            UpstreamError: There is no target, or it went away.
        """
        await self._find(workload).ping()

    async def list_tools(self, workload: WorkloadName) -> tuple[JsonObject, ...]:
        """Ask a workload for all its tools.

        Raises:
            UpstreamError: It did not answer properly.
        """
        return await self._find(workload).list_tools()

    def _find(self, workload: WorkloadName) -> Target:
        target = self._table.target(workload)
        if target is None:
            raise TargetUnavailableError(f"{workload} has no target")
        return target

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve HTTP until cancelled, then finish what is in flight, in bounded time.

        Args:
            sockets: Listening sockets; they are closed at the end.
            task_status: Is told when the first request can be answered.
        """
        ports = frozenset(
            cast("tuple[str, int]", listener.getsockname())[1]
            for listener in sockets
            if listener.family in {socket.AF_INET, socket.AF_INET6}
        )
        self.app.allow(self._settings, ports)
        grace = self._settings.shutdown_seconds
        server = _Server(
            uvicorn.Config(
                self.app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=self._settings.keep_alive_seconds,
                timeout_graceful_shutdown=round(grace) + _SLACK_SECONDS,
            )
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._run_shielded, server, list(sockets))
            try:
                _ = await server.listening.wait()
                task_status.started()
                await anyio.sleep_forever()
            finally:
                server.stop()

    async def _run_shielded(self, server: _Server, sockets: list[socket.socket]) -> None:
        """Serve to the end of the server's own shutdown, which is bounded."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self._cut_late, server)
                await server.serve(sockets)
                group.cancel_scope.cancel()

    async def _cut_late(self, server: _Server) -> None:
        """End what is in flight when the grace is over, with an answer."""
        _ = await server.stopping.wait()
        await anyio.sleep(self._settings.shutdown_seconds)
        self.app.cut(TargetLostError("The gateway ends"))
