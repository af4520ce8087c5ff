"""What the gateway adds to one `tools/call`: one caller, one keep-alive connection.

Two processes of the same server run side by side: one behind the gateway, one asked directly over
its FIFOs by a raw client. (The same process cannot serve both: a FIFO has one reader.) Rounds are
interleaved, and the client is the same plain blocking code on both ways. The gateway runs in a
process of its own, with its whole chain, and writes its record of each call as a log line to a
file.

    python bench/gateway_latency.py [--calls 2000] [--rounds 5] [--sdk]

`--sdk` puts a server of the official SDK behind; without it, a plain loop over standard input
answers at once, so that the server's own time does not hide the gateway's.
"""

import argparse
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast

import structlog
import uvloop

from orchestrator.clock import SystemClock
from orchestrator.gateway.server import Gateway
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, ServerName, WorkloadName
from orchestrator.model.snapshot import Route, Snapshot, TargetRef
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.tokens.mint import digest, mint, read_id
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex

ROOT = Path(__file__).parents[1]
INFO: JsonObject = {"name": "bench", "version": "1"}
PLAIN = """
import sys, os, json
for line in sys.stdin:
    if not line.strip():
        continue
    m = json.loads(line)
    if "id" in m:
        r = {"resultType": "complete", "content": [{"type": "text", "text": "hi"}]}
        os.write(1, json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}).encode() + b"\\n")
"""


def spawn(home: Path, name: str, command: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a server behind two FIFOs."""
    directory = home / name
    directory.mkdir()
    ends: list[int] = []
    for fifo in ("in", "out"):
        os.mkfifo(directory / fifo)
        ends.append(os.open(directory / fifo, os.O_RDWR))
    process = subprocess.Popen([*command, str(directory)], stdin=ends[0], stdout=ends[1])
    return process, directory


def call(number: int) -> JsonObject:
    """Write one call."""
    params: JsonObject = {
        "name": "echo",
        "arguments": {"text": "hello"},
        "_meta": mcp.envelope(INFO),
    }
    return jsonrpc.request_body(number, "tools/call", params)


def direct_caller(directory: Path) -> Callable[[int], None]:
    """Ask over the FIFOs."""
    inlet = os.open(directory / "in", os.O_RDWR)
    outlet = os.open(directory / "out", os.O_RDWR)

    def ask(number: int) -> None:
        _ = os.write(inlet, jsonrpc.encode(call(number)) + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(outlet, 65536)
        assert b'"result"' in data, data  # noqa: S101 - a benchmark of errors tells nothing

    return ask


def http_caller(port: int, token: str) -> Callable[[int], None]:
    """Ask over HTTP, with one connection."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = (
        f"POST /bench/mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
        f"MCP-Protocol-Version: {mcp.LATEST_MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"
    )

    def ask(number: int) -> None:
        body = jsonrpc.encode(call(number))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while True:
            data += connection.recv(65536)
            before, found, after = data.partition(b"\r\n\r\n")
            if found:
                length = int(before.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if len(after) >= length:
                    break
        assert b'"result"' in data, data  # noqa: S101 - a benchmark of errors tells nothing

    return ask


def measure(ask: Callable[[int], None], calls: int) -> list[float]:
    """Time calls, in milliseconds."""
    times: list[float] = []
    for number in range(calls):
        begun = time.perf_counter()
        ask(number)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def write_line(event: JsonObject, **_: object) -> bytes:
    """Write one log line."""
    return jsonrpc.encode(event)


async def serve(descriptor: int, directory: str, pid: int, token: str, log: BinaryIO) -> None:
    """Be the gateway's process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(serializer=write_line),
        ],
        logger_factory=structlog.BytesLoggerFactory(log),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    clock = SystemClock()
    tokens, now, token_id = TokenIndex(clock), clock.now(), read_id(token)
    if token_id is None:
        sys.exit("not a token")
    tokens.add(
        TokenRecord(
            token_id,
            AgentName("bench"),
            RoleName("bench"),
            digest(token),
            "active",
            now,
            now + timedelta(hours=1),
        )
    )
    workload = WorkloadName("bench.echo.g1")
    target = TargetRef(workload, pid, directory, "modern", mcp.LATEST_MODERN, INFO)
    tool: JsonObject = {"name": "echo", "inputSchema": {"type": "object"}}
    route = Route(RoleName("bench"), ServerName("echo"), target, (tool,))
    async with Gateway(tokens, clock=clock) as gateway:
        gateway.swap(Snapshot(1, MappingProxyType({RoleName("bench"): route})))
        await gateway.serve([socket.socket(fileno=descriptor)])


def cpu_of(pid: int) -> float:
    """Tell the seconds of processor time that a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    _ = parser.add_argument("--calls", type=int, default=2000)
    _ = parser.add_argument("--rounds", type=int, default=5)
    _ = parser.add_argument("--sdk", action="store_true")
    _ = parser.add_argument("--serve", nargs=5)
    options = parser.parse_args()
    arguments = cast("list[str] | None", options.serve)
    if arguments:
        descriptor, directory, pid, token, log = arguments
        with Path(log).open("ab") as file:
            uvloop.run(serve(int(descriptor), directory, int(pid), token, file))
        return
    calls, rounds = cast("int", options.calls), cast("int", options.rounds)
    command = [sys.executable, "-c", PLAIN]
    if cast("bool", options.sdk):
        command = [sys.executable, str(ROOT / "tests/servers/tools.py")]
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as name:
        home = Path(name)
        try:
            behind, behind_directory = spawn(home, "behind", command)
            alone, alone_directory = spawn(home, "alone", command)
            processes += [behind, alone]
            # The first message fixes the era of an SDK server.
            direct_caller(behind_directory)(0)
            token = mint().text.get_secret_value()
            listener = socket.create_server(("127.0.0.1", 0))
            arguments = [
                str(listener.fileno()),
                str(behind_directory),
                str(behind.pid),
                token,
                str(home / "log"),
            ]
            gateway = subprocess.Popen(
                [sys.executable, __file__, "--serve", *arguments], pass_fds=[listener.fileno()]
            )
            processes.append(gateway)
            ways = {
                "direct": direct_caller(alone_directory),
                "gateway": http_caller(cast("int", listener.getsockname()[1]), token),
            }
            for ask in ways.values():
                _ = measure(ask, 300)
            medians: dict[str, list[float]] = {way: [] for way in ways}
            tails: dict[str, list[float]] = {way: [] for way in ways}
            used = 0.0
            for _ in range(rounds):
                for way, ask in ways.items():
                    before = cpu_of(gateway.pid)
                    times = sorted(measure(ask, calls))
                    if way == "gateway":
                        used += cpu_of(gateway.pid) - before
                    medians[way].append(statistics.median(times))
                    tails[way].append(times[int(len(times) * 0.99)])
            added = [
                through - alone_
                for through, alone_ in zip(medians["gateway"], medians["direct"], strict=True)
            ]
            for way in ways:
                p50, p99 = statistics.median(medians[way]), statistics.median(tails[way])
                print(f"{way:8} p50 {p50:.3f} ms   p99 {p99:.3f} ms")
            shown = ", ".join(f"{value:.3f}" for value in added)
            print(f"added    p50 {statistics.median(added):.3f} ms   (rounds: {shown})")
            print(f"gateway CPU per call {used / (calls * rounds) * 1e6:.0f} us")
        finally:
            for process in processes:
                process.kill()
                _ = process.wait(5)


if __name__ == "__main__":
    main()
