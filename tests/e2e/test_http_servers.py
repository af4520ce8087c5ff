"""Servers that speak HTTP only, run as roles."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitRequestParams, ElicitResult

if TYPE_CHECKING:
    from mcp.client import ClientRequestContext

    from tests.e2e.conftest import Project

SCRIPT = Path(__file__).parents[1] / "servers" / "http_tools.py"
TOOLS = ("echo", "huge", "count", "ask", "hold", "change", "crash")
MODES = ("auto", "legacy", "2026-07-28")


def server(listen: str, *options: str) -> str:
    """Write the file of a server that speaks HTTP only."""
    place = f'--{listen}, "{{{listen}}}"'
    words = "".join(f', "{option}"' for option in options)
    tools = "".join(f"  {name}: {{band: read, class: READ}}\n" for name in TOOLS)
    return (
        "server: http\ndescription: Speaks HTTP.\nowner: tests\nsource: the tests\n"
        f'launch:\n  command: ["{sys.executable}", -I, "{SCRIPT}", {place}{words}]\n'
        f"  transport: http\n  listen: {listen}\nasks: [elicitation]\n"
        f"bands: {{names: [read]}}\nprobe: {{startup: 30s}}\ntools:\n{tools}"
    )


def set_up(project: Project, listen: str, *options: str) -> None:
    """Write a project with one role whose server speaks HTTP."""
    _ = project.write("roles/servers/http.yaml", server(listen, *options))
    _ = project.write(
        "roles/reader.yaml",
        "role: reader\nserver: http\nbands: full\njustification: A test.\nowner: tests\n",
    )


async def echo(project: Project, text: str, mode: str = "auto") -> str:
    """Make one call as an agent."""
    with anyio.fail_after(90):
        async with project.client("reader", mode) as client:
            result = await client.call_tool("echo", {"text": text})
            assert not result.is_error, result.content
            return str(result.content[0])


@pytest.mark.parametrize("listen", ["socket", "port"])
async def test_a_role_whose_server_speaks_http(bare: Project, listen: str) -> None:
    """It becomes ready and answers clients of both eras, with progress, questions and changes."""
    set_up(bare, listen)
    _ = bare.agents("up", "-d")
    assert bare.role("reader")["state"] == "ready"

    for mode in MODES:
        told: list[float] = []

        async def note(
            progress: float, total: float | None, message: str | None, told: list[float] = told
        ) -> None:
            assert (total, message) == (3, f"ünï {progress:g}")
            told.append(progress)

        with anyio.fail_after(90):
            async with bare.client("reader", mode) as client:
                assert {tool.name for tool in (await client.list_tools()).tools} == set(TOOLS)
                result = await client.call_tool("count", {"to": 3}, progress_callback=note)
                assert (result.is_error, told) == (False, [1, 2, 3])
                large = await client.call_tool("huge", {"size": 2_000_000})
                assert "x" * 2_000_000 in str(large.content[0])


async def test_a_question_of_a_server_that_speaks_http(bare: Project) -> None:
    """A legacy agent is asked, and the server has its answer."""
    set_up(bare, "socket")
    _ = bare.agents("up", "-d")

    async def answer(
        context: ClientRequestContext,  # noqa: ARG001 - the client gives it by name
        params: ElicitRequestParams,
    ) -> ElicitResult:
        assert params.message == "Which colour?"
        return ElicitResult(action="accept", content={"colour": "green"})

    headers = {"Authorization": f"Bearer {bare.token('reader')}"}
    with anyio.fail_after(90):
        async with (
            httpx2.AsyncClient(headers=headers, timeout=90) as http,
            Client(
                streamable_http_client(bare.url("reader"), http_client=http),
                mode="legacy",
                elicitation_callback=answer,
            ) as client,
        ):
            result = await client.call_tool("ask", {})
            assert "green" in str(result.content[0])


async def test_what_it_prints_and_where_it_listens(bare: Project) -> None:
    """Its output goes to its log, and its socket is in a directory that is its own."""
    set_up(bare, "socket")
    _ = bare.agents("up", "-d")
    assert "x" * 1_000 in (bare.state / "logs" / "reader.log").read_text()
    (link,) = (bare.state / "run" / "at").iterdir()
    seat = link.resolve()
    assert seat == (bare.state / "run" / "seats" / "reader.http.g1").resolve()
    assert seat.stat().st_mode & 0o777 == 0o700
    assert (seat / "http.sock").is_socket()
    assert not (seat / "in").exists()
    _ = bare.agents("down")
    assert not link.is_symlink()


async def test_it_comes_back(bare: Project) -> None:
    """A crashed server is replaced, and a daemon that starts again adopts a running one."""
    set_up(bare, "port")
    _ = bare.agents("up", "-d")
    first = bare.pid("reader")
    assert "one" in await echo(bare, "one")
    os.kill(first, signal.SIGKILL)
    bare.wait(lambda: bare.is_replaced("reader", first))
    second = bare.pid("reader")
    assert "two" in await echo(bare, "two", "legacy")

    daemon = bare.daemon_pid()
    os.kill(daemon, signal.SIGKILL)
    bare.wait(lambda: bare.is_ready() and bare.daemon_pid() != daemon)
    assert bare.pid("reader") == second
    assert "three" in await echo(bare, "three")


def test_one_that_the_network_reaches_is_not_routed(bare: Project) -> None:
    """A server that listens on every address does not become ready, and the reason says why."""
    set_up(bare, "port", "--host", "0.0.0.0")  # noqa: S104 - what is refused
    _ = bare.agents("up", "-d", check=None)
    bare.wait(lambda: "more addresses than 127.0.0.1" in str(bare.role("reader")["detail"]))
    assert bare.role("reader")["state"] != "ready"
