"""The gateway as a client of somebody's server: probes it, routes to it, and uses all it offers.

The conformance suite starts this with the URL of a server of its own, to see how it is spoken to.

usage: behind_gateway.py URL
"""

import json
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Final, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import mcp_types as types
from anyio.abc import ByteStream, SocketStream
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from orchestrator.clock import SystemClock
from orchestrator.gateway.server import Gateway
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.rules import Asking, RolePolicy
from orchestrator.model.snapshot import Era, Route, Snapshot, TargetRef
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http_wire import HttpWire
from orchestrator.runtimes.probe import probe
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex

LONGEST: Final = 120
VERSION: Final = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2026-07-28")
ERA: Final[Era] = "modern" if VERSION == "2026-07-28" else "legacy"
ROLE: Final = RoleName("role")
WORKLOAD: Final = WorkloadName("role.server.g1")
ECHO: Final = "json_schema_echo"
ASKS: Final[tuple[Asking, ...]] = ("elicitation", "sampling", "roots")
EXAMPLES: Final[dict[str, Json]] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


async def elicit(_: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Answer as a user who takes what is proposed."""
    await anyio.lowlevel.checkpoint()
    assert isinstance(params, types.ElicitRequestFormParams)
    properties = cast("dict[str, JsonObject]", params.requested_schema["properties"])
    content = {name: about.get("default", example(about)) for name, about in properties.items()}
    return types.ElicitResult.model_validate({"action": "accept", "content": content})


def example(schema: JsonObject) -> Json:
    """Make a value that a simple schema allows."""
    return EXAMPLES.get(str(schema.get("type", "string")), "text")


def plan(tools: list[types.Tool]) -> list[tuple[str, JsonObject]]:
    """Tell what to call with what: as the suite says, or else every tool, with examples."""
    context = cast("JsonObject", json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")))
    told = cast("list[dict[str, JsonObject]]", context.get("toolCalls", []))
    if told:
        return [(str(call["name"]), call["arguments"]) for call in told]
    calls: list[tuple[str, JsonObject]] = []
    for tool in tools:
        properties = cast("dict[str, JsonObject]", tool.input_schema.get("properties", {}))
        arguments = {name: example(about) for name, about in properties.items()}
        if tool.name == ECHO:
            arguments["schema"] = cast("JsonObject", tools[0].input_schema)
        calls.append((tool.name, arguments))
    return calls


async def carry(near: ByteStream, far: ByteStream) -> None:
    """Carry bytes one way, until there are no more."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in near:
            await far.send(data)
        await far.send_eof()


async def tunnel(port: int, near: SocketStream) -> None:
    """Carry one connection to the suite's server.

    That one listens on every address of the machine, which the gateway does not stand.
    """
    far = await anyio.connect_tcp("localhost", port)
    async with near, far, anyio.create_task_group() as group:
        group.start_soon(carry, far, near)
        await carry(near, far)


async def look(address: Address) -> Route:
    """Probe the server, as the daemon does, and write the way to it."""
    async with HttpWire(address) as wire:
        found = await probe(wire, ERA, prefix="p-", startup=timedelta(seconds=60), asks=ASKS)
    target = TargetRef(
        WORKLOAD,
        os.getpid(),
        "",
        found.era,
        found.protocol_version,
        found.server_info,
        found.capabilities,
        address=str(address),
    )
    return Route(
        ROLE,
        ServerName("server"),
        target,
        found.tools,
        MappingProxyType({ToolName(str(tool["name"])): "READ" for tool in found.tools}),
        mirrors=frozenset({ERA}),
        policy=RolePolicy(resources="all", prompts="all", asks=ASKS),
    )


def issue(tokens: TokenIndex) -> str:
    """Make a token."""
    minted, now = mint(), SystemClock().now()
    record = TokenRecord(
        id=minted.id,
        agent=AgentName("agent"),
        role=ROLE,
        digest=minted.digest,
        state="active",
        created_at=now,
        expires_at=now + timedelta(hours=1),
    )
    tokens.add(record)
    return minted.text.get_secret_value()


async def use_everything(url: str, token: str) -> None:
    """Use all that the server offers, as an agent behind the gateway does."""
    http = httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=LONGEST)
    make = cast("Callable[..., Client]", Client)  # its callbacks' types have names for arguments
    mode = VERSION if ERA == "modern" else "legacy"
    transport = streamable_http_client(url, http_client=http)
    async with http, make(transport, mode=mode, elicitation_callback=elicit) as client:
        for name, arguments in plan((await client.list_tools()).tools):
            with tolerance():
                _ = await client.call_tool(name, dict[str, object](arguments))
        with tolerance():
            for resource in (await client.list_resources()).resources:
                _ = await client.read_resource(resource.uri)
        with tolerance():
            for prompt in (await client.list_prompts()).prompts:
                _ = await client.get_prompt(prompt.name)


@contextmanager
def tolerance() -> Generator[None]:
    """Go on after an error: some servers have them on purpose."""
    try:
        yield
    except MCPError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for who looks


async def main(url: str) -> None:
    """Stand between a client and the server."""
    clock = SystemClock()
    tokens = TokenIndex(clock)
    listener = socket.create_server(("127.0.0.1", 0))
    port = cast("int", listener.getsockname()[1])
    place, asked = tempfile.mkdtemp(prefix="bm-", dir="/tmp"), urlsplit(url)
    address = Address(asked.path or "/", socket=f"{place}/s")
    with anyio.fail_after(LONGEST):
        near = await anyio.create_unix_listener(address.socket)
        async with Gateway(tokens, clock=clock) as gateway, anyio.create_task_group() as group:
            group.start_soon(near.serve, partial(tunnel, asked.port or 80))
            route = await look(address)
            await group.start(gateway.serve, [listener])
            gateway.swap(Snapshot(1, MappingProxyType({ROLE: route})))
            await use_everything(f"http://127.0.0.1:{port}/{ROLE}/mcp", issue(tokens))
            group.cancel_scope.cancel()
    shutil.rmtree(place)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    anyio.run(main, sys.argv[1], backend_options={"use_uvloop": True})
