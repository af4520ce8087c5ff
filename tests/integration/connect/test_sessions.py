"""The session of a legacy client through `agents connect`: kept, ended, and opened again."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.model.rules import RolePolicy
from orchestrator.tokens.mint import mint

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.connect.conftest import Headers, OpenFake, OpenStage, Stage
    from integration.gateway.conftest import MemoryJournal, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject

SESSION = "session-that-nobody-tells"
READS = RolePolicy(resources=("demo://a", "demo://b"))
CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"


def place(stage: Stage, rig: Rig) -> None:
    """Let the role be reached at a gateway, with a new token."""
    stage.roles["treasury"] = f"{rig.base}/treasury/mcp"
    _ = stage.write_token("treasury", rig.token())


def http(status: int, body: JsonObject | None = None, *headers: str) -> bytes:
    """Write an HTTP answer."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *headers]
    if content:
        lines.append("content-type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + content


def opened(body: JsonObject, version: str = "2025-06-18", session: str = SESSION) -> bytes:
    """Answer an `initialize`."""
    result: JsonObject = {
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "fake", "version": "1"},
    }
    answer: JsonObject = {"jsonrpc": "2.0", "id": body["id"], "result": result}
    return http(200, answer, f"Mcp-Session-Id: {session}")


def answered(body: JsonObject) -> bytes:
    """Answer any other request, or take what is owed no answer."""
    if "method" not in body or "id" not in body:
        return http(202)
    return http(200, {"jsonrpc": "2.0", "id": body["id"], "result": {}})


def unknown() -> bytes:
    """Say that the session is unknown."""
    error: JsonObject = {"code": -32600, "message": "Session not found"}
    return http(404, {"jsonrpc": "2.0", "id": None, "error": error})


def play(stage: Stage, url: str) -> None:
    """Have a script in the gateway's place."""
    stage.roles["treasury"] = url
    _ = stage.write_token("treasury", mint().text.get_secret_value())


def steps(*played: list[Json]) -> JsonObject:
    """Write the parameters of a call that plays steps."""
    return {"name": "look", "arguments": {"steps": [*played]}}


