"""Callers that listen: what they hear, and how that ends, in both eras."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.names import TokenId
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, MovedClock, OpenRig, Talk

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

STAMP = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
EVERYTHING = RolePolicy(resources="all", prompts="all")
ALL: dict[str, Json] = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
}
ERAS = ["legacy", "modern"]
PAIRS = [(era, upstream) for era in ERAS for upstream in ERAS]


async def skip_acknowledgement(talk: Talk, era: Era) -> None:
    """Read what a modern stream begins with."""
    if era == "modern":
        assert (await talk.need())["method"] == ACKNOWLEDGED


def check_end(rest: list[JsonObject], caller: Caller) -> None:
    """Check that a stream ended as its era does: a modern listen with its result."""
    if caller.era == "legacy":
        assert rest == []
        return
    (last,) = rest
    assert last["id"] == f"c{caller.count}"
    result = cast("JsonObject", last["result"])
    assert result["resultType"] == "complete"
    assert cast("JsonObject", result["_meta"])[STAMP] == last["id"]


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_changes_are_told(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """Changed lists and resources reach listeners of either era from servers of either era."""
    async with open_rig() as rig:
        instance = await rig.talker(upstream, policy=EVERYTHING)
        uris: list[Json] = ["demo://a", "demo://b"]
        async with rig.caller(era) as caller:
            if era == "legacy":
                for uri in uris:
                    answer = await caller.ask("resources/subscribe", {"uri": uri})
                    assert answer["result"] == {}
            async with caller.listen(**ALL, resourceSubscriptions=uris) as talk:
                assert talk.is_stream
                await skip_acknowledgement(talk, era)
                heard: list[JsonObject] = []
                rig.publish("treasury", instance, hide=frozenset({"look"}), policy=EVERYTHING)
                heard.append(await talk.need())
                for kind in ("prompts", "resources"):
                    method = f"notifications/{kind}/list_changed"
                    _ = await caller.play(["notify", method, {}], tool="change")
                    heard.append(await talk.need())
                # Nobody wants to hear of the second one.
                for uri in ("demo://a", "demo://c", "demo://b"):
                    await rig.touch(instance, uri)
                heard += [await talk.need(), await talk.need()]
                assert [one["method"] for one in heard] == [
                    "notifications/tools/list_changed",
                    "notifications/prompts/list_changed",
                    "notifications/resources/list_changed",
                    "notifications/resources/updated",
                    "notifications/resources/updated",
                ]
                params = [cast("JsonObject", one.get("params", {})) for one in heard]
                assert [one.get("uri") for one in params] == [None, None, None, *uris]
                for one in params:
                    meta = cast("JsonObject", one.get("_meta", {}))
                    assert meta.get(STAMP) == (None if era == "legacy" else "c1")


async def test_a_listener_hears_what_it_asked_for(open_rig: OpenRig) -> None:
    """The acknowledgement repeats what is understood and allowed, and nothing else is told."""
    async with open_rig() as rig:
        policy = RolePolicy(resources=("demo://a",))
        instance = await rig.talker("modern", policy=policy)
        asked: dict[str, Json] = {
            "toolsListChanged": False,
            "resourcesListChanged": True,
            "tasks": True,
            "resourceSubscriptions": ["demo://a", "demo://secret"],
        }
        async with rig.caller("modern") as caller, caller.listen(**asked) as talk:
            first = await talk.need()
            params = cast("JsonObject", first["params"])
            assert (first["method"], params) == (
                ACKNOWLEDGED,
                {
                    "notifications": {
                        "resourcesListChanged": True,
                        "resourceSubscriptions": ["demo://a"],
                    },
                    "_meta": {STAMP: "c1"},
                },
            )
            rig.publish("treasury", instance, hide=frozenset({"look"}), policy=policy)
            note: list[Json] = ["notify", "notifications/resources/list_changed", {}]
            _ = await caller.play(note, tool="change")
            told = await talk.need()
            assert told["method"] == "notifications/resources/list_changed"


@pytest.mark.parametrize(
    "asked",
    [{"notifications": 1}, {}, {"notifications": {"resourceSubscriptions": "x"}}],
)
async def test_a_listen_without_sense_is_refused(open_rig: OpenRig, asked: JsonObject) -> None:
    """What is no filter is invalid."""
    async with open_rig() as rig:
        _ = await rig.talker("modern")
        async with rig.caller("modern") as caller:
            body, headers = caller.write("subscriptions/listen", asked)
            response = await caller.post(body, headers)
            assert response.status_code == 400
            assert cast("dict[str, JsonObject]", response.json())["error"]["code"] == -32602


async def test_what_the_role_may_not_read_is_not_told(open_rig: OpenRig) -> None:
    """A role without resources and prompts hears of none, and one that was narrowed no more."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=EVERYTHING)
        async with rig.caller("legacy") as caller:
            for uri in ("demo://a", "demo://b"):
                _ = await caller.ask("resources/subscribe", {"uri": uri})
            async with caller.listen() as talk:
                await rig.touch(instance, "demo://a")
                assert (await talk.need())["params"] == {"uri": "demo://a"}
                narrow = RolePolicy(resources=("demo://b",))
                rig.publish("treasury", instance, policy=narrow)
                note: list[Json] = ["notify", "notifications/prompts/list_changed", {}]
                _ = await caller.play(note)
                await rig.touch(instance, "demo://a")
                await rig.touch(instance, "demo://b")
                assert (await talk.need())["params"] == {"uri": "demo://b"}
        subscribed = [message["method"] for message in instance.received()]
        assert subscribed.count("resources/subscribe") == 2
        assert subscribed.count("resources/unsubscribe") >= 1


