"""All that the official client can do, in every mode, through `agents connect` and a gateway."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import anyio
import mcp_types as types
import pytest
from anyio.lowlevel import checkpoint
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged
from pydantic import FileUrl

from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.connect.conftest import OpenStage, Stage
    from integration.gateway.conftest import MemoryJournal, OpenRig, Rig
    from mcp import Client
    from mcp.client import ClientRequestContext, IncomingMessage

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

MODES = ["auto", "legacy", "2026-07-28"]
PAIRS = [(mode, era) for mode in MODES for era in ("legacy", "modern")]
ASKS = RolePolicy(asks=("elicitation", "sampling", "roots"), resources=("demo://a",))
HOLD: list[Json] = ["hold"]
ASK_ROOTS: list[Json] = ["ask", "roots/list", {}]
FORM: JsonObject = {
    "message": "Which?",
    "requestedSchema": {"type": "object", "properties": {"word": {"type": "string"}}},
}
SAMPLE: JsonObject = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}],
    "maxTokens": 9,
}
QUESTIONS: dict[str, JsonObject] = {
    "elicitation/create": FORM,
    "sampling/createMessage": SAMPLE,
    "roots/list": {},
}


async def elicit(_: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Answer as a user."""
    await checkpoint()
    return types.ElicitResult(action="accept", content={"word": params.message})


async def sample(
    _: ClientRequestContext, __: types.CreateMessageRequestParams
) -> types.CreateMessageResult:
    """Answer as a model."""
    await checkpoint()
    content = types.TextContent(type="text", text="Hello")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def list_roots(_: ClientRequestContext) -> types.ListRootsResult:
    """Tell the client's roots."""
    await checkpoint()
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///mine"))])


@dataclass(slots=True)
class Talk:
    """A connected client, and what it was told beside its requests."""

    client: Client
    news: list[str] = field(default_factory=list[str])
    logs: list[object] = field(default_factory=list[object])
    heard: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_modern(self) -> bool:
        """Whether it speaks the newer era."""
        return self.client.protocol_version == "2026-07-28"

    async def play(self, *steps: list[Json], name: str = "look") -> JsonObject:
        """Call a tool that plays steps; tell what it heard."""
        result = await self.client.call_tool(name, {"steps": [*steps]})
        assert not result.is_error, result
        block = result.content[0]
        assert isinstance(block, types.TextContent)
        return cast("JsonObject", json.loads(block.text))

    async def hear(self, method: str) -> None:
        """Wait for a notification."""
        while method not in self.news:
            self.heard = anyio.Event()
            await self.heard.wait()
        self.news.remove(method)


@asynccontextmanager
async def connect(stage: Stage, mode: str) -> AsyncGenerator[Talk]:
    """Connect a client that can do everything."""
    talk: Talk

    async def hear(message: IncomingMessage) -> None:
        await checkpoint()
        if not isinstance(message, Exception):
            talk.news.append(message.method)
            talk.heard.set()

    async def hear_log(params: types.LoggingMessageNotificationParams) -> None:
        await checkpoint()
        talk.logs.append(cast("object", params.data))

    callbacks: dict[str, object] = {
        "elicitation_callback": elicit,
        "sampling_callback": sample,
        "list_roots_callback": list_roots,
        "logging_callback": hear_log,
        "message_handler": hear,
    }
    async with stage.client("treasury", mode, log_level="info", **callbacks) as client:
        talk = Talk(client)
        yield talk
    assert stage.errors.read_text() == ""


