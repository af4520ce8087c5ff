"""Wall and monotonic time behind one protocol, so that tests can own both."""

import time
from datetime import UTC, datetime
from typing import Protocol, final

from typing_extensions import override


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Tell the wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Tell seconds that only grow, from an arbitrary start."""
        ...


@final
class SystemClock(Clock):
    """The machine's own clocks."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    def monotonic(self) -> float:
        return time.monotonic()
