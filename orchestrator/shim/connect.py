"""An MCP server on stdin and stdout that is a role's instance behind the gateway.

What the client writes goes to the gateway as it is, byte for byte; only headers are added. The
gateway keeps no state of its clients, so nothing has to be opened again when it was restarted.
"""

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from orchestrator.errors import (
    AgentsError,
    MalformedMessageError,
    ProtocolError,
    TargetLostError,
    TargetUnavailableError,
    TokenError,
    UnreadableMessageError,
    UpstreamProtocolError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.header_writer import HeaderWriter, modern_version
from orchestrator.protocol.sse import EventStream
from orchestrator.shim.lines import read_lines, write_line
from orchestrator.shim.post import Answer, Endpoint, post

STDIN: Final = 0
STDOUT: Final = 1

# How long a message waits for a gateway that is being restarted.
_PATIENCE_SECONDS: Final = 6.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 0.5
# How long answers are waited for when the client has closed our input; clients give us two seconds.
_GRACE_SECONDS: Final = 1.0
_WAITING_LINES: Final = 64

_OPENING: Final = frozenset({"initialize", "server/discover"})
# Nothing happens by these, so they may be sent again when nobody knows whether they arrived.
_REPEATABLE: Final = frozenset({*_OPENING, "ping", "tools/list"})
_UNAUTHORIZED: Final = 401

# Own codes, as the gateway uses them.
_UPSTREAM: Final = -31001
_AUTH: Final = -31003

Exchange: TypeAlias = Callable[[Endpoint, str], Awaitable["_Outcome"]]


@dataclass(slots=True)
class _Call:
    """A request of the client that has no answer yet."""

    request: jsonrpc.Request
    body: bytes
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def is_modern(self) -> bool:
        return modern_version(self.request.params) is not None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How one exchange with the gateway ended.

    Attributes:
        status: The HTTP status.
        session: The session's id, if one was given.
        value: The answer; None where none is owed.
        line: The answer as it came.
    """

    status: int
    session: str | None = None
    value: JsonObject | None = None
    line: bytes = b""

    @property
    def error_code(self) -> Json:
        error = None if self.value is None else self.value.get("error")
        return error.get("code") if isinstance(error, dict) else None


@final
class _Patience:
    """How long one message waits for a gateway that went away; the first look is at once."""

    def __init__(self) -> None:
        self._until = anyio.current_time() + _PATIENCE_SECONDS
        self._pause = 0.0

    async def lasts(self, *, is_short: bool) -> bool:
        """Wait until the next look is due; False when there will be none."""
        if self._pause and (is_short or anyio.current_time() > self._until):
            return False
        await anyio.sleep(self._pause)
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        return True


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
        self._endpoint = endpoint
        self._find = find
        self._token = token
        self._is_gone = False
        self._headers = HeaderWriter()
        self._open: dict[jsonrpc.RequestId, _Call] = {}
        self._opened = anyio.Event()
        self._opened.set()
        self._output, self._lines = anyio.create_memory_object_stream[bytes](_WAITING_LINES)

    async def run(self) -> None:
        """Serve until the client closes our input or goes away, or a signal ends us."""
        async with anyio.create_task_group() as group:
            group.start_soon(_end_by_signal, group.cancel_scope)
            group.start_soon(_write_all, self._lines, group.cancel_scope)
            async with self._output, anyio.create_task_group() as calls:
                async for line in read_lines(STDIN):
                    if line.strip():
                        await self._take(line, calls)
                calls.cancel_scope.deadline = anyio.current_time() + _GRACE_SECONDS
            # The writer ends this when the last line is out.
            group.cancel_scope.deadline = anyio.current_time() + _GRACE_SECONDS

    async def _take(self, line: bytes, calls: TaskGroup) -> None:
        value: Json = None
        try:
            value = jsonrpc.decode(line)
            message = jsonrpc.parse(value)
        except UnreadableMessageError as error:
            await self._refuse(None, jsonrpc.PARSE_ERROR, error)
            return
        except MalformedMessageError as error:
            found = value.get("id") if isinstance(value, dict) and "method" in value else None
            request_id = found if isinstance(found, str | int) else None
            await self._refuse(request_id, jsonrpc.INVALID_REQUEST, error)
            return
        match message:
            case jsonrpc.Request():
                call = self._open[message.id] = _Call(message, line)
                if message.method == "initialize":
                    self._opened = anyio.Event()
                calls.start_soon(self._serve, call)
            case jsonrpc.Notification(method="notifications/cancelled", params=params):
                self._cancel(params, line, calls)
            case jsonrpc.Notification(method, params):
                calls.start_soon(self._tell, method, params, line)
            case jsonrpc.Response():
                nothing: JsonObject = {}
                calls.start_soon(self._tell, None, nothing, line)

    def _cancel(self, params: JsonObject, line: bytes, calls: TaskGroup) -> None:
        request_id = params.get("requestId")
        call = self._open.get(request_id) if isinstance(request_id, str | int) else None
        if call is None or call.request.method in _OPENING:
            return
        if call.is_modern:
            call.scope.cancel()  # hanging up is the cancel
            return

        async def tell_then_hang_up() -> None:
            await self._tell("notifications/cancelled", params, line)
            call.scope.cancel()

        calls.start_soon(tell_then_hang_up)

    async def _serve(self, call: _Call) -> None:
        """Answer one request, whatever happens."""
        request = call.request
        try:
            with call.scope:
                if not call.is_modern and request.method != "initialize":
                    await self._opened.wait()
                line = await self._ask(call)
                await self._output.send(line)
        except TokenError as error:
            await self._refuse(request.id, _AUTH, error)
        except ProtocolError as error:
            await self._refuse(request.id, jsonrpc.INVALID_PARAMS, error)
        except AgentsError as error:
            await self._refuse(request.id, _UPSTREAM, error)
        except Exception as error:  # noqa: BLE001  a client must not wait for ever, nor others end
            await self._refuse(
                request.id,
                jsonrpc.INTERNAL_ERROR,
                AgentsError(f"`agents connect` failed unexpectedly: {type(error).__name__}"),
            )
        finally:
            if request.method == "initialize":
                self._opened.set()
            if self._open.get(request.id) is call:
                del self._open[request.id]

    async def _ask(self, call: _Call) -> bytes:
        """Get the answer to a request, as a line."""
        request = call.request
        outcome = await self._exchange(call)
        if outcome.error_code == mcp.HEADER_MISMATCH and request.method == "tools/call":
            # Nothing was done. The tool wants arguments in headers, which only its schema tells.
            await self._look_up_tools(request.params)
            outcome = await self._exchange(call)
        if outcome.value is None:
            raise UpstreamProtocolError(f"the gateway answered with HTTP status {outcome.status}")
        if isinstance(result := outcome.value.get("result"), dict):
            if request.method == "initialize":
                self._headers.learn_opening(result, outcome.session)
            elif request.method == "tools/list":
                self._headers.learn_tools(result)
        return outcome.line

    async def _look_up_tools(self, params: JsonObject) -> None:
        meta = params.get("_meta")
        envelope = {} if not isinstance(meta, dict) else meta
        own = {key: value for key, value in envelope.items() if key != mcp.PROGRESS_TOKEN_KEY}
        request = jsonrpc.Request("agents-connect-tools", "tools/list", {"_meta": own})
        body = jsonrpc.encode(jsonrpc.request_body(request.id, request.method, request.params))
        _ = await self._ask(_Call(request, body))

    async def _tell(self, method: str | None, params: JsonObject, line: bytes) -> None:
        """Pass on what is owed no answer; there is nobody to tell that it failed."""

        async def once(endpoint: Endpoint, token: str) -> _Outcome:
            headers = [*self._headers.write(method, params), ("authorization", f"Bearer {token}")]
            async with post(endpoint, headers, line) as answer:
                return _Outcome(answer.status)

        try:
            await self._opened.wait()
            _ = await self._authorized(once)
        except (AgentsError, OSError, ValueError):
            return

    async def _exchange(self, call: _Call) -> _Outcome:
        """Send a request, again if the gateway went away and that can do no harm."""
        patience = _Patience()

        async def once(endpoint: Endpoint, token: str) -> _Outcome:
            headers = [
                *self._headers.write(call.request.method, call.request.params),
                ("authorization", f"Bearer {token}"),
            ]
            async with post(endpoint, headers, call.body) as answer:
                return await self._read(call.request, answer)

        while True:
            try:
                outcome = await self._authorized(once)
            except (TargetUnavailableError, TargetLostError) as error:
                if isinstance(error, TargetLostError) and call.request.method not in _REPEATABLE:
                    raise TargetLostError(
                        f"{error}; the outcome is unknown",
                        hint="Find out whether the call took effect before you make it again.",
                    ) from error
                await self._find_again(error, patience)
            else:
                self._is_gone = False
                return outcome

    async def _authorized(self, once: Exchange) -> _Outcome:
        """Make one exchange; a second one if the token was replaced meanwhile."""
        if self._endpoint is None:
            raise TargetUnavailableError("the gateway does not listen yet")
        token = self._token()
        outcome = await once(self._endpoint, token)
        if outcome.status == _UNAUTHORIZED:
            newer = self._token()
            if newer != token:
                outcome = await once(self._endpoint, newer)
        return outcome

    async def _find_again(self, error: AgentsError, patience: _Patience) -> None:
        """Find the gateway, which may have another port now.

        Once it stayed away for the whole time, later messages do not wait: they fail at once
        until it is back.

        Args:
            error: Why it is looked for.
            patience: What is left of the message's.

        Raises:
            AgentsError: It is not found; nothing was sent.
        """
        # Nothing goes to the old address any more: somebody else may listen there by now.
        self._endpoint = None
        while True:
            if not await patience.lasts(is_short=self._is_gone):
                self._is_gone = True
                raise error
            try:
                self._endpoint = await anyio.to_thread.run_sync(self._find, abandon_on_cancel=True)
            except AgentsError as failure:
                error = failure
            else:
                return

    async def _read(self, request: jsonrpc.Request, answer: Answer) -> _Outcome:
        session = answer.headers.get("mcp-session-id")
        media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media == "application/json":
            body = await answer.body()
            value, line = _answer_to(request, body)
            return _Outcome(answer.status, session, value, line)
        if media != "text/event-stream":
            return _Outcome(answer.status)
        events = EventStream()
        async for piece in answer.pieces():
            for data in events.feed(piece):
                message = jsonrpc.decode(data)
                if isinstance(message, dict) and "method" in message:
                    await self._output.send(_one_line(data))
                    continue
                value, line = _answer_to(request, data)
                return _Outcome(answer.status, session, value, line)
        raise TargetLostError("the gateway's answer ended early")

    async def _refuse(
        self, request_id: jsonrpc.RequestId | None, code: int, error: AgentsError
    ) -> None:
        category = {_AUTH: "auth", _UPSTREAM: "upstream"}.get(code, "validation")
        data: JsonObject = {"category": category, "code": error.code, "message": str(error)}
        message = str(error)
        if error.hint:
            data["requiredAction"] = error.hint
            message = f"{message}. {error.hint}"
        body = jsonrpc.error_body(request_id, code, message, data)
        await self._output.send(jsonrpc.encode(body))


def _answer_to(request: jsonrpc.Request, body: bytes) -> tuple[JsonObject | None, bytes]:
    """Read an answer to a request: what it says, and the line for the client.

    Errors that the gateway gives before it has read the id get the request's.
    """
    try:
        value = jsonrpc.decode(body)
        if isinstance(value, dict) and value.get("id") is None:
            value = {**value, "id": request.id}
            body = jsonrpc.encode(value)
        message = jsonrpc.parse(value)
    except ProtocolError as error:
        raise UpstreamProtocolError("the gateway's answer is no JSON-RPC message") from error
    if not isinstance(message, jsonrpc.Response) or message.id != request.id:
        raise UpstreamProtocolError("the gateway's answer belongs to another request")
    return (value if isinstance(value, dict) else None), _one_line(body)


def _one_line(body: bytes) -> bytes:
    """Put a JSON text on one line: inside of its texts there is no bare line's end."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ")


async def _write_all(
    lines: MemoryObjectReceiveStream[bytes], everything: anyio.CancelScope
) -> None:
    """Write lines until there will be no more, or nobody reads them; then end everything."""
    async with lines:
        try:
            async for line in lines:
                await write_line(STDOUT, line)
        except OSError:
            pass
    everything.cancel()


async def _end_by_signal(everything: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            everything.cancel()
            return
