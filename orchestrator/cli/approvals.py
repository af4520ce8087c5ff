"""`agents approvals`: what agents wait for, and a person's yes or no to it."""

import sys
import time
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.approver import Who
from orchestrator.cli.output import note, paint, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import CallDeniedError, SettingsError
from orchestrator.model.text import cut, visible

_WATCH_SECONDS: Final = 1.0
_COLOURS: Final = {
    "pending": "yellow",
    "approved": "green",
    "used": "green",
    "denied": "red",
    "expired": "dim",
}
_LINES: Final = {"+": "green", "-": "red"}
_LONGEST_CELL: Final = 60


def list_all(
    project: Path | None, role: str | None, *, everything: bool, limit: int, as_json: bool
) -> None:
    """List approvals.

    Raises:
        NotRunningError: Nothing runs.
    """
    state = None if everything else "pending"
    request: Object = {"op": "approvals", "role": role, "state": state, "limit": limit}
    rows = cast("list[Object]", ask_once(find_paths(project).control_socket, request))
    if as_json:
        say_json(rows)
    elif not rows:
        say("nothing was ever asked for" if everything else "nothing waits for a person")
    else:
        head = ("ID", "STATE", "ROLE", "AGENT", "TOOL", "WHAT", "UNTIL")
        say("\n".join(table(head, [_row(row) for row in rows])))


def _row(row: Object) -> list[str]:
    first = str(row["receipt"]).split("\n", 1)[0]
    return [
        str(row["id"]),
        _state(row),
        str(row["role"]),
        str(row["agent"]),
        str(row["tool"]),
        cut(visible(first, ""), _LONGEST_CELL),
        str(row["expires_at"])[:16].replace("T", " "),
    ]


def _state(row: Object) -> str:
    state = str(row["state"])
    missing = cast("int", row["missing"])
    told = f"{state} ({missing} more)" if missing and row["quorum"] != 1 else state
    return paint(told, _COLOURS[state])


def show(project: Path | None, identity: str, *, as_json: bool) -> None:
    """Show one approval.

    Raises:
        ApprovalUnknownError: There is none of that name.
    """
    body = _find(find_paths(project).control_socket, identity)
    if as_json:
        say_json(body)
        return
    _show(body)
    if body["state"] == "pending":
        note(f"To let exactly this be done, once: agents approvals approve {body['id']}")


def decide(  # noqa: PLR0913  one for each option
    project: Path | None,
    identity: str,
    decision: str,
    who: Who,
    *,
    reason: str,
    digest: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Say yes or no.

    Raises:
        SettingsError: There is nobody to ask.
        CallDeniedError: The person thought better of it.
        ApprovalError: It does not count, or not any more.
    """
    socket = find_paths(project).control_socket
    if digest is None:
        body = _find(socket, identity)
        digest = str(body["digest"])
        if not yes:
            _confirm(body, decision)
    request: Object = {
        "op": "approval.decide",
        "id": identity,
        "decision": decision,
        "digest": digest,
        "reason": reason,
        "ticket": who.ticket(socket),
    }
    after = cast("Object", ask_once(socket, request))
    if as_json:
        say_json(after)
        return
    missing = cast("int", after["missing"])
    if after["state"] == "denied":
        say(f"{identity} is denied; its agent is told so when it makes the call again.")
    elif missing:
        have = "has" if missing == 1 else "have"
        say(f"{identity} has your yes; {missing} more {have} to say so.")
    else:
        until = str(after["expires_at"])[:16].replace("T", " ")
        say(f"{identity} is approved: the agent may make exactly this call, once, until {until}.")


def watch(project: Path | None, role: str | None, *, as_json: bool) -> None:
    """Show what begins to wait.

    Raises:
        NotRunningError: Nothing runs.
    """
    import json

    socket = find_paths(project).control_socket
    request: Object = {"op": "approvals", "role": role, "state": "pending", "limit": 1000}
    seen: set[str] = set()
    while True:
        rows = cast("list[Object]", ask_once(socket, request))
        for row in reversed(rows):
            if str(row["id"]) in seen:
                continue
            if as_json:
                say(visible(json.dumps(row, ensure_ascii=False), ""))
            else:
                _show(row)
                say()
        seen = {str(row["id"]) for row in rows}
        time.sleep(_WATCH_SECONDS)


def _find(socket: Path, identity: str) -> Object:
    return cast("Object", ask_once(socket, {"op": "approval", "id": identity}))


def _confirm(body: Object, decision: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SettingsError(
            "there is no terminal to show the call on, and to ask for a yes",
            hint=f"`agents approvals show {body['id']} --json` tells its digest; give it with "
            "`--digest`, or `--yes` for whatever the call is.",
        )
    _show(body)
    word = "Approve" if decision == "approve" else "Deny"
    _ = sys.stderr.write(f"\n{word} this call? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CallDeniedError("nothing was decided", rule="confirmation")


def _show(body: Object) -> None:
    say(
        f"{paint(str(body['id']), 'bold')}  {_state(body)}  {body['role']}: {body['agent']} wants "
        f"{paint(str(body['tool']), 'bold')} ({body['class']})"
    )
    say()
    for line in str(body["receipt"]).split("\n"):
        say(f"  {visible(line, '')}")
    for warning in cast("list[str]", body["warnings"]):
        say(paint(f"  ! {visible(warning, '')}", "red"))
    say()
    _show_diff(cast("Object | None", body.get("diff")))
    for vote in cast("list[Object]", body["votes"]):
        reason = f": {visible(str(vote['reason']), '')}" if vote["reason"] else ""
        say(f"{vote['by']} said {vote['decision']} at {_moment(vote['at'])}{reason}")
    say(f"rule: {body['rule']}, policy {body['policy']}, people needed: {body['quorum']}")
    say(f"asked: {_moment(body['created_at'])}, until {_moment(body['expires_at'])}")
    say(f"arguments: sha256 {body['arguments_sha256']}")
    say(f"digest: {body['digest']}")


def _show_diff(diff: "Object | None") -> None:
    if diff is None:
        say("There is no earlier approved call of this tool at this role.")
        return
    say(f"Beside {diff['against']}, the last one approved ({_moment(diff['decided_at'])}):")
    lines = cast("list[str]", diff["receipt"])
    for line in lines:
        text = f"  {visible(line, '')}"
        say(paint(text, _LINES[line[0]]) if line[0] in _LINES else text)
    say()


def _moment(value: object) -> str:
    return str(value)[:19].replace("T", " ")
