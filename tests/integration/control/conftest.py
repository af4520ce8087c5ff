"""A real engine, real servers and a real control plane, with a small data plane before it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import pytest
import structlog
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.clock import SystemClock
from orchestrator.control.bootstrap import Bootstraps, Caller
from orchestrator.control.dataplane import DataPlane
from orchestrator.control.instances import Instances
from orchestrator.control.pinbook import PinBook
from orchestrator.control.publish import Publisher
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.services import Resolved, Services
from orchestrator.control.state import ProcessRecord, StateFile
from orchestrator.errors import (
    AgentsError,
    SecretNotFoundError,
    TargetLostError,
    TargetUnavailableError,
)
from orchestrator.gateway.server import Gateway
from orchestrator.model.base import JsonObject
from orchestrator.model.desired import Desired, GatewaySettings
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Pulse, Route, Snapshot, TargetRef
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.both import BothRuntimes
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import Engine, EngineFiles
from orchestrator.runtimes.identity import look_up
from orchestrator.runtimes.probe import Attested, Dialogue, list_tools, probe
from orchestrator.runtimes.supervisord import SupervisordRuntime
from orchestrator.secrets.resolve import SecretResolver

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from orchestrator.model.desired import BootstrapSpec
    from orchestrator.model.names import SecretName
    from orchestrator.model.rotation import Check
    from orchestrator.model.server import EraChoice
    from orchestrator.model.snapshot import Era
    from orchestrator.model.status import RoleStatus
    from orchestrator.runtimes.base import Process, Runtime

SERVER: Final = str(Path(__file__).parents[2] / "servers" / "scripted.py")
LISTENING: Final = GatewaySettings(host="127.0.0.1", port=0)
SECONDS: Final = 60.0
# The number of the user `mcp` of images that are made here.
BOX_USER: Final = 10_001
# The engine that the client asks, too.
SOCKET: Final = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


@final
class Connection:
    """The data plane's end of one process."""

    def __init__(self, ref: TargetRef) -> None:
        """Open it."""
        self.ref = ref
        self.heard = time.monotonic()
        self.last_call = 0.0
        self.tools_changed: Callable[[], None] = lambda: None
        self._channel = Channel(ref.directory, resume=True)
        self._waiting: dict[str, asyncio.Future[JsonObject]] = {}
        self._numbers = itertools.count()
        self._boot = secrets.token_hex(4)
        self._failure: AgentsError | None = None

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._waiting)

    async def run(self) -> None:
        """Read until it is closed."""
        with suppress(anyio.ClosedResourceError, OSError):
            while True:
                message = cast("JsonObject", json.loads(await self._channel.receive()))
                self.heard = time.monotonic()
                future = self._waiting.get(str(message.get("id")))
                if future is not None and not future.done():
                    future.set_result(message)
                elif message.get("method") == "notifications/tools/list_changed":
                    self.tools_changed()

    async def ask(self, method: str, params: JsonObject) -> JsonObject:
        """Ask and wait for the result."""
        if self._failure is not None:
            raise self._failure
        name = f"{self._boot}-{next(self._numbers)}"
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        try:
            message = {"jsonrpc": "2.0", "id": name, "method": method, "params": params}
            await self._channel.send(json.dumps(message).encode())
            answer = await future
        finally:
            del self._waiting[name]
        return cast("JsonObject", answer["result"])

    def fail(self, error: AgentsError) -> None:
        """End all that waits."""
        self._failure = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        self._channel.close()


