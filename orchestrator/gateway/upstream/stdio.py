"""Many requests in flight over the two FIFOs of one stdio server.

Ids are the gateway's own and carry its boot number: what an earlier gateway asked is answered to
nobody. A progress token is the request's own id, as callers' tokens may be alike. Whatever arrives
that belongs to no open request is ignored.

What a legacy server asks or logs in the middle names no request. It is given to a caller only when
there can be no doubt whose it is: when everything in flight is one session's.

Source: MCP 2026-07-28, stdio; Basic, cancellation and progress.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
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
from orchestrator.gateway.upstream.attribution import Echoes, exchange_token, only_caller, refusal
from orchestrator.gateway.upstream.base import Broadcast, Caller, Outgoing, Wait
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc, mcp

# What may wait to be written to a server that does not read: enough for a burst of the largest
# requests, and an end to what a stuck server can make the gateway keep.
MAX_UNSENT_BYTES: Final = 32 * 1024 * 1024
_PROGRESS: Final = "notifications/progress"
_CANCELLED: Final = "notifications/cancelled"
_LOG: Final = "notifications/message"
_ELICITED: Final = "notifications/elicitation/complete"
# Of what is longer than this and no answer, only the ends are looked at.
_MOST_RUBBISH: Final = 200_000
_END_BYTES: Final = 256
_ID: Final = re.compile(rb'"id"\s*:\s*"([0-9a-f]{1,32}-[0-9]{1,20})"')
# How many questions of one server may be open at the same time.
_MAX_QUESTIONS: Final = 64


class Wire(Protocol):
    """Lines to and from one server; `runtimes.channel` has the real one."""

    def attach(
        self, on_line: Callable[[bytes], None], on_broken: Callable[[Exception], None], /
    ) -> None:
        """Hand over lines from now on."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the server to read."""
        ...

    def push(self, line: bytes, /) -> None:
        """Write one message, now or later.

        Raises:
            ClosedResourceError: The wire was closed.
        """
        ...

    def close(self) -> None:
        """Let go of both ends."""
        ...


@final
class _Pending:
    """One open request."""

    __slots__ = ("caller", "future", "sent_at", "token")

    def __init__(
        self,
        future: "asyncio.Future[jsonrpc.Response]",
        sent_at: float,
        caller: Caller | None,
        token: Json,
    ) -> None:
        self.future = future
        self.sent_at = sent_at
        self.caller = caller
        self.token = token


