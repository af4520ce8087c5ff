"""Sessions of legacy callers: whose they are, how they end, and what outlives a gateway."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import httpx2
import pytest

from orchestrator.clock import SystemClock
from orchestrator.model.rules import RolePolicy
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.gateway.conftest import MemoryJournal, OpenRig

    from orchestrator.model.base import JsonObject
    from orchestrator.model.names import RoleName

PING: JsonObject = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
READS = RolePolicy(resources=("demo://a",))


async def use(http: httpx2.AsyncClient, session: str | None, url: str = "/treasury/mcp") -> int:
    """Use a session in every way that there is; tell the status, which is always the same."""
    headers = {} if session is None else {"mcp-session-id": session}
    note: JsonObject = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    answer: JsonObject = {"jsonrpc": "2.0", "id": "ask-1", "result": {}}
    found: set[int] = set()
    for body in (PING, note, answer):
        response = await http.post(url, json=body, headers=headers)
        found.add(response.status_code)
        error = cast("dict[str, object]", response.json())["error"]
        assert cast("dict[str, object]", error)["code"] == -32600
    found.add((await http.get(url, headers=headers)).status_code)
    found.add((await http.delete(url, headers=headers)).status_code)
    (status,) = found
    return status


async def test_a_session_is_of_one_agent_at_one_role(open_rig: OpenRig) -> None:
    """Without a session nothing is answered; with a foreign or made-up one it is not found."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        _ = await rig.talker("legacy", "monitoring")
        async with (
            rig.caller("legacy", "owner") as owner,
            rig.caller("legacy", "other") as other,
            rig.caller("legacy", "owner", role="monitoring") as elsewhere,
            rig.http(rig.token("treasury", "owner")) as again,
        ):
            mine = owner.session
            sealed = mine[:-6] + ("AAAAAA" if mine[-6:] != "AAAAAA" else "BBBBBB")
            assert await use(again, None) == 400
            assert await use(again, "") == 400
            for session in ("nonsense", "%fc", "A" * 5000, mine[:-1], mine + "A", sealed):
                assert await use(again, session) == 404, session
            del other.http.headers["mcp-session-id"]
            del elsewhere.http.headers["mcp-session-id"]
            assert await use(other.http, mine) == 404
            assert await use(elsewhere.http, mine, "/monitoring/mcp") == 404
            # Another token of the same agent opens it, too.
            ping = await again.post(owner.url, json=PING, headers={"mcp-session-id": mine})
            assert ping.status_code == 200
            assert (await owner.ask("ping"))["result"] == {}
        assert not instance.received("tools/call")


async def test_an_ended_session_is_not_found(open_rig: OpenRig) -> None:
    """DELETE ends a session, its running calls, and nobody else's; control hears of it."""
    ended: list[tuple[RoleName, str]] = []
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        rig.gateway.on_unwanted = lambda role, owner: ended.append((role, owner))
        async with rig.caller("legacy") as kept, rig.caller("legacy") as caller:
            session = caller.session
            async with caller.act(["progress", 1], ["hold"], token="p") as talk:
                assert (await talk.need())["method"] == "notifications/progress"
                response = await caller.http.delete(caller.url)
                assert (response.status_code, response.content) == (200, b"")
                (last,) = await talk.rest()
                assert cast("JsonObject", last["error"])["code"] == -32800
            del caller.http.headers["mcp-session-id"]
            assert await use(caller.http, session) == 404
            assert (await kept.ask("ping"))["result"] == {}
            _ = await kept.play()
            # The server reads in order, so it was told before.
            assert len(instance.received("notifications/cancelled")) == 1
        records = [record for record in rig.recorder.records if record.method == "DELETE"]
        assert ended == [("treasury", record.session) for record in records if record.session]
        assert len(ended) == 1


async def test_a_session_outlives_its_gateway(
    open_rig: OpenRig, make_journal: Callable[[], MemoryJournal]
) -> None:
    """The next gateway with the same key knows sessions, what they wanted, and which were ended."""
    key, journal, tokens = os.urandom(32), make_journal(), TokenIndex(SystemClock())
    async with open_rig(key=key, journal=journal, tokens=tokens) as rig:
        _ = await rig.talker("legacy", policy=READS)
        token = rig.token()
        async with rig.caller("legacy", token=token) as one, rig.caller("legacy") as two:
            live, dead = one.session, two.session
            _ = await one.ask("logging/setLevel", {"level": "error"})
            _ = await one.ask("resources/subscribe", {"uri": "demo://a"})
            assert (await two.http.delete(two.url)).status_code == 200
    async with open_rig(key=key, journal=journal, tokens=tokens) as rig:
        instance = await rig.talker("legacy", policy=READS)
        async with rig.http(token) as http:
            assert await use(http, dead) == 404
            http.headers["mcp-session-id"] = live
            assert (await http.post("/treasury/mcp", json=PING)).status_code == 200
            async with rig.caller("legacy", token=token) as caller:
                caller.http.headers["mcp-session-id"] = live
                steps = (["log", "info", "quiet"], ["log", "error", "loud"])
                async with caller.act(*steps) as talk:
                    logged, answer = await talk.rest()
                assert cast("JsonObject", logged["params"])["data"] == "loud"
                assert "result" in answer
                async with caller.listen() as stream:
                    await rig.touch(instance, "demo://a")
                    told = await stream.need()
                assert told["params"] == {"uri": "demo://a"}
    async with open_rig(tokens=tokens) as rig, rig.http(token) as http:
        _ = await rig.talker("legacy")
        assert await use(http, live) == 404
        assert await use(http, dead) == 404


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", "1999-01-01"])
async def test_opening_says_what_is_there(open_rig: OpenRig, version: str) -> None:
    """The answer to `initialize` has the agreed revision and the role's abilities, cut to it."""
    params: JsonObject = {"protocolVersion": version, "capabilities": {}}
    body: JsonObject = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    async with open_rig() as rig:
        policy = RolePolicy(resources=("demo://a",), prompts=("greet",))
        _ = await rig.talker("modern", policy=policy)
        async with rig.http(rig.token()) as http:
            response = await http.post("/treasury/mcp", json=body)
            result = cast("dict[str, JsonObject]", response.json())["result"]
            assert result["protocolVersion"] == ("2025-11-25" if version[0] == "1" else version)
            assert result["instructions"] == "Be kind."
            assert result["capabilities"] == {
                "tools": {"listChanged": True},
                "resources": {"listChanged": True, "subscribe": True},
                "prompts": {"listChanged": True},
                "completions": {},
                "logging": {},
            }
            again = await http.post("/treasury/mcp", json=body)
            assert again.headers["mcp-session-id"] != response.headers["mcp-session-id"]
