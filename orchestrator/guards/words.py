"""What is held back, in sentences for `agents status`; pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from orchestrator.model.guards import OF_INCIDENT, Hold


def notes_of(holds: Iterable[Hold], problem: str, unwritten: int, now: datetime) -> Iterator[str]:
    """Tell what a person should know.

    Args:
        holds: What is held back.
        problem: Why nobody knows what is; empty usually.
        unwritten: How many holds are not on disk.
        now: The time.
    """
    if problem:
        yield f"EVERYTHING IS FROZEN, as nobody knows what is: {problem}"
    for hold in holds:
        if hold.until is None or hold.until > now:
            yield _sentence(hold)
    if unwritten:
        yield (
            "What was frozen, disabled or put into a shadow holds, and is NOT on disk: it is "
            "forgotten if the daemon ends before it is. Free space on the disk; the daemon goes "
            "on trying to write it"
        )


def _sentence(hold: Hold) -> str:
    role = hold.role or "every role"
    at = "" if hold.role is None else f" at {hold.role}"
    what = {
        "frozen": f"{role} is frozen",
        "read-only": f"{role} may only read",
        "disabled": f"{hold.tool} is disabled{at}",
        "shadow": f"{role} works in shadow"
        if hold.tool is None
        else f"{hold.tool} is in shadow{at}",
    }[hold.kind]
    since = "" if hold.since is None else f" since {_text(hold.since)}"
    until = "" if hold.until is None else f", until {_text(hold.until)}"
    why = f": {hold.reason}" if hold.reason else ""
    whose = ""
    if hold.origin.startswith(OF_INCIDENT):
        whose = f" (incident {hold.origin.removeprefix(OF_INCIDENT)})"
    return f"{what}{since}{until}{whose}{why}"


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
