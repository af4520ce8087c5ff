"""A whole project whose agents get their tokens from an OpenID provider."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import httpx2
import jwt
import pytest
from mcp import Client, StdioServerParameters

from orchestrator.model.base import JsonObject
from orchestrator.runtimes.ports import free_port

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, OpenProject, Project

pytestmark = pytest.mark.node

PROGRAM: Final = Path(__file__).parents[1] / "node" / "idp.mjs"
SECRET: Final = "canary-of-a-client-9b1f0a77"
BODY: Final[JsonObject] = {
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
HEADERS: Final = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/list",
}
SETTINGS: Final = """
listen: 127.0.0.1:{port}
auth:
  mode: oauth
  issuer: {issuer}
  base: http://127.0.0.1:{port}
  scopes: [mcp:call]
  agents:
    - {{client_id: reporter, agent: reporter, roles: [monitoring, treasury]}}
"""


def knock(url: str, token: str) -> int:
    """List the tools of a role with a token."""
    headers = {**HEADERS, "authorization": f"Bearer {token}"}
    return httpx2.post(url, json=BODY, headers=headers, timeout=30).status_code


class Site:
    """A project that trusts a provider."""

    def __init__(self, project: Project, issuer: str, port: int) -> None:
        """Keep them."""
        self.project = project
        self.issuer = issuer
        self.base = f"http://127.0.0.1:{port}"

    def url(self, role: str) -> str:
        """Tell a role's address."""
        return f"{self.base}/{role}/mcp"

    def token(self, role: str, scope: str = "mcp:call") -> str:
        """Get an access token for a role."""
        form = {"grant_type": "client_credentials", "resource": self.url(role), "scope": scope}
        told = httpx2.post(f"{self.issuer}/token", data=form, auth=("reporter", SECRET), timeout=60)
        return str(cast("Object", told.json())["access_token"])


@pytest.fixture(scope="module")
def site(open_project: OpenProject, node: Mapping[str, str]) -> Generator[Site]:
    """Run a provider, and a project with the stock roles that trusts it."""
    package = Path(node["node"]).parents[2] / "oidc-provider" / "lib" / "index.js"
    idp = subprocess.Popen(
        [node["node"], str(PROGRAM), str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert idp.stdin is not None
    assert idp.stdout is not None
    client = {"client_id": "reporter", "client_secret": SECRET}
    told: Object = {"clients": [client], "resources": {}, "seconds": 300}
    _ = idp.stdin.write(f"{json.dumps(told)}\n")
    idp.stdin.flush()
    issuer = cast("str", idp.stdout.readline()).strip()
    port = free_port()
    try:
        with open_project() as project:
            _ = project.agents("init")
            _ = project.write("agents.yaml", SETTINGS.format(port=port, issuer=issuer))
            _ = project.agents("up", "-d")
            yield Site(project, issuer, port)
    finally:
        idp.kill()
        _ = idp.communicate(timeout=60)


def test_agents_come_with_access_tokens(site: Site) -> None:
    """A token opens the role it was issued for, where our list gives it to its agent."""
    monitoring = site.token("monitoring")
    assert knock(site.url("monitoring"), monitoring) == 200
    assert knock(site.url("treasury"), monitoring) == 401
    assert knock(site.url("executor"), site.token("executor")) == 403
    assert knock(site.url("treasury"), site.token("treasury", "mcp:list")) == 403
    place = f"{site.base}/.well-known/oauth-protected-resource/treasury/mcp"
    told = httpx2.get(place, timeout=60)
    assert cast("Object", told.json())["authorization_servers"] == [site.issuer]


async def test_the_workstation_goes_on(site: Site) -> None:
    """`agents tools`, `agents call` and `agents connect` use this machine's own tokens as ever."""
    command = StdioServerParameters(
        command=str(Path(sys.executable).with_name("agents")),
        args=["connect", "treasury", "-C", str(site.project.root)],
        env=site.project.env,
    )
    with anyio.fail_after(60):
        async with Client(command) as client:
            assert len((await client.list_tools()).tools) == 10
    call = ("call", "treasury", "get_price", '{"symbol": "ETH"}')
    _ = site.project.agents(*call)
    assert "monitoring" in site.project.agents("status").stdout
    _ = site.project.agents("tools", "monitoring")
    assert knock(site.url("monitoring"), site.project.token("monitoring")) == 200


def test_no_other_static_token_is_issued(site: Site) -> None:
    """`agents token issue` says where tokens come from."""
    done = site.project.agents("token", "issue", "treasury", "--agent", "alice", check=2)
    assert "identity provider" in done.stderr


def test_tokens_are_denied_by_command(site: Site) -> None:
    """One by its `jti`, one by the id in the record, and all of a subject; across a restart."""
    url = site.url("treasury")
    first, second, third = (site.token("treasury") for _ in range(3))
    assert {knock(url, one) for one in (first, second, third)} == {200}
    claims = cast("Object", jwt.decode(first, options={"verify_signature": False}))
    _ = site.project.agents("token", "deny", "--jti", str(claims["jti"]))
    assert [knock(url, one) for one in (first, second, third)] == [401, 200, 200]
    lines = site.project.agents("calls", "--json").stdout.splitlines()
    records = [cast("Object", json.loads(line)) for line in lines]
    seen = next(
        str(one["token"]) for one in reversed(records) if str(one.get("token")).startswith("jwt-")
    )
    _ = site.project.agents("token", "revoke", seen)
    assert [knock(url, one) for one in (first, second, third)] == [401, 200, 401]
    told = site.project.json("token", "deny", "--subject", "reporter")
    assert told["kind"] == "subject"
    assert [knock(url, one) for one in (first, second, third)] == [401, 401, 401]
    _ = site.project.agents("down")
    _ = site.project.agents("token", "deny", "--jti", "while-down")
    _ = site.project.agents("up", "-d")
    assert [knock(url, one) for one in (first, second, third)] == [401, 401, 401]


def test_no_access_token_is_kept(site: Site) -> None:
    """Neither tokens nor their signatures are in any file or output, whatever became of them."""
    good, other = site.token("monitoring"), site.token("executor")
    bad = f"{good[:-4]}AAAA"
    for token in (good, other, bad):
        _ = knock(site.url("monitoring"), token)
    project = site.project
    outputs = "".join(
        project.agents(*words, check=None).stdout
        for words in (("status", "--json"), ("calls", "--json"), ("logs", "--daemon"))
    )
    hunted = [token.split(".")[2][:40] for token in (good, other)]
    hunted += [good.split(".")[1], base64.b64encode(good.encode()).decode()[:80]]
    found: list[str] = []
    for path in project.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [str(path) for word in hunted if word.encode() in content]
    assert found == []
    assert not any(word in outputs for word in hunted)
    # The hunt finds what is there.
    planted = project.write("planted", good)
    assert hunted[0].encode() in planted.read_bytes()
    planted.unlink()
    assert not any(good in words for words in project.processes().values())
