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
from orchestrator.errors import RoleClosedError, TargetLostError, TargetUnavailableError
from orchestrator.gateway import hub
from orchestrator.gateway.app import Application
from orchestrator.gateway.chain import Parts, build_chain
from orchestrator.gateway.discovery import Discovery
from orchestrator.gateway.filters.approve import Gatekeeper
from orchestrator.gateway.filters.record import LogRecorder, Recorder
from orchestrator.gateway.front import Connection
from orchestrator.gateway.hub import Hub
from orchestrator.gateway.parking import Parking
from orchestrator.gateway.questions import Questions
from orchestrator.gateway.seal import KEY_BYTES, Seal
from orchestrator.gateway.sessions import SessionJournal, Sessions
from orchestrator.gateway.settings import Common, GatewaySettings
from orchestrator.gateway.sums import SumStore
from orchestrator.gateway.table import Place, Table
from orchestrator.gateway.target import Target
from orchestrator.gateway.upstream.base import Upstream
from orchestrator.gateway.upstream.http import HttpUpstream
from orchestrator.gateway.upstream.stdio import StdioUpstream, Wire
from orchestrator.guards.index import Guards, open_guards
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, TokenId, WorkloadName
from orchestrator.model.notes import Notes
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Era, Pulse, Route, Snapshot, TargetRef
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.probe import declared
from orchestrator.tokens.jwt import OAuthTokens, Verifier

# Until uvicorn cancels what is left; by then the gateway has ended it with an answer.
_SLACK_SECONDS: Final = 2
_CUT_SECONDS: Final = 0.1
_CLOSED: Final = "The role was closed during the call"


def open_channel(ref: TargetRef) -> Channel:
    """Open the FIFOs of a process; its readiness probe used them before.

    Raises:
        TargetUnavailableError: They are not there, or are not ours.
    """
    return Channel(ref.directory, resume=True)


def _ignore(_: WorkloadName) -> None:
    """Tell nobody."""


def _ignore_owner(_: RoleName, __: str) -> None:
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
    async def main_loop(self) -> None:
        # It would look ten times a second whether the end has come.
        _ = await self.stopping.wait()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@final
