"""A real gateway on a real port, in front of real servers behind real FIFOs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import cast

import anyio
import httpx2
import pytest
from anyio.abc import TaskStatus
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from orchestrator.audit.record import CallRecord
from orchestrator.clock import SystemClock
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.snapshot import Era, Route, Snapshot, TargetRef
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.runtimes.channel import Channel
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex

SERVERS = Path(__file__).parents[2] / "servers"
INFO: JsonObject = {"name": "test", "version": "1"}


@dataclass(slots=True)
class Instance:
    """One running server."""

    process: subprocess.Popen[bytes]
    directory: Path
    era: Era
    tools: tuple[JsonObject, ...] = ()

    def ref(self, workload: str) -> TargetRef:
        """Tell the gateway how to reach it."""
        version = mcp.LATEST_MODERN if self.era == "modern" else mcp.LATEST_LEGACY
        return TargetRef(
            WorkloadName(workload), self.process.pid, str(self.directory), self.era, version, INFO
        )

    async def handshake(self) -> None:
        """Open it in its era, and list its tools."""
        with Channel(self.directory) as channel:
            if self.era == "modern":
                _ = await ask(channel, "server/discover", {"_meta": mcp.envelope(INFO)})
            else:
                opening: JsonObject = {
                    "protocolVersion": mcp.LATEST_LEGACY,
                    "capabilities": {},
                    "clientInfo": INFO,
                }
                _ = await ask(channel, "initialize", opening)
                note = jsonrpc.notification_body("notifications/initialized", {})
                await channel.send(jsonrpc.encode(note))
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
        _ = self.process.wait(5)


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


@dataclass(slots=True)
class Rig:
    """A gateway and what a test does with it."""

    gateway: Gateway
    tokens: TokenIndex
    base: str
    recorder: MemoryRecorder
    home: Path
    instances: list[Instance] = field(default_factory=list)
    routes: dict[RoleName, Route] = field(default_factory=dict)
    revision: int = 0
    serving: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def stop_serving(self) -> None:
        """Have the gateway shut down."""
        self.serving.cancel()

    def spawn(self, script: str, era: Era) -> Instance:
        """Start a server behind FIFOs."""
        directory = self.home / f"i{len(self.instances)}"
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
        instance = Instance(process, directory, era)
        self.instances.append(instance)
        return instance

    async def start(self, script: str = "tools.py", era: Era = "modern") -> Instance:
        """Start a server and open it."""
        instance = self.spawn(script, era)
        await instance.handshake()
        return instance

    def publish(
        self,
        role: str,
        instance: Instance | None,
        *,
        hide: frozenset[str] = frozenset({"hidden"}),
        waits: bool = False,
        generation: int = 1,
    ) -> None:
        """Route a role to an instance."""
        tools = () if instance is None else instance.tools
        shown = tuple(tool for tool in tools if tool["name"] not in hide)
        before = self.routes.get(RoleName(role))
        self.routes[RoleName(role)] = Route(
            RoleName(role),
            ServerName("tools"),
            None if instance is None else instance.ref(f"{role}.tools.g{generation}"),
            before.tools if before is not None and instance is None else shown,
            MappingProxyType({ToolName(str(tool["name"])): "READ" for tool in shown}),
            "" if instance is not None else "it is starting",
            waits,
        )
        self.swap()

    def swap(self) -> None:
        """Hand the routes to the gateway."""
        self.revision += 1
        self.gateway.swap(Snapshot(self.revision, MappingProxyType(dict(self.routes))))

    def token(self, role: str, agent: str = "agent", ttl: float = 3600) -> str:
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
        return httpx2.AsyncClient(base_url=self.base, headers=given, timeout=20)

    @asynccontextmanager
    async def client(self, role: str, token: str, mode: str = "auto") -> AsyncGenerator[Client]:
        """Connect the SDK's client."""
        http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {token}"}, timeout=httpx2.Timeout(20)
        )
        transport = streamable_http_client(f"{self.base}/{role}/mcp", http_client=http)
        async with http, Client(transport, mode=mode, cache=None) as client:
            yield client


def modern(
    method: str, params: JsonObject | None = None, request_id: str | int = 1
) -> tuple[JsonObject, dict[str, str]]:
    """Write a modern request: body and headers."""
    params = {**(params or {}), "_meta": mcp.envelope(INFO)}
    headers = {"mcp-protocol-version": mcp.LATEST_MODERN, "mcp-method": method}
    if isinstance(name := params.get("name"), str):
        headers["mcp-name"] = name
    return jsonrpc.request_body(request_id, method, params), headers


OpenRig = Callable[..., AbstractAsyncContextManager[Rig]]


async def _serve(
    rig: Rig, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with rig.serving:
        await rig.gateway.serve([listener], task_status=task_status)


@asynccontextmanager
async def _open_rig(settings: GatewaySettings | None = None) -> AsyncGenerator[Rig]:
    home = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    listener = socket.create_server(("127.0.0.1", 0))
    port = cast("int", listener.getsockname()[1])
    clock = SystemClock()
    tokens, recorder = TokenIndex(clock), MemoryRecorder()
    gateway = Gateway(tokens, clock=clock, settings=settings, recorder=recorder)
    rig = Rig(gateway, tokens, f"http://127.0.0.1:{port}", recorder, home)
    try:
        with anyio.fail_after(60):
            async with gateway, anyio.create_task_group() as group:
                await group.start(_serve, rig, listener)
                yield rig
                group.cancel_scope.cancel()
    finally:
        for instance in rig.instances:
            instance.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def open_rig() -> OpenRig:
    """Give the way to open a gateway; cancel scopes do not live across fixtures."""
    return _open_rig


@pytest.fixture
def modern_request() -> Callable[..., tuple[JsonObject, dict[str, str]]]:
    """Give the way to write a modern request."""
    return modern
