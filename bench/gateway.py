"""What the gateway costs, beside nginx and other gateways, in one run.

    python -m bench.gateway [--rounds 5] [--seconds 3] [--peers DIRECTORY]

All stand in front of the same server, a C program that answers at once; `wrk` makes the same call
again and again, with one caller, 16 and 64. The gateways take turns within each round, so that
what else the machine does hits all of them; figures are medians of the rounds, and ratios are made
within a round. Processor time is that of the gateway's processes, user and system together.

Ours is a project as users have it: `agents up`, a role in front of the server over standard input
and one over HTTP on a unix socket, real tokens, and a record of each call. Others are measured if
`bench/peers.py` has installed them.
"""

import argparse
import getpass
import json
import statistics
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

from bench import peers, rig
from bench.load import Calls, Figures, NobodyAnsweredError, WrongAnswerError, make_calls
from orchestrator.model.base import JsonObject
from orchestrator.protocol import mcp

CALLERS: Final = (1, 16, 64)
_SLOW: Final = 100  # calls a second
_SLOW_SECONDS: Final = 8
_PATIENCE: Final = 4  # times as long, where nobody was answered in that time
INFO: Final[JsonObject] = {"name": "bench", "version": "1"}
OURS: Final = "ours, stdio"
DIRECT: Final = "the server itself, HTTP"
NGINX: Final = "nginx, plain proxy"
_COMMON: Final = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
}
_NGINX: Final = """\
user {user};
worker_processes 1;
daemon off;
pid {root}/nginx.pid;
error_log {root}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  upstream server {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport;
    location / {{
      proxy_pass http://server;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(slots=True)
class Way:
    """One way to the server.

    Attributes:
        name: What it is called.
        calls: What it is asked.
        pids: Tells the processes that are the gateway; none if there is none.
        is_slow: Whether it is measured for longer than others.
        rounds: What was measured, by the number of callers.
    """

    name: str
    calls: Calls
    pids: Callable[[], list[int]]
    is_slow: bool = False
    rounds: dict[int, list["Round"]] = field(default_factory=dict[int, list["Round"]])

    def warm_up(self) -> None:
        """Make calls of which every answer is looked at."""
        figures = make_calls(self.calls, 16, 5, is_checked=True)
        self.is_slow = figures.per_second < _SLOW

    def measure(self, callers: int, seconds: int) -> None:
        """Measure once."""
        pids = self.pids()
        before = rig.cpu_of(pids)
        seconds = max(seconds, _SLOW_SECONDS) if self.is_slow else seconds
        try:
            figures = make_calls(self.calls, callers, seconds)
        except NobodyAnsweredError:
            before = rig.cpu_of(pids)
            figures = make_calls(self.calls, callers, _PATIENCE * seconds)
        used = rig.cpu_of(pids) - before
        one = Round(figures, used / figures.calls * 1e6, rig.memory_of(pids))
        self.rounds.setdefault(callers, []).append(one)

    def median(self, callers: int, read: Callable[["Round"], float]) -> float:
        """Tell the median of a figure."""
        return statistics.median(map(read, self.rounds[callers]))


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement.

    Attributes:
        figures: What the callers saw.
        cpu_us: Processor time of the gateway for each call, in microseconds.
        memory: Its resident memory behind it, in megabytes.
    """

    figures: Figures
    cpu_us: float
    memory: float


def modern_head(token: str = "") -> dict[str, str]:
    """Write the headers of a modern call."""
    head = {
        **_COMMON,
        "MCP-Protocol-Version": mcp.LATEST_MODERN,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
    }
    return {**head, "Authorization": f"Bearer {token}"} if token else head


def session_head(token: str = "") -> dict[str, str]:
    """Write the headers of a legacy request, up to the session's id."""
    head = {**_COMMON, "MCP-Protocol-Version": mcp.LATEST_LEGACY}
    return {**head, "Authorization": f"Bearer {token}"} if token else head


