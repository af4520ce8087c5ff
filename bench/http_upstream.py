"""What the gateway's connection to a server over HTTP costs, in CPU of its own process.

A small server answers from a constant, in a process of its own; what is measured is the client:
writing the request, reading the response, JSON both ways, and the system calls. Beside it, in the
same rounds, the least that any client could do: the same bytes over the same kind of socket, read
by nobody.

    python bench/http_upstream.py [--calls 20000] [--callers 16] [--rounds 5]
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast, final

import anyio
import uvloop
from typing_extensions import override

from orchestrator.clock import SystemClock
from orchestrator.gateway.upstream.base import Outgoing
from orchestrator.gateway.upstream.http import HttpUpstream
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp

INFO: JsonObject = {"name": "bench", "version": "1"}
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 20:33:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
ANSWER = (
    b'{"jsonrpc":"2.0","id":"%b","result":{"resultType":"complete",'
    b'"content":[{"type":"text","text":"hi"}],"isError":false}}'
)


@final
class Server(asyncio.Protocol):
    """Answers each request that comes in one piece."""

    def __init__(self) -> None:
        """Wait for a connection."""
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        begin = data.find(b'"id":"') + 6
        body = ANSWER % data[begin : data.find(b'"', begin)]
        if self._transport is not None:
            self._transport.write(HEAD % (len(body), body))


async def serve(path: str) -> None:
    """Serve until killed."""
    listener = await asyncio.get_running_loop().create_unix_server(Server, path)
    print("listens", flush=True)
    await listener.serve_forever()


@final
class Least(asyncio.Protocol):
    """Writes bytes and waits until some come back."""

    def __init__(self) -> None:
        """Wait for a connection."""
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[None] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting.set_result(None)

    async def ask(self, request: bytes) -> None:
        """Make one exchange."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is not None:
            self._transport.write(request)
        await self._waiting


async def _wait(future: "asyncio.Future[jsonrpc.Response]") -> jsonrpc.Response:
    return await future


def _params() -> JsonObject:
    return {"name": "echo", "arguments": {"a": 1, "b": "x"}, "_meta": mcp.envelope(INFO)}


async def measure(
    callers: int, calls: int, one: Callable[[int], Awaitable[object]]
) -> tuple[float, float]:
    """Make calls side by side; tell calls a second, and microseconds of CPU for each."""

    async def caller(number: int) -> None:
        for _ in range(calls // callers):
            _ = await one(number)

    begun, used = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as group:
        for number in range(callers):
            group.start_soon(caller, number)
    used, passed = time.process_time() - used, time.perf_counter() - begun
    return calls / passed, used / calls * 1e6


async def run(path: str, callers: int, calls: int, rounds: int) -> None:
    """Measure both ways in turns."""
    upstream = HttpUpstream(
        f"unix:{path}:/mcp",
        "modern",
        mcp.LATEST_MODERN,
        INFO,
        {},
        "boot",
        SystemClock(),
        lambda _, __: None,
    )
    request = b"POST /mcp HTTP/1.1\r\n" + b"x" * 280 + jsonrpc.encode({"id": "1", **_params()})
    loop = asyncio.get_running_loop()
    least = [(await loop.create_unix_connection(Least, path))[1] for _ in range(callers)]
    ways: dict[str, Callable[[int], Awaitable[object]]] = {
        "least": lambda number: least[number].ask(request),
        "upstream": lambda _: upstream.request(Outgoing("tools/call", _params()), _wait),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    async with anyio.create_task_group() as group:
        group.start_soon(upstream.run)
        for _ in range(rounds):
            for name, one in ways.items():
                found[name].append(await measure(callers, calls, one))
        group.cancel_scope.cancel()
    upstream.close()
    for name, figures in found.items():
        rate = statistics.median(rate for rate, _ in figures)
        cpu = statistics.median(cpu for _, cpu in figures)
        print(f"{name:10} {callers:3} callers {rate:8.0f} calls/s {cpu:6.1f} us of CPU a call")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--serve", help=argparse.SUPPRESS)
    _ = parser.add_argument("--calls", type=int, default=20_000)
    _ = parser.add_argument("--callers", type=int, default=16)
    _ = parser.add_argument("--rounds", type=int, default=5)
    options = cast("dict[str, object]", vars(parser.parse_args()))
    if options["serve"] is not None:
        uvloop.run(serve(str(options["serve"])))
        return
    with tempfile.TemporaryDirectory(prefix="bm-") as directory:
        path = str(Path(directory) / "http.sock")
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", path], stdout=subprocess.PIPE
        )
        try:
            _ = server.stdout.readline() if server.stdout is not None else b""
            numbers = [int(str(options[name])) for name in ("callers", "calls", "rounds")]
            uvloop.run(run(path, *numbers))
        finally:
            server.kill()
            _ = server.wait()


if __name__ == "__main__":
    main()
