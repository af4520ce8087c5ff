"""Outermost: every request leaves its record, and every error becomes a reply here.

It stands around all others so that nothing ends without a record; no reply leaves before it. What
cannot be recorded is not done.
"""

import asyncio
import re
import traceback
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol, final

from typing_extensions import override

from orchestrator.audit.record import CallEvent, CallRecord, hash_arguments
from orchestrator.audit.summary import (
    NO_NAME,
    keep_name,
    name_client,
    name_resource,
    pick,
    summarize,
)
from orchestrator.clock import Clock
from orchestrator.errors import (
    AgentsError,
    CallCancelledError,
    CallDeniedError,
    OutcomeUnrecordedError,
    RecordUnavailableError,
    StateUnwritableError,
)
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.log import get_log
from orchestrator.gateway.replies import refuse, refuse_unexpected
from orchestrator.model.names import SLUG_PATTERN, RoleName, ToolName
from orchestrator.model.secret_formats import find_secret
from orchestrator.protocol import mcp
from orchestrator.protocol.mcp import ToolCall

_ROLE: Final = re.compile(SLUG_PATTERN)
_NO_ROLE: Final = RoleName(NO_NAME)
# Source: W3C Trace Context, traceparent; MCP 2026-07-28 for the same in `_meta`.
_TRACE: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
# Requests that change nothing, beside calls of READ tools.
_LOOKS: Final = frozenset(
    {
        *("initialize", "ping", "server/discover"),
        *("tools/list", "resources/list", "resources/templates/list", "prompts/list"),
        *("resources/read", "prompts/get", "completion/complete"),
    }
)
# How a request ends that an instance or the gateway has answered.
_ANSWERED: Final = frozenset({"ok", "tool_error", "rpc_error"})


class Recorder(Protocol):
    """Keeps records."""

    @property
    def reads_on(self) -> bool:
        """Whether requests that only read go on while none can be recorded."""
        ...

    def admit(self) -> None:
        """Refuse a request whose end could not be recorded.

        Raises:
            RecordUnavailableError: Nothing can be recorded.
        """
        ...

    def intend(self, entry: CallRecord) -> "asyncio.Future[None]":
        """Keep that a call is about to be made; the future is done when that is durable.

        Raises:
            RecordUnavailableError: It cannot be recorded.
        """
        ...

    def record(self, entry: CallRecord) -> None:
        """Keep how a request went; the reply leaves when this returns.

        Raises:
            RecordUnavailableError: It cannot be recorded.
        """
        ...


@final
class LogRecorder(Recorder):
    """Writes one structured log line for each record."""

    def __init__(self) -> None:
        """Take the log as it is configured when the first line is written."""
        self._log = get_log(__name__)

    @property
    @override
    def reads_on(self) -> bool:
        return False

    @override
    def admit(self) -> None:
        """Let everything in."""

    @override
    def intend(self, entry: CallRecord) -> "asyncio.Future[None]":
        self.record(entry)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    @override
    def record(self, entry: CallRecord) -> None:
        fields = entry.fields()
        _ = self._log.info(str(fields.pop("event")), **fields)


