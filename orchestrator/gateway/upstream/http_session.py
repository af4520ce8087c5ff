"""The session of a legacy server over HTTP: opened, kept, and opened again when it was forgotten.

Source: MCP 2025-11-25, Transports, session management and resumability; Lifecycle.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final, final

import anyio

from orchestrator.errors import AgentsError, TargetUnavailableError, UpstreamProtocolError
from orchestrator.gateway.upstream.base import Outgoing
from orchestrator.gateway.upstream.http_exchange import (
    AGAIN_MOST_SECONDS,
    WORD,
    Call,
    Listening,
    Note,
    Owner,
    again_seconds,
)
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.runtimes import http1
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http1 import Exchange, HttpClient

# How long a session may take to open, and how often that is tried before the server is lost.
OPEN_SECONDS: Final = 10.0
OPEN_TRIES: Final = 6
_OPEN_PAUSE_SECONDS: Final = 0.05
# How long calls wait for the session's own stream; many servers ask on it, and on it alone.
_STREAM_SECONDS: Final = 1.0
_BAD: Final = 400
_TOOLS_CHANGED: Final = "notifications/tools/list_changed"
# What every POST says of itself.
POSTED: Final = (
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
)
_GOT: Final = ("accept", "text/event-stream")


@final
class LegacySession:
    """One session at a time.

    Attributes:
        id: The session, as the server names it; empty while there is none, and where servers keep
            none.
    """

    def __init__(self, address: Address, client: HttpClient, opening: JsonObject) -> None:
        """Keep the parts; `run` opens it.

        Args:
            address: Where the server listens.
            client: The connections to it.
            opening: Parameters of `initialize`.
        """
        self.id = b""
        self._address = address
        self._client = client
        self._opening = opening
        self._version = ""
        self._head = b""
        # A session that is open takes notes and answers; calls only once it also is heard.
        self._is_open = False
        self._is_heard = False
        self._lost = asyncio.Event()
        self._held: deque[Call] = deque()
        self._held_bytes = 0

    async def run(self, owner: Owner, boot: str) -> None:
        """Open the session, and again whenever it is lost, until cancelled.

        Args:
            owner: Hears what the server says on the session's own stream.
            boot: Beginning of the ids of its requests.

        Raises:
            AgentsError: None can be had.
        """
        was_open = False
        while True:
            await self._open(owner, boot)
            if was_open:
                # A server that forgets may have been started anew, with other tools.
                owner.hear(jsonrpc.Notification(_TOOLS_CHANGED, {}), None)
            was_open = True
            async with anyio.create_task_group() as group:
                begun = asyncio.Event()
                group.start_soon(self._listen, owner, begun)
                with anyio.move_on_after(_STREAM_SECONDS):
                    _ = await begun.wait()
                self._send_held()
                _ = await self._lost.wait()
                group.cancel_scope.cancel()

    def send(self, call: Call) -> None:
        """Send a call whose request is its body alone, now or once there is a session.

        Raises:
            TargetUnavailableError: It is not sent.
        """
        if self._is_heard:
            call.session = self.id
            call.request = http1.with_body(self._head, call.request)
            self._client.send(call)
            return
        if self._held_bytes + len(call.request) > http1.MAX_UNSENT_BYTES:
            raise TargetUnavailableError("The instance does not read what it is sent")
        self._held.append(call)
        self._held_bytes += len(call.request)

    def post(self, body: JsonObject, session: bytes, after: Exchange | None = None) -> None:
        """Post what gets no answer, if the session that it belongs to is still the same.

        Args:
            body: The message.
            session: The session.
            after: Is given up when the message has been taken, or cannot be.
        """
        with suppress(TargetUnavailableError, ValueError, RecursionError):
            if self._is_open and session == self.id:
                request = http1.with_body(self._head, jsonrpc.encode(body))
                self._client.send(Note(request, after=after))
                return
        if after is not None:
            after.give_up()

    def resume(self, call: Call, last_id: bytes, seconds: float) -> bool:
        """Ask for the rest of a call's stream, after a while; False if its session is gone."""
        if not self._is_open or call.session != self.id:
            return False
        after = ("last-event-id", last_id.decode("ascii"))
        call.request = http1.without_body(self._write_head("GET", _GOT, after))
        _ = asyncio.get_running_loop().call_later(seconds, self._resume_now, call)
        return True

    def _resume_now(self, call: Call) -> None:
        if not call.is_given_up and not call.future.done():
            try:
                self._client.send(call)
            except TargetUnavailableError as error:
                call.failed(error)

    def lose(self, call: Call) -> None:
        """Hear that the server does not know a call's session; the call is sent again, once.

        Source: MCP 2025-11-25, Transports, session management: 404 asks for a new session.
        """
        if call.carrier is not None:
            call.carrier.drop()
        if call.is_resent:
            call.failed(UpstreamProtocolError("The instance forgets its sessions"))
            return
        call.is_resent = True
        if call.session == self.id:
            self._is_open = self._is_heard = False
            self.id = b""
            self._lost.set()
        call.request = http1.body_of(call.request)
        try:
            self.send(call)
        except TargetUnavailableError as error:
            call.failed(error)

    def end(self) -> None:
        """Tell the server that the session is not needed any more, if that goes without waiting."""
        if self.id:
            with suppress(TargetUnavailableError):
                self._client.send(Note(http1.without_body(self._write_head("DELETE"))))

    def _write_head(self, method: str, *more: tuple[str, str]) -> bytes:
        headers = [("mcp-protocol-version", self._version), *more]
        if self.id:
            headers.append(("mcp-session-id", self.id.decode("ascii")))
        return http1.head(method, self._address, headers)

    # Opening.

    async def _open(self, owner: Owner, boot: str) -> None:
        """Open a session; what waits for it still does, unless none can be had."""
        pause = _OPEN_PAUSE_SECONDS
        for attempt in range(1, OPEN_TRIES + 1):
            error: AgentsError
            try:
                with anyio.fail_after(OPEN_SECONDS):
                    await self._initialize(owner, boot)
                break
            except TimeoutError:
                error = TargetUnavailableError("The instance opens no session")
            except AgentsError as failure:
                error = failure
            for call in self._take_held():
                call.failed(TargetUnavailableError("The instance opens no session"))
            if attempt == OPEN_TRIES:
                raise error
            await anyio.sleep(pause)
            pause *= 2
        self._lost = asyncio.Event()
        self._is_open = True

    def _send_held(self) -> None:
        """Send what waited, unless the session was lost meanwhile."""
        self._is_heard = self._is_open
        for call in self._take_held() if self._is_heard else ():
            if not call.is_given_up:
                try:
                    self.send(call)
                except TargetUnavailableError as refused:
                    call.failed(refused)

    def _take_held(self) -> deque[Call]:
        held, self._held = self._held, deque()
        self._held_bytes = 0
        return held

    async def _initialize(self, owner: Owner, boot: str) -> None:
        identity = f"{boot}-initialize"
        call = Call(owner, identity, Outgoing("initialize", self._opening), 0.0)
        body = jsonrpc.request_body(identity, "initialize", self._opening)
        head = http1.head("POST", self._address, POSTED)
        call.request = http1.with_body(head, jsonrpc.encode(body))
        self._client.send(call)
        try:
            response = await call.future
        finally:
            call.give_up_unless_done()
        spoken = None if response.result is None else response.result.get("protocolVersion")
        if not isinstance(spoken, str) or spoken not in mcp.LEGACY_HEADERS:
            raise UpstreamProtocolError("The instance refused to be initialized")
        if call.opens and not WORD.fullmatch(call.opens):
            raise UpstreamProtocolError("The instance's session id is none")
        self._version, self.id = spoken, call.opens
        self._head = self._write_head("POST", *POSTED)
        await self._confirm()

    async def _confirm(self) -> None:
        """Tell the server that it may begin; what is sent before it took that might be refused."""
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        told = jsonrpc.encode(jsonrpc.notification_body("notifications/initialized", {}))
        note = Note(http1.with_body(self._head, told), accepted)
        self._client.send(note)
        status = await accepted
        if status >= _BAD:
            raise UpstreamProtocolError(f"The instance refused its session: HTTP status {status}")

    # The session's own stream.

    async def _listen(self, owner: Owner, begun: asyncio.Event) -> None:
        """Keep the stream open, as far as the server has one.

        Args:
            owner: Hears what the server says.
            begun: Is set once it is known whether the stream is there.
        """
        last_id, pause = b"", 0.0
        while True:
            after = (("last-event-id", last_id.decode("ascii")),) if last_id else ()
            request = http1.without_body(self._write_head("GET", _GOT, *after))
            listening = Listening(owner, request, begun)
            asked_at = anyio.current_time()
            with suppress(TargetUnavailableError):
                self._client.send(listening)
                try:
                    await listening.is_over
                finally:
                    listening.give_up()
            begun.set()
            if not listening.is_offered:
                return
            if WORD.fullmatch(listening.stream.last_id):
                last_id = listening.stream.last_id
            # One that ends as soon as it begins is asked for less and less often.
            lasted = anyio.current_time() - asked_at >= AGAIN_MOST_SECONDS
            least = again_seconds(listening.stream)
            pause = least if lasted else min(max(least, 2 * pause), AGAIN_MOST_SECONDS)
            await anyio.sleep(pause)
