"""An MCP server on stdin and stdout that is a role's instance behind the gateway.

What the client writes goes to the gateway as it is, byte for byte; only headers are added. What
the gateway says, in answers and on streams, becomes lines, each as soon as it comes.
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from orchestrator.errors import (
    AgentsError,
    MalformedMessageError,
    TooManyCallsError,
    UnreadableMessageError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.shim import listen
from orchestrator.shim.budget import Budget
from orchestrator.shim.caller import Caller
from orchestrator.shim.exchange import Call, Exchanger
from orchestrator.shim.lines import read_lines, write_line
from orchestrator.shim.refusal import refusal, unexpected
from orchestrator.shim.request import LONGEST_BYTES, Endpoint
from orchestrator.shim.session import Session
from orchestrator.shim.way import Way

STDIN: Final = 0
STDOUT: Final = 1

# How long answers are waited for when the client has closed our input; clients give us two seconds.
_GRACE_SECONDS: Final = 1.0
# What is kept for the gateway, and for a client that does not read.
_MOST_OPEN: Final = 1024
_LARGE_AT_ONCE: Final = 8
_SAID_AT_ONCE: Final = 8
# A cancel may overtake its request, so it is said again to a gateway that goes on.
_CANCELS: Final = 3
_CANCEL_SECONDS: Final = 1.0

_OPENING: Final = frozenset({"initialize", "server/discover"})
_INITIALIZED: Final = "notifications/initialized"
_CANCELLED: Final = "notifications/cancelled"


@final
class Shim:
    """Pumps messages between a client on stdio and the gateway."""

    def __init__(
        self, endpoint: Endpoint | None, find: Callable[[], Endpoint], token: Callable[[], str]
    ) -> None:
        """Prepare.

        Args:
            endpoint: Where the role was found, None if its gateway does not listen yet.
            find: Finds the role again; blocks for a short while, raises AgentsError.
            token: Reads the token, as it is now; raises TokenError.
        """
        # Nothing waits between: whoever has a line for the client holds it until it is written.
        self._output, self._lines = anyio.create_memory_object_stream[bytes](0)
        self._way = Way(endpoint, find, token)
        self._headers = HeaderWriter()
        self._exchanger = Exchanger(self._way, self._output.send, _LARGE_AT_ONCE)
        self._session = Session(self._way, self._headers, self._exchanger, self._output.send)
        self._caller = Caller(self._way, self._headers, self._session, self._exchanger)
        self._open: dict[jsonrpc.RequestId, Call] = {}
        self._budget = Budget(_MOST_OPEN, LONGEST_BYTES)
        self._saying = anyio.Semaphore(_SAID_AT_ONCE)
        self._opened = anyio.Event()
        self._opened.set()

    async def run(self) -> None:
        """Serve until the client closes our input or goes away, or a signal ends us."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_end_by_signal, group.cancel_scope)
                group.start_soon(_write_all, self._lines, group.cancel_scope)
                async with self._output, anyio.create_task_group() as lasting:
                    async with anyio.create_task_group() as calls:
                        async for line in read_lines(STDIN, LONGEST_BYTES):
                            await self._take(line, calls, lasting)
                        calls.cancel_scope.deadline = anyio.current_time() + _GRACE_SECONDS
                    lasting.cancel_scope.cancel()
                # The writer ends this when the last line is out.
                group.cancel_scope.deadline = anyio.current_time() + _GRACE_SECONDS
        finally:
            await self._session.end()

    # What the client writes.

    async def _take(self, line: bytes | None, calls: TaskGroup, lasting: TaskGroup) -> None:
        """Take a line; None is one that was too long to be read."""
        if line is None:
            error = MalformedMessageError(f"A line has more than {LONGEST_BYTES} bytes")
            await self._output.send(refusal(None, error))
            return
        if not line.strip():
            return
        value: Json = None
        try:
            value = jsonrpc.decode(line)
            message = jsonrpc.parse(value)
        except (UnreadableMessageError, MalformedMessageError) as error:
            found = value.get("id") if isinstance(value, dict) and "method" in value else None
            request_id = found if isinstance(found, str | int) else None
            await self._output.send(refusal(request_id, error))
            return
        match message:
            case jsonrpc.Request():
                await self._take_request(Call(message, line), calls, lasting)
            case jsonrpc.Notification(method="notifications/cancelled", params=params):
                self._cancel(params, line, calls)
            case jsonrpc.Notification(method, params):
                self._start_saying(calls, lasting, method, params, line)
            case jsonrpc.Response():
                nothing: JsonObject = {}
                self._start_saying(calls, lasting, None, nothing, line)

    async def _take_request(self, call: Call, calls: TaskGroup, lasting: TaskGroup) -> None:
        request = call.request
        if not self._budget.take(len(call.body)):
            error = TooManyCallsError("too many requests wait for their answers; nothing was done")
            await self._output.send(refusal(request.id, error))
            return
        self._open[request.id] = call
        if request.method == "initialize":
            self._opened = anyio.Event()
        is_lasting = request.method == listen.METHOD and call.is_modern
        (lasting if is_lasting else calls).start_soon(self._serve, call, lasting)

    def _cancel(self, params: JsonObject, line: bytes, calls: TaskGroup) -> None:
        request_id = params.get("requestId")
        call = self._open.get(request_id) if isinstance(request_id, str | int) else None
        if call is None or call.request.method in _OPENING:
            return
        call.is_cancelled = True
        if call.is_modern or not call.is_sent:
            call.scope.cancel()  # hanging up is the cancel
        else:
            calls.start_soon(self._cancel_in_session, call, params, line)

    async def _cancel_in_session(self, call: Call, params: JsonObject, line: bytes) -> None:
        """Tell the gateway until the request ends: in a session, hanging up would be no cancel."""
        for _ in range(_CANCELS):
            await self._say(_CANCELLED, params, line)
            with anyio.move_on_after(_CANCEL_SECONDS):
                await call.ended.wait()
                return
        call.scope.cancel()

    # What goes to the gateway.

    async def _serve(self, call: Call, lasting: TaskGroup) -> None:
        """Answer one request, whatever happens; a cancelled one not at all."""
        request = call.request
        try:
            with call.scope:
                line = await self._answer(call)
                if not call.is_cancelled:
                    await self._output.send(line)
                if self._session.wants_stream:
                    lasting.start_soon(self._session.follow)
        finally:
            self._exchanger.leave(call)
            self._budget.give(len(call.body))
            call.ended.set()
            if self._open.get(request.id) is call:
                del self._open[request.id]

    async def _answer(self, call: Call) -> bytes:
        request = call.request
        try:
            if request.method == listen.METHOD and call.is_modern:
                subscription = listen.Subscription(
                    self._way, self._headers, call, self._output.send
                )
                return await subscription.run()
            if not call.is_modern and request.method != "initialize":
                await self._opened.wait()
            return await self._caller.ask(call)
        except AgentsError as error:
            return refusal(request.id, error)
        except Exception as error:  # noqa: BLE001  a client must not wait for ever, nor others end
            return unexpected(request.id, error)
        finally:
            if request.method == "initialize":
                self._opened.set()

    def _start_saying(
        self,
        calls: TaskGroup,
        lasting: TaskGroup,
        method: str | None,
        params: JsonObject,
        line: bytes,
    ) -> None:
        async def say() -> None:
            try:
                await self._say(method, params, line)
            finally:
                self._budget.give(len(line))
            if method == _INITIALIZED:
                self._session.begin()
                lasting.start_soon(self._session.follow)

        # Nobody could be told that it was left out; whoever writes so much does not read.
        if self._budget.take(len(line)):
            calls.start_soon(say)

    async def _say(self, method: str | None, params: JsonObject, line: bytes) -> None:
        """Pass on what is owed no answer; there is nobody to tell that it failed."""
        with suppress(AgentsError, OSError, ValueError):
            await self._opened.wait()
            async with self._saying:
                await self._session.say(method, params, line)


async def _write_all(
    lines: MemoryObjectReceiveStream[bytes], everything: anyio.CancelScope
) -> None:
    """Write lines until there will be no more, or nobody reads them; then end everything."""
    async with lines:
        with suppress(OSError):
            async for line in lines:
                await write_line(STDOUT, line)
        # Before the lines are closed: whoever waits to write one is ended, and does not fail.
        everything.cancel()


async def _end_by_signal(everything: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            everything.cancel()
            return