@final
class _Question:
    """A request of the server, answered at most once."""

    __slots__ = ("_upstream", "id", "method", "params")

    def __init__(self, upstream: "StdioUpstream", request: jsonrpc.Request) -> None:
        self._upstream: StdioUpstream | None = upstream
        self.id = request.id
        self.method = request.method
        self.params = request.params

    def answer(self, result: JsonObject | None, error: JsonObject | None = None) -> None:
        """Answer it, with one of the two."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.answer(self.id, result, error)


@final
class StdioUpstream:
    """One connection to one server process.

    Attributes:
        heard: Monotonic seconds of the last line that came.
    """

    def __init__(self, wire: Wire, boot: str, clock: Clock, broadcast: Broadcast) -> None:
        """Take the wire; nothing moves before `run`.

        Args:
            wire: The open FIFOs.
            boot: A text that no other run of the gateway uses.
            clock: Tells when something was heard.
            broadcast: Hears what the server says to nobody in particular.
        """
        self._heard = clock.monotonic()
        self._wire = wire
        self._boot = boot
        self._clock = clock
        self._broadcast = broadcast
        self._count = 0
        self._pending: dict[str, _Pending] = {}
        # Requests that last as long as somebody listens; they say nothing about the server's life.
        self._listens: dict[str, _Pending] = {}
        self._echoes = Echoes(clock)
        self._asked = 0
        self._gone: AgentsError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken: asyncio.Future[None] | None = None

    @property
    def heard(self) -> float:
        """Monotonic seconds at which something last came from the process."""
        return self._heard

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
        self._broken = asyncio.get_running_loop().create_future()
        self._wire.attach(self._take, self._break)
        await self._broken

    def _break(self, error: Exception) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    def move(self, error: AgentsError) -> None:
        """End those open calls with an error that may be made again elsewhere."""
        for call in self._pending.values():
            if call.caller is not None and call.caller.may_move and not call.future.done():
                call.future.set_exception(error)

    def fail(self, error: AgentsError) -> None:
        """End every open call, and every one to come, with an error."""
        if self._gone is None:
            self._gone = error
        pending = [*self._pending.values(), *self._listens.values()]
        self._pending, self._listens = {}, {}
        for call in pending:
            if not call.future.done():
                call.future.set_exception(error)

    def close(self) -> None:
        """Let go of the wire."""
        self.fail(TargetLostError("The connection to the instance was closed"))
        self._wire.close()

    def request(self, out: Outgoing, wait: Wait) -> Coroutine[None, None, jsonrpc.Response]:
        """Ask at once, and wait for the answer; whoever stops waiting has the server told.

        Returns:
            The answer, which has to be awaited; it keeps nothing of `out.params` alive.

        Raises:
            TargetUnavailableError: Nothing was sent: the server does not read what it is sent.
            TargetLostError: The server ended.
            UpstreamProtocolError: Its answer is none.
        """
        if self._gone is not None:
            raise TargetUnavailableError("The instance is gone") from self._gone
        self._count += 1
        request_id = f"{self._boot}-{self._count}"
        token = exchange_token(out.params, request_id)
        self._send(jsonrpc.request_body(request_id, out.method, out.params))
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[jsonrpc.Response] = self._loop.create_future()
        pending = _Pending(future, self._clock.monotonic(), out.caller, token)
        if out.method == "subscriptions/listen":
            self._listens[request_id] = pending
        else:
            self._pending[request_id] = pending
        return self._await_answer(request_id, future, wait)

    async def _await_answer(
        self, request_id: str, future: "asyncio.Future[jsonrpc.Response]", wait: Wait
    ) -> jsonrpc.Response:
        try:
            return await wait(future)
        finally:
            given_up = self._forget(request_id)
            if given_up is not None:
                self._echoes.expect(request_id, given_up.caller)
                self.notify(
                    _CANCELLED,
                    {"requestId": request_id, "reason": "nobody waits for it any more"},
                )

    def _forget(self, request_id: str) -> _Pending | None:
        found = self._pending.pop(request_id, None)
        return self._listens.pop(request_id, None) if found is None else found

    def notify(self, method: str, params: JsonObject) -> None:
        """Send a notification; a server that does not read will not read this either."""
        with suppress(TargetUnavailableError, UpstreamProtocolError):
            self._send(jsonrpc.notification_body(method, params))

    def answer(
        self, request_id: jsonrpc.RequestId, result: JsonObject | None, error: JsonObject | None
    ) -> None:
        """Answer a question of the server; one that does not read gets no answer."""
        self._asked -= 1
        body: JsonObject = {"jsonrpc": "2.0", "id": request_id}
        if error is not None:
            body["error"] = error
        else:
            body["result"] = result or {}
        with suppress(TargetUnavailableError, UpstreamProtocolError):
            self._send(body)

    def _send(self, message: JsonObject) -> None:
        if self._gone is not None:
            raise TargetUnavailableError("The instance is gone") from self._gone
        try:
            line = jsonrpc.encode(message)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError("The message cannot be written") from error
        waiting = self._wire.unsent_bytes
        if waiting and waiting + len(line) > MAX_UNSENT_BYTES:
            raise TargetUnavailableError("The instance does not read what it is sent")
        try:
            self._wire.push(line)
        except anyio.ClosedResourceError as error:
            raise TargetUnavailableError("The connection is closed") from error

    def _take(self, line: bytes) -> None:
        self._heard = self._clock.monotonic()
        try:
            if len(line) > jsonrpc.MAX_VALUES:  # a value takes a byte at least
                jsonrpc.check_breadth(line, jsonrpc.MAX_ANSWER_VALUES)
            message = jsonrpc.parse(jsonrpc.decode(line))
        except (UnreadableMessageError, MalformedMessageError):
            self._take_rubbish(line)
            return
        # Not by `match`, which takes three times as long.
        if isinstance(message, jsonrpc.Response):
            self._take_answer(message)
        elif isinstance(message, jsonrpc.Request):
            self._take_question(message)
        else:
            self._take_notification(message.method, message.params)

    def _take_answer(self, answer: jsonrpc.Response) -> None:
        if not isinstance(answer.id, str):
            return  # no request of ours
        pending = self._pending.pop(answer.id, None) or self._listens.pop(answer.id, None)
        self._echoes.end(answer.id)
        if pending is not None and not pending.future.done():
            pending.future.set_result(answer)

    def _take_rubbish(self, line: bytes) -> None:
        """Fail the call that an unusable line answers, so that it does not wait in vain."""
        request_id = _guess_id(line)
        pending = None if request_id is None else self._forget(request_id)
        if pending is not None and not pending.future.done():
            pending.future.set_exception(
                UpstreamProtocolError("The answer is no JSON-RPC response")
            )

    def _take_notification(self, method: str, params: JsonObject) -> None:
        if method == _PROGRESS:
            token = params.get("progressToken")
            pending = self._pending.get(token) if isinstance(token, str) else None
            if pending is not None and pending.caller is not None and pending.token is not None:
                pending.caller.tell(method, {**params, "progressToken": pending.token})
        elif method in {_LOG, _ELICITED}:
            caller = self._only_caller()
            if caller is not None:
                caller.tell(method, params)
            elif not self._pending:
                self._broadcast(method, params)
        elif method != _CANCELLED:
            self._broadcast(method, params)

    def _only_caller(self) -> Caller | None:
        callers = (pending.caller for pending in reversed(self._pending.values()))
        return only_caller(callers, self._echoes)

    def _take_question(self, request: jsonrpc.Request) -> None:
        question = _Question(self, request)
        self._asked += 1
        if request.method == "ping":
            question.answer({})
            return
        if request.method not in mcp.ASKED_CAPABILITY:
            question.answer(None, refusal(jsonrpc.METHOD_NOT_FOUND, "Method not found"))
            return
        caller = self._only_caller()
        if caller is None or self._asked > _MAX_QUESTIONS:
            # Asked of the wrong one, it could tell one agent what another one does.
            words = "Several callers have requests in flight: it is not known whom to ask"
            question.answer(None, refusal(jsonrpc.INTERNAL_ERROR, words))
        elif not caller.ask(question):
            question.answer(None, refusal(jsonrpc.METHOD_NOT_FOUND, "The caller cannot be asked"))


def _guess_id(line: bytes) -> str | None:
    """Tell which request a line seems to answer that is no proper answer."""
    if len(line) > _MOST_RUBBISH:
        match = _ID.search(line[:_END_BYTES]) or _ID.search(line[-_END_BYTES:])
        return None if match is None else match[1].decode("ascii")
    try:
        # Reads what stricter readers refuse, such as NaN, just to learn the id.
        value = cast("Json", json.loads(line))
    except (ValueError, RecursionError):
        return None
    request_id = value.get("id") if isinstance(value, dict) and "method" not in value else None
    return request_id if isinstance(request_id, str) else None
