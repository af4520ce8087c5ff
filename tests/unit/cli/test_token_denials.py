"""`agents token deny` where nothing runs: access tokens of an identity provider are refused."""

from pathlib import Path

import pytest

from orchestrator.cli.tokens import deny, issue, revoke
from orchestrator.clock import SystemClock
from orchestrator.errors import SettingsError
from orchestrator.tokens.store import TokenStore

Captured = pytest.CaptureFixture[str]

SETTINGS = """\
auth:
  mode: oauth
  issuer: https://idp.example.com
  base: https://agents.example.com
  agents: [{subject: "7", agent: alice, roles: [treasury]}]
"""


def kept(project: Path) -> list[tuple[str, str]]:
    """Tell what is refused."""
    store = TokenStore(project / ".agents" / "agents.db", SystemClock())
    try:
        return [(one.kind, one.name) for one in store.load_denials()]
    finally:
        store.close()


def test_what_is_denied_is_kept(project: Path, capsys: Captured) -> None:
    """By `jti`, by the id in the record and by subject; each is told."""
    (project / "agents.yaml").write_text(SETTINGS)
    deny(project, token_id="", jti="abc", subject="", as_json=False)
    first = capsys.readouterr().out.split()[3]
    assert first.startswith("jwt-")
    revoke(project, "jwt-0123456789abcdef", as_json=False)
    deny(project, token_id="", jti="", subject="7", as_json=False)
    assert "Access tokens of 7 that were issued until 2" in capsys.readouterr().out
    assert kept(project) == [
        ("token", first),
        ("token", "jwt-0123456789abcdef"),
        ("subject", "7"),
    ]


@pytest.mark.parametrize(("jti", "subject"), [("", ""), ("a", "b")])
def test_one_thing_at_a_time(project: Path, jti: str, subject: str) -> None:
    """Nothing, or two things, are not denied."""
    (project / "agents.yaml").write_text(SETTINGS)
    with pytest.raises(SettingsError):
        deny(project, token_id="", jti=jti, subject=subject, as_json=False)
    assert kept(project) == []


def test_without_a_provider(project: Path) -> None:
    """With static tokens there is nothing to deny, and a way to revoke is told."""
    with pytest.raises(SettingsError) as caught:
        deny(project, token_id="", jti="a", subject="", as_json=False)
    assert "agents token revoke" in str(caught.value.hint)


def test_with_a_provider_no_static_token_is_issued(project: Path) -> None:
    """Nobody is given a token that the gateway would not take."""
    (project / "agents.yaml").write_text(SETTINGS)
    with pytest.raises(SettingsError):
        issue(project, "treasury", "alice", "1d", as_json=True)
