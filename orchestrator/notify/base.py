"""One message on its way to one target."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.model.message import Link


class SendError(Exception):
    """A target did not take a message; the text says why, in our own words, without a secret.

    Attributes:
        is_final: Whether another try makes no sense.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Keep what is known."""
        super().__init__(message)
        self.is_final: bool = is_final


@dataclass(frozen=True, slots=True)
class Message:
    """What one target is told.

    Attributes:
        id: Names it; the same with each try.
        topic: What it is about.
        title: One line.
        text: More lines, plain.
        links: Where to go from there.
        owner: Mail address of the role's owner, empty for none.
    """

    id: str
    topic: str
    title: str
    text: str
    links: Sequence[Link] = ()
    owner: str = ""


class Send(Protocol):
    """Brings messages to one target."""

    def __call__(self, message: Message, /) -> Awaitable[None]:
        """Bring it one message.

        Raises:
            SendError: It did not take it.
        """
        ...
