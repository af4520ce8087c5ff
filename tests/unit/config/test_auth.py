"""`auth:` in the settings file: what it may say, and what is told of mistakes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.config.project import load_project
from orchestrator.model.auth import Auth
from orchestrator.model.desired import GatewaySettings
from orchestrator.model.names import RoleName

Complaints = Callable[[], list[str]]

GOOD = """\
auth:
  mode: oauth
  issuer: https://idp.example.com/realms/agents
  base: https://Agents.example.com
  agents:
    - {subject: "7", agent: alice, roles: [clerk]}
    - {client_id: bot, agent: bot, roles: [clerk]}
"""
URL = "this has to be an https:// URL; http:// for this machine only"
BASE = (
    "the gateway's address is https:// with a host and maybe a port, and no path; "
    "http:// for this machine only"
)


def test_what_it_means(root: Path) -> None:
    """Defaults are safe, a role's address is its audience, and it survives being written down."""
    (root / "agents.yaml").write_text(GOOD)
    auth = load_project(root).settings.auth
    assert auth.url_of(RoleName("clerk")) == "https://agents.example.com/clerk/mcp"
    assert auth.hosts == ("agents.example.com",)
    assert auth.leeway <= timedelta(seconds=60)
    assert auth.algorithms == ("EdDSA", "ES256", "RS256")
    for one in (auth, Auth()):
        kept = GatewaySettings(host="127.0.0.1", port=0, auth=one)
        assert GatewaySettings.model_validate_json(kept.model_dump_json()) == kept


def test_static_is_the_default(root: Path) -> None:
    """Without `auth:` agents show what Bandmaster issues."""
    assert load_project(root).settings.auth == Auth()
    assert Auth().mode == "static"
    assert Auth().hosts == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("mode: oauth", "mode: open", "`open` is not possible here; known: oauth, static"),
        ("mode: oauth", "mode: static", "these keys are for `mode: oauth`"),
        ("  base: https://Agents.example.com\n", "", "`mode: oauth` needs `base`"),
        ("https://idp.example.com", "http://idp.example.com", URL),
        ("https://idp.example.com", "https://me:pw@idp.example.com", URL),
        ("realms/agents", "realms?x=1", URL),
        ("https://idp.example.com", "file:///etc", URL),
        ("https://Agents.example.com", "https://agents.example.com/mcp", BASE),
        ("https://Agents.example.com", "http://agents.example.com", BASE),
        ("  agents:", "  leeway: 61s\n  agents:", "the leeway is at most 60s"),
        ("  agents:", "  algorithms: [EdDSA, HS256]\n  agents:", "`HS256` is not possible here"),
        ("  agents:", "  algorithms: []\n  agents:", "has the wrong length or size"),
        ("  agents:", "  scopes: ['a b']\n  agents:", "a scope is one word without quotes"),
        ("agent: alice", "agent: workstation", "workstation is the name of this machine's own"),
        ('subject: "7", ', "", "an agent is known by its subject, its client_id, or both"),
        ("client_id: bot", 'subject: "7"', "stands under `agents` twice"),
        ("roles: [clerk]", "roles: []", "has the wrong length or size"),
        ("roles: [clerk]", "roles: [clark]", "there is no role `clark`; did you mean `clerk`?"),
    ],
)
def test_mistakes(root: Path, complaints: Complaints, old: str, new: str, told: str) -> None:
    """Each is told in words, and nothing is loaded."""
    assert old in GOOD
    (root / "agents.yaml").write_text(GOOD.replace(old, new, 1))
    problems = complaints()
    assert len(problems) == 1, problems
    assert problems[0].startswith("agents.yaml:")
    assert told in problems[0]