@final
class Plane(DataPlane):
    """A small data plane that also writes down, in order, what the control plane did to it."""

    def __init__(self, group: TaskGroup) -> None:
        """Serve nothing."""
        self.events: list[str] = []
        self.revisions: list[int] = []
        self.routes: Mapping[RoleName, Route] = {}
        self.on_tools_changed: Callable[[WorkloadName], None] = lambda _: None
        self.connections: dict[WorkloadName, Connection] = {}
        self._group = group
        self._before: Mapping[str, str] = {}

    @override
    def swap(self, snapshot: Snapshot) -> None:
        self.revisions.append(snapshot.revision)
        self.routes = snapshot.routes
        now: dict[str, str] = {}
        for role, route in snapshot.routes.items():
            now[role] = f"no {route.reason}{' waits' if route.waits else ''}"
            for ref in route.leaving:
                now[f"leaving {ref.workload}"] = str(ref.pid)
                self._connect(ref)
            for ref in (route.target, *route.lanes):
                if ref is not None:
                    own = ref is route.target
                    name = str(role) if own else f"{role} {ref.era} {ref.owner}".rstrip()
                    now[name] = f"{ref.workload} {ref.pid}"
                    self._connect(ref)
            for (era, owner), why in route.refused.items():
                now[f"{role} {era} {owner}".rstrip()] = f"refused, {why}"
        for name in self._before.keys() - now.keys():
            self.events.append(f"{name}: gone")
        for name, text in now.items():
            if self._before.get(name) != text:
                self.events.append(f"{name}: {text}")
        self._before = now

    def _connect(self, ref: TargetRef) -> None:
        known = self.connections.get(ref.workload)
        if known is not None and known.ref.pid == ref.pid:
            return
        self.connections[ref.workload] = made = Connection(ref)
        made.tools_changed = lambda: self.on_tools_changed(ref.workload)
        self._group.start_soon(made.run)

    @override
    async def drain(self, workload: WorkloadName, grace: float) -> int:
        self.events.append(f"drain {workload}")
        connection = self.connections.get(workload)
        if connection is None:  # nobody was ever sent there
            return 0
        with anyio.move_on_after(grace):
            while connection.in_flight:  # noqa: ASYNC110  as a data plane for tests may
                await anyio.sleep(0.01)
        left = connection.in_flight
        self.events.append(f"drained {workload} {left}")
        return left

    @override
    async def see_out(self, workload: WorkloadName, grace: float, *, promises: bool) -> Drain:
        self.events.append(f"see out {workload}")
        connection = self.connections.get(workload)
        if connection is None:
            return Drain(0)
        with anyio.move_on_after(grace):
            while connection.in_flight:  # noqa: ASYNC110  as a data plane for tests may
                await anyio.sleep(0.01)
        return Drain(connection.in_flight)

    @override
    def hold(self, role: RoleName, seconds: float) -> None:
        self.events.append(f"hold {role} {seconds:g}")

    @override
    def release(self, role: RoleName) -> None:
        self.events.append(f"release {role}")

    @override
    def cut(self, role: RoleName) -> int:
        self.events.append(f"cut {role}")
        cut = 0
        for workload, connection in self.connections.items():
            if workload.split(".")[0] == role:
                cut += connection.in_flight
                connection.fail(TargetLostError("cut"))
        return cut

    @override
    def lose(self, workload: WorkloadName, pid: int, reason: str) -> None:
        self.events.append(f"lose {workload} {pid}")
        connection = self.connections.get(workload)
        if connection is not None and connection.ref.pid == pid:
            connection.fail(TargetLostError(reason))

    @override
    def pulse(self, workload: WorkloadName) -> Pulse | None:
        connection = self.connections.get(workload)
        if connection is None:
            return None
        return Pulse(connection.heard, connection.in_flight, None, connection.last_call)

    @override
    async def ping(self, workload: WorkloadName) -> None:
        connection = self._find(workload)
        _ = await connection.ask("ping", {})

    @override
    async def list_tools(self, workload: WorkloadName) -> tuple[JsonObject, ...]:
        listed = await self._find(workload).ask("tools/list", {})
        return tuple(cast("list[JsonObject]", listed["tools"]))

    def _find(self, workload: WorkloadName) -> Connection:
        connection = self.connections.get(workload)
        if connection is None:
            raise TargetUnavailableError(f"{workload} is not known")
        return connection

    async def call(self, name: str, tool: str, arguments: JsonObject) -> str:
        """Call a tool; return the text of its result.

        Args:
            name: A role; or a role, an era and possibly an owner, for a lane.
            tool: The tool.
            arguments: Its arguments.
        """
        connection = self._find(WorkloadName(self.route(name).split()[0]))
        try:
            result = await connection.ask("tools/call", {"name": tool, "arguments": arguments})
        finally:
            connection.last_call = time.monotonic()
        content = cast("list[dict[str, str]]", result["content"])
        return content[0]["text"]

    def route(self, name: str) -> str:
        """Tell where the calls of a role, or of a lane, go now."""
        return self._before.get(name, "gone")