async def test_a_session_has_one_stream(open_rig: OpenRig) -> None:
    """A second stream is refused as long as the first one is there; other sessions have theirs."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller("legacy") as caller, rig.caller("legacy") as other:
            async with caller.listen() as talk, other.listen() as another:
                refused = await caller.http.get(caller.url)
                assert refused.status_code == 409
                rig.publish("treasury", instance, hide=frozenset({"look"}))
                assert (await talk.need())["method"] == "notifications/tools/list_changed"
                assert (await another.need())["method"] == "notifications/tools/list_changed"
            await rig.until(lambda: not rig.gateway._hub._streams)
            async with caller.listen() as talk:
                assert talk.response.status_code == 200


@pytest.mark.parametrize(
    ("end", "era"),
    [("deleted", "legacy")]
    + [(end, era) for end in ("revoked", "withdrawn", "shutdown", "expired") for era in ERAS],
)
async def test_a_stream_ends(
    open_rig: OpenRig, moved_clock: MovedClock, era: Era, end: str
) -> None:
    """Listening ends with the session, the token, the role and the gateway, properly."""
    async with open_rig(clock=moved_clock) as rig:
        _ = await rig.talker("legacy")
        token = rig.token()
        async with (
            rig.caller(era, token=token) as caller,
            rig.caller(era, token=rig.token(ttl=36_000)) as other,
            other.listen(**ALL) as kept,
            caller.listen(**ALL) as talk,
        ):
            await skip_acknowledgement(talk, era)
            await skip_acknowledgement(kept, era)
            match end:
                case "revoked":
                    rig.tokens.remove(TokenId(token.split("_")[1]))
                case "withdrawn":
                    rig.withdraw("treasury")
                case "shutdown":
                    rig.stop_serving()
                case "deleted":
                    assert (await caller.http.delete(caller.url)).status_code == 200
                case _:
                    moved_clock.ahead = timedelta(hours=2)
            check_end(await talk.rest(), caller)
            if end in {"withdrawn", "shutdown"}:
                check_end(await kept.rest(), other)
            else:
                rig.publish("treasury", rig.instances[0], hide=frozenset({"look"}))
                assert (await kept.need())["method"] == "notifications/tools/list_changed"
        events = [record.event for record in rig.recorder.records if record.event != "decision"]
        assert events.count("stream") == 2


@pytest.mark.parametrize("era", ERAS)
async def test_a_silent_stream_shows_that_it_lives(open_rig: OpenRig, era: Era) -> None:
    """While nothing happens comments come, on streams and on calls that have begun to stream."""
    async with open_rig(GatewaySettings(ping_seconds=0.05)) as rig:
        _ = await rig.talker("legacy")
        async with rig.caller(era) as caller:
            async with caller.listen(**ALL) as talk:
                await skip_acknowledgement(talk, era)
                for _ in range(3):
                    await talk.comment()
            async with caller.act(["progress", 1], ["meet", "x", 2], token=1) as talk:
                _ = await talk.need()
                await talk.comment()
                _ = await caller.play(["meet", "x", 2])
                assert "result" in (await talk.rest())[-1]


async def test_streams_of_a_token_are_bounded(open_rig: OpenRig) -> None:
    """Streams have a bound of their own: they take no place from calls."""
    settings = GatewaySettings(max_open=3, max_streams=2)
    async with open_rig(settings) as rig:
        _ = await rig.talker("legacy")
        token = rig.token()
        async with (
            rig.caller("modern", token=token) as caller,
            rig.caller("legacy", token=token) as other,
            caller.listen(**ALL) as one,
            caller.listen(**ALL) as two,
        ):
            _ = await one.need(), await two.need()
            for _ in range(3):
                _ = await caller.play()
            refused = await caller.ask("subscriptions/listen", {"notifications": ALL})
            assert cast("JsonObject", refused["error"])["code"] == -31004
            assert (await other.http.get(other.url)).status_code == 429
        await rig.until(lambda: not rig.gateway._hub._streams)
        async with rig.caller("legacy", token=token) as caller, caller.listen() as three:
            assert three.response.status_code == 200


async def test_subscriptions_of_an_agent_are_bounded(
    open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent cannot have the gateway look through subscriptions without end."""
    monkeypatch.setattr("orchestrator.gateway.hub.MAX_OF_ONE", 3)
    async with open_rig() as rig:
        _ = await rig.talker("legacy", policy=EVERYTHING)
        uris: list[Json] = ["demo://a", "demo://b", "demo://" + "x" * 5_000]
        wanted: JsonObject = {"resourceSubscriptions": uris}
        async with (
            rig.caller("modern") as caller,
            caller.listen(**wanted) as talk,
            rig.caller("legacy") as old,
        ):
            told = cast("JsonObject", (await talk.need())["params"])
            # What is longer than any that could be meant is left out.
            assert told["notifications"] == {"resourceSubscriptions": uris[:2]}
            refused = await caller.ask("subscriptions/listen", {"notifications": wanted})
            assert cast("JsonObject", refused["error"])["code"] == -31004
            for uri, is_taken in (
                (uris[2], True),
                (uris[2], True),
                ("demo://" + "y" * 12_000, False),
            ):
                answer = await old.ask("resources/subscribe", {"uri": uri})
                assert ("result" in answer) == is_taken
            async with old.listen(), rig.caller("legacy") as another:
                answer = await another.ask("resources/subscribe", {"uri": "demo://a"})
                assert cast("JsonObject", answer["error"])["code"] == -31004


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_listening_outlives_the_instance(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """A listener stays while the instance is replaced, and hears what the next one tells."""
    async with open_rig() as rig:
        first = await rig.talker(upstream, policy=EVERYTHING)
        uris: list[Json] = ["demo://a"]
        async with rig.caller(era) as caller:
            if era == "legacy":
                _ = await caller.ask("resources/subscribe", {"uri": "demo://a"})
            async with caller.listen(resourceSubscriptions=uris, promptsListChanged=True) as talk:
                await skip_acknowledgement(talk, era)
                await rig.touch(first, "demo://a")
                assert (await talk.need())["method"] == "notifications/resources/updated"
                rig.lose(first)
                rig.publish("treasury", None, waits=True, policy=EVERYTHING)
                second = await rig.start("talker.py", upstream)
                rig.publish("treasury", second, generation=2, policy=EVERYTHING)
                await rig.touch(second, "demo://a")
                assert (await talk.need())["method"] == "notifications/resources/updated"
