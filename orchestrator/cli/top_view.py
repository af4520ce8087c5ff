"""What `agents top` shows, line by line; pure, so that what is shown can be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from orchestrator.audit.query import tone
from orchestrator.cli.output import paint, paint_state, seconds, table
from orchestrator.model.text import cut, visible

Object: TypeAlias = Mapping[str, object]

_ROLES: Final = ("", "ROLE", "STATE", "TOOLS", "CALLS/MIN", "REFUSED", "FAILED", "P95 MS", "UPTIME")
_WAITING: Final = ("", "ID", "ROLE", "AGENT", "TOOL", "WHAT", "UNTIL")
_CALLS: Final = ("", "TIME (UTC)", "AGENT", "ROLE", "TOOL", "OUTCOME", "MS")
_TONES: Final = {"ok": "green", "refused": "red", "failed": "yellow"}
_MARK: Final = ">"
_LONGEST_CELL: Final = 28
_MOST_WAITING: Final = 8
_DIFF: Final = {"+": "green", "-": "red"}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a role's calls of the last minute were like.

    Attributes:
        calls: How many there were.
        refused: How many of them the gateway refused.
        failed: How many ended with an error of the server.
        p95_ms: Milliseconds that 95 of 100 took at most; None without any.
    """

    calls: int = 0
    refused: int = 0
    failed: int = 0
    p95_ms: float | None = None


NONE: Final = Rates()


@dataclass(frozen=True, slots=True)
class View:
    """One moment of a project.

    Attributes:
        status: As `agents status --json` tells it.
        waiting: Approvals that wait for a person, the newest first.
        holds: What is held back.
        rates: Of the last minute, by role.
        calls: Requests as they ended, the newest first.
        note: What cannot be told, in a sentence; empty usually.
    """

    status: Object
    waiting: Sequence[Object] = ()
    holds: Sequence[Object] = ()
    rates: Mapping[str, Rates] = field(default_factory=dict[str, Rates])
    calls: Sequence[Object] = ()
    note: str = ""

    @property
    def roles(self) -> Sequence[Object]:
        """The roles."""
        return cast("Sequence[Object]", self.status["roles"])

    @property
    def places(self) -> list[str]:
        """What can be chosen: approvals by their ids, roles by their names."""
        waiting = [str(one["id"]) for one in self.waiting[:_MOST_WAITING]]
        return [*waiting, *(str(role["role"]) for role in self.roles)]

    def held(self, role: str) -> str:
        """Tell in a word how a role is held back as a whole; empty if it is not."""
        kinds = {str(one["kind"]) for one in self.holds if one.get("role") in {None, role}}
        whole = {
            str(one["kind"])
            for one in self.holds
            if one.get("role") in {None, role} and one.get("tool") is None
        }
        for kind in ("frozen", "read-only", "shadow"):
            if kind in whole:
                return kind
        return "partly held" if kinds else ""


def render(view: View, chosen: str, height: int, width: int) -> list[str]:
    """Lay a moment out.

    Args:
        view: The moment.
        chosen: The place that is marked.
        height: Lines that there are.
        width: Columns that there are.
    """
    gateway = cast("Object", view.status["gateway"])
    where = str(gateway["url"]) or paint(str(gateway["detail"]) or "starting", "yellow")
    lines = [f"{paint('bandmaster', 'bold')}  {_text(view.status['project'])}  {where}"]
    if view.note:
        lines.append(paint(_text(view.note), "red"))
    lines += ["", *table(_ROLES, [_role(view, role, chosen) for role in view.roles])]
    lines += ["", *_waiting(view, chosen)]
    room = height - len(lines) - 3
    rows = [_call(call) for call in view.calls[: max(0, room - 1)]]
    lines += ["", *(table(_CALLS, rows) if rows else [paint("no calls yet", "dim")])]
    return [_fit(line, width) for line in lines[:height]]


def _role(view: View, role: Object, chosen: str) -> list[str]:
    name, rates = str(role["role"]), view.rates.get(str(role["role"]), NONE)
    held = view.held(name)
    return [
        _MARK if chosen == name else " ",
        name,
        paint(held, "yellow") if held else paint_state(str(role["state"])),
        str(len(cast("Sequence[object]", role["tools"]))),
        str(rates.calls),
        paint(str(rates.refused), "red") if rates.refused else "0",
        paint(str(rates.failed), "yellow") if rates.failed else "0",
        "-" if rates.p95_ms is None else f"{rates.p95_ms:.1f}",
        seconds(cast("float | None", role["uptime_seconds"])),
    ]


def _waiting(view: View, chosen: str) -> list[str]:
    if not view.waiting:
        return [paint("nothing waits for a person", "dim")]
    rows = [
        [
            _MARK if chosen == str(one["id"]) else " ",
            str(one["id"]),
            _text(one["role"]),
            _text(one["agent"]),
            paint(_text(one["tool"]), "bold"),
            _text(str(one["receipt"]).split("\n", 1)[0]),
            str(one["expires_at"])[11:16],
        ]
        for one in view.waiting[:_MOST_WAITING]
    ]
    head = paint(f"{len(view.waiting)} waiting for a person", "yellow")
    return [head, *table(_WAITING, rows)]


def _call(call: Object) -> list[str]:
    taken = call.get("duration_us")
    told = call.get("code") or call.get("outcome") or call.get("event")
    return [
        " ",
        str(call.get("time"))[11:19],
        _text(call.get("agent") or "-"),
        _text(call.get("role") or "-"),
        _text(call.get("tool") or call.get("method") or "-"),
        paint(_text(told), _TONES[tone(call)]),
        f"{taken / 1000:.1f}" if isinstance(taken, int) else "-",
    ]


def render_approval(body: Object, width: int) -> list[str]:
    """Lay one approval out whole, with what will happen and what is new about it.

    Args:
        body: As the daemon tells it.
        width: Columns that there are; longer lines go on in the next one.
    """
    head = f"{body['id']}  {_text(body['role'])}: {_text(body['agent'])} wants {body['tool']}"
    told = [(f"{visible(head, '')} ({body['class']})", "bold"), ("", "")]
    told += [(f"  {visible(line, '')}", "") for line in str(body["receipt"]).split("\n")]
    told += [(f"  ! {visible(text, '')}", "red") for text in cast("list[str]", body["warnings"])]
    diff = cast("Object | None", body.get("diff"))
    if diff is None:
        told += [("", ""), ("There is no earlier approved call of this tool at this role.", "")]
    else:
        told += [("", ""), (f"Beside {diff['against']}, the last one approved:", "")]
        told += [
            (f"  {visible(line, '')}", _DIFF.get(line[:1], ""))
            for line in cast("list[str]", diff["receipt"])
        ]
    return [
        paint(piece, colour) if colour else piece
        for text, colour in told
        for piece in _pieces(text, width)
    ]


def _pieces(text: str, width: int) -> list[str]:
    return [text[start : start + width] for start in range(0, len(text), width)] or [""]


def _text(value: object) -> str:
    return cut(visible(str(value), ""), _LONGEST_CELL)


def _fit(line: str, width: int) -> str:
    """Cut a line to the terminal's width; colours take no room, and end with the line."""
    shown, place = 0, 0
    while place < len(line):
        if line[place] == "\x1b":
            place = line.index("m", place) + 1
            continue
        if shown == width:
            return line[:place] + "\x1b[0m"
        shown += 1
        place += 1
    return line
