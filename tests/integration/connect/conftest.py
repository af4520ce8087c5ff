"""The `agents connect` program, a control socket that answers, and real gateways behind."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast

import anyio
import pytest
import structlog
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from orchestrator.control.admin_server import AdminServer
from orchestrator.model.admin import Request, Result
from orchestrator.model.base import Json, JsonObject

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteSendStream, Process
    from integration.gateway.conftest import OpenRig
    from structlog.typing import FilteringBoundLogger

LOG = cast("FilteringBoundLogger", structlog.get_logger())
AGENTS = Path(sys.executable).parent / "agents"
TESTS = Path(__file__).parents[2]


class _Rigs(Protocol):
    _open_rig: OpenRig


def _load_rigs() -> OpenRig:
    path = TESTS / "integration" / "gateway" / "conftest.py"
    spec = importlib.util.spec_from_file_location("gateway_rigs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gateway_rigs"] = module
    spec.loader.exec_module(module)
    return cast("_Rigs", cast("object", module))._open_rig


_open_rig = _load_rigs()


@pytest.fixture
def open_rig() -> OpenRig:
    """Give the way to open a real gateway."""
    return _open_rig


@dataclass(slots=True)
class Raw:
    """A running `agents connect`, line by line."""

    process: Process
    rest: bytes = b""

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

    async def receive(self) -> JsonObject:
        """Read a message."""
        while b"\n" not in self.rest:
            self.rest += await self.stdout.receive()
        line, _, self.rest = self.rest.partition(b"\n")
        return cast("JsonObject", json.loads(line))

    async def ask(self, request_id: str | int, method: str, **params: Json) -> JsonObject:
        """Ask in the legacy era, and wait for the answer."""
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        answer = await self.receive()
        assert answer["id"] == request_id, answer
        return answer

    async def open(self) -> None:
        """Open a legacy session."""
        opening = await self.ask(
            "open",
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "raw", "version": "1"},
        )
        assert "result" in opening, opening
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


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
        with anyio.fail_after(60):
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
        _ = self.process.wait(5)
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
