"""The record of a whole project: what happened is in it, in order, and nothing that is secret."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, cast

import httpx2

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, Project

CANARY = "canary-91b4-record"


def lines(project: Project, *words: str) -> list[Object]:
    """Read the record as a program does."""
    text = project.agents("calls", *words, "--json").stdout
    return [cast("Object", json.loads(line)) for line in text.splitlines()]


async def test_who_called_what_can_be_told_afterwards(running: Project) -> None:
    """Calls, refusals and intents are there by agent and tool, over a crash of the daemon too."""
    async with running.client("treasury") as client:
        price = await client.call_tool("get_price", {"symbol": "ETH"})
        assert not price.is_error
        _ = await client.call_tool("get_price", {"symbol": CANARY})
        address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
        buying = {"address": address, "chain": "ethereum", "fiatAmount": "50"}
        assert not (await client.call_tool("prepare_onramp", buying)).is_error
    shown = {"authorization": f"Bearer {CANARY}"}
    refused = httpx2.post(running.url("treasury"), headers=shown, timeout=60)
    assert refused.status_code == 401

    told = lines(running, "treasury")
    asked = [line for line in told if line.get("tool") == "get_price"]
    arguments = hashlib.sha256(b'{"symbol":"ETH"}').hexdigest()
    assert asked[0]["arguments_sha256"] == arguments
    assert (asked[0]["outcome"], asked[0]["class"]) == ("ok", "READ")
    assert asked[0]["pid"] == running.pid("treasury")
    intent, outcome = [line for line in told if line.get("tool") == "prepare_onramp"]
    assert (intent["event"], intent["class"], outcome["event"]) == ("intent", "WRITE", "outcome")
    assert intent["request"] == outcome["request"]
    assert told[-1]["code"] == "token.unknown"
    assert told[-1]["request"] == refused.headers["x-request-id"]
    assert "get_price" in running.agents("calls", "treasury", "-n", "5").stdout

    daemon = running.daemon_pid()
    os.kill(daemon, 9)
    running.wait(lambda: running.is_ready() and running.daemon_pid() != daemon)
    async with running.client("monitoring") as client:
        _ = await client.list_tools()
    every = lines(running, "-n", "1000")
    assert [line["seq"] for line in every] == list(range(1, len(every) + 1))
    assert [line["event"] for line in every].count("start") == 2
    assert any(line.get("method") == "tools/list" for line in every[-20:])

    _ = running.agents("down")
    assert [line["event"] for line in lines(running)][-2:] == ["stop", "checkpoint"]
    # Over the crash and the end, with all that happened beside calls.
    assert "as it was written" in running.agents("audit", "verify").stdout
    told = running.agents("audit", "show", str(intent["request"])).stdout
    assert "prepare_onramp address=0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed" in told
    events = {str(line["event"]) for line in every}
    assert {"config.loaded", "instance.launched", "role.ready", "token.issued"} <= events
    directory = running.state / "audit"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert CANARY.encode() not in content
        for role in ("monitoring", "treasury", "executor"):
            assert running.token(role).encode() not in content
