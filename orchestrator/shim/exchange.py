"""One request of the client and the gateway's answer, alone or at the end of a stream."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import anyio

from orchestrator.errors import ProtocolError, TargetLostError, UpstreamProtocolError
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.header_writer import Headers, modern_version
from orchestrator.protocol.sse import EventStream
from orchestrator.shim.request import LONGEST_BYTES, Answer
from orchestrator.shim.way import Way

# Answers that are larger than this are read a few at a time.
_LARGE_BYTES: Final = 1024 * 1024

Tell: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """A request that has no answer yet.

    Attributes:
        request: What is asked.
        body: The same, as it came.
        scope: Ends it, if it is cancelled.
        ended: Is set when it is over.
        is_sent: Whether the gateway may know of it.
        is_cancelled: Whether its answer is owed to nobody any more.
        has_room: Whether its answer may be large.
    """

    request: jsonrpc.Request
    body: bytes
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    is_sent: bool = False
    is_cancelled: bool = False
    has_room: bool = False

    @property
    def is_modern(self) -> bool:
        """Whether it describes itself."""
        return modern_version(self.request.params) is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one exchange with the gateway ended.

    Attributes:
        status: The HTTP status.
        session: The session's id, if one was given.
        value: The answer; None where none came.
        line: The answer as it came, on one line.
    """

    status: int
    session: str | None = None
    value: JsonObject | None = None
    line: bytes = b""

    @property
    def result(self) -> JsonObject | None:
        """What was answered, if it was no error."""
        result = None if self.value is None else self.value.get("result")
        return result if isinstance(result, dict) else None

    @property
    def error_code(self) -> Json:
        """The error's code, if it was one."""
        error = None if self.value is None else self.value.get("error")
        return error.get("code") if isinstance(error, dict) else None


@final
class Exchanger:
    """Makes requests, one by one, without a second try."""

    def __init__(self, way: Way, tell: Tell, large_at_once: int) -> None:
        """Prepare.

        Args:
            way: Leads to the gateway.
            tell: Takes a line for the client; waits as long as the client does not read.
            large_at_once: How many large answers may be held for the client.
        """
        self._way = way
        self._tell = tell
        self._room = anyio.Semaphore(large_at_once)

    async def ask(self, headers: Headers, call: Call) -> Outcome:
        """Make a request, and pass on what comes before its answer.

        Raises:
            AgentsError: There is no usable answer.
        """
        async with self._way.open("POST", headers, call.body) as answer:
            if answer.length > _LARGE_BYTES and not call.has_room:
                await self._room.acquire()
                call.has_room = True
            async for text in read_messages(answer):
                message = read_json(text)
                if isinstance(message, dict) and "method" in message:
                    await self._tell(one_line(text))
                    continue
                value, line = answer_to(call.request, message, text)
                return Outcome(answer.status, answer.headers.get("mcp-session-id"), value, line)
            if answer.is_stream:
                raise TargetLostError("the gateway's answer ended early")
            return Outcome(answer.status)

    def leave(self, call: Call) -> None:
        """Give back what a call took; its answer is with the client, or with nobody."""
        if call.has_room:
            call.has_room = False
            self._room.release()


async def read_messages(answer: Answer) -> AsyncGenerator[bytes]:
    """Read messages as they come: one, those of an event stream, or none.

    Yields:
        A JSON text, or what should be one.
    """
    if answer.media == "application/json":
        yield await answer.body()
    elif answer.is_stream:
        events = EventStream(LONGEST_BYTES)
        async for piece in answer.pieces():
            for data in events.feed(piece):
                yield data


def read_json(text: bytes) -> Json:
    """Read what the gateway said.

    Raises:
        UpstreamProtocolError: It is no JSON.
    """
    try:
        return jsonrpc.decode(text)
    except ProtocolError as error:
        raise UpstreamProtocolError("the gateway's answer is no JSON") from error


def answer_to(request: jsonrpc.Request, value: Json, text: bytes) -> tuple[JsonObject, bytes]:
    """Check an answer to a request.

    Errors that the gateway gives before it has read the id get the request's.

    Returns:
        What it says, and the line for the client.

    Raises:
        UpstreamProtocolError: It is none, or another request's.
    """
    if not isinstance(value, dict):
        raise UpstreamProtocolError("the gateway's answer is no JSON-RPC message")
    if value.get("id") is None:
        value = {**value, "id": request.id}
        text = jsonrpc.encode(value)
    try:
        message = jsonrpc.parse(value)
    except ProtocolError as error:
        raise UpstreamProtocolError("the gateway's answer is no JSON-RPC message") from error
    if not isinstance(message, jsonrpc.Response) or message.id != request.id:
        raise UpstreamProtocolError("the gateway's answer belongs to another request")
    return value, one_line(text)


def one_line(text: bytes) -> bytes:
    """Put a JSON text on one line: inside of its texts there is no bare line's end."""
    return text.replace(b"\r", b" ").replace(b"\n", b" ")
