"""Who tells the gateway who shows a token: what the settings say."""

from collections.abc import Callable

from orchestrator.clock import Clock
from orchestrator.gateway.log import get_log
from orchestrator.model.auth import Auth
from orchestrator.tokens.jwt import OAuthTokens
from orchestrator.tokens.keys import Keys
from orchestrator.tokens.verify import TokenIndex


def open_access(
    auth: Auth, index: TokenIndex, clock: Clock, note: Callable[[str], None]
) -> OAuthTokens | None:
    """Prepare to verify an identity provider's tokens; None where there is no provider.

    Args:
        auth: Which tokens agents show.
        index: Static tokens.
        clock: Where time comes from.
        note: Is told what a person should know while keys are not to be had; empty when they are.
    """
    if auth.mode == "static" or auth.issuer is None:
        return None
    log, issuer = get_log(__name__), auth.issuer

    def tell(event: str, reason: str) -> None:
        _ = log.warning(event, reason=reason)
        if event == "keys_unavailable":
            note(
                f"{issuer} gives no keys to check tokens with: {reason}; see `auth:` in agents.yaml"
            )
        elif event == "keys_available":
            note("")

    def make_keys(on_read: Callable[[], None]) -> Keys:
        algorithms = frozenset[str](auth.algorithms)
        return Keys(issuer, auth.jwks, algorithms, clock=clock, tell=tell, on_read=on_read)

    return OAuthTokens(auth, index, make_keys, clock=clock, tell=tell)
