"""`agents incident`: one command for the day on which a role does what it must not."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.freeze import moment
from orchestrator.cli.output import NOT_DURABLE, note, paint, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask, ask_once, is_listening
from orchestrator.errors import NotRunningError, StateError, StateUnwritableError
from orchestrator.model.names import check_role_name
from orchestrator.model.text import visible

_CRITICAL: Final = frozenset({"freeze", "revoke", "cut"})
_LONGEST_REASON: Final = 60


def start(project: Path | None, role: str, *, reason: str, as_json: bool) -> None:
    """Start an incident, and show each step as it is taken.

    Exits with 10 when calls or tokens were not seen refused, or it is not on disk.

    Raises:
        NotRunningError: Nothing runs, or not this role; nothing was done.
    """
    request: Object = {"op": "incident.start", "role": check_role_name(role), "reason": reason}
    paths = find_paths(project)
    try:
        incident = _follow(paths.control_socket, request, "steps", quiet=as_json)
    except NotRunningError as error:
        if not is_listening(paths.control_socket):
            error.hint = (
                "Nothing was done, and nothing is served. `agents token list` and `agents token "
                "revoke ID` need no daemon."
            )
        raise
    if as_json:
        say_json(incident)
    else:
        say()
        say(f"The role is held until `agents incident close {incident['id']}`.")
        say(f"Its papers: {paths.incidents / str(incident['id'])}")
    if not incident["durable"]:
        note(f"agents: {NOT_DURABLE}")
        sys.exit(StateUnwritableError.exit_code)
    steps = cast("list[Object]", incident["steps"])
    if any(not step["ok"] for step in steps if step["name"] in _CRITICAL):
        sys.exit(StateError.exit_code)


def close(project: Path | None, incident_id: str, *, reason: str, as_json: bool) -> None:
    """Undo what may be undone, and show each step.

    Raises:
        NotRunningError: Nothing runs.
        AgentsError: There is no such incident, or a step could not be taken.
    """
    request: Object = {"op": "incident.close", "id": incident_id, "reason": reason}
    socket = find_paths(project).control_socket
    incident = _follow(socket, request, "close_steps", quiet=as_json)
    if as_json:
        say_json(incident)
        return
    say()
    _tell_remaining(incident)


def list_all(project: Path | None, *, as_json: bool) -> None:
    """List incidents.

    Raises:
        NotRunningError: Nothing runs.
    """
    socket = find_paths(project).control_socket
    found = cast("list[Object]", ask_once(socket, {"op": "incidents"}))
    if as_json:
        say_json(found)
        return
    head = ("ID", "ROLE", "STATE", "STARTED", "CLOSED", "BY", "WHY")
    rows = [
        (
            str(one["id"]),
            str(one["role"]),
            str(one["state"]),
            moment(one["started_at"]),
            moment(one["closed_at"]),
            visible(str(one["by"]), ""),
            visible(str(one["reason"]), "")[:_LONGEST_REASON],
        )
        for one in found
    ]
    say("\n".join(table(head, rows)) if rows else "There was no incident.")


def show(project: Path | None, incident_id: str, *, as_json: bool) -> None:
    """Show one incident with all its steps.

    Raises:
        NotRunningError: Nothing runs.
        IncidentUnknownError: There is none with this id.
    """
    socket = find_paths(project).control_socket
    incident = cast("Object", ask_once(socket, {"op": "incidents", "id": incident_id}))
    if as_json:
        say_json(incident)
        return
    say(_headline(incident))
    for step in cast("list[Object]", incident["steps"]):
        say(_line(step, str(incident["started_at"])))
    if incident["closed_at"] is not None:
        why = visible(str(incident["close_reason"]), "")
        by = visible(str(incident["closed_by"]), "")
        say(f"closed by {by}{f': {why}' if why else ''}")
        for step in cast("list[Object]", incident["close_steps"]):
            say(_line(step, str(incident["closed_at"])))
    _tell_remaining(incident)


def _follow(socket: Path, request: Object, which: str, *, quiet: bool) -> Object:
    """Show steps as they are taken; the incident as it is at the end."""
    # Targets of messages and disks take their time, and each is bounded.
    replies = ask(socket, request, patience=None)
    shown = -1
    while True:
        try:
            incident = next(replies)
        except StopIteration as end:
            return cast("Object", end.value)
        if quiet:
            continue
        if shown < 0:
            say(_headline(incident))
            shown = 0
        steps = cast("list[Object]", incident[which])
        began = incident["closed_at"] if which == "close_steps" else incident["started_at"]
        for step in steps[shown:]:
            say(_line(step, str(began)))
        shown = len(steps)


def _headline(incident: Object) -> str:
    name, state = paint(str(incident["id"]), "bold"), str(incident["state"])
    return f"{name}  {incident['role']}  {state}  {visible(str(incident['reason']), '')}"


def _line(step: Object, began: str) -> str:
    at, start_at = _read(str(step["at"])), _read(began)
    mark = paint("ok", "green") if step["ok"] else paint("NOT DONE", "red")
    after = (at - start_at).total_seconds()
    text = visible(str(step["note"]), "")
    return f"  {at:%H:%M:%S.%f} +{after:.3f}s  {step['name']!s:8} {mark}  {text}"


def _tell_remaining(incident: Object) -> None:
    remaining = cast("list[str]", incident["remaining"])
    if remaining:
        say("What is left to do or to know:")
        for text in remaining:
            say(f"  - {visible(text, '')}")


def _read(text: str) -> datetime:
    return datetime.fromisoformat(text)
