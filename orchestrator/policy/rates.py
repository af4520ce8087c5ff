"""How many calls may come in a time: a token bucket, kept as the one moment when it is full again.

The generic cell rate algorithm, which is the same bucket without anything to refill.
Source: ITU-T I.371, annex A, virtual scheduling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from orchestrator.model.rules import Limit

_MINUTE: Final = 60.0
# From then on full buckets are thrown away now and then: they are what a new one would be.
_MANY: Final = 4096
_SHARE: Final = 10  # of the rate is the burst, if none is given


# What it is for, and whose it is.
Bucket: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate.

    Attributes:
        interval: Seconds in which the bucket gets one token.
        depth: Seconds in which an empty bucket gets all but one of its tokens.
    """

    interval: float
    depth: float


def rate_of(limit: Limit) -> Rate | None:
    """Tell the rate of a limit, None if it has none."""
    if limit.calls_per_minute is None:
        return None
    burst = limit.burst or max(1, limit.calls_per_minute // _SHARE)
    interval = _MINUTE / limit.calls_per_minute
    return Rate(interval, interval * (burst - 1))


@final
class Buckets:
    """All buckets of one role; they stay when its rates change."""

    def __init__(self) -> None:
        """Begin with full buckets."""
        self._full_at: dict[Bucket, float] = {}

    def __len__(self) -> int:
        """Tell how many are kept."""
        return len(self._full_at)

    def take(
        self, wanted: Sequence[tuple[Bucket, Rate]], now: float
    ) -> tuple[Bucket, float] | None:
        """Take one token of each bucket, or of none.

        Args:
            wanted: Names of the buckets, with their rates.
            now: Monotonic seconds.

        Returns:
            None, or the bucket that is the longest without a token, and for how many seconds.
        """
        full_at = self._full_at
        worst: tuple[Bucket, float] | None = None
        for name, rate in wanted:
            wait = full_at.get(name, now) - now - rate.depth
            if wait > rate.interval:
                # By an earlier, slower rate it is emptier than empty.
                full_at[name] = now + rate.depth + rate.interval
                wait = rate.interval
            if wait > 0 and (worst is None or wait > worst[1]):
                worst = name, wait
        if worst is not None:
            return worst
        for name, rate in wanted:
            full_at[name] = max(full_at.get(name, now), now) + rate.interval
        if len(full_at) > _MANY:
            self._full_at = {name: at for name, at in full_at.items() if at > now}
        return None
