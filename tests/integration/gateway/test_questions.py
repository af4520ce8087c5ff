"""Servers that ask in the middle of a request, in the modern way and across eras."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, MovedClock, OpenRig

    from orchestrator.model.base import Json, JsonObject

ASKS = RolePolicy(
    asks=("elicitation", "sampling", "roots"), resources=("demo://a",), prompts=("greet",)
)
ABLE: JsonObject = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}
ROOTS: JsonObject = {"method": "roots/list", "params": {}}
REQUIRE: list[Json] = ["require", {"k": ROOTS}]
ASK: list[Json] = ["ask", "roots/list", {}]
MINE: JsonObject = {"roots": [{"uri": "file:///mine"}]}


def heard(result: JsonObject) -> list[Json]:
    """Read what the server was answered."""
    (block,) = cast("list[dict[str, str]]", result["content"])
    return cast("dict[str, list[Json]]", json.loads(block["text"]))["heard"]


def error_text(result: JsonObject) -> JsonObject:
    """Read what a refused call tells the model."""
    assert result["isError"] is True
    return cast("JsonObject", result["structuredContent"])


async def ask_again(
    caller: Caller,
    asked: JsonObject,
    *steps: list[Json],
    tool: str = "look",
    responses: JsonObject | None = None,
    **more: Json,
) -> JsonObject:
    """Repeat a call with the answers to what it asked; tell the whole reply."""
    params: JsonObject = {
        "name": tool,
        "arguments": {"steps": [*steps]},
        "requestState": asked["requestState"],
        "inputResponses": {"k": MINE} if responses is None else responses,
        **more,
    }
    return await caller.ask("tools/call", params)


def code_of(reply: JsonObject) -> Json:
    """Read the code of a reply that is an error."""
    return cast("JsonObject", reply["error"])["code"]


async def test_a_modern_server_asks_a_modern_caller(open_rig: OpenRig) -> None:
    """Questions, answers and state pass, round by round; the state is readable by nobody."""
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=ASKS)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            first = await caller.play(REQUIRE, REQUIRE)
            assert first["resultType"] == "input_required"
            assert first["inputRequests"] == {"k": ROOTS}
            assert "ttlMs" not in first
            reply = await ask_again(caller, first, REQUIRE, REQUIRE)
            second = cast("JsonObject", reply["result"])
            assert second["resultType"] == "input_required"
            assert second["requestState"] != first["requestState"]
            reply = await ask_again(caller, second, REQUIRE, REQUIRE)
            result = cast("JsonObject", reply["result"])
            assert (result["resultType"], heard(result)) == ("complete", [{"k": MINE}])
        states = [params.get("requestState") for params in instance.calls()]
        assert states == [None, "1", "2"]
        seen = cast("JsonObject", instance.calls()[0]["_meta"])
        assert seen["io.modelcontextprotocol/clientCapabilities"] == ABLE


@pytest.mark.parametrize("upstream", ["legacy", "modern"])
async def test_a_state_is_of_one_caller_and_one_request(
    open_rig: OpenRig, moved_clock: MovedClock, upstream: str
) -> None:
    """Nobody else can use it, for nothing else, changed or too late; and then the owner can."""
    steps = [REQUIRE] if upstream == "modern" else [ASK]
    key = "k" if upstream == "modern" else "q1"
    async with open_rig(clock=moved_clock) as rig:
        instance = await rig.talker("modern" if upstream == "modern" else "legacy", policy=ASKS)
        _ = await rig.talker("modern", "monitoring", policy=ASKS)
        async with (
            rig.caller("modern", capabilities=ABLE) as caller,
            rig.caller("modern", "other", capabilities=ABLE) as other,
            rig.caller("modern", role="monitoring", capabilities=ABLE) as elsewhere,
        ):
            asked = await caller.play(*steps)
            assert asked["inputRequests"] == {key: ROOTS}
            state = str(asked["requestState"])
            for stranger in (other, elsewhere):
                assert code_of(await ask_again(stranger, asked, *steps)) == -32602
            assert code_of(await ask_again(caller, asked, *steps, ["log", "info", ""])) == -32602
            assert code_of(await ask_again(caller, asked, *steps, tool="change")) == -32602
            other_first = "B" if state.startswith("A") else "A"
            odds: list[Json] = [state[:-1], state + "A", other_first + state[1:]]
            odds += ["", "1", 1, {}, "é"]
            for changed in odds:
                reply = await ask_again(caller, {"requestState": changed}, *steps)
                assert code_of(reply) == -32602, changed
            odd = await ask_again(caller, asked, *steps, inputResponses=[])
            assert code_of(odd) == -32602
            assert len(instance.calls()) == 1
            moved_clock.ahead = timedelta(minutes=59)
            reply = await ask_again(caller, asked, *steps, responses={key: MINE})
            assert reply["result"]
            asked = await caller.play(*steps)
            rig.tokens.load(())
            moved_clock.ahead += timedelta(minutes=61)
            async with rig.caller("modern", token=rig.token(ttl=9000)) as late:
                assert code_of(await ask_again(late, asked, *steps)) == -32602


async def test_an_answer_lets_one_change_go_on(open_rig: OpenRig) -> None:
    """A state of a tool that changes something is taken once; of one that reads, as it comes."""
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=ASKS)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            asked = await caller.play(REQUIRE, tool="change")
            reply = await ask_again(caller, asked, REQUIRE, tool="change", responses={"k": MINE})
            assert reply["result"]
            reply = await ask_again(caller, asked, REQUIRE, tool="change", responses={"k": MINE})
            assert code_of(reply) == -32602
            assert len(instance.calls()) == 2
            asked = await caller.play(REQUIRE)
            for _ in range(2):
                assert (await ask_again(caller, asked, REQUIRE, responses={"k": MINE}))["result"]


async def test_answers_to_nothing_go_nowhere(open_rig: OpenRig) -> None:
    """A server that may ask nothing gets no answers either: no rule would have looked at them."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        async with rig.caller("modern", capabilities=ABLE) as caller:
            _ = await caller.play(tool="change", inputResponses={"k": MINE})
        (call,) = instance.calls()
        assert "inputResponses" not in call


