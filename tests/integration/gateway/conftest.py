"""A real gateway on a real port, in front of real servers behind real FIFOs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypedDict, cast

import anyio
import httpx2
import pytest
from anyio.abc import TaskStatus
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from typing_extensions import Unpack

from orchestrator.audit.record import CallRecord
from orchestrator.clock import Clock, SystemClock
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.rules import OPEN_TO_TOOLS, RolePolicy
from orchestrator.model.snapshot import Era, Route, Snapshot, TargetRef
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.runtimes.channel import Channel
from orchestrator.tokens.jwt import OAuthTokens
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mcp.client.session import ElicitationFnT, LoggingFnT

    from orchestrator.gateway.filters.approve import Gatekeeper
    from orchestrator.model.rules import Sharing
    from orchestrator.model.server import ToolClass

SERVERS = Path(__file__).parents[2] / "servers"
INFO: JsonObject = {"name": "test", "version": "1"}
CAPABILITIES: JsonObject = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
CLASSES: dict[str, ToolClass] = {
    "hold": "WRITE",
    "crash": "WRITE",
    "change": "WRITE",
    "destroy": "DESTRUCTIVE",
}


class Fields(TypedDict, total=False):
    """What a route says beside its instance."""

    waits: bool
    lanes: tuple[TargetRef, ...]
    sharing: Sharing
    mirrors: frozenset[Era]
    refused: Mapping[tuple[Era, str], str]
    policy: RolePolicy
    leaving: tuple[TargetRef, ...]
    closed: bool


class Callbacks(TypedDict, total=False):
    """What the SDK's client calls."""

    elicitation_callback: ElicitationFnT
    logging_callback: LoggingFnT


@dataclass(slots=True)
class Instance:
    """One running server."""

    process: subprocess.Popen[bytes]
    directory: Path
    era: Era
    tools: tuple[JsonObject, ...] = ()
    capabilities: JsonObject = field(default_factory=dict[str, Json])
    instructions: str = ""

    def ref(self, workload: str, owner: str = "") -> TargetRef:
        """Tell the gateway how to reach it."""
        version = mcp.LATEST_MODERN if self.era == "modern" else mcp.LATEST_LEGACY
        return TargetRef(
            WorkloadName(workload),
            self.process.pid,
            str(self.directory),
            self.era,
            version,
            INFO,
            self.capabilities,
            self.instructions,
            owner,
        )

    def received(self, method: str = "") -> list[JsonObject]:
        """Read what it noted that it was sent, of one method if one is named."""
        *lines, _ = (self.directory / "received").read_text().split("\n")
        messages = [cast("JsonObject", json.loads(line)) for line in lines if line[:1] == "{"]
        return [one for one in messages if not method or one.get("method") == method]

    def calls(self) -> list[JsonObject]:
        """Read the parameters of the calls that it was sent."""
        return [cast("JsonObject", call["params"]) for call in self.received("tools/call")]

    async def handshake(self) -> None:
        """Open it in its era, and list its tools."""
        with Channel(self.directory) as channel:
            if self.era == "modern":
                opened = await ask(channel, "server/discover", {"_meta": mcp.envelope(INFO)})
            else:
                opening: JsonObject = {
                    "protocolVersion": mcp.LATEST_LEGACY,
                    "capabilities": CAPABILITIES,
                    "clientInfo": INFO,
                }
                opened = await ask(channel, "initialize", opening)
                note = jsonrpc.notification_body("notifications/initialized", {})
                await channel.send(jsonrpc.encode(note))
            self.capabilities = cast("JsonObject", opened["capabilities"])
            self.instructions = str(opened.get("instructions", ""))
            cursor: Json = None
            while True:
                params: JsonObject = {} if cursor is None else {"cursor": cursor}
                if self.era == "modern":
                    params["_meta"] = mcp.envelope(INFO)
                result = await ask(channel, "tools/list", params)
                self.tools += tuple(cast("list[JsonObject]", result["tools"]))
                cursor = result.get("nextCursor")
                if cursor is None:
                    return

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        _ = self.process.wait(30)


def spawn(script: str, directory: Path, era: Era) -> Instance:
    """Start a server behind FIFOs."""
    directory.mkdir()
    ends: list[int] = []
    for name in ("in", "out"):
        os.mkfifo(directory / name, 0o600)
        ends.append(os.open(directory / name, os.O_RDWR))
    process = subprocess.Popen(
        [sys.executable, str(SERVERS / script), str(directory)], stdin=ends[0], stdout=ends[1]
    )
    for end in ends:
        os.close(end)
    return Instance(process, directory, era)


