"""What a sink is given, and how it says that it did not take it."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

T = TypeVar("T")
# Of each of these a sink works a third: the event loop needs the interpreter more urgently, and
# without this it would wait up to 5 ms for each call of the system that it makes.
_WORK_SECONDS: Final = 0.00025
_REST_SECONDS: Final = 0.0005


def gently(items: Iterable[T]) -> Iterator[T]:
    """Give items, and let other threads go on while they are worked on."""
    begun = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - begun > _WORK_SECONDS:
            time.sleep(_REST_SECONDS)
            begun = time.perf_counter()


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
