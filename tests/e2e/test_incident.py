"""A role that does what it must not, in a real project: stopped at once, and over every crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httpx2
import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject
    from tests.e2e.conftest import Object, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
SERVER: Final = """
server: scripted
description: A server for tests.
owner: tests
source: tests/servers/scripted.py
launch:
  command: ["{python}", -I, SERVERS/scripted.py, --tools, "echo,hold", --notes, NOTES]
bands: {names: [all]}
tools:
  echo: {band: all, class: READ}
  hold: {band: all, class: READ}
"""
ROLE: Final = """
role: NAME
justification: It goes wrong.
owner: Tests <owner@example.com>
server: scripted
bands: [all]
"""
META: Final[JsonObject] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
STEPS: Final = ["freeze", "revoke", "cut", "export", "notify"]


class Hook(ThreadingHTTPServer):
    """Takes messages."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on any port."""
        super().__init__(("127.0.0.1", 0), Taker)
        self.taken: list[Object] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Taker(BaseHTTPRequestHandler):
    """Takes one message."""

    def do_POST(self) -> None:
        """Keep it."""
        size = int(self.headers["content-length"])
        message = cast("Object", json.loads(self.rfile.read(size)))
        cast("Hook", self.server).taken.append({**message, "headers": dict(self.headers)})
        self.send_response(200)
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Generator[Hook]:
    """Run an endpoint for messages."""
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def two(bare: Project, hook: Hook) -> Project:
    """Run two roles in a project that tells a webhook."""
    text = SERVER.replace("SERVERS", str(SERVERS)).replace("NOTES", str(bare.root / "notes"))
    _ = bare.write("roles/servers/scripted.yaml", text)
    for name in ("low", "high"):
        _ = bare.write(f"roles/{name}.yaml", ROLE.replace("NAME", name))
    bare.env["HOOK_SECRET"] = "canary-hook-secret"
    _ = bare.write(
        "agents.yaml",
        "listen: 127.0.0.1:0\n"
        f"notify: {{ops: {{webhook: '{hook.url}', secret: 'env:HOOK_SECRET'}}}}\n",
    )
    _ = bare.agents("up", "-d")
    return bare


def post(url: str, token: str, tool: str) -> httpx2.Response:
    """Call a tool, as a caller of today."""
    return httpx2.post(
        url,
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": {}, "_meta": META},
        },
        headers={
            "accept": "application/json, text/event-stream",
            "authorization": f"Bearer {token}",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": tool,
        },
        timeout=30,
    )


def steps(incident: Object, which: str = "steps") -> dict[str, Object]:
    """Tell the steps of an incident by name."""
    return {str(step["name"]): step for step in cast("list[Object]", incident[which])}


