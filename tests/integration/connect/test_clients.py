"""The official client, in every mode, through `agents connect` and a real gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

if TYPE_CHECKING:
    from integration.connect.conftest import OpenStage, Stage, Streaming
    from integration.gateway.conftest import OpenRig, Rig
    from mcp.client import ClientRequestContext
    from mcp_types import CallToolResult

MODES = ["auto", "legacy", "2026-07-28"]


def said(result: CallToolResult) -> str:
    """Read the text of a result."""
    (block,) = result.content
    assert block.type == "text"
    return block.text


async def until(path: Path) -> None:
    """Wait for a file that a server makes."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240  another process makes it
        await anyio.sleep(0.005)


def place(stage: Stage, rig: Rig, role: str = "treasury") -> None:
    """Let a role be reached at a gateway, with a new token."""
    stage.roles[role] = f"{rig.base}/{role}/mcp"
    _ = stage.write_token(role, rig.token(role))


@pytest.mark.parametrize("mode", MODES)
async def test_client_lists_and_calls(open_rig: OpenRig, open_stage: OpenStage, mode: str) -> None:
    """In every mode the client lists the role's tools and calls them, and stderr stays empty."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        place(stage, rig)
        async with stage.client("treasury", mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names[:3] == ["echo", "slow", "hold"]
            assert "hidden" not in names
            result = await client.call_tool("echo", {"ö": [1, None, 2.5, 2**70]})
            assert json.loads(said(result)) == {"ö": [1, None, 2.5, 2**70]}
            expected = "2025-11-25" if mode == "legacy" else "2026-07-28"
            assert client.protocol_version == expected
        assert stage.errors.read_text() == ""
        assert {record.agent for record in rig.recorder.records} == {"agent"}


@pytest.mark.parametrize("mode", MODES)
async def test_errors_pass(open_rig: OpenRig, open_stage: OpenStage, mode: str) -> None:
    """Tool errors, a server's own errors and refusals of the gateway reach the client."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        place(stage, rig)
        async with stage.client("treasury", mode) as client:
            assert (await client.call_tool("fail", {})).is_error
            with pytest.raises(MCPError) as refused:
                _ = await client.call_tool("refuse", {})
            assert refused.value.error.model_dump(exclude={"message"}) == {
                "code": -31999,
                "data": {"why": "because"},
            }
            with pytest.raises(MCPError, match="Unknown tool: hidden"):
                _ = await client.call_tool("hidden", {})


@pytest.mark.parametrize("mode", MODES)
async def test_large_messages_arrive_whole(
    open_rig: OpenRig, open_stage: OpenStage, mode: str
) -> None:
    """Megabytes arrive whole in both directions; too much is refused in words, and work goes on."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        place(stage, rig)
        async with stage.client("treasury", mode) as client:
            result = await client.call_tool("huge", {"size": 2_000_000})
            assert len(said(result)) == 2_000_000
            result = await client.call_tool("echo", {"text": "é" * 1_000_000})
            assert json.loads(said(result)) == {"text": "é" * 1_000_000}
            with pytest.raises(MCPError, match="too large"):
                _ = await client.call_tool("echo", {"text": "x" * 5_000_000})
            assert said(await client.call_tool("echo", {})) == "{}"


@pytest.mark.parametrize("mode", MODES)
async def test_calls_run_at_the_same_time(
    open_rig: OpenRig, open_stage: OpenStage, mode: str
) -> None:
    """Twenty calls that each wait for all of them are answered, each with its own answer."""
    async with open_rig() as rig, open_stage() as stage:
        _ = await rig.talker("modern")
        place(stage, rig)
        answers: set[int] = set()
        async with stage.client("treasury", mode) as client:

            async def one(number: int) -> None:
                steps = [["meet", "all", 20], ["word", f"call-{number}-"]]
                result = await client.call_tool("look", {"steps": steps})
                assert f"call-{number}-" in said(result)
                answers.add(number)

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, number)
        assert len(answers) == 20


async def test_cancel_reaches_the_server(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """A modern client that gives a call up cancels it at the instance."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.start()
        rig.publish("treasury", instance)
        place(stage, rig)
        held = instance.directory / "held"
        cancelled = instance.directory / "cancelled"
        async with stage.client("treasury", "2026-07-28") as client:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: client.call_tool("hold", {}))
                await until(held)
                group.cancel_scope.cancel()
            await until(cancelled)
            assert said(await client.call_tool("echo", {})) == "{}"


