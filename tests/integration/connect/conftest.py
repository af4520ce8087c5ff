"""The `agents connect` program, a control socket that answers, and real gateways behind."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast

import anyio
import pytest
import structlog
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from orchestrator.control.admin_server import AdminServer
from orchestrator.model.admin import Request, Result
from orchestrator.model.base import Json, JsonObject

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteSendStream, Process
    from integration.gateway.conftest import MemoryJournal, OpenRig, Rig
    from structlog.typing import FilteringBoundLogger

LOG = cast("FilteringBoundLogger", structlog.get_logger())
AGENTS = Path(sys.executable).parent / "agents"
TESTS = Path(__file__).parents[2]
TOKEN_MARK = b"mga_"


class _Rigs(Protocol):
    _open_rig: OpenRig
    MemoryJournal: type[MemoryJournal]


def _load_rigs() -> _Rigs:
    path = TESTS / "integration" / "gateway" / "conftest.py"
    spec = importlib.util.spec_from_file_location("gateway_rigs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gateway_rigs"] = module
    spec.loader.exec_module(module)
    return cast("_Rigs", cast("object", module))


_rigs = _load_rigs()


@pytest.fixture
def open_rig() -> OpenRig:
    """Give the way to open a real gateway."""
    return _rigs._open_rig


@pytest.fixture
def make_journal() -> Callable[[], MemoryJournal]:
    """Give the way to make a journal of sessions."""
    return _rigs.MemoryJournal


@dataclass(slots=True)
class Raw:
    """A running `agents connect`, line by line."""

    process: Process
    rest: bytes = b""
    seen: bytes = b""
    news: list[JsonObject] = field(default_factory=list[JsonObject])

    @property
    def stdin(self) -> ByteSendStream:
        """Its input."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Its output."""
        assert self.process.stdout is not None
        return self.process.stdout

    async def send(self, *messages: JsonObject | str) -> None:
        """Write lines."""
        lines = [each if isinstance(each, str) else json.dumps(each) for each in messages]
        await self.stdin.send("".join(f"{line}\n" for line in lines).encode())

    async def read(self) -> JsonObject:
        """Read a line."""
        while b"\n" not in self.rest:
            self.rest += await self.stdout.receive()
        line, _, self.rest = self.rest.partition(b"\n")
        self.seen += line[:10_000]
        assert TOKEN_MARK not in self.seen
        return cast("JsonObject", json.loads(line))

    async def receive(self) -> JsonObject:
        """Read an answer or a question; notifications before it are put aside."""
        while "id" not in (message := await self.read()):
            self.news.append(message)
        return message

    async def hear(self, method: str) -> JsonObject:
        """Read the next notification of a kind; none of another kind may come before it."""
        message = self.news.pop(0) if self.news else await self.read()
        assert message.get("method") == method, message
        return message

    async def hear_until(self, method: str, **params: Json) -> list[JsonObject]:
        """Read notifications until the one that is waited for; tell those before it."""
        found: list[JsonObject] = []
        while True:
            message = self.news.pop(0) if self.news else await self.read()
            told = cast("JsonObject", message.get("params", {}))
            if message.get("method") == method and params.items() <= told.items():
                return found
            found.append(message)

    async def ask(self, request_id: str | int, method: str, **params: Json) -> JsonObject:
        """Ask in the legacy era, and wait for the answer."""
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        answer = await self.receive()
        assert answer["id"] == request_id, answer
        return answer

    async def open(self, **capabilities: Json) -> JsonObject:
        """Open a legacy session; tell what it offers."""
        opening = await self.ask(
            "open",
            "initialize",
            protocolVersion="2025-11-25",
            capabilities=capabilities,
            clientInfo={"name": "raw", "version": "1"},
        )
        assert "result" in opening, opening
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return cast("JsonObject", opening["result"])

    async def end(self) -> None:
        """Close its input, and see it end well."""
        await self.stdin.aclose()
        with anyio.fail_after(30):
            assert await self.process.wait() == 0


