"""What an operator holds back: directly behind the decision that something exists at all.

It is asked once more when a call is about to be sent, as that may have waited meanwhile.
"""

from collections.abc import Awaitable
from typing import Final, final

from orchestrator.errors import AgentsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.guards.index import Guards

# What brings something to an instance, or out of it; lists stay, so that agents see their tools.
_HELD: Final = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})


@final
class Guard:
    """Refuses what is held back, from the next request on."""

    def __init__(self, guards: Guards) -> None:
        """Ask these guards."""
        self._guards = guards

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let through what nobody holds back.

        Raises:
            RoleFrozenError: The role is frozen, or may only read.
            ToolDisabledError: The tool is disabled.
        """
        if not self._guards.is_idle:
            require_free(self._guards, exchange)
        return then(exchange)


def require_free(guards: Guards, exchange: Exchange) -> None:
    """Stop here if a request is held back.

    Raises:
        RoleFrozenError: The role is frozen, or may only read.
        ToolDisabledError: The tool is disabled.
    """
    refused = refusal_of(guards, exchange)
    if refused is not None:
        raise refused


def refusal_of(guards: Guards, exchange: Exchange) -> AgentsError | None:
    """Tell why a request is held back, None if it is not."""
    if exchange.method not in _HELD:
        return None
    tool = None if exchange.call is None else exchange.call.name
    return guards.refusal(exchange.role, tool, exchange.kind)