class Gateway:
    """The data plane. Enter it before use: it owns the tasks that read from the instances.

    Attributes:
        app: The ASGI application.
        guards: What is held back.
        on_tools_changed: Is told of a workload that says that its tools changed.
        on_unwanted: Is told of an owner of processes of a role that will not come back.
    """

    def __init__(  # noqa: PLR0913 - each is a part that somebody else owns
        self,
        tokens: Verifier,
        *,
        clock: Clock,
        settings: GatewaySettings | None = None,
        recorder: Recorder | None = None,
        key: bytes | None = None,
        journal: SessionJournal | None = None,
        sums: SumStore | None = None,
        gatekeeper: Gatekeeper | None = None,
        guards: Guards | None = None,
        notes: Notes | None = None,
        open_wire: Callable[[TargetRef], Wire] = open_channel,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            tokens: Tokens that are accepted; the gateway hears from it which ones end early.
            clock: Where time comes from.
            settings: Bounds; the defaults if None.
            recorder: Keeps a record of each request; the log if None.
            key: Seals what callers keep, 32 bytes; one for this run alone if None.
            journal: Keeps what changed in sessions; nothing does if None.
            sums: Keeps what calls add up to; calls that count are refused if None.
            gatekeeper: Knows what people approved; what they have to is refused if None.
            guards: What is held back; nothing is if None.
            notes: Is told calls that are recorded and not made; they are refused if None.
            open_wire: Connects to a process; may raise `TargetUnavailableError`.
        """
        self.on_tools_changed: Callable[[WorkloadName], None] = _ignore
        self._settings = settings or GatewaySettings()
        self.guards: Guards = guards or open_guards()
        self._open_wire = open_wire
        info: JsonObject = {"name": "bandmaster", "version": self._settings.version}
        self._common = Common(info, secrets.token_hex(4), clock)
        self.on_unwanted: Callable[[RoleName, str], None] = _ignore_owner
        seal = Seal(key or secrets.token_bytes(KEY_BYTES))
        self.sessions = Sessions(seal, clock, journal)
        self._hub = Hub()
        self._hub.on_interest = self._watch
        self._parking = Parking()
        self._table = Table(
            self._open_target,
            patience=self._settings.target_patience_seconds,
            max_waiting=self._settings.max_waiting,
            watcher=self._note_change,
        )
        discovery = None
        if isinstance(tokens, OAuthTokens):
            discovery = Discovery(tokens.auth, self._table.places)
        parts = Parts(
            tokens=tokens,
            discovery=discovery,
            recorder=recorder or LogRecorder(),
            table=self._table,
            seal=seal,
            sessions=self.sessions,
            hub=self._hub,
            questions=Questions(),
            parking=self._parking,
            sums=sums,
            gatekeeper=gatekeeper,
            guards=self.guards,
            notes=notes,
            on_session_ended=self._note_session_end,
            on_level=self._set_level,
        )
        handler = build_chain(parts, self._common, self._settings)
        self.app = Application(handler, self._table, clock, discovery)
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
        self._parking.close()
        group.cancel_scope.cancel()
        if isinstance(error, Exception):
            # The owner's own error is no failure of a target: it passes as it is, in no group.
            _ = await group.__aexit__(None, None, None)
            return None
        return await group.__aexit__(kind, error, trace)

    @property
    def on_wanted(self) -> Callable[[RoleName, Era, str], None]:
        """Is asked, again and again, for a process of a role, an era and an owner."""
        return self._table.on_wanted

    @on_wanted.setter
    def on_wanted(self, ask: Callable[[RoleName, Era, str], None]) -> None:
        self._table.on_wanted = ask

    def _open_target(self, ref: TargetRef, route: Route) -> Target:
        if self._group is None:
            raise TargetUnavailableError("The gateway is not open")
        asked = declared(route.policy.asks)
        target = Target(ref, route.role, self._connect(ref, route), self._common, asked)
        self._group.start_soon(target.run, name=f"target {ref.workload}")
        return target

    def _connect(self, ref: TargetRef, route: Route) -> Upstream:
        def broadcast(method: str, params: JsonObject) -> None:
            self._broadcast(ref, route.role, method, params)

        common = self._common
        if ref.address:
            return HttpUpstream(
                ref.address,
                ref.era,
                ref.protocol_version,
                common.info,
                declared(route.policy.asks),
                common.boot,
                common.clock,
                broadcast,
                ref.pid,
            )
        return StdioUpstream(self._open_wire(ref), common.boot, common.clock, broadcast)

    def _broadcast(self, ref: TargetRef, role: RoleName, method: str, params: JsonObject) -> None:
        """Take what an instance says to nobody in particular."""
        place = self._table.places().get(role)
        if place is None:
            return
        policy = place.route.policy
        match method:
            case hub.TOOLS_CHANGED:
                self.on_tools_changed(ref.workload)
            case hub.PROMPTS_CHANGED if policy.prompts:
                self._hub.announce(role, method)
            case hub.RESOURCES_CHANGED if policy.resources:
                self._hub.announce(role, method)
            case hub.RESOURCE_UPDATED if place.policy.resources.allows(str(params.get("uri"))):
                self._hub.tell_updated(role, ref.owner, params)
            case "notifications/message" if ref.owner:
                self._hub.tell_session(ref.owner, method, params)
            case _:
                pass

    def _note_change(self, role: RoleName, before: Place | None, after: Place | None) -> None:
        """Tell listeners what changed for them, and new instances what listeners want to hear."""
        if after is None:
            self._hub.end_role(role)
            return
        if before is not None and before.policy.shown != after.policy.shown:
            self._hub.announce(role, hub.TOOLS_CHANGED)
        for owner in self._hub.owners(role):
            self._watch(role, owner)
        if before is None or before.target is not after.target or before.lanes != after.lanes:
            self._set_level(role)

    def _note_session_end(self, role: RoleName, key: str) -> None:
        self.on_unwanted(role, key)

    def _watch(self, role: RoleName, owner: str) -> None:
        place = self._table.places().get(role)
        speaker = None if place is None else place.speaker(owner)
        if place is not None and speaker is not None:
            speaker.touch()
            uris = self._hub.uris(role, owner)
            # What sessions subscribed to before their role was narrowed is not asked for any more.
            speaker.watch(frozenset(uri for uri in uris if place.policy.resources.allows(uri)))

    def _set_level(self, role: RoleName) -> None:
        level = self.sessions.lowest_level(role)
        if level:
            for target in self._table.targets(role):
                target.set_level(level)

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

    async def see_out(self, workload: WorkloadName, grace: float, *, promises: bool) -> Drain:
        """Wait until nothing uses a workload that gets no new calls.

        Calls that are still there at the end of the wait and may be made again are made again, by
        whoever takes calls then. All others stay.

        Args:
            workload: The workload.
            grace: Longest wait, in seconds.
            promises: Whether to wait for callers, too, who were asked something by it.
        """
        target = self._table.target(workload)
        return Drain(0) if target is None else await target.see_out(grace, promises=promises)

    def hold(self, role: RoleName, seconds: float) -> None:
        """Let new calls of a role wait, each at most so long, until `release`."""
        self._table.hold(role, seconds)

    def release(self, role: RoleName) -> None:
        """Let the calls of a role through again."""
        self._table.release(role)

    def cut(self, role: RoleName) -> int:
        """End everything that is under way at a role whose route is closed.

        Returns:
            How many calls that were.
        """
        cut = self.cut_callers(role)
        lost = TargetLostError(_CLOSED)
        for target in self._table.every_target(role):
            target.lose(lost)
        return cut

    def cut_callers(self, role: RoleName) -> int:
        """End every request and stream at a role; its instance goes on.

        Returns:
            How many requests that were.
        """
        cut = self._parking.cut(role)
        cut += self.app.cut_role(role, TargetLostError(_CLOSED), RoleClosedError(_CLOSED))
        self._hub.end_role(role)
        return cut

    def open_of(self, token_id: TokenId) -> int:
        """Tell how many requests of a token are open, streams included."""
        return self.app.open_of(token_id)

    def changing(self, token_id: TokenId) -> int:
        """Tell how many calls of a token are at an instance and change something."""
        return self.app.changing(token_id)

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
                self.app.__call__,  # an instance would be called in a roundabout way
                http=Connection,
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
            group.start_soon(self._ping)
            try:
                _ = await server.listening.wait()
                task_status.started()
                await anyio.sleep_forever()
            finally:
                server.stop()

    async def _ping(self) -> None:
        while True:
            await anyio.sleep(self._settings.ping_seconds)
            self.app.ping()
            for role in self._table.places():
                for owner in self._hub.owners(role):
                    self._watch(role, owner)

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
        with anyio.move_on_after(self._settings.shutdown_seconds):
            while True:
                # Who was cut off comes back at once, as long as the listeners are open.
                self.app.cut_streams(TargetLostError("The gateway ends"))
                await anyio.sleep(_CUT_SECONDS)
        self.app.cut(TargetLostError("The gateway ends"))
