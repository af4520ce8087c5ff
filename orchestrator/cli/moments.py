"""Reads a moment as people give it: so long ago, a day, or a time."""

import re
from datetime import UTC, date, datetime, time
from typing import Final

from orchestrator.errors import SettingsError

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def read_moment(text: str | None, option: str, *, is_end: bool = False) -> str:
    """Tell a moment as it is written in the record; empty for none.

    Args:
        text: `1h`, `2026-11-20` or `2026-11-20T18:00:00Z`; without a zone it is UTC.
        option: The option, for its error.
        is_end: Whether a day means its end.

    Raises:
        SettingsError: It is none.
    """
    if text is None:
        return ""
    from orchestrator.model.base import parse_duration

    try:
        if _DAY.fullmatch(text):
            edge = time.max if is_end else time.min
            moment = datetime.combine(date.fromisoformat(text), edge, UTC)
        elif text[:4].isdigit() and "-" in text:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        else:
            moment = datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{option}: a time is how long ago it was, such as 10m, 1h or 2d, or a day or time in "
            "UTC, such as 2026-11-20 or 2026-11-20T18:00:00Z"
        ) from error
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
