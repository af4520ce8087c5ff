"""Bounds how many like lines a second are written; what is left out is counted."""

from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Sieve(Generic[T]):
    """Lets the first lines of each kind pass in every second."""

    def __init__(self, most: int) -> None:
        """Let `most` like lines a second pass."""
        self._most = most
        self._until = 0.0
        self._seen: dict[object, tuple[int, T]] = {}

    def passes(self, likeness: object, line: T, now: float) -> bool:
        """Tell whether a line passes; call `turn` first.

        Args:
            likeness: What makes lines alike.
            line: The line; the first of its kind is kept for `turn`.
            now: Monotonic seconds.
        """
        if not self._seen:
            self._until = now + 1.0
        count, first = self._seen.get(likeness, (0, line))
        self._seen[likeness] = (count + 1, first)
        return count < self._most

    def turn(self, now: float) -> list[tuple[int, T]]:
        """Begin a new second if the last one is over.

        Returns:
            Of each kind that did not pass whole: how many were left out, and the first one.
        """
        if not self._seen or now < self._until:
            return []
        seen, self._seen = self._seen, {}
        return [(count - self._most, first) for count, first in seen.values() if count > self._most]
