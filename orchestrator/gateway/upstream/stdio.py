"""Many calls in flight over the two FIFOs of one stdio server.

Ids are the gateway's own and carry its boot number: what an earlier gateway asked is answered to
nobody. Whatever arrives that is no answer to an open call is ignored.

Source: MCP 2026-07-28, stdio; Basic, cancellation.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, cast, final

import anyio

from orchestrator.clock import Clock
from orchestrator.errors import (
    AgentsError,
    MalformedMessageError,
    TargetLostError,
    TargetUnavailableError,
    UnreadableMessageError,
    UpstreamProtocolError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc

# What may wait to be written to a server that does not read: enough for a burst of the largest
# requests, and an end to what a stuck server can make the gateway keep.
MAX_UNSENT_BYTES: Final = 32 * 1024 * 1024


class Wire(Protocol):
    """Lines to and from one server; `runtimes.channel` has the real one."""

    async def send(self, line: bytes, /) -> None:
        """Write one message; the end of the line is added."""
        ...

    async def receive(self) -> bytes:
        """Read one message."""
        ...

    def close(self) -> None:
        """Let go of both ends."""
        ...


class Wait(Protocol):
    """How a caller waits for an answer: it may be interrupted."""

    def __call__(
        self, future: "asyncio.Future[jsonrpc.Response]", /
    ) -> Awaitable[jsonrpc.Response]:
        """Wait for the answer, or raise what interrupted the wait."""
        ...


@dataclass(frozen=True, slots=True)
class _Pending:
    future: "asyncio.Future[jsonrpc.Response]"
    sent_at: float


@final
class StdioUpstream:
    """One connection to one server process.

    Attributes:
        heard: Monotonic seconds of the last line that came.
    """

    def __init__(
        self, wire: Wire, boot: str, clock: Clock, on_tools_changed: Callable[[], None]
    ) -> None:
        """Take the wire; nothing moves before `run`.

        Args:
            wire: The open FIFOs.
            boot: A text that no other run of the gateway uses.
            clock: Tells when something was heard.
            on_tools_changed: Is called when the server says that its tools changed.
        """
        self.heard = clock.monotonic()
        self._wire = wire
        self._boot = boot
        self._clock = clock
        self._on_tools_changed = on_tools_changed
        self._count = 0
        self._pending: dict[str, _Pending] = {}
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._gone: AgentsError | None = None

    @property
    def in_flight(self) -> int:
        """How many calls wait for an answer."""
        return len(self._pending)

    @property
    def oldest_call(self) -> float | None:
        """Monotonic seconds at which the oldest open call was made."""
        return next((pending.sent_at for pending in self._pending.values()), None)

    async def run(self) -> None:
        """Carry messages until cancelled, or until the wire breaks.

        Raises:
            OSError: The wire broke.
            ClosedResourceError: It was closed.
            UpstreamProtocolError: The server sent what no reader stands.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._write)
            while True:
                self._take(await self._wire.receive())

    def fail(self, error: AgentsError) -> None:
        """End every open call, and every one to come, with an error."""
        if self._gone is None:
            self._gone = error
        pending, self._pending = self._pending, {}
        for call in pending.values():
            if not call.future.done():
                call.future.set_exception(error)

    def close(self) -> None:
        """Let go of the wire."""
        self.fail(TargetLostError("The connection to the instance was closed"))
        self._wire.close()

    def request(
        self, method: str, params: JsonObject, wait: Wait
    ) -> Coroutine[None, None, jsonrpc.Response]:
        """Ask at once, and wait for the answer; whoever stops waiting has the server told.

        Returns:
            The answer, which has to be awaited; it keeps nothing of `params` alive.

        Args:
            method: The method.
            params: Its parameters.
            wait: How to wait; the only place where this may be interrupted.

        Raises:
            TargetUnavailableError: Nothing was sent: the server does not read what it is sent.
            TargetLostError: The server ended.
            UpstreamProtocolError: Its answer is none.
        """
        if self._gone is not None:
            raise TargetUnavailableError("The instance is gone") from self._gone
        self._count += 1
        request_id = f"{self._boot}-{self._count}"
        self._send(jsonrpc.request_body(request_id, method, params))
        future: asyncio.Future[jsonrpc.Response] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = _Pending(future, self._clock.monotonic())
        return self._await_answer(request_id, future, wait)

    async def _await_answer(
        self, request_id: str, future: "asyncio.Future[jsonrpc.Response]", wait: Wait
    ) -> jsonrpc.Response:
        try:
            return await wait(future)
        finally:
            if self._pending.pop(request_id, None) is not None:
                self._abandon(request_id)

    def _abandon(self, request_id: str) -> None:
        params: JsonObject = {"requestId": request_id, "reason": "nobody waits for it any more"}
        # A server that does not read will not read this either.
        with suppress(TargetUnavailableError):
            self._send(jsonrpc.notification_body("notifications/cancelled", params))

    def _send(self, message: JsonObject) -> None:
        try:
            line = jsonrpc.encode(message)
        except ValueError as error:
            raise UpstreamProtocolError("The message cannot be written") from error
        if self._unsent_bytes + len(line) > MAX_UNSENT_BYTES:
            raise TargetUnavailableError("The instance does not read what it is sent")
        self._unsent.append(line)
        self._unsent_bytes += len(line)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while self._unsent:
                line = self._unsent.popleft()
                await self._wire.send(line)
                self._unsent_bytes -= len(line)
                del line  # not to be kept until the next one comes
            self._wake.clear()
            _ = await self._wake.wait()

    def _take(self, line: bytes) -> None:
        self.heard = self._clock.monotonic()
        try:
            message = jsonrpc.parse(jsonrpc.decode(line))
        except (UnreadableMessageError, MalformedMessageError):
            self._take_rubbish(line)
            return
        match message:
            case jsonrpc.Response(id=str(request_id)):
                pending = self._pending.pop(request_id, None)
                if pending is not None and not pending.future.done():
                    pending.future.set_result(message)
            case jsonrpc.Request():
                self._answer(message)
            case jsonrpc.Notification(method="notifications/tools/list_changed"):
                self._on_tools_changed()
            case _:
                pass

    def _take_rubbish(self, line: bytes) -> None:
        """Fail the call that an unusable line answers, so that it does not wait in vain."""
        try:
            # Reads what stricter readers refuse, such as NaN, just to learn the id.
            value = cast("Json", json.loads(line))
        except (ValueError, RecursionError):
            return
        request_id = value.get("id") if isinstance(value, dict) and "method" not in value else None
        pending = self._pending.pop(request_id, None) if isinstance(request_id, str) else None
        if pending is not None and not pending.future.done():
            pending.future.set_exception(
                UpstreamProtocolError("The answer is no JSON-RPC response")
            )

    def _answer(self, request: jsonrpc.Request) -> None:
        """Answer what the server asks; nothing is relayed to callers."""
        if request.method == "ping":
            body = jsonrpc.result_body(request.id, {})
        else:
            body = jsonrpc.error_body(request.id, jsonrpc.METHOD_NOT_FOUND, "Method not found")
        # A server that asks and does not read gets no answer.
        with suppress(TargetUnavailableError):
            self._send(body)
