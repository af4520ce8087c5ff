"""`agents config --hook`: the client's person is asked before a destructive call."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import cast

import pytest

from orchestrator.cli.client_hook import answer_hook
from orchestrator.cli.clients import config
from orchestrator.errors import ConfigError, SettingsError

ROLES = Path(__file__).parents[3] / "roles"
HEAD = "mcp__bandmaster-executor__"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project with the stock roles."""
    (tmp_path / "roles" / "servers").mkdir(parents=True)
    for path in (*ROLES.glob("*.yaml"), *ROLES.glob("servers/*.yaml")):
        _ = (tmp_path / "roles" / path.relative_to(ROLES)).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(project: Path) -> Path:
    """Tell where Claude Code keeps a directory's settings."""
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    return path


def hooks(path: Path) -> list[dict[str, object]]:
    """Read the hooks."""
    whole = cast("dict[str, dict[str, object]]", json.loads(path.read_text()))
    return cast("list[dict[str, object]]", whole["hooks"]["PreToolUse"])


def ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> dict[str, str]:
    """Be the client; tell the hook's answer, empty if it has nothing to say."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    answer_hook(None, "executor")
    said = capsys.readouterr().out
    return json.loads(said)["hookSpecificOutput"] if said else {}


def test_a_hook_is_merged_once_beside_others(settings: Path) -> None:
    """What others have there stays, and a second time changes nothing."""
    other = {"matcher": "Bash", "hooks": [{"type": "command", "command": "look"}]}
    _ = settings.write_text(json.dumps({"model": "x", "hooks": {"PreToolUse": [other]}}, indent=1))
    config(None, "executor", "claude-code", write=True, hook=True)
    first = settings.read_bytes()
    config(None, "executor", "claude-code", write=True, hook=True)
    assert settings.read_bytes() == first
    [kept, ours] = hooks(settings)
    assert kept == other
    assert ours["matcher"] == f"{HEAD}.*"
    assert json.loads(first)["model"] == "x"


def test_an_older_hook_of_the_role_is_replaced(settings: Path) -> None:
    """The project moved: there is one hook of the role afterwards, and it is the new one."""
    old = {"matcher": f"{HEAD}.*", "hooks": [{"type": "command", "command": "/gone hook executor"}]}
    _ = settings.write_text(json.dumps({"hooks": {"PreToolUse": [old]}}))
    config(None, "executor", "claude-code", write=True, hook=True)
    [ours] = hooks(settings)
    assert ours != old


@pytest.mark.parametrize(
    "text", ["{", '{"hooks": []}', '{"hooks": {"PreToolUse": {}}}', "[]", '{"a": 1} // x']
)
def test_settings_of_another_shape_stay(settings: Path, text: str) -> None:
    """What is not understood is not changed, and the error names the file."""
    _ = settings.write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.json"):
        config(None, "executor", "claude-code", write=True, hook=True)
    assert settings.read_text() == text


def test_other_clients_have_no_hook(project: Path) -> None:
    """Nobody believes to be asked where there is no hook."""
    with pytest.raises(SettingsError, match="no confirmation hook for Cursor"):
        config(None, "executor", "cursor", write=True, hook=True)
    assert not (project / ".cursor").exists()


@pytest.mark.usefixtures("project")
def test_a_destructive_call_is_asked_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client's person decides, and reads why."""
    told = ask(monkeypatch, capsys, json.dumps({"tool_name": f"{HEAD}send_transaction"}))
    assert told["permissionDecision"] == "ask"
    assert "send_transaction is destructive" in told["permissionDecisionReason"]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("tool", ["get_balance", "sign_transaction"])
def test_other_calls_go_the_client_s_own_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tool: str
) -> None:
    """The hook allows nothing: it has nothing to say."""
    assert ask(monkeypatch, capsys, json.dumps({"tool_name": HEAD + tool})) == {}


def test_what_nobody_knows_is_asked_about(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown tool, and files that cannot be read, are no reason to go on unasked."""
    told = ask(monkeypatch, capsys, json.dumps({"tool_name": f"{HEAD}other"}))
    assert told["permissionDecision"] == "ask"
    _ = (project / "roles" / "executor.yaml").write_text("role: [")
    told = ask(monkeypatch, capsys, json.dumps({"tool_name": f"{HEAD}get_balance"}))
    assert told["permissionDecision"] == "ask"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"tool_name": 3}', '{"tool_name": "Bash"}'])
def test_a_client_that_is_not_understood_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Status 2 is what Claude Code takes for a no."""
    with pytest.raises(SystemExit) as ended:
        _ = ask(monkeypatch, capsys, text)
    assert ended.value.code == 2


@pytest.mark.usefixtures("project")
def test_arguments_that_nobody_can_read_stop_the_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent gets past the hook by no depth of its arguments: only status 2 stops a call."""
    deep = "[" * 100_000 + "]" * 100_000
    text = f'{{"tool_name": "{HEAD}send_transaction", "tool_input": {deep}}}'
    with pytest.raises(SystemExit) as ended:
        _ = ask(monkeypatch, capsys, text)
    assert ended.value.code == 2
