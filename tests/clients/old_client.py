"""The older official client against a role, with all that it can do; tells what it saw as JSON.

It runs in an environment of its own, which has `mcp` 1.30: scripts/dev-services makes it.

usage: TOKEN=... old_client.py URL
"""
# The checker knows the newer library only, and nothing of the names and types of this one.
# pyright: reportAny=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportExplicitAny=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportDeprecated=false

import json
import os
import sys
from datetime import timedelta
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError

ANSWER = {"username": "ann", "email": "ann@example.com"}
TIMEOUT = timedelta(seconds=20)
seen: dict[str, Any] = {"logs": [], "progress": [], "notes": []}


async def elicit(_: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Answer as a user."""
    seen["elicitation"] = params.message
    return types.ElicitResult(action="accept", content=ANSWER)


async def sample(_: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    """Answer as a model."""
    seen["sampling"] = params.messages[0].content.text
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def list_roots(_: object) -> types.ListRootsResult:
    """Tell the client's roots."""
    return types.ListRootsResult(roots=[types.Root(uri="file:///old/root")])


async def hear_log(params: types.LoggingMessageNotificationParams) -> None:
    """Keep a log message."""
    seen["logs"].append(params.data)


async def hear_progress(progress: float, total: float | None, message: str | None) -> None:
    """Keep a step."""
    seen["progress"].append([progress, total, message])


async def use(session: ClientSession, heard: anyio.Event) -> None:
    """Do everything once."""
    opening = await session.initialize()
    seen["version"] = opening.protocolVersion
    seen["capabilities"] = opening.capabilities.model_dump(exclude_none=True)
    seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]

    async def text(tool: str, **arguments: str) -> str:
        result = await session.call_tool(tool, arguments)
        return result.content[0].text

    seen["text"] = await text("test_simple_text")
    await session.set_logging_level("info")
    await text("test_tool_with_logging")
    await session.call_tool("test_tool_with_progress", {}, progress_callback=hear_progress)
    seen["error"] = (await session.call_tool("test_error_handling", {})).isError
    seen["asked"] = {
        "elicitation": await text("test_elicitation", message="Who are you?"),
        "sampling": await text("test_sampling", prompt="What is the capital of France?"),
        "roots": await text("test_input_required_result_list_roots"),
    }
    try:
        await session.call_tool("no_such_tool", {})
    except McpError as error:
        seen["unknown"] = [error.error.code, error.error.message]
    seen["resources"] = [str(each.uri) for each in (await session.list_resources()).resources]
    seen["resource"] = (await session.read_resource("test://static-text")).contents[0].text
    seen["prompts"] = [each.name for each in (await session.list_prompts()).prompts]
    arguments = {"arg1": "one", "arg2": "two"}
    prompt = await session.get_prompt("test_prompt_with_arguments", arguments)
    seen["prompt"] = prompt.messages[0].content.text
    reference = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
    completed = await session.complete(reference, {"name": "arg1", "value": "par"})
    seen["completion"] = completed.completion.values
    # Whoever opens a stream for such news only after the news missed it.
    while not heard.is_set():
        await session.call_tool("test_trigger_prompt_change", {})
        with anyio.move_on_after(1):
            await heard.wait()


async def main() -> None:
    """Connect, do everything, tell it."""
    heard = anyio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, types.ServerNotification):
            seen["notes"].append(message.root.method)
            if message.root.method == "notifications/prompts/list_changed":
                heard.set()

    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with (
        streamablehttp_client(sys.argv[1], headers=headers) as (read, write, _),
        ClientSession(
            read,
            write,
            TIMEOUT,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=list_roots,
            logging_callback=hear_log,
            message_handler=hear,
        ) as session,
    ):
        await use(session, heard)
    print(json.dumps(seen))  # noqa: T201 - whoever started it reads this


if __name__ == "__main__":
    anyio.run(main)
