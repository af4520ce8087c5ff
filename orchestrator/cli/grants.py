"""`agents grants`: calls that are approved beforehand, for a time."""

from pathlib import Path
from typing import Final, cast

from orchestrator.cli.approver import Who
from orchestrator.cli.output import paint, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import SettingsError
from orchestrator.model.base import format_duration, parse_duration
from orchestrator.model.names import check_role_name, check_tool_name
from orchestrator.model.text import cut, visible

_LONGEST_CELL: Final = 40


def list_all(project: Path | None, role: str | None, *, as_json: bool) -> None:
    """List grants.

    Raises:
        NotRunningError: Nothing runs.
    """
    request: Object = {"op": "grants", "role": role}
    rows = cast("list[Object]", ask_once(find_paths(project).control_socket, request))
    if as_json:
        say_json(rows)
    elif not rows:
        say("there are no grants")
    else:
        head = ("ID", "STATE", "ROLE", "TOOL", "AGENT", "CALLS", "UNTIL", "BY", "WHY")
        say("\n".join(table(head, [_row(row) for row in rows])))


def _row(row: Object) -> list[str]:
    state = str(row["state"])
    return [
        str(row["id"]),
        paint(state, "green" if state == "active" else "dim"),
        str(row["role"]),
        str(row["tool"]),
        str(row["agent"] or "(each)"),
        f"{row['used']} of {row['calls'] or 'any number'}",
        str(row["expires_at"])[:16].replace("T", " "),
        str(row["by"]),
        cut(visible(str(row["reason"]), ""), _LONGEST_CELL),
    ]


def give(  # noqa: PLR0913  one for each option
    project: Path | None,
    role: str,
    tool: str,
    who: Who,
    *,
    lasts: str,
    reason: str,
    calls: int | None,
    agent: str | None,
    as_json: bool,
) -> None:
    """Approve calls beforehand.

    Raises:
        SettingsError: The role asks for no such approval, or an option is wrong.
        ApproverError: This person may not.
    """
    try:
        length = format_duration(parse_duration(lasts))
    except ValueError as error:
        raise SettingsError(f"--for: {error}") from error
    socket = find_paths(project).control_socket
    request: Object = {
        "op": "grant",
        "role": check_role_name(role),
        "tool": check_tool_name(tool),
        "agent": agent,
        "lasts": length,
        "calls": calls,
        "reason": reason,
        "ticket": who.ticket(socket),
    }
    body = cast("Object", ask_once(socket, request))
    if as_json:
        say_json(body)
        return
    many = "any number of calls" if calls is None else f"{calls} calls"
    say(f"{body['id']}: {many} of {tool} may be made without asking, for {length}.")


def end(project: Path | None, identity: str, who: Who, *, reason: str, as_json: bool) -> None:
    """End a grant.

    Raises:
        ApprovalUnknownError: There is none of that name, or it was ended already.
    """
    socket = find_paths(project).control_socket
    request: Object = {"op": "grant.end", "id": identity, "reason": reason}
    body = cast("Object", ask_once(socket, {**request, "ticket": who.ticket(socket)}))
    if as_json:
        say_json(body)
    else:
        say(f"{identity} is ended; {body['used']} calls were made by it.")
