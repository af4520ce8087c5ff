"""`agents freeze`, `thaw`, `disable`, `enable`, `guards`: what an operator holds back."""

from pathlib import Path
from typing import cast

from orchestrator.cli.output import say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.model.names import check_role_name, check_tool_name
from orchestrator.model.text import visible

_LONGEST_REASON = 60


def freeze(
    project: Path | None, role: str | None, *, read_only: bool, reason: str, as_json: bool
) -> None:
    """Refuse calls of a role, or of all roles.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        StateUnwritableError: It holds, and is not on disk.
    """
    request: Object = {"op": "freeze", "role": _checked(role), "read_only": read_only}
    body = _ask(project, {**request, "reason": reason}, as_json=as_json)
    if body is not None:
        how = "may only read" if read_only else "is frozen"
        again = "" if body["changed"] else " already"
        say(f"{_whose(role)} {how}{again}. `agents thaw{_word(role)}` ends it.")


def thaw(project: Path | None, role: str | None, *, reason: str, as_json: bool) -> None:
    """End a freeze.

    Raises:
        NotRunningError: Nothing runs.
        StateError: It cannot be recorded or written; nothing changed.
    """
    body = _ask(project, {"op": "thaw", "role": _checked(role), "reason": reason}, as_json=as_json)
    if body is not None:
        _tell_release(body, _whose(role), "thawed", "frozen")


def disable(
    project: Path | None, tool: str, role: str | None, *, reason: str, as_json: bool
) -> None:
    """Refuse calls of a tool.

    Raises:
        NotRunningError: Nothing runs, or no role has this tool.
        StateUnwritableError: It holds, and is not on disk.
    """
    request: Object = {"op": "disable", "tool": check_tool_name(tool), "role": _checked(role)}
    body = _ask(project, {**request, "reason": reason}, as_json=as_json)
    if body is not None:
        where = "" if role is None else f" at {role}"
        again = "" if body["changed"] else " already"
        back = "" if role is None else f" --role {role}"
        say(f"{tool} is disabled{where}{again}. `agents enable {tool}{back}` allows it again.")


def enable(
    project: Path | None, tool: str, role: str | None, *, reason: str, as_json: bool
) -> None:
    """Allow calls of a tool again.

    Raises:
        NotRunningError: Nothing runs.
        StateError: It cannot be recorded or written; nothing changed.
    """
    request: Object = {"op": "enable", "tool": check_tool_name(tool), "role": _checked(role)}
    body = _ask(project, {**request, "reason": reason}, as_json=as_json)
    if body is not None:
        where = "" if role is None else f" at {role}"
        _tell_release(body, f"{tool}{where}", "enabled", "disabled")


def guards(project: Path | None, *, as_json: bool) -> None:
    """List what is held back.

    Raises:
        NotRunningError: Nothing runs.
    """
    body = _ask(project, {"op": "guards"}, as_json=as_json)
    if body is None:
        return
    if body["problem"]:
        say(f"EVERYTHING IS FROZEN: {visible(str(body['problem']), '')}")
        return
    holds = cast("list[Object]", body["holds"])
    say("\n".join(table_of(holds)) if holds else "Nothing is held back.")


def table_of(holds: list[Object]) -> list[str]:
    """Lay out what is held back."""
    head = ("WHAT", "ROLE", "TOOL", "SINCE", "UNTIL", "BY", "WHY")
    return table(
        head,
        [
            (
                str(one["kind"]),
                str(one["role"] or "all"),
                str(one["tool"] or "-"),
                moment(one["since"]),
                moment(one["until"]),
                visible(str(one["by"] or one["origin"]), ""),
                visible(str(one["reason"]), "")[:_LONGEST_REASON] or "-",
            )
            for one in holds
        ],
    )


def moment(value: object) -> str:
    """Write a time as people read it; None becomes a dash."""
    return "-" if value is None else str(value)[:16].replace("T", " ")


def _ask(project: Path | None, request: Object, *, as_json: bool) -> "Object | None":
    """Ask the daemon; None where the answer has been printed as JSON."""
    body = cast("Object", ask_once(find_paths(project).control_socket, request))
    if as_json:
        say_json(body)
        return None
    return body


def _tell_release(body: Object, what: str, done: str, held: str) -> None:
    """Say what came of letting go, and what still holds it back."""
    say(f"{what} is {done}." if body["changed"] else f"{what} was not {held} by an operator.")
    left = cast("list[Object]", body["holds"])
    if left:
        say("Still held back:")
        say("\n".join(table_of(left)))
        if any(str(one["origin"]).startswith("incident:") for one in left):
            say("`agents incident close ID` ends what an incident holds back.")


def _checked(role: str | None) -> str | None:
    return None if role is None else check_role_name(role)


def _whose(role: str | None) -> str:
    return "Every role" if role is None else role


def _word(role: str | None) -> str:
    return "" if role is None else f" {role}"