async def test_session_is_named_until_its_end(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """Every request after the first names session and revision; the last one ends it."""

    def script(verb: str, _: Headers, body: JsonObject) -> bytes | None:
        if verb == "GET":
            return None
        return opened(body) if body.get("method") == "initialize" else answered(body)

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            assert await raw.ask(1, "ping") == {"jsonrpc": "2.0", "id": 1, "result": {}}
            await raw.send({"jsonrpc": "2.0", "id": "ask-1", "result": {}})
            await fake.until("GET")
            while len(fake.seen) < 5:
                fake.news = anyio.Event()
                await fake.news.wait()
            await raw.end()
        (first, *others) = [(verb, headers) for verb, headers, _ in fake.seen]
        assert [verb for verb, _ in others].count("DELETE") == 1
        assert others[-1][0] == "DELETE"
        assert "mcp-session-id" not in first[1]
        for _, headers in others:
            assert headers["mcp-session-id"] == SESSION
            assert headers["mcp-protocol-version"] == "2025-06-18"
            assert headers["authorization"].startswith("Bearer mga_")
        assert SESSION.encode() not in raw.seen
        assert stage.errors.read_text() == ""


@pytest.mark.parametrize("how", ["eof", "term"])
async def test_session_is_over_at_the_end(
    open_rig: OpenRig, open_stage: OpenStage, make_journal: Callable[[], MemoryJournal], how: str
) -> None:
    """A client that closes its end, or is stopped, leaves no session and no call behind."""
    journal = make_journal()
    async with open_rig(journal=journal) as rig, open_stage() as stage:
        instance = await rig.talker("legacy")
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": steps(["hold"])}
            await raw.send(cast("JsonObject", call))
            while not instance.received("tools/call"):  # noqa: ASYNC110  another process notes it
                await anyio.sleep(0.005)
            if how == "term":
                raw.process.send_signal(signal.SIGTERM)
                assert await raw.process.wait() == 0
            else:
                await raw.end()
        # Told in its last moment: the program does not wait long for the answer.
        await rig.until(lambda: journal.lines)
        assert [b'"end":true' in line for line in journal.lines] == [True]
        while not instance.received("notifications/cancelled"):  # noqa: ASYNC110
            await anyio.sleep(0.005)
        assert stage.errors.read_text() == ""


async def test_end_waits_for_no_gateway(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """A gateway that hangs delays the end by half a second, which clients do not notice."""

    def script(verb: str, _: Headers, body: JsonObject) -> bytes | None:
        if verb != "POST":
            return None
        return opened(body) if body.get("method") == "initialize" else answered(body)

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            await fake.until("GET")
            began = anyio.current_time()
            await raw.end()
            assert anyio.current_time() - began >= 0.5
        assert fake.count("DELETE") == 1


async def test_gateway_without_streams(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """Where a GET is no method, nobody hears of it, and it is not tried again."""

    def script(verb: str, _: Headers, body: JsonObject) -> bytes | None:
        if verb == "GET":
            return http(405)
        return opened(body) if body.get("method") == "initialize" else answered(body)

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            await fake.until("GET")
            for number in range(3):
                assert "result" in await raw.ask(number, "ping")
            await raw.end()
        assert fake.count("GET") == 1
        assert raw.news == []
        assert stage.errors.read_text() == ""


async def test_stream_that_is_taken(open_fake: OpenFake, open_stage: OpenStage) -> None:
    """While the gateway takes the session's last stream for open, it is asked again."""
    news = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: " + news + b"\n\n"

    def script(verb: str, _: Headers, body: JsonObject) -> bytes | None:
        if verb == "GET":
            return http(409) if fake.count("GET") < 4 else stream
        return opened(body) if body.get("method") == "initialize" else answered(body)

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            _ = await raw.hear(CHANGED)
            await raw.end()
        assert stage.errors.read_text() == ""


async def test_refused_stream_waits_for_the_next_answer(
    open_fake: OpenFake, open_stage: OpenStage
) -> None:
    """A token that is not valid is not shown again and again; a later answer opens the stream."""

    def script(verb: str, _: Headers, body: JsonObject) -> bytes | None:
        if verb == "GET":
            return http(401) if fake.count("GET") == 1 else None
        return opened(body) if body.get("method") == "initialize" else answered(body)

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            await fake.until("GET")
            assert "result" in await raw.ask(1, "ping")
            assert "result" in await raw.ask(2, "ping")
            await fake.until("GET", 2)
            await raw.end()
        assert fake.count("GET") == 2


async def test_lost_session_is_opened_again(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """When the gateway lost its key nobody notices: ten calls at once open one new session.

    It is like the old one: its log level, its subscriptions, and what was missed is told.
    """
    async with open_stage() as stage, open_rig() as rig, open_rig(tokens=rig.tokens) as later:
        _ = await rig.talker("legacy", policy=READS)
        instance = await later.talker("legacy", policy=READS)
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            assert "result" in await raw.ask(1, "logging/setLevel", level="error")
            for uri in ("demo://a", "demo://b"):
                assert "result" in await raw.ask(uri, "resources/subscribe", uri=uri)
            assert "result" in await raw.ask(2, "resources/unsubscribe", uri="demo://b")
            await stage.move(rig, later)
            calls: list[JsonObject] = [
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "tools/call",
                    "params": steps(["log", "info", "quiet"], ["log", "error", "loud"]),
                }
                for number in range(10, 20)
            ]
            await raw.send(*calls)
            answers = [await raw.receive() for _ in calls]
            assert sorted(str(answer["id"]) for answer in answers) == [
                str(n) for n in range(10, 20)
            ]
            assert all("result" in answer for answer in answers), answers
            logged = [one for one in raw.news if one["method"] == "notifications/message"]
            assert [cast("JsonObject", one["params"])["data"] for one in logged] == ["loud"] * 10
            raw.news = [one for one in raw.news if one not in logged]
            _ = await raw.hear_until(UPDATED, uri="demo://a")
            assert "result" in await raw.ask(3, "resources/subscribe", uri="demo://b")
            await later.touch(instance, "demo://b")
            missed = await raw.hear_until(UPDATED, uri="demo://b")
            lists = {f"notifications/{name}/list_changed" for name in ("tools", "resources")}
            assert {str(one["method"]) for one in missed} <= {*lists, UPDATED}
            await raw.end()
        methods = [one.method for one in later.recorder.records if one.category == "ok"]
        for method in ("initialize", "logging/setLevel"):
            assert methods.count(method) == 1
        assert methods.count("resources/subscribe") == 2
        assert stage.errors.read_text() == ""


@pytest.mark.parametrize("why", ["refused", "other revision", "lost at once"])
async def test_session_that_cannot_be_opened_again(
    open_fake: OpenFake, open_stage: OpenStage, why: str
) -> None:
    """Then the client is told that its session is over; nothing is tried for ever."""

    def script(verb: str, headers: Headers, body: JsonObject) -> bytes | None:
        if verb == "GET":
            return http(405)
        if body.get("method") != "initialize":
            is_known = headers.get("mcp-session-id") == SESSION and fake.count("ping") < 2
            return answered(body) if is_known or "id" not in body else unknown()
        if fake.count("initialize") == 1:
            return opened(body)
        if why == "refused":
            return unknown()
        return opened(body, "2025-11-25" if why == "other revision" else "2025-06-18", "another")

    async with open_stage() as stage, open_fake(script) as fake:
        play(stage, fake.url)
        async with stage.raw("treasury") as raw:
            _ = await raw.open()
            assert "result" in await raw.ask(1, "ping")
            lost = await raw.ask(2, "ping")
            assert cast("JsonObject", lost["error"])["message"] == "Session not found"
            assert fake.count("initialize") == 2
            await raw.end()
        assert stage.errors.read_text() == ""


async def test_new_session_of_the_same_client(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """A client that opens a second session is told what is said in that one."""
    async with open_stage() as stage, open_rig() as rig:
        instance = await rig.talker("legacy")
        place(stage, rig)
        async with stage.raw("treasury") as raw:
            for number in (1, 2):
                _ = await raw.open()
                while streams(rig) < number:  # noqa: ASYNC110  another process opens them
                    await anyio.sleep(0.005)
                rig.publish("treasury", instance, hide=frozenset({"look"}))
                _ = await raw.hear(CHANGED)
                rig.publish("treasury", instance)
                _ = await raw.hear(CHANGED)
            await raw.end()


def streams(rig: Rig) -> int:
    """Count the streams that were opened."""
    begun = [one for one in rig.recorder.records if (one.method, one.category) == ("GET", "ok")]
    return len(begun)
