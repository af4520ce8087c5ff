"""What an operator holds back, in a real project: it counts from the next call on, and lasts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import pytest

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

    from tests.e2e.conftest import Object, Project

SERVERS: Final = Path(__file__).parents[1] / "servers"
SERVER: Final = """
server: scripted
description: A server for tests.
owner: tests
source: tests/servers/scripted.py
launch:
  command: ["{python}", -I, SERVERS/scripted.py, --tools, "echo,send,wipe", --notes, NOTES]
bands: {names: [all]}
tools:
  echo: {band: all, class: READ}
  send: {band: all, class: WRITE}
  wipe: {band: all, class: DESTRUCTIVE}
"""
ROLE: Final = """
role: NAME
justification: It is held back.
owner: Tests <owner@example.com>
server: scripted
bands: [all]
"""


@pytest.fixture
def two(bare: Project) -> Project:
    """Run two roles whose server notes each call."""
    notes = str(bare.root / "notes")
    text = SERVER.replace("SERVERS", str(SERVERS)).replace("NOTES", notes)
    _ = bare.write("roles/servers/scripted.yaml", text)
    for name in ("low", "high"):
        _ = bare.write(f"roles/{name}.yaml", ROLE.replace("NAME", name))
    _ = bare.agents("up", "-d")
    return bare


async def code_of(client: Client, tool: str) -> str:
    """Call a tool, and tell the refusal's code; empty if it was made."""
    result = await client.call_tool(tool, {"to": "somebody"})
    return refusal(result)


def refusal(result: CallToolResult) -> str:
    """Tell the code of a refusal; empty for another result."""
    told = cast("Object", result.structured_content or {}) if result.is_error else {}
    return str(told.get("code", ""))


def restart(project: Project) -> None:
    """Kill the daemon, and wait until another one serves."""
    before = project.daemon_pid()
    os.kill(before, signal.SIGKILL)
    project.wait(lambda: project.status()["pid"] not in {None, before} and project.is_ready())


def made(project: Project) -> int:
    """Tell how many calls came to a server."""
    return (project.root / "notes").read_text().count("call")


