"""What goes before a result: progress, logs and questions, on the request's own stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.model.names import TokenId
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import OpenRig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

ERAS = ["legacy", "modern"]
PAIRS = [(era, upstream) for era in ERAS for upstream in ERAS]
ASKS = RolePolicy(asks=("elicitation", "sampling", "roots"))
ABLE: JsonObject = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}
FORM: JsonObject = {"message": "Really?", "requestedSchema": {"type": "object", "properties": {}}}


def heard(result: JsonObject) -> list[Json]:
    """Read what the server was answered."""
    (block,) = cast("list[dict[str, str]]", result["content"])
    return cast("dict[str, list[Json]]", json.loads(block["text"]))["heard"]


def told(messages: list[JsonObject]) -> list[Json]:
    """Shorten what came on a stream."""
    found: list[Json] = []
    for message in messages:
        params = cast("JsonObject", message.get("params", {}))
        match message.get("method"):
            case "notifications/progress":
                found.append([params["progressToken"], params["progress"]])
            case "notifications/message":
                found.append(params["data"])
            case None:
                found.append("result" if "result" in message else "error")
            case method:
                found.append(method)
    return found


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_progress_and_logs_go_first(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """They come in order, with the caller's own token, and then the result."""
    async with open_rig() as rig:
        _ = await rig.talker(upstream)
        steps = (["progress", 0.5], ["log", "info", "half"], ["progress", 1])
        async with rig.caller(era) as caller:
            for token in (7, "7", "ö"):
                async with caller.act(*steps, token=token, level="info") as talk:
                    assert talk.is_stream
                    messages = await talk.rest()
                assert told(messages) == [[token, 0.5], "half", [token, 1], "result"]
                assert messages[-1]["id"] == f"c{caller.count}"


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_a_result_alone_is_json(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """Where nothing goes before the result there is no stream, however large the result is."""
    async with open_rig() as rig:
        _ = await rig.talker(upstream)
        async with rig.caller(era) as caller:
            # Nobody asked for progress, and none of these is about a call.
            steps: list[list[Json]] = [
                ["progress", 1],
                ["notify", "notifications/x", {}],
                ["big", 3_000_000],
            ]
            result = await caller.play(*steps)
            (_, block) = cast("list[dict[str, str]]", result["content"])
            assert len(block["text"]) == 3_000_000
            async with caller.act(["progress", 1], ["big", 3_000_000], token=1) as talk:
                messages = await talk.rest()
            assert told(messages) == [[1, 1], "result"]
            (_, block) = cast("dict[str, list[dict[str, str]]]", messages[1]["result"])["content"]
            assert len(block["text"]) == 3_000_000


@pytest.mark.parametrize("upstream", ERAS)
async def test_a_legacy_session_has_its_log_level(open_rig: OpenRig, upstream: Era) -> None:
    """A session hears its own level and what is more serious, whatever another one wants."""
    async with open_rig() as rig:
        instance = await rig.talker(upstream)
        steps = [["log", level, level] for level in ("debug", "info", "error", "nonsense")]
        async with rig.caller("legacy") as caller, rig.caller("legacy") as other:
            for wrong in ("loud", None, 5):
                refused = await caller.ask("logging/setLevel", {"level": wrong})
                assert cast("JsonObject", refused["error"])["code"] == -32602
            assert (await caller.ask("logging/setLevel", {"level": "error"}))["result"] == {}
            assert (await other.ask("logging/setLevel", {"level": "debug"}))["result"] == {}
            async with caller.act(*steps) as talk:
                assert told(await talk.rest()) == ["error", "result"]
            async with other.act(*steps) as talk:
                assert told(await talk.rest()) == ["debug", "info", "error", "result"]
        levels = [
            cast("JsonObject", one["params"])["level"]
            for one in instance.received("logging/setLevel")
        ]
        assert levels == ([] if upstream == "modern" else ["error", "debug"])


async def test_levels_that_change_and_change(open_rig: OpenRig) -> None:
    """However often sessions change their minds, a server is asked one thing at a time."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller("legacy") as caller:
            for _ in range(20):
                for level in ("error", "debug"):
                    answer = await caller.ask("logging/setLevel", {"level": level})
                    assert answer["result"] == {}
            await caller.play()
            asked = len(instance.received("logging/setLevel"))
            for _ in range(20):  # no news
                _ = await caller.ask("logging/setLevel", {"level": "debug"})
            await caller.play()
            assert len(instance.received("logging/setLevel")) <= asked + 1
            await rig.until(lambda: rig.in_flight() == 0)


@pytest.mark.parametrize("upstream", ERAS)
async def test_a_modern_request_has_its_log_level(open_rig: OpenRig, upstream: Era) -> None:
    """A request without a level hears nothing, even from a server that talks all the same."""
    async with open_rig() as rig:
        instance = await rig.talker(upstream)
        steps = [["log", level, level] for level in ("debug", "warning", "emergency", "nonsense")]
        async with rig.caller("modern") as caller:
            _ = await caller.play(*steps)
            async with caller.act(*steps, level="warning") as talk:
                assert told(await talk.rest()) == ["warning", "emergency", "result"]
            async with caller.act(*steps, level="loud") as talk:
                assert told(await talk.rest()) == ["result"]
        levels = [
            cast("JsonObject", params["_meta"]).get("io.modelcontextprotocol/logLevel")
            for params in instance.calls()
        ]
        assert levels == ([None, "warning", "loud"] if upstream == "modern" else [None] * 3)


async def test_a_cancel_ends_the_one_call(open_rig: OpenRig) -> None:
    """`notifications/cancelled` ends the call of that id in that session, and no other."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with (
            rig.caller("legacy") as caller,
            rig.caller("legacy") as stranger,
            caller.act(["progress", 1], ["hold"], token=1) as one,
            caller.act(["progress", 1], ["meet", "x", 2], token=1) as two,
        ):
            _ = await one.need(), await two.need()
            await stranger.notify("notifications/cancelled", {"requestId": "c1"})
            odds: list[Json] = [1, "c3", None, {}, True]
            for odd in odds:
                await caller.notify("notifications/cancelled", {"requestId": odd})
            await caller.notify("notifications/cancelled", {})
            await caller.notify("notifications/cancelled", {"requestId": "c1", "reason": "r"})
            (last,) = await one.rest()
            assert last["id"] == "c1"
            assert cast("JsonObject", last["error"])["code"] == -32800
            _ = await stranger.play(["meet", "x", 2])
            assert told(await two.rest()) == ["result"]
        assert len(instance.received("notifications/cancelled")) == 1


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("elicitation/create", FORM, {"action": "accept", "content": {}}),
        ("sampling/createMessage", {"messages": [], "maxTokens": 5}, {"role": "assistant"}),
        ("roots/list", {}, {"roots": []}),
    ],
)
async def test_a_legacy_server_asks_its_caller(
    open_rig: OpenRig, method: str, params: JsonObject, result: JsonObject
) -> None:
    """A question comes on the call's own stream, and its answer by a POST of its own."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=ASKS)
        async with rig.caller("legacy", capabilities=ABLE) as caller:
            async with caller.act(["ask", method, params], ["ask", method, params]) as talk:
                question = await talk.need()
                assert (question["method"], question["params"]) == (method, params)
                await caller.answer(question, result)
                again = await talk.need()
                assert again["id"] != question["id"]
                refusal: JsonObject = {"code": -1, "message": "no"}
                await caller.answer(again, None, refusal)
                (last,) = await talk.rest()
            assert heard(cast("JsonObject", last["result"])) == [result, {"error": refusal}]


async def test_nobody_else_answers(open_rig: OpenRig) -> None:
    """An answer from another session, to another question or without one, changes nothing."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=ASKS)
        async with (
            rig.caller("legacy", capabilities=ABLE) as caller,
            rig.caller("legacy", capabilities=ABLE) as sibling,
            rig.caller("legacy", "stranger", capabilities=ABLE) as stranger,
        ):
            async with caller.act(["ask", "roots/list", {}]) as talk:
                question = await talk.need()
                identity = str(question["id"])
                for other in (sibling, stranger):
                    await other.answer(question, {"roots": ["forged"]})
                forged = (identity[:-1], identity.upper() + "0", f"{identity} ", 1, "", "q1")
                for name in forged:
                    await caller.answer({"id": name}, {"roots": ["forged"]})
                await caller.answer(question, {"roots": ["mine"]})
                await caller.answer(question, {"roots": ["too late"]})
                (last,) = await talk.rest()
            assert heard(cast("JsonObject", last["result"])) == [{"roots": ["mine"]}]
            await caller.answer(question, {"roots": ["much too late"]})
            _ = await caller.play()


