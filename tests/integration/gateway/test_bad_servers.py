"""Servers that break the rules: no call of anybody else suffers, and nothing waits for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import OpenRig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

ERAS = ["legacy", "modern"]
EVERYTHING = RolePolicy(resources="all", prompts="all", asks=("elicitation", "sampling", "roots"))


def deep(depth: int) -> str:
    """Write a value that is nested so deeply."""
    return "[" * depth + "]" * depth


def line(**message: object) -> list[Json]:
    """Write a step that sends a message, in which "ID" stands for the request's id."""
    return ["line", json.dumps({"jsonrpc": "2.0", **message}).replace('"ID"', "ID")]


def code_of(result: JsonObject) -> Json:
    """Read the code of a refused call."""
    assert result.get("isError") is True, result
    return cast("JsonObject", result["structuredContent"])["code"]


RUBBISH: dict[str, list[Json]] = {
    "a print": ["line", "Server listens on port 80"],
    "no UTF-8": ["line", "\xff\xfe"],
    "nothing": ["line", ""],
    "half an object": ["line", '{"jsonrpc": "2.0", "id": '],
    "an array": ["line", "[1, 2]"],
    "a number": ["line", "17"],
    "an object": ["line", "{}"],
    "a control character": ["line", '{"jsonrpc": "2.0", "method": "x\x01"}'],
    "deeper than anybody reads": ["line", deep(100_000)],
    "another version": ["line", '{"jsonrpc": "1.0", "id": 1, "result": {}}'],
    "an answer to nobody": line(id="somebody-1", result={}),
    "a number's answer": line(id=1, result={}),
    "an answer to null": line(id=None, result={}),
    "an answer to a list": line(id=[1], result={}),
    "an error of nobody": line(id=None, error={"code": -1, "message": "m"}),
    "a request without method": line(id="x", params={}),
    "an unknown question": line(id="x", method="tasks/get", params={}),
    "a question with an odd id": line(id={}, method="roots/list", params={}),
    "a question with a bare list": line(id="x", method="roots/list", params=[]),
    "progress of nobody": line(method="notifications/progress", params={"progressToken": "x"}),
    "progress of a list": line(method="notifications/progress", params={"progressToken": [1]}),
    "progress of nothing": line(method="notifications/progress", params={}),
    "deep progress": [
        "line",
        '{"jsonrpc": "2.0", "method": "notifications/progress", "params": '
        '{"progressToken": ID, "progress": ' + deep(700) + "}}",
    ],
    "a deep log": [
        "line",
        '{"jsonrpc": "2.0", "method": "notifications/message", "params": '
        '{"level": "error", "data": ' + deep(700) + "}}",
    ],
    "a deep question": [
        "line",
        '{"jsonrpc": "2.0", "id": "x", "method": "roots/list", "params": {"x": ' + deep(700) + "}}",
    ],
    "a log of no level": line(method="notifications/message", params={"level": [], "data": 1}),
    "an update of no resource": line(method="notifications/resources/updated", params={"uri": []}),
    "an update of an object": line(method="notifications/resources/updated", params={"uri": {}}),
    "an update of nothing": line(method="notifications/resources/updated", params={}),
    "a cancel": line(method="notifications/cancelled", params={"requestId": "ID"}),
    "a stranger's notification": line(method="notifications/x", params={"a": 1}),
}