@final
class Control:
    """One run of the control plane."""

    def __init__(
        self,
        reconciler: Reconciler,
        plane: Plane,
        bootstraps: Bootstraps,
        pins: PinBook,
        instances: Instances,
    ) -> None:
        """Keep the parts."""
        self.instances = instances
        self.pins = pins
        self.reconciler = reconciler
        self.plane = plane
        self.bootstraps = bootstraps

    def role(self, name: str = "reader") -> RoleStatus:
        """Tell where a role stands."""
        return next(status for status in self.reconciler.statuses() if status.role == name)

    def pid(self, name: str = "reader") -> int:
        """Tell the process of a role's instance."""
        pid = self.role(name).pid
        assert pid is not None
        return pid

    async def until(self, check: Callable[[], object], seconds: float = SECONDS) -> None:
        """Wait until something is so."""
        try:
            with anyio.fail_after(seconds):
                while not check():
                    # What other processes do is not told: look again.
                    with anyio.move_on_after(0.02):
                        await self.reconciler.change()
        except TimeoutError:
            pytest.fail(f"{self.reconciler.statuses()}\n{self.plane.events}")

    async def until_state(self, state: str, name: str = "reader") -> RoleStatus:
        """Wait until a role is in a state."""
        await self.until(lambda: self.role(name).state == state)
        return self.role(name)

    async def until_ready(self, name: str = "reader", *, other_than: int = 0) -> RoleStatus:
        """Wait until a role is ready, and its process another one."""
        await self.until(
            lambda: self.role(name).state == "ready" and self.role(name).pid != other_than
        )
        return self.role(name)

    async def until_settled(self) -> None:
        """Wait until no role is on its way anywhere."""
        await self.until(self.reconciler.is_settled)

    async def apply(self, *specs: WorkloadSpec, bootstrap: BootstrapSpec | None = None) -> None:
        """Make the project run exactly this."""
        bootstraps = {} if bootstrap is None else {bootstrap.server: bootstrap}
        roles = {spec.role: spec for spec in specs}
        with anyio.fail_after(SECONDS):
            await self.reconciler.apply(
                Desired(gateway=LISTENING, roles=roles, bootstraps=bootstraps)
            )

    async def start(self, *specs: WorkloadSpec) -> int:
        """Run these and wait until they are ready; tell the first one's process."""
        await self.apply(*specs)
        for spec in specs:
            _ = await self.until_ready(spec.role)
        return self.pid(specs[0].role)


