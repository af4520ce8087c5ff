"""Many requests in flight to one server over Streamable HTTP.

Each request is a POST of its own, so that what a server says or asks on the way belongs to that
request without any doubt. A legacy server also has a session, which is opened here, with a stream
of its own for what belongs to no request; there the rule of the stdio servers holds: something is
given to a caller only when everything in flight is one session's.

Nothing of a caller's own HTTP goes along: no token, no cookie, no session id. Redirects are not
followed, and a server's cookies are not kept.

Source: MCP 2026-07-28 and 2025-11-25, Streamable HTTP; Basic, cancellation and progress.
"""

from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, final

import anyio
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    AgentsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.gateway.upstream.attribution import Echoes, only_caller, refusal
from orchestrator.gateway.upstream.base import Broadcast, Caller, Outgoing, Wait
from orchestrator.gateway.upstream.http_exchange import Call, Note, Owner, Said
from orchestrator.gateway.upstream.http_session import POSTED, LegacySession
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.snapshot import Era
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.headers import write_parameters, write_standard
from orchestrator.runtimes import http1
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http1 import HttpClient

_MAX_QUESTIONS: Final = 64
_MAX_HEADS: Final = 1_024

_LISTEN: Final = "subscriptions/listen"
_PROGRESS: Final = "notifications/progress"
_CANCELLED: Final = "notifications/cancelled"
_OF_A_CALL: Final = frozenset({"notifications/message", "notifications/elicitation/complete"})
# These concern everybody, on whichever stream they come.
_OF_ALL: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)


