"""What servers asked legacy callers, until the answer is posted.

An answer counts only if it comes in the session that was asked: ids are random, and belong to one
session each.

Source: MCP 2025-11-25, Transports: a server's request goes out on the stream of a request, and its
answer comes as a POST of its own.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc

MAX_OPEN: Final = 64


@dataclass(frozen=True, slots=True)
class _Open:
    session: str
    answer: Callable[[JsonObject | None, JsonObject | None], None]


@final
class Questions:
    """All questions that wait for an answer."""

    def __init__(self) -> None:
        """Start without any."""
        self._open: dict[str, _Open] = {}
        self._counts: dict[str, int] = {}

    def put(
        self, session: str, answer: Callable[[JsonObject | None, JsonObject | None], None]
    ) -> str | None:
        """Expect an answer.

        Args:
            session: Key of the session that is asked.
            answer: Takes the result or the error, once.

        Returns:
            The id under which to ask; None if the session has too many questions open.
        """
        count = self._counts.get(session, 0)
        if count >= MAX_OPEN:
            return None
        identity = f"ask-{secrets.token_hex(8)}"
        self._open[identity] = _Open(session, answer)
        self._counts[session] = count + 1
        return identity

    def drop(self, identity: str) -> None:
        """Expect no answer any more."""
        _ = self._take(identity)

    def answer(self, session: str, response: jsonrpc.Response) -> bool:
        """Take an answer; False if nobody asked this session so."""
        found = self._open.get(response.id) if isinstance(response.id, str) else None
        if found is None or found.session != session or not isinstance(response.id, str):
            return False
        _ = self._take(response.id)
        found.answer(response.result, response.error)
        return True

    def _take(self, identity: str) -> _Open | None:
        found = self._open.pop(identity, None)
        if found is not None:
            left = self._counts[found.session] - 1
            if left:
                self._counts[found.session] = left
            else:
                del self._counts[found.session]
        return found
