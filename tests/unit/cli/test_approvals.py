"""What `agents approvals` shows of calls that somebody else wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.cli import approvals
from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.control.admin_client import Object

BODY: Object = {
    "id": "ap-0123456789",
    "state": "pending",
    "role": "executor",
    "agent": "bot",
    "tool": "pay",
    "class": "DESTRUCTIVE",
    "rule": "approval.pay",
    "receipt": "Pay \x1b[2Kbob\nTo: \u202eelse",
    "warnings": ["a\x07b"],
    "digest": "d" * 64,
    "arguments_sha256": "a" * 64,
    "policy": "p",
    "quorum": 1,
    "missing": 1,
    "votes": [
        {"by": "alice", "decision": "approve", "at": "2026-11-05T12:00:00Z", "reason": "\x1b[31m"}
    ],
    "created_at": "2026-11-05T12:00:00Z",
    "expires_at": "2026-11-05T13:00:00Z",
    "diff": {
        "against": "ap-1",
        "decided_at": "2026-11-05T11:00:00Z",
        "receipt": ["- Pay \x1b[0m1", "+ Pay 2", "  To: x"],
        "arguments": [],
    },
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Object]:
    """Answer as the daemon does; tells what it was asked."""
    requests: list[Object] = []

    def answer(_: Path, request: Object) -> object:
        requests.append(request)
        return [BODY] if request["op"] == "approvals" else BODY

    monkeypatch.setattr(approvals, "ask_once", answer)
    _ = (tmp_path / "agents.yaml").write_text("listen: 127.0.0.1:0\n")
    monkeypatch.chdir(tmp_path)
    return requests


@pytest.mark.usefixtures("asked")
def test_nothing_in_a_call_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes, bells and marks that turn a text round are shown as what they are."""
    approvals.show(None, "ap-0123456789", as_json=False)
    approvals.list_all(None, None, everything=True, limit=10, as_json=False)
    approvals.show(None, "ap-0123456789", as_json=True)

    shown = capsys.readouterr().out
    assert "Pay \\u001b[2Kbob" in shown
    assert shown.replace("\n", "").isprintable()


def test_without_a_terminal_a_decision_names_what_was_seen(asked: list[Object]) -> None:
    """Nothing is decided where nobody was shown anything, and no digest was given."""
    who = approvals.Who(None, None)
    with pytest.raises(SettingsError, match="no terminal"):
        approvals.decide(
            None, "ap-1", "approve", who, reason="", digest=None, yes=False, as_json=False
        )
    assert [one["op"] for one in asked] == ["approval"]

    approvals.decide(None, "ap-1", "deny", who, reason="no", digest="x", yes=False, as_json=True)
    assert asked[-1] == {
        "op": "approval.decide",
        "id": "ap-1",
        "decision": "deny",
        "digest": "x",
        "reason": "no",
        "ticket": "",
    }
