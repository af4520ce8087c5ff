"""What benchmarks share: the compiled upstreams, a project, figures of processes."""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, cast

from orchestrator.model.base import Json, JsonObject

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
_SOURCES: Final = Path(__file__).parent / "upstream"
_SERVER: Final = """\
server: {name}
description: Answers at once.
owner: bench
source: bench/upstream
launch: {launch}
bands: {{names: [read]}}
tools: {{echo: {{band: read, class: READ}}}}
"""
_ROLE: Final = """\
role: {name}
justification: It is measured.
owner: bench
server: {name}
bands: full
"""


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The same server, compiled, over both transports.

    Attributes:
        stdio: Speaks over standard input.
        http: Speaks Streamable HTTP; told a path or a host and a port.
    """

    stdio: Path
    http: Path


@contextmanager
def home() -> Generator[Path]:
    """Give a directory whose name is short enough for sockets.

    What runs in it is ended also when somebody ends the benchmark.
    """
    _ = signal.signal(signal.SIGTERM, _leave)
    root = Path(tempfile.mkdtemp(prefix="bm-bench-", dir="/tmp"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(1)


def compile_upstreams(root: Path) -> Upstreams:
    """Compile the servers."""
    made = Upstreams(root / "stdio", root / "http")
    for program in (made.stdio, made.http):
        source = _SOURCES / f"{program.name}.c"
        _ = subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return made


@contextmanager
def process(
    *words: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program until the block ends.

    Args:
        words: The program and its arguments.
        cwd: Its working directory.
        env: Variables beside those of this process.
        log: File for what it says; without one, its output can be read.
    """
    with ExitStack() as stack:
        said = None if log is None else stack.enter_context(log.open("wb"))
        child = subprocess.Popen(
            [*map(str, words)],
            stdout=said or subprocess.PIPE,
            stderr=said,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                _ = child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                _ = child.wait()


@dataclass(frozen=True, slots=True)
class Project:
    """A running project with the roles `stdio` and `http`.

    Attributes:
        root: Its directory.
        port: Where the gateway listens.
        pid: The daemon, which the gateway is a part of.
    """

    root: Path
    port: int
    pid: int

    def token(self, role: str) -> str:
        """Read the token that `agents up` issued for a role."""
        return (self.root / ".agents" / "tokens" / role).read_text().strip()

    def pids(self) -> list[int]:
        """Tell the processes whose work is the gateway's."""
        return [self.pid]


@contextmanager
def project(root: Path, upstreams: Upstreams) -> Generator[Project]:
    """Run a project as users do: files, then `agents up`."""
    launches = {
        "stdio": f"{{command: [{upstreams.stdio}]}}",
        "http": f'{{command: [{upstreams.http}, "{{socket}}"], transport: http}}',
    }
    (root / "roles" / "servers").mkdir(parents=True)
    _ = (root / "agents.yaml").write_text("listen: 127.0.0.1:0\n")
    for name, launch in launches.items():
        server = _SERVER.format(name=name, launch=launch)
        _ = (root / "roles" / "servers" / f"{name}.yaml").write_text(server)
        _ = (root / "roles" / f"{name}.yaml").write_text(_ROLE.format(name=name))
    try:
        _ = agents(root, "up", "-d")
        told = cast("JsonObject", json.loads(agents(root, "status", "--json")))
        url = str(cast("JsonObject", told["gateway"])["url"])
        yield Project(root, int(url.rpartition(":")[2]), cast("int", told["pid"]))
    finally:
        _ = agents(root, "down")


def agents(root: Path, *words: str) -> str:
    """Run `agents` in a project."""
    done = subprocess.run([AGENTS, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def family(pid: int) -> list[int]:
    """Tell a process and all that come from it."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(word) for word in thread.read_text().split()]
    return found


def cpu_of(pids: Iterable[int]) -> float:
    """Tell the seconds of processor time, user and system, that processes used together."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_of(pids: Iterable[int]) -> float:
    """Tell the resident memory of processes, in megabytes."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1024


def free_port() -> int:
    """Find a port for a program that cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return cast("int", listener.getsockname()[1])


def await_port(port: int, seconds: float = 60.0) -> None:
    """Wait until somebody listens at a port."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def await_line(child: subprocess.Popen[bytes]) -> str:
    """Wait for the line with which a program tells that it is ready."""
    if child.stdout is None:
        raise ValueError("the program's output is not read")
    return cast("bytes", child.stdout.readline()).decode().strip()


def describe_machine() -> str:
    """Tell what the figures were measured on, and how busy it is."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return (
        f"{os.cpu_count()} x {model}; Linux {platform.release()}; "
        f"Python {platform.python_version()}; {describe_load()}"
    )


def describe_load() -> str:
    """Tell how busy the machine is."""
    return "load " + ", ".join(f"{value:.2f}" for value in os.getloadavg())


def call_body(meta: Json = None, tool: str = "echo") -> bytes:
    """Write the call that all are asked."""
    params: JsonObject = {"name": tool, "arguments": {"text": "hello"}}
    if meta is not None:
        params["_meta"] = meta
    body: JsonObject = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(body, separators=(",", ":")).encode()
