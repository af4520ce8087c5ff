"""`agents gateway`: roles whose servers somebody else starts, here the tests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.to_thread
import httpx2
import pytest

from orchestrator.runtimes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.e2e.conftest import Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SCRIPT: Final = Path(__file__).parents[1] / "servers" / "http_tools.py"
TOOLS: Final = ("echo", "huge", "count", "ask", "hold", "change", "crash")
MODES: Final = ("auto", "legacy", "2026-07-28")
LONGEST: Final = 120
OPENING: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPTED: Final = {"Accept": "application/json, text/event-stream"}


def set_up(project: Project, tools: tuple[str, ...] = TOOLS, role: str = "") -> None:
    """Write a project with one role; how its server is started is nobody's business here."""
    known = "".join(f"  {name}: {{band: read, class: READ}}\n" for name in tools)
    _ = project.write(
        "roles/servers/http.yaml",
        "server: http\ndescription: Speaks HTTP.\nowner: tests\nsource: the tests\n"
        "launch: {command: [no-such-program]}\nasks: [elicitation]\n"
        f"bands: {{names: [read]}}\nprobe: {{startup: 30s}}\ntools:\n{known}",
    )
    _ = project.write(
        "roles/reader.yaml",
        f"role: reader\nserver: http\nbands: full\njustification: A test.\nowner: tests\n{role}",
    )


