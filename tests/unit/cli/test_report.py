"""How an error is told."""

import sys

import pytest
from pydantic import TypeAdapter

from orchestrator.cli.report import report, report_unexpected
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import (
    AgentsError,
    FileProblem,
    NotRunningError,
    RoleFileError,
    SecretNotFoundError,
)

ONE = FileProblem("roles/a.yaml", 3, 7, "bands.0", "no such band", "did you mean read?")
TWO = FileProblem("roles/b.yaml", 0, 0, "", "is empty", "")
Captured = pytest.CaptureFixture[str]
TOLD = TypeAdapter(dict[str, dict[str, str | list[dict[str, str | int]]]])


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line be a plain one."""
    monkeypatch.setattr(sys, "argv", ["agents", "up"])


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line ask for JSON."""
    monkeypatch.setattr(sys, "argv", ["agents", "up", "--json"])


def test_a_person_reads_sentence_and_hint(capsys: Captured) -> None:
    """Both go to standard error; standard output stays empty."""
    assert report(NotRunningError("nothing runs", hint="Start it.")) == 10
    assert capsys.readouterr() == ("", "agents: nothing runs\nStart it.\n")


def test_without_a_hint_there_is_one_line(capsys: Captured) -> None:
    """Nothing is said where there is nothing to say."""
    assert report(AgentsError("odd")) == 1
    assert capsys.readouterr().err == "agents: odd\n"


@pytest.mark.parametrize(("problems", "count"), [((ONE,), "1 problem"), ((ONE, TWO), "2 problems")])
def test_file_problems_are_listed(
    capsys: Captured, problems: tuple[FileProblem, ...], count: str
) -> None:
    """One line a problem, with its place, then how many there are."""
    assert report(RoleFileError(problems)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "roles/a.yaml:3:7: bands.0: no such band; did you mean read?"
    assert lines[len(problems)] == f"agents: {count} in the project's files"
    assert lines[-1].startswith("Nothing was started")


def test_the_daemons_error_keeps_its_own_status(capsys: Captured) -> None:
    """What the daemon reported ends the command as if it had happened here."""
    assert report(RemoteError("secret.not_found", 3, "no secret", "Set it.")) == 3
    assert capsys.readouterr().err == "agents: no secret\nSet it.\n"


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (SecretNotFoundError("no secret", hint="Set it."), "secret.not_found", 3),
        (RemoteError("token.unknown", 4, "no secret", "Set it."), "token.unknown", 4),
    ],
)
def test_a_program_reads_one_object(
    capsys: Captured, error: AgentsError, code: str, status: int
) -> None:
    """With --json the error is on standard output, and nothing beside it."""
    assert report(error) == status
    out, err = capsys.readouterr()
    assert TOLD.validate_json(out) == {
        "error": {"code": code, "message": "no secret", "hint": "Set it."}
    }
    assert err == ""


@pytest.mark.usefixtures("as_json")
def test_a_program_reads_each_problem(capsys: Captured) -> None:
    """Problems of files come with their parts."""
    assert report(RoleFileError((ONE, TWO))) == 2
    error = TOLD.validate_json(capsys.readouterr().out)["error"]
    assert error["code"] == "config.files"
    first, second = error["problems"]
    assert first == {
        "path": "roles/a.yaml",
        "line": 3,
        "column": 7,
        "field": "bands.0",
        "problem": "no such band",
        "expected": "did you mean read?",
    }
    assert isinstance(second, dict)
    assert second["path"] == "roles/b.yaml"


def test_the_unexpected_is_told_by_its_kind(capsys: Captured) -> None:
    """Its text may hold anything; an error of the system says its own few words."""
    assert report_unexpected(RuntimeError("a secret")) == 1
    told = capsys.readouterr().err
    assert told.startswith("agents: unexpected RuntimeError; this is a mistake in Bandmaster\n")
    assert "secret" not in told
    assert report_unexpected(OSError(28, "No space left on device", "/state")) == 1
    assert capsys.readouterr().err == "agents: /state: No space left on device\n"


@pytest.mark.usefixtures("as_json")
def test_a_program_reads_the_unexpected_too(capsys: Captured) -> None:
    """It has the code of all that has none of its own."""
    assert report_unexpected(RuntimeError("a secret")) == 1
    assert TOLD.validate_json(capsys.readouterr().out)["error"]["code"] == "internal"


def test_no_error_steers_a_terminal(capsys: Captured) -> None:
    """Names in a message may come from anywhere."""
    assert report(AgentsError("no \x1b[2Kfile\u202e", hint="see \x07")) == 1
    assert capsys.readouterr().err == "agents: no \\u001b[2Kfile\\u202e\nsee \\u0007\n"
