"""The daemon: control plane and gateway of one project, in one process."""

import os
import secrets as randomness
import signal
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, final

import anyio
import anyio.from_thread
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup
from pydantic import SecretStr

from orchestrator.audit.chronicle import Chronicle
from orchestrator.clock import SystemClock
from orchestrator.control.admin_server import AdminServer
from orchestrator.control.bootstrap import Bootstraps, Caller
from orchestrator.control.guarding import GuardOrders
from orchestrator.control.orders import Orders
from orchestrator.control.owner import OwnerInstances
from orchestrator.control.pinbook import PinBook
from orchestrator.control.publish import Publisher
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.services import Resolved, Services
from orchestrator.control.state import ProcessRecord, StateFile
from orchestrator.errors import AgentsError, LockHeldError, StateUnwritableError
from orchestrator.files import hold_lock, make_private_directory
from orchestrator.guards.words import notes_of
from orchestrator.journal import Journal
from orchestrator.model.admin import CredentialRequest, Progress, ReopenRequest, Result
from orchestrator.model.admin_governance import GovernanceRequest
from orchestrator.model.base import JsonObject
from orchestrator.model.desired import BOOTSTRAP_ROLE
from orchestrator.model.desired import GatewaySettings as Listening
from orchestrator.model.names import RoleName, SecretName, WorkloadName
from orchestrator.model.rotation import Check
from orchestrator.model.server import EraChoice
from orchestrator.model.snapshot import Era
from orchestrator.model.status import CredentialsReport, GatewayStatus
from orchestrator.model.workload import WorkloadSpec
from orchestrator.paths import Paths
from orchestrator.rotation.overview import Overview
from orchestrator.runtimes.attached import AttachedRuntime
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.runtimes.both import BothRuntimes
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.logs import rotate
from orchestrator.runtimes.probe import Attested, Dialogue, list_tools, probe
from orchestrator.runtimes.supervisord import SupervisordRuntime
from orchestrator.runtimes.users import make_role_directory, need_account
from orchestrator.runtimes.variables import read_variables
from orchestrator.runtimes.wire import open_wire
from orchestrator.secrets.fingerprint import Fingerprints
from orchestrator.secrets.resolve import SecretResolver
from orchestrator.wiring.engine import address_of, bind
from orchestrator.wiring.governance import Governance, operator_name
from orchestrator.wiring.leftovers import sweep

if TYPE_CHECKING:
    from orchestrator.audit.log import AuditLog
    from orchestrator.gateway.server import Gateway
    from orchestrator.rotation.engine import Engine
    from orchestrator.tokens.desk import TokenDesk
    from orchestrator.tokens.jwt import OAuthTokens
    from orchestrator.tokens.store import TokenStore
    from orchestrator.wiring.approvals import Approving
    from orchestrator.wiring.guarding import Guarding
    from orchestrator.wiring.incidents import Alarm
    from orchestrator.wiring.sinks import Sinks

BIND_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 10.0
NOTE_USES_SECONDS: Final = 60.0
KEEP_LOGS_SECONDS: Final = 2.0
FETCH_KEYS_SECONDS: Final = 30.0
_NOT_ON_DISK: Final = (
    "What was revoked holds, and is NOT on disk: it is forgotten if the daemon ends before it is. "
    "Free space on the disk; the daemon goes on trying to write it"
)

_NOT_RECORDED: Final = (
    "CALLS CANNOT BE RECORDED: {}. What is not recorded is not done, but for calls that only read "
    "where agents.yaml says `when_full: read-on`"
)


