"""Resources, prompts and completions: what a role may have of what its server has."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, OpenRig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

ERAS = ["legacy", "modern"]
PAIRS = [(era, upstream) for era in ERAS for upstream in ERAS]
SOME = RolePolicy(resources=("demo://a", "demo://c", "demo://b/{x}"), prompts=("part",))
PROMPT: JsonObject = {"type": "ref/prompt", "name": "part"}
ARGUMENT: JsonObject = {"name": "x", "value": ""}


async def listed(caller: Caller, method: str, key: str, name: str) -> list[Json]:
    """Read the names in a list."""
    result = cast("dict[str, list[JsonObject]]", (await caller.ask(method))["result"])
    return [item[name] for item in result[key]]


async def code(caller: Caller, method: str, params: JsonObject) -> Json:
    """Make a request; tell the error's code, or 0."""
    reply = await caller.ask(method, params)
    return cast("JsonObject", reply["error"])["code"] if "error" in reply else 0


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_lists_are_cut(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """A list holds what the role may have, in the server's order; the rest of it passes."""
    async with open_rig() as rig:
        _ = await rig.talker(upstream, policy=SOME)
        _ = await rig.talker(upstream, "reader", policy=RolePolicy(resources="all", prompts="all"))
        lists = (
            ("resources/list", "resources", "uri"),
            ("resources/templates/list", "resourceTemplates", "uriTemplate"),
            ("prompts/list", "prompts", "name"),
        )
        async with rig.caller(era) as some, rig.caller(era, role="reader") as every:
            cut = [await listed(some, *names) for names in lists]
            assert cut == [["demo://a", "demo://c"], ["demo://b/{x}"], ["part"]]
            whole = [await listed(every, *names) for names in lists]
            assert whole == [
                ["demo://a", "demo://b", "demo://c"],
                ["demo://a/{x}", "demo://b/{x}"],
                ["greet", "part"],
            ]
            result = cast("JsonObject", (await some.ask("resources/list"))["result"])
            assert cast("JsonObject", result["_meta"])["kept"] == 1
            if era == "modern":
                assert (result["cacheScope"], result["resultType"]) == ("private", "complete")
            else:
                assert "cacheScope" not in result


@pytest.mark.parametrize(("era", "upstream"), PAIRS)
async def test_hidden_and_unknown_look_alike(open_rig: OpenRig, era: Era, upstream: Era) -> None:
    """What the role may not have is refused like what there never was, and not asked for."""
    async with open_rig() as rig:
        instance = await rig.talker(upstream, policy=SOME)
        async with rig.caller(era) as caller:
            answer = await caller.ask("resources/read", {"uri": "demo://a"})
            contents = cast("dict[str, Json]", answer["result"])["contents"]
            assert contents == [{"uri": "demo://a", "text": "words"}]
            assert await code(caller, "resources/read", {"uri": "demo://b/7"}) == 0
            answer = await caller.ask("prompts/get", {"name": "part", "arguments": {"a": "b"}})
            assert '"arguments": {"a": "b"}' in str(answer["result"])
            completion: JsonObject = {"ref": PROMPT, "argument": ARGUMENT}
            assert await code(caller, "completion/complete", completion) == 0
            template: JsonObject = {"type": "ref/resource", "uri": "demo://b/{x}"}
            completion = {"ref": template, "argument": ARGUMENT}
            assert await code(caller, "completion/complete", completion) == 0

            told: set[str] = set()
            denied = ["demo://b", "demo://absent", "demo://A", "demo://a/", "demo://%61", ""]
            denied += [f"demo://b/{odd}" for odd in ("", "..", "x/y", "%2e%2e", "x?y", "{x}")]
            for uri in denied:
                reply = await caller.ask("resources/read", {"uri": uri})
                error = cast("JsonObject", reply["error"])
                told.add(str(error["message"]).replace(f"{uri}", "URI") if uri else "")
                assert error["code"] == -32602
            assert len(told - {""}) == 1
            for name in ("greet", "absent", "PART", ""):
                assert await code(caller, "prompts/get", {"name": name}) == -32602
            odds: list[Json] = [
                {**PROMPT, "name": "greet"},
                {**template, "uri": "demo://a/{x}"},
                {"type": "ref/other", "name": "part"},
                {"name": "part"},
                "part",
                None,
            ]
            for odd in odds:
                params: JsonObject = {"ref": odd, "argument": ARGUMENT}
                assert await code(caller, "completion/complete", params) == -32602
            odds = [5, None, {}, []]
            for odd in odds:
                # A modern caller's header cannot repeat what is no text.
                wrong = -32602 if era == "legacy" or odd is None else -32020
                assert await code(caller, "resources/read", {"uri": odd}) == wrong
                assert await code(caller, "prompts/get", {"name": odd}) == wrong
        for method, count in (
            ("resources/read", 2),
            ("prompts/get", 1),
            ("completion/complete", 2),
        ):
            assert len(instance.received(method)) == count


@pytest.mark.parametrize("era", ERAS)
async def test_a_role_without_any_has_no_such_methods(open_rig: OpenRig, era: Era) -> None:
    """Neither the role's none nor the server's none is told apart from an unknown method."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        bare = await rig.start("legacy.py", "legacy")
        rig.publish("bare", bare, policy=RolePolicy(resources="all", prompts="all"))
        requests: list[tuple[str, JsonObject]] = [
            ("resources/list", {}),
            ("resources/templates/list", {}),
            ("resources/read", {"uri": "demo://a"}),
            ("prompts/list", {}),
            ("prompts/get", {"name": "part"}),
            ("completion/complete", {"ref": PROMPT, "argument": ARGUMENT}),
        ]
        if era == "legacy":
            requests.append(("resources/subscribe", {"uri": "demo://a"}))
        for role in ("treasury", "bare"):
            async with rig.caller(era, role=role) as caller:
                for method, params in requests:
                    assert await code(caller, method, params) == -32601, (role, method)
        assert not [one for one in instance.received() if str(one["method"])[0] in "rpc"]


async def test_subscriptions_are_of_what_may_be_read(open_rig: OpenRig) -> None:
    """A session subscribes to what it may read, up to a bound, and the server hears it once."""
    async with open_rig() as rig:
        every = RolePolicy(resources="all")
        instance = await rig.talker("legacy", policy=SOME)
        _ = await rig.talker("legacy", "reader", policy=every)
        async with (
            rig.caller("legacy") as one,
            rig.caller("legacy") as two,
            one.listen() as stream,
            two.listen() as other,
        ):
            assert await code(one, "resources/subscribe", {"uri": "demo://b"}) == -32602
            for caller in (one, two, one):
                assert await code(caller, "resources/subscribe", {"uri": "demo://a"}) == 0
            await rig.touch(instance, "demo://a")
            for talk in (stream, other):
                assert (await talk.need())["method"] == "notifications/resources/updated"
            assert await code(one, "resources/unsubscribe", {"uri": "demo://a"}) == 0
            await rig.touch(instance, "demo://a")
            assert (await other.need())["method"] == "notifications/resources/updated"
            assert await code(two, "resources/unsubscribe", {"uri": "demo://a"}) == 0
            await rig.until(lambda: instance.received("resources/unsubscribe"))
            assert len(instance.received("resources/subscribe")) == 1
        async with rig.caller("legacy", role="reader") as caller:
            for number in range(256):
                uri = f"demo://{number}"
                assert await code(caller, "resources/subscribe", {"uri": uri}) == 0
            assert await code(caller, "resources/subscribe", {"uri": "demo://x"}) == -31004
            # One that it has already is no further one.
            assert await code(caller, "resources/subscribe", {"uri": "demo://0"}) == 0
