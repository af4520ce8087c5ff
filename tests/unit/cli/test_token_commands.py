"""`agents token` where nothing runs: straight in the project's own database."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from orchestrator.cli.tokens import issue, list_all, revoke
from orchestrator.errors import LockHeldError, SettingsError, TokenUnknownError
from orchestrator.files import hold_lock

Captured = pytest.CaptureFixture[str]
TOKEN = TypeAdapter(dict[str, str | None])
TOKENS = TypeAdapter(list[dict[str, str | None]])


def test_a_token_is_shown_once(project: Path, capsys: Captured) -> None:
    """Its text is all of standard output; what may be known of it goes beside."""
    issue(project, "treasury", "alice", "30d", as_json=False)
    out, err = capsys.readouterr()
    assert out.startswith("mga_")
    assert out.count("\n") == 1
    text = out.strip()
    assert text not in err
    assert "alice" in err
    for path in (project / ".agents").rglob("*"):
        assert not path.is_file() or text.encode() not in path.read_bytes()
    assert (project / ".agents/agents.db").stat().st_mode & 0o777 == 0o600
    list_all(project, as_json=True)
    assert text not in capsys.readouterr().out


def test_its_life_in_json(project: Path, capsys: Captured) -> None:
    """A token is issued, listed and revoked, and each step tells the same token."""
    issue(project, "treasury", "alice", "1h30m", as_json=True)
    issued = TOKEN.validate_json(capsys.readouterr().out)
    identity = str(issued["id"])
    assert str(issued.pop("token")).startswith(f"mga_{identity}_")
    left = datetime.fromisoformat(str(issued["expires_at"])) - datetime.now(UTC)
    assert timedelta(minutes=89) < left <= timedelta(minutes=90)
    list_all(project, as_json=True)
    assert TOKENS.validate_json(capsys.readouterr().out) == [issued]
    revoke(project, identity, as_json=True)
    revoked = TOKEN.validate_json(capsys.readouterr().out)
    assert (revoked["id"], revoked["state"]) == (identity, "revoked")
    list_all(project, as_json=True)
    assert TOKENS.validate_json(capsys.readouterr().out) == [revoked]


def test_a_person_reads_a_table(project: Path, capsys: Captured) -> None:
    """Moments are cut to the minute, nothing is a dash, and no tokens are told as such."""
    list_all(project, as_json=False)
    assert capsys.readouterr().out == "no tokens\n"
    issue(project, "treasury", "alice", "30d", as_json=False)
    _ = capsys.readouterr()
    list_all(project, as_json=False)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "ROLE", "AGENT", "STATE", "EXPIRES", "LAST", "USED"]
    identity, role, agent, state, day, minute, used = row.split()
    assert (role, agent, state, used) == ("treasury", "alice", "active", "-")
    assert datetime.fromisoformat(f"{day}T{minute}") > datetime.now(UTC)
    revoke(project, identity, as_json=False)
    assert capsys.readouterr().out == (
        f"Token {identity} of agent alice for role treasury is revoked.\n"
    )


@pytest.mark.parametrize(
    ("role", "agent", "ttl"),
    [
        ("nobody", "alice", "1d"),
        ("../treasury", "alice", "1d"),
        ("treasury", "al ice", "1d"),
        ("treasury", "alice", "91d"),
        ("treasury", "alice", "0s"),
        ("treasury", "alice", "soon"),
    ],
)
def test_what_cannot_be_issued(project: Path, role: str, agent: str, ttl: str) -> None:
    """Unknown roles, improper names and lives are refused, and nothing is issued."""
    with pytest.raises(SettingsError):
        issue(project, role, agent, ttl, as_json=False)


def test_nobody_to_revoke(project: Path) -> None:
    """An unknown id is told, with where to look."""
    with pytest.raises(TokenUnknownError) as caught:
        revoke(project, "000000000000", as_json=False)
    assert "agents token list" in str(caught.value.hint)


def test_one_writer(project: Path) -> None:
    """While something else writes the state nothing is changed behind its back."""
    (project / ".agents").mkdir(mode=0o700)
    with hold_lock(project / ".agents/agents.lock"), pytest.raises(LockHeldError):
        list_all(project, as_json=False)
