"""A real MCP server over stdio, of both eras, whose tools do what tests need.

Its first argument is a directory in which it notes what happened to it.
"""

import json
import os
import sys
from pathlib import Path
from typing import cast

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

NOTES = Path(sys.argv[1])
SCHEMA = {"type": "object", "additionalProperties": True}
NAMES = ("echo", "slow", "hold", "huge", "fail", "refuse", "crash", "meta", "ask", "hidden")
ROUTED = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


async def list_tools(
    _: ServerRequestContext, __: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    """List the tools."""
    tools = [types.Tool(name=name, description=name, input_schema=SCHEMA) for name in NAMES]
    tools.append(types.Tool(name="routed", input_schema=ROUTED))
    return types.ListToolsResult(tools=tools)


def say(text: str) -> types.CallToolResult:
    """Answer with a text."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def call_tool(  # noqa: PLR0911 - one case a tool
    ctx: ServerRequestContext, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    """Run a tool."""
    arguments = cast("dict[str, object]", params.arguments or {})
    match params.name:
        case "echo":
            return say(json.dumps(arguments))
        case "slow":
            await anyio.sleep(float(str(arguments["seconds"])))
            return say(str(arguments["word"]))
        case "hold":
            (NOTES / "held").touch()
            try:
                await anyio.sleep_forever()
            finally:
                (NOTES / "cancelled").touch()
        case "huge":
            return say("x" * int(str(arguments["size"])))
        case "fail":
            result = say("it went wrong")
            return types.CallToolResult(content=result.content, is_error=True)
        case "refuse":
            raise MCPError(code=-31999, message="no such thing", data={"why": "because"})
        case "crash":
            os._exit(3)
        case "meta":
            return say(
                json.dumps(
                    {
                        "meta": cast("dict[str, object]", ctx.meta or {}),
                        "version": ctx.protocol_version,
                    }
                )
            )
        case "ask":
            return types.InputRequiredResult(request_state="state")
        case _:
            pass
    return say(f"{params.name} ran")


async def main() -> None:
    """Serve until the end."""
    server = Server("tools", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
