"""The session of a legacy client: its stream, its end, and its successor if it is lost.

Source: MCP 2025-11-25, Transports, session management and listening for messages.
"""

from contextlib import suppress
from typing import Final, final

import anyio

from orchestrator.errors import AgentsError
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.shim.exchange import Call, Exchanger, Outcome, Tell, one_line, read_messages
from orchestrator.shim.notes import Notes
from orchestrator.shim.way import Pause, Way

_ID: Final = "agents-connect-session"
_NOTHING: Final[JsonObject] = {}
_INITIALIZED: Final = "notifications/initialized"
# Clients give us two seconds to end; the session's own end may cost a part of it.
_END_SECONDS: Final = 0.5

_NOT_FOUND: Final = 404
_NO_STREAMS: Final = 405
# A stream that ended, one that is not ended yet, too many, a gateway that has too much to do.
_AGAIN: Final = frozenset({200, 409, 429, 503})


@final
class Session:
    """What the client has open, if it is a legacy one."""

    def __init__(self, way: Way, headers: HeaderWriter, exchanger: Exchanger, tell: Tell) -> None:
        """Prepare.

        Args:
            way: Leads to the gateway.
            headers: Knows the session's id.
            exchanger: Makes the requests that open it again.
            tell: Takes a line for the client.
        """
        self._way = way
        self._headers = headers
        self._exchanger = exchanger
        self._tell = tell
        self._notes = Notes()
        self._opening = anyio.Lock()
        self._following: anyio.CancelScope | None = None
        self._was_followed = False
        self._has_streams = True
        self._is_refused = False

    def learn(self, request: jsonrpc.Request, result: JsonObject, session: str | None) -> None:
        """Take what a successful answer says of the session.

        Args:
            request: What was asked.
            result: What was answered.
            session: The session's id, if the answer came with one.
        """
        self._is_refused = False
        if request.method != "initialize":
            self._notes.note(request.method, request.params)
            return
        self._headers.learn_opening(result, session)
        self._notes.open(request.params, result)
        self._was_followed = False
        self._has_streams = True
        if self._following is not None:
            self._following.cancel()
            self._following = None

    def begin(self) -> None:
        """Note that the client is ready to be told something."""
        self._notes.is_begun = True

    @property
    def wants_stream(self) -> bool:
        """Whether nobody listens in the session, and somebody should."""
        return (
            self._notes.is_begun
            and self._has_streams
            and not self._is_refused
            and self._following is None
            and self._headers.session is not None
        )

    # Its successor.

    async def open_again(self, stale: str | None) -> bool:
        """Open the session again, as the gateway does not know it any more.

        Args:
            stale: The id that is not known.

        Returns:
            Whether there is another session than that now.

        Raises:
            AgentsError: The gateway cannot be asked.
        """
        async with self._opening:
            if stale is None or self._headers.session != stale:
                return self._headers.session is not None
            opening = self._notes.opening
            if opening is None:
                return False
            outcome = await self._ask("initialize", opening)
            result = outcome.result
            if result is None or not self._notes.take_over(result):
                return False
            self._headers.learn_opening(result, outcome.session)
            if self._notes.is_begun:
                await self.say(_INITIALIZED, _NOTHING)
            for method, params in self._notes.changes():
                _ = await self._ask(method, params)
            return self._headers.session is not None

    async def _ask(self, method: str, params: JsonObject) -> Outcome:
        body = jsonrpc.encode(jsonrpc.request_body(_ID, method, params))
        call = Call(jsonrpc.Request(_ID, method, params), body, has_room=True)
        return await self._way.deliver(
            lambda: self._exchanger.ask(self._headers.write(method, params), call),
            may_repeat=True,
        )

    async def say(self, method: str | None, params: JsonObject, body: bytes = b"") -> None:
        """Post what is owed no answer.

        Args:
            method: Its method, None for a response.
            params: Its parameters.
            body: The whole of it, if it is written already.

        Raises:
            AgentsError: It could not be posted.
        """
        if method is not None and not body:
            body = jsonrpc.encode(jsonrpc.notification_body(method, params))

        async def once() -> None:
            async with self._way.open("POST", self._headers.write(method, params), body):
                pass

        await self._way.deliver(once, may_repeat=True)

    # Its stream.

    async def follow(self) -> None:
        """Pass on what is said beside requests, until the session or the client ends.

        A stream that ends is opened again. Where none is given, nobody listens until a later
        request shows that the gateway has changed its mind.
        """
        if not self.wants_stream:
            return
        with anyio.CancelScope() as scope:
            self._following = scope
            pause = Pause()
            while await self._listen():
                await pause.wait()
                with suppress(AgentsError):
                    await self._way.look()
        if self._following is scope:
            self._following = None

    async def _listen(self) -> bool:
        """Listen as long as a stream lasts; False if there is no use in another try."""
        session = self._headers.session
        try:
            status = await self._read_stream()
            is_open = status in _AGAIN or (status == _NOT_FOUND and await self.open_again(session))
        except AgentsError:
            return True
        self._has_streams = status != _NO_STREAMS
        self._is_refused = not is_open
        return is_open

    async def _read_stream(self) -> int:
        async with self._way.open("GET", self._headers.write(None, _NOTHING)) as answer:
            if answer.is_stream:
                if self._was_followed:
                    for missed in self._notes.missed():
                        await self._tell(jsonrpc.encode(missed))
                self._was_followed = True
                async for text in read_messages(answer):
                    await self._tell(one_line(text))
            return answer.status

    # Its end.

    async def end(self) -> None:
        """Tell the gateway that the session is over, if there is one, in bounded time."""
        if self._headers.session is None:
            return
        headers = self._headers.write(None, _NOTHING)
        self._headers.forget_session()
        with anyio.move_on_after(_END_SECONDS, shield=True), suppress(AgentsError):
            async with self._way.open("DELETE", headers):
                pass
