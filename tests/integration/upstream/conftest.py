"""Servers over HTTP, real ones and scripted ones, and the gateway's connection to them."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import anyio
import pytest
import uvloop

from orchestrator.clock import SystemClock
from orchestrator.gateway.upstream.base import Outgoing, Question
from orchestrator.gateway.upstream.http import HttpUpstream
from orchestrator.model.base import JsonObject
from orchestrator.model.snapshot import Era
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.ports import free_port

SERVERS = Path(__file__).parents[2] / "servers"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop that the daemon runs on: its connections behave in their own way."""
    return {"uvloop": uvloop.new_event_loop}


INFO: JsonObject = {"name": "gateway", "version": "1"}
SECONDS = 60.0


@final
class Ears:
    """A caller that remembers what it is told and asked."""

    def __init__(self, owner: str = "one", replies: JsonObject | None = None) -> None:
        """Answer questions with these; without any, none can be asked."""
        self.owner = self.agent = owner
        self.replies = replies
        self.told: list[tuple[str, JsonObject]] = []
        self.may_move = False
        self.asked: list[Question] = []
        self._news = asyncio.Event()

    async def until_told(self, number: int) -> None:
        """Wait until it was told so much."""
        with anyio.fail_after(SECONDS):
            while len(self.told) < number:
                self._news.clear()
                _ = await self._news.wait()

    def tell(self, method: str, params: JsonObject) -> None:
        """Remember."""
        self.told.append((method, params))
        self._news.set()

    def ask(self, question: Question) -> bool:
        """Remember, and answer."""
        self.asked.append(question)
        if self.replies is None:
            return False
        question.answer(self.replies)
        return True


@dataclass(slots=True)
class Got:
    """One request that a scripted server got."""

    verb: str
    headers: dict[str, str]
    body: JsonObject
    connection: int

    @property
    def method(self) -> str:
        """The method, or the HTTP verb."""
        return str(self.body.get("method", self.verb))

    @property
    def id(self) -> str:
        """The request's id."""
        return str(self.body.get("id"))


@final
class Out:
    """Where a scripted server writes; it may write anything."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        """Write there."""
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(
        self, body: bytes = b"", status: str = "200 OK", kind: str = "application/json", **more: str
    ) -> None:
        """Write a whole response."""
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        await self.raw("\r\n".join((*lines, "", "")).encode() + body)

    async def result(self, got: Got, text: str = "done", **more: str) -> None:
        """Answer a request with a text."""
        await self.reply(result(got.id, text), **more)

    async def events(self, *events: bytes, end: bool = True) -> None:
        """Write an event stream; begin it with the first event."""
        head = "HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked"
        await self.raw("\r\n".join((*head, "", "")).encode())
        for event in events:
            await self.event(event)
        if end:
            await self.end()

    async def event(self, data: bytes, head: bytes = b"") -> None:
        """Write one more event."""
        piece = head + b"data: " + data + b"\n\n"
        await self.raw(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def end(self) -> None:
        """End the stream."""
        await self.raw(b"0\r\n\r\n")


def result(identity: str, text: str) -> bytes:
    """Write an answer."""
    content = {"content": [{"type": "text", "text": text}]}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "result": content}).encode()


def message(method: str, params: JsonObject, identity: str | int | None = None) -> bytes:
    """Write what a server says or asks."""
    body: JsonObject = {"jsonrpc": "2.0", "method": method, "params": params}
    if identity is not None:
        body["id"] = identity
    return json.dumps(body).encode()


Act = Callable[[Got, Out], Awaitable[None]]


@final
class Scripted:
    """A server on a unix socket that does what a test says."""

    def __init__(self, path: Path) -> None:
        """Listen there, later."""
        self.path = path
        self.got: list[Got] = []
        self.acts: dict[str, Act] = {}
        self.session = "s-1"
        self.connections: list[asyncio.StreamWriter] = []
        self.closed: list[int] = []
        self._news = asyncio.Event()

    message = staticmethod(message)
    result = staticmethod(result)

    @property
    def address(self) -> str:
        """Where it is."""
        return f"unix:{self.path}:/mcp"

    def methods(self) -> list[str]:
        """Tell what it got."""
        return [got.method for got in self.got]

    async def until(self, check: Callable[[], object]) -> None:
        """Wait until something is so."""
        with anyio.fail_after(SECONDS):
            while not check():
                _ = await self._news.wait()

    async def act(self, got: Got, out: Out) -> None:
        """Do what the test says, or what a good server does."""
        if (wanted := self.acts.get(got.method)) is not None:
            await wanted(got, out)
        elif got.method == "initialize":
            opened: JsonObject = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }
            answer: JsonObject = {"jsonrpc": "2.0", "id": got.id, "result": opened}
            await out.reply(json.dumps(answer).encode(), mcp_session_id=self.session)
        elif got.verb == "GET":
            await out.reply(status="405 Method Not Allowed", kind="text/plain")
        elif "id" in got.body and "method" in got.body:
            await out.result(got)
        else:
            await out.reply(status="202 Accepted")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        number = len(self.connections)
        self.connections.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = (line.partition(": ") for line in head[1:] if line)
                headers = {name: value for name, _, value in pairs}
                length = int(headers.get("content-length", "0"))
                body = await reader.readexactly(length)
                parsed = cast("JsonObject", json.loads(body)) if body else {}
                got = Got(head[0].split()[0], headers, parsed, number)
                self.got.append(got)
                self._tell()
                await self.act(got, Out(writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.append(number)
            self._tell()
            writer.close()

    def _tell(self) -> None:
        event, self._news = self._news, asyncio.Event()
        event.set()


@pytest.fixture
def directory() -> Generator[Path]:
    """Make a directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def scripted(directory: Path) -> AsyncGenerator[Scripted]:
    """Give a scripted server that listens."""
    made = Scripted(directory / "http.sock")
    listener = await asyncio.start_unix_server(made.serve, made.path, limit=2**26)
    yield made
    listener.close()
    for writer in made.connections:
        writer.transport.abort()
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await listener.wait_closed()


