"""`agents rotate status`: how old credentials are, and how their rotations went."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.output import paint, say, say_json, seconds, table
from orchestrator.cli.places import find_paths
from orchestrator.cli.rotate import ROTATION_ID
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.model.text import visible

# More are in `--json`.
MOST_FINISHED: Final = 10
_COLOURS: Final = {"done": "green", "failed": "red", "held": "red"}
_FINISHED: Final = frozenset({"done", "failed"})


def status(project: Path | None, name: str | None, *, as_json: bool) -> None:
    """Show one rotation, one role, or everything.

    Raises:
        RotationUnknownError: There is no such rotation.
        NotRunningError: Nothing runs, or not this role.
    """
    # Twelve digits and letters up to f are an id, even where a role is called so.
    is_id = name is not None and re.fullmatch(ROTATION_ID, name) is not None
    if name is not None and not is_id:
        from orchestrator.model.names import check_role_name

        _ = check_role_name(name)
    request: Object = {
        "op": "rotations",
        "id": name if is_id else None,
        "role": None if is_id else name,
    }
    body = cast("Object", ask_once(find_paths(project).control_socket, request))
    if as_json:
        say_json(body)
    elif is_id:
        (one,) = cast("list[Object]", body["rotations"])
        say("\n".join(details(one)))
    else:
        say("\n".join(overview(body, datetime.now(UTC))))


def overview(body: Object, now: datetime) -> list[str]:
    """Lay out all credentials, then rotations, then what a person should know."""
    credentials = cast("list[Object]", body["credentials"])
    rotations = cast("list[Object]", body["rotations"])
    lines: list[str] = []
    if credentials:
        head = ("ROLE", "PURPOSE", "AGENT", "CREDENTIAL", "AGE", "DUE", "EXPIRES", "")
        lines += table(head, [_credential(one, now) for one in credentials])
    else:
        lines.append("no credentials")
    open_ones = [one for one in rotations if one["state"] not in _FINISHED]
    closed = [one for one in rotations if one["state"] in _FINISHED]
    if rotations:
        head = ("ROTATION", "ROLE", "PURPOSE", "AGENT", "STATE", "SINCE", "WHY")
        rows = [_rotation(one) for one in (*open_ones, *closed[:MOST_FINISHED])]
        lines += ["", *table(head, rows)]
    if len(closed) > MOST_FINISHED:
        lines.append(f"and {len(closed) - MOST_FINISHED} older ones; --json shows them")
    notes = cast("list[str]", body["notes"])
    for one in open_ones:
        if one["state"] == "held" and not any(str(one["id"]) in note for note in notes):
            lines += ["", f"{one['id']}: {visible(str(one['held_for']), '')}"]
    for note in notes:
        lines += ["", visible(note)]
    return lines


def _credential(one: Object, now: datetime) -> list[str]:
    age = (now - datetime.fromisoformat(str(one["issued_at"]))).total_seconds()
    marks = [str(one["warning"])] if one["warning"] else []
    marks += ["due"] if one["is_due"] else []
    marks += ["by hand"] if one["by_hand"] else []
    return [
        str(one["role"]),
        str(one["purpose"]),
        str(one["agent"] or "-"),
        str(one["credential"]),
        seconds(max(0.0, age)),
        _day(one["due_at"]),
        _day(one["expires_at"]),
        paint(", ".join(marks), "yellow") if marks else "",
    ]


def _rotation(one: Object) -> list[str]:
    state = str(one["state"])
    return [
        str(one["id"]),
        str(one["role"]),
        str(one["purpose"]),
        str(one["agent"] or "-"),
        paint(state, _COLOURS.get(state, "yellow")),
        _moment(one["changed_at"]),
        visible(str(one["reason"]), ""),
    ]


def details(one: Object) -> list[str]:
    """Lay out one rotation: what, how far, when, and what was seen at its end."""
    state = str(one["state"])
    rows = [
        ("rotation", str(one["id"])),
        ("role", str(one["role"])),
        ("purpose", str(one["purpose"])),
        ("agent", str(one["agent"])),
        ("state", paint(state, _COLOURS.get(state, "yellow"))),
        ("held at", str(one["held_at"] or "")),
        ("held for", visible(str(one["held_for"]), "")),
        ("old", str(one["old"])),
        ("new", str(one["new"])),
        ("reason", visible(str(one["reason"]), "")),
        ("asked by", str(one["requested_by"])),
        ("attempt", str(one["attempt"])),
        ("last error", visible(str(one["error"]), "")),
        ("next try", _moment(one["not_before"]) if one["not_before"] else ""),
    ]
    lines = [f"{title:11} {text}" for title, text in rows if text]
    lines += ["", *(f"{_moment(when)}  {name}" for name, when in _moments(one))]
    receipt = cast("Object | None", one["receipt"])
    if receipt is not None:
        lines += ["", "receipt", *receipt_lines(receipt)]
    return lines


def _moments(one: Object) -> list[tuple[str, str]]:
    moments = cast("dict[str, str]", one["moments"])
    return sorted(moments.items(), key=lambda moment: moment[1])


def receipt_lines(receipt: Object, indent: str = "  ") -> list[str]:
    """Lay a receipt out, a fact a line."""
    lines: list[str] = []
    for name, value in receipt.items():
        title = name.replace("_", " ")
        if isinstance(value, dict):
            lines.append(f"{indent}{title}")
            lines += receipt_lines(cast("Object", value), indent + "  ")
        elif isinstance(value, list):
            items = cast("list[object]", value)
            lines.append(f"{indent}{title}: {'' if items else 'none'}".rstrip())
            for item in items:
                if isinstance(item, dict):
                    first, *rest = receipt_lines(cast("Object", item), indent + "    ") or [""]
                    lines += [f"{indent}  - {first.strip()}", *rest]
                else:
                    lines.append(f"{indent}  - {visible(str(item), '')}")
        else:
            lines.append(f"{indent}{title}: {'-' if value is None else visible(str(value), '')}")
    return lines


def _day(value: object) -> str:
    return "-" if value is None else str(value)[:10]


def _moment(value: object) -> str:
    return str(value)[:19].replace("T", " ")
