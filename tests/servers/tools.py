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
NAMES = (
    "echo",
    "slow",
    "hold",
    "huge",
    "fail",
    "refuse",
    "crash",
    "meta",
    "elicit",
    "tell",
    "hidden",
)
FORM: types.ElicitRequestedSchema = {
    "type": "object",
    "properties": {"color": {"type": "string"}},
    "required": ["color"],
}
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


async def call_tool(  # noqa: C901, PLR0911 - one case a tool
    ctx: ServerRequestContext, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    """Run a tool."""
    arguments = cast("dict[str, object]", params.arguments or {})
    request_id = ctx.request_id
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
        case "elicit":
            return await elicit(ctx, params)
        case "tell":
            await ctx.session.report_progress(0.25)
            log = types.LoggingMessageNotificationParams(level="info", data="half of it")
            note = types.LoggingMessageNotification(params=log)
            await ctx.session.send_notification(note, related_request_id=request_id)
            await ctx.session.report_progress(0.5)
            return say("told")
        case _:
            pass
    return say(f"{params.name} ran")


async def elicit(
    ctx: ServerRequestContext, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    """Ask the caller for a color, as the era does it."""
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        return say("nobody to ask")
    message = "Which color?"
    if ctx.protocol_version != "2026-07-28":
        answer = await ctx.session.elicit_form(message, FORM, ctx.request_id)
    elif not params.input_responses:
        form = types.ElicitRequestFormParams(message=message, requested_schema=FORM)
        asked: dict[str, types.InputRequest] = {"color": types.ElicitRequest(params=form)}
        return types.InputRequiredResult(input_requests=asked, request_state="state")
    else:
        answer = params.input_responses["color"]
    if not isinstance(answer, types.ElicitResult) or params.request_state not in {None, "state"}:
        raise MCPError(code=-31999, message="that is no answer")
    return say(str((answer.content or {}).get("color")))


async def main() -> None:
    """Serve until the end."""
    server = Server("tools", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
