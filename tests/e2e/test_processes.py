"""More than one process for a role: eras, owners, a spare; whole projects, official clients."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.e2e.conftest import Object, Project

TIME_SERVER = """
server: time
description: Tells the time in any zone.
owner: tests
source: Python package mcp-server-time
launch: {command: [mcp-server-time, --local-timezone, UTC]}
bands: {names: [read]}
tools:
  get_current_time: {band: read, class: READ}
  convert_time: {band: read, class: READ}
"""
ROLE = """
role: clock
server: time
bands: full
justification: A test of several processes.
owner: tests
"""


def start(project: Project, more: str = "") -> None:
    """Run the time server as a role."""
    _ = project.write("roles/servers/time.yaml", TIME_SERVER)
    _ = project.write("roles/clock.yaml", ROLE + more)
    _ = project.agents("up", "-d")


def lanes(project: Project) -> list[Object]:
    """Tell the role's lanes."""
    return cast("list[Object]", project.role("clock")["lanes"])


def spare(project: Project) -> Object:
    """Tell the role's spare; nothing is known of one that is not there."""
    return cast("Object | None", project.role("clock")["spare"]) or {}


async def ask(client: Client) -> None:
    """Make one call."""
    with anyio.fail_after(90):
        result = await client.call_tool("get_current_time", {"timezone": "UTC"})
        assert not result.is_error, result
        assert "UTC" in str(result.content)


@asynccontextmanager
async def client_of(project: Project, agent: str, mode: str = "auto") -> AsyncGenerator[Client]:
    """Connect the official client with a token of an agent's own."""
    issued = project.json("token", "issue", "clock", "--agent", agent, "--ttl", "1d")
    headers = {"Authorization": f"Bearer {issued['token']}"}
    transport = httpx2.AsyncClient(headers=headers, timeout=90)
    async with (
        transport as http,
        Client(streamable_http_client(project.url("clock"), http_client=http), mode=mode) as client,
    ):
        yield client


async def test_each_era_has_a_process_that_speaks_it(bare: Project) -> None:
    """A server of both eras is opened in the older one for the first client that speaks it."""
    start(bare)
    async with bare.client("clock", "2026-07-28") as client:
        await ask(client)
    assert lanes(bare) == []
    for _ in range(2):
        async with bare.client("clock", "legacy") as client:
            await ask(client)
    (lane,) = lanes(bare)
    assert (lane["era"], lane["owner"], lane["state"]) == ("legacy", "", "ready")
    assert "clock: 1 lane: legacy" in bare.agents("status").stdout
    # It outlives the control plane, as every process does.
    daemon = bare.daemon_pid()
    os.kill(daemon, signal.SIGKILL)
    bare.wait(lambda: bare.is_ready() and bare.daemon_pid() != daemon)
    bare.wait(lambda: [one["pid"] for one in lanes(bare)] == [lane["pid"]])
    async with bare.client("clock", "legacy") as client:
        await ask(client)
    assert [one["pid"] for one in lanes(bare)] == [lane["pid"]]


async def test_agents_do_not_share_a_process(bare: Project) -> None:
    """With `instances: per-agent` each agent's calls go to a process that is its alone."""
    start(bare, "instances: per-agent\n")
    async with client_of(bare, "alice") as alice, client_of(bare, "bob", "legacy") as bob:
        for client in (alice, bob, alice):
            await ask(client)
    found = {lane["owner"]: lane for lane in lanes(bare)}
    assert found.keys() == {"alice", "bob"}
    pids = {found["alice"]["pid"], found["bob"]["pid"], bare.pid("clock")}
    assert len(pids) == 3


async def test_sessions_do_not_share_a_process(bare: Project) -> None:
    """With `instances: per-session` a process ends with the session that it was started for."""
    start(bare, "instances: per-session\n")
    async with bare.client("clock", "legacy") as one, bare.client("clock", "legacy") as two:
        await ask(one)
        await ask(two)
        first, second = lanes(bare)
        assert first["owner"] != second["owner"]
        assert first["pid"] != second["pid"]
    # The client ends its session when it leaves.
    bare.wait(lambda: lanes(bare) == [])
    bare.wait(lambda: sum("mcp-server-time" in one for one in bare.processes().values()) == 1)


async def test_nobody_notices_a_crash_where_a_spare_stands_by(bare: Project) -> None:
    """Calls go on through one kill after the other, without an error and without a wait."""
    start(bare, "standby: 1\n")
    bare.wait(lambda: spare(bare).get("state") == "ready")
    async with bare.client("clock", "2026-07-28") as client:
        await ask(client)
        for _ in range(3):
            bare.wait(lambda: spare(bare).get("state") == "ready")
            serving, standing_by = bare.pid("clock"), spare(bare)["pid"]
            os.kill(serving, signal.SIGKILL)
            with anyio.fail_after(90):
                for _ in range(20):
                    await ask(client)
            assert bare.pid("clock") == standing_by


def test_descriptors(bare: Project) -> None:
    """The daemon may open as many as the system allows; servers have the usual number."""
    start(bare)
    daemon = Path(f"/proc/{bare.daemon_pid()}/limits").read_text()
    server = Path(f"/proc/{bare.pid('clock')}/limits").read_text()
    words = {
        name: next(line for line in text.splitlines() if line.startswith("Max open files")).split()
        for name, text in (("daemon", daemon), ("server", server))
    }
    assert words["daemon"][3] == words["daemon"][4]
    assert words["server"][3] == "4096"