@dataclass(slots=True)
class Line:
    """The gateway's connection to a server."""

    upstream: HttpUpstream
    broadcasts: list[tuple[str, JsonObject]]
    news: asyncio.Event

    async def until_broadcasts(self, number: int) -> None:
        """Wait until so much was said to nobody in particular."""
        with anyio.fail_after(SECONDS):
            while len(self.broadcasts) < number:
                self.news.clear()
                _ = await self.news.wait()

    async def ask(
        self,
        method: str = "tools/call",
        params: JsonObject | None = None,
        ears: Ears | None = None,
        token: str | int | None = None,
    ) -> jsonrpc.Response:
        """Make one request, as the gateway does."""
        given: JsonObject = {"name": "echo", "arguments": {}} if params is None else params
        meta: JsonObject = mcp.envelope(INFO)
        if token is not None:
            meta["progressToken"] = token
        with anyio.fail_after(SECONDS):
            return await self.upstream.request(
                Outgoing(method, {**given, "_meta": meta}, caller=ears), wait
            )

    async def text(
        self, tool: str = "echo", arguments: JsonObject | None = None, ears: Ears | None = None
    ) -> str:
        """Call a tool, and give the text of its result."""
        given: JsonObject = {"name": tool, "arguments": arguments or {}}
        answer = await self.ask("tools/call", given, ears)
        assert answer.result is not None, answer.error
        return cast("list[dict[str, str]]", answer.result["content"])[0]["text"]


async def wait(future: "asyncio.Future[jsonrpc.Response]") -> jsonrpc.Response:
    """Wait as long as it takes."""
    return await future


@asynccontextmanager
async def connected(
    address: str, era: Era, capabilities: JsonObject | None = None
) -> AsyncGenerator[Line]:
    """Run a connection for the length of a block."""
    version = mcp.LATEST_MODERN if era == "modern" else mcp.LATEST_LEGACY
    heard: list[tuple[str, JsonObject]] = []
    news = asyncio.Event()

    def broadcast(method: str, params: JsonObject) -> None:
        heard.append((method, params))
        news.set()

    upstream = HttpUpstream(
        address,
        era,
        version,
        INFO,
        capabilities or {},
        "boot",
        SystemClock(),
        broadcast,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(upstream.run)
        yield Line(upstream, heard, news)
        group.cancel_scope.cancel()
        upstream.close()


Connect = Callable[..., AbstractAsyncContextManager[Line]]


@pytest.fixture
def connect() -> Connect:
    """Give the function that connects to a server."""
    return connected


@pytest.fixture
def ears() -> type[Ears]:
    """Give the class of callers."""
    return Ears


@dataclass(slots=True)
class Real:
    """A real server in a process of its own."""

    address: Address
    process: subprocess.Popen[bytes]


@pytest.fixture
def real(directory: Path) -> Generator[Callable[..., Real]]:
    """Give the function that starts `tests/servers/http_tools.py`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(listen: str, *options: str) -> Real:
        if listen == "socket":
            address = Address("/mcp", socket=str(directory / "real.sock"))
            place = ("--socket", address.socket)
        else:
            address = Address("/mcp", port=free_port())
            place = ("--port", str(address.port))
        program = [sys.executable, "-I", str(SERVERS / "http_tools.py")]
        process = subprocess.Popen(
            [*program, *place, "--notes", str(directory), *options], stdout=subprocess.DEVNULL
        )
        processes.append(process)
        return Real(address, process)

    yield start
    for process in processes:
        process.kill()
        _ = process.wait(30)


@pytest.fixture
def stranger() -> Generator[socket.socket]:
    """Listen on every address of the machine, as no server should."""
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 - what is refused
        yield listener
