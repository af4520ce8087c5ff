"""`agents top`: what runs, what waits for a person and what is called, on a terminal, live."""

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

from orchestrator.audit.query import tone
from orchestrator.audit.reader import newest_first, parse
from orchestrator.cli.approver import Who
from orchestrator.cli.output import paint, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.cli.top_view import Object, Rates, View, render, render_approval
from orchestrator.control.admin_client import ask_once
from orchestrator.errors import AgentsError, ControlUnavailableError, NotRunningError
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.paths import Paths

LOOK_SECONDS: Final = 1.0
_MINUTE: Final = timedelta(minutes=1)
# Lines of the record that are looked through for one moment.
_MOST_LINES: Final = 20_000
_MOST_CALLS: Final = 100
_ENDS: Final = frozenset({"outcome", "decision"})
_KEYS: Final = {b"\x1b[A": "k", b"\x1b[B": "j", b"\r": "enter", b"\n": "enter", b"\x1b": "back"}
_HELP: Final = "j k choose   enter look   a approve   d deny   f freeze or thaw   q quit"
_LOOKING: Final = "a approve   d deny   esc back   q quit"
_PAGE: Final = (80, 50)


def top(project: Path | None, who: Who, *, once: bool, as_json: bool) -> None:
    """Show a project live; on no terminal, or with `once`, one moment of it.

    Raises:
        NotRunningError: Nothing runs.
    """
    paths = find_paths(project)
    if as_json:
        view = look(paths)
        say_json({"status": view.status, "waiting": view.waiting, "holds": view.holds})
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        say("\n".join(render(look(paths), "", _PAGE[1], _PAGE[0] * 2)))
    else:
        ticket = who.ticket(paths.control_socket)
        with _screen() as terminal:
            Top(paths, terminal, ticket).run()


def look(paths: "Paths") -> View:
    """Take one moment of a project.

    Raises:
        NotRunningError: Nothing runs.
    """
    socket = paths.control_socket
    status = cast("Object", ask_once(socket, {"op": "status"}))
    waiting = cast("list[Object]", ask_once(socket, {"op": "approvals", "state": "pending"}))
    guards = cast("Object", ask_once(socket, {"op": "guards"}))
    ended = _ended(paths.audit)
    return View(
        status,
        waiting,
        cast("list[Object]", guards["holds"]),
        _rates(ended),
        ended[:_MOST_CALLS],
        str(guards["problem"]),
    )


def _ended(directory: Path) -> list[Object]:
    """Give the requests of the last minute as they ended, and some before it."""
    since = (datetime.now(UTC) - _MINUTE).isoformat(timespec="microseconds")
    found: list[Object] = []
    for line in islice(newest_first(directory), _MOST_LINES):
        told = parse(line)
        if told is None or told.get("event") not in _ENDS:
            continue
        if len(found) >= _MOST_CALLS and str(told.get("time")) < since:
            break
        found.append(told)
    return found


def _rates(ended: list[Object]) -> dict[str, Rates]:
    since = (datetime.now(UTC) - _MINUTE).isoformat(timespec="microseconds")
    by_role: dict[str, list[Object]] = {}
    for call in ended:
        if str(call.get("time")) >= since:
            by_role.setdefault(str(call.get("role")), []).append(call)
    return {role: _rate(calls) for role, calls in by_role.items()}


