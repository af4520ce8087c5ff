"""The client's requests, each until it is answered or cannot be."""

from typing import Final, final

import anyio

from orchestrator.errors import (
    CallCancelledError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.shim.exchange import Call, Exchanger, Outcome
from orchestrator.shim.session import Session
from orchestrator.shim.way import Way

# Together with what is posted beside requests, less than the gateway takes of one token at a time.
_CALLS_AT_ONCE: Final = 40
# Answered quickly, so they must not wait behind calls that last.
_OTHERS_AT_ONCE: Final = 12
_CALL: Final = "tools/call"
_NOT_FOUND: Final = 404


@final
class Caller:
    """Makes requests, again where that can do no harm and helps."""

    def __init__(
        self, way: Way, headers: HeaderWriter, session: Session, exchanger: Exchanger
    ) -> None:
        """Prepare.

        Args:
            way: Leads to the gateway.
            headers: Writes headers; learns from answers.
            session: The client's session; learns from answers.
            exchanger: Makes one try.
        """
        self._way = way
        self._headers = headers
        self._session = session
        self._exchanger = exchanger
        self._calls = anyio.Semaphore(_CALLS_AT_ONCE)
        self._others = anyio.Semaphore(_OTHERS_AT_ONCE)

    async def ask(self, call: Call) -> bytes:
        """Get the answer to a request, as a line.

        Raises:
            AgentsError: There is none.
        """
        async with self._calls if call.request.method == _CALL else self._others:
            outcome = await self._ask(call)
        if outcome.value is None:
            raise UpstreamProtocolError(f"the gateway answered with HTTP status {outcome.status}")
        return outcome.line

    async def _ask(self, call: Call) -> Outcome:
        request = call.request
        outcome = await self._ask_in_session(call)
        if outcome.error_code == mcp.HEADER_MISMATCH and request.method == _CALL:
            # Nothing was done. The tool wants arguments in headers, which only its schema tells.
            await self._look_up_tools(request.params)
            outcome = await self._deliver(call)
        if (result := outcome.result) is not None:
            if request.method == "tools/list":
                self._headers.learn_tools(result)
            if not call.is_modern:
                self._session.learn(request, result, outcome.session)
        return outcome

    async def _ask_in_session(self, call: Call) -> Outcome:
        session = self._headers.session
        outcome = await self._deliver(call)
        if outcome.status != _NOT_FOUND or call.is_modern:
            return outcome
        # Before anything was done: the gateway lost its key, or the role was made anew.
        if await self._session.open_again(session):
            outcome = await self._deliver(call)
        return outcome

    async def _look_up_tools(self, params: JsonObject) -> None:
        meta = params.get("_meta")
        envelope = {} if not isinstance(meta, dict) else meta
        own = {key: value for key, value in envelope.items() if key != mcp.PROGRESS_TOKEN_KEY}
        request = jsonrpc.Request("agents-connect-tools", "tools/list", {"_meta": own})
        body = jsonrpc.encode(jsonrpc.request_body(request.id, request.method, request.params))
        _ = await self._ask(Call(request, body, has_room=True))

    async def _deliver(self, call: Call) -> Outcome:
        request = call.request

        async def once() -> Outcome:
            if call.is_cancelled:
                raise CallCancelledError("the request was cancelled")
            call.is_sent = True
            try:
                headers = self._headers.write(request.method, request.params)
                return await self._exchanger.ask(headers, call)
            except TargetUnavailableError:
                call.is_sent = False
                raise

        # As the gateway itself: nothing but a call does anything.
        return await self._way.deliver(once, may_repeat=request.method != _CALL)
