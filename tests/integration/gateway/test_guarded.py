"""What an operator holds back, at a real gateway in front of a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.model.guards import Hold
from orchestrator.model.names import RoleName
from orchestrator.model.rules import RolePolicy, ShadowRule

if TYPE_CHECKING:
    from integration.gateway.conftest import OpenRig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

FROZEN = Hold(kind="frozen", role=RoleName("treasury"))
STEPS: list[Json] = [["word", "done"]]


def code_of(answer: JsonObject) -> str:
    """Tell the code of a refusal; empty for another answer."""
    result, error = answer.get("result"), answer.get("error")
    told: Json = None
    if isinstance(result, dict):
        told = result.get("structuredContent")
    elif isinstance(error, dict):
        told = error.get("data")
    return str(told.get("code", "")) if isinstance(told, dict) else ""


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_frozen_role_answers_lists_alone(open_rig: OpenRig, era: Era) -> None:
    """What goes to its instance is refused, whatever it is; agents see their tools all the same."""
    async with open_rig() as rig:
        instance = await rig.talker(era, policy=RolePolicy(resources="all", prompts="all"))
        async with rig.caller(era) as caller:
            rig.gateway.guards.load([FROZEN])
            for method, params in (
                ("tools/call", {"name": "look", "arguments": {"steps": STEPS}}),
                ("resources/read", {"uri": "test://one"}),
                ("prompts/get", {"name": "greet"}),
                (
                    "completion/complete",
                    {
                        "ref": {"type": "ref/prompt", "name": "greet"},
                        "argument": {"name": "a", "value": "b"},
                    },
                ),
            ):
                answer = await caller.ask(method, cast("JsonObject", params))
                assert code_of(answer) == "role.frozen", answer
            assert "result" in await caller.ask("tools/list")
            assert instance.calls() == []
            rig.gateway.guards.load([])
            assert code_of(await caller.ask("resources/read", {"uri": "test://one"})) == ""
            assert rig.recorder.records[-2].category == "ok"


async def test_a_call_that_waits_is_not_sent_after_a_freeze(open_rig: OpenRig) -> None:
    """It was let in before, and its instance comes back after: nothing is done."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        async with rig.caller("modern") as caller:
            rig.publish("treasury", None, waits=True)
            answers: list[JsonObject] = []

            async def call() -> None:
                params: JsonObject = {"name": "look", "arguments": {"steps": STEPS}}
                answers.append(await caller.ask("tools/call", params))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rig.until(lambda: rig.gateway._table._waiting)
                rig.gateway.guards.load([FROZEN])
                rig.publish("treasury", instance)
            assert [code_of(one) for one in answers] == ["role.frozen"]
            assert instance.calls() == []


async def test_a_call_that_is_being_recorded_is_not_sent_after_a_freeze(open_rig: OpenRig) -> None:
    """Its intent may take a while to be on disk; a freeze in that time counts."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        entered, durable = asyncio.Event(), asyncio.get_running_loop().create_future()
        intend = rig.recorder.intend

        def slow(entry: object) -> asyncio.Future[None]:
            _ = intend(entry)  # type: ignore[arg-type]
            entered.set()
            return durable

        rig.recorder.intend = slow
        async with rig.caller("modern") as caller:
            answers: list[JsonObject] = []

            async def call() -> None:
                params: JsonObject = {"name": "change", "arguments": {"steps": STEPS}}
                answers.append(await caller.ask("tools/call", params))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                with anyio.fail_after(30):
                    _ = await entered.wait()
                rig.gateway.guards.load([FROZEN])
                durable.set_result(None)
            assert [code_of(one) for one in answers] == ["role.frozen"]
            assert instance.calls() == []


async def test_who_knows_nothing_lets_nothing_through(open_rig: OpenRig) -> None:
    """Guards that cannot be read refuse every role, READ tools too."""
    async with open_rig() as rig:
        _ = await rig.talker("modern")
        async with rig.caller("modern") as caller:
            rig.gateway.guards.fail("the database is gone")
            params: JsonObject = {"name": "look", "arguments": {"steps": STEPS}}
            assert code_of(await caller.ask("tools/call", params)) == "role.frozen"


async def test_a_shadow_without_a_record_does_nothing(open_rig: OpenRig) -> None:
    """What cannot be recorded is neither made nor taken for recorded."""
    rule = ShadowRule.model_validate({"until": "2999-12-31"})
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=RolePolicy(shadow=rule))
        async with rig.caller("modern") as caller:
            params: JsonObject = {"name": "change", "arguments": {"steps": STEPS}}
            assert code_of(await caller.ask("tools/call", params)) == "audit.unavailable"
            assert instance.calls() == []
            look: JsonObject = {"name": "look", "arguments": {"steps": STEPS}}
            assert code_of(await caller.ask("tools/call", look)) == ""