@final
class Record:
    """Records each request, and turns errors into replies."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        """Keep records with `recorder`."""
        self._recorder = recorder
        self._clock = clock
        self._is_failing = False
        self._log = get_log(__name__)

    async def __call__(self, exchange: Exchange, /, then: Handler) -> Reply:
        """Answer, whatever happens."""
        refused = self._admit(exchange)
        if refused is not None:
            return refused
        exchange.announce = self._intend
        try:
            reply = await then(exchange)
        except AgentsError as error:
            if isinstance(error, CallDeniedError) and not exchange.rule:
                exchange.rule = error.rule
            # The real code, also where the caller is told another one.
            reply = replace(refuse(exchange, error), code=error.code)
        except Exception as error:  # noqa: BLE001 - the top: told once, with an id
            # Without the error's own words: they may repeat arguments.
            _ = self._log.error(
                "unexpected_error",
                request_id=exchange.id,
                error=type(error).__name__,
                where=traceback.format_tb(error.__traceback__),
            )
            reply = refuse_unexpected(exchange)
        except asyncio.CancelledError:
            self._end(exchange, Reply(0, category="flow", code=CallCancelledError.code))
            raise
        return self._close(exchange, reply)

    def _admit(self, exchange: Exchange) -> Reply | None:
        """Refuse a request whose end could not be recorded, unless it may only read."""
        try:
            self._recorder.admit()
        except RecordUnavailableError as error:
            if not self._recorder.reads_on or exchange.head.method != "POST":
                return self._refuse_unrecorded(exchange, error)
            exchange.unrecorded = error
            self._warn(error)
            return None
        if self._is_failing:
            self._is_failing = False
            _ = self._log.info("record_available")
        return None

    def _close(self, exchange: Exchange, reply: Reply) -> Reply:
        """Record how a request went; what cannot be recorded is not told, unless it only read."""
        if exchange.unrecorded is not None:
            return reply  # it was counted when it came
        try:
            self._write(exchange, "outcome" if reply.stream is None else "stream", reply)
        except RecordUnavailableError as error:
            if self._recorder.reads_on and is_reading(exchange):
                self._warn(error)
                return reply
            return self._refuse_unrecorded(
                exchange,
                OutcomeUnrecordedError(str(error)) if exchange.is_intended else error,
            )
        if reply.stream is not None:
            exchange.finally_do(lambda: self._end(exchange, reply))
        return reply

    def _refuse_unrecorded(self, exchange: Exchange, error: AgentsError) -> Reply:
        self._warn(error)
        return refuse(exchange, error)

    def _warn(self, error: AgentsError) -> None:
        if not self._is_failing:
            self._is_failing = True
            _ = self._log.error(
                "record_unavailable", reason=str(error), reads_on=self._recorder.reads_on
            )

    async def _intend(self, exchange: Exchange) -> None:
        """Return when it is on disk that the call is about to be made."""
        done = self._recorder.intend(self._entry(exchange, "intent", None))
        try:
            await exchange.wait(done)
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error
        exchange.is_intended = True

    def _write(self, exchange: Exchange, event: CallEvent, reply: Reply) -> None:
        """Write how the request went so far.

        Raises:
            RecordUnavailableError: It cannot be recorded.
        """
        if event == "outcome" and reply.category not in _ANSWERED and exchange.target is None:
            event = "decision"
        self._recorder.record(self._entry(exchange, event, reply))

    def _end(self, exchange: Exchange, reply: Reply) -> None:
        """Write the end of what can have no other reply any more."""
        if exchange.unrecorded is not None:
            return
        try:
            exchange.require_whole()
        except AgentsError as error:
            ended = refuse(exchange, error)
            reply = Reply(reply.status, category=ended.category, code=ended.code)
        with suppress(RecordUnavailableError):  # the recorder counts it
            self._recorder.record(self._entry(exchange, "outcome", reply))

    def _entry(self, exchange: Exchange, event: CallEvent, reply: Reply | None) -> CallRecord:
        # One by one: to name all fields costs more than to write the line.
        entry = CallRecord(event, exchange.id, exchange.role)
        if exchange.place is None:
            if not _is_role(exchange.role):
                entry.role = _NO_ROLE
        else:
            entry.policy = exchange.place.policy.revision
        if exchange.principal is not None:
            entry.agent, entry.token_id = exchange.principal.agent, exchange.principal.token_id
        if exchange.session is not None:
            entry.session = entry.run = exchange.session.key
            entry.client = exchange.session.client
        elif type(meta := exchange.params.get("_meta")) is dict:
            entry.client = name_client(meta.get(mcp.CLIENT_INFO_KEY))
        entry.method = _method(exchange)
        entry.kind = exchange.kind
        if exchange.call is not None:
            _tell_call(entry, exchange, exchange.call)
        elif exchange.method == "resources/read":
            entry.resources = name_resource(exchange.params.get("uri"))
        if exchange.target is not None:
            entry.workload, entry.pid = exchange.target.ref.workload, exchange.target.ref.pid
        entry.rule, entry.attempt = exchange.rule, exchange.attempt
        entry.approval, entry.trace_id = exchange.approval, _trace_of(exchange)
        entry.run = entry.run or entry.trace_id
        if reply is not None:
            entry.category, entry.code, entry.status = reply.category, reply.code, reply.status
            entry.duration_us = round((self._clock.monotonic() - exchange.started) * 1_000_000)
        return entry


def require_record(exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
    """Let a request through whose end can be recorded, or that only reads where that is allowed.

    Raises:
        RecordUnavailableError: It is neither.
    """
    if exchange.unrecorded is not None and not is_reading(exchange):
        raise exchange.unrecorded
    return then(exchange)


def is_reading(exchange: Exchange) -> bool:
    """Whether a request changes nothing, wherever it goes."""
    if exchange.method == "tools/call":
        return exchange.kind == "READ" and not exchange.approval
    return exchange.method in _LOOKS


def _tell_call(entry: CallRecord, exchange: Exchange, call: ToolCall) -> None:
    """Tell which tool is called, and what may be kept of its arguments."""
    # A tool of the role's own, or what an agent took for one.
    entry.tool = call.name if entry.kind is not None else keep_name(call.name)
    if not exchange.arguments_sha256:
        exchange.arguments_sha256 = hash_arguments(call.arguments)
    entry.arguments_sha256 = exchange.arguments_sha256
    if entry.kind is None or exchange.place is None:
        return
    names = exchange.place.policy.policy.identifies.get(ToolName(call.name))
    if names:
        entry.resources = pick(call.arguments, names)
    entry.summary = summarize(call.arguments)


def _method(exchange: Exchange) -> str:
    if exchange.method in mcp.SERVED[exchange.era]:
        return exchange.method
    if exchange.method:
        return keep_name(exchange.method)
    return "" if exchange.head.method == "POST" else keep_name(exchange.head.method)


def _is_role(text: str) -> bool:
    return _ROLE.fullmatch(text) is not None and not find_secret(text.encode())


def _trace_of(exchange: Exchange) -> str:
    given = exchange.head.values.get(b"traceparent")
    text: object = None
    if given is not None:
        text = given.decode("latin-1")
    elif isinstance(meta := exchange.params.get("_meta"), dict):
        text = meta.get("traceparent")
    if text is None:
        return ""
    match = _TRACE.fullmatch(text) if isinstance(text, str) else None
    return "" if match is None else match[1]
