"""`agents secrets check`: every reference of a project, and no value."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest

from orchestrator.cli.secrets_check import check
from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError

SERVER = """\
server: shop
description: A shop.
owner: me@example.com
source: package shop 1.0
launch:
  command: ["{python}", -m, shop]
  accepts: {TILL: Opens the till., DOOR: Opens the door., ROOF: Opens the roof.}
bands: {names: [look], variable: BANDS}
tools: {list_goods: {band: look, class: READ}}
"""
ROLE = """\
role: ROLE
justification: Sells goods.
owner: me@example.com
server: shop
bands: [look]
secrets: {SECRETS}
"""
VALUE = "canary-of-the-till"


@pytest.fixture
def project() -> Generator[Path]:
    """Make a project without roles, but with values in its .env."""
    # pytest's own directories are too long for a socket's path.
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as place:
        root = Path(place)
        (root / "roles/servers").mkdir(parents=True)
        (root / "roles/servers/shop.yaml").write_text(SERVER)
        (root / ".env").write_text(f"A={VALUE}\nB={VALUE}\nC={VALUE}-2\nEMPTY=\n")
        (root / ".env").chmod(0o600)
        yield root


def role(project: Path, name: str, secrets: str) -> None:
    """Write a role with secrets."""
    text = ROLE.replace("ROLE", name).replace("SECRETS", secrets)
    (project / f"roles/{name}.yaml").write_text(text)


def rows_of(text: str) -> list[dict[str, object]]:
    """Read the rows of JSON."""
    return cast("dict[str, list[dict[str, object]]]", json.loads(text))["secrets"]


def test_everything_is_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each reference is shown with its fingerprint, equal for equal values alone."""
    role(project, "clerk", "TILL: env:A, DOOR: env:B")
    role(project, "guard", "ROOF: env:C")
    check(project, (), as_json=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["ROLE", "VARIABLE", "STATE", "FINGERPRINT", "REFERENCE"]
    rows = [line.split() for line in lines]
    assert [(row[0], row[1], row[2], row[4]) for row in rows] == [
        ("clerk", "TILL", "found", "env:A"),
        ("clerk", "DOOR", "found", "env:B"),
        ("guard", "ROOF", "found", "env:C"),
    ]
    assert rows[0][3] == rows[1][3] != rows[2][3]
    assert "canary" not in "".join(lines)
    check(project, ("guard",), as_json=False)
    assert "clerk" not in capsys.readouterr().out


def test_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the same as JSON, a command as its mapping."""
    answer = (
        '{"version":1,"value":"canary-canary","version_id":"7","expires_at":"2100-01-01T00:00:00Z"}'
    )
    command = json.dumps({"command": ["/bin/echo", answer]})
    role(project, "clerk", f"TILL: {command}, DOOR: env:A")
    check(project, (), as_json=True)
    text = capsys.readouterr().out
    assert "canary" not in text.replace(json.dumps(answer), "")
    till, door = rows_of(text)
    assert till["reference"] == {"command": ["/bin/echo", answer], "timeout": "10s", "env": {}}
    assert (till["version"], till["expires_at"]) == ("7", "2100-01-01T00:00:00+00:00")
    assert (door["state"], door["version"], door["problem"]) == ("found", None, None)
    assert len(str(door["fingerprint"])) == 8


def test_what_cannot_be_had(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are shown, and the error tells each that fails and what to do about it."""
    role(project, "clerk", "TILL: env:A, DOOR: env:EMPTY")
    with pytest.raises(SecretNotFoundError) as missing:
        check(project, (), as_json=False)
    assert str(missing.value) == "clerk: DOOR: env:EMPTY is empty"
    assert "found" in capsys.readouterr().out
    (project / "open").write_text(VALUE)
    role(project, "guard", 'ROOF: "file:{project}/open"')
    with pytest.raises(SecretStoreUnavailableError) as both:
        check(project, (), as_json=True)
    states = [row["state"] for row in rows_of(capsys.readouterr().out)]
    assert states == ["found", "missing", "untrusted"]
    assert str(both.value).splitlines()[1].startswith(f"guard: ROOF: {project}/open has mode 0644")
    assert both.value.hint == f"chmod 600 {project}/open"
    assert both.value.exit_code == 3
    assert "canary" not in f"{both.value} {both.value.hint}"


def test_what_comes_later(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a bootstrap makes is told as such until it is there."""
    with (project / "roles/servers/shop.yaml").open("a") as file:
        _ = file.write(
            "bootstrap:\n  bands: full\n  mode: agent\n  secrets: {TILL: 'file:{state}/till'}\n"
            "  generate: {'{state}/till': 32}\n"
        )
    role(project, "clerk", "TILL: 'file:{state}/till'")
    check(project, (), as_json=False)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert ["by bootstrap" in line for line in lines] == [True, True]
    assert lines[1].startswith("bootstrap of shop")
    (project / ".agents").mkdir(mode=0o700)
    (project / ".agents/till").write_text(VALUE)
    (project / ".agents/till").chmod(0o600)
    check(project, (), as_json=False)
    assert "by bootstrap" not in capsys.readouterr().out


def test_no_secrets_at_all(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A project without references says so, and makes no key for fingerprints."""
    role(project, "clerk", "")
    check(project, (), as_json=False)
    assert capsys.readouterr().out == "no secrets\n"
    assert not (project / ".agents").exists()


def test_issuers_are_checked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a program that makes credentials needs is looked up like what roles need."""
    role(project, "clerk", "TILL: env:A")
    _ = (project / "agents.yaml").write_text(
        "issuers:\n"
        "  till: {kind: command, run: [/bin/true], overlap: true, revoke: api,\n"
        "         secrets: {ADMIN: env:A, OTHER: env:NOWHERE}}\n"
    )
    with pytest.raises(SecretNotFoundError, match="issuer till: OTHER"):
        check(project, (), as_json=True)
    rows = rows_of(capsys.readouterr().out)
    found = {row["variable"]: row["state"] for row in rows if row["role"] == "issuer till"}
    assert found == {"ADMIN": "found", "OTHER": "missing"}
