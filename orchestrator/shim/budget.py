"""How much may be under way at the same time."""

from typing import final


@final
class Budget:
    """Counts messages and their bytes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """Allow so many messages, of so many bytes together; a single one may be of any size."""
        self._most = most
        self._most_bytes = most_bytes
        self._count = 0
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Take a message in; False if it is too much."""
        is_too_much = self._bytes + size > self._most_bytes and self._count > 0
        if is_too_much or self._count >= self._most:
            return False
        self._count += 1
        self._bytes += size
        return True

    def give(self, size: int) -> None:
        """Let a message go that was taken."""
        self._count -= 1
        self._bytes -= size
