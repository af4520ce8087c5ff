"""What clients are told beside their requests through `agents connect`, and what they take back."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.connect.conftest import Headers, OpenFake, OpenStage, Raw, Stage
    from integration.gateway.conftest import MemoryJournal, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era

READS = RolePolicy(resources=("demo://a",), prompts="all")
META: JsonObject = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
STAMP = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
TOOLS = "notifications/tools/list_changed"
PROMPTS = "notifications/prompts/list_changed"
UPDATED = "notifications/resources/updated"
ERAS = ["legacy", "modern"]


def place(stage: Stage, rig: Rig) -> None:
    """Let the role be reached at a gateway, with a new token."""
    stage.roles["treasury"] = f"{rig.base}/treasury/mcp"
    _ = stage.write_token("treasury", rig.token())


def request(identity: str | int, method: str, **params: Json) -> JsonObject:
    """Write a modern request."""
    told: JsonObject = {**params, "_meta": META}
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": told}


def listen(identity: str | int, **asked: Json) -> JsonObject:
    """Write a subscription."""
    return request(identity, "subscriptions/listen", notifications=asked)


def call(era: Era, identity: str | int, *steps: list[Json], tool: str = "look") -> JsonObject:
    """Write a call that plays steps."""
    message = request(identity, "tools/call", name=tool, arguments={"steps": [*steps]})
    if era == "legacy":
        del cast("JsonObject", message["params"])["_meta"]
    return message


def cancel(identity: str | int) -> JsonObject:
    """Write a cancellation."""
    params: JsonObject = {"requestId": identity, "reason": "enough"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


def stamp(message: JsonObject) -> Json:
    """Tell the subscription that a notification belongs to."""
    params = cast("JsonObject", message["params"])
    return cast("JsonObject", params["_meta"])[STAMP]


def count(rig: Rig, category: str) -> int:
    """Count the records of streams that began (`ok`) or were cut off (`flow`)."""
    kinds = {"GET", "subscriptions/listen"}
    found = [one for one in rig.recorder.records if one.method in kinds]
    return sum(1 for one in found if one.category == category)


async def test_legacy_client_hears_news(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """Changed lists and subscribed resources are told as they change."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker("legacy", policy=READS)
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            await rig.until(lambda: count(rig, "ok") > 0)
            assert "result" in await raw.ask(1, "resources/subscribe", uri="demo://a")
            rig.publish("treasury", instance, hide=frozenset({"look"}), policy=READS)
            _ = await raw.hear(TOOLS)
            await raw.send(call("legacy", 2, ["notify", PROMPTS, {}], tool="change"))
            assert "result" in await raw.receive()  # news has a stream of its own: any order
            _ = await raw.hear(PROMPTS)
            await rig.touch(instance, "demo://a")
            assert cast("JsonObject", (await raw.hear(UPDATED))["params"])["uri"] == "demo://a"
            await raw.end()


