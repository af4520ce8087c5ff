"""A server that ends in the middle of a request: what is sent again, and what never is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, Instance, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

ERAS = ["legacy", "modern"]
PAIRS = [(era, upstream) for era in ERAS for upstream in ERAS]
POLICY = RolePolicy(resources="all", prompts="all", asks=("roots",))
ABLE: JsonObject = {"roots": {}}


async def crash(rig: Rig, instance: Instance, generation: int) -> None:
    """Wait until an instance has ended, and tell the gateway, as the engine does."""
    await rig.until(lambda: instance.process.poll() is not None)
    rig.lose(instance, generation=generation)


async def call_over_crashes(
    rig: Rig, caller: Caller, tool: str, crashes: list[str], upstream: Era
) -> tuple[JsonObject, list[Instance]]:
    """Call while the instance ends so often, and each time another one comes."""
    replies: list[JsonObject] = []
    instances = [await rig.start("talker.py", upstream)]
    rig.publish("treasury", instances[0], policy=POLICY)

    async def call() -> None:
        steps: list[Json] = [["crash", str(rig.home / name)] for name in crashes]
        params: JsonObject = {"name": tool, "arguments": {"steps": steps}}
        replies.append(await caller.ask("tools/call", params))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        for generation, _ in enumerate(crashes, 1):
            await crash(rig, instances[-1], generation)
            instances.append(await rig.start("talker.py", upstream))
            rig.publish("treasury", instances[-1], generation=generation + 1, policy=POLICY)
    return replies[0], instances


@pytest.mark.parametrize("able", [False, True], ids=["silent", "asking"])
@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_a_read_is_sent_once_more(
    open_rig: OpenRig, era: Era, upstream: Era, able: bool
) -> None:
    """An agent does not notice that the server ended during a call that only reads."""
    async with open_rig() as rig:
        async with rig.caller(era, capabilities=ABLE if able else {}) as caller:
            reply, instances = await call_over_crashes(rig, caller, "look", ["once"], upstream)
        result = cast("JsonObject", reply["result"])
        assert "isError" not in result
        assert [len(instance.calls()) for instance in instances] == [1, 1]
        (record,) = [record for record in rig.recorder.records if record.tool == "look"]
        assert (record.category, record.attempt) == ("ok", 1)
        assert record.workload.endswith("g2")


async def test_a_read_is_not_sent_a_third_time(open_rig: OpenRig) -> None:
    """A call that ends one server after the other is not tried on all of them."""
    async with open_rig() as rig:
        async with rig.caller("legacy") as caller:
            reply, instances = await call_over_crashes(rig, caller, "look", ["a", "b"], "legacy")
        told = cast("JsonObject", cast("JsonObject", reply["result"])["structuredContent"])
        assert told["code"] == "upstream.outcome_unknown"
        assert [len(instance.calls()) for instance in instances] == [1, 1, 0]


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_what_changes_something_is_never_sent_twice(
    open_rig: OpenRig, era: Era, upstream: Era
) -> None:
    """The agent is told at once that nobody knows what happened."""
    async with open_rig() as rig, rig.caller(era, capabilities=ABLE) as caller:
        for tool in ("change", "destroy"):
            reply, instances = await call_over_crashes(rig, caller, tool, [tool], upstream)
            told = cast("JsonObject", cast("JsonObject", reply["result"])["structuredContent"])
            assert (told["category"], told["code"]) == ("upstream", "upstream.outcome_unknown")
            assert "outcome is unknown" in json.dumps(told)
            assert [len(instance.calls()) for instance in instances] == [1, 0]
            events = [record.event for record in rig.recorder.records if record.tool == tool]
            assert events == ["intent", "outcome"]


@pytest.mark.parametrize("method", ["resources/read", "prompts/get", "resources/list"])
async def test_what_is_no_call_is_sent_once_more(open_rig: OpenRig, method: str) -> None:
    """Reading a resource, a prompt or a list survives the server, too."""
    async with open_rig() as rig:
        first = await rig.talker("legacy", policy=POLICY)
        await rig.have_crash(first, method)
        replies: list[JsonObject] = []
        async with rig.caller("legacy") as caller, anyio.create_task_group() as group:

            async def read() -> None:
                params: JsonObject = {"uri": "demo://a", "name": "greet"}
                replies.append(await caller.ask(method, params))

            group.start_soon(read)
            await crash(rig, first, 1)
            rig.publish("treasury", await rig.start("talker.py", "legacy"), policy=POLICY)
        assert "result" in replies[0]


async def test_a_read_is_sent_again_only_in_its_time(open_rig: OpenRig) -> None:
    """Where no other instance comes, the call ends within its caller's deadline."""
    async with open_rig(GatewaySettings(call_seconds=0.6)) as rig:
        instance = await rig.talker("legacy", waits=True)
        results: list[JsonObject] = []
        async with rig.caller("legacy") as caller, anyio.create_task_group() as group:

            async def call() -> None:
                results.append(await caller.play(["crash", "now"]))

            group.start_soon(call)
            await crash(rig, instance, 1)
        told = cast("JsonObject", results[0]["structuredContent"])
        assert told["category"] == "upstream"


async def test_a_lost_call_that_waits_for_its_caller_is_not_sent_again(open_rig: OpenRig) -> None:
    """A call whose caller was asked something began to have effects that its caller knows of."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=POLICY)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            steps: list[Json] = [["ask", "roots/list", {}]]
            params: JsonObject = {"name": "look", "arguments": {"steps": steps}}
            reply = await caller.ask("tools/call", params)
            asked = cast("JsonObject", reply["result"])
            rig.lose(instance)
            other = await rig.start("talker.py", "legacy")
            rig.publish("treasury", other, generation=2, policy=POLICY)
            params["requestState"] = asked["requestState"]
            params["inputResponses"] = {"q1": {"roots": []}}
            reply = await caller.ask("tools/call", params)
            told = cast("JsonObject", cast("JsonObject", reply["result"])["structuredContent"])
            assert told["code"] == "upstream.outcome_unknown"
        assert not other.calls()