async def ask(channel: Channel, method: str, params: JsonObject) -> JsonObject:
    """Ask a server directly."""
    await channel.send(jsonrpc.encode(jsonrpc.request_body("opening", method, params)))
    while True:
        message = jsonrpc.parse(jsonrpc.decode(await channel.receive()))
        if isinstance(message, jsonrpc.Response):
            assert message.result is not None, message
            return message.result


class MemoryRecorder:
    """Keeps records where a test can see them."""

    reads_on: bool = False

    def __init__(self) -> None:
        """Start empty."""
        self.records: list[CallRecord] = []

    def admit(self) -> None:
        """Let everything in."""

    def intend(self, entry: CallRecord) -> asyncio.Future[None]:
        """Keep one that comes before its call."""
        self.records.append(entry)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def record(self, entry: CallRecord) -> None:
        """Keep one."""
        self.records.append(entry)


class MemoryJournal:
    """Keeps what changed in sessions where the next gateway finds it."""

    def __init__(self) -> None:
        """Start empty."""
        self.lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        """Keep one line."""
        self.lines.append(line)

    def compact(self, lines: Iterable[bytes]) -> None:
        """Keep these in place of all before."""
        self.lines = [*lines]


class Talk:
    """One reply, read message by message as it comes."""

    def __init__(self, response: httpx2.Response) -> None:
        """Read this reply."""
        self.response = response
        self.comments = 0
        self._lines: AsyncIterator[str] = response.aiter_lines()

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream."""
        return self.response.headers["content-type"] == "text/event-stream"

    async def next(self) -> JsonObject | None:
        """Read the next message; None at the end."""
        with anyio.fail_after(30):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line.startswith("data: ") or (line and not self.is_stream):
                    return cast("JsonObject", json.loads(line.removeprefix("data: ")))
        return None

    async def need(self) -> JsonObject:
        """Read the next message, which has to be there."""
        message = await self.next()
        assert message is not None
        return message

    async def rest(self) -> list[JsonObject]:
        """Read all messages that are still to come."""
        found: list[JsonObject] = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found

    async def comment(self) -> None:
        """Wait for a comment."""
        with anyio.fail_after(30):
            async for line in self._lines:
                if line.startswith(":"):
                    return
        raise AssertionError("the stream ended")


@dataclass(slots=True)
class Caller:
    """An agent that has opened its way, in one of the two eras."""

    http: httpx2.AsyncClient
    url: str
    era: Era
    capabilities: JsonObject
    count: int = 0

    @property
    def session(self) -> str:
        """Its session's id."""
        return self.http.headers["mcp-session-id"]

    def write(
        self, method: str, params: JsonObject | None = None, meta: JsonObject | None = None
    ) -> tuple[JsonObject, dict[str, str]]:
        """Write a request of its era: body and headers."""
        self.count += 1
        body, headers = modern(method, params, f"c{self.count}", self.capabilities, meta)
        if self.era == "legacy":
            given: JsonObject = {**(params or {}), "_meta": meta} if meta else params or {}
            return jsonrpc.request_body(f"c{self.count}", method, given), {}
        return body, headers

    async def post(
        self, body: JsonObject, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Post one message."""
        return await self.http.post(self.url, json=body, headers=headers)

    async def answer(
        self, question: JsonObject, result: Json, error: JsonObject | None = None
    ) -> None:
        """Answer what it was asked."""
        told: JsonObject = {"result": result} if error is None else {"error": error}
        response = await self.post({"jsonrpc": "2.0", "id": question["id"], **told})
        assert (response.status_code, response.content) == (202, b"")

    async def notify(self, method: str, params: JsonObject) -> None:
        """Post a notification."""
        response = await self.post(jsonrpc.notification_body(method, params))
        assert (response.status_code, response.content) == (202, b"")

    async def ask(
        self, method: str, params: JsonObject | None = None, meta: JsonObject | None = None
    ) -> JsonObject:
        """Make a request, and read its answer, which has to be alone."""
        body, headers = self.write(method, params, meta)
        response = await self.post(body, headers)
        assert response.headers["content-type"] == "application/json", response.text
        answer = cast("JsonObject", response.json())
        assert answer["id"] == body["id"], answer
        return answer

    async def play(self, *steps: Sequence[Json], tool: str = "look", **more: Json) -> JsonObject:
        """Call a tool that plays steps, and read its result, which has to come alone."""
        params: JsonObject = {
            "name": tool,
            "arguments": {"steps": [[*step] for step in steps]},
            **more,
        }
        answer = await self.ask("tools/call", params)
        assert "result" in answer, answer
        return cast("JsonObject", answer["result"])

    @asynccontextmanager
    async def open(
        self, method: str, params: JsonObject | None = None, meta: JsonObject | None = None
    ) -> AsyncGenerator[Talk]:
        """Make a request, and read its reply as it comes."""
        body, headers = self.write(method, params, meta)
        async with self.http.stream("POST", self.url, json=body, headers=headers) as response:
            yield Talk(response)

    @asynccontextmanager
    async def act(
        self,
        *steps: Sequence[Json],
        tool: str = "look",
        token: str | int | None = None,
        **meta: Json,
    ) -> AsyncGenerator[Talk]:
        """Call a tool that plays steps, and read what comes on the way."""
        params: JsonObject = {"name": tool, "arguments": {"steps": [[*step] for step in steps]}}
        told: JsonObject = {} if token is None else {"progressToken": token}
        level: JsonObject = {mcp.LOG_LEVEL_KEY: meta["level"]} if "level" in meta else {}
        async with self.open("tools/call", params, {**told, **level}) as talk:
            yield talk

    @asynccontextmanager
    async def listen(self, **asked: Json) -> AsyncGenerator[Talk]:
        """Listen as its era does."""
        if self.era == "modern":
            async with self.open("subscriptions/listen", {"notifications": asked}) as talk:
                yield talk
        else:
            async with self.http.stream("GET", self.url) as response:
                yield Talk(response)


@dataclass(slots=True)
class Rig:
    """A gateway and what a test does with it."""

    gateway: Gateway
    tokens: TokenIndex
    base: str
    recorder: MemoryRecorder
    home: Path
    listener: socket.socket
    instances: list[Instance] = field(default_factory=list)
    routes: dict[RoleName, Route] = field(default_factory=dict)
    revision: int = 0
    serving: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.base.rpartition(":")[2])

    def stop_serving(self) -> None:
        """Have the gateway shut down."""
        self.serving.cancel()

    async def stop_listening(self) -> None:
        """Have the gateway shut down, and wait until nobody can connect."""
        # No connecting to see it: Python before 3.13 forgets who connects in that moment.
        self.stop_serving()
        while self.listener.fileno() >= 0:  # noqa: ASYNC110  uvicorn closes it, and tells nobody
            await anyio.sleep(0.005)

    async def start(self, script: str = "tools.py", era: Era = "modern") -> Instance:
        """Start a server and open it."""
        instance = spawn(script, self.home / f"i{len(self.instances)}", era)
        self.instances.append(instance)
        await instance.handshake()
        return instance

    async def talker(self, era: Era, role: str = "treasury", **more: Unpack[Fields]) -> Instance:
        """Start the server that plays what it is told, and route a role to it."""
        instance = await self.start("talker.py", era)
        self.publish(role, instance, **more)
        return instance

    def publish(
        self,
        role: str,
        instance: Instance | None,
        *,
        hide: frozenset[str] = frozenset({"hidden"}),
        generation: int = 1,
        **more: Unpack[Fields],
    ) -> None:
        """Route a role to an instance."""
        tools = () if instance is None else instance.tools
        shown = tuple(tool for tool in tools if tool["name"] not in hide)
        before = self.routes.get(RoleName(role))
        if before is not None and instance is None:
            shown = before.tools
        route = Route(
            RoleName(role),
            ServerName("tools"),
            None if instance is None else instance.ref(f"{role}.tools.g{generation}"),
            shown,
            MappingProxyType(
                {
                    ToolName(name): CLASSES.get(name, "READ")
                    for name in (str(tool["name"]) for tool in shown)
                }
            ),
            "" if instance is not None else "it is starting",
        )
        self.routes[RoleName(role)] = replace(route, **more)
        self.swap()

    def withdraw(self, role: str) -> None:
        """Have a role no more."""
        del self.routes[RoleName(role)]
        self.swap()

    def swap(self) -> None:
        """Hand the routes to the gateway."""
        self.revision += 1
        self.gateway.swap(Snapshot(self.revision, MappingProxyType(dict(self.routes))))

    def lose(self, instance: Instance, role: str = "treasury", generation: int = 1) -> None:
        """Kill an instance, and tell the gateway, as the engine does."""
        instance.stop()
        workload = WorkloadName(f"{role}.tools.g{generation}")
        self.gateway.lose(workload, instance.process.pid, "killed")

    async def touch(self, instance: Instance, uri: str) -> None:
        """Have the talker say that a resource changed, once somebody has asked it to."""

        def is_asked() -> bool:
            told = json.dumps(instance.received())
            return '"resources/subscribe"' in told or '"resourceSubscriptions"' in told

        await self.until(is_asked)
        with Channel(instance.directory) as channel:
            note = jsonrpc.notification_body("test/touch", {"uri": uri})
            await channel.send(jsonrpc.encode(note))

    async def meet(self, instance: Instance, name: str) -> None:
        """Let a call at the talker go on that waits to meet another one."""
        steps: list[Json] = [["meet", name, 2]]
        call: JsonObject = {"name": "look", "arguments": {"steps": steps}}
        with Channel(instance.directory) as channel:
            await channel.send(jsonrpc.encode(jsonrpc.request_body("meeting", "tools/call", call)))

    async def move(self, old: Instance, era: Era, policy: RolePolicy = OPEN_TO_TOOLS) -> Instance:
        """Route treasury to another talker; the old one finishes what it has."""
        fresh = await self.start("talker.py", era)
        leaving = (old.ref("treasury.tools.g1"),)
        self.publish("treasury", fresh, generation=2, leaving=leaving, policy=policy)
        return fresh

    async def have_asked(self, instance: Instance, method: str, asked: JsonObject) -> None:
        """Have the talker ask for something when it gets the next request of a method."""
        with Channel(instance.directory) as channel:
            note = jsonrpc.notification_body("test/require", {"method": method, "asked": asked})
            await channel.send(jsonrpc.encode(note))
        await self.until(lambda: instance.received("test/require"))

    async def say(
        self, instance: Instance, method: str, params: JsonObject, times: int = 1
    ) -> None:
        """Have the talker say something so many times."""
        with Channel(instance.directory) as channel:
            told: JsonObject = {"say": {"method": method, "params": params}, "times": times}
            await channel.send(jsonrpc.encode(jsonrpc.notification_body("test/say", told)))

    async def have_crash(self, instance: Instance, method: str) -> None:
        """Have the talker end when it gets the next request of a method."""
        with Channel(instance.directory) as channel:
            note = jsonrpc.notification_body("test/crash", {"method": method})
            await channel.send(jsonrpc.encode(note))
        await self.until(lambda: instance.received("test/crash"))

    async def until(self, is_true: Callable[[], object]) -> None:
        """Wait for what only another process, or the inside of the gateway, knows."""
        with anyio.fail_after(60):
            while not is_true():  # noqa: ASYNC110 - nobody there sets an event for us
                await anyio.sleep(0.01)

    def in_flight(self, role: str = "treasury") -> int:
        """Tell how many calls are with a role's instance."""
        pulse = self.gateway.pulse(WorkloadName(f"{role}.tools.g1"))
        return -1 if pulse is None else pulse.in_flight

    def token(self, role: str = "treasury", agent: str = "agent", ttl: float = 3600) -> str:
        """Issue a token; a negative time makes one that is over."""
        minted, now = mint(), SystemClock().now()
        self.tokens.add(
            TokenRecord(
                id=minted.id,
                agent=AgentName(agent),
                role=RoleName(role),
                digest=minted.digest,
                state="active",
                created_at=now,
                expires_at=now + timedelta(seconds=ttl),
            )
        )
        return minted.text.get_secret_value()

    def http(self, token: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """Make a plain client."""
        given = {"accept": "application/json, text/event-stream", **headers}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return httpx2.AsyncClient(base_url=self.base, headers=given, timeout=60)

    @asynccontextmanager
    async def session(
        self, token: str, role: str = "treasury", **headers: str
    ) -> AsyncGenerator[httpx2.AsyncClient]:
        """Make a plain client that has opened a session."""
        async with self.http(token, **headers) as http:
            _ = await open_session(http, f"/{role}/mcp", {})
            yield http

    @asynccontextmanager
    async def caller(
        self,
        era: Era,
        agent: str = "agent",
        *,
        role: str = "treasury",
        capabilities: JsonObject | None = None,
        token: str | None = None,
    ) -> AsyncGenerator[Caller]:
        """Make an agent that has opened its way."""
        declared = {} if capabilities is None else capabilities
        async with self.http(token or self.token(role, agent)) as http:
            url = f"/{role}/mcp"
            if era == "legacy":
                _ = await open_session(http, url, declared)
            yield Caller(http, url, era, declared)

    @asynccontextmanager
    async def client(
        self,
        role: str,
        token: str,
        mode: str = "auto",
        **callbacks: Unpack[Callbacks],
    ) -> AsyncGenerator[Client]:
        """Connect the SDK's client."""
        http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {token}"}, timeout=httpx2.Timeout(60)
        )
        transport = streamable_http_client(f"{self.base}/{role}/mcp", http_client=http)
        async with http, Client(transport, mode=mode, cache=None, **callbacks) as client:
            yield client


async def open_session(
    http: httpx2.AsyncClient, url: str, capabilities: JsonObject, version: str = mcp.LATEST_LEGACY
) -> JsonObject:
    """Open a session that the client shows from now on."""
    params: JsonObject = {
        "protocolVersion": version,
        "capabilities": capabilities,
        "clientInfo": INFO,
    }
    body = jsonrpc.request_body("opening", "initialize", params)
    response = await http.post(url, json=body)
    assert response.status_code == 200, response.text
    http.headers["mcp-session-id"] = response.headers["mcp-session-id"]
    note = jsonrpc.notification_body("notifications/initialized", {})
    assert (await http.post(url, json=note)).status_code == 202
    return cast("JsonObject", response.json())


def modern(
    method: str,
    params: JsonObject | None = None,
    request_id: str | int = 1,
    capabilities: JsonObject | None = None,
    meta: JsonObject | None = None,
) -> tuple[JsonObject, dict[str, str]]:
    """Write a modern request: body and headers."""
    stamp = {**mcp.envelope(INFO, capabilities), **(meta or {})}
    params = {**(params or {}), "_meta": stamp}
    headers = {"mcp-protocol-version": mcp.LATEST_MODERN, "mcp-method": method}
    name = params.get(mcp.NAME_PARAMETER.get(method, ""))
    if isinstance(name, str):
        headers["mcp-name"] = name
    return jsonrpc.request_body(request_id, method, params), headers


class MovedClock:
    """The machine's clocks, with the wall clock put forward."""

    def __init__(self) -> None:
        """Begin with the time as it is."""
        self.ahead = timedelta()

    def now(self) -> datetime:
        """Tell the wall time."""
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        """Tell the seconds that only grow."""
        return time.monotonic()


OpenRig = Callable[..., AbstractAsyncContextManager[Rig]]


async def _serve(
    rig: Rig, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with rig.serving:
        await rig.gateway.serve([listener], task_status=task_status)


@asynccontextmanager
async def _open_rig(
    settings: GatewaySettings | None = None,
    *,
    key: bytes | None = None,
    journal: MemoryJournal | None = None,
    tokens: TokenIndex | None = None,
    clock: Clock | None = None,
    access: Callable[[str, TokenIndex, Clock], OAuthTokens] | None = None,
    gatekeeper: Gatekeeper | None = None,
    seconds: float = 180,
) -> AsyncGenerator[Rig]:
    home = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    listener = socket.create_server(("127.0.0.1", 0))
    port = cast("int", listener.getsockname()[1])
    clock = clock or SystemClock()
    tokens, recorder = tokens or TokenIndex(clock), MemoryRecorder()
    base = f"http://127.0.0.1:{port}"
    verifier = tokens if access is None else access(base, tokens, clock)
    gateway = Gateway(
        verifier,
        clock=clock,
        settings=settings,
        recorder=recorder,
        key=key,
        journal=journal,
        gatekeeper=gatekeeper,
    )
    if journal is not None:
        journal.lines = gateway.sessions.restore(journal.lines)
    rig = Rig(gateway, tokens, base, recorder, home, listener)
    try:
        with anyio.fail_after(seconds):
            async with gateway, anyio.create_task_group() as group:
                await group.start(_serve, rig, listener)
                yield rig
                group.cancel_scope.cancel()
    finally:
        for instance in rig.instances:
            instance.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def open_rig() -> OpenRig:
    """Give the way to open a gateway; cancel scopes do not live across fixtures."""
    return _open_rig


@pytest.fixture(scope="session")
def sdk_servers() -> Generator[dict[str, Instance]]:
    """Give one server of each era that no test harms: one gateway after the other uses them."""
    home = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    eras: tuple[Era, ...] = ("modern", "legacy")
    servers = {era: spawn("tools.py", home / era, era) for era in eras}
    try:
        for server in servers.values():
            anyio.run(server.handshake)
        yield {**servers}
    finally:
        for server in servers.values():
            server.stop()
        shutil.rmtree(home)


@pytest.fixture
def moved_clock() -> MovedClock:
    """Give a clock that a test can put forward."""
    return MovedClock()


@pytest.fixture
def make_journal() -> Callable[[], MemoryJournal]:
    """Give the way to make a journal of sessions."""
    return MemoryJournal


@pytest.fixture
def modern_request() -> Callable[..., tuple[JsonObject, dict[str, str]]]:
    """Give the way to write a modern request."""
    return modern
