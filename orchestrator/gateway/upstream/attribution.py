"""Whose something is that a server says: tokens of requests, and callers that are alone."""

from collections.abc import Iterable
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.gateway.upstream.base import Caller
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import mcp

# How long a server is given to end a call that was cancelled, and how many such calls are kept in
# mind. One that obeys never answers, so the end of such a call is not known; and as long as it is
# not, nobody but its own agent can be asked anything.
_ECHO_SECONDS: Final = 30.0
_MAX_ECHOES: Final = 1024


@final
class Echoes:
    """Calls that nobody waits for any more, and that the server may still speak about."""

    def __init__(self, clock: Clock) -> None:
        """Start without any."""
        self._clock = clock
        # Whose they were, and until when they may be heard; the oldest first.
        self._calls: dict[str, tuple[str, float]] = {}

    def expect(self, request_id: str, caller: Caller | None) -> None:
        """Keep in mind that a caller has given up a request."""
        if caller is not None and len(self._calls) <= _MAX_ECHOES:
            self._calls[request_id] = (caller.agent, self._clock.monotonic() + _ECHO_SECONDS)

    def end(self, request_id: str) -> None:
        """Forget one that the server has answered."""
        _ = self._calls.pop(request_id, None)

    def are_of(self, agent: str) -> bool:
        """Tell whether all that may still be heard are of one agent."""
        now = self._clock.monotonic()
        for request_id, (_, until) in tuple(self._calls.items()):
            if until > now:
                break
            del self._calls[request_id]
        is_known = len(self._calls) <= _MAX_ECHOES
        return is_known and all(whose == agent for whose, _ in self._calls.values())


def exchange_token(params: JsonObject, request_id: str) -> Json:
    """Put the request's own id in place of the caller's progress token, as callers' may be alike.

    Returns:
        The caller's token, None if it gave none.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return None
    token = meta.pop(mcp.PROGRESS_TOKEN_KEY, None)
    if token is None or isinstance(token, bool) or not isinstance(token, str | int):
        return None
    meta[mcp.PROGRESS_TOKEN_KEY] = request_id
    return token


def only_caller(callers: Iterable[Caller | None], echoes: Echoes) -> Caller | None:
    """Tell whose everything in flight is; None if several have some, or nobody has.

    Args:
        callers: Callers of what is in flight, the newest first. The gateway's own requests do not
            count: servers ask nothing about a ping.
        echoes: What was in flight, and may still be heard: asked of the wrong one, a question could
            tell one agent what another one does.
    """
    newest: Caller | None = None
    for caller in callers:
        if caller is None:
            continue
        if newest is None:
            newest = caller
        elif caller.owner != newest.owner:
            return None
    return newest if newest is None or echoes.are_of(newest.agent) else None


def refusal(code: int, words: str) -> JsonObject:
    """Write an error with which a question of the server is answered."""
    return {"code": code, "message": words}
