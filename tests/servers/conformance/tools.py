"""Tools that answer by themselves: content of every kind, progress, logs, errors, schemas."""

from pathlib import Path
from typing import Final

import anyio
import mcp_types as types
from mcp.server.connection import allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from media import IMAGE, SOUND, text_resource
from tool import Result, Tool, argument, register, say, takes

TOOLS: Final[list[Tool]] = []
PAUSE_SECONDS: Final = 0.05
RECONNECT_SECONDS: Final = 0.2

ROUTED: Final[dict[str, object]] = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}
ADDRESS: Final[dict[str, object]] = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
}
RICH: Final[dict[str, object]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def answers(description: str, *content: types.ContentBlock, name: str) -> None:
    """Register a tool that gives the same content always."""

    async def run(_: ServerRequestContext, __: types.CallToolRequestParams) -> Result:
        await anyio.lowlevel.checkpoint()
        return types.CallToolResult(content=list(content))

    TOOLS.append(Tool(name, description, run, {"type": "object", "properties": {}}))


async def log(ctx: ServerRequestContext, *texts: str) -> None:
    """Send log messages on the request's own stream, as far as the client wants them."""
    for text in texts:
        if "info" in allowed_log_levels(ctx.protocol_version, ctx.meta):
            params = types.LoggingMessageNotificationParams(level="info", data=text)
            message = types.LoggingMessageNotification(params=params)
            await ctx.session.send_notification(message, ctx.request_id)
        await anyio.sleep(PAUSE_SECONDS)


answers(
    "A text.",
    types.TextContent(type="text", text="This is a simple text response for testing."),
    name="test_simple_text",
)
answers("An image.", IMAGE, name="test_image_content")
answers("A sound.", SOUND, name="test_audio_content")
answers(
    "A resource inside the result.",
    text_resource(
        "test://embedded-resource", "text/plain", "This is an embedded resource content."
    ),
    name="test_embedded_resource",
)
answers(
    "A text, an image and a resource.",
    types.TextContent(type="text", text="Multiple content types test:"),
    IMAGE,
    text_resource(
        "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
    ),
    name="test_multiple_content_types",
)


@register(TOOLS, "test_tool_with_logging", "Logs three times while it runs.")
async def tool_with_logging(ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
    """Log and answer."""
    await log(ctx, "Tool execution started", "Tool processing data", "Tool execution completed")
    return say("Tool with logging executed successfully")


@register(TOOLS, "test_logging_tool", "Logs once, if that is wanted.")
async def logging_tool(ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
    """Log and answer."""
    await log(ctx, "Logged")
    return say("Logging tool executed")


@register(TOOLS, "test_tool_with_progress", "Reports its progress in three steps.")
async def tool_with_progress(ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
    """Report and answer."""
    for step in (0, 50, 100):
        await ctx.session.report_progress(step, 100, f"Completed step {step} of 100")
        await anyio.sleep(PAUSE_SECONDS)
    return say("Tool with progress executed successfully")


@register(TOOLS, "test_error_handling", "Fails always.")
async def error_handling(_: ServerRequestContext, __: types.CallToolRequestParams) -> Result:
    """Fail in the way that models see."""
    await anyio.lowlevel.checkpoint()
    result = say("This tool intentionally returns an error for testing")
    return result.model_copy(update={"is_error": True})


@register(TOOLS, "test_x_mcp_header", "Wants its argument in a header, too.", ROUTED)
async def x_mcp_header(_: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell the region."""
    await anyio.lowlevel.checkpoint()
    return say(f"Region: {argument(params, 'region')}")


@register(TOOLS, "test_missing_capability", "Needs a client that can sample.")
async def missing_capability(ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
    """Refuse a client that did not declare it."""
    await anyio.lowlevel.checkpoint()
    able = ctx.session.client_capabilities
    if able is None or able.sampling is None:
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return say("The client can sample")


@register(TOOLS, "json_schema_2020_12_tool", "Has a schema with everything in it.", RICH)
async def json_schema_2020_12_tool(
    _: ServerRequestContext, params: types.CallToolRequestParams
) -> Result:
    """Tell the arguments."""
    await anyio.lowlevel.checkpoint()
    return say(f"Arguments: {sorted(params.arguments or {})}")


@register(TOOLS, "test_reconnection", "Ends its stream in the middle and answers later.")
async def reconnection(ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
    """Have the client come again for the answer, where the transport knows how."""
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
        await anyio.sleep(RECONNECT_SECONDS)
    return say("Reconnection test completed")


@register(
    TOOLS,
    "test_cancellation",
    "Stays until it is cancelled.",
    takes(path="A file that it then makes."),
)
async def cancellation(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell that it began by progress, and that it was cancelled by a file."""
    await ctx.session.report_progress(1, 2, "It began")
    try:
        await anyio.sleep_forever()
    finally:
        Path(argument(params, "path")).touch()  # noqa: ASYNC240 - the test waits for it
    return say("It was not cancelled")
