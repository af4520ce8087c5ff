"""The parts of ASGI that the gateway speaks.

Source: ASGI 3.0, HTTP & WebSocket ASGI Message Format 2.3.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypedDict

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]


class Scope(TypedDict):
    """One request, up to its body."""

    type: str
    method: str
    path: str
    query_string: bytes
    headers: list[tuple[bytes, bytes]]


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
