"""Before the body is read: who asks, whether the token opens this role, and what it has open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

from orchestrator.errors import TokenRevokedError, TooManyCallsError
from orchestrator.gateway.context import Exchange, Handler, Reply, give
from orchestrator.gateway.replies import refuse_http
from orchestrator.model.names import TokenId
from orchestrator.tokens.jwt import Verifier
from orchestrator.tokens.verify import Principal


@final
class Authenticate:
    """Lets nobody through without a token of the role, and ends requests whose token ends."""

    def __init__(self, tokens: Verifier, max_open: int) -> None:
        """Check against these tokens, and hear from them which ones end early.

        Args:
            tokens: The tokens.
            max_open: How many requests of one token may be open at the same time, streams aside.
        """
        self._tokens = tokens
        self._max_open = max_open
        # An open request is not checked again, so a revocation has to find it.
        self._open: dict[str, set[Exchange]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        tokens.on_closed = self.cut

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Find the principal.

        Raises:
            TokenError: There is none; every reason looks the same from outside.
            TooManyCallsError: The token has as many requests open as it may.
        """
        head = exchange.head
        if b"authorization" in head.repeated:
            words = "More than one Authorization header"
            return give(refuse_http(exchange, 400, words, code="protocol.authorization"))
        header = head.values.get(b"authorization", b"")
        principal = self._tokens.verify_header(header, exchange.role)
        exchange.principal = principal
        proof = principal.proof
        account = principal.token_id if proof is None else proof.account
        peers = self._open.get(account)
        if peers is None:
            peers = self._open[account] = set()
        elif len(peers) >= self._max_open:
            streams = sum(1 for peer in peers if peer.is_stream)
            if len(peers) - streams >= self._max_open:
                raise TooManyCallsError("The token has as many requests open as it may")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        peers.add(exchange)
        exchange.peers = peers
        return then(exchange)

    def cut(self, token_id: TokenId) -> None:
        """End every open request of a token; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            _ = self._loop.call_soon_threadsafe(self._cut, token_id)

    def cut_where(self, concerns: Callable[[Principal], bool]) -> None:
        """End the open requests of some principals; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            _ = self._loop.call_soon_threadsafe(self._cut_where, concerns)

    def _cut_where(self, concerns: Callable[[Principal], bool]) -> None:
        for peers in self._open.values():
            for exchange in peers.copy():
                if exchange.principal is not None and concerns(exchange.principal):
                    exchange.interrupt(TokenRevokedError("The token was denied"))

    def _cut(self, token_id: TokenId) -> None:
        for exchange in self._open.pop(token_id, set()).copy():
            exchange.interrupt(TokenRevokedError("The token was revoked"))