async def test_a_state_is_worth_nothing_at_another_gateway(open_rig: OpenRig) -> None:
    """A session's id, and a state that another key sealed, open nothing."""
    async with open_rig() as rig, open_rig() as second:
        _ = await rig.talker("modern", policy=ASKS)
        _ = await second.talker("modern", policy=ASKS)
        async with (
            rig.caller("modern", capabilities=ABLE) as caller,
            second.caller("modern", capabilities=ABLE) as there,
            second.caller("legacy", capabilities=ABLE) as session,
        ):
            asked = await caller.play(REQUIRE)
            assert code_of(await ask_again(there, asked, REQUIRE)) == -32602
            sealed: JsonObject = {"requestState": session.session}
            assert code_of(await ask_again(there, sealed, REQUIRE)) == -32602


async def test_a_modern_server_cannot_ask_what_it_may_not(open_rig: OpenRig) -> None:
    """What the role forbids, or the caller did not declare, no caller of either era is asked."""
    sampling: JsonObject = {"method": "sampling/createMessage", "params": {}}
    elicits: JsonObject = {"method": "elicitation/create", "params": {}}
    async with open_rig() as rig:
        _ = await rig.talker("modern", policy=RolePolicy(asks=("roots", "elicitation")))
        able: JsonObject = {"roots": {}, "sampling": {}}
        for era in ("modern", "legacy"):
            async with rig.caller(
                "modern" if era == "modern" else "legacy", capabilities=able
            ) as caller:
                odds: list[Json] = [sampling, elicits, {"method": "ping"}, {"method": 5}, "rubbish"]
                for asked in odds:
                    steps: list[Json] = ["require", {"k": asked}]
                    told = error_text(await caller.play(steps))
                    assert told["category"] in {"not_available", "upstream"}, (era, asked)


