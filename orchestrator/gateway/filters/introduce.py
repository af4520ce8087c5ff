"""Before the token is looked up, where an identity provider issues tokens: verify a new one.

Keys may have to be fetched for that, which is nothing that the look-up itself waits for. What is
verified stays known until it ends, so nearly all requests go straight on.
"""

from collections.abc import Awaitable
from typing import Final, final

from orchestrator.errors import TokenUnknownError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.tokens.jwt import OAuthTokens, is_static

# What a proxy adds: whoever comes through one is not on this machine.
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


@final
class Introduce:
    """Makes access tokens known, and keeps static ones to callers of this machine."""

    def __init__(self, tokens: OAuthTokens) -> None:
        """Verify with this."""
        self._tokens = tokens

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Pass on what is known.

        Raises:
            TokenError: The token opens nothing here.
        """
        header = exchange.head.values.get(b"authorization", b"")
        # More than one header is refused by the next filter, whatever they hold.
        if self._tokens.knows(header, exchange.role) or b"authorization" in exchange.head.repeated:
            return then(exchange)
        if is_static(header):
            if not _is_local(exchange):
                raise TokenUnknownError("Static tokens are for this machine")
            return then(exchange)
        return self._learn(header, exchange, then)

    async def _learn(self, header: bytes, exchange: Exchange, then: Handler) -> Reply:
        await self._tokens.learn(header, exchange.role)
        return await then(exchange)


def _is_local(exchange: Exchange) -> bool:
    """Tell whether a request came straight to the loopback address that the gateway listens on."""
    values = exchange.head.values
    if any(name in values for name in _FORWARDED):
        return False
    host = values.get(b"host", b"").decode("latin-1").lower()
    return host.rpartition(":")[0] in _LOOPBACK