def events(project: Project, name: str) -> list[Object]:
    """Find events in the record."""
    return [
        told
        for path in sorted((project.state / "audit").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
        if (told := cast("Object", json.loads(line)))["event"] == name
    ]


def restart(project: Project) -> None:
    """Kill the daemon, and wait until another one serves."""
    before = project.daemon_pid()
    os.kill(before, signal.SIGKILL)
    project.wait(lambda: project.status()["pid"] not in {None, before} and project.is_ready())


def test_an_incident_from_start_to_close(two: Project, hook: Hook) -> None:
    """Everything of the role is refused, the owner told, the record copied; then undone."""
    url, own = two.url("high"), two.token("high")
    alice = str(two.json("token", "issue", "high", "--agent", "alice")["token"])
    assert [post(url, one, "echo").status_code for one in (own, alice)] == [200, 200]
    held: list[httpx2.Response] = []
    caller = threading.Thread(target=lambda: held.append(post(url, alice, "hold")))
    caller.start()
    two.wait(lambda: "hold" in (two.root / "notes").read_text())
    text = two.agents("incident", "start", "high", "--reason", "odd transfers").stdout
    caller.join(30)
    assert held, "the call that was under way was not cut"
    assert '"ok"' not in held[0].text
    [listed] = cast("list[Object]", cast("object", two.ask({"op": "incidents"})))
    incident = two.json("incident", "show", str(listed["id"]))
    assert list(steps(incident)) == STEPS
    assert all(step["ok"] for step in steps(incident).values()), incident
    assert all(name in text for name in STEPS)
    assert (incident["state"], incident["durable"]) == ("open", True)
    assert [post(url, one, "echo").status_code for one in (own, alice)] == [401, 401]
    assert post(two.url("low"), two.token("low"), "echo").status_code == 200
    copied = two.state / "incidents" / str(incident["id"]) / "record.jsonl"
    lines = [cast("Object", json.loads(line)) for line in copied.read_bytes().splitlines()]
    assert {line["role"] for line in lines} == {"high"}
    assert any(line.get("agent") == "alice" for line in lines)
    assert copied.stat().st_mode & 0o077 == 0
    [message] = hook.taken
    assert "odd transfers" in str(message["blocks"])
    assert "canary-hook-secret" not in json.dumps(message)
    # Nothing opens it behind the incident's back: neither a restart nor another command.
    restart(two)
    assert [post(url, one, "echo").status_code for one in (own, alice)] == [401, 401]
    assert (
        "incident close" in two.agents("token", "issue", "high", "--agent", "bob", check=9).stderr
    )
    assert "incident close" in two.agents("reopen", "high", check=9).stderr
    assert "Still held back" in two.agents("thaw", "high").stdout
    closed = two.json("incident", "close", str(incident["id"]), "--reason", "it was a drill")
    assert list(steps(closed, "close_steps")) == ["reissue", "thaw", "tell"]
    assert closed["state"] == "closed"
    assert any("alice" in text for text in cast("list[str]", closed["remaining"]))
    assert two.token("high") != own
    answer = post(two.url("high"), two.token("high"), "echo")
    assert (answer.status_code, '"isError":true' in answer.text) == (200, False)
    assert [post(two.url("high"), one, "echo").status_code for one in (own, alice)] == [401, 401]
    assert "closed already" in two.agents("incident", "close", str(incident["id"]), check=10).stderr
    assert len(events(two, "incident.started")) == len(events(two, "incident.closed")) == 1


@pytest.mark.parametrize("step", [0, 3])
def test_an_incident_goes_on_after_a_crash(two: Project, step: int) -> None:
    """Whenever the daemon is killed, the next one takes the steps that are left."""
    url, own, daemon = two.url("high"), two.token("high"), two.daemon_pid()
    command = subprocess.Popen(
        [AGENTS, "incident", "start", "high", "--reason", "odd transfers"],
        cwd=two.root,
        env=two.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdout is not None
    # The line that tells of the incident, then one for each step that is on disk.
    for _ in range(step + 1):
        if not command.stdout.readline():
            break
    os.kill(daemon, signal.SIGKILL)
    _ = command.communicate(timeout=60)
    two.wait(lambda: two.status()["pid"] not in {None, daemon})
    two.wait(two.is_ready)
    found = cast("list[Object]", cast("object", two.ask({"op": "incidents"})))
    if not found:
        assert step == 0, "an incident that was told is forgotten"
        return
    [name] = [str(one["id"]) for one in found]
    two.wait(lambda: two.json("incident", "show", name)["state"] == "open")
    assert list(steps(two.json("incident", "show", name))) == STEPS
    assert post(url, own, "echo").status_code == 401
    assert two.json("guards")["holds"]


@pytest.mark.parametrize("step", [1])
def test_a_close_goes_on_after_a_crash(two: Project, step: int) -> None:
    """Whenever the daemon is killed, the next one undoes what is left, each once."""
    name = str(two.json("incident", "start", "high", "--reason", "odd transfers")["id"])
    daemon = two.daemon_pid()
    command = subprocess.Popen(
        [AGENTS, "incident", "close", name, "--reason", "over"],
        cwd=two.root,
        env=two.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdout is not None
    for _ in range(step + 1):
        if not command.stdout.readline():
            break
    os.kill(daemon, signal.SIGKILL)
    _ = command.communicate(timeout=60)
    two.wait(lambda: two.status()["pid"] not in {None, daemon})
    two.wait(two.is_ready)
    two.wait(lambda: two.json("incident", "show", name)["state"] == "closed")
    assert list(steps(two.json("incident", "show", name), "close_steps")) == [
        "reissue",
        "thaw",
        "tell",
    ]
    assert two.json("guards")["holds"] == []
    assert post(two.url("high"), two.token("high"), "echo").status_code == 200