@contextmanager
def serving(port: int, project: Project) -> Generator[subprocess.Popen[bytes]]:
    """Run a server at a port."""
    words = [sys.executable, "-I", str(SCRIPT), "--port", str(port), "--notes", str(project.root)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def gateway(project: Project, *words: str) -> Generator[subprocess.Popen[str]]:
    """Run `agents gateway`, whose log goes to a file."""
    with (
        (project.root / "gateway.log").open("a") as log,
        subprocess.Popen(
            [AGENTS, "gateway", *words],
            cwd=project.root,
            env=project.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        ) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def at(port: int) -> tuple[str, str]:
    """Write where the role's server is."""
    return "--attach", f"reader=http://127.0.0.1:{port}/mcp"


async def echo(project: Project, text: str, mode: str = "auto") -> None:
    """Make one call as an agent."""
    with anyio.fail_after(LONGEST):
        async with project.client("reader", mode) as client:
            result = await client.call_tool("echo", {"text": text})
            assert not result.is_error, result.content
            assert text in str(result.content[0])


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_of_somebody_else_is_served(bare: Project, mode: str) -> None:
    """A server that was found running serves agents of both eras, with the same attestation."""
    set_up(bare)
    port = free_port()
    with serving(port, bare), gateway(bare, *at(port)):
        bare.wait(bare.is_ready)
        role = bare.role("reader")
        assert role["pid"] is None
        assert set(cast("list[str]", role["tools"])) == set(TOOLS)
        await echo(bare, "hello", mode)


async def test_the_address_stands_in_the_settings(bare: Project) -> None:
    """The addresses of `attach:` are taken, and `agents up` starts no server of such a role."""
    set_up(bare)
    port = free_port()
    _ = bare.write(
        "agents.yaml", f"listen: 127.0.0.1:0\nattach: {{reader: 'http://127.0.0.1:{port}/mcp'}}\n"
    )
    refused = bare.agents("up", "-d", check=2)
    assert "`agents gateway` serves such roles" in refused.stderr
    with serving(port, bare), gateway(bare):
        bare.wait(bare.is_ready)
        await echo(bare, "hello")


async def test_a_token_is_issued_from_outside_and_outlives_the_gateway(bare: Project) -> None:
    """A token that a command asks for is accepted, also by the next gateway of the same state."""
    set_up(bare)
    port = free_port()
    with serving(port, bare):
        with gateway(bare, *at(port)) as first:
            bare.wait(bare.is_ready)
            token = bare.json("token", "issue", "reader", "--agent", "alice")["token"]
            first.terminate()
            assert first.wait(LONGEST) == 0
        with gateway(bare, *at(port)):
            bare.wait(bare.is_ready)
            async with httpx2.AsyncClient(timeout=LONGEST) as http:
                for shown, status in ((token, 200), ("mga_wrong", 401)):
                    reply = await http.post(
                        bare.url("reader"),
                        json=OPENING,
                        headers={**ACCEPTED, "Authorization": f"Bearer {shown}"},
                    )
                    assert reply.status_code == status, reply.text


def test_a_signal_ends_it_and_its_log_is_json(bare: Project) -> None:
    """SIGTERM ends the gateway with 0, with or without a server, and each line it wrote is JSON."""
    set_up(bare)
    with gateway(bare, *at(free_port())) as running:
        bare.wait(lambda: bool(bare.status()["pid"]))
        running.terminate()
        assert running.wait(LONGEST) == 0
    lines = (bare.root / "gateway.log").read_text().splitlines()
    assert lines
    assert all("event" in json.loads(line) for line in lines)


async def test_a_server_that_comes_back_is_found(bare: Project) -> None:
    """A call that meets no server waits for the next one at the same address."""
    set_up(bare)
    port = free_port()
    with gateway(bare, *at(port)):
        with serving(port, bare) as first:
            bare.wait(bare.is_ready)
            await echo(bare, "first")
            first.kill()
            bare.wait(lambda: bare.role("reader")["state"] != "ready")
        async with anyio.create_task_group() as group:
            group.start_soon(echo, bare, "second")
            with serving(port, bare):
                bare.wait(bare.is_ready)
                await echo(bare, "third")
                assert bare.role("reader")["restarts"]


def test_a_server_that_shows_too_much_gets_no_call(bare: Project) -> None:
    """A server that shows more than the role was promised is not served."""
    set_up(bare, TOOLS[:-1])
    port = free_port()
    with serving(port, bare), gateway(bare, *at(port)):
        bare.wait(lambda: bare.role("reader")["state"] == "quarantined")
        assert "crash" in str(bare.role("reader")["detail"])


async def test_another_server_takes_over_without_a_failed_call(bare: Project) -> None:
    """After `agents attach` another server serves; one that is not there changes nothing."""
    set_up(bare)
    one, two, calls = free_port(), free_port(), 0
    with gateway(bare, *at(one)), serving(one, bare) as first, serving(two, bare):
        bare.wait(bare.is_ready)
        with anyio.fail_after(LONGEST):
            async with bare.client("reader") as client, anyio.create_task_group() as group:

                async def call_on() -> None:
                    nonlocal calls
                    while True:
                        result = await client.call_tool("echo", {"text": "on"})
                        assert not result.is_error
                        calls += 1

                group.start_soon(call_on)
                url = f"http://127.0.0.1:{two}/mcp"
                _ = await anyio.to_thread.run_sync(bare.agents, "attach", "reader", url)
                first.kill()
                await echo(bare, "after the first is gone")
                missing = f"http://127.0.0.1:{free_port()}/mcp"
                refused = await anyio.to_thread.run_sync(
                    lambda: bare.agents("attach", "reader", missing, check=6)
                )
                assert "keeps serving" in refused.stderr
                assert "nobody answers" in refused.stderr
                await echo(bare, "as before")
                group.cancel_scope.cancel()
    assert calls


Words = tuple[str, ...]


@pytest.mark.parametrize(
    ("words", "role", "said"),
    [
        ((), "", "nobody says where the server of reader is"),
        (("--attach", "reader=ftp://x"), "", "the address of a server is http://"),
        (("--attach", "reader=http://x:0/mcp"), "", "the address of a server is http://"),
        (("--attach", "reader"), "", "the address of a server is http://"),
        (("--listen", "everywhere"), "", "no address of this machine"),
        (("--host", "a b"), "", "no name of a host"),
        (("writer",), "", "there is no role"),
        (at(1), "instances: per-agent\n", "`instances: per-agent`"),
    ],
)
def test_what_it_cannot_do_is_said(bare: Project, words: Words, role: str, said: str) -> None:
    """A wrong word or a role that asks for more than is there is an error, and nothing starts."""
    set_up(bare, role=role)
    if words[:1] not in {("--attach",), ()} and words != ("writer",):
        words = (*at(1), *words)
    refused = bare.agents("gateway", *words, check=2)
    assert said in refused.stderr
    assert not (bare.state / "control.json").exists()


def test_a_port_that_is_taken_is_named(bare: Project) -> None:
    """A port that a stranger has is an error that names it."""
    set_up(bare)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = cast("int", stranger.getsockname()[1])
        refused = bare.agents("gateway", *at(1), "--listen", f"127.0.0.1:{port}", check=2)
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr


def test_a_second_gateway_of_the_same_state_is_refused(bare: Project) -> None:
    """Two gateways never share a state."""
    set_up(bare)
    with gateway(bare, *at(free_port())):
        bare.wait(lambda: bool(bare.status()["pid"]))
        refused = bare.agents("gateway", *at(1), "--listen", "127.0.0.1:0", check=10)
    assert "Another" in refused.stderr or "another" in refused.stderr
