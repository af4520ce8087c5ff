"""`agents pins`: which tool definitions were accepted, and which are held until somebody looks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from orchestrator.cli.output import note, paint, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import NotRunningError, SettingsError

if TYPE_CHECKING:
    from orchestrator.control.pindiff import Kind

_LINES: Final = 200
_SHORT_HASH: Final = 12
_HASH: Final = 64
_COLOURS: Final = {"+": "green", "-": "red", "@": "dim"}


def list_all(project: Path | None, role: str | None, *, as_json: bool) -> None:
    """List what is pinned, of one role or of all.

    Raises:
        StateCorruptError: A file of pins cannot be used.
        SettingsError: There is no such role.
    """
    paths = find_paths(project)
    try:
        request: Object = {"op": "pins.list", "role": role}
        rows = cast("list[Object]", ask_once(paths.control_socket, request))
    except NotRunningError:
        from orchestrator.control.pinbook import list_files

        rows = [cast("Object", row) for row in list_files(paths.pins, role)]
    if as_json:
        say_json(rows)
    elif not rows:
        say("nothing is pinned" + (f" for {role}" if role else ""))
    else:
        head = ("ROLE", "SERVER", "TOOL", "STATE", "SHA256", "SINCE")
        say("\n".join(table(head, [_row(row) for row in rows])))


def _row(row: Object) -> list[str]:
    state = str(row["state"])
    return [
        str(row["role"]),
        str(row["server"]),
        str(row["tool"] or "(instructions)"),
        paint(state, "red") if state == "held" else state,
        str(row["sha256"] or "-")[:_SHORT_HASH],
        str(row["since"] or "-")[:16].replace("T", " "),
    ]


def diff(project: Path | None, role: str, *, full: bool, as_json: bool) -> None:
    """Show how a role's live tools differ from its pinned ones.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        WorkloadNotReadyError: The role has no live instance.
    """
    paths = find_paths(project)
    body = cast("Object", ask_once(paths.control_socket, {"op": "pins.diff", "role": role}))
    differences = cast("list[Object]", body["differences"])
    if as_json:
        for one in differences:
            for side in ("pinned", "live"):
                text = cast("str | None", one[side])
                one[side] = None if text is None else cast("object", json.loads(text))
        say_json(body)
        return
    cut = [_show(one, None if full else _LINES) for one in differences]
    if not differences:
        say(f"{role} shows what is pinned.")
    elif held := _what(body):
        say(f"Held until approved: {held}.")
    else:
        say("Nothing is held.")
    say(f"live: {body['hash']}")
    if any(cut):
        note("Not everything is shown; `--full` shows it. Look at all of it before you approve.")
    if differences:
        note(f"To accept exactly this: agents pins approve {role} --expect {body['hash']}")


def _show(difference: Object, limit: int | None) -> bool:
    """Print one difference; tells whether some of it was left out."""
    from orchestrator.control.pindiff import Difference, unified

    one = Difference(
        kind=cast("Kind", difference["kind"]),
        name=str(difference["tool"] or ""),
        before=cast("str | None", difference["pinned"]),
        after=cast("str | None", difference["live"]),
        was=str(difference["was"] or ""),
    )
    name = one.name or "instructions"
    title = f"{one.was} -> {name}" if one.was else name
    say(paint(f"{one.kind}: {title}", "bold"))
    left = 0
    for number, line in enumerate(unified(one)):
        if limit is not None and number >= limit:
            left += 1
        else:
            say(paint(line, _COLOURS[line[0]]) if line[0] in _COLOURS else line)
    if left:
        say(f"... {left} more lines")
    say()
    return left > 0


def approve(project: Path | None, role: str, expect: str, *, as_json: bool) -> None:
    """Accept a role's live tools, if they are still those with this hash.

    Raises:
        SettingsError: That is no hash.
        PinsChangedError: The tools are others by now; nothing was changed.
    """
    if len(expect) != _HASH:
        raise SettingsError(
            "--expect takes the whole hash", hint=f"`agents pins diff {role}` ends with it."
        )
    paths = find_paths(project)
    request: Object = {"op": "pins.approve", "role": role, "expect": expect}
    body = cast("Object", ask_once(paths.control_socket, request))
    if as_json:
        say_json(body)
        return
    say(f"Approved what {role} shows. Released: {_what(body) or 'nothing was held'}.")


def _what(body: Object) -> str:
    """Name what is or was held."""
    held = cast("list[str]", body["held"])
    return ", ".join([*held, *(["the instructions"] if body["instructions_held"] else [])])