@final
class _Question:
    """A request of the server, answered at most once, and in its own session."""

    __slots__ = ("_session", "_upstream", "id", "method", "params")

    def __init__(self, upstream: "HttpUpstream", session: bytes, request: jsonrpc.Request) -> None:
        self._upstream: HttpUpstream | None = upstream
        self._session = session
        self.id = request.id
        self.method = request.method
        self.params = request.params

    def answer(self, result: JsonObject | None, error: JsonObject | None = None) -> None:
        """Answer it, with one of the two."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.answer(self.id, self._session, result, error)


@final
class HttpUpstream(Owner):
    """All requests to one server process."""

    def __init__(  # noqa: PLR0913, PLR0917 - each is a thing of its own
        self,
        address: str,
        era: Era,
        protocol_version: str,
        client_info: JsonObject,
        capabilities: JsonObject,
        boot: str,
        clock: Clock,
        broadcast: Broadcast,
        pid: int = 0,
    ) -> None:
        """Take the address; nothing moves before `run`.

        Args:
            address: Where the server listens, as `runtimes.address` writes it.
            era: The era that it is spoken to in.
            protocol_version: The revision agreed with it.
            client_info: What the gateway says of itself.
            capabilities: What a legacy server is told that it may ask.
            boot: A text that no other run of the gateway uses.
            clock: Tells when something was heard.
            broadcast: Hears what the server says to nobody in particular.
            pid: The server's process, whose group has to hold the port; 0 if it is not known.

        Raises:
            TargetUnavailableError: The address is none.
        """
        self._address = Address.parse(address)
        self._client = HttpClient(self._address, clock.monotonic, pid)
        self._version = protocol_version
        self._boot = boot
        self._clock = clock
        self._broadcast = broadcast
        self._count = 0
        self._calls: dict[str, Call] = {}
        # Requests that last as long as somebody listens; they say nothing about the server's life.
        self._listens: dict[str, Call] = {}
        self._echoes = Echoes(clock)
        self._asked = 0
        self._gone: AgentsError | None = None
        # Heads of modern requests, written once, by method and name.
        self._heads: dict[tuple[str, Json], bytes] = {}
        self._session: LegacySession | None = None
        if era == "legacy":
            opening: JsonObject = {
                "protocolVersion": protocol_version,
                "capabilities": capabilities,
                "clientInfo": client_info,
            }
            self._session = LegacySession(self._address, self._client, opening)

    @property
    def heard(self) -> float:
        """Monotonic seconds at which something last came from the process."""
        return self._client.heard

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._calls)

    @property
    def oldest_call(self) -> float | None:
        """Monotonic seconds at which the oldest of these was made."""
        return next((call.sent_at for call in self._calls.values()), None)

    async def run(self) -> None:
        """Carry messages until cancelled.

        Raises:
            AgentsError: A legacy server opens no session.
        """
        failure: AgentsError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._client.run)
            if self._session is None:
                await anyio.sleep_forever()
                return
            try:
                await self._session.run(self, self._boot)
            except AgentsError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def move(self, error: AgentsError) -> None:
        """End those open requests with an error that may be made again elsewhere."""
        for call in self._calls.values():
            if call.caller is not None and call.caller.may_move and not call.future.done():
                call.future.set_exception(error)

    def fail(self, error: AgentsError) -> None:
        """End every open request, and every one to come, with an error."""
        if self._gone is None:
            self._gone = error
        calls = [*self._calls.values(), *self._listens.values()]
        self._calls, self._listens = {}, {}
        for call in calls:
            call.give_up()
            if not call.future.done():
                call.future.set_exception(error)

    def close(self) -> None:
        """Let go of the server."""
        self.fail(TargetLostError("The connection to the instance was closed"))
        if self._session is not None:
            self._session.end()
        self._client.close()

    def request(self, out: Outgoing, wait: Wait) -> Coroutine[None, None, jsonrpc.Response]:
        """Ask at once, and wait for the answer; whoever stops waiting has the server told.

        Returns:
            The answer, which has to be awaited; it keeps nothing of `out.params` alive.

        Raises:
            TargetUnavailableError: Nothing was sent.
            TargetLostError: The process ended, and may have done what it was asked.
            UpstreamProtocolError: Its answer is none.
        """
        if self._gone is not None:
            raise TargetUnavailableError("The instance is gone") from self._gone
        self._count += 1
        identity = f"{self._boot}-{self._count}"
        call = Call(self, identity, out, self._clock.monotonic())
        try:
            body = jsonrpc.encode(jsonrpc.request_body(identity, out.method, out.params))
            if self._session is None:
                call.request = http1.with_body(self._head_of(out), body)
                self._client.send(call)
            else:
                call.request = body
                self._session.send(call)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError("The message cannot be written") from error
        if out.method == _LISTEN:
            self._listens[identity] = call
        else:
            self._calls[identity] = call
        return self._await_answer(call, wait)

    async def _await_answer(self, call: Call, wait: Wait) -> jsonrpc.Response:
        try:
            return await wait(call.future)
        finally:
            if self.forget(call.id):
                self._abandon(call)

    def _abandon(self, call: Call) -> None:
        """Have the server told that nobody waits any more."""
        was_sent = call.carrier is not None or call.stream is not None
        _ = call.future.cancel()
        if self._session is None or not was_sent:
            call.give_up()  # to a modern server the closed connection says it
            return
        self._echoes.expect(call.id, call.caller)
        params: JsonObject = {"requestId": call.id, "reason": "nobody waits for it any more"}
        body = jsonrpc.notification_body(_CANCELLED, params)
        self._session.post(body, call.session, after=call)

    def notify(self, method: str, params: JsonObject) -> None:
        """Send a notification, if it can be sent."""
        body = jsonrpc.notification_body(method, params)
        if self._session is not None:
            self._session.post(body, self._session.id)
            return
        with suppress(TargetUnavailableError, ValueError, RecursionError):
            head = self._head_of(Outgoing(method, params))
            self._client.send(Note(http1.with_body(head, jsonrpc.encode(body))))

    def answer(
        self,
        request_id: jsonrpc.RequestId,
        session: bytes,
        result: JsonObject | None,
        error: JsonObject | None,
    ) -> None:
        """Answer a question of the server in the session in which it was asked."""
        self._asked -= 1
        body: JsonObject = {"jsonrpc": "2.0", "id": request_id}
        if error is not None:
            body["error"] = error
        else:
            body["result"] = result or {}
        if self._session is not None:
            self._session.post(body, session)

    def _head_of(self, out: Outgoing) -> bytes:
        """Give the head of a modern request; those that come again and again are kept."""
        parameter = mcp.NAME_PARAMETER.get(out.method)
        key = (out.method, None if parameter is None else out.params.get(parameter))
        kept = None if out.headers else self._heads.get(key)
        if kept is not None:
            return kept
        standard = write_standard(self._version, out.method, out.params)
        repeated = write_parameters(out.headers, out.params.get("arguments"))
        head = http1.head("POST", self._address, (*POSTED, *standard, *repeated))
        if not out.headers:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    # What calls and the session tell.

    @override
    def forget(self, identity: str, /) -> bool:
        found = self._calls.pop(identity, None) or self._listens.pop(identity, None)
        return found is not None

    @override
    def resume(self, call: Call, last_id: bytes, seconds: float, /) -> bool:
        return self._session is not None and self._session.resume(call, last_id, seconds)

    @override
    def lose_session(self, call: Call, /) -> None:
        if self._session is not None:
            self._session.lose(call)

    @override
    def hear(self, said: Said, call: Call | None, /) -> None:
        if isinstance(said, jsonrpc.Request):
            if self._session is not None:
                self._take_question(self._session, said, call)
            return
        method, params = said.method, said.params
        if method == _PROGRESS:
            self._take_progress(params, call)
        elif method == _CANCELLED:
            pass  # of a question; its answer will find nobody
        elif call is not None and call.method == _LISTEN and call.caller is None:
            self._broadcast(method, params)  # what the gateway itself listens for
        elif call is not None and (method not in _OF_ALL or call.method == _LISTEN):
            if call.caller is not None:
                call.caller.tell(method, params)
        elif method in _OF_A_CALL and self._calls:
            caller = self._only_caller()
            if caller is not None:
                caller.tell(method, params)
        else:
            self._broadcast(method, params)

    def _take_progress(self, params: JsonObject, call: Call | None) -> None:
        token = params.get(mcp.PROGRESS_TOKEN_KEY)
        if call is None and isinstance(token, str):
            call = self._calls.get(token)
        if call is None or call.id != token or call.caller is None or call.token is None:
            return
        call.caller.tell(_PROGRESS, {**params, mcp.PROGRESS_TOKEN_KEY: call.token})

    def _take_question(
        self, session: LegacySession, request: jsonrpc.Request, call: Call | None
    ) -> None:
        question = _Question(self, session.id if call is None else call.session, request)
        self._asked += 1
        caller = self._only_caller() if call is None else call.caller
        if request.method == "ping":
            question.answer({})
        elif request.method not in mcp.ASKED_CAPABILITY:
            question.answer(None, refusal(jsonrpc.METHOD_NOT_FOUND, "Method not found"))
        elif self._asked > _MAX_QUESTIONS or (caller is None and call is None):
            question.answer(None, refusal(jsonrpc.INTERNAL_ERROR, "It is not known whom to ask"))
        elif caller is None or not caller.ask(question):
            question.answer(None, refusal(jsonrpc.METHOD_NOT_FOUND, "The caller cannot be asked"))

    def _only_caller(self) -> Caller | None:
        callers = (call.caller for call in reversed(self._calls.values()))
        return only_caller(callers, self._echoes)
