"""The parts of ASGI that the gateway speaks.

Source: ASGI 3.0, HTTP & WebSocket ASGI Message Format 2.3.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, NotRequired, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from orchestrator.gateway.head import Head

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]


class Direct(Protocol):
    """What our own front offers beside ASGI, each of whose messages costs a coroutine.

    Attributes:
        head: The request's head.
    """

    @property
    def head(self) -> "Head":
        """The request's head."""
        ...

    def take_whole(self) -> bytes | None:
        """Take the whole body, as `receive` would give it; None if not all of it has come."""
        ...

    def reply(self, status: int, lines: bytes, body: bytes) -> bool:
        """Send a whole reply at once, as two messages to `send` would.

        Args:
            status: The status, which allows a body.
            lines: Its headers, each with its line end; the body's length among them.
            body: Its body.

        Returns:
            Whether it was sent; if not, it has to go by `send`, which may wait.
        """
        ...


class Scope(TypedDict):
    """One request, up to its body; `direct` is no part of ASGI."""

    type: str
    method: str
    path: str
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    direct: NotRequired[Direct]


class Received(TypedDict, total=False):
    """A piece of the body, or the end of the connection."""

    type: str
    body: bytes
    more_body: bool


class Start(TypedDict):
    """Status and headers of a reply."""

    type: Literal["http.response.start"]
    status: int
    headers: list[tuple[bytes, bytes]]


class Body(TypedDict):
    """A piece of a reply's body."""

    type: Literal["http.response.body"]
    body: bytes
    more_body: bool


Receive: TypeAlias = Callable[[], Awaitable[Received]]
Send: TypeAlias = Callable[[Start | Body], Awaitable[None]]
