"""One HTTP request on its way through the gateway, with what the filters have learned of it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, final

from orchestrator.errors import (
    AgentsError,
    CallCancelledError,
    RecordUnavailableError,
    TooManyCallsError,
)
from orchestrator.gateway.asgi import Direct, Receive, Send
from orchestrator.gateway.head import Head
from orchestrator.gateway.outlet import Outlet
from orchestrator.model.names import RoleName

if TYPE_CHECKING:
    from orchestrator.gateway.hub import Stream
    from orchestrator.gateway.sessions import Session
    from orchestrator.gateway.table import Place
    from orchestrator.gateway.target import Target
    from orchestrator.model.base import JsonObject
    from orchestrator.model.server import ToolClass
    from orchestrator.model.snapshot import Era
    from orchestrator.protocol.jsonrpc import Message, RequestId
    from orchestrator.protocol.mcp import ToolCall
    from orchestrator.tokens.verify import Principal

T = TypeVar("T")


@dataclass(slots=True)
class Reply:
    """What goes back. Not frozen, as that would be a good part of what it costs; never changed.

    Attributes:
        status: The HTTP status.
        body: The whole body.
        category: `ok`, `tool_error` or `rpc_error` for what the server itself answered, otherwise
            the category of the gateway's own refusal.
        code: Public code of the refusal, empty otherwise.
        headers: Further headers; type and length of the body are added when it is sent.
        content_type: Type of the body.
        stream: The stream that the reply is instead of a body.
    """

    status: int
    body: bytes = b""
    category: str = "ok"
    code: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"
    stream: "Stream | None" = None


@final
class Exchange:
    """One request.

    Attributes:
        id: The request's id, told to everyone who has to do with it.
        role: The role in the URL; it may not exist.
        head: The HTTP method and the headers.
        receive: Reads the body, then tells when the caller hangs up.
        send: Writes the reply.
        direct: Does both without waiting, where that can be done.
        started: Monotonic seconds at which it came.
        principal: Who asks (authenticate).
        peers: The open requests of the same token, with this one (authenticate).
        is_stream: Whether it became a stream that lasts (attend, disclose).
        held_bytes: How much of the body is kept (parse), 0 once it was handed on (relay).
        era: The rules that the caller follows (parse).
        method: The message's method, empty until it is known (parse).
        request_id: The caller's id of the request, None for a notification (parse).
        params: The message's parameters (parse).
        message: What was posted; None for other HTTP methods (parse).
        session: The caller's session; None for modern callers (attend).
        place: The role's route at the time of the decision (authorize).
        rule: Which rule decided, empty for none (authorize).
        call: The tool call, if it is one (authorize).
        arguments_sha256: Names its arguments, empty until somebody needs it (authorize, record).
        kind: The tool's class, if it is one (authorize).
        approval: The approval that the call is made by, empty for none (approve).
        target: The claimed instance (relay).
        attempt: How often the call went to an instance before (relay).
        nonce: Names what a caller answers, where that may be done once; empty otherwise (relay).
        digest: Names method and parameters, empty until somebody needs it (relay).
        deadline: When it is interrupted, by the event loop's clock (relay).
        watch_at: When it is looked whether its caller is still there, likewise (relay).
        announce: Makes it durable that the call is about to be made (record).
        is_intended: Whether that is so, and the call may have been made (record).
        unrecorded: Why its end cannot be recorded, where it may go on if it only reads (record).
    """

    __slots__ = (
        "_broken",
        "_finishing",
        "_late",
        "_outlet",
        "_waiting",
        "_watch",
        "announce",
        "approval",
        "arguments_sha256",
        "attempt",
        "call",
        "deadline",
        "digest",
        "direct",
        "era",
        "head",
        "held_bytes",
        "id",
        "is_intended",
        "is_stream",
        "kind",
        "message",
        "method",
        "nonce",
        "params",
        "peers",
        "place",
        "principal",
        "receive",
        "request_id",
        "role",
        "rule",
        "send",
        "session",
        "started",
        "target",
        "unrecorded",
        "watch_at",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - what HTTP tells is this much; names cost as much
        self,
        identity: str,
        role: RoleName,
        head: Head,
        receive: Receive,
        send: Send,
        started: float,
        direct: Direct | None = None,
    ) -> None:
        """Begin with what HTTP told."""
        self.id = identity
        self.role = role
        self.head = head
        self.receive = receive
        self.send = send
        self.started = started
        self.direct = direct
        self.principal: Principal | None = None
        self.peers: set[Exchange] = set()
        self.is_stream = False
        self.held_bytes = 0
        self.era: Era = "legacy"
        self.method = ""
        self.request_id: RequestId | None = None
        self.params: JsonObject = {}
        self.message: Message | None = None
        self.session: Session | None = None
        self.rule = ""
        self.arguments_sha256 = ""
        self.approval = ""
        self.attempt = 0
        self.digest = ""
        self.nonce = ""
        self.announce: Callable[[Exchange], Awaitable[None]] = _nothing
        self.is_intended = False
        self.unrecorded: RecordUnavailableError | None = None
        self.place: Place | None = None
        self.call: ToolCall | None = None
        self.kind: ToolClass | None = None
        self.target: Target | None = None
        self._outlet: Outlet | None = None
        self._waiting: asyncio.Future[object] | None = None
        self._broken: AgentsError | None = None
        self.deadline = math.inf
        self.watch_at = math.inf
        self._late: Callable[[], AgentsError] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._finishing: list[Callable[[], object]] = []

    @property
    def outlet(self) -> Outlet:
        """The stream that the reply becomes when something has to go before it."""
        if self._outlet is None:
            headers = ((b"x-request-id", self.id.encode("ascii")),)
            self._outlet = Outlet(self.send, headers)
        return self._outlet

    @property
    def is_streaming(self) -> bool:
        """Whether something has gone before the reply."""
        return self._outlet is not None and self._outlet.is_used

    @property
    def policy_revision(self) -> str:
        """The policy that decided, empty as long as none did."""
        return "" if self.place is None else self.place.policy.revision

    def become_stream(self, most: int) -> None:
        """Count among the streams of the token from now on.

        Args:
            most: How many it may have open.

        Raises:
            TooManyCallsError: It has.
        """
        if sum(1 for peer in self.peers if peer.is_stream) >= most:
            raise TooManyCallsError("The token has as many streams open as it may")
        self.is_stream = True

    def finally_do(self, action: Callable[[], object]) -> None:
        """Have something done when the reply has been sent, or cannot be."""
        self._finishing.append(action)

    def do_now(self, action: Callable[[], object]) -> None:
        """Do at once what was to be done at the end."""
        self._finishing.remove(action)
        _ = action()

    def finish(self) -> None:
        """Do what was to be done at the end, the last first."""
        self.peers.discard(self)
        if self._outlet is not None:
            self._outlet.abandon()
        if self._watch is not None:
            _ = self._watch.cancel()
        while self._finishing:
            _ = self._finishing.pop()()

    def intend(self) -> Awaitable[None]:
        """Make it durable that the call is about to be made.

        Raises:
            RecordUnavailableError: That cannot be; the call must not be made.
            AgentsError: The request was interrupted meanwhile.
        """
        return self.announce(self)

    def interrupt(self, error: AgentsError) -> None:
        """End the request with an error, now or where it next waits; the first error stays."""
        if self._broken is None:
            self._broken = error
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(error)

    def require_whole(self) -> None:
        """Stop here if something interrupted the request while it was not waiting.

        Reading the body is no wait: a caller may take days for it, and its token end meanwhile.

        Raises:
            AgentsError: What it was interrupted with.
        """
        if self._broken is not None:
            raise self._broken

    def wait(self, future: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Wait for something as long as nothing interrupts the request.

        Returns:
            The same future, which has to be awaited next; an interruption fails it.

        Raises:
            AgentsError: What it was interrupted with.
        """
        self.require_whole()
        self._waiting = future  # pyright: ignore[reportAttributeAccessIssue] - only its exception is ever set
        return future

    def let_go(self) -> None:
        """Keep nothing of what was waited for, where it may be large."""
        self._waiting = None

    def limit(self, deadline: float, error: Callable[[], AgentsError]) -> None:
        """Have the request interrupted with an error at a time of the event loop's clock."""
        self.deadline = deadline
        self._late = error

    def patrol(self, now: float) -> None:
        """Do what is due at a time of the event loop's clock.

        One look at all open requests now and then costs far less than timers for each.
        """
        if now >= self.deadline and self._late is not None:
            self.interrupt(self._late())
        if now >= self.watch_at:
            self.watch()

    def watch(self) -> None:
        """Interrupt the request when its caller hangs up."""
        self.watch_at = math.inf
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._await_hang_up())

    async def _await_hang_up(self) -> None:
        while (await self.receive()).get("type") != "http.disconnect":
            pass
        self.interrupt(CallCancelledError("The caller went away"))


async def _nothing(_: Exchange) -> None:
    """Make nothing durable."""


async def give(reply: Reply) -> Reply:
    """Answer at once where an answer is awaited."""
    return reply


class Handler(Protocol):
    """The rest of the chain."""

    def __call__(self, exchange: Exchange, /) -> Awaitable[Reply]:
        """Answer the request."""
        ...


class Filter(Protocol):
    """One place in the chain."""

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Answer the request, or let `then` answer it.

        Whoever has nothing to do after `then`, and nothing to wait for before it, returns what it
        returns: that spares each call a coroutine, and each wait behind it a frame.

        Raises:
            AgentsError: The request ends here; the outermost filter makes the reply.
        """
        ...


def chain(filters: tuple[Filter, ...], last: Handler) -> Handler:
    """Join filters, the outermost first, into one handler."""
    handler = last
    for own in reversed(filters):
        handler = _join(own, handler)
    return handler


def _join(own: Filter, then: Handler) -> Handler:
    # `partial` would pack and unpack keywords with every call.
    answer = own.__call__

    def handle(exchange: Exchange, /) -> Awaitable[Reply]:
        return answer(exchange, then)

    return handle
