"""`agents audit tail`, `show`, `runs` and `search`: the record for people."""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.audit.query import Query, select
from orchestrator.audit.reader import end, follow, newest_first, parse
from orchestrator.audit.story import Step, describe, runs, story
from orchestrator.cli.output import note, paint, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

_HEAD: Final = ("TIME (UTC)", "AGENT", "ROLE", "WHAT HAPPENED")
_WIDTHS: Final = (23, 16, 12, 0)


def tail(project: Path | None, lines: int, role: str, *, follows: bool, as_json: bool) -> None:
    """Print the last lines, and those that come.

    Raises:
        NotRunningError: There is no record (yet).
    """
    directory, place = _find(project)
    query = Query(role=role)
    newest = islice(_matching(newest_first(directory), query), lines)
    shown = 0
    _say_head(as_json=as_json)
    for line, told in reversed(list(newest)):
        shown = max(shown, _number(told))
        _say_line(line, told, as_json=as_json)
    if not follows:
        return
    try:
        for line, told in _matching(follow(directory, place), query):
            if _number(told) > shown:
                _say_line(line, told, as_json=as_json)
    except KeyboardInterrupt:
        note("")


def search(project: Path | None, query: Query, lines: int | None, *, as_json: bool) -> None:
    """Print the lines that match, the oldest first.

    Raises:
        NotRunningError: There is no record (yet).
    """
    directory, _ = _find(project)
    found: Iterable[tuple[bytes, JsonObject]] = select(directory, query)
    _say_head(as_json=as_json)
    for line, told in found if lines is None else deque(found, maxlen=lines):
        _say_line(line, told, as_json=as_json)


def show(project: Path | None, run: str, *, as_json: bool) -> None:
    """Tell everything of one run.

    Raises:
        NotRunningError: There is no record (yet), or nothing of this run is in it.
    """
    directory, _ = _find(project)
    steps = story(directory, run)
    if not steps:
        raise NotRunningError(
            f"nothing is recorded of {run!r}",
            hint="It is a session, a trace id or a request id: `agents audit runs` lists them.",
        )
    if as_json:
        say_json([step.line for step in steps])
        return
    first = steps[0].line
    who = [f"{name} {_text(first, name)}" for name in ("agent", "role", "client") if name in first]
    say(visible(", ".join(who), keep=""))
    day = ""
    for step in steps:
        if step.time[:10] != day:
            day = step.time[:10]
            say(visible(day, keep=""))
        say(f"  {_tell(step)}")


def _tell(step: Step) -> str:
    words = visible(f"{step.time[11:23]}  {step.words}", keep="")
    if step.is_bad:
        return paint(words, "red")
    return paint(words, "dim") if step.event == "intent" else words


def list_runs(project: Path | None, role: str, most: int, *, as_json: bool) -> None:
    """List the latest runs.

    Raises:
        NotRunningError: There is no record (yet).
    """
    directory, _ = _find(project)
    found = runs(directory, role=role or None, limit=most)
    if as_json:
        say_json([asdict(one) for one in found])
        return
    rows = [
        [
            visible(cell, keep="")
            for cell in (
                one.run,
                one.last[:19].replace("T", " "),
                one.agent,
                one.role,
                one.client or "-",
                str(one.calls),
                str(one.refused),
                str(one.failed),
                " ".join(one.tools) or "-",
            )
        ]
        for one in found
    ]
    head = ("RUN", "LAST (UTC)", "AGENT", "ROLE", "CLIENT", "CALLS", "REFUSED", "FAILED", "TOOLS")
    for text in table(head, rows):
        say(text)


def _find(project: Path | None) -> tuple[Path, tuple[Path, int]]:
    directory = find_paths(project).audit
    place = end(directory)
    if place is None:
        raise NotRunningError("nothing is recorded yet", hint="Start with `agents up`.")
    return directory, place


def _matching(lines: Iterable[bytes], query: Query) -> "Iterable[tuple[bytes, JsonObject]]":
    for line in lines:
        told = parse(line)
        if told is not None and query.matches(line, told):
            yield line, told


def _say_head(*, as_json: bool) -> None:
    if not as_json:
        say(_lay_out(_HEAD))


def _say_line(line: bytes, told: "JsonObject", *, as_json: bool) -> None:
    if as_json:
        say(visible(line.decode("utf-8", "replace"), keep=""))
        return
    is_bad = told.get("event") == "decision" or told.get("outcome", "ok") != "ok"
    cells = (
        _text(told, "time")[:23].replace("T", " "),
        _text(told, "by") or _text(told, "agent") or "-",
        _text(told, "role") or "-",
        describe(told),
    )
    text = _lay_out(tuple(visible(cell, keep="") for cell in cells))
    say(paint(text, "red") if is_bad else text)


def _lay_out(cells: tuple[str, ...]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    return "  ".join(padded).rstrip()


def _text(told: "JsonObject", name: str) -> str:
    value = told.get(name)
    return "" if value is None else str(value)


def _number(told: "JsonObject") -> int:
    value = told.get("seq")
    return value if isinstance(value, int) else 0
