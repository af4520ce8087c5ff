"""What an agent did in one run, in order; a run is a session, a trace, or a single request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.audit.reader import newest_first, parse

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

# Lines that are looked at for a list of runs: some tens of megabytes.
MOST_LINES: Final = 200_000
# Where a line names the run that it belongs to.
_NAMES: Final = ("run", "session", "trace", "request")


@dataclass(slots=True)
class Run:
    """One run, as far as it was looked at.

    Attributes:
        run: Its name: of the session, the trace, or the request.
        role: The role.
        agent: Who it was.
        client: The agent's program, empty if it did not tell.
        first: When it began.
        last: When it was last heard of.
        calls: Tool calls that were answered.
        refused: What the gateway refused.
        failed: Calls that ended with an error behind the gateway.
        tools: Tools that were called, each once.
    """

    run: str
    role: str
    agent: str
    client: str = ""
    first: str = ""
    last: str = ""
    calls: int = 0
    refused: int = 0
    failed: int = 0
    tools: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a run.

    Attributes:
        seq: Number of its line.
        time: When, as in the record.
        event: Which event it is.
        what: The tool or method, empty if there is none.
        words: What happened, for people; it may hold what agents wrote.
        is_bad: Whether it was refused or failed.
        line: All of the line.
    """

    seq: int
    time: str
    event: str
    what: str
    words: str
    is_bad: bool
    line: "JsonObject"


def run_of(told: "JsonObject") -> str:
    """Name the run that a line belongs to; empty if it belongs to none."""
    for name in _NAMES:
        if value := told.get(name):
            return str(value)
    return ""


def runs(directory: Path, *, role: str | None = None, limit: int = 50) -> list[Run]:
    """Tell the runs of the newest part of the record, the latest first.

    Args:
        directory: Where the record lies.
        role: Of one role only.
        limit: How many at most.
    """
    found: dict[str, Run] = {}
    for count, line in enumerate(newest_first(directory)):
        if count >= MOST_LINES:
            break
        told = parse(line)
        if told is None or "agent" not in told or (role is not None and told.get("role") != role):
            continue
        name = run_of(told)
        # A request that is a run of its own is worth a line if it calls something.
        if not name or ("run" not in told and "tool" not in told):
            continue
        if name not in found:
            if len(found) >= limit:
                break
            last = _text(told, "time")
            found[name] = Run(name, _text(told, "role"), _text(told, "agent"), last=last)
        _count(found[name], told)
    return list(found.values())


def _count(run: Run, told: "JsonObject") -> None:
    run.first = _text(told, "time")
    run.client = run.client or _text(told, "client")
    event, tool = told.get("event"), _text(told, "tool")
    if event == "decision":
        run.refused += 1
    if event == "outcome" and tool:
        run.calls += 1
        run.failed += told.get("outcome") != "ok"
    if tool and tool not in run.tools:
        run.tools.insert(0, tool)


def story(directory: Path, run: str) -> list[Step]:
    """Tell everything of one run, the oldest first; empty if nothing is known of it.

    Args:
        directory: Where the record lies.
        run: A session, a trace, or a request.
    """
    found = {
        _number(told): told
        for told in _holding(directory, run)
        if any(told.get(name) == run for name in _NAMES)
    }
    for approval in {_text(told, "approval") for told in found.values()}:
        # What people did about it belongs to no run.
        found |= {
            _number(told): told
            for told in _holding(directory, approval)
            if told.get("approval") == approval
        }
    return [_step(found[number]) for number in sorted(found)]


def _holding(directory: Path, text: str) -> "Iterator[JsonObject]":
    needle = text.encode("utf-8", "replace")
    if not needle:
        return
    for line in newest_first(directory):
        if needle in line and (told := parse(line)) is not None:
            yield told


def _step(told: "JsonObject") -> Step:
    return Step(
        seq=_number(told),
        time=_text(told, "time"),
        event=_text(told, "event"),
        what=_text(told, "tool") or _text(told, "method"),
        words=describe(told),
        is_bad=_is_bad(told),
        line=told,
    )


def _is_bad(told: "JsonObject") -> bool:
    return told.get("event") == "decision" or told.get("outcome", "ok") != "ok"


def describe(told: "JsonObject") -> str:
    """Say what a line tells, in a few words; it may hold what agents wrote."""
    event, what = _text(told, "event"), _text(told, "tool") or _text(told, "method")
    what += "".join(f" {name}={value}" for name, value in resources_of(told).items())
    if event in _SAID:
        return _SAID[event](what, told)
    rest = [f"{name}={value}" for name, value in told.items() if name not in _OWN and value != ""]
    return " ".join((event, *rest))


_SAID: Final[dict[str, Callable[[str, "JsonObject"], str]]] = {
    "intent": lambda what, _: f"{what}: about to be made",
    "outcome": lambda what, told: f"{what}: {_ending(told)}",
    "decision": lambda what, told: f"{what or 'request'}: refused, {_ending(told)}",
    "stream": lambda what, _: f"{what}: listens",
    "shadow": lambda what, _: f"{what}: not made, it is in shadow",
    "omitted": lambda _, told: f"{_text(told, 'count')} more refused, {_text(told, 'code')}",
    "gap": lambda _, told: f"{_text(told, 'count')} without a line",
}
_OWN: Final = frozenset(
    {"at", "event", "hash", "key", "prev", "seq", "signature", "time", "torn_bytes", "v"}
)


def _ending(told: "JsonObject") -> str:
    said = [_text(told, "code") or _text(told, "outcome")]
    if rule := _text(told, "rule"):
        said.append(f"rule {rule}")
    if approval := _text(told, "approval"):
        said.append(f"approval {approval}")
    taken = told.get("duration_us")
    if isinstance(taken, int) and told.get("event") == "outcome":
        said.append(f"{taken / 1000:.1f} ms")
    return ", ".join(said)


def resources_of(told: "JsonObject") -> dict[str, str]:
    """Tell what a call was about, by name."""
    given = told.get("resources")
    return {name: str(value) for name, value in given.items()} if isinstance(given, dict) else {}


def _text(told: "JsonObject", name: str) -> str:
    value = told.get(name)
    return "" if value is None else str(value)


def _number(told: "JsonObject") -> int:
    value = told.get("seq")
    return value if isinstance(value, int) else 0
