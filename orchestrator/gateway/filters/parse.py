"""Read the body once: whoever decides later decides on what was read here, never on headers."""

from collections.abc import Awaitable, Collection, Mapping
from typing import Final, final

from orchestrator.errors import HeaderMismatchError, MalformedMessageError, TooManyCallsError
from orchestrator.gateway.context import Exchange, Handler, Reply, give
from orchestrator.gateway.head import Head
from orchestrator.gateway.replies import refuse_http
from orchestrator.model.snapshot import Era
from orchestrator.protocol import headers, jsonrpc, mcp

_ROUTING: Final = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name"})
_JSON_TYPES: Final = frozenset({b"application/json", b"application/*", b"*/*"})
_METHODS: Final[Mapping[Era, tuple[str, ...]]] = {
    "legacy": ("POST", "GET", "DELETE"),
    "modern": ("POST",),
}
_LEGACY: Final = frozenset({b"", *(version.encode() for version in mcp.LEGACY_HEADERS)})
_USUAL_ACCEPTS: Final = frozenset(
    {b"application/json, text/event-stream", b"application/json,text/event-stream"}
)
_STREAM: Final = b"text/event-stream"
_ACCEPTED: Final = Reply(202)


@final
class Parse:
    """Checks the request as HTTP, reads its one message, and checks it by its era's rules."""

    def __init__(self, max_body_bytes: int, max_held_bytes: int) -> None:
        """Set the bounds.

        Args:
            max_body_bytes: Largest body of one request.
            max_held_bytes: How much of the bodies of one token's requests may be kept.
        """
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._small_bytes = max_held_bytes // 1024
        self._long = len(str(max_body_bytes))

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Pass everything on that is understood; modern notifications end here.

        Raises:
            ProtocolError: The message is none that the era knows.
            TooManyCallsError: The token's requests have too large bodies together.
        """
        # A call may wait for long behind this filter, so its body must not stay in a frame there.
        head = exchange.head
        if head.era is None:
            _look_at(head)
        exchange.era = head.era or "legacy"
        if head.is_usual and exchange.direct is not None:
            body = exchange.direct.take_whole()
            if body is not None:
                # Nearly always: nothing is waited for.
                self._hold(exchange, len(body))
                is_short = len(body) <= self._max_body_bytes
                ended = _understand(exchange, body) if is_short else _too_large(exchange)
                return then(exchange) if ended is None else give(ended)
        return self._read_and_go_on(exchange, then)

    async def _read_and_go_on(self, exchange: Exchange, then: Handler) -> Reply:
        ended = await self._read(exchange)
        return await then(exchange) if ended is None else ended

    async def _read(self, exchange: Exchange) -> Reply | None:
        """Read a request into the exchange, or tell the reply to anything else."""
        head = exchange.head
        if not head.is_usual:
            refusal = _check_http(exchange)
            if refusal is not None or head.method != "POST":
                return refusal
        body = await self._read_body(exchange)
        if isinstance(body, Reply):
            return body
        # The body may have taken long, and the token may have ended meanwhile.
        exchange.require_whole()
        return _understand(exchange, body)

    async def _read_body(self, exchange: Exchange) -> bytes | Reply:
        declared = exchange.head.values.get(b"content-length", b"")
        is_long = len(declared) >= self._long and declared.isdigit()
        if is_long and int(declared[:20]) > self._max_body_bytes:
            return _too_large(exchange)
        message = await exchange.receive()
        body = message.get("body", b"")
        self._hold(exchange, len(body))
        if message.get("more_body", False):
            pieces, size = [body], len(body)
            while size <= self._max_body_bytes and message.get("more_body", False):
                message = await exchange.receive()
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                self._hold(exchange, len(pieces[-1]))
            body = b"".join(pieces)
        if message.get("type") == "http.disconnect":
            raise MalformedMessageError("The body ended early")
        return body if len(body) <= self._max_body_bytes else _too_large(exchange)

    def _hold(self, exchange: Exchange, size: int) -> None:
        exchange.held_bytes += size
        if exchange.held_bytes <= self._small_bytes:
            return  # as many of these as may be open are not too much together
        if sum(peer.held_bytes for peer in exchange.peers) > self._max_held_bytes:
            raise TooManyCallsError("The token's requests have too large bodies together")


def _look_at(head: Head) -> None:
    """Note what follows from a head alone."""
    version = head.values.get(b"mcp-protocol-version", b"")
    # As the header says, and nothing else: a modern body under a legacy header is legacy.
    head.era = "legacy" if version in _LEGACY else "modern"
    head.is_usual = _is_usual(head)
    head.tool = headers.plain_tool(head.values) if head.is_usual else None


def _understand(exchange: Exchange, body: bytes) -> Reply | None:
    """Read a message into the exchange, or tell the reply if it ends here."""
    if len(body) > jsonrpc.MAX_VALUES:  # a value takes a byte at least
        jsonrpc.check_breadth(body)
    value = jsonrpc.decode(body)
    jsonrpc.check_depth(body, value)
    return _take(exchange, jsonrpc.parse(value))


def _take(exchange: Exchange, message: jsonrpc.Message) -> Reply | None:
    """Note what a message is, and check it by its era's rules.

    Returns:
        The reply, if the message ends here.
    """
    exchange.message = message
    if isinstance(message, jsonrpc.Request):
        exchange.method = message.method
        exchange.request_id = message.id
        exchange.params = message.params
        if exchange.era == "modern":
            _check_modern(exchange)
        return None
    if isinstance(message, jsonrpc.Response):
        if exchange.era == "modern":
            raise MalformedMessageError("A response answers nothing here")
        return None
    exchange.method = message.method
    exchange.params = message.params
    if exchange.era == "legacy":
        return None
    version = exchange.head.values.get(b"mcp-protocol-version", b"")
    mcp.check_modern_version(version.decode("latin-1"))
    # A modern caller cancels by hanging up, and has nothing else to tell.
    return _ACCEPTED


def _too_large(exchange: Exchange) -> Reply:
    # The connection stays open: closed in the middle of a body, it would take the reply with it.
    return refuse_http(exchange, 413, "Request body too large", code="protocol.too_large")


def _check_http(exchange: Exchange) -> Reply | None:
    method = exchange.head.method
    served = _METHODS[exchange.era]
    if method not in served:
        return refuse_http(
            exchange,
            405,
            f"Only {', '.join(served)} is served here",
            code="protocol.http_method",
            headers=((b"allow", ", ".join(served).encode("ascii")),),
        )
    if method == "DELETE":
        return None
    if method == "GET":
        return (
            None if _accepts(exchange, {_STREAM, b"text/*", b"*/*"}) else _not_acceptable(exchange)
        )
    media = exchange.head.values.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media != b"application/json" or b"content-type" in exchange.head.repeated:
        return refuse_http(
            exchange, 400, "Content-Type must be application/json", code="protocol.content_type"
        )
    return None if _accepts(exchange, _JSON_TYPES) else _not_acceptable(exchange)


def _not_acceptable(exchange: Exchange) -> Reply:
    return refuse_http(
        exchange,
        406,
        "Not Acceptable: the client must accept application/json and text/event-stream",
        code="protocol.accept",
    )


def _accepts(exchange: Exchange, kinds: Collection[bytes]) -> bool:
    """Tell whether the caller takes an answer of one of these kinds."""
    accept = exchange.head.values.get(b"accept", b"")
    if b"accept" in exchange.head.repeated:
        accept = b",".join(value for name, value in exchange.head.raw if name == b"accept")
    return any(part.partition(b";")[0].strip().lower() in kinds for part in accept.split(b","))


def _is_usual(head: Head) -> bool:
    """Tell whether a head is as nearly all callers write it, and needs no closer look."""
    values = head.values
    return (
        head.method == "POST"
        and not head.repeated
        and values.get(b"content-type") == b"application/json"
        and values.get(b"accept") in _USUAL_ACCEPTS
    )


def _check_modern(exchange: Exchange) -> None:
    """Check that a modern request describes itself, that its headers agree, that it is served.

    In this order, which is the SDK's: who contradicts himself is told that, not a version.
    """
    head = exchange.head
    if head.repeated and (repeated := head.repeated & _ROUTING):
        name = min(repeated).decode("ascii")
        raise HeaderMismatchError(f"The {name} header appears more than once")
    version = mcp.check_envelope(exchange.params)
    if (
        head.tool is not None
        and version == mcp.LATEST_MODERN
        and exchange.method == "tools/call"
        and exchange.params.get("name") == head.tool
    ):
        return  # the headers were found to say just that
    headers.check_standard(exchange.head.values, version, exchange.method, exchange.params)
    mcp.check_modern_version(str(version))