async def test_many_subscriptions(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """Thirty listen at once, each under its own id; those that are cancelled fall silent."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker("modern")
        place(stage, rig)
        identities: list[str | int] = [*range(15), *(f"listen-{n}" for n in range(15))]
        async with stage.raw("treasury") as raw:
            await raw.send(*(listen(one, toolsListChanged=True) for one in identities))
            acknowledged = [stamp(await raw.hear(ACKNOWLEDGED)) for _ in identities]
            assert sorted(map(str, acknowledged)) == sorted(map(str, identities))
            await raw.send(cancel(3), cancel("listen-4"), cancel("no such"))
            await rig.until(lambda: count(rig, "flow") == 2)
            rig.publish("treasury", instance, hide=frozenset({"look"}))
            heard = {str(stamp(await raw.hear(TOOLS))) for _ in identities[2:]}
            assert heard == {str(one) for one in identities} - {"3", "listen-4"}
            await raw.send(request("last", "tools/list"))
            assert (await raw.receive())["id"] == "last"
            assert raw.news == []
            await raw.end()
        assert stage.errors.read_text() == ""


@pytest.mark.parametrize("era", ERAS)
async def test_streams_outlive_a_gateway(
    open_rig: OpenRig, open_stage: OpenStage, make_journal: Callable[[], MemoryJournal], era: Era
) -> None:
    """After a restart they are open again, and what may have been missed is told as changed."""
    key, journal = secrets.token_bytes(32), make_journal()
    async with open_stage() as stage, open_rig(key=key, journal=journal) as rig:
        _ = await rig.talker(era, policy=READS)
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            if era == "legacy":
                _ = await raw.open()
                assert "result" in await raw.ask(1, "resources/subscribe", uri="demo://a")
            else:
                asked: list[Json] = ["demo://a", "demo://secret"]
                await raw.send(listen("l", toolsListChanged=True, resourceSubscriptions=asked))
                _ = await raw.hear(ACKNOWLEDGED)
            await rig.until(lambda: count(rig, "ok") > 0)
            async with open_rig(key=key, journal=journal, tokens=rig.tokens) as later:
                instance = await later.talker(era, policy=READS)
                await stage.move(rig, later)
                missed = await raw.hear_until(UPDATED, uri="demo://a")
                assert TOOLS in [one["method"] for one in missed]
                await later.until(lambda: count(later, "ok") > 0)
                later.publish("treasury", instance, hide=frozenset({"look"}), policy=READS)
                _ = await raw.hear_until(TOOLS)
                await later.touch(instance, "demo://a")
                _ = await raw.hear_until(UPDATED, uri="demo://a")
                await raw.send(cancel("l"), call(era, 2))
                assert (await raw.receive())["id"] == 2
                assert "initialize" not in {one.method for one in later.recorder.records}
                await raw.end()
        assert stage.errors.read_text() == ""


async def test_subscription_ends_with_its_role(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """When there is nothing to listen to any more, the subscription is answered once."""
    async with open_rig() as rig, open_stage() as stage:
        _ = await rig.talker("modern")
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.send(listen("l", toolsListChanged=True))
            _ = await raw.hear(ACKNOWLEDGED)
            rig.withdraw("treasury")
            answer = await raw.receive()
            assert answer["id"] == "l"
            result = cast("JsonObject", answer["result"])
            assert result["resultType"] == "complete"
            await raw.end()
        assert [one["method"] for one in raw.news] == []


async def test_subscription_that_is_refused(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """What the gateway has against it is its answer; a gateway that is starting is waited for."""
    async with open_rig() as rig, open_stage() as stage:
        _ = await rig.talker("modern")
        place(stage, rig)
        url, stage.roles["treasury"] = stage.roles["treasury"], ""
        async with stage.raw("treasury") as raw:
            await raw.send(listen("l", toolsListChanged=True))
            while stage.asked < 2:  # noqa: ASYNC110  another process asks
                await anyio.sleep(0.005)
            stage.roles["treasury"] = url
            _ = await raw.hear(ACKNOWLEDGED)
            await raw.send(request("k", "subscriptions/listen", notifications=7))
            refused = await raw.receive()
            assert refused["id"] == "k"
            assert cast("JsonObject", refused["error"])["code"] == -32602
            await raw.end()


async def test_slow_streams_are_tried_later(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """A stream that is cut, and a gateway with too many, do not end a subscription."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    def event(method: str) -> bytes:
        told: JsonObject = {"notifications": {"toolsListChanged": True}, "_meta": {STAMP: "l"}}
        note: JsonObject = {"jsonrpc": "2.0", "method": method, "params": told}
        return b"data: " + json.dumps(note).encode() + b"\n\n"

    def script(verb: str, headers: Headers, body: JsonObject) -> bytes | None:
        assert (verb, headers["mcp-method"], body["id"]) == ("POST", "subscriptions/listen", "l")
        match fake.count("POST"):
            case 1:
                return head + event(ACKNOWLEDGED) + event(PROMPTS)[:-9]
            case 2:
                return b"HTTP/1.1 429 X\r\ncontent-length: 0\r\n\r\n"
            case 3:
                return head + event(ACKNOWLEDGED) + event(PROMPTS)
            case _:
                return None

    async with open_stage() as stage, open_fake(script) as fake:
        stage.roles["treasury"] = fake.url
        _ = stage.write_token("treasury", f"mga_000000000000_{0:043}2XrKCg")
        async with stage.raw("treasury") as raw:
            await raw.send(listen("l", toolsListChanged=True))
            _ = await raw.hear(ACKNOWLEDGED)
            assert stamp(await raw.hear(TOOLS)) == "l"
            _ = await raw.hear(PROMPTS)
            await fake.until("POST", 4)
            await raw.end()


@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("era", ERAS)
async def test_cancelled_calls_are_not_answered(
    open_rig: OpenRig, open_stage: OpenStage, era: Era, upstream: Era
) -> None:
    """The server is told, and no answer comes, also where the cancel comes with its request."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker(upstream)
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            if era == "legacy":
                _ = await raw.open()
            await raw.send(call(era, 1, ["progress", 1], ["hold"]))
            await rig.until(lambda: len(instance.received("tools/call")) == 1)
            await raw.send(cancel(1))
            await rig.until(lambda: len(instance.received("notifications/cancelled")) == 1)
            for number in range(2, 7):
                await raw.send(call(era, number, ["hold"]), cancel(number))
            await raw.send(call(era, 9))
            assert (await raw.receive())["id"] == 9
            await raw.send(cancel(9), cancel("never asked"), call(era, 10))
            assert (await raw.receive())["id"] == 10
            await rig.until(lambda: is_quiet(instance.received()))
            await raw.end()
        assert stage.errors.read_text() == ""


def is_quiet(received: list[JsonObject]) -> bool:
    """Tell whether each call that would hold for ever was cancelled."""
    held = [one for one in received if '"hold"' in json.dumps(one)]
    told = [one for one in received if one.get("method") == "notifications/cancelled"]
    asked = {str(cast("JsonObject", one["params"])["requestId"]) for one in told}
    return {str(one["id"]) for one in held} <= asked


async def test_queued_call_is_never_sent(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """A call that waits behind too many others is dropped when it is cancelled."""
    async with open_rig() as rig, open_stage() as stage:
        instance = await rig.talker("modern")
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.send(*(call("modern", number, ["hold"]) for number in range(40)))
            await rig.until(lambda: len(instance.received("tools/call")) == 40)
            await raw.send(call("modern", "late"), call("modern", "queued"), cancel("late"))
            # What is answered at once does not wait behind calls that last.
            await raw.send(request("list", "tools/list"))
            assert (await raw.receive())["id"] == "list"
            await raw.send(cancel(5))
            assert (await raw.receive())["id"] == "queued"
            assert len(instance.received("tools/call")) == 41
            await raw.end()


@pytest.mark.parametrize("era", ERAS)
async def test_client_that_does_not_read(
    open_rig: OpenRig, open_stage: OpenStage, era: Era
) -> None:
    """Forty large answers for a client that reads nothing are not all held; then all arrive."""
    size = 3_000_000
    async with open_rig() as rig, open_stage() as stage:
        _ = await rig.talker("modern")
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            if era == "legacy":
                _ = await raw.open()
            await raw.send(*(call(era, number, ["big", size]) for number in range(40)))
            await rig.until(lambda: sum(one.tool == "look" for one in rig.recorder.records) == 40)
            # Whatever the program still does with what it has, it does now.
            for _ in range(20):
                await anyio.sleep(0.01)
                assert resident_bytes(raw) < 40 * size
            sizes: dict[Json, int] = {}
            for _ in range(40):
                answer = await raw.receive()
                content = cast("JsonObject", answer["result"])["content"]
                sizes[str(answer["id"])] = len(cast("list[dict[str, str]]", content)[1]["text"])
            assert sizes == {str(number): size for number in range(40)}
            await raw.end()


def resident_bytes(raw: Raw) -> int:
    """Tell how much memory the program has."""
    with open(f"/proc/{raw.process.pid}/status", encoding="ascii") as status:  # noqa: PTH123
        (line,) = [line for line in status if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def test_too_many_requests_are_refused(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """Requests beyond a thousand that wait are told so, each by its id."""

    def script(_: str, __: Headers, ___: JsonObject) -> bytes | None:
        return None

    async with open_stage() as stage, open_fake(script) as fake:
        stage.roles["treasury"] = fake.url
        _ = stage.write_token("treasury", f"mga_000000000000_{0:043}2XrKCg")
        async with stage.raw("treasury") as raw:
            await raw.send(*(call("modern", number) for number in range(1030)))
            for number in range(1024, 1030):
                answer = await raw.receive()
                assert answer["id"] == number
                data = cast("JsonObject", cast("JsonObject", answer["error"])["data"])
                assert (data["category"], data["code"]) == ("limit", "policy.too_many_calls")
            await raw.end()
        assert fake.count("POST") <= 40


async def test_who_comes_back_delays_no_end(open_rig: OpenRig) -> None:
    """A gateway that ends cuts off whoever opens a stream until its listeners are closed, too."""
    patient = GatewaySettings(shutdown_seconds=600)
    async with open_rig(patient) as rig, rig.session(rig.token()) as http:
        rig.stop_serving()
        began, opened = anyio.current_time(), 0
        with suppress(httpx2.HTTPError):
            while True:
                async with http.stream("GET", "/treasury/mcp") as response:
                    opened += 1
                    async for _ in response.aiter_bytes():
                        pass
        assert opened
        assert anyio.current_time() - began < 60
