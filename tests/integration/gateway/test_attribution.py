"""Several agents at one server: each gets its own, and only its own."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, OpenRig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

ASKS = RolePolicy(asks=("elicitation", "sampling", "roots"))
ABLE: JsonObject = {"roots": {}}
UPSTREAMS = ["legacy", "modern"]


def heard(message: JsonObject) -> list[Json]:
    """Read what the server was answered."""
    (block,) = cast("list[dict[str, str]]", cast("JsonObject", message["result"])["content"])
    return cast("dict[str, list[Json]]", json.loads(block["text"]))["heard"]


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_progress_is_of_one_call(open_rig: OpenRig, upstream: Era) -> None:
    """Callers with the same ids and the same tokens at the same time hear of their own calls."""
    async with open_rig() as rig, AsyncExitStack() as stack:
        _ = await rig.talker(upstream)
        eras: list[Era] = ["legacy", "modern"]
        callers: list[Caller] = []
        for number in range(10):
            caller = rig.caller(eras[number % 2], f"agent{number % 5}")
            callers.append(await stack.enter_async_context(caller))
        heard: dict[int, list[JsonObject]] = {}

        async def one(number: int) -> None:
            # All are there before the first one goes on.
            steps: list[list[Json]] = [
                ["progress", number],
                ["meet", "all", 10],
                ["progress", 100 + number],
                ["progress", 200 + number],
            ]
            async with callers[number].act(*steps, token="same") as talk:
                heard[number] = await talk.rest()

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
        for number, messages in heard.items():
            *progress, last = messages
            params = [cast("JsonObject", message["params"]) for message in progress]
            assert [one["progress"] for one in params] == [number, 100 + number, 200 + number]
            assert {str(one["progressToken"]) for one in params} == {"same"}
            assert str(number) in json.dumps(last["result"])
            assert last["id"] == "c1"


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_what_names_no_call_is_told_when_it_can_be_one_only(
    open_rig: OpenRig, upstream: Era
) -> None:
    """Logs of a server with two sessions' calls are nobody's; with one session's they are its."""
    async with open_rig() as rig:
        _ = await rig.talker(upstream, policy=ASKS)
        async with (
            rig.caller("legacy", "one") as one,
            rig.caller("legacy", "two") as two,
            rig.caller("modern", "three") as three,
        ):
            for pair in ((one, two), (one, three), (three, two), (one, one)):
                first, second = pair
                name = f"{first.era} {second.era} {second.url} {second is first} {id(second)}"
                steps: list[list[Json]] = [
                    ["progress", 1],
                    ["meet", name, 2],
                    ["log", "error", "secret"],
                    ["meet", f"{name} again", 2],
                ]
                async with (
                    first.act(*steps, token=1, level="debug") as talk,
                    second.act(*steps, token=1, level="debug") as other,
                ):
                    told = [*(await talk.rest()), *(await other.rest())]
                methods = [message.get("method") for message in told]
                is_same = first is second
                assert methods.count("notifications/message") == (2 if is_same else 0)
                assert methods.count("notifications/progress") == 2
            async with one.act(["log", "error", "alone"]) as talk:
                assert [message.get("method") for message in await talk.rest()] == [
                    "notifications/message",
                    None,
                ]


async def test_a_session_is_asked_while_it_is_alone(open_rig: OpenRig) -> None:
    """A question is for a session whose calls alone are with the server, on the newest of them."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=ASKS)
        steps: list[list[Json]] = [
            ["progress", 1],
            ["meet", "x", 2],
            ["ask", "roots/list", {}],
            ["meet", "y", 2],
        ]
        async with (
            rig.caller("legacy", capabilities=ABLE) as caller,
            caller.act(*steps, token=1) as older,
        ):
            _ = await older.need()
            async with caller.act(*steps, token=1) as newer:
                _ = await newer.need()
                for _ in range(2):
                    question = await newer.need()
                    assert question["method"] == "roots/list"
                    await caller.answer(question, {"roots": []})
                (last,) = await newer.rest()
            assert heard(last) == [{"roots": []}]
            (last,) = await older.rest()
            assert heard(last) == [{"roots": []}]


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_a_cancelled_call_is_not_heard_by_the_next_caller(
    open_rig: OpenRig, upstream: Era
) -> None:
    """What a server goes on to say in a call that was cancelled is told to nobody else."""
    async with open_rig() as rig:
        instance = await rig.talker(upstream, policy=ASKS)
        ask: list[list[Json]] = [["ask", "roots/list", {}]] if upstream == "legacy" else []
        steps: list[list[Json]] = [
            ["progress", 1],
            ["meet", "x", 2],
            ["log", "error", "secret of one"],
            ["progress", 2],
            *ask,
            ["meet", "y", 2],
        ]
        async with (
            rig.caller("legacy", "one", capabilities=ABLE) as one,
            rig.caller("legacy", "two", capabilities=ABLE) as two,
        ):
            async with one.act(*steps, token=1) as talk:
                _ = await talk.need()
                await one.notify("notifications/cancelled", {"requestId": "c1"})
                assert "error" in (await talk.rest())[-1]
            # Its server does not care, and goes on when the other one's call is there.
            late: list[list[Json]] = [["meet", "x", 2], ["meet", "y", 2]]
            async with two.act(*late, token=1) as talk:
                assert not talk.is_stream
                assert "secret" not in json.dumps(await talk.rest())
            if upstream == "legacy":
                refused = [message for message in instance.received() if "error" in message]
                assert len(refused) == 1
            # It is over when the server has answered.
            async with two.act(["log", "error", "mine"]) as talk:
                assert [message.get("method") for message in await talk.rest()] == [
                    "notifications/message",
                    None,
                ]