@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("era", ERAS)
async def test_rubbish_does_no_harm(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """Whatever a server writes beside its answer, the answer and the next one arrive."""
    async with open_rig() as rig:
        _ = await rig.talker(upstream, policy=EVERYTHING)
        # A modern caller would be asked what a legacy server asks.
        able: JsonObject = {"roots": {}} if era == "legacy" else {}
        async with rig.caller(era, capabilities=able) as caller, caller.listen() as talk:
            del talk
            for name, step in RUBBISH.items():
                async with caller.act(step, ["word", name], token=1, level="debug") as reply:
                    last = (await reply.rest())[-1]
                assert name in json.dumps(last["result"]), name
            await rig.until(lambda: rig.in_flight() == 0)


ANSWERS: dict[str, tuple[str, int | str]] = {
    "NaN": ('{"jsonrpc": "2.0", "id": ID, "result": {"x": NaN}}', "upstream.protocol"),
    "no result": ('{"jsonrpc": "2.0", "id": ID}', "upstream.protocol"),
    "a text": ('{"jsonrpc": "2.0", "id": ID, "result": "x"}', "upstream.protocol"),
    "both": (
        '{"jsonrpc": "2.0", "id": ID, "result": {}, "error": {"code": 1, "message": ""}}',
        "upstream.protocol",
    ),
    "an error without code": (
        '{"jsonrpc": "2.0", "id": ID, "error": {"message": ""}}',
        "upstream.protocol",
    ),
    "another version": ('{"jsonrpc": "1.0", "id": ID, "result": {}}', "upstream.protocol"),
    "deeply nested": (
        '{"jsonrpc": "2.0", "id": ID, "result": {"x": ' + deep(1000) + "}}",
        "upstream.protocol",
    ),
    "a task": (
        '{"jsonrpc": "2.0", "id": ID, "result": {"resultType": "task"}}',
        "upstream.not_relayed",
    ),
    "the gateway's own error": (
        '{"jsonrpc": "2.0", "id": ID, "error": {"code": -32020, "message": "header"}}',
        "upstream.protocol",
    ),
}


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_that_is_none_ends_the_call(open_rig: OpenRig, era: Era) -> None:
    """A call whose answer cannot be used ends at once, and does not wait for another one."""
    async with open_rig() as rig:
        _ = await rig.talker(era)
        async with rig.caller(era) as caller:
            for name, (text, code) in ANSWERS.items():
                with anyio.fail_after(30):
                    result = await caller.play(["line", text], ["silence"], tool="change")
                assert code_of(result) == code, name
            assert "isError" not in await caller.play()


@pytest.mark.parametrize("era", ERAS)
async def test_the_first_answer_counts(open_rig: OpenRig, era: Era) -> None:
    """A second answer, and one to a call that was cancelled, is nobody's."""
    async with open_rig(GatewaySettings(call_seconds=4)) as rig:
        _ = await rig.talker(era)
        first: JsonObject = {"content": [{"type": "text", "text": "first"}]}
        async with rig.caller(era) as caller:
            for _ in range(3):
                result = await caller.play(line(id="ID", result=first), ["word", "second"])
                assert result["content"] == first["content"]
            late = await caller.play(["meet", "x", 2], ["word", "late"], tool="change")
            assert code_of(late) == "upstream.timeout"
            result = await caller.play(["meet", "x", 2], ["word", "mine"])
            assert "mine" in json.dumps(result)
            assert "late" not in json.dumps(result)


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_never_answers(open_rig: OpenRig, era: Era) -> None:
    """Its calls end in time, and the server is told that nobody waits any more."""
    async with open_rig(GatewaySettings(call_seconds=0.3)) as rig:
        instance = await rig.talker(era)
        async with rig.caller(era) as caller:
            for tool in ("look", "change"):
                assert code_of(await caller.play(["silence"], tool=tool)) == "upstream.timeout"
        await rig.until(lambda: len(instance.received("notifications/cancelled")) == 2)
        await rig.until(lambda: rig.in_flight() == 0)


@pytest.mark.parametrize("era", ERAS)
async def test_fifty_megabytes_end_their_server_only(open_rig: OpenRig, era: Era) -> None:
    """A line beyond the limit breaks that connection; other roles' calls go on."""
    async with open_rig() as rig:
        instance = await rig.talker(era)
        _ = await rig.talker(era, "monitoring")
        results: list[JsonObject] = []
        async with (
            rig.caller(era) as caller,
            rig.caller(era, role="monitoring") as other,
            anyio.create_task_group() as group,
        ):

            async def call() -> None:
                steps: list[list[Json]] = [["big", 50_000_000]]
                results.append(await caller.play(*steps, tool="change"))

            group.start_soon(call)
            while not results:
                assert "isError" not in await other.play()
                await anyio.sleep(0.01)
        assert code_of(results[0]) == "upstream.outcome_unknown"
        async with rig.http() as http:
            assert (await http.get("/ready")).status_code == 503
        rig.publish("treasury", None)
        instance.stop()
        _ = await rig.talker(era)
        async with rig.caller(era) as caller:
            assert "isError" not in await caller.play()


async def test_thirty_megabytes_pass(open_rig: OpenRig) -> None:
    """A large answer within the limit passes in both eras, as JSON and on a stream."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy")
        async with rig.caller("legacy") as caller, rig.caller("modern") as modern:
            big: list[Json] = ["big", 30_000_000]
            result = await caller.play(big)
            assert len(cast("list[dict[str, str]]", result["content"])[1]["text"]) == 30_000_000
            async with modern.act(["progress", 1], big, token=1) as talk:
                result = cast("JsonObject", (await talk.rest())[1]["result"])
            assert len(cast("list[dict[str, str]]", result["content"])[1]["text"]) == 30_000_000


async def test_a_flood_of_notifications_leaves_others_their_turn(open_rig: OpenRig) -> None:
    """A server that talks without end fills no memory, and slows nobody down for long."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy")
        _ = await rig.talker("legacy", "monitoring")
        note = (
            '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}'
        )
        told: list[JsonObject] = []
        turns = 0
        async with (
            rig.caller("legacy") as caller,
            rig.caller("legacy", role="monitoring") as other,
            anyio.create_task_group() as group,
        ):

            async def call() -> None:
                async with caller.act(["line", "\n".join([note] * 10_000)]) as talk:
                    told.extend(await talk.rest())

            group.start_soon(call)
            while not told:
                _ = await other.play()
                turns += 1
        assert turns > 3
        assert told[-1]["id"] == "c1"