@pytest.mark.parametrize("method", ["tools/call", "resources/read", "prompts/get"])
async def test_a_modern_server_asks_a_legacy_caller(open_rig: OpenRig, method: str) -> None:
    """Each question comes on the stream; then the request is repeated with all answers."""
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=ASKS)
        elicits: JsonObject = {"method": "elicitation/create", "params": {"message": "m"}}
        step: list[Json] = ["require", {"a": ROOTS, "b": elicits}]
        requests: dict[str, JsonObject] = {
            "tools/call": {"name": "look", "arguments": {"steps": [step, step]}},
            "resources/read": {"uri": "demo://a"},
            "prompts/get": {"name": "greet"},
        }
        params = requests[method]
        if method != "tools/call":
            await rig.have_asked(instance, method, {"a": ROOTS, "b": elicits})
        yes: JsonObject = {"action": "accept", "content": {"x": 1}}
        async with rig.caller("legacy", capabilities=ABLE) as caller:
            async with caller.open(method, params) as talk:
                for _ in range(2 if method == "tools/call" else 1):
                    one, two = await talk.need(), None
                    assert (one["method"], one["params"]) == ("roots/list", {})
                    await caller.answer(one, MINE)
                    two = await talk.need()
                    assert (two["method"], two["params"]) == (
                        "elicitation/create",
                        {"message": "m"},
                    )
                    await caller.answer(two, yes)
                (last,) = await talk.rest()
            assert "resultType" not in cast("JsonObject", last["result"])
        calls = [cast("JsonObject", one["params"]) for one in instance.received(method)]
        assert [one.get("inputResponses") for one in calls[1:]] == [{"a": MINE, "b": yes}] * (
            len(calls) - 1
        )
        assert len(calls) == (3 if method == "tools/call" else 2)
        seen = cast("JsonObject", calls[0]["_meta"])["io.modelcontextprotocol/clientCapabilities"]
        assert seen == {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}


async def test_an_answer_with_a_secret_goes_nowhere(open_rig: OpenRig) -> None:
    """It is refused wherever it stands in it, and the question waits for a better answer."""
    async with open_rig() as rig:
        _ = await rig.talker("modern", policy=ASKS)
        async with (
            rig.caller("legacy", capabilities=ABLE) as caller,
            caller.act(REQUIRE, tool="change") as talk,
        ):
            question = await talk.need()
            for padding in ("", "x " * 40_000):
                result: JsonObject = {"roots": [], "note": padding + "ghp_" + "a1B2" * 9}
                refused = await caller.post(
                    {"jsonrpc": "2.0", "id": question["id"], "result": result}
                )
                assert refused.status_code == 400
                assert "policy.secret" in refused.text
                assert "ghp_" not in refused.text
            await caller.answer(question, MINE)
            (last,) = await talk.rest()
            assert "result" in last


async def test_a_legacy_caller_that_does_not_answer(open_rig: OpenRig) -> None:
    """A refused question ends the call with words; so does a server that asks again and again."""
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=ASKS)
        async with rig.caller("legacy", capabilities=ABLE) as caller:
            async with caller.act(REQUIRE, tool="change") as talk:
                question = await talk.need()
                await caller.answer(question, None, {"code": -1, "message": "User refused"})
                (last,) = await talk.rest()
            told = error_text(cast("JsonObject", last["result"]))
            assert told["code"] == "upstream.not_relayed"
            async with caller.act(*[REQUIRE] * 40, tool="change") as talk:
                rounds = 0
                while "method" in (message := await talk.need()):
                    rounds += 1
                    await caller.answer(message, MINE)
            assert rounds == 12
            told = error_text(cast("JsonObject", message["result"]))
            assert told["code"] == "upstream.not_relayed"
        assert len(instance.calls()) == 13


async def test_a_legacy_server_asks_a_modern_caller(open_rig: OpenRig) -> None:
    """The call waits at the server for its caller, who is asked by a result, as often as needed."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        steps: list[list[Json]] = [
            ["progress", 1],
            ASK,
            ["log", "info", "on"],
            ["progress", 2],
            ASK,
        ]
        async with rig.caller("modern", capabilities=ABLE) as caller:
            async with caller.act(*steps, token="a", level="info") as talk:
                progress, last = await talk.rest()
                assert cast("JsonObject", progress["params"])["progressToken"] == "a"
            asked = cast("JsonObject", last["result"])
            assert (asked["resultType"], asked["inputRequests"]) == (
                "input_required",
                {"q1": ROOTS},
            )
            params: JsonObject = {
                "name": "look",
                "arguments": {"steps": [*steps]},
                "requestState": asked["requestState"],
                "inputResponses": {"q1": MINE},
            }
            meta: JsonObject = {"progressToken": 5, "io.modelcontextprotocol/logLevel": "info"}
            async with caller.open("tools/call", params, meta) as talk:
                log, progress, last = await talk.rest()
                assert cast("JsonObject", log["params"])["data"] == "on"
                # Of the request that is open now, and not of the one that began the call.
                assert cast("JsonObject", progress["params"])["progressToken"] == 5
            asked = cast("JsonObject", last["result"])
            assert asked["inputRequests"] == {"q2": ROOTS}
            # Without the answer that it waits for it stays as it is.
            reply = await ask_again(caller, asked, *steps, responses={"other": MINE})
            asked = cast("JsonObject", reply["result"])
            assert asked["inputRequests"] == {"q2": ROOTS}
            reply = await ask_again(caller, asked, *steps, responses={"q2": {"roots": []}})
            result = cast("JsonObject", reply["result"])
            assert heard(result) == [MINE, {"roots": []}]
            # It was one call all the time; what was answered cannot be answered again.
            assert code_of(await ask_again(caller, asked, *steps)) == -32602
        assert len(instance.calls()) == 1
        await rig.until(lambda: rig.in_flight() == 0)


async def test_an_answer_is_announced_like_a_call(open_rig: OpenRig) -> None:
    """What makes a server go on with a call that changes something is on record before it does."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            asked = await caller.play(ASK, tool="change")
            reply = await ask_again(caller, asked, ASK, responses={"q1": MINE}, tool="change")
            assert heard(cast("JsonObject", reply["result"])) == [MINE]
        records = [one for one in rig.recorder.records if one.tool == "change"]
        assert [one.event for one in records] == ["intent", "outcome"] * 2
        assert {one.pid for one in records} == {instance.process.pid}


