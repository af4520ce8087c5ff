"""Servers that somebody else runs, as the runtime sees them come and go."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.lowlevel
import pytest

from orchestrator.config.project import load_project
from orchestrator.control.attach import attach
from orchestrator.control.stack import secrets_of
from orchestrator.errors import WorkloadStartError
from orchestrator.model.names import RoleName
from orchestrator.model.workload import EngineState, WorkloadExit
from orchestrator.runtimes import attached
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.attached import FIRST_PID, AttachedRuntime
from orchestrator.runtimes.base import FeedGap
from orchestrator.runtimes.identity import is_alive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from orchestrator.model.names import WorkloadName
    from orchestrator.model.workload import WorkloadSpec

ROOT: Final = Path(__file__).resolve().parents[3]
LONGEST: Final = 30


def spec(port: int, host: str = "localhost") -> WorkloadSpec:
    """Describe a server at a port."""
    role = RoleName("monitoring")
    wanted = secrets_of(load_project(ROOT), (role,), Path("/nowhere"))
    return attach(wanted, {role: f"http://{host}:{port}/mcp"}).roles[role]


class Listener:
    """A server that takes connections and says nothing."""

    def __init__(self) -> None:
        """Listen nowhere yet."""
        self.taken: list[asyncio.StreamWriter] = []
        self.port = 0
        self.server: asyncio.Server | None = None
        self.news = asyncio.Condition()

    async def listen(self) -> None:
        """Listen, at the same port if there was one."""
        self.server = await asyncio.start_server(self.take, "127.0.0.1", self.port)
        self.port = cast("tuple[str, int]", self.server.sockets[0].getsockname())[1]

    async def take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection."""
        async with self.news:
            self.taken.append(writer)
            self.news.notify_all()

    async def has(self, count: int) -> None:
        """Wait until so many connections came."""
        async with self.news:
            _ = await self.news.wait_for(lambda: len(self.taken) >= count)

    def stop(self) -> None:
        """Listen no more."""
        assert self.server is not None
        self.server.close()

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self.taken:
            writer.close()


async def next_exit(feed: AsyncGenerator[WorkloadExit | FeedGap]) -> WorkloadExit:
    """Wait for the next end."""
    item = await anext(feed)
    assert isinstance(item, WorkloadExit)
    return item


async def test_a_server_is_reached_watched_and_seen_to_end() -> None:
    """Its end is told once, with the number that it had, and nothing real has that number."""
    doubted: list[WorkloadName] = []
    runtime, server = AttachedRuntime(doubted.append), Listener()
    with anyio.fail_after(LONGEST):
        await server.listen()
        wanted = spec(server.port)
        async with aclosing(runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            await runtime.start(wanted)
            process = await runtime.launch(wanted, {})
            assert process.pid > FIRST_PID
            assert not is_alive(process.pid, process.started, process.boot_id)
            # By number, whatever the name may mean later; the server hears the name.
            assert process.address == f"elsewhere:localhost=http://127.0.0.1:{server.port}/mcp"
            assert Address.parse(process.address).authority == f"localhost:{server.port}"
            status = (await runtime.observe())[wanted.name]
            assert (status.state, status.pid) == (EngineState.RUNNING, process.pid)
            await server.has(1)
            server.stop()
            server.hang_up()
            end = await next_exit(feed)
    assert (end.name, end.pid, end.code) == (wanted.name, process.pid, None)
    assert await runtime.observe() == {}
    assert doubted == []


async def test_a_server_that_ends_quiet_connections_is_not_gone() -> None:
    """It is only looked at again, as another one may stand there by now."""
    doubted: list[WorkloadName] = []
    runtime, server = AttachedRuntime(doubted.append), Listener()
    with anyio.fail_after(LONGEST):
        await server.listen()
        wanted = spec(server.port)
        process = await runtime.launch(wanted, {})
        await server.has(1)
        server.hang_up()
        await server.has(2)
        while not doubted:
            await anyio.lowlevel.checkpoint()
        assert (await runtime.observe())[wanted.name].pid == process.pid
        server.stop()
        await runtime.stop(wanted.name, wanted.stop.grace)
        server.hang_up()
    assert doubted == [wanted.name]


async def test_a_server_is_waited_for() -> None:
    """A launch reaches a server that begins to listen only then."""
    runtime, server = AttachedRuntime(lambda _: None), Listener()
    with anyio.fail_after(LONGEST):
        await server.listen()
        server.stop()
        wanted = spec(server.port)
        async with anyio.create_task_group() as group:
            group.start_soon(server.listen)
            assert (await runtime.launch(wanted, {})).pid
        server.stop()
        await runtime.signal(wanted.name, 9)
        assert await runtime.observe() == {}
        await server.has(1)
        server.hang_up()


async def test_a_server_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address and the cause."""
    monkeypatch.setattr(attached, "_REACH_SECONDS", 0.1)
    server = Listener()
    with anyio.fail_after(LONGEST):
        await server.listen()
        server.stop()
        with pytest.raises(WorkloadStartError, match=r"nobody answers at http://localhost:\d+/mcp"):
            _ = await AttachedRuntime(lambda _: None).launch(spec(server.port), {})


def test_a_name_that_is_looked_up_for_too_long_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look-up that goes on when its time is over has nobody who misses its outcome."""
    monkeypatch.setattr(attached, "_REACH_SECONDS", 0.1)
    monkeypatch.setattr(attached, "_CONNECT_SECONDS", 0.0)
    said: list[object] = []

    async def reach() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: said.append(told))
        with anyio.fail_after(LONGEST):
            with pytest.raises(WorkloadStartError, match="no answer in time"):
                _ = await AttachedRuntime(lambda _: None).launch(spec(1, "nobody.invalid"), {})
        # It has ended, as a rule, when another one has.
        with anyio.move_on_after(5), suppress(OSError):
            _ = await anyio.getaddrinfo("nobody.invalid", 1)
        _ = gc.collect()

    anyio.run(reach, backend_options={"use_uvloop": True})
    _ = gc.collect()
    assert said == []
