"""How long a rotation has been somewhere, by a clock that nobody sets."""

from datetime import datetime, timedelta
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.model.rotation import Rotation, State

_SHORTEST_LOOK: Final = 0.05
_LONGEST_LOOK: Final = 5.0


@final
class Elapsed:
    """Measures in monotonic time; the wall clock counts only for what was before this process."""

    def __init__(self, clock: Clock) -> None:
        """Measure with a clock."""
        self._clock = clock
        self._began: dict[tuple[str, State], float] = {}

    def since(self, rotation: Rotation, state: State, most: timedelta) -> timedelta:
        """Tell how long ago a state was reached.

        Args:
            rotation: The rotation.
            state: A state that it reached.
            most: What is believed of the wall clock at most, after a restart.
        """
        key, now = (rotation.id, state), self._clock.monotonic()
        began = self._began.get(key)
        if began is None:
            past = self._clock.now() - rotation.moments.get(state, rotation.changed_at)
            past = min(max(past, timedelta()), most)
            began = self._began[key] = now - past.total_seconds()
        return timedelta(seconds=now - began)

    def forget(self, rotation_id: str) -> None:
        """Forget a rotation."""
        self._began = {key: value for key, value in self._began.items() if key[0] != rotation_id}


def next_look(waited: timedelta) -> float:
    """Tell in how many seconds to look again at what others do: the sooner, the newer it is."""
    return min(max(waited.total_seconds() / 10, _SHORTEST_LOOK), _LONGEST_LOOK)


def until(moment: datetime | None, clock: Clock, most: float) -> float:
    """Tell the seconds until a moment that was at most so far ahead when it was chosen."""
    if moment is None:
        return 0.0
    left = (moment - clock.now()).total_seconds()
    # More than that is left where the clock was set back: nobody waits for it to come round again.
    return left if 0.0 < left <= most else 0.0
