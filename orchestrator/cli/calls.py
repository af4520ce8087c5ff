"""`agents calls`: the record of calls, for people and for programs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from orchestrator.audit.reader import end, follow, newest_first, parse, since
from orchestrator.cli.output import note, paint, say
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError, SettingsError
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

LINES: Final = 50
_HEAD: Final = ("TIME (UTC)", "AGENT", "ROLE", "TOOL", "OUTCOME", "MS", "REQUEST")
_WIDTHS: Final = (23, 16, 12, 24, 26, 9, 16)
_COLOURS: Final = {"ok": "green", "listens": "green", "tool_error": "yellow", "rpc_error": "yellow"}


def calls(  # noqa: PLR0913  one for each option
    project: Path | None,
    role: str | None,
    *,
    lines: int | None,
    age: str | None,
    follows: bool,
    as_json: bool,
) -> None:
    """Print the record; as JSON each line of it as it is, as a table only how requests ended.

    Raises:
        NotRunningError: There is no record (yet).
        SettingsError: An option cannot be understood.
    """
    if role is not None:
        from orchestrator.model.names import check_role_name

        _ = check_role_name(role)
    moment = None if age is None else _read_age(age)
    directory = find_paths(project).audit
    place = end(directory)
    if place is None:
        raise NotRunningError("nothing is recorded yet", hint="Start with `agents up`.")

    def is_wanted(told: "JsonObject") -> bool:
        return (role is None or told.get("role") == role) and (
            as_json or told.get("event") in _SHOWN
        )

    if not as_json:
        say(_lay_out(_HEAD))
    shown = 0
    try:
        for told, line in _choose(directory, moment, lines, is_wanted):
            shown = max(shown, _number(told))
            _show(told, line, as_json=as_json)
        if follows:
            for told, line in _matching(follow(directory, place), is_wanted):
                if _number(told) > shown:
                    _show(told, line, as_json=as_json)
    except KeyboardInterrupt:
        note("")


_Line: TypeAlias = "tuple[JsonObject, bytes]"


def _choose(
    directory: Path,
    moment: str | None,
    lines: int | None,
    is_wanted: "Callable[[JsonObject], bool]",
) -> Iterable[_Line]:
    """Give the lines to begin with, the oldest first."""
    if moment is None:
        newest = _matching(newest_first(directory), is_wanted)
        return reversed(list(islice(newest, LINES if lines is None else lines)))
    found = _matching(since(directory, moment), is_wanted)
    return found if lines is None else deque(found, maxlen=lines)


def _matching(lines: Iterator[bytes], is_wanted: "Callable[[JsonObject], bool]") -> Iterator[_Line]:
    for line in lines:
        told = parse(line)
        if told is not None and is_wanted(told):
            yield told, line


def _number(told: "JsonObject") -> int:
    number = told.get("seq")
    return number if isinstance(number, int) else 0


def _show(told: "JsonObject", line: bytes, *, as_json: bool) -> None:
    if as_json:
        say(visible(line.decode("utf-8", "replace"), keep=""))
    else:
        say(_row(told))


# How each event is told in the table; the others are for programs.
_SHOWN: Final["dict[str, Callable[[JsonObject], str]]"] = {
    "outcome": lambda told: _text(told, "code") or _text(told, "outcome"),
    "decision": lambda told: _text(told, "code") or _text(told, "outcome"),
    "stream": lambda _: "listens",
    "omitted": lambda told: f"{_text(told, 'count')} more {_text(told, 'code')}",
    "gap": lambda told: f"{_text(told, 'count')} not recorded",
}


def _row(told: "JsonObject") -> str:
    outcome = _SHOWN[_text(told, "event")](told)
    taken = told.get("duration_us")
    cells = (
        _text(told, "time")[:23].replace("T", " "),
        _text(told, "agent") or "-",
        _text(told, "role") or "-",
        _text(told, "tool") or _text(told, "method") or "-",
        outcome,
        f"{taken / 1000:.1f}" if isinstance(taken, int) else "-",
        _text(told, "request") or "-",
    )
    colour = _COLOURS.get(outcome, "red")
    return _lay_out(cells, lambda cell: paint(cell, colour))


def _lay_out(cells: tuple[str, ...], paint_outcome: Callable[[str], str] = str) -> str:
    """Lay one line out in fixed columns, as later lines are not known; numbers to the right."""
    padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    padded[4] = paint_outcome(padded[4])
    padded[5] = cells[5].rjust(_WIDTHS[5])
    return "  ".join(padded).rstrip()


def _text(told: "JsonObject", name: str) -> str:
    value = told.get(name)
    return "" if value is None else visible(str(value), keep="")


def _read_age(text: str) -> str:
    """Tell the moment so long ago, as it is written in the record."""
    from orchestrator.model.base import parse_duration

    try:
        moment = datetime.now(UTC) - parse_duration(text)
    except ValueError as error:
        raise SettingsError(f"--since: {error}") from error
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
