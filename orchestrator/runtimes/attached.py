"""Servers that somebody else starts and ends, such as Compose or Kubernetes, at known addresses.

To launch one is to reach it, to stop one is to let go of it. Its end is seen on a connection over
which nothing is ever said. One that comes back is another process, at whatever address its name
leads to by then: it is probed and attested like any other.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from signal import SIGKILL
from typing import Final, cast, final

import anyio
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import WorkloadStartError
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit, WorkloadSpec, WorkloadStatus
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.base import FeedGap, Process, Runtime

# What begins so names no process of this machine: Linux gives pids up to 4194304.
FIRST_PID: Final = 5_000_000
# No boot has this id, so that nothing is ever taken for a process of ours and signalled.
_NO_BOOT: Final = "attached"
_REACH_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.05
# A server that closed the connection lives if it takes another one within this time.
_LIFE_SECONDS: Final = 0.25
# How often a server may close it before it is left alone for a moment.
_PACE_SECONDS: Final = 1.0
_READ_BYTES: Final = 4_096
# A peer whose machine is gone says nothing: after 5 + 3 * 2 seconds it counts as gone.
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


@final
class _Link:
    """A server that is reached: its number, and the task that watches it."""

    def __init__(self, pid: int, host: str, port: int) -> None:
        self.pid = pid
        self.host = host
        self.port = port
        self.watch: asyncio.Task[None] | None = None


@final
class AttachedRuntime(Runtime):
    """Reaches servers and notices when they are gone; starts and ends none."""

    def __init__(self, on_doubt: Callable[[WorkloadName], None]) -> None:
        """Reach nothing yet.

        Args:
            on_doubt: Hears of a server that broke a connection and is there all the same: what it
                shows has to be looked at again.
        """
        self._on_doubt = on_doubt
        self._links: dict[WorkloadName, _Link] = {}
        self._count = 0
        self._ends: asyncio.Queue[WorkloadExit] = asyncio.Queue()

    @override
    async def observe(self) -> Mapping[WorkloadName, WorkloadStatus]:
        return {
            name: WorkloadStatus(name=name, state=EngineState.RUNNING, pid=link.pid)
            for name, link in self._links.items()
        }

    @override
    async def start(self, spec: WorkloadSpec) -> None:
        self._drop(spec.name)

    @override
    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        """Reach the server, and wait for it a while.

        Raises:
            WorkloadStartError: Nobody answers there.
        """
        wanted = Address.parse(f"elsewhere:{spec.attached}")
        connection = await _reach(wanted, spec.attached)
        self._count += 1
        host, port = cast("tuple[str, int]", connection[1].get_extra_info("peername")[:2])
        link = _Link(FIRST_PID + self._count, host, port)
        self._links[spec.name] = link
        link.watch = asyncio.create_task(self._watch(spec.name, link, *connection))
        # By number: a name may lead to another server by the time of the next connection. Servers
        # that check `Host` know themselves by the name.
        name = "" if wanted.host == host else wanted.host
        address = Address(wanted.path, port=port, host=host, name=name)
        return Process(spec.name, link.pid, 0, _NO_BOOT, "", str(address))

    @override
    async def signal(self, name: WorkloadName, number: int) -> None:
        if number == SIGKILL:
            self._drop(name)

    @override
    async def stop(self, name: WorkloadName, grace: timedelta) -> None:
        self._drop(name)

    @override
    async def exits(self) -> AsyncGenerator[WorkloadExit | FeedGap]:
        """Follow the ends; nothing gets lost on the way, so the only gap is the first item."""
        yield FeedGap()
        while True:
            yield await self._ends.get()

    @override
    async def sweep(self, keep: Collection[WorkloadName]) -> tuple[WorkloadName, ...]:
        return ()

    def _drop(self, name: WorkloadName) -> None:
        """Let go of a server; whoever kept it hears that it ended."""
        link = self._links.pop(name, None)
        if link is None:
            return
        if link.watch is not None:
            _ = link.watch.cancel()
        self._ends.put_nowait(WorkloadExit(name=name, pid=link.pid, code=None))

    async def _watch(
        self,
        name: WorkloadName,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Wait until the server is gone; one that only ends quiet connections is not."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                with suppress(OSError):
                    while await reader.read(_READ_BYTES):
                        pass
            finally:
                writer.transport.abort()
            try:
                reader, writer = await _connect(link.host, link.port, _LIFE_SECONDS)
            except OSError:
                link.watch = None
                if self._links.get(name) is link:
                    self._drop(name)
                return
            self._on_doubt(name)
            try:
                await asyncio.sleep(begun + _PACE_SECONDS - loop.time())
            except asyncio.CancelledError:
                writer.transport.abort()
                raise


async def _reach(address: Address, shown: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as soon as somebody listens.

    Raises:
        WorkloadStartError: Nobody did.
    """
    give_up = anyio.current_time() + _REACH_SECONDS
    while True:
        try:
            return await _connect(address.host, address.port, _CONNECT_SECONDS)
        except OSError as error:
            if anyio.current_time() > give_up:
                why = _words(error)
                raise WorkloadStartError(
                    f"nobody answers at {shown}: {why}",
                    hint="Whoever runs that server has to start it; it is looked for until then.",
                ) from error
        await anyio.sleep(_POLL_SECONDS)


async def _connect(
    host: str, port: int, seconds: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that notices when the other end is gone.

    Raises:
        OSError: There is none, or not in this time.
    """
    with anyio.fail_after(seconds):
        # By itself: uvloop's way to connect leaves a failed look-up behind when it is cut short.
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        reader, writer = await _connect_first([str(each[4][0]) for each in found], port)
    known = cast("socket.socket", writer.get_extra_info("socket"))
    for level, option, value in _KEEP_ALIVE:
        known.setsockopt(level, option, value)
    return reader, writer


async def _connect_first(
    addresses: Sequence[str], port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address at which somebody listens.

    Raises:
        OSError: There is none.
    """
    *others, last = addresses
    for address in others:
        with suppress(OSError):
            return await asyncio.open_connection(address, port)
    return await asyncio.open_connection(last, port)


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name is not known here"
    return error.strerror or type(error).__name__
