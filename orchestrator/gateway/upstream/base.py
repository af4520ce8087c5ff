"""What a target asks of a connection to its process, and what the connection tells it."""

from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import AgentsError
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc

if TYPE_CHECKING:
    import asyncio

    from orchestrator.protocol.headers import ParameterHeader


class Question(Protocol):
    """A request of a legacy server to its caller, such as `elicitation/create`.

    Attributes:
        method: The request's method.
        params: Its parameters.
    """

    @property
    def method(self) -> str:
        """The request's method."""
        ...

    @property
    def params(self) -> JsonObject:
        """Its parameters."""
        ...

    def answer(self, result: JsonObject | None, error: JsonObject | None = None) -> None:
        """Answer it, with one of the two; later answers, and those to a dead server, do nothing."""
        ...


class Caller(Protocol):
    """Who waits for a request; hears what the server says meanwhile. Nothing here ever blocks.

    Attributes:
        agent: Whose request it is.
        owner: Tells whether two requests come from the same session.
    """

    @property
    def agent(self) -> str:
        """Whose request it is."""
        ...

    @property
    def owner(self) -> str:
        """Tells whether two requests come from the same session."""
        ...

    @property
    def may_move(self) -> bool:
        """Whether the request may be made again by another process, with nothing done twice."""
        ...

    def tell(self, method: str, params: JsonObject) -> None:
        """Take a notification about the request; a progress token is the caller's own again."""
        ...

    def ask(self, question: Question) -> bool:
        """Take a question of the server; False if this caller cannot be asked it."""
        ...


class Broadcast(Protocol):
    """Hears what a server says to nobody in particular: list changes, updated resources, logs."""

    def __call__(self, method: str, params: JsonObject, /) -> None:
        """Take a notification. Never blocks."""
        ...


class Wait(Protocol):
    """How a caller waits for an answer: it may be interrupted."""

    def __call__(
        self, future: "asyncio.Future[jsonrpc.Response]", /
    ) -> Awaitable[jsonrpc.Response]:
        """Wait for the answer, or raise what interrupted the wait."""
        ...


@dataclass(slots=True)
class Outgoing:
    """A request as the process gets it, in the process's own era.

    Attributes:
        method: The method.
        params: Its parameters, `_meta` included; the upstream may replace the progress token.
        headers: Arguments that a modern server over HTTP wants repeated in headers.
        caller: Who hears what the server says meanwhile; None for the gateway itself.
    """

    method: str
    params: JsonObject
    headers: "tuple[ParameterHeader, ...]" = ()
    caller: Caller | None = None


class Upstream(Protocol):
    """One connection to one process."""

    @property
    def heard(self) -> float:
        """Monotonic seconds at which something last came from the process."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer; long-lived listens do not count."""
        ...

    @property
    def oldest_call(self) -> float | None:
        """Monotonic seconds at which the oldest of these was sent."""
        ...

    async def run(self) -> None:
        """Carry messages until cancelled, or until the connection breaks.

        Raises:
            OSError: It broke.
            ClosedResourceError: It was closed.
            UpstreamProtocolError: The process sent what no reader stands.
        """
        ...

    def request(self, out: Outgoing, wait: Wait) -> Coroutine[None, None, jsonrpc.Response]:
        """Ask at once, and wait for the answer; whoever stops waiting has the server told.

        Returns:
            The answer, which has to be awaited; it keeps nothing of `out.params` alive.

        Raises:
            TargetUnavailableError: Nothing was sent.
            TargetLostError: The process ended, and may have done what it was asked.
            UpstreamProtocolError: Its answer is none.
        """
        ...

    def notify(self, method: str, params: JsonObject) -> None:
        """Send a notification, if it can be sent."""
        ...

    def move(self, error: AgentsError) -> None:
        """End those open requests with an error that may be made again elsewhere."""
        ...

    def fail(self, error: AgentsError) -> None:
        """End every open request, and every one to come, with an error."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
