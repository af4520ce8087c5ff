"""Whose session it is, and what is said in it beside requests: its stream, its end, its answers.

It stands after the parse, as an `initialize` has no session yet; before anything that a request
could use up, as what is said beside requests is free.

Source: MCP 2025-11-25, Transports, session management and listening for messages.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, final

from orchestrator.errors import CallCancelledError, SecretInArgumentsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.hub import Hub, Stream
from orchestrator.gateway.questions import Questions
from orchestrator.gateway.replies import refuse_http
from orchestrator.gateway.sessions import HEADER, Session, Sessions
from orchestrator.model.names import RoleName
from orchestrator.model.secret_formats import OVERLAP_BYTES, PIECE_BYTES, find_secret
from orchestrator.protocol import jsonrpc

_ACCEPTED: Final = Reply(202)
_ENDED: Final = Reply(200)
_CANCELLED: Final = "notifications/cancelled"


@final
class Attend:
    """Finds the session of every legacy request but the one that opens it."""

    def __init__(  # noqa: PLR0913 - each is a part that somebody else owns
        self,
        sessions: Sessions,
        hub: Hub,
        questions: Questions,
        on_ended: Callable[[RoleName, str], None],
        owner_of: Callable[[Exchange], str],
        *,
        max_streams: int,
    ) -> None:
        """Look sessions up in `sessions`.

        Args:
            sessions: The sessions.
            hub: Where streams are announced to.
            questions: What was asked in sessions.
            on_ended: Is told of a session that its caller ended.
            owner_of: Tells whose instance speaks to a caller.
            max_streams: How many streams of one token may be open at the same time.
        """
        self._sessions = sessions
        self._hub = hub
        self._questions = questions
        self._on_ended = on_ended
        self._owner_of = owner_of
        self._max_streams = max_streams
        # Open requests by session and id, so that a cancel finds them.
        self._open: dict[tuple[str, jsonrpc.RequestId], Exchange] = {}

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Pass requests on; everything else ends here.

        Raises:
            ProtocolError: There is no session, or not this caller's.
            TooManyCallsError: Its agent listens to too much already.
        """
        opens = exchange.method == "initialize" and exchange.request_id is not None
        if exchange.era == "modern" or opens or not exchange.principal:
            return then(exchange)
        text = exchange.head.values.get(HEADER)
        session = self._sessions.find(text, exchange.role, exchange.principal.agent)
        exchange.session = session
        if isinstance(exchange.message, jsonrpc.Request):
            self._remember(exchange, session, exchange.message.id)
            return then(exchange)
        return self._answer(exchange, session, exchange.message)

    async def _answer(
        self,
        exchange: Exchange,
        session: Session,
        message: jsonrpc.Notification | jsonrpc.Response | None,
    ) -> Reply:
        """Answer what is said in a session beside requests."""
        match message:
            case jsonrpc.Notification():
                self._take(exchange, session)
                return _ACCEPTED
            case jsonrpc.Response() as response:
                await _check(exchange, response)
                _ = self._questions.answer(session.key, response)
                return _ACCEPTED
            case None:
                if exchange.head.method == "DELETE":
                    self._end(session)
                    return _ENDED
                return self._open_stream(exchange, session)

    def _remember(
        self, exchange: Exchange, session: Session, request_id: jsonrpc.RequestId
    ) -> None:
        key = (session.key, request_id)
        self._open[key] = exchange
        exchange.finally_do(
            lambda: self._open.pop(key) if self._open.get(key) is exchange else None
        )

    def _take(self, exchange: Exchange, session: Session) -> None:
        if exchange.method != _CANCELLED:
            return  # there is nothing else that a notification could change
        request_id = exchange.params.get("requestId")
        if isinstance(request_id, str | int) and not isinstance(request_id, bool):
            found = self._open.get((session.key, request_id))
            if found is not None:
                found.interrupt(CallCancelledError("Request cancelled"))

    def _end(self, session: Session) -> None:
        self._sessions.end(session)
        self._hub.end_session(session.key)
        for (key, _), exchange in tuple(self._open.items()):
            if key == session.key:
                exchange.interrupt(CallCancelledError("The session was ended"))
        self._on_ended(session.role, session.key)

    def _open_stream(self, exchange: Exchange, session: Session) -> Reply:
        self._hub.require_room(exchange.role, session.agent, len(session.uris))
        stream = Stream(exchange, session, None, self._owner_of(exchange))
        if not self._hub.add(stream):
            return refuse_http(
                exchange, 409, "Conflict: the session has a stream", code="protocol.stream"
            )
        exchange.finally_do(lambda: self._hub.remove(stream))
        exchange.become_stream(self._max_streams)
        return Reply(200, stream=stream)


async def _check(exchange: Exchange, response: jsonrpc.Response) -> None:
    """Look for secrets in what goes to a server as an answer; the question stays open.

    Raises:
        SecretInArgumentsError: There is one.
    """
    encoded = jsonrpc.encode(response.result)
    for start in range(0, len(encoded), PIECE_BYTES):
        found = find_secret(encoded[start : start + PIECE_BYTES + OVERLAP_BYTES])
        if found is not None:
            exchange.rule = "secrets"
            raise SecretInArgumentsError(
                f"The answer holds what looks like {found}; it was not passed on", rule="secrets"
            )
        if start:
            await asyncio.sleep(0)
