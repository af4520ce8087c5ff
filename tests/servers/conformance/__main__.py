"""A real MCP server of both eras that has everything the conformance suite asks for.

It serves stdio, or Streamable HTTP where an option says so; `python tests/servers/conformance`:

    --port N        HTTP on this port of the loopback address; 0 takes any, which is printed
    --socket PATH   HTTP on this unix socket
    --path PATH     the URL's path (default: /mcp)
"""

import argparse
import socket
from pathlib import Path
from typing import cast

import anyio
import mcp_types as types
import uvicorn
from asking import ASKING
from events import Events
from lists import Lists
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from offers import PROMPTS, complete, list_resources, list_templates, read_resource
from tool import Result, Tool
from tools import TOOLS
from typing_extensions import override

RETRY_MILLISECONDS = 100
HOSTS = ["127.0.0.1", "localhost", "[::1]"]


class Options(argparse.Namespace):
    """What the command line says."""

    port: int | None
    socket: Path | None
    path: str


class Fixture(Server):
    """The server, which says in the older era, too, that its lists change."""

    @override
    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, object]] | None = None,
        extensions: dict[str, dict[str, object]] | None = None,
    ) -> InitializationOptions:
        """Tell what a client is told first."""
        changes = NotificationOptions(prompts_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


async def acknowledge(_: ServerRequestContext, __: object) -> types.EmptyResult:
    """Take a wish and do nothing about it."""
    await anyio.lowlevel.checkpoint()
    return types.EmptyResult()


def make_server() -> Server:
    """Put the parts together."""
    bus = InMemorySubscriptionBus()
    lists = Lists(bus)
    tools: dict[str, Tool] = {tool.name: tool for tool in (*TOOLS, *ASKING, *lists.tools)}

    async def list_tools(
        _: ServerRequestContext, __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        await anyio.lowlevel.checkpoint()
        return types.ListToolsResult(
            tools=[tool.definition for tool in tools.values() if lists.shows(tool.name)]
        )

    async def call_tool(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
        if params.name not in tools or not lists.shows(params.name):
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        return await tools[params.name].run(ctx, params)

    async def list_prompts(
        _: ServerRequestContext, __: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        await anyio.lowlevel.checkpoint()
        shown = [prompt.definition for name, prompt in PROMPTS.items() if lists.shows(name)]
        return types.ListPromptsResult(prompts=shown)

    async def get_prompt(
        ctx: ServerRequestContext, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        if params.name not in PROMPTS or not lists.shows(params.name):
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        return await PROMPTS[params.name].run(ctx, params)

    server = Fixture(
        "conformance",
        version="1.0.0",
        instructions="Every part of the protocol, one tool each.",
        get_tool_input_schema=lambda name: (
            tools[name].definition.input_schema if name in tools else None
        ),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=lists.subscribe,
        on_unsubscribe_resource=lists.unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_completion=complete,
    )
    # As an argument of the constructor it would warn that the older era is old.
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, acknowledge)
    seal = RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="conformance")
    server.middleware.append(seal)
    return server


async def serve_stdio(server: Server) -> None:
    """Serve until the input ends."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http(server: Server, listener: socket.socket, path: str) -> None:
    """Serve until killed."""
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[*HOSTS, *(f"{host}:*" for host in HOSTS)],
        allowed_origins=[f"http://{host}:*" for host in HOSTS],
    )
    app = server.streamable_http_app(
        streamable_http_path=path,
        event_store=Events(),
        retry_interval=RETRY_MILLISECONDS,
        transport_security=security,
    )
    # httptools, the other choice, leaves the blanks around a header's value in it.
    config = uvicorn.Config(app, log_level="error", http="h11")
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    _ = parser.add_argument("--port", type=int)
    _ = parser.add_argument("--socket", type=Path)
    _ = parser.add_argument("--path", default="/mcp")
    options = parser.parse_args(namespace=Options())
    server = make_server()
    if options.socket is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(options.socket))
        listener.listen()
        serve_http(server, listener, options.path)
    elif options.port is not None:
        listener = socket.create_server(("127.0.0.1", options.port))
        print(cast("int", listener.getsockname()[1]), flush=True)  # noqa: T201 - for the starter
        serve_http(server, listener, options.path)
    else:
        anyio.run(serve_stdio, server)


if __name__ == "__main__":
    main()
