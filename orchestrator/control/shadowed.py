"""What would have happened: read from the record, where calls stand that were not made."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.audit import reader
from orchestrator.model.guards import Hold, ShadowedCall, ShadowedTool, ShadowReport
from orchestrator.model.names import RoleName

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

MOST_CALLS: Final = 500
# Only lines with this are read as JSON: most of a record is something else.
_MARK: Final = b'"event":"shadow"'


@dataclass(slots=True)
class _Count:
    kind: str
    first: str
    last: str
    calls: int = 0
    arguments: set[str] = field(default_factory=set[str])
    agents: set[str] = field(default_factory=set[str])


def report_of(
    record: Path, role: RoleName | None, since: datetime | None, running: tuple[Hold, ...]
) -> ShadowReport:
    """Read what was not done; blocks.

    Args:
        record: The directory of the record.
        role: Only of this role.
        since: Only from then on.
        running: Shadows that are on.
    """
    moment = "" if since is None else since.isoformat(timespec="microseconds")[:-6] + "Z"
    counts: dict[tuple[str, str], _Count] = {}
    calls: deque[ShadowedCall] = deque(maxlen=MOST_CALLS)
    total = 0
    for call in _calls(record, moment):
        if role is not None and call.role != role:
            continue
        total += 1
        calls.appendleft(call)
        key = (call.role, call.tool)
        count = counts.get(key)
        if count is None:
            count = counts[key] = _Count(call.kind, call.time, call.time)
        count.calls += 1
        count.last = call.time
        count.arguments.add(call.arguments_sha256)
        count.agents.add(call.agent)
    tools = tuple(
        ShadowedTool(
            role=name,
            tool=tool,
            kind=count.kind,
            calls=count.calls,
            different=len(count.arguments),
            agents=tuple(sorted(count.agents)),
            first=count.first,
            last=count.last,
        )
        for (name, tool), count in sorted(counts.items())
    )
    return ShadowReport(
        since=moment or None,
        running=running,
        tools=tools,
        calls=tuple(calls),
        omitted=total - len(calls),
    )


def _calls(record: Path, moment: str) -> Iterator[ShadowedCall]:
    for line in reader.since(record, moment):
        if _MARK not in line:
            continue
        told = reader.parse(line)
        if told is not None and told.get("event") == "shadow":
            yield ShadowedCall(
                time=_text(told, "time"),
                role=_text(told, "role"),
                agent=_text(told, "agent"),
                tool=_text(told, "tool"),
                kind=_text(told, "class"),
                request=_text(told, "request"),
                run=_text(told, "run"),
                arguments_sha256=_text(told, "arguments_sha256"),
                summary=_text(told, "summary"),
                receipt=_text(told, "receipt"),
            )


def _text(told: "JsonObject", name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""
