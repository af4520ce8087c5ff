"""The gateway's connection to real servers over HTTP, and their readiness."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import anyio
import pytest
import uvloop

from orchestrator.errors import (
    TargetLostError,
    TargetUnavailableError,
    UpstreamError,
    WorkloadNotReadyError,
)
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http_wire import HttpWire
from orchestrator.runtimes.probe import Dialogue, probe

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from integration.upstream.conftest import Connect, Ears, Real

    from orchestrator.model.server import EraChoice
    from orchestrator.model.snapshot import Era
    from orchestrator.runtimes.probe import Attested

    Start = Callable[..., Real]

ERAS: list[Era] = ["modern", "legacy"]
TOOLS = ["echo", "huge", "count", "ask", "hold", "change", "crash"]


async def attest(address: Address, era: EraChoice = "auto", startup: float = 120.0) -> Attested:
    """Probe a server."""
    with anyio.fail_after(150):
        async with HttpWire(address) as wire:
            return await probe(wire, era, prefix="t-", startup=timedelta(seconds=startup))


async def test_the_loop_is_the_daemons() -> None:
    """These tests run on uvloop, as the daemon does."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


@pytest.mark.parametrize("listen", ["socket", "port"])
async def test_a_server_is_ready_when_it_answers(real: Start, listen: str) -> None:
    """A server that is late is waited for; it proves to be what it is in either era."""
    server = real(listen, "--delay", "0.2")
    found = await attest(server.address)
    assert (found.era, found.protocol_version) == ("modern", "2026-07-28")
    assert found.server_info["name"] == "http-tools"
    assert found.instructions == "Count carefully."
    assert [tool["name"] for tool in found.tools] == TOOLS
    older = await attest(server.address, "legacy")
    assert (older.era, older.protocol_version) == ("legacy", "2025-11-25")
    assert older.tools == found.tools


async def test_a_server_that_answers_with_json_only(real: Start, connect: Connect) -> None:
    """It makes no difference that a server sends no events."""
    server = real("socket", "--json")
    for era in ERAS:
        assert (await attest(server.address, era)).era == era
        async with connect(str(server.address), era) as line:
            assert await line.text("echo", {"text": era}) == era


async def test_a_bootstrap_speaks_to_it(real: Start) -> None:
    """A server over HTTP can be opened for calls of our own."""
    server = real("socket")
    with anyio.fail_after(120):
        async with HttpWire(server.address) as wire:
            dialogue = await Dialogue.open(wire, "auto", prefix="t-")
            result = await dialogue.call_tool("echo", {"text": "hi"})
    assert result["content"] == [{"type": "text", "text": "hi"}]


@pytest.mark.parametrize("listen", ["socket", "port"])
@pytest.mark.parametrize("era", ERAS)
async def test_a_call_with_all_that_belongs_to_it(
    real: Start, connect: Connect, ears: type[Ears], listen: str, era: Era
) -> None:
    """Results of any size, progress on the way, and the end of a call that nobody waits for."""
    server = real(listen)
    _ = await attest(server.address)
    async with connect(str(server.address), era) as line:
        assert await line.text("echo", {"text": "ünï"}) == "ünï"
        for size in (1_100_000, 8_000_000):
            assert len(await line.text("huge", {"size": size})) == size
        caller = ears()
        params = {"name": "count", "arguments": {"to": 3}}
        answer = await line.ask("tools/call", params, caller, token="p")  # pyright: ignore[reportArgumentType]
        assert answer.result is not None
        assert [params["progress"] for _, params in caller.told] == [1, 2, 3]
        assert [params["progressToken"] for _, params in caller.told] == ["p"] * 3


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_nobody_waits_for(
    real: Start, connect: Connect, directory: Path, era: Era
) -> None:
    """The server stops working at it."""
    server = real("socket")
    _ = await attest(server.address)
    async with connect(str(server.address), era) as line:
        async with anyio.create_task_group() as group:
            group.start_soon(line.text, "hold")
            await until((directory / "held").exists)
            group.cancel_scope.cancel()
        await until((directory / "cancelled").exists)
        assert await line.text("echo", {"text": "on"}) == "on"


async def test_questions_and_changes_of_a_legacy_server(
    real: Start, connect: Connect, ears: type[Ears]
) -> None:
    """A real server asks on the call's stream, and announces changes on the session's own."""
    server = real("socket")
    _ = await attest(server.address)
    caller = ears(replies={"action": "accept", "content": {"colour": "blue"}})
    async with connect(str(server.address), "legacy", {"elicitation": {"form": {}}}) as line:
        assert await line.text("ask", {}, caller) == "blue"
        assert [question.method for question in caller.asked] == ["elicitation/create"]
        assert await line.text("change") == "said"
        await line.until_broadcasts(1)
        assert line.broadcasts == [("notifications/tools/list_changed", {})]


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_ends_in_a_call(real: Start, connect: Connect, era: Era) -> None:
    """The call is lost, as it may have been carried out; the next one is not even sent."""
    server = real("socket")
    _ = await attest(server.address)
    async with connect(str(server.address), era) as line:
        with pytest.raises(TargetLostError):
            _ = await line.text("crash")
        with pytest.raises((TargetUnavailableError, TargetLostError)):
            _ = await line.text("echo", {"text": "?"})


async def test_a_wrong_path_is_told(real: Start) -> None:
    """A server that does not speak MCP at the path is no server, and the status says why."""
    server = real("socket", "--path", "/other")
    with pytest.raises(UpstreamError, match=r"initialize.*HTTP status 404"):
        _ = await attest(server.address)


@pytest.mark.parametrize("listen", ["socket", "port"])
async def test_a_server_that_never_listens(directory: Path, listen: str) -> None:
    """The reason names the place where nobody listens."""
    places = {
        "socket": Address("/mcp", socket=f"{directory}/x.sock"),
        "port": Address("/mcp", port=1),
    }
    place = {"socket": "x.sock", "port": "port 1 of 127"}[listen]
    with pytest.raises(WorkloadNotReadyError, match=f"does not listen on .*{place}"):
        _ = await attest(places[listen], startup=0.2)


async def test_a_server_that_the_network_reaches(stranger: socket.socket) -> None:
    """One that listens on every address is not talked to."""
    port = cast("int", stranger.getsockname()[1])
    with pytest.raises(TargetUnavailableError, match="more addresses than 127"):
        _ = await attest(Address("/mcp", port=port))


async def until(check: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    with anyio.fail_after(120):
        while not check():  # noqa: ASYNC110 - just said
            await anyio.sleep(0.01)