def events(project: Project) -> list[Object]:
    """Read the record."""
    return [
        cast("Object", json.loads(line))
        for path in sorted((project.state / "audit").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


async def test_a_frozen_role_refuses_the_next_call(two: Project) -> None:
    """No call is made from then on, over kill -9 and a whole restart; others go on; then a thaw."""
    async with two.client("high") as client, two.client("low") as other:
        assert await code_of(client, "send") == ""
        told = two.json("freeze", "high", "--reason", "odd transfers")
        assert told["changed"] is True
        before = made(two)
        assert [await code_of(client, tool) for tool in ("echo", "send")] == ["role.frozen"] * 2
        assert made(two) == before
        assert await code_of(other, "send") == ""
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"echo", "send"}
        assert two.json("freeze", "high")["changed"] is False
    restart(two)
    async with two.client("high") as client:
        assert await code_of(client, "echo") == "role.frozen"
    _ = two.agents("down")
    _ = two.agents("up", "-d")
    assert "high" in two.agents("guards").stdout
    assert "high is frozen" in two.agents("status").stdout
    async with two.client("high") as client:
        assert await code_of(client, "echo") == "role.frozen"
        assert two.json("thaw", "high")["changed"] is True
        assert await code_of(client, "echo") == ""
    assert "Nothing is held back" in two.agents("guards").stdout
    names = [one["event"] for one in events(two)]
    assert names.count("guard.frozen") == 1
    assert names.count("guard.thawed") == 1


async def test_a_role_that_may_only_read(two: Project) -> None:
    """READ tools go on, the others do not; `thaw` ends it."""
    _ = two.agents("freeze", "high", "--read-only")
    async with two.client("high") as client:
        told = [await code_of(client, tool) for tool in ("echo", "send", "wipe")]
        assert told == ["", "role.frozen", "role.frozen"]
        _ = two.agents("thaw", "high")
        assert await code_of(client, "wipe") == ""


async def test_everything_is_frozen(two: Project) -> None:
    """Every role is, also for the next daemon; the thaw of one role ends only its own freeze."""
    _ = two.agents("freeze")
    _ = two.agents("freeze", "low")
    restart(two)
    async with two.client("low") as client:
        assert await code_of(client, "echo") == "role.frozen"
        assert "Still held back" in two.agents("thaw", "low").stdout
        assert await code_of(client, "echo") == "role.frozen"
        _ = two.agents("thaw")
        assert await code_of(client, "echo") == ""


async def test_a_disabled_tool_refuses_the_next_call(two: Project) -> None:
    """Agents still see it; at one role or at all; a restart forgets nothing."""
    async with two.client("high") as client, two.client("low") as other:
        _ = two.agents("disable", "send", "--role", "high")
        assert [await code_of(one, "send") for one in (client, other)] == ["tool.disabled", ""]
        assert await code_of(client, "wipe") == ""
        _ = two.agents("disable", "wipe")
        assert [await code_of(one, "wipe") for one in (client, other)] == ["tool.disabled"] * 2
        assert "send" in {tool.name for tool in (await client.list_tools()).tools}
    restart(two)
    async with two.client("high") as client:
        told = [await code_of(client, tool) for tool in ("echo", "send", "wipe")]
        assert told == ["", "tool.disabled", "tool.disabled"]
        _ = two.agents("enable", "send", "--role", "high")
        _ = two.agents("enable", "wipe")
        assert [await code_of(client, tool) for tool in ("send", "wipe")] == ["", ""]


def test_a_misspelt_name_holds_nothing_back_and_says_so(two: Project) -> None:
    """Whoever misspells a role or a tool hears of it."""
    for words in (
        ("freeze", "hihg"),
        ("disable", "sned"),
        ("disable", "send", "--role", "hihg"),
        ("shadow", "start", "hihg", "--for", "1h"),
    ):
        assert "nothing was changed" in two.agents(*words, check=10).stderr
    assert two.json("guards")["holds"] == []


async def test_what_cannot_be_read_freezes_everything(two: Project) -> None:
    """A hold that nobody understands may be any, so no call is made until it is mended."""
    _ = two.agents("freeze", "low", "--reason", "a test")
    _ = two.agents("down")
    change(two, "UPDATE holds SET kind = 'melted'")
    _ = two.agents("up", "-d")
    async with two.client("high") as client:
        assert await code_of(client, "echo") == "role.frozen"
        assert "EVERYTHING IS FROZEN" in two.agents("guards").stdout
        assert "nobody knows" in two.agents("thaw", check=10).stderr
        change(two, "DELETE FROM holds")
        two.wait(lambda: not two.json("guards")["problem"])
        assert await code_of(client, "echo") == ""


def change(project: Project, statement: str) -> None:
    """Change the database behind everybody's back."""
    import sqlite3  # noqa: PLC0415

    connection = sqlite3.connect(project.state / "agents.db", timeout=10)
    with connection:
        _ = connection.execute(statement)
    connection.close()


async def test_a_role_in_shadow_does_nothing(two: Project) -> None:
    """What would change something is recorded and not done, and the agent is told so."""
    told = two.json("shadow", "start", "high", "--for", "1h", "--reason", "a new prompt")
    assert told["changed"] is True
    async with two.client("high") as client, two.client("low") as other:
        before = made(two)
        result = await client.call_tool("send", {"to": "canary-somebody", "amount": 3})
        assert (refusal(result), made(two)) == ("shadow.not_executed", before)
        assert dict(result.meta or {})["dev.bandmaster/shadow"] is True
        assert cast("Object", result.structured_content)["category"] == "flow"
        assert [await code_of(one, "wipe") for one in (client, other)] == [
            "shadow.not_executed",
            "",
        ]
        assert await code_of(client, "echo") == ""
        assert made(two) == before + 2
    restart(two)
    async with two.client("high") as client:
        assert await code_of(client, "send") == "shadow.not_executed"
        report = two.json("shadow", "report", "high")
        tools = {str(one["tool"]): one for one in cast("list[Object]", report["tools"])}
        assert {name: (one["calls"], one["different"]) for name, one in tools.items()} == {
            "send": (2, 2),
            "wipe": (1, 1),
        }
        calls = cast("list[Object]", report["calls"])
        assert "to: text(15)" in [str(one["summary"]).partition(",")[0] for one in calls]
        assert "canary" not in json.dumps(events(two))
        shown = two.agents("shadow", "report").stdout
        assert "In shadow now" in shown
        assert "to: text(15), amount: integer" in shown
        assert two.json("shadow", "report", "low")["tools"] == []
        assert two.json("shadow", "stop", "high")["changed"] is True
        assert await code_of(client, "send") == ""


async def test_a_shadow_ends_by_itself(two: Project) -> None:
    """When its time is over calls are made again, without anybody's word."""
    _ = two.agents("shadow", "start", "high", "--tool", "send", "--for", "2s")
    async with two.client("high") as client:
        assert await code_of(client, "wipe") == ""
        codes: set[str] = set()
        with anyio.fail_after(30):
            while "" not in codes:
                codes.add(await code_of(client, "send"))
        assert codes <= {"shadow.not_executed", ""}
    assert two.json("guards")["holds"] == []
    assert "90 days" in two.agents("shadow", "start", "high", "--for", "91d", check=2).stderr


async def test_a_role_file_may_put_a_role_into_shadow(two: Project) -> None:
    """Its word counts until its day is over, and no command ends it."""
    text = ROLE.replace("NAME", "high")
    _ = two.write("roles/high.yaml", text + "shadow: {tools: [send], until: 2999-12-31}\n")
    _ = two.agents("up", "-d")
    async with two.client("high") as client:
        assert [await code_of(client, tool) for tool in ("send", "wipe")] == [
            "shadow.not_executed",
            "",
        ]
        assert "Still in shadow" in two.agents("shadow", "stop", "high", "--tool", "send").stdout
        assert await code_of(client, "send") == "shadow.not_executed"
    _ = two.write("roles/high.yaml", text + "shadow: {until: 2020-01-01}\n")
    _ = two.agents("up", "-d")
    async with two.client("high") as client:
        assert await code_of(client, "send") == ""
    _ = two.write("roles/high.yaml", text + "shadow: {tools: [sned], until: soon}\n")
    told = two.agents("validate", check=2).stderr
    assert "2026-12-24" in told
    _ = two.write("roles/high.yaml", text + "shadow: {tools: [sned], until: 2999-12-31}\n")
    assert "did you mean `send`" in two.agents("validate", check=2).stderr