@final
class Project:
    """An engine and the state of a control plane, over any number of its runs."""

    def __init__(self, root: Path, image: str = "") -> None:
        """Keep the places.

        Args:
            root: The project's directory.
            image: What servers run in; empty for processes.
        """
        self.root = root
        self.image = image
        self.notes = root / "notes"
        self.state_path = root / "control.json"
        self.files = EngineFiles(run=root / "run", logs=root / "logs")
        self.engine = Engine(self.files)
        self.runtime: Runtime = SupervisordRuntime(self.files)
        if image:
            os.chown(root, BOX_USER, BOX_USER)
            self.runtime = BothRuntimes(self.runtime, DockerRuntime(self.files))
        # Versions of issued credentials: the current one by role, and those that are not to be had.
        self.current: dict[str, str] = {}
        self.withheld: set[str] = set()

    def spec(self, *options: str, role: str = "reader", **fields: object) -> WorkloadSpec:
        """Describe a role whose server behaves as `tests/servers/scripted.py` is told.

        Args:
            options: Options of that server.
            role: Its name.
            fields: What differs from the usual.
        """
        usual: dict[str, object] = {
            "role": role,
            "server": "scripted",
            "bands": ("look",),
            "mode": "agent",
            "argv": (sys.executable, "-I", "-S", SERVER, "--notes", str(self.notes), *options),
            "directory": str(self.root),
            "env": {"PATH": os.defpath},
            "secrets": {},
            "tools": {"echo": "READ"},
            "known": frozenset({"echo", "order"}),
            "cut": False,
            "era": "legacy",
            "restart": {"backoff": "10ms", "backoff_max": "50ms"},
            "probe": {},
            "stop": {"drain": "5s", "grace": "2s"},
        }
        if self.image:
            usual["directory"] = ""
            usual["container"] = {
                "image": self.image,
                "user": "mcp",
                "keep": {str(self.root): str(self.root)},
                "memory": "128MiB",
                "cpus": 1,
                "pids": 16,
                "tmp": "1MiB",
                "engine": SOCKET,
            }
        return WorkloadSpec.model_validate({**usual, **fields})

    def noted(self) -> list[str]:
        """Tell what the servers wrote down."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    async def until_empty(self) -> None:
        """Wait until the engine knows no workload any more."""
        with anyio.fail_after(SECONDS):
            while await self.runtime.observe():  # noqa: ASYNC110  the engine is another process
                await anyio.sleep(0.01)

    def state(self) -> StateFile:
        """Read the state."""
        return StateFile(self.state_path)

    @asynccontextmanager
    async def control(
        self,
        *,
        lane_idle: timedelta = timedelta(minutes=10),
        most_owners: int = 32,
        gateway: Gateway | None = None,
    ) -> AsyncGenerator[Control]:
        """Run a control plane, as one boot of the daemon does; the instances outlive it.

        Args:
            lane_idle: How long a lane lives on when nobody calls it.
            most_owners: How many owners may have processes of their own.
            gateway: Serves in place of the small data plane.
        """
        clock, state = SystemClock(), self.state()
        log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
        bootstraps = Bootstraps(self.runtime, state, self._resolve, self._converse, log)

        async def resolve(spec: WorkloadSpec) -> Resolved:
            await bootstraps.wait_for(spec)
            version = spec.credential or self.current.get(spec.role, "")
            if version in self.withheld:
                raise SecretNotFoundError(f"there is no version {version}", hint="Mint it.")
            resolver = SecretResolver(self.root, self.root, {})
            issued = {"": SecretStr(f"key-of-{version}")}
            return Resolved(resolver.resolve_all(spec.secrets, issued), version)

        async with anyio.create_task_group() as group:
            plane, publisher = Plane(group), Publisher(state)
            pins = PinBook(self.root / "pins", clock, log)
            services = Services(
                runtime=self.runtime,
                publisher=publisher,
                state=state,
                pins=pins,
                probe=_probe,
                check=_check,
                secrets=resolve,
                log_of=lambda role: self.files.logs / f"{role}.log",
                clock=clock,
                log=log,
                changed=lambda: None,
                secret_poll_seconds=0.05,
                lane_idle=lane_idle,
                most_owners=most_owners,
            )
            reconciler = Reconciler(services, bootstraps, lambda role: f"http://here/{role}")
            plane.on_tools_changed = reconciler.note_tools_changed
            if gateway is None:
                publisher.attach(plane)
            else:
                gateway.on_tools_changed = reconciler.note_tools_changed
                gateway.on_wanted = reconciler.note_wanted
                gateway.on_unwanted = reconciler.note_unwanted
                publisher.attach(gateway)
            with anyio.fail_after(SECONDS):
                await group.start(reconciler.run)
            instances = Instances(reconciler, publisher, state)
            yield Control(reconciler, plane, bootstraps, pins, instances)
            group.cancel_scope.cancel()

    async def _resolve(self, spec: WorkloadSpec) -> Mapping[SecretName, SecretStr]:
        return SecretResolver(self.root, self.root, {}).resolve_all(spec.secrets)

    @asynccontextmanager
    async def _converse(self, process: Process, spec: WorkloadSpec) -> AsyncGenerator[Caller]:
        with Channel(process.directory) as channel:
            dialogue = await Dialogue.open(channel, spec.era, prefix="test-")
            yield dialogue.call_tool


async def _check(process: Process, era: Era, check: Check) -> JsonObject:
    """Do what the daemon does."""
    with Channel(process.directory, resume=True) as channel:
        dialogue = Dialogue.resume(channel, era, prefix="check-")
        return await dialogue.call_tool(check.tool, check.arguments)


async def _probe(
    process: Process, spec: WorkloadSpec, era: EraChoice, record: ProcessRecord | None
) -> Attested:
    """Do what the daemon does."""
    startup, asks = spec.probe.startup, spec.policy.asks
    with Channel(process.directory, resume=record is not None) as channel:
        if record is None:
            return await probe(channel, era, prefix="test-", startup=startup, asks=asks)
        tools = await list_tools(channel, record.era, prefix="test-", startup=startup, asks=asks)
        return Attested(
            era=record.era,
            protocol_version=record.protocol_version,
            server_info=record.server_info,
            capabilities=record.capabilities,
            tools=tools,
            instructions=record.instructions,
        )


@pytest.fixture
def kind() -> str:
    """Tell what servers are; a module whose tests run over both sets it."""
    return "process"


@pytest.fixture
def directory() -> Generator[Path]:
    """Make a directory whose path leaves room for a socket's name."""
    # Inside a container /tmp is its own.
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def project(
    directory: Path, kind: str, request: pytest.FixtureRequest
) -> AsyncGenerator[Project]:
    """Give a project whose engine runs, and leave nothing running after it."""
    image = cast("str", request.getfixturevalue("box")) if kind == "container" else ""
    made = Project(directory, image)
    try:
        with anyio.fail_after(SECONDS):
            _ = await made.engine.start(None, {})
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(Exception):
                with anyio.fail_after(SECONDS):
                    await made.engine.shutdown(timedelta(seconds=0.2))
            with anyio.fail_after(SECONDS):
                _ = await DockerRuntime(made.files).end_all()
            for pid in _processes(directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _processes(directory: Path) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture
def servers(directory: Path) -> Callable[[], list[int]]:
    """Give the function that finds the live servers of the project."""

    def find() -> list[int]:
        mark = os.fsencode(SERVER)
        found: list[int] = []
        for pid in _processes(directory):
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    return find


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Give the function that tells whether a process still runs."""

    def check(pid: int) -> bool:
        facts = look_up(pid)
        return facts is not None and facts.state not in {"Z", "X"}

    return check
