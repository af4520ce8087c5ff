"""What a sink is given, and how it says that it did not take it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject


class SinkError(Exception):
    """Lines were not taken now; the text says why, in our own words, without a secret.

    Attributes:
        after: Seconds that the receiver asks to wait, 0 if it does not.
    """

    def __init__(self, message: str, *, after: float = 0.0) -> None:
        """Keep what is known."""
        super().__init__(message)
        self.after: float = after


class RefusedError(Exception):
    """Lines are refused for good; the text says why, in our own words, without a secret.

    Attributes:
        is_size: Whether fewer at once may be taken.
    """

    def __init__(self, message: str, *, is_size: bool = False) -> None:
        """Keep what is known."""
        super().__init__(message)
        self.is_size: bool = is_size


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record.

    Attributes:
        line: Its bytes, without the end.
        told: What it tells.
        seq: Its number.
    """

    line: bytes
    told: "JsonObject"
    seq: int


class Outlet(Protocol):
    """Brings lines to one place. Used by one thread."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Bring lines there; blocks, for a bounded time.

        Raises:
            SinkError: They were not taken now; they are brought again.
            RefusedError: They never will be.
        """
        ...

    def close(self) -> None:
        """Let go of the place."""
        ...
