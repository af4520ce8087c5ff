"""A server over HTTP that takes no connection any more, before anybody was told that it ended."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self, cast, final

import anyio
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.names import RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.snapshot import Route, TargetRef
from orchestrator.protocol import mcp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from integration.gateway.conftest import OpenRig, Rig

    from orchestrator.model.base import JsonObject
    from orchestrator.model.server import ToolClass

TREASURY: Final = RoleName("treasury")
CLASSES: Final[dict[str, ToolClass]] = {"look": "READ", "hold": "WRITE", "destroy": "DESTRUCTIVE"}
INFO: Final[JsonObject] = {"name": "test", "version": "1"}


@final
class Server:
    """A port, on which nobody listens at first, and what was called there."""

    def __init__(self) -> None:
        """Have no port yet."""
        self.called: list[str] = []
        self.port = 0
        self._place = socket.socket()

    def __enter__(self) -> Self:
        """Have a port that nobody else gets."""
        self._place.bind(("127.0.0.1", 0))
        _, self.port = cast("tuple[str, int]", self._place.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._place.close()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Take calls."""
        server = await asyncio.start_server(self.answer, sock=self._place)
        try:
            yield
        finally:
            server.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each request of a connection."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length: ")[2].split("\r\n")[0])
                asked = cast("JsonObject", json.loads(await reader.readexactly(size)))
                self.called.append(str(cast("JsonObject", asked["params"])["name"]))
                result: JsonObject = {"resultType": "complete", "content": []}
                body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result})
                words = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{words}\r\n{body}".encode())
        writer.close()


def route(rig: Rig, server: Server, generation: int) -> None:
    """Route treasury to a server, as if it had been attested."""
    target = TargetRef(
        WorkloadName(f"treasury.tools.g{generation}"),
        os.getpid(),
        "",
        "modern",
        mcp.LATEST_MODERN,
        INFO,
        {},
        "",
        address=f"elsewhere:http://127.0.0.1:{server.port}/mcp",
    )
    tools: tuple[JsonObject, ...] = tuple(
        {"name": name, "inputSchema": {"type": "object"}} for name in CLASSES
    )
    classes: dict[ToolName, ToolClass] = {ToolName(name): kind for name, kind in CLASSES.items()}
    rig.routes[TREASURY] = Route(
        TREASURY, ServerName("tools"), target, tools, MappingProxyType(classes), ""
    )
    rig.swap()


@asynccontextmanager
async def begun(
    open_rig: OpenRig, server: Server, tool: str
) -> AsyncGenerator[tuple[Rig, list[JsonObject]]]:
    """Begin a call at a server that takes none; gives where its result will be."""
    async with (
        open_rig() as rig,
        rig.caller("modern") as caller,
        anyio.create_task_group() as group,
    ):
        route(rig, server, 1)
        results: list[JsonObject] = []

        async def call() -> None:
            results.append(await caller.play(tool=tool))

        group.start_soon(call)
        # What changes something is written down when its process is chosen, and not before.
        await rig.until(lambda: rig.recorder.records)
        yield rig, results


@pytest.mark.parametrize("tool", ["hold", "destroy"])
async def test_what_was_not_sent_goes_to_the_next(open_rig: OpenRig, tool: str) -> None:
    """A call that meets nobody waits for whoever follows, also if it changes something."""
    with Server() as gone, Server() as fresh:
        async with begun(open_rig, gone, tool) as (rig, replies), fresh.listening():
            route(rig, fresh, 2)
            await rig.until(lambda: replies)
    assert "isError" not in replies[0], replies
    assert fresh.called == [tool]
    # Once that it is about to be made, once how it ended.
    assert [record.tool for record in rig.recorder.records] == [tool, tool]


async def test_one_that_takes_connections_again_gets_the_call(open_rig: OpenRig) -> None:
    """It may have missed one only, and then nobody has any news of it."""
    with Server() as server:
        async with begun(open_rig, server, "destroy") as (rig, replies), server.listening():
            await rig.until(lambda: replies)
    assert "isError" not in replies[0], replies
    assert server.called == ["destroy"]


@pytest.mark.parametrize("tool", [*CLASSES])
async def test_one_that_stays_away_is_told(open_rig: OpenRig, tool: str) -> None:
    """When the time is over the caller hears that nothing was done."""
    settings = GatewaySettings(target_patience_seconds=0.2)
    with Server() as gone:
        async with open_rig(settings) as rig, rig.caller("modern") as caller:
            route(rig, gone, 1)
            result = await caller.play(tool=tool)
    assert result["isError"] is True
    assert cast("JsonObject", result["structuredContent"])["code"] == "upstream.unavailable", result
