"""`agents status`: what runs, read from the daemon without anything heavy."""

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

from orchestrator.cli.output import paint, paint_state, say, say_json, seconds, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import ask, ask_once
from orchestrator.errors import ControlUnavailableError, NotRunningError
from orchestrator.paths import Paths

Object: TypeAlias = Mapping[str, object]
NOT_READY: Final = 6
MOST_LANES: Final = 8
POLL_SECONDS: Final = 0.1
RESTART_SECONDS: Final = 15.0
NOTHING_RUNS: Final = NotRunningError.exit_code


def status(project: Path | None, *, watch: bool, as_json: bool) -> None:
    """Print the status; exits with 6 when a role is not ready, with 10 when nothing runs."""
    paths = find_paths(project)
    if watch:
        _watch(paths, as_json=as_json)
        return
    try:
        body = cast("Object", ask_once(paths.control_socket, {"op": "status"}))
    except NotRunningError as error:
        if not as_json:
            raise
        say_json(
            {
                "running": False,
                "project": str(paths.root),
                "gateway": {"url": "", "ready": False, "detail": str(error)},
                "roles": [],
                "notes": [],
            }
        )
        sys.exit(NOTHING_RUNS)
    if as_json:
        say_json(body)
    else:
        say("\n".join(render(body)))
    if not is_ready(body):
        sys.exit(NOT_READY)


def _watch(paths: Paths, *, as_json: bool) -> None:
    """Show every change; a daemon that is being restarted is waited for."""
    waited = 0.0
    while True:
        try:
            for body in ask(paths.control_socket, {"op": "status", "follow": True}):
                waited = 0.0
                if as_json:
                    say_json(body)
                else:
                    _repaint(render(body))
        except (ControlUnavailableError, NotRunningError):
            if waited >= RESTART_SECONDS or not (paths.run / "supervisor.sock").exists():
                raise
        time.sleep(POLL_SECONDS)
        waited += POLL_SECONDS


def roles_of(body: Object) -> list[Object]:
    """Tell the roles of a status."""
    return cast("list[Object]", body["roles"])


def is_ready(body: Object) -> bool:
    """Whether the gateway and every role are ready."""
    gateway = cast("Object", body["gateway"])
    return bool(gateway["ready"]) and all(role["state"] == "ready" for role in roles_of(body))


def render(body: Object) -> list[str]:
    """Lay a status out for a person, line by line."""
    gateway = cast("Object", body["gateway"])
    where = str(gateway["url"]) or paint(str(gateway["detail"]) or "starting", "yellow")
    head = ("ROLE", "STATE", "BANDS", "TOOLS", "PID", "RESTARTS", "UPTIME")
    rows = [_row(role) for role in roles_of(body)]
    lines = [f"gateway  {where}", ""]
    lines += table(head, rows) if rows else ["no roles"]
    lines += list(_further_processes(body))
    lines += list(_troubles(body))
    return lines


def _row(role: Object) -> list[str]:
    tools = cast("list[str]", role["tools"])
    return [
        str(role["role"]),
        paint_state(str(role["state"])),
        ",".join(cast("list[str]", role["bands"])),
        str(len(tools)) if tools else "-",
        str(role["pid"] or "-"),
        str(role["restarts"]),
        seconds(cast("float | None", role["uptime_seconds"])),
    ]


def _further_processes(body: Object) -> Iterable[str]:
    """Tell who stands by, and which lanes there are, a line for each role that has any."""
    found: list[str] = []
    for role in roles_of(body):
        name = paint(str(role["role"]), "bold")
        spare = cast("Object | None", role.get("spare"))
        if spare is not None:
            pid = f", pid {spare['pid']}" if spare["pid"] else ""
            found.append(f"{name}: spare {paint_state(str(spare['state']))}{pid}{_why(spare)}")
        lanes = cast("list[Object]", role.get("lanes", []))
        if lanes:
            shown = [_lane(lane, str(role["instances"])) for lane in lanes[:MOST_LANES]]
            if len(lanes) > MOST_LANES:
                shown.append(f"and {len(lanes) - MOST_LANES} more")
            count = f"{len(lanes)} lane{'s' if len(lanes) > 1 else ''}"
            found.append(f"{name}: {count}: {'; '.join(shown)}")
    return ["", *found] if found else []


def _lane(lane: Object, instances: str) -> str:
    owner = str(lane["owner"])
    whose = f" of session {owner}" if instances == "per-session" else f" of {owner}"
    state = "" if lane["state"] == "ready" else f" {paint_state(str(lane['state']))}"
    return f"{lane['era']}{whose if owner else ''}{state}{_why(lane)}"


def _why(process: Object) -> str:
    return f" ({process['detail']})" if process["detail"] else ""


def _troubles(body: Object) -> Iterable[str]:
    """Tell what is wrong and what to do, a paragraph each."""
    for role in roles_of(body):
        parts = [str(role["detail"])] if role["detail"] else []
        if role["retry_in_seconds"]:
            parts.append(f"next try in {seconds(cast('float', role['retry_in_seconds']))}")
        if role["missing"]:
            names = ", ".join(cast("list[str]", role["missing"]))
            parts.append(f"promised and not shown by the server: {names}")
        if parts:
            yield ""
            yield f"{paint(str(role['role']), 'bold')}: {'; '.join(parts)}"
            if role["hint"]:
                yield f"  {role['hint']}"
    for text in cast("list[str]", body["notes"]):
        yield ""
        yield text


def _repaint(lines: list[str]) -> None:
    """Show lines in place of the earlier ones on a terminal, below each other elsewhere."""
    if sys.stdout.isatty():
        _ = sys.stdout.write("\x1b[H\x1b[2J")
    say("\n".join(lines))