@dataclass(slots=True)
class Stage:
    """A project directory, and a control socket that says where its roles are."""

    root: Path
    roles: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    control: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def errors(self) -> Path:
        """What the program wrote to stderr."""
        return self.root / "stderr"

    def write_token(self, role: str, text: str, mode: int = 0o600) -> Path:
        """Write the workstation's token."""
        path = self.root / ".agents" / "tokens" / role
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _ = path.write_text(text + "\n")
        path.chmod(mode)
        return path

    async def move(self, rig: Rig, later: Rig, role: str = "treasury") -> None:
        """End a gateway, and let the role be reached at another one when it is gone."""
        self.roles[role] = ""
        await rig.stop_listening()
        self.roles[role] = f"{later.base}/{role}/mcp"

    async def serve_control(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer on the control socket until stopped."""
        path = self.root / ".agents" / "run" / "control.sock"
        with anyio.CancelScope() as self.control:
            server = AdminServer(path, self._handle, LOG)
            await server.serve(task_status=task_status)
        path.unlink(missing_ok=True)

    async def _handle(self, request: Request) -> AsyncGenerator[Result]:
        assert request.op == "status"
        self.asked += 1
        url = next(iter(self.roles.values()), "")
        roles: list[Json] = [{"role": role, "url": url} for role, url in self.roles.items()]
        yield Result(body={"gateway": {"url": url, "ready": bool(url)}, "roles": roles})

    def argv(self, role: str) -> list[str]:
        """Write the command."""
        return ["connect", role, "-C", str(self.root)]

    @asynccontextmanager
    async def client(
        self, role: str, mode: str = "auto", **options: object
    ) -> AsyncGenerator[Client]:
        """Connect the SDK's client through the program."""
        parameters = StdioServerParameters(command=str(AGENTS), args=self.argv(role))
        with self.errors.open("w") as errors:
            transport = stdio_client(parameters, errlog=errors)
            make = cast("Callable[..., Client]", Client)
            async with make(transport, mode=mode, cache=None, **options) as client:
                yield client

    @asynccontextmanager
    async def raw(self, role: str, stdout: int = subprocess.PIPE) -> AsyncGenerator[Raw]:
        """Start the program, and end it with its input."""
        with self.errors.open("wb") as errors:
            process = await anyio.open_process(
                [str(AGENTS), *self.argv(role)], stdout=stdout, stderr=errors
            )
        async with process:
            try:
                yield Raw(process)
            finally:
                if process.returncode is None:
                    process.kill()

    async def run(self, role: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run the program to its end."""
        return await anyio.run_process(
            [str(AGENTS), *self.argv(role)], input=text.encode(), check=False
        )


OpenStage = Callable[..., AbstractAsyncContextManager[Stage]]


@asynccontextmanager
async def _open_stage(*, control: bool = True) -> AsyncGenerator[Stage]:
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    (root / "roles" / "servers").mkdir(parents=True)
    (root / ".agents" / "run").mkdir(parents=True, mode=0o700)
    stage = Stage(root)
    try:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                if control:
                    await group.start(stage.serve_control)
                yield stage
                group.cancel_scope.cancel()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def open_stage() -> OpenStage:
    """Give the way to make a project."""
    return _open_stage


Headers = dict[str, str]
# Method, headers in lower case and body of a request in; the whole HTTP answer out, or None to
# leave the caller waiting.
Script = Callable[[str, Headers, JsonObject], bytes | None]


@dataclass(slots=True)
class Fake:
    """What answers in a gateway's place, one request a connection."""

    script: Script
    url: str = ""
    seen: list[tuple[str, Headers, JsonObject]] = field(
        default_factory=list[tuple[str, Headers, JsonObject]]
    )
    news: anyio.Event = field(default_factory=anyio.Event)

    async def serve(self, stream: SocketStream) -> None:
        """Answer one request."""
        async with stream:
            source = BufferedByteReceiveStream(stream)
            head = (await source.receive_until(b"\r\n\r\n", 65_536)).decode()
            first, *lines = head.split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
            }
            size = int(headers.get("content-length", "0"))
            text = await source.receive_exactly(size) if size else b"{}"
            body = cast("JsonObject", json.loads(text))
            verb = first.partition(" ")[0]
            self.seen.append((verb, headers, body))
            self.news.set()
            answer = self.script(verb, headers, body)
            if answer is None:
                await anyio.sleep_forever()
            else:
                with suppress(anyio.BrokenResourceError):
                    await stream.send(answer)

    def count(self, what: str) -> int:
        """Tell how often a verb or a method was seen."""
        return sum(1 for verb, _, body in self.seen if what in (verb, body.get("method")))

    async def until(self, what: str, count: int = 1) -> None:
        """Wait until a verb or a method was seen so often."""
        while self.count(what) < count:
            self.news = anyio.Event()
            await self.news.wait()


OpenFake = Callable[[Script], AbstractAsyncContextManager[Fake]]


@asynccontextmanager
async def _open_fake(script: Script) -> AsyncGenerator[Fake]:
    fake = Fake(script)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, fake.serve)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  this is no Django
        fake.url = f"http://127.0.0.1:{port}/treasury/mcp"
        yield fake
        group.cancel_scope.cancel()


@pytest.fixture
def open_fake() -> OpenFake:
    """Give the way to put a script into the gateway's place."""
    return _open_fake


@dataclass(slots=True)
class Streaming:
    """A server that speaks HTTP itself, in the gateway's place."""

    process: subprocess.Popen[str]
    url: str

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_unused: object) -> None:
        """End it."""
        self.process.kill()
        _ = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start_streaming() -> Callable[[str], Streaming]:
    """Give the way to start a server of both eras that streams."""

    def start(path: str) -> Streaming:
        argv: Sequence[str] = [sys.executable, str(TESTS / "servers" / "streaming.py"), path]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = cast("str", process.stdout.readline()).strip()
        return Streaming(process, f"http://127.0.0.1:{port}{path}")

    return start