def opening() -> JsonObject:
    """Write the request that opens a session."""
    params: JsonObject = {
        "protocolVersion": mcp.LATEST_LEGACY,
        "capabilities": {},
        "clientInfo": INFO,
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def open_session(url: str, token: str = "") -> dict[str, str]:
    """Open a session, and write the headers of a call in it."""
    head = session_head(token)
    head |= _post(url, head, opening())
    _ = _post(url, head, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    return head


def _post(url: str, head: dict[str, str], message: JsonObject) -> dict[str, str]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("POST", parts.path, json.dumps(message), head)
        response = connection.getresponse()
        said = response.read()
        if response.status not in {200, 202}:
            raise WrongAnswerError(f"{response.status} {said[:1000]!r}")
        session = response.getheader("Mcp-Session-Id")
    finally:
        connection.close()
    return {} if session is None else {"Mcp-Session-Id": session}


@contextmanager
def nginx(root: Path, upstream: Path, port: int) -> Generator[list[int]]:
    """Run nginx in front of the server; tell its processes."""
    socket = root / "nginx.sock"
    configuration = root / "nginx.conf"
    _ = configuration.write_text(
        _NGINX.format(user=getpass.getuser(), root=root, socket=socket, port=port)
    )
    with rig.process(upstream, socket) as server:
        rig.await_line(server)
        with rig.process("nginx", "-c", configuration, "-p", root) as proxy:
            rig.await_port(port)
            yield rig.family(proxy.pid)


def open_ways(stack: ExitStack, root: Path, directory: Path | None) -> list[Way]:
    """Start everything that is measured."""
    upstreams = rig.compile_upstreams(root)
    modern, legacy = rig.call_body(mcp.envelope(INFO)), rig.call_body()
    server = stack.enter_context(rig.process(upstreams.http, "127.0.0.1", "0"))
    url = f"http://127.0.0.1:{rig.await_line(server)}/mcp"
    port = rig.free_port()
    proxy = stack.enter_context(nginx(root, upstreams.http, port))
    project = stack.enter_context(rig.project(root, upstreams))
    ours = f"http://127.0.0.1:{project.port}"
    stdio, http = project.token("stdio"), project.token("http")
    sessions = [open_session(f"{ours}/stdio/mcp", stdio) for _ in range(max(CALLERS))]
    ways = [
        Way(DIRECT, Calls(url, [modern_head()], modern), list),
        Way(NGINX, Calls(f"http://127.0.0.1:{port}/mcp", [modern_head()], modern), lambda: proxy),
        Way(OURS, Calls(f"{ours}/stdio/mcp", [modern_head(stdio)], modern), project.pids),
        Way("ours, HTTP", Calls(f"{ours}/http/mcp", [modern_head(http)], modern), project.pids),
        Way(
            "ours, stdio, sessions",
            Calls(f"{ours}/stdio/mcp", sessions, legacy),
            project.pids,
        ),
    ]
    for name, peer in peers.PEERS.items():
        if directory is None:
            break
        found = peers.programs(directory, peer)
        if found is None:
            print(f"{name}: not installed (python -m bench.peers {directory})")
            continue
        place = root / name.replace(" ", "-")
        place.mkdir()
        running = stack.enter_context(peer.start(peers.Site(found, place, url, upstreams.stdio)))
        ways.append(Way(name, calls_of(running), partial(rig.family, running.pid)))
    return ways


def calls_of(running: peers.Running) -> Calls:
    """Write what a running peer is asked: as many sessions as callers, used in turn."""
    heads = [open_session(running.url, running.token) for _ in range(max(CALLERS))]
    return Calls(running.url, heads, rig.call_body(tool=running.tool))


def tell(ways: Sequence[Way]) -> None:
    """Print the figures."""
    names = ("calls/s", "CPU us", "p50 ms", "added", "p50 ms", "p99 ms", "p99/p50")
    print(" " * 26 + "".join(f" {name:>8}" for name in names) + "  RSS MB")
    callers = (16, 16, 1, 1, 64, 64, 64)
    print(f"{'callers':26}" + "".join(f" {number:8}" for number in callers))
    by_name = {way.name: way for way in ways}
    for way in ways:
        added = _median_of(way, by_name[DIRECT], 1, lambda a, b: a.figures.p50 - b.figures.p50)
        tail = statistics.median(one.figures.p99 / one.figures.p50 for one in way.rounds[64])
        print(
            f"{way.name:26} {way.median(16, lambda one: one.figures.per_second):8.0f}"
            f" {way.median(16, lambda one: one.cpu_us):8.1f}"
            f" {way.median(1, lambda one: one.figures.p50):8.3f} {added:8.3f}"
            f" {way.median(64, lambda one: one.figures.p50):8.2f}"
            f" {way.median(64, lambda one: one.figures.p99):8.2f} {tail:8.1f}"
            f" {way.median(64, lambda one: one.memory):7.0f}"
        )
    ours = by_name[OURS]
    print("\nthroughput of ours (stdio) with 16 callers, as a multiple of")
    for way in ways:
        if not way.name.startswith("ours"):
            told = _median_of(ours, way, 16, _ratio)
            rounds = ", ".join(
                f"{_ratio(a, b):.2f}" for a, b in zip(ours.rounds[16], way.rounds[16], strict=True)
            )
            print(f"  {way.name:26} {told:8.2f}   (rounds: {rounds})")


def _ratio(ours: Round, other: Round) -> float:
    return ours.figures.per_second / other.figures.per_second


def _median_of(
    one: Way, other: Way, callers: int, compare: Callable[[Round, Round], float]
) -> float:
    """Compare within each round, and tell the median."""
    return statistics.median(
        compare(a, b) for a, b in zip(one.rounds[callers], other.rounds[callers], strict=True)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--rounds", type=int, default=5)
    _ = parser.add_argument("--seconds", type=int, default=3)
    _ = parser.add_argument("--peers", type=Path, help="where `bench.peers` installed them")
    options = parser.parse_args()
    rounds, seconds = cast("int", options.rounds), cast("int", options.seconds)
    directory = cast("Path | None", options.peers)
    print(rig.describe_machine())
    with rig.home() as root, ExitStack() as stack:
        ways = open_ways(stack, root, directory)
        for way in ways:
            way.warm_up()
        for number in range(rounds):
            for callers in CALLERS:
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    way.measure(callers, seconds)
            print(f"round {number + 1} of {rounds}: {rig.describe_load()}", file=sys.stderr)
        tell(ways)
    print(rig.describe_load())


if __name__ == "__main__":
    main()