def _rate(calls: list[Object]) -> Rates:
    tones = [tone(call) for call in calls]
    taken = sorted(
        value / 1000 for call in calls if isinstance(value := call.get("duration_us"), int)
    )
    p95 = taken[min(len(taken) - 1, len(taken) * 95 // 100)] if taken else None
    return Rates(len(calls), tones.count("refused"), tones.count("failed"), p95)


@contextmanager
def _screen() -> Generator[int]:
    """Take the whole terminal, keys one by one, and give it back as it was."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        _ = tty.setcbreak(terminal)
        _ = sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield terminal
    finally:
        _ = sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@final
class Top:
    """The screen, and what its keys do."""

    def __init__(self, paths: "Paths", terminal: int, ticket: str) -> None:
        """Begin with nothing chosen.

        Args:
            paths: Where the project keeps what.
            terminal: Where keys come from.
            ticket: Who decides; empty for the operator.
        """
        self._paths = paths
        self._terminal = terminal
        self._ticket = ticket
        self._chosen = ""
        self._open: Object | None = None
        self._said = ""

    def run(self) -> None:
        """Show it until somebody has seen enough."""
        view: View | None = None
        while True:
            try:
                view = look(self._paths)
            except (ControlUnavailableError, NotRunningError) as error:
                if view is None:
                    raise
                self._said = str(error)  # the daemon may be back in a moment
            self._paint(view)
            key = self._key(LOOK_SECONDS)
            if key == "q":
                return
            if key:
                self._said = ""
                self._act(view, key)

    def _act(self, view: View, key: str) -> None:
        places = view.places
        at = places.index(self._chosen) if self._chosen in places else -1
        try:
            match key:
                case "j" | "k" if self._open is None and places:
                    step = 1 if key == "j" else -1
                    self._chosen = places[max(0, min(len(places) - 1, at + step))]
                case "back":
                    self._open = None
                case "enter" if self._is_waiting(view):
                    self._open = self._approval()
                case "a" | "d" if self._is_waiting(view):
                    self._decide("approve" if key == "a" else "deny")
                case "f" if at >= 0 and not self._is_waiting(view):
                    self._freeze(view, self._chosen)
                case _:
                    pass
        except AgentsError as error:
            self._said = str(error)

    def _is_waiting(self, view: View) -> bool:
        return any(str(one["id"]) == self._chosen for one in view.waiting)

    def _approval(self) -> Object:
        return cast("Object", self._ask({"op": "approval", "id": self._chosen}))

    def _decide(self, decision: str) -> None:
        """Show the call whole, and have a yes, before anything is said to the daemon."""
        self._open = body = self._approval()
        size = shutil.get_terminal_size(_PAGE)
        if len(render_approval(body, size.columns)) > size.lines - 2:
            self._said = (
                f"the call does not fit on this screen: agents approvals {decision} {self._chosen}"
            )
            return
        if not self._confirm(f"{decision} exactly this call?", body):
            return
        after = self._ask(
            {
                "op": "approval.decide",
                "id": self._chosen,
                "decision": decision,
                "digest": body["digest"],
                "ticket": self._ticket,
            }
        )
        self._open = None
        self._said = f"{self._chosen} is {cast('Object', after)['state']}"

    def _freeze(self, view: View, role: str) -> None:
        is_frozen = view.held(role) in {"frozen", "read-only"}
        verb = "thaw" if is_frozen else "freeze"
        if self._confirm(f"{verb} {role}?", None, view):
            _ = self._ask({"op": verb, "role": role, "reason": "agents top"})
            self._said = f"{role} is {'thawed' if is_frozen else 'frozen'}"

    def _ask(self, request: "dict[str, object]") -> object:
        return ask_once(self._paths.control_socket, request)

    def _confirm(self, question: str, body: Object | None, view: View | None = None) -> bool:
        self._said = f"{question} y, or any other key for no"
        if body is not None:
            self._paint_approval(body)
        elif view is not None:
            self._paint(view)
        self._said = ""
        # What was typed before the question was there is no answer to it.
        termios.tcflush(self._terminal, termios.TCIFLUSH)
        return self._key(None) == "y"

    def _key(self, patience: float | None) -> str:
        """Wait for a key; empty if none came."""
        ready, _, _ = select.select([self._terminal], [], [], patience)
        if not ready:
            return ""
        pressed = os.read(self._terminal, 64)
        # The end of the terminal is a key, too.
        return _KEYS.get(pressed, pressed.decode("ascii", "replace")) if pressed else "q"

    def _paint(self, view: View) -> None:
        if self._open is not None:
            self._paint_approval(self._open)
            return
        size = shutil.get_terminal_size(_PAGE)
        lines = render(view, self._chosen, size.lines - 2, size.columns)
        self._put(lines, _HELP, size.lines)

    def _paint_approval(self, body: Object) -> None:
        size = shutil.get_terminal_size(_PAGE)
        self._put(render_approval(body, size.columns), _LOOKING, size.lines)

    def _put(self, lines: list[str], keys: str, height: int) -> None:
        """Write a whole screen in one go, in place of the one before."""
        foot = paint(visible(self._said, ""), "yellow") if self._said else paint(keys, "dim")
        rows = [*lines[: height - 2], "", foot]
        _ = sys.stdout.write("\x1b[H" + "\x1b[K\n".join(rows) + "\x1b[K\x1b[J")
        sys.stdout.flush()
