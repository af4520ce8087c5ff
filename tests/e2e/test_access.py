"""Who gets in: tokens, roles, hosts, and what never leaves its place."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters

from orchestrator.model.base import Json

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, Project

MODERN = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}
ENVELOPE: Json = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
CANARY = "canary-5d0c9f27-e7a3-4b61"


def knock(url: str, token: str | None) -> httpx2.Response:
    """List the tools of a role with a token, or without one."""
    headers = dict(MODERN)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx2.post(url, json=ENVELOPE, headers=headers, timeout=30)


def test_a_token_opens_its_own_role_and_no_other(running: Project) -> None:
    """Each of the three tokens is taken at its own URL and refused alike at the other two."""
    roles = ("monitoring", "treasury", "executor")
    answers = {
        (shown, asked): knock(running.url(asked), running.token(shown))
        for shown in roles
        for asked in roles
    }

    for (shown, asked), answer in answers.items():
        assert answer.status_code == (200 if shown == asked else 401), (shown, asked)
    refused = {answer.text for (shown, asked), answer in answers.items() if shown != asked}
    nobody = knock(running.url("treasury"), None)
    unknown_role = knock(running.url("treasury").replace("treasury", "nosuch"), None)
    # Told apart by nothing but the request's own id.
    assert len({_without_id(text) for text in (*refused, nobody.text, unknown_role.text)}) == 1
    assert nobody.status_code == unknown_role.status_code == 401


def _without_id(text: str) -> str:
    body = cast("Object", json.loads(text))
    data = cast("Object", cast("Object", body["error"]).get("data", {}))
    _ = data.pop("requestId", None)
    return str(body)


def test_an_issued_token_works_until_it_is_revoked(running: Project) -> None:
    """`token issue` prints a token that opens the role; after `token revoke` it is refused."""
    issued = running.json("token", "issue", "treasury", "--agent", "alice", "--ttl", "30d")
    assert issued.keys() >= {"token", "id", "role", "agent", "expires_at"}
    token, url = str(issued["token"]), running.url("treasury")
    assert knock(url, token).status_code == 200

    listed = running.agents("token", "list").stdout
    assert "alice" in listed
    assert token not in listed

    _ = running.agents("token", "revoke", str(issued["id"]))

    assert knock(url, token).status_code == 401
    _ = running.agents("token", "revoke", "nosuchtoken0", check=4)


def test_tokens_can_be_issued_while_nothing_runs(project: Project) -> None:
    """A token issued before the first `up` opens its role after it."""
    token = str(project.json("token", "issue", "monitoring", "--agent", "bob")["token"])
    _ = project.agents("token", "issue", "nosuch", "--agent", "bob", check=2)
    _ = project.agents("up", "-d", "--only", "monitoring")

    assert knock(project.url("monitoring"), token).status_code == 200


def test_health_and_readiness_are_told_without_a_token_and_without_secrets(
    running: Project,
) -> None:
    """`/health` and `/ready` answer anybody; `/.well-known/` is empty."""
    base = running.url("treasury").removesuffix("/treasury/mcp")

    assert httpx2.get(f"{base}/health", timeout=60).json() == {"status": "ok"}
    ready = httpx2.get(f"{base}/ready", timeout=60)
    assert ready.status_code == 200
    assert "get_price" not in ready.text
    for name in ("oauth-protected-resource", "oauth-authorization-server"):
        assert httpx2.get(f"{base}/.well-known/{name}", timeout=60).status_code == 404
    evil = {"Host": "evil.example"}
    assert httpx2.get(f"{base}/treasury/mcp", headers=evil, timeout=60).status_code == 421


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_connect_is_the_role_on_stdio(running: Project, mode: str) -> None:
    """The official client gets the role's tools and an answer through `agents connect`."""
    parameters = StdioServerParameters(
        command=str(Path(sys.executable).with_name("agents")),
        args=["connect", "treasury", "-C", str(running.root)],
        env=running.env,
    )
    with anyio.fail_after(120):
        async with Client(parameters, mode=mode) as client:
            assert len((await client.list_tools()).tools) == 10
            result = await client.call_tool("get_price", {"symbol": "ETH"})

    assert not result.is_error


def test_a_secret_is_nowhere_but_in_its_own_server(project: Project) -> None:
    """A value from the shell and one from `.env` are found in one process's environment only."""
    secrets = {"SHELL_SECRET": f"{CANARY}-shell", "FILE_SECRET": f"{CANARY}-dotenv"}
    _ = project.write("home/keep", "")
    server = project.root / "roles" / "servers" / "wallet.yaml"
    _ = server.write_text(
        server.read_text().replace(
            "  accepts: #",
            "  accepts:\n    SHELL_SECRET: A test.\n    FILE_SECRET: A test.\n    #",
        )
    )
    role = project.root / "roles" / "treasury.yaml"
    _ = role.write_text(
        role.read_text() + "secrets:\n  SHELL_SECRET: env:SHELL_SECRET\n"
        "  FILE_SECRET: env:FILE_SECRET\n"
    )
    dotenv = project.write(".env", f"FILE_SECRET={secrets['FILE_SECRET']}\n")
    dotenv.chmod(0o600)
    project.env["SHELL_SECRET"] = secrets["SHELL_SECRET"]
    told = project.agents("up", "-d")
    del project.env["SHELL_SECRET"]
    owner = project.pid("treasury")

    # The daemon knows the shell's value again after its own death, and the server's.
    daemon = project.daemon_pid()
    os.kill(daemon, 9)
    project.wait(lambda: project.is_ready() and project.daemon_pid() != daemon)
    os.kill(owner, 9)
    project.wait(lambda: project.is_replaced("treasury", owner))
    owner = project.pid("treasury")

    outputs = [told.stdout, told.stderr, *(_printed(project, words) for words in COMMANDS)]
    token = project.token("treasury")
    for text in outputs:
        assert CANARY not in text
        assert token not in text
    for pid, words in project.processes().items():
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert (CANARY.encode() in environ) == (pid == owner), words
        assert CANARY not in words
        assert token not in words
    assert all(
        value.encode() in Path(f"/proc/{owner}/environ").read_bytes() for value in secrets.values()
    )
    found = _files_with(project.root, _forms(CANARY))
    assert found == {dotenv}
    assert _files_with(project.root, _forms(token)) == {project.state / "tokens" / "treasury"}
    # The hunt finds what is there.
    planted = project.write("home/planted", f"x{base64.b64encode(CANARY.encode()).decode()}x")
    assert planted in _files_with(project.root, _forms(CANARY))


COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("token", "list"),
    ("logs", "--daemon", "-n", "1000"),
    ("logs", "treasury", "-n", "1000"),
    ("config", "treasury", "--client", "json"),
    ("validate", "--json"),
    ("up", "--dry-run", "--json"),
)


def _printed(project: Project, words: tuple[str, ...]) -> str:
    done = project.agents(*words, check=None)
    return done.stdout + done.stderr


def _forms(text: str) -> tuple[bytes, ...]:
    raw = text.encode()
    return raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), raw[::-1]


def _files_with(root: Path, forms: tuple[bytes, ...]) -> set[Path]:
    return {
        path
        for path in root.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    }
