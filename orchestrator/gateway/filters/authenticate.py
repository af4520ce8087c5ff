"""Before the body is read: who asks, whether the token opens this role, and what it has open."""

import asyncio
from typing import final

from orchestrator.errors import TokenRevokedError, TooManyCallsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.replies import refuse_http
from orchestrator.model.names import TokenId
from orchestrator.tokens.verify import TokenIndex


@final
class Authenticate:
    """Lets nobody through without a token of the role, and ends requests whose token ends."""

    def __init__(self, tokens: TokenIndex, max_open: int, max_streams: int) -> None:
        """Check against these tokens, and hear from them which ones end early.

        Args:
            tokens: The tokens.
            max_open: How many requests of one token may be open at the same time.
            max_streams: How many of its streams.
        """
        self._tokens = tokens
        self._max_open = max_open
        self._max_streams = max_streams
        # An open request is not checked again, so a revocation has to find it.
        self._open: dict[TokenId, set[Exchange]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        tokens.on_closed = self.cut

    async def __call__(self, exchange: Exchange, /, then: Handler) -> Reply:
        """Find the principal.

        Raises:
            TokenError: There is none; every reason looks the same from outside.
            TooManyCallsError: The token has as many requests open as it may.
        """
        if b"authorization" in exchange.head.repeated:
            return refuse_http(
                exchange,
                400,
                "More than one Authorization header",
                code="protocol.authorization",
            )
        header = exchange.head.values.get(b"authorization", b"")
        principal = self._tokens.verify_header(header, exchange.role)
        exchange.principal = principal
        peers = self._open.get(principal.token_id)
        if peers is None:
            peers = self._open[principal.token_id] = set()
        elif len(peers) >= self._max_open:
            streams = sum(1 for peer in peers if peer.is_stream)
            if len(peers) - streams >= self._max_open:
                raise TooManyCallsError("The token has as many requests open as it may")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        peers.add(exchange)
        exchange.peers = peers
        reply = await then(exchange)
        if reply.stream is not None:
            if sum(1 for peer in peers if peer.is_stream) >= self._max_streams:
                raise TooManyCallsError("The token has as many streams open as it may")
            exchange.is_stream = True
        return reply

    def cut(self, token_id: TokenId) -> None:
        """End every open request of a token; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            _ = self._loop.call_soon_threadsafe(self._cut, token_id)

    def _cut(self, token_id: TokenId) -> None:
        for exchange in self._open.pop(token_id, set()).copy():
            exchange.interrupt(TokenRevokedError("The token was revoked"))
