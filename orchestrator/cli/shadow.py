"""`agents shadow`: what agents would do, without doing it."""

from pathlib import Path
from typing import cast

from orchestrator.cli.freeze import moment, table_of
from orchestrator.cli.output import say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import SettingsError
from orchestrator.model.base import parse_duration
from orchestrator.model.names import check_role_name, check_tool_name
from orchestrator.model.text import visible

_MOST_SHOWN = 20


def start(  # noqa: PLR0913  one for each option
    project: Path | None, role: str, tool: str | None, lasts: str, *, reason: str, as_json: bool
) -> None:
    """Put a role, or a tool of it, into a shadow.

    Raises:
        NotRunningError: Nothing runs, or not this role, or it has no such tool.
        SettingsError: It is no such time.
    """
    request: Object = {
        "op": "shadow.start",
        "role": check_role_name(role),
        "tool": None if tool is None else check_tool_name(tool),
        "lasts": _time(lasts),
        "reason": reason,
    }
    body = _ask(project, request, as_json=as_json)
    if body is not None:
        what = "its calls that change something are" if tool is None else f"calls of {tool} are"
        say(f"{role} works in shadow: {what} recorded, and none is made, for {lasts}.")
        say(f"`agents shadow report {role}` shows them.")


def stop(project: Path | None, role: str, tool: str | None, *, reason: str, as_json: bool) -> None:
    """End a shadow.

    Raises:
        NotRunningError: Nothing runs.
        StateError: It cannot be recorded or written; nothing changed.
    """
    request: Object = {
        "op": "shadow.stop",
        "role": check_role_name(role),
        "tool": None if tool is None else check_tool_name(tool),
        "reason": reason,
    }
    body = _ask(project, request, as_json=as_json)
    if body is None:
        return
    left = cast("list[Object]", body["holds"])
    if not body["changed"]:
        say(f"No order put {tool or role} into a shadow.")
    elif not left:
        say(f"Calls of {tool or role} are made again.")
    if left:
        say("Still in shadow:")
        say("\n".join(table_of(left)))


def report(project: Path | None, role: str | None, since: str | None, *, as_json: bool) -> None:
    """Show calls that were not made.

    Raises:
        NotRunningError: Nothing runs.
        SettingsError: It is no such time.
    """
    request: Object = {
        "op": "shadow.report",
        "role": None if role is None else check_role_name(role),
        "since": None if since is None else _time(since),
    }
    body = _ask(project, request, as_json=as_json)
    if body is None:
        return
    running = cast("list[Object]", body["running"])
    if running:
        say("In shadow now:")
        say("\n".join([*table_of(running), ""]))
    tools = cast("list[Object]", body["tools"])
    if not tools:
        say("No call was kept from being made.")
        return
    head = ("ROLE", "TOOL", "CLASS", "CALLS", "DIFFERENT", "AGENTS", "LAST")
    rows = [
        (
            str(one["role"]),
            str(one["tool"]),
            str(one["kind"]),
            str(one["calls"]),
            str(one["different"]),
            ", ".join(cast("list[str]", one["agents"])),
            moment(one["last"]),
        )
        for one in tools
    ]
    say("\n".join(table(head, rows)))
    calls = cast("list[Object]", body["calls"])
    for call in calls[:_MOST_SHOWN]:
        say()
        say(f"{moment(call['time'])}  {call['role']}  {call['agent']}  {call['tool']}")
        for text in (call["summary"], call["receipt"]):
            if text:
                say("\n".join(f"  {line}" for line in visible(str(text)).splitlines()))
        say(f"  request {call['request']}, arguments {str(call['arguments_sha256'])[:12]}")
    more = len(calls) - _MOST_SHOWN + cast("int", body["omitted"])
    if more > 0:
        say(f"\n{more} more; --json has them, or `agents audit search shadow`.")


def _time(text: str) -> str:
    try:
        _ = parse_duration(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return text


def _ask(project: Path | None, request: Object, *, as_json: bool) -> "Object | None":
    """Ask the daemon; None where the answer has been printed as JSON."""
    # A record of years takes its time to read.
    body = cast("Object", ask_once(find_paths(project).control_socket, request, patience=None))
    if as_json:
        say_json(body)
        return None
    return body