@pytest.mark.parametrize("lists", [True, False])
async def test_arguments_are_repeated_in_headers(
    open_rig: OpenRig, open_stage: OpenStage, lists: bool
) -> None:
    """A tool whose arguments belong into headers works, whether its schema passed by or not."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        place(stage, rig)
        async with stage.client("treasury", "2026-07-28") as client:
            if lists:
                _ = await client.list_tools()
            result = await client.session.call_tool("routed", {"region": "süd"})
            assert said(result) == "routed ran"


@pytest.mark.parametrize("mode", MODES)
async def test_progress_arrives_in_order(
    open_stage: OpenStage, start_streaming: Callable[[str], Streaming], mode: str
) -> None:
    """Notifications on a call's own stream arrive before its answer, in order."""
    with start_streaming("/treasury/mcp") as server:
        async with open_stage() as stage:
            stage.roles["treasury"] = server.url
            _ = stage.write_token("treasury", TOKEN)
            seen: list[tuple[float, str | None]] = []

            async def on_progress(
                progress: float,
                total: float | None,  # noqa: ARG001  the client's signature
                message: str | None,
            ) -> None:
                await anyio.lowlevel.checkpoint()
                seen.append((progress, message))

            async with stage.client("treasury", mode) as client:
                result = await client.call_tool("count", {"to": 3}, progress_callback=on_progress)
                assert said(result) == "counted to 3"
            assert seen == [(1, "ünï 1"), (2, "ünï 2"), (3, "ünï 3")]


async def test_question_of_the_server_reaches_the_user(
    open_stage: OpenStage, start_streaming: Callable[[str], Streaming]
) -> None:
    """A legacy server's request passes to the client, and its answer back, within the session."""

    async def answer(_: ClientRequestContext, __: object) -> ElicitResult:
        await anyio.lowlevel.checkpoint()
        return ElicitResult(action="accept", content={"colour": "red"})

    with start_streaming("/treasury/mcp") as server:
        async with open_stage() as stage:
            stage.roles["treasury"] = server.url
            _ = stage.write_token("treasury", TOKEN)
            async with stage.client("treasury", "legacy", elicitation_callback=answer) as client:
                assert said(await client.call_tool("ask", {})) == "red"


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_cancel_of_a_streamed_call(
    open_stage: OpenStage, start_streaming: Callable[[str], Streaming], mode: str
) -> None:
    """A client of either era that gives up a call with progress cancels it at the server."""
    with start_streaming("/treasury/mcp") as server:
        async with open_stage() as stage:
            stage.roles["treasury"] = server.url
            _ = stage.write_token("treasury", TOKEN)
            fifo = stage.root / "fifo"
            os.mkfifo(fifo)
            began = anyio.Event()

            async def on_progress(
                progress: float,  # noqa: ARG001  the client's signature
                total: float | None,  # noqa: ARG001
                message: str | None,  # noqa: ARG001
            ) -> None:
                await anyio.lowlevel.checkpoint()
                began.set()

            async def hold() -> None:
                _ = await client.call_tool(
                    "hold", {"fifo": str(fifo)}, progress_callback=on_progress
                )

            async with stage.client("treasury", mode) as client:
                async with anyio.create_task_group() as group:
                    group.start_soon(hold)
                    await began.wait()
                    group.cancel_scope.cancel()
                assert await anyio.Path(fifo).read_text() == "cancelled"
                assert said(await client.call_tool("count", {"to": 0})) == "counted to 0"


# A token of the right form, which the server in the gateway's place does not look at.
TOKEN = f"mga_000000000000_{0:043}2XrKCg"