async def test_a_parked_call_ends(open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that does not come back in time loses its call, and the server is told."""
    monkeypatch.setattr("orchestrator.gateway.parking.PATIENCE_SECONDS", 0.3)
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            asked = await caller.play(ASK, ["hold"])
            await rig.until(lambda: instance.received("notifications/cancelled"))
            await rig.until(lambda: any("error" in message for message in instance.received()))
            assert code_of(await ask_again(caller, asked, ASK, ["hold"])) == -32602
            await rig.until(lambda: rig.in_flight() == 0)


async def test_a_hang_up_ends_a_call_that_was_parked(open_rig: OpenRig) -> None:
    """Who comes back, answers and hangs up has cancelled."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=ASKS)
        async with rig.caller("modern", capabilities=ABLE) as caller:
            steps: list[list[Json]] = [ASK, ["progress", 1], ["hold"]]
            async with caller.act(*steps, token=1) as talk:
                asked = cast("JsonObject", (await talk.need())["result"])
            params: JsonObject = {
                "name": "look",
                "arguments": {"steps": [*steps]},
                "requestState": asked["requestState"],
                "inputResponses": {"q1": MINE},
            }
            async with caller.open("tools/call", params, {"progressToken": 1}) as talk:
                assert (await talk.need())["method"] == "notifications/progress"
            await rig.until(lambda: instance.received("notifications/cancelled"))


async def test_parked_calls_are_bounded(open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One agent cannot have the calls of all others refused."""
    async with open_rig() as rig:
        # Each has a process of its own, as only then it is known whom a server asks.
        monkeypatch.setattr("orchestrator.gateway.parking.MAX_PARKED_OF_ONE", 2)
        call: JsonObject = {"name": "change", "arguments": {"steps": [ASK]}}
        replies: list[JsonObject] = []
        for role in ("r0", "r1", "r2"):
            _ = await rig.talker("legacy", role, policy=ASKS)
            async with rig.caller("modern", role=role, capabilities=ABLE) as caller:
                replies.append(await caller.ask("tools/call", call))
        assert ["result" in reply for reply in replies] == [True, True, False]
        assert code_of(replies[2]) == -31004
        async with rig.caller("modern", "other", role="r2", capabilities=ABLE) as other:
            assert (await other.play(ASK))["resultType"] == "input_required"


async def test_two_callers_at_once_are_not_asked(open_rig: OpenRig) -> None:
    """A legacy server that asks while two calls are with it is refused: whose would it be."""
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=ASKS)
        async with (
            rig.caller("modern", capabilities=ABLE) as one,
            rig.caller("modern", capabilities=ABLE) as two,
            rig.caller("legacy", capabilities=ABLE) as three,
        ):
            for second in (two, three):
                name = second.era
                steps: list[list[Json]] = [
                    ["progress", 1],
                    ["meet", name, 2],
                    ASK,
                    ["meet", f"{name} again", 2],
                ]
                async with one.act(*steps, token=1) as talk, second.act(*steps, token=1) as other:
                    for messages in (await talk.rest(), await other.rest()):
                        (_, message) = messages
                        (refused,) = heard(cast("JsonObject", message["result"]))
                        assert "error" in cast("JsonObject", refused)