@pytest.mark.parametrize("era", ERAS)
async def test_only_what_both_allow_is_asked(open_rig: OpenRig, era: Era) -> None:
    """The role has to allow a question, and the caller has to have declared that it answers it."""
    policy = RolePolicy(asks=("elicitation", "sampling"))
    able: JsonObject = {"elicitation": {}, "roots": {}}
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=policy)
        steps: list[list[Json]] = [
            ["ask", "roots/list", {}],
            ["ask", "sampling/createMessage", {}],
            ["ask", "tasks/list", {}],
            ["ask", "ping", {}],
        ]
        async with rig.caller(era, capabilities=able) as caller:
            *refused, pong = heard(await caller.play(*steps))
            codes = [cast("dict[str, JsonObject]", one)["error"]["code"] for one in refused]
            assert (codes, pong) == ([-32601] * 3, {})


async def test_questions_have_a_bound(open_rig: OpenRig) -> None:
    """A server that asks without end is told so, and no question outlives its call."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        asked = [
            ["line", json.dumps({"jsonrpc": "2.0", "id": f"x{n}", "method": "roots/list"})]
            for n in range(80)
        ]
        async with rig.caller("legacy", capabilities=ABLE) as caller:
            async with caller.act(*asked) as talk:
                messages = await talk.rest()
            assert told(messages) == ["roots/list"] * 64 + ["result"]

            def refused() -> set[str]:
                return {str(one["id"]) for one in instance.received() if "error" in one}

            await rig.until(lambda: refused() == {f"x{n}" for n in range(80)})
            await caller.answer(messages[0], {"roots": []})
            async with caller.act(["ask", "roots/list", {}]) as talk:
                await caller.answer(await talk.need(), {"roots": []})
                assert told(await talk.rest()) == ["result"]


async def test_a_question_ends_with_its_call(open_rig: OpenRig) -> None:
    """A server that waits for an answer is told when its caller has cancelled."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        async with rig.caller("legacy", capabilities=ABLE) as caller:
            async with caller.act(["ask", "roots/list", {}], ["hold"]) as talk:
                _ = await talk.need()
                await caller.notify("notifications/cancelled", {"requestId": "c1"})
                assert told(await talk.rest()) == ["error"]

            def told_so() -> bool:
                return any("error" in message for message in instance.received())

            await rig.until(told_so)


