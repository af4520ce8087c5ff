"""A role that moves to another process under its calls: nothing is lost, and nothing done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.names import RoleName, TokenId, WorkloadName
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Instance, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.rotation import Drain
    from orchestrator.model.snapshot import Era

ERAS = ["legacy", "modern"]
PAIRS = [(era, upstream) for era in ERAS for upstream in ERAS]
TREASURY = RoleName("treasury")
OLD = WorkloadName("treasury.tools.g1")
ASKS = RolePolicy(asks=("roots",))
ABLE: JsonObject = {"roots": {}}
ROOTS: JsonObject = {"roots": []}
REQUIRE: list[Json] = ["require", {"r": {"method": "roots/list", "params": {}}}]


async def see_out(rig: Rig, grace: float = 0.05) -> Drain:
    """Wait for the old process to have nothing left."""
    with anyio.fail_after(30):
        return await rig.gateway.see_out(OLD, grace, promises=True)


def told(reply: JsonObject) -> JsonObject:
    """Read what a refused call was told."""
    return cast("JsonObject", cast("JsonObject", reply["result"])["structuredContent"])


def arguments(*steps: list[Json]) -> JsonObject:
    """Write a tool's arguments."""
    return {"steps": [*steps]}


async def until_called(rig: Rig, instance: Instance, times: int = 1) -> None:
    """Wait until a server has so many calls."""
    await rig.until(lambda: len(instance.calls()) >= times)


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_a_change_is_never_cut(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """A call that destroys stays with the process that has it, however long that takes."""
    async with open_rig() as rig, rig.caller(era) as caller, anyio.create_task_group() as group:
        old = await rig.talker(upstream)
        replies: list[JsonObject] = []

        async def call() -> None:
            replies.append(await caller.play(["meet", "end", 2], tool="destroy"))

        group.start_soon(call)
        await until_called(rig, old)
        fresh = await rig.move(old, upstream)
        drain = await see_out(rig)
        assert (drain.left, replies) == (1, [])
        assert drain.oldest > 0
        async with rig.caller(era, "other") as other:
            _ = await other.play(["word", "new"])
        assert (len(old.calls()), len(fresh.calls())) == (1, 1)
        await rig.meet(old, "end")
        await rig.until(lambda: replies)
        assert "isError" not in replies[0]
        assert (await see_out(rig)).left == 0


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_a_read_moves(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """A call that only reads is made again by the process that serves now."""
    async with open_rig() as rig, rig.caller(era) as caller, anyio.create_task_group() as group:
        old = await rig.talker(upstream)
        replies: list[JsonObject] = []

        async def call() -> None:
            replies.append(await caller.play(["meet", "end", 2], ["word", "done"]))

        group.start_soon(call)
        await until_called(rig, old)
        fresh = await rig.move(old, upstream)
        assert (await see_out(rig)).left == 0
        assert replies == []
        await until_called(rig, fresh)
        await rig.meet(fresh, "end")
        await rig.until(lambda: replies)
        content = cast("list[JsonObject]", replies[0]["content"])
        assert "done" in str(content[0]["text"])
        calls = [[one for one in each.calls() if "done" in str(one)] for each in (old, fresh)]
        assert [len(each) for each in calls] == [1, 1]
        record = rig.recorder.records[-1]
        assert (record.attempt, record.workload) == (1, "treasury.tools.g2")


@pytest.mark.parametrize("tool", ["look", "change"])
async def test_an_answer_goes_to_who_asked(open_rig: OpenRig, tool: str) -> None:
    """What a caller was asked before the move is answered to the process that asked."""
    async with open_rig() as rig, rig.caller("modern", capabilities=ABLE) as caller:
        old = await rig.talker("modern", policy=ASKS)
        call: JsonObject = {"name": tool, "arguments": arguments(REQUIRE)}
        asked = cast("JsonObject", (await caller.ask("tools/call", call))["result"])
        assert asked["resultType"] == "input_required"
        fresh = await rig.move(old, "modern", policy=ASKS)
        drain = await see_out(rig)
        assert drain.left == 1
        assert drain.oldest > 0
        answer: JsonObject = {"inputResponses": {"r": ROOTS}, "requestState": asked["requestState"]}
        done = await caller.ask("tools/call", {**call, **answer})
        assert cast("JsonObject", done["result"])["resultType"] == "complete"
        assert (len(old.calls()), len(fresh.calls())) == (2, 0)
        assert (await see_out(rig)).left == 0


async def test_an_answer_goes_to_whoever_is_there(open_rig: OpenRig) -> None:
    """When the process that asked is gone, the one that serves gets the answer, and decides."""
    async with open_rig() as rig, rig.caller("modern", capabilities=ABLE) as caller:
        old = await rig.talker("modern", policy=ASKS)
        call: JsonObject = {"name": "change", "arguments": arguments(REQUIRE)}
        asked = cast("JsonObject", (await caller.ask("tools/call", call))["result"])
        fresh = await rig.move(old, "modern", policy=ASKS)
        rig.lose(old)
        answer: JsonObject = {"inputResponses": {"r": ROOTS}, "requestState": asked["requestState"]}
        _ = await caller.ask("tools/call", {**call, **answer})
        assert len(fresh.calls()) == 1


async def test_a_session_that_is_asked_stays(open_rig: OpenRig) -> None:
    """A legacy caller's answer goes to the modern process that asked, though the role moved."""
    async with open_rig() as rig, rig.caller("legacy", capabilities=ABLE) as caller:
        old = await rig.talker("modern", policy=ASKS)
        async with caller.act(REQUIRE, tool="change") as talk:
            question = await talk.need()
            fresh = await rig.move(old, "modern", policy=ASKS)
            assert (await see_out(rig)).left == 1
            await caller.answer(question, ROOTS)
            assert "result" in await talk.need()
        assert (len(old.calls()), len(fresh.calls())) == (2, 0)
        await rig.until(lambda: rig.in_flight() == 0)
        assert (await see_out(rig, 5)).left == 0


@pytest.mark.parametrize("tool", ["look", "change"])
async def test_a_parked_call_stays(open_rig: OpenRig, tool: str) -> None:
    """A call that waits at a legacy process for its modern caller's answer is not cut."""
    async with open_rig() as rig, rig.caller("modern", capabilities=ABLE) as caller:
        old = await rig.talker("legacy", policy=ASKS)
        call: JsonObject = {"name": tool, "arguments": arguments(["ask", "roots/list", {}])}
        asked = cast("JsonObject", (await caller.ask("tools/call", call))["result"])
        assert asked["resultType"] == "input_required"
        fresh = await rig.move(old, "legacy", policy=ASKS)
        assert (await see_out(rig)).left == 1
        (key,) = cast("JsonObject", asked["inputRequests"])
        answer: JsonObject = {"inputResponses": {key: ROOTS}, "requestState": asked["requestState"]}
        done = await caller.ask("tools/call", {**call, **answer})
        assert cast("JsonObject", done["result"])["resultType"] == "complete"
        assert (len(old.calls()), len(fresh.calls())) == (1, 0)
        assert (await see_out(rig)).left == 0


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_a_listener_moves(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """Streams are the gateway's: they go on, and hear the process that serves now."""
    policy = RolePolicy(resources="all")
    async with open_rig() as rig, rig.caller(era) as caller:
        old = await rig.talker(upstream, policy=policy)
        if era == "legacy":
            _ = await caller.ask("resources/subscribe", {"uri": "demo://a"})
        async with caller.listen(resourceSubscriptions=["demo://a"]) as talk:
            if era == "modern":
                _ = await talk.need()
            await rig.touch(old, "demo://a")
            assert (await talk.need())["method"] == "notifications/resources/updated"
            fresh = await rig.move(old, upstream, policy=policy)
            assert (await see_out(rig)).left == 0
            await rig.touch(fresh, "demo://a")
            assert (await talk.need())["method"] == "notifications/resources/updated"


async def test_held_calls_wait(open_rig: OpenRig) -> None:
    """While a role is held its calls wait, over a change of its process, and are made after it."""
    async with (
        open_rig() as rig,
        rig.caller("modern") as caller,
        anyio.create_task_group() as group,
    ):
        old = await rig.talker("modern")
        rig.gateway.hold(TREASURY, 60)
        replies: list[JsonObject] = []

        async def call() -> None:
            replies.append(await caller.play(["word", "waited"], tool="destroy"))

        for _ in range(3):
            group.start_soon(call)
        assert "tools" in cast("JsonObject", (await caller.ask("tools/list"))["result"])
        fresh = await rig.move(old, "modern")
        assert (replies, old.calls(), fresh.calls()) == ([], [], [])
        rig.gateway.release(TREASURY)
        await rig.until(lambda: len(replies) == 3)
        assert (len(old.calls()), len(fresh.calls())) == (0, 3)


async def test_a_hold_has_its_bounds(open_rig: OpenRig) -> None:
    """A call waits so long and no longer, and not more calls wait than there is room for."""
    async with open_rig(GatewaySettings(max_waiting=1)) as rig, rig.caller("modern") as caller:
        instance = await rig.talker("modern")
        rig.gateway.hold(TREASURY, 2)
        replies: list[JsonObject] = []

        async def call() -> None:
            params: JsonObject = {"name": "destroy", "arguments": arguments()}
            replies.append(await caller.ask("tools/call", params))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)
        codes = [(told(one)["code"], told(one)["category"]) for one in replies]
        assert codes == [("upstream.held", "not_available")] * 2
        assert all("retryAfterMs" in told(one) for one in replies)
        rig.gateway.release(TREASURY)
        assert "isError" not in await caller.play(["word", "on"])
        assert len(instance.calls()) == 1


async def test_a_closed_role(open_rig: OpenRig) -> None:
    """Closing a role ends its calls and streams at once, and refuses what comes in words."""
    async with (
        open_rig() as rig,
        rig.caller("legacy") as caller,
        anyio.create_task_group() as group,
    ):
        instance = await rig.talker("modern")
        replies: dict[str, Json] = {}

        async def call(tool: str) -> None:
            params: JsonObject = {"name": tool, "arguments": arguments(["hold"])}
            replies[tool] = told(await caller.ask("tools/call", params))["code"]

        group.start_soon(call, "destroy")
        group.start_soon(call, "look")
        await until_called(rig, instance, 2)
        async with caller.listen() as talk:
            rig.publish("treasury", None, closed=True)
            with anyio.fail_after(30):  # they would be held for ever
                assert rig.gateway.cut(TREASURY) == 2
                await rig.until(lambda: len(replies) == 2)
                assert await talk.next() is None
        # What only reads would have been made again by another process.
        assert replies == {"destroy": "upstream.outcome_unknown", "look": "upstream.closed"}
        refused = await caller.ask("tools/call", {"name": "look", "arguments": arguments()})
        assert told(refused)["code"] == "upstream.closed"
        async with rig.caller("modern") as other:
            refused = await other.ask("tools/call", {"name": "look", "arguments": arguments()})
            assert told(refused)["code"] == "upstream.closed"


async def test_a_call_that_waited_is_decided_again(open_rig: OpenRig) -> None:
    """A call that its role's new rules do not allow is refused, though it came before them."""
    closed = RolePolicy.model_validate(
        {"tools": {"destroy": {"arguments": {"properties": {"to": {"const": "us"}}}}}}
    )
    async with (
        open_rig() as rig,
        rig.caller("modern") as caller,
        anyio.create_task_group() as group,
    ):
        instance = await rig.talker("modern")
        rig.gateway.hold(TREASURY, 60)
        replies: list[JsonObject] = []

        async def call() -> None:
            params: JsonObject = {"name": "destroy", "arguments": {"to": "them"}}
            replies.append(await caller.ask("tools/call", params))

        group.start_soon(call)
        token = caller.http.headers["authorization"].split("_")[1]
        await rig.until(lambda: rig.gateway.open_of(TokenId(token)))
        rig.publish("treasury", instance, policy=closed)
        rig.gateway.release(TREASURY)
        await rig.until(lambda: replies)
        assert told(replies[0])["code"] == "policy.arguments"
        assert instance.calls() == []
