"""The `agents audit` commands on a record, with no daemon."""

import json
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner, Result

from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.cli.main import app
from orchestrator.clock import SystemClock
from orchestrator.errors import AgentsError, NotRunningError, RecordChangedError, SettingsError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName

EVIL = "\x1b]0;owned\x07\n\u202e"


@pytest.fixture
def project(home: Path) -> Path:
    """Write a record into a project."""
    state = home / ".agents"
    log = AuditLog(state / "audit", state / "keys" / "audit.key", SystemClock(), "1")
    for number in range(3):
        log.record(
            CallRecord(
                "outcome",
                f"r{number}",
                RoleName("treasury"),
                AgentName("alice"),
                method="tools/call",
                tool="get_price",
                kind="READ",
                category="ok",
                status=200,
                run="s1",
            )
        )
    log.note("approval.denied", {"by": "bob", "role": "executor", "reason": EVIL})
    log.close()
    return home


def agents(project: Path, *words: str) -> Result:
    """Run a command as `agents` does; its error is raised."""
    result = CliRunner().invoke(app, ["audit", *words, "-C", str(project)])
    if isinstance(result.exception, AgentsError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_record_is_verified(project: Path) -> None:
    """It says so, with the last line, whose hash is accepted later."""
    told = cast("JsonObject", json.loads(agents(project, "verify", "--json").stdout))
    assert told["ok"] is True
    last = cast("JsonObject", told["last"])
    noted = f"{last['seq']}:{last['hash']}"
    text = agents(project, "verify", "--expect", noted).stdout
    assert "as it was written" in text
    assert noted in text
    (key,) = agents(project, "key").stdout.splitlines()
    assert key.startswith("ed25519:")
    assert "give the one that you keep" in text
    word = key.partition(" ")[0]
    assert "give the one" not in agents(project, "verify", "--key", word).stdout
    kept = project / "kept.pub"
    _ = kept.write_text(key)
    directory = str(project / ".agents" / "audit")
    assert "as it was" in agents(project, "verify", directory, "--key", str(kept)).stdout


def test_a_change_is_told_with_an_exit_status_of_its_own(project: Path) -> None:
    """File and line are named, nothing steers the terminal, and the status is 13."""
    path = project / ".agents" / "audit" / "00000001.jsonl"
    _ = path.write_bytes(path.read_bytes().replace(b'"alice"', b'"mallo"', 1))
    result = CliRunner().invoke(app, ["audit", "verify", "-C", str(project)])
    assert isinstance(result.exception, RecordChangedError)
    assert result.exception.exit_code == 13
    assert "00000001.jsonl:4 (line 4): does not follow: line 3" in result.stdout
    assert "CHANGED" in result.stdout
    result = CliRunner().invoke(app, ["audit", "verify", "--json", "-C", str(project)])
    told = cast("JsonObject", json.loads(result.stdout))
    assert (told["ok"], told["count"]) == (False, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "--expect", "7"), "64 hexadecimal digits"),
        (("verify", "--key", "ed25519:AAAA"), "a public key"),
        (("verify", "--key", "/nothing/there"), "cannot be read"),
        (("export", "--format", "xml"), "no format of exports"),
        (("search", "--since", "yesterday"), "--since: a time is"),
        (("search", "--until", "2027-99-01"), "--until: a time is"),
    ],
)
def test_options_that_cannot_be_understood(
    project: Path, words: tuple[str, ...], said: str
) -> None:
    """Each is refused with what would be right."""
    with pytest.raises(SettingsError, match=said):
        _ = agents(project, *words)


def test_there_is_nothing_yet(home: Path) -> None:
    """A project without a record is told so by every command."""
    (home / "roles").mkdir()
    for words in (["verify"], ["key"], ["tail"], ["runs"], ["search"], ["export"], ["show", "x"]):
        with pytest.raises(NotRunningError):
            _ = agents(home, *words)


def test_the_record_is_shown(project: Path) -> None:
    """Tail, search, runs and a story, with nothing in them that steers a terminal."""
    for words in (["tail"], ["search"], ["search", "DENIED"], ["tail", "--json"]):
        text = agents(project, *words).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\u001b]0;owned" in text
    assert agents(project, "tail", "-n", "1", "--role", "treasury").stdout.count("get_price") == 1
    assert agents(project, "search", "--tool", "get_price", "-n", "2").stdout.count("ok") == 2
    assert "s1" in agents(project, "runs").stdout
    (run,) = cast("list[JsonObject]", json.loads(agents(project, "runs", "--json").stdout))
    assert (run["run"], run["calls"]) == ("s1", 3)
    story = agents(project, "show", "s1").stdout
    assert story.startswith("agent alice, role treasury")
    assert story.count("get_price: ok") == 3
    assert (
        len(cast("list[object]", json.loads(agents(project, "show", "s1", "--json").stdout))) == 3
    )
    with pytest.raises(NotRunningError, match="nothing is recorded of"):
        _ = agents(project, "show", "nobody")


def test_the_record_is_exported(project: Path) -> None:
    """To standard output, or into a private file that was not there."""
    lines = (project / ".agents" / "audit" / "00000001.jsonl").read_bytes()
    assert agents(project, "export").stdout_bytes == lines
    out = project / "out.jsonl"
    _ = agents(project, "export", "--role", "treasury", "--since", "1h", "--out", str(out))
    assert out.read_bytes().count(b"\n") == 3
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="cannot be written"):
        _ = agents(project, "export", "--out", str(out))
    for form in ("ocsf", "cef", "csv"):
        assert agents(project, "export", "--format", form).stdout_bytes.count(b"\n") >= 8
    assert agents(project, "export", "--until", "2020-01-01").stdout == ""
