"""A real engine for containers, with images of real programs, and nothing left behind."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import pytest

from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.docker_container import container_name
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.probe import Dialogue
from orchestrator.runtimes.wire import open_wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from orchestrator.model.base import JsonObject
    from orchestrator.runtimes.base import Process

SERVERS: Final = Path(__file__).parents[3] / "servers"
# The engine that the client asks, too.
SOCKET: Final = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
USER: Final = 10_001
SECONDS: Final = 120.0
Object = dict[str, object]


def docker(*words: str, check: bool = True) -> str:
    """Run the engine's own client, which knows nothing of ours."""
    done = subprocess.run(
        ["docker", *words], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert not check or not done.returncode, done.stderr
    return done.stdout.strip()


@final
class Boxes:
    """One project's containers."""

    def __init__(self, root: Path, image: str) -> None:
        """Keep the places."""
        self.root = root
        self.image = image
        self.files = EngineFiles(run=root / "run", logs=root / "logs")
        self.runtime = DockerRuntime(self.files)

    def spec(self, *program: str, role: str = "reader", **fields: object) -> WorkloadSpec:
        """Describe a workload that runs one of `tests/servers`.

        Args:
            program: The program and its arguments; with none, the image's own.
            role: Its role.
            fields: What differs from the usual, `container` only in parts.
        """
        script = [str(SERVERS / program[0]), *program[1:]] if program else []
        container: Object = {
            "image": self.image,
            "user": "mcp",
            "keep": {},
            "memory": "128MiB",
            "cpus": 1,
            "pids": 16,
            "tmp": "1MiB",
            "engine": SOCKET,
            **cast("Object", fields.pop("container", {})),
        }
        usual: Object = {
            "role": role,
            "server": "boxed",
            "bands": ("look",),
            "mode": "agent",
            "argv": ("python3", "-I", "-S", *script) if script else (),
            "directory": "",
            "env": {"HOME": "/tmp"},  # noqa: S108 - inside
            "secrets": {},
            "tools": {"echo": "READ"},
            "known": frozenset({"echo"}),
            "cut": False,
            "era": "legacy",
            "restart": {},
            "probe": {},
            "stop": {"drain": "1s", "grace": "2s"},
            "container": container,
        }
        return WorkloadSpec.model_validate({**usual, **fields})

    async def run(self, spec: WorkloadSpec) -> Process:
        """Start and launch a workload."""
        with anyio.fail_after(SECONDS):
            await self.runtime.start(spec)
            return await self.runtime.launch(spec, {})

    async def call(self, process: Process, tool: str, arguments: JsonObject) -> str:
        """Open the server anew and call one tool."""
        with anyio.fail_after(SECONDS):
            async with open_wire(process, resume=False) as wire:
                dialogue = await Dialogue.open(wire, "legacy", prefix="test-")
                result = await dialogue.call_tool(tool, arguments)
        content = cast("list[dict[str, str]]", result["content"])
        return content[0]["text"]

    def name(self, workload: str) -> str:
        """Tell what a workload's container is called."""
        return container_name(str(self.files.run), workload)

    def inspect(self, workload: str) -> Object:
        """Ask the engine about a workload's container."""
        return cast("list[Object]", json.loads(docker("inspect", self.name(workload))))[0]

    @staticmethod
    def inspect_network(network: str) -> dict[str, str]:
        """Tell the addresses of a network."""
        told = docker("network", "inspect", "-f", "{{json (index .IPAM.Config 0)}}", network)
        return cast("dict[str, str]", json.loads(told))

    @staticmethod
    def address(container: str, network: str) -> str:
        """Tell a container's address in a network."""
        networks = f'(index .NetworkSettings.Networks "{network}")'
        return docker("inspect", "-f", f"{{{{{networks}.IPAddress}}}}", container)

    @staticmethod
    def bridge(network: str) -> str:
        """Tell this machine's end of a network."""
        option = '{{index .Options "com.docker.network.bridge.name"}}'
        return docker("network", "inspect", "-f", option, network)

    def everything(self) -> list[str]:
        """Tell every container and network of the project."""
        mine = f"label=bandmaster.project={self.files.run}"
        found = docker("ps", "-aq", "-f", mine).split()
        return found + docker("network", "ls", "-q", "-f", mine).split()


@pytest.fixture
def root() -> Generator[Path]:
    """Make a directory that a container can have at the same place; /tmp is its own inside."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/var/tmp"))
    os.chown(path, USER, USER)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def boxes(root: Path, box: str) -> AsyncGenerator[Boxes]:
    """Give a project, and leave no container or network of it."""
    made = Boxes(root, box)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(SECONDS):
            fresh = DockerRuntime(made.files)
            with suppress(Exception):
                _ = await fresh.end_all()
            for each in made.everything():
                _ = docker("rm", "-f", each, check=False)
                _ = docker("network", "rm", each, check=False)


@pytest.fixture
def client() -> Callable[..., str]:
    """Give the client of the engine, which knows nothing of ours."""
    return docker


@pytest.fixture
def build(box: str) -> Generator[Callable[[str], str]]:
    """Build images from a few lines; they are removed in the end."""
    assert box  # there is an engine
    made: list[str] = []

    def make(text: str) -> str:
        done = subprocess.run(
            ["docker", "build", "-q", "--label", "bandmaster.tests=1", "-"],
            input=text, check=True, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        made.append(done.stdout.strip())
        return made[-1]

    yield make
    for each in made:
        _ = docker("rmi", "-f", each, check=False)


@final
class Relay:
    """A socket before the engine's own, which can be cut."""

    def __init__(self, place: Path) -> None:
        """Listen."""
        self.place = place
        self._open: list[socket.socket] = []
        self._workers: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        """Take connections."""
        self._listener = listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.place))
        listener.listen(64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Be an engine that is gone."""
        assert self._listener is not None
        self.place.unlink()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        for worker in self._workers:
            worker.join(SECONDS)
        self._workers.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(SOCKET)
                self._open += [client, server]
                worker = threading.Thread(target=_join, args=(client, server), daemon=True)
                worker.start()
                self._workers.append(worker)


def _join(client: socket.socket, server: socket.socket) -> None:
    """Carry both directions until one ends."""
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join(SECONDS)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(root: Path) -> Generator[Relay]:
    """Give an engine that can be cut off."""
    made = Relay(root / "engine.sock")
    yield made
    with suppress(OSError):
        made.cut()


@pytest.fixture
def outside() -> Generator[int]:
    """Listen on all addresses of this machine, and tell the port."""
    with socket.create_server(("", 0)) as listener:
        yield cast("tuple[str, int]", listener.getsockname())[1]


@contextmanager
def _rules(kind: int) -> Generator[None]:
    """Hold the lock of the one table of rules that all projects of this machine have."""
    with (Path(tempfile.gettempdir()) / "bandmaster-tests-rules.lock").open("w") as lock:
        fcntl.flock(lock, kind)
        yield


@pytest.fixture
def rules() -> Generator[None]:
    """Rely on the rules against containers' networks: nobody takes them away meanwhile."""
    with _rules(fcntl.LOCK_SH):
        yield


@pytest.fixture
def rules_alone() -> Generator[None]:
    """Be the only one who relies on these rules, so that they can be taken away."""
    with _rules(fcntl.LOCK_EX):
        yield


@final
@dataclass(frozen=True)
class Elsewhere:
    """Somebody who is not this machine, and listens."""

    address: str
    port: int


_LISTEN: Final = """
import socket
with socket.create_server(("", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        listener.accept()[0].close()
"""


@pytest.fixture
def elsewhere() -> Generator[Elsewhere]:
    """Give a machine next to this one: a process with a network of its own, and a wire to it."""
    number = os.getpid()
    # Of a range for measurements, which nobody has: four addresses for each process.
    base = ipaddress.IPv4Address("198.18.0.0") + number % 2**15 * 4
    wire = f"bmt{number}"
    words = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n",
             sys.executable, "-I", "-S", "-c", _LISTEN]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(cast("str", process.stdout.readline()))
            inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net")
            for line in (
                ("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0",
                 "netns", str(process.pid)),
                ("ip", "address", "add", f"{base + 1}/30", "dev", wire),
                ("ip", "link", "set", wire, "up"),
                (*inside, "ip", "address", "add", f"{base + 2}/30", "dev", "eth0"),
                (*inside, "ip", "link", "set", "eth0", "up"),
            ):  # fmt: skip
                _ = subprocess.run(line, check=True, capture_output=True, timeout=SECONDS)
            yield Elsewhere(str(base + 2), port)
        finally:
            process.kill()  # and the wire goes with it


@pytest.fixture
def own_addresses() -> list[str]:
    """Tell this machine's addresses but the loopback's, and those that come and go with tests."""
    said = subprocess.run(
        ["ip", "-o", "-4", "address", "show"], check=True, capture_output=True, text=True
    ).stdout
    passing = ("lo", "mcp", "br-", "bmt", "docker", "veth")
    rows = [line.split() for line in said.splitlines()]
    return [row[3].partition("/")[0] for row in rows if not row[1].startswith(passing)]