@final
class Daemon:
    """The control plane and the gateway of one project, in one process."""

    def __init__(self, paths: Paths, *, attached: bool = False) -> None:
        """Read the state; nothing runs yet.

        Args:
            paths: Where the project keeps what.
            attached: Whether somebody else runs the servers, so that there is no engine of ours.

        Raises:
            StateCorruptError: The state is not understood.
        """
        self._paths = paths
        self._clock = SystemClock()
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger("agentsd")
        self._boot = randomness.token_hex(4)
        self._chronicle = Chronicle(self._clock)
        self._state = StateFile(paths.control_state)
        self._attached = attached
        files = EngineFiles(paths.run, paths.logs)
        self._runtime: Runtime = BothRuntimes(SupervisordRuntime(files), DockerRuntime(files))
        if attached:
            self._runtime = AttachedRuntime(self._doubt)
        self._publisher = Publisher(self._state)
        self._pins = PinBook(paths.pins, self._clock, self._log)
        self._bootstraps = Bootstraps(
            self._runtime, self._state, self._resolve, self._converse, self._log
        )
        self._owners = OwnerInstances(self._runtime, self._state, self._resolve, self._converse)
        services = Services(
            runtime=self._runtime,
            publisher=self._publisher,
            state=self._state,
            pins=self._pins,
            probe=self._probe,
            check=self._check,
            secrets=self._secrets,
            log_of=self._paths.log_of,
            clock=self._clock,
            log=self._log,
            changed=lambda: None,
            mention=self._chronicle.mention,
        )
        self._reconciler = Reconciler(services, self._bootstraps, self._url_of)
        self._status = GatewayStatus(url="", ready=False)
        self._audit: AuditLog | None = None
        self._desk: TokenDesk | None = None
        self._desk_open = anyio.Event()
        self._engine: Engine | None = None
        self._engine_open = anyio.Event()
        self._governance: Governance | None = None
        self._governance_open = anyio.Event()
        self._overview: Overview | None = None
        self._access: OAuthTokens | None = None
        self._guarding: Guarding | None = None
        self._approving: Approving | None = None
        self._alarm: Alarm | None = None
        self._sinks: Sinks | None = None
        self._access_note = ""

    async def run(self) -> None:
        """Work until SIGTERM; the instances run on."""
        try:
            await self._work()
        finally:
            # After the last reply, whose end is recorded.
            if self._audit is not None:
                self._chronicle.flush()
                self._audit.close()

    async def _work(self) -> None:
        self._log.info("daemon starts", project=str(self._paths.root), boot=self._boot)
        # Before anything is written.
        if swept := await anyio.to_thread.run_sync(sweep, self._paths, self._state):
            self._log.info("half written files removed", files=swept)
        async with anyio.create_task_group() as group:
            orders = Orders(
                project=self._paths.root,
                reconciler=self._reconciler,
                bootstraps=self._bootstraps,
                pins=self._pins,
                gateway=lambda: self._status,
                desk=self._wait_for_desk,
                credentials=self._answer_credentials,
                govern=self._govern,
                report=self._report_credentials,
                group=group,
                log=self._log,
                notes=self._chronicle,
                mention=self._chronicle.mention,
            )
            await group.start(self._reconciler.run)
            group.start_soon(self._serve_gateway, group)
            group.start_soon(self._keep_logs)
            await group.start(
                AdminServer(self._paths.control_socket, orders.answer, self._log).serve
            )
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    self._log.info("daemon ends", signal=number.name)
                    group.cancel_scope.cancel()
                    break

    # What the control plane asks for.

    def _doubt(self, name: WorkloadName) -> None:
        self._reconciler.note_tools_changed(name)

    def _url_of(self, role: str) -> str:
        return f"{self._status.url}/{role}/mcp" if self._status.url else ""

    async def _secrets(self, spec: WorkloadSpec) -> Resolved:
        await self._bootstraps.wait_for(spec)
        if not any(reference.scheme == "issued" for reference in spec.secrets.values()):
            return Resolved(await self._resolve(spec))
        engine = await self._wait_for_engine()
        if not spec.credential:
            await engine.first(spec.role)
        version, credential = await engine.credential(spec.role, spec.credential)
        return Resolved(await self._resolve(spec, credential.fields), version)

    async def _resolve(
        self, spec: WorkloadSpec, issued: Mapping[str, SecretStr] | None = None
    ) -> Mapping[SecretName, SecretStr]:
        return await anyio.to_thread.run_sync(self._resolve_now, spec, issued)

    def _resolve_now(
        self, spec: WorkloadSpec, issued: Mapping[str, SecretStr] | None
    ) -> Mapping[SecretName, SecretStr]:
        if spec.attached:
            return {}
        if spec.container is None:
            account = need_account(spec.user)
            for place in (spec.env[SecretName("HOME")], spec.env[SecretName("TMPDIR")]):
                make_role_directory(self._paths.root / place, account, self._paths.state)
        if not spec.secrets:
            return {}
        return self._resolver().resolve_all(spec.secrets, issued)

    def _resolver(self) -> SecretResolver:
        # supervisord, our parent, holds the variables for us without reading them.
        return SecretResolver(
            self._paths.root,
            self._paths.state,
            {} if self._attached else read_variables(os.getppid()),
            accounts=self._state.state.credentials.stores,
            fingerprints=Fingerprints(self._paths.fingerprint_key),
            clock=self._clock,
        )

    async def _probe(
        self, process: Process, spec: WorkloadSpec, era: EraChoice, record: ProcessRecord | None
    ) -> Attested:
        startup, prefix, asks = spec.probe.startup, self._prefix(), spec.policy.asks
        async with open_wire(process, resume=record is not None) as channel:
            if record is None or process.address:
                wanted = era if record is None else record.era
                return await probe(channel, wanted, prefix=prefix, startup=startup, asks=asks)
            tools = await list_tools(channel, record.era, prefix=prefix, startup=startup, asks=asks)
            return Attested(
                era=record.era,
                protocol_version=record.protocol_version,
                server_info=record.server_info,
                capabilities=record.capabilities,
                tools=tools,
                instructions=record.instructions,
            )

    async def _check(self, process: Process, era: Era, check: Check) -> JsonObject:
        async with open_wire(process, resume=True) as channel:
            if process.address:  # each connection over HTTP is a session of its own
                dialogue = await Dialogue.open(channel, era, prefix=self._prefix())
            else:
                dialogue = Dialogue.resume(channel, era, prefix=self._prefix())
            return await dialogue.call_tool(check.tool, check.arguments)

    def _prefix(self) -> str:
        return f"{self._boot}-{randomness.token_hex(2)}-"

    @asynccontextmanager
    async def _converse(self, process: Process, spec: WorkloadSpec) -> AsyncGenerator[Caller]:
        async with open_wire(process, resume=False) as channel:
            dialogue = await Dialogue.open(channel, spec.era, prefix=self._prefix())
            yield dialogue.call_tool

    # The gateway.

    async def _serve_gateway(self, group: TaskGroup) -> None:
        """Load the data plane while the first instances start, then listen and serve."""
        while self._state.state.gateway is None:  # noqa: ASYNC110 - as below; it tells whose tokens
            await anyio.sleep(BIND_SECONDS)
        store = await self._open_tokens()
        gateway, desk, audit, self._engine = await anyio.to_thread.run_sync(self._load, store)
        self._audit = audit
        self._desk = desk
        self._desk_open.set()
        self._chronicle.mention("config.loaded", {"roles": ", ".join(self._role_names())})
        self._chronicle.open(audit)
        self._governance = self._govern_with(self._guarding, self._approving, self._alarm)
        self._governance_open.set()
        self._engine_open.set()
        group.start_soon(self._rotate, self._engine)
        self._overview = Overview(self._engine, self._clock, self._log)
        group.start_soon(self._overview.run)
        async with gateway:
            gateway.on_tools_changed = self._reconciler.note_tools_changed
            gateway.on_wanted = self._reconciler.note_wanted
            gateway.on_unwanted = self._reconciler.note_unwanted
            self._publisher.attach(gateway)
            group.start_soon(self._keep_tokens, desk)
            group.start_soon(self._keep_revocations, desk)
            if self._access is not None:
                group.start_soon(self._fetch_keys, self._access)
            group.start_soon(audit.keep)
            if self._sinks is not None:
                group.start_soon(self._sinks.run)
            self._keep_governing(group)
            listener, listening = await self._listen()
            await group.start(gateway.serve, [listener])
            host, port = address_of(listener)
            self._state.update(port=port)
            await anyio.to_thread.run_sync(desk.keep_workstation_tokens, self._role_names())
            self._status = GatewayStatus(url=f"http://{host}:{port}", ready=True)
            self._log.info("gateway ready", url=self._status.url, hosts=listening.hosts)
            self._reconciler.touch()
            await anyio.sleep_forever()

    async def _open_tokens(self) -> "TokenStore":
        """Open the database; without a disk that can be written nothing is served at first.

        What an earlier daemon revoked and could not write is known to nobody then.
        """
        while True:
            try:
                self._state.update()
                return await anyio.to_thread.run_sync(self._load_tokens)
            except StateUnwritableError as error:
                detail = f"nothing is served, as tokens cannot be read: {error}"
                self._status = GatewayStatus(url="", ready=False, detail=detail)
                self._log.error("gateway waits for the database", detail=str(error))
                self._reconciler.touch()
                await anyio.sleep(BIND_SECONDS)

    def _load_tokens(self) -> "TokenStore":
        from orchestrator.tokens.store import TokenStore  # noqa: PLC0415  as below

        return TokenStore(self._paths.database, self._clock)

    def _load(self, store: "TokenStore") -> "tuple[Gateway, TokenDesk, AuditLog, Engine]":
        # uvicorn, httptools and SQLAlchemy take half a second to import: that is done here, in a
        # thread, while the instances import what they need in processes of their own.
        from orchestrator.audit.log import AuditLog  # noqa: PLC0415
        from orchestrator.control.instances import Instances  # noqa: PLC0415
        from orchestrator.gateway.seal import load_key  # noqa: PLC0415
        from orchestrator.gateway.server import Gateway  # noqa: PLC0415
        from orchestrator.gateway.settings import GatewaySettings  # noqa: PLC0415
        from orchestrator.gateway.sums import SumStore  # noqa: PLC0415
        from orchestrator.rotation.store import RotationStore  # noqa: PLC0415
        from orchestrator.tokens.desk import TokenDesk  # noqa: PLC0415
        from orchestrator.tokens.verify import TokenIndex  # noqa: PLC0415
        from orchestrator.wiring.access import open_access  # noqa: PLC0415
        from orchestrator.wiring.approvals import open_approving  # noqa: PLC0415
        from orchestrator.wiring.credentials import Makers, open_engine  # noqa: PLC0415
        from orchestrator.wiring.guarding import open_guarding  # noqa: PLC0415
        from orchestrator.wiring.incidents import open_alarm  # noqa: PLC0415
        from orchestrator.wiring.sinks import Sinks  # noqa: PLC0415

        listening = self._state.state.gateway
        index = TokenIndex(self._clock)
        for role in self._state.state.closed:
            index.close(role)
        desk = TokenDesk(store, index, self._clock, self._paths.tokens)
        desk.mention = self._chronicle.mention
        access = None
        if listening is not None:
            access = open_access(listening.auth, index, self._clock, self._note_access)
            desk.attend(listening.auth, access)
            self._access = access
        settings = GatewaySettings(
            version=version("bandmaster"),
            hosts=listening.hosts if listening else (),
            origins=listening.origins if listening else (),
        )
        audit = AuditLog(
            self._paths.audit,
            self._paths.audit_key,
            self._clock,
            settings.version,
            lambda: self._state.state.audit,
        )
        self._sinks = Sinks(
            self._paths,
            lambda: self._state.state.audit,
            lambda: audit.seq,
            look_up=lambda reference: self._resolver().resolve(reference),
            clock=self._clock,
            log=self._log,
        )
        audit.behind = self._sinks.behind
        journal = Journal(self._paths.sessions)
        self._guarding = open_guarding(store.database, self._chronicle, self._clock)
        self._approving = open_approving(
            self._paths,
            store.database,
            self._publisher,
            self._clock,
            self._chronicle,
            operator_name(),
        )
        gateway = Gateway(
            access or index,
            clock=self._clock,
            settings=settings,
            recorder=audit,
            key=load_key(self._paths.seal_key),
            journal=journal,
            sums=SumStore(self._paths.sums, self._clock),
            gatekeeper=self._approving.desk,
            guards=self._guarding.guards,
            notes=self._chronicle,
        )
        journal.compact(gateway.sessions.restore(journal.load()))
        # The desk works in threads; the requests that a revocation ends belong to the event loop.
        cut = index.on_closed
        index.on_closed = lambda token_id: anyio.from_thread.run_sync(cut, token_id)
        desk.count_open = lambda token_id: anyio.from_thread.run_sync(gateway.open_of, token_id)
        self._alarm = open_alarm(
            paths=self._paths,
            database=store.database,
            state=self._state,
            guards=self._guarding.desk,
            tokens=desk,
            cut=gateway.cut_callers,
            look_up=lambda reference: self._resolver().resolve(reference),
            notes=self._chronicle,
            clock=self._clock,
            log=self._log,
            operator=operator_name(),
        )
        engine = open_engine(
            makers=Makers(self._paths, self._state, self._owners, self._resolver, self._clock),
            store=RotationStore(store.database, self._clock),
            desk=desk,
            index=index,
            instances=Instances(self._reconciler, self._publisher, self._state),
            streams_open=gateway.open_of,
            changing=gateway.changing,
            paths=self._paths,
            state=self._state,
            clock=self._clock,
            log=self._log,
            fingerprint_key=Fingerprints(self._paths.fingerprint_key).key(),
            mention=self._chronicle.mention,
        )
        return gateway, desk, audit, engine

    async def _listen(self) -> tuple[socket.socket, Listening]:
        """Bind the gateway's address, and try again while something else has it."""
        while True:
            listening = self._state.state.gateway
            if listening is None:
                await anyio.sleep(BIND_SECONDS)
                continue
            try:
                return bind(listening, self._state.state.port), listening
            except OSError as error:
                detail = f"{listening.host}:{listening.port} cannot be bound: {error.strerror}"
                self._status = GatewayStatus(url="", ready=False, detail=detail)
                self._log.error("gateway cannot listen", detail=detail)
                self._reconciler.touch()
                await anyio.sleep(BIND_SECONDS)

    async def _wait_for_desk(self) -> "TokenDesk":
        await self._desk_open.wait()
        if self._desk is None:
            raise AssertionError("opened without a desk")
        return self._desk

    async def _wait_for_engine(self) -> "Engine":
        await self._engine_open.wait()
        if self._engine is None:
            raise AssertionError("opened without an engine")
        return self._engine

    async def _answer_credentials(
        self, request: CredentialRequest
    ) -> AsyncGenerator[Progress | Result]:
        from orchestrator.rotation.orders import CredentialOrders  # noqa: PLC0415  brings SQLAlchemy
        from orchestrator.wiring.credentials import by_power  # noqa: PLC0415  the same

        if isinstance(request, ReopenRequest) and self._alarm is not None:
            self._alarm.incidents.require_none(request.role)
        orders = CredentialOrders(
            self._wait_for_engine, lambda: by_power(self._state), self._note_credentials
        )
        async with aclosing(orders.answer(request)) as replies:
            async for reply in replies:
                yield reply

    async def _govern(self, request: GovernanceRequest) -> AsyncGenerator[Progress | Result]:
        await self._governance_open.wait()
        if self._governance is None:
            raise AssertionError("opened without its parts")
        async with aclosing(self._governance.answer(request)) as replies:
            async for reply in replies:
                yield reply

    def _govern_with(
        self, guarding: "Guarding | None", approving: "Approving | None", alarm: "Alarm | None"
    ) -> Governance:
        if guarding is None or approving is None or alarm is None:
            raise AssertionError("loaded before")
        from orchestrator.wiring.console import ConsoleOrders, open_announcer  # noqa: PLC0415

        guards = GuardOrders(
            guarding.desk,
            lambda: self._state.state.roles,
            record=self._paths.audit,
            clock=self._clock,
            operator=operator_name(),
        )
        announcer = open_announcer(alarm.postman, approving.links, self._state, self._clock)
        approving.desk.on_asked = announcer.tell
        console = ConsoleOrders(self._chronicle, announcer)
        return Governance(console, guards, approving.orders, alarm.orders)

    def _keep_governing(self, group: TaskGroup) -> None:
        """Have the parts that govern calls go on with what they did not finish."""
        if self._guarding is None or self._approving is None or self._alarm is None:
            raise AssertionError("loaded before")
        group.start_soon(self._guarding.desk.keep)
        group.start_soon(self._approving.desk.keep)
        group.start_soon(self._alarm.postman.run)
        group.start_soon(self._alarm.incidents.run)

    async def _note_credentials(self) -> None:
        if self._overview is not None:
            await self._overview.look()
        self._reconciler.touch()

    def _note_access(self, text: str) -> None:
        self._access_note = text
        self._reconciler.touch()

    def _report_credentials(self) -> CredentialsReport:
        report = CredentialsReport() if self._overview is None else self._overview.report
        more = [self._access_note] if self._access_note else []
        if self._approving is not None:
            more += self._approving.orders.shortages()
        waiting = [role for one in self._state.unfinished_closures() for role in one.roles]
        if waiting:
            names = ", ".join(dict.fromkeys(waiting))
            more.append(f"`agents revoke-all` of {names} is not carried out to its end yet")
        if self._audit is not None and self._audit.trouble:
            more.append(_NOT_RECORDED.format(self._audit.trouble))
        if self._state.is_behind or (self._desk is not None and self._desk.unwritten):
            more.append(_NOT_ON_DISK)
        if self._guarding is not None:
            desk = self._guarding.desk
            more += notes_of(desk.holds, desk.problem, desk.unwritten, self._clock.now())
        if self._alarm is not None:
            more += self._alarm.incidents.notes()
            failed = self._alarm.postman.failures
            more += [f"{name} could not be told: {why}" for name, why in failed.items()]
        if self._sinks is not None:
            more += self._sinks.notes()
        return report.model_copy(update={"notes": (*report.notes, *more)})

    async def _rotate(self, engine: "Engine") -> None:
        """Keep the rotation engine at work; without a disk it is tried again."""
        while True:
            try:
                await engine.run()
            except StateUnwritableError as error:
                self._log.error("rotations wait for the database", detail=str(error))
            await anyio.sleep(BIND_SECONDS)

    async def _keep_tokens(self, desk: "TokenDesk") -> None:
        while True:
            await anyio.sleep(NOTE_USES_SECONDS)
            try:
                await anyio.to_thread.run_sync(desk.note_uses)
            except AgentsError as error:
                self._log.warning("uses of tokens not written", detail=str(error))

    async def _fetch_keys(self, access: "OAuthTokens") -> None:
        """Have the identity provider's keys before the first token comes, if it gives them."""
        while not await access.prepare():  # noqa: ASYNC110 - nothing tells when the provider is back
            await anyio.sleep(FETCH_KEYS_SECONDS)

    async def _keep_revocations(self, desk: "TokenDesk") -> None:
        """Write what was revoked while it could not be written, as soon as it can be."""
        while True:
            await anyio.sleep(BIND_SECONDS)
            if not (self._state.is_behind or desk.unwritten):
                continue
            try:
                await anyio.to_thread.run_sync(desk.catch_up)
                self._state.catch_up()
            except AgentsError as error:
                self._log.error("revocations are not on disk", detail=str(error))
            else:
                self._log.info("revocations are on disk")
                self._reconciler.touch()

    async def _keep_logs(self) -> None:
        while True:
            await anyio.sleep(KEEP_LOGS_SECONDS)
            for role in (*self._role_names(), BOOTSTRAP_ROLE):
                try:
                    _ = await anyio.to_thread.run_sync(rotate, self._paths.log_of(role))
                except OSError as error:
                    self._log.warning("log not rotated", role=role, detail=error.strerror)

    def _role_names(self) -> tuple[RoleName, ...]:
        return tuple(self._state.state.roles)


async def run_daemon(paths: Paths, *, attached: bool = False) -> None:
    """Run the daemon of one project until SIGTERM.

    Args:
        paths: Where the project keeps what.
        attached: Whether somebody else runs the servers.

    Raises:
        LockHeldError: Another one, or a command, writes this project's state.
        StateCorruptError: The state is not understood.
    """
    make_private_directory(paths.state)
    with ExitStack() as stack:
        # A command may hold the lock for a moment.
        give_up = anyio.current_time() + LOCK_SECONDS
        while True:
            try:
                stack.enter_context(hold_lock(paths.lock))
                break
            except LockHeldError:
                if anyio.current_time() > give_up:
                    raise
            await anyio.sleep(0.05)
        await Daemon(paths, attached=attached).run()
