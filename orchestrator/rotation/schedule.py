"""When a credential is replaced, and how near its end is; pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from orchestrator.model.names import RoleName
from orchestrator.model.rotation import OLDEST, Purpose

# Of a span of 90 days: replaced between day 80 and day 88.
_MARGIN: Final = 10 / 90
_WARNINGS: Final = (1, 3, 7, 14)
# A longer time between two looks, of which nobody knows why, is a clock that was set.
LONGEST_GAP: Final = timedelta(days=7)
# How long a set clock keeps everything from being replaced, so that somebody can set it right.
DISTRUST: Final = timedelta(hours=24)
LATE_TICK: Final = timedelta(hours=36)
_SOONEST_RETRY: Final = timedelta(minutes=1)
_LATEST_RETRY: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Due:
    """A credential that is current, and when it has to be replaced.

    Attributes:
        role: The role.
        purpose: Which of the role's credentials.
        agent: Whose token it is; empty for `upstream`.
        credential: Its id or version.
        issued_at: When it was made.
        expires_at: When it ends by itself, None if it does not.
        due_at: When it is replaced.
        is_due: Whether that is now.
        warning: `14d`, `7d`, `3d`, `1d` or `overdue` when its end is that near, else None.
        by_hand: Whether a person has to hand the new one over.
        note: What else a person should know.
        ends_at: When it is too old, or ends.
    """

    role: RoleName
    purpose: Purpose
    agent: str
    credential: str
    issued_at: datetime
    expires_at: datetime | None
    due_at: datetime
    is_due: bool
    warning: str | None
    by_hand: bool
    note: str
    ends_at: datetime

    @property
    def span(self) -> timedelta:
        """How long it lives."""
        return self.ends_at - self.issued_at


def ends_at(issued_at: datetime, every: timedelta, expires_at: datetime | None) -> datetime:
    """Tell when a credential is too old: after its interval, or when it really ends."""
    planned = issued_at + min(every, OLDEST)
    return planned if expires_at is None else min(planned, expires_at)


def due_at(key: str, issued_at: datetime, end: datetime) -> datetime:
    """Tell when a credential is replaced: the same moment for the same credential, always.

    Args:
        key: Whose it is; spreads those that were issued together.
        issued_at: When it was made.
        end: When it is too old.
    """
    text = f"{key}|{issued_at.isoformat()}".encode()
    chance = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
    return end - (end - issued_at) * _MARGIN * (0.2 + 0.8 * chance)


def warning(issued_at: datetime, end: datetime, now: datetime) -> str | None:
    """Tell how near the end of a credential is; one that lives for an hour is always near it."""
    if now >= end:
        return "overdue"
    for days in _WARNINGS:
        limit = timedelta(days=days)
        if end - now <= limit <= (end - issued_at) * (_WARNINGS[-1] / 90):
            return f"{days}d"
    return None


def is_jump(last_tick: datetime | None, now: datetime, started_at: datetime) -> bool:
    """Tell whether the clock was set forward, as far as can be known.

    Args:
        last_tick: When due times were looked at last, None if never.
        now: What the clock says.
        started_at: When this process began: before that, nobody looked.
    """
    if last_tick is None or last_tick < started_at:
        return False
    return now - last_tick > LONGEST_GAP


def retry_after(span: timedelta) -> timedelta:
    """Tell how long a failed replacement is left alone."""
    return max(_SOONEST_RETRY, min(_LATEST_RETRY, span / 20))


def next_look(dues: tuple[Due, ...], now: datetime) -> timedelta:
    """Tell when due times have to be looked at again: every hour, or when the first one comes."""
    longest, shortest = timedelta(hours=1), timedelta(seconds=1)
    waits = [
        max(_SOONEST_RETRY / 4, due.span / 100) if due.is_due else due.due_at - now
        for due in dues
        if due.is_due or due.due_at > now  # or it is being replaced: nothing to begin
    ]
    return max(shortest, min([longest, *waits]))
