"""Whose something is that a server says: tokens of requests, and callers that are alone."""

from collections.abc import Iterable

from orchestrator.gateway.upstream.base import Caller
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import mcp


def exchange_token(params: JsonObject, request_id: str) -> Json:
    """Put the request's own id in place of the caller's progress token, as callers' may be alike.

    Returns:
        The caller's token, None if it gave none.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return None
    token = meta.pop(mcp.PROGRESS_TOKEN_KEY, None)
    if isinstance(token, bool) or not isinstance(token, str | int):
        return None
    meta[mcp.PROGRESS_TOKEN_KEY] = request_id
    return token


def only_caller(callers: Iterable[Caller | None]) -> Caller | None:
    """Tell whose everything in flight is; None if several have some, or nobody has.

    Args:
        callers: Callers of what is in flight, the newest first. The gateway's own requests do not
            count: servers ask nothing about a ping.
    """
    newest: Caller | None = None
    for caller in callers:
        if caller is None:
            continue
        if newest is None:
            newest = caller
        elif caller.owner != newest.owner:
            return None
    return newest


def refusal(code: int, words: str) -> JsonObject:
    """Write an error with which a question of the server is answered."""
    return {"code": code, "message": words}