def place(stage: Stage, rig: Rig) -> None:
    """Let the role be reached at a gateway, with a new token."""
    stage.roles["treasury"] = f"{rig.base}/treasury/mcp"
    _ = stage.write_token("treasury", rig.token())


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_everything_on_the_way(
    open_rig: OpenRig, open_stage: OpenStage, mode: str, era: Era
) -> None:
    """Progress, logs and questions of servers of either era arrive, and the answers do."""
    async with open_rig() as rig, open_stage() as stage:
        _ = await rig.talker(era, policy=ASKS)
        place(stage, rig)
        async with connect(stage, mode) as talk:
            seen: list[float] = []

            async def step(
                progress: float,
                total: float | None,  # noqa: ARG001  the client's signature
                message: str | None,  # noqa: ARG001
            ) -> None:
                await checkpoint()
                seen.append(progress)

            steps: list[Json] = [["progress", 1], ["log", "info", "half"], ["progress", 2]]
            result = await talk.client.call_tool(
                "look", {"steps": [*steps, ["big", 1_500_000]]}, progress_callback=step
            )
            assert len(cast("types.TextContent", result.content[1]).text) == 1_500_000
            assert seen == [1, 2]
            assert talk.logs == ["half"]
            if era == "legacy":
                asked: list[list[Json]] = [["ask", *question] for question in QUESTIONS.items()]
                heard = cast("list[JsonObject]", (await talk.play(*asked))["heard"])
                answers = dict(zip(QUESTIONS, heard, strict=True))
            else:
                requests: JsonObject = {
                    method: {"method": method, "params": params}
                    for method, params in QUESTIONS.items()
                }
                heard = cast("list[JsonObject]", (await talk.play(["require", requests]))["heard"])
                answers = cast("dict[str, JsonObject]", heard[0])
            assert answers["elicitation/create"]["content"] == {"word": "Which?"}
            content = cast("JsonObject", answers["sampling/createMessage"]["content"])
            assert content["text"] == "Hello"
            (root,) = cast("list[JsonObject]", answers["roots/list"]["roots"])
            assert root["uri"] == "file:///mine"


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_news(open_rig: OpenRig, open_stage: OpenStage, mode: str, era: Era) -> None:
    """Changed tools and resources are told, in the words of the client's era."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker(era, policy=ASKS)
        place(stage, rig)

        def change() -> None:
            rig.publish("treasury", instance, hide=frozenset({"look"}), policy=ASKS)

        async with connect(stage, mode) as talk:
            if talk.is_modern:
                async with talk.client.listen(
                    tools_list_changed=True, resource_subscriptions=["demo://a"]
                ) as news:
                    change()
                    assert await anext(news) == ToolsListChanged()
                    await rig.touch(instance, "demo://a")
                    assert await anext(news) == ResourceUpdated(uri="demo://a")
                await rig.until(lambda: any(one.category == "flow" for one in rig.recorder.records))
            else:
                await rig.until(lambda: any(one.method == "GET" for one in rig.recorder.records))
                change()
                await talk.hear("notifications/tools/list_changed")
                wish = types.SubscribeRequest(params=types.SubscribeRequestParams(uri="demo://a"))
                _ = await talk.client.session.send_request(wish, types.EmptyResult)
                await rig.touch(instance, "demo://a")
                await talk.hear("notifications/resources/updated")


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_cancel(open_rig: OpenRig, open_stage: OpenStage, mode: str, era: Era) -> None:
    """A call that is given up is given up at the server, and the client works on."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker(era)
        place(stage, rig)
        async with connect(stage, mode) as talk:
            async with anyio.create_task_group() as group:
                group.start_soon(talk.play, HOLD)
                await rig.until(lambda: len(instance.received("tools/call")) == 1)
                group.cancel_scope.cancel()
            await rig.until(lambda: len(instance.received("notifications/cancelled")) == 1)
            assert (await talk.play())["heard"] == []


@pytest.mark.parametrize("key", ["kept", "lost"])
@pytest.mark.parametrize("mode", MODES)
async def test_gateway_is_restarted(
    open_rig: OpenRig,
    open_stage: OpenStage,
    make_journal: Callable[[], MemoryJournal],
    mode: str,
    key: str,
) -> None:
    """In the middle of it the client goes on: calls, questions and news, also without its key."""
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    later_key, journal = first if key == "kept" else second, make_journal()
    async with open_stage() as stage, open_rig(key=first, journal=journal) as rig:
        _ = await rig.talker("legacy", policy=ASKS)
        place(stage, rig)
        async with connect(stage, mode) as talk, anyio.create_task_group() as group:
            changed = anyio.Event()
            ready = anyio.Event()

            async def listen() -> None:
                async with talk.client.listen(tools_list_changed=True) as news:
                    ready.set()
                    async for _ in news:
                        changed.set()

            async def hear() -> None:
                await talk.hear("notifications/tools/list_changed")
                changed.set()

            if talk.is_modern:
                group.start_soon(listen)
                await ready.wait()
            else:
                await rig.until(lambda: any(one.method == "GET" for one in rig.recorder.records))
                group.start_soon(hear)
            async with open_rig(key=later_key, journal=journal, tokens=rig.tokens) as later:
                _ = await later.talker("legacy", policy=ASKS)
                await stage.move(rig, later)
                async with anyio.create_task_group() as calls:
                    for _ in range(5):
                        calls.start_soon(talk.play, ASK_ROOTS)
                await changed.wait()
                opened = [one.method for one in later.recorder.records].count("initialize")
                assert opened == (1 if key == "lost" and not talk.is_modern else 0)
                group.cancel_scope.cancel()
