"""Servers that others wrote, run as roles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import anyio
import pytest

if TYPE_CHECKING:
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

EVERYTHING_SERVER = """
server: everything
description: Shows everything that the protocol knows.
owner: tests
source: npm package @modelcontextprotocol/server-everything
launch: {command: [NODE, SCRIPT, stdio]}
bands: {names: [read, write]}
tools:
  echo: {band: read, class: READ}
  get-sum: {band: read, class: READ}
  get-annotated-message: {band: read, class: READ}
  get-env: {band: write, class: READ}
  get-resource-links: {band: read, class: READ}
  get-resource-reference: {band: read, class: READ}
  get-structured-content: {band: read, class: READ}
  get-tiny-image: {band: read, class: READ}
  gzip-file-as-resource: {band: write, class: WRITE}
  toggle-simulated-logging: {band: write, class: WRITE}
  toggle-subscriber-updates: {band: write, class: WRITE}
  trigger-long-running-operation: {band: read, class: READ}
  simulate-research-query: {band: write, class: WRITE}
"""

MODES = ("auto", "legacy", "2026-07-28")


def role(name: str, server: str, bands: str = "full") -> str:
    """Write a role file."""
    return (
        f"role: {name}\nserver: {server}\nbands: {bands}\n"
        "justification: A test of a foreign server.\nowner: tests\n"
    )


async def test_a_python_server_runs_as_a_role_in_both_eras(bare: Project) -> None:
    """`mcp-server-time` shows its two tools and tells the time to clients of both eras."""
    _ = bare.write("roles/servers/time.yaml", TIME_SERVER)
    _ = bare.write("roles/clock.yaml", role("clock", "time"))
    _ = bare.agents("up", "-d")

    for mode in MODES:
        with anyio.fail_after(90):
            async with bare.client("clock", mode) as client:
                assert {tool.name for tool in (await client.list_tools()).tools} == {
                    "get_current_time",
                    "convert_time",
                }
                result = await client.call_tool("get_current_time", {"timezone": "UTC"})
                assert not result.is_error
                assert "UTC" in str(result.content)


async def test_a_node_server_of_the_older_era_is_cut_to_its_band(
    bare: Project, node: Mapping[str, str]
) -> None:
    """A server without bands of its own shows a role its band's tools; the rest do not exist."""
    text = EVERYTHING_SERVER.replace("NODE", node["node"]).replace("SCRIPT", node["everything"])
    _ = bare.write("roles/servers/everything.yaml", text)
    _ = bare.write("roles/reader.yaml", role("reader", "everything", "[read]"))
    _ = bare.write("roles/writer.yaml", role("writer", "everything"))
    _ = bare.agents("up", "-d")

    assert len(cast("list[str]", bare.role("reader")["tools"])) == 8
    assert len(cast("list[str]", bare.role("writer")["tools"])) == 13
    for mode in MODES:
        with anyio.fail_after(90):
            async with bare.client("reader", mode) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert "echo" in names
                assert "get-env" not in names
                result = await client.call_tool("get-sum", {"a": 2, "b": 40})
                assert "42" in str(result.content)
                with pytest.raises(Exception, match="Unknown tool: get-env") as hidden:
                    _ = await client.call_tool("get-env", {})
                with pytest.raises(Exception, match="Unknown tool: get-foo") as unknown:
                    _ = await client.call_tool("get-foo", {})
                assert type(hidden.value) is type(unknown.value)


async def test_the_servers_environment_is_the_written_one_and_no_more(
    bare: Project, node: Mapping[str, str]
) -> None:
    """A server that tells its environment tells the baseline and nothing of the user's."""
    text = EVERYTHING_SERVER.replace("NODE", node["node"]).replace("SCRIPT", node["everything"])
    _ = bare.write("roles/servers/everything.yaml", text)
    _ = bare.write("roles/writer.yaml", role("writer", "everything"))
    bare.env["LEAK"] = "not for servers"
    _ = bare.agents("up", "-d")

    with anyio.fail_after(90):
        async with bare.client("writer") as client:
            result = await client.call_tool("get-env", {})
    told = cast("Object", json.loads(str(getattr(result.content[0], "text", ""))))

    assert told.keys() == {"HOME", "LANG", "PATH", "TMPDIR", "TZ"}
    assert told["HOME"] == str(bare.state / "homes" / "writer")