@pytest.mark.parametrize("era", ERAS)
async def test_a_stream_that_was_begun_ends_with_the_error(open_rig: OpenRig, era: Era) -> None:
    """What ends a call after something went before comes as the last message, under its id."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        token = rig.token()
        async with rig.caller(era, token=token) as caller:
            async with caller.act(
                ["progress", 1], ["error", {"code": 5, "message": "m"}], token=1
            ) as talk:
                last = (await talk.rest())[-1]
                assert (last["id"], last["error"]) == ("c1", {"code": 5, "message": "m"})
            async with caller.act(["progress", 1], ["hold"], token=1, tool="change") as talk:
                _ = await talk.need()
                rig.lose(instance)
                (last,) = await talk.rest()
                result = cast("JsonObject", last["result"])
                assert (last["id"], result["isError"]) == ("c2", True)
            _ = await rig.talker("legacy")
            async with caller.act(["progress", 1], ["hold"], token=1) as talk:
                _ = await talk.need()
                rig.tokens.remove(TokenId(token.split("_")[1]))
                (last,) = await talk.rest()
                assert last["id"] == "c3"
                assert cast("JsonObject", last["error"])["code"] == -31003


async def test_a_legacy_hang_up_is_no_cancel(open_rig: OpenRig) -> None:
    """A caller whose connection breaks has not cancelled: its call goes on to its end."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller("legacy") as caller:
            async with caller.act(["progress", 1], ["meet", "x", 2], token=1) as talk:
                _ = await talk.need()
            assert rig.in_flight() == 1
            _ = await caller.play(["meet", "x", 2])
            await rig.until(lambda: not rig.gateway.app._open)
        assert not instance.received("notifications/cancelled")
        calls = [record for record in rig.recorder.records if record.tool == "look"]
        assert [record.category for record in calls] == ["ok", "ok"]


@pytest.mark.parametrize("era", ERAS)
async def test_ids_may_be_alike(open_rig: OpenRig, era: Era) -> None:
    """Requests under one id at the same time, of one caller even, each get their own answer."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy")
        replies: dict[str, JsonObject] = {}
        async with rig.caller(era) as caller, anyio.create_task_group() as group:

            async def call(word: str) -> None:
                steps: list[Json] = [["meet", "x", 5], ["word", word]]
                params: JsonObject = {"name": "look", "arguments": {"steps": steps}}
                body, headers = caller.write("tools/call", params)
                response = await caller.post({**body, "id": "same"}, headers)
                replies[word] = cast("JsonObject", response.json())

            for word in "abcde":
                group.start_soon(call, word)
        for word, reply in replies.items():
            assert reply["id"] == "same"
            assert f'\\"{word}\\"' in json.dumps(reply["result"]).replace("\\\\", "\\")


async def test_a_new_instance_learns_the_level(open_rig: OpenRig) -> None:
    """What a session wants to hear holds for the instance that follows, too."""
    async with open_rig() as rig:
        first = await rig.talker("legacy")
        async with rig.caller("legacy") as caller:
            _ = await caller.ask("logging/setLevel", {"level": "warning"})
            await rig.until(lambda: first.received("logging/setLevel"))
            rig.lose(first)
            second = await rig.start("talker.py", "legacy")
            rig.publish("treasury", second, generation=2)
            await rig.until(lambda: second.received("logging/setLevel"))
            (level,) = second.received("logging/setLevel")
            assert cast("JsonObject", level["params"])["level"] == "warning"
