"""The end of the chain: one request to one instance, and its answer in the caller's era.

Where caller and instance speak different eras, what the server asks in the middle is put in the
caller's way: a legacy caller is asked on its stream, a modern one by its result.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, final

import orjson

from orchestrator.clock import Clock
from orchestrator.errors import (
    AgentsError,
    InvalidParamsError,
    NotRelayedError,
    StateUnknownError,
    TargetLostError,
    TargetUnavailableError,
    TokenExpiredError,
    TooManyCallsError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from orchestrator.gateway.caller import (
    LegacyCaller,
    ModernCaller,
    can_be_asked,
    is_announced,
    may_repeat,
)
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.gateway.filters.guard import require_free
from orchestrator.gateway.parking import OpenCall, Parking
from orchestrator.gateway.questions import Questions
from orchestrator.gateway.replies import status_of
from orchestrator.gateway.seal import Seal
from orchestrator.gateway.settings import Common
from orchestrator.gateway.table import Place, Table
from orchestrator.gateway.target import Target, just_wait
from orchestrator.gateway.upstream.base import Caller, Outgoing
from orchestrator.guards.index import Guards
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc, mcp

# Errors that speak of the connection between the gateway and the instance: a caller would take
# them for its own.
_OF_THIS_HOP: Final = frozenset({mcp.HEADER_MISMATCH, mcp.UNSUPPORTED_VERSION})
_STATE: Final = "state"
_ANSWERS: Final = frozenset({"inputResponses", "requestState"})
# Which workload asked a caller, and the name of what it gave the caller for that.
Promise: TypeAlias = tuple[str, str]
# How long a caller may take to answer what a server asked.
_STATE_SECONDS: Final = 3600
_MAX_ROUNDS: Final = 12
# How many used states are remembered; they last an hour.
_MOST_USED: Final = 10_000
# Smaller requests are kept until they are answered.
_SMALL_BYTES: Final = 64 * 1024
# What an earlier revision said where today's says that the parameters are wrong.
_RESOURCE_NOT_FOUND: Final = -32002


@final
class Relay:
    """Makes requests."""

    def __init__(  # noqa: PLR0913 - it brings the parts together
        self,
        common: Common,
        *,
        table: Table,
        seal: Seal,
        questions: Questions,
        parking: Parking,
        filter_result: Callable[[Exchange, JsonObject], None],
        call_seconds: float,
        patience: float,
        guards: Guards,
    ) -> None:
        """Set the bounds of a call.

        Args:
            common: The gateway.
            table: Where instances are claimed.
            seal: Seals what callers keep for servers.
            questions: What legacy callers were asked.
            parking: Calls that wait for modern callers.
            filter_result: Takes out of a result what the role must not see.
            call_seconds: Longest time that a call may take.
            patience: Seconds before it is looked whether the caller is still there.
            guards: What is held back; asked once more before something is sent.
        """
        self._info = common.info
        self._clock: Clock = common.clock
        self._table = table
        self._seal = seal
        self._questions = questions
        self._parking = parking
        self._filter_result = filter_result
        self._call_seconds = call_seconds
        self._patience = patience
        self._guards = guards
        self._envelope = mcp.envelope(common.info)
        # States of calls that change something, the oldest first.
        self._used: OrderedDict[str, None] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, exchange: Exchange, /) -> Awaitable[Reply]:
        """Make the request that the exchange was found to be.

        Raises:
            UpstreamError: There is no usable answer.
            TokenError: The caller's token ended meanwhile.
        """
        place = exchange.place
        if place is None or exchange.request_id is None:
            raise TargetUnavailableError("Nothing but requests goes to an instance")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        exchange.limit(now + self._call_seconds, _too_late)
        if exchange.era == "modern":
            # In the legacy era a hang-up is no cancel.
            exchange.watch_at = now + self._patience
        meta = mcp.parse_meta(exchange.params)
        answered: JsonObject = {}
        promise: Promise | None = None
        if exchange.era == "modern" and not _ANSWERS.isdisjoint(exchange.params):
            parked, answered, promise = self._read_answers(exchange)
            if parked is not None:
                return self._go_on(exchange, parked, meta)
            if not place.route.policy.asks:
                # Nobody was asked: it would be a way past the rules for arguments.
                _ = answered.pop("inputResponses", None)
        return self._converse(exchange, place, meta, answered, promise)

    async def _go_on(self, exchange: Exchange, call: OpenCall, meta: JsonObject) -> Reply:
        """Give a call that waited what its caller answers."""
        exchange.target = call.target
        try:
            if is_announced(exchange):
                # What was answered may be what makes the server act.
                await exchange.intend()
            self._require_valid(exchange)
        except BaseException:
            call.cancel()
            raise
        responses = exchange.params.get("inputResponses")
        if isinstance(responses, dict):
            call.answer(responses)
        return await self._attend(exchange, call, meta)

    async def _converse(
        self,
        exchange: Exchange,
        place: Place,
        meta: JsonObject,
        answered: JsonObject,
        promise: Promise | None,
    ) -> Reply:
        """Send the request until it is answered, and not only asked about or lost."""
        deadline = 0.0
        for _ in range(_MAX_ROUNDS):
            # Nothing waits on the usual way, and each wait that cannot happen costs all the same.
            target = None if promise else self._table.try_claim(exchange, place)
            if target is None:
                target = await self._claim(exchange, place, promise, deadline)
                place = exchange.place or place
            exchange.target = target
            exchange.finally_do(target.release)
            if is_announced(exchange) and not exchange.is_intended:
                await exchange.intend()
            call = self._begin(exchange, place, target, meta)
            sent = None
            try:
                if call is not None:
                    return await self._attend(exchange, call, meta)
                sent = self._send(exchange, place, meta, answered)
                response = await sent
            except (TargetLostError, TargetUnavailableError) as error:
                if call is None and sent is None and target.is_open:
                    raise  # it does not even read what it was sent before
                deadline = await self._let_go(exchange, target, error, deadline)
                continue
            exchange.let_go()
            result = response.result
            if result is None or not mcp.check_result_type(exchange.method, result):
                return self._pass_on(exchange, response)
            if exchange.era == "modern":
                return self._seal_state(exchange, place, meta, result)
            answered = await self._ask_caller(exchange, place, result)
            promise = (target.ref.workload, "")
            if not exchange.params:
                raise NotRelayedError("The tool asks its caller, which its role does not allow")
        raise NotRelayedError("The tool asks its caller again and again")

    async def _let_go(
        self,
        exchange: Exchange,
        target: Target,
        error: TargetLostError | TargetUnavailableError,
        deadline: float,
    ) -> float:
        """Let go of a target that was lost, or took no connection, if another may have the request.

        Returns:
            Until when another may be waited for; 0 if nobody has waited so far.

        Raises:
            UpstreamError: It cannot be made again; or nobody else came.
        """
        if isinstance(error, TargetLostError):
            if not may_repeat(exchange):
                raise error
            exchange.attempt += 1
            exchange.do_now(target.release)
            return deadline
        # Nothing was sent, so whoever follows may have it, whatever it does, if it is still whole.
        if exchange.message is None:
            raise error
        exchange.do_now(target.release)
        return await self._table.look_again(exchange, target, deadline)

    async def _claim(
        self, exchange: Exchange, place: Place, promise: Promise | None, deadline: float
    ) -> Target:
        if promise is None:
            return await self._table.claim(exchange, place, deadline=deadline)
        target = await self._table.claim(exchange, place, promise[0], deadline=deadline)
        target.keep_promise(promise[1])
        return target

    # One request.

    def _begin(
        self, exchange: Exchange, place: Place, target: Target, meta: JsonObject
    ) -> OpenCall | None:
        """Look for the last time whether the call may be made.

        Returns:
            The call, if it may outlive its request and so has been made already.

        Raises:
            AgentsError: Something ended the request meanwhile.
        """
        # From here to the connection nothing waits: what ended the token until now ends the call
        # unsent.
        self._require_valid(exchange)
        if exchange.nonce:
            self._use(exchange.nonce)
            exchange.nonce = ""
        if exchange.era == "legacy" or target.ref.era == "modern":
            return None
        capabilities = _capabilities(exchange, meta, place)
        if not capabilities:
            return None
        agent = "" if exchange.principal is None else exchange.principal.agent
        call = OpenCall(agent, capabilities, place.route.policy.asks)
        call.target = target
        out = self._write(exchange, place, target, meta, call)
        task = asyncio.get_running_loop().create_task(target.request(out, just_wait))
        target.claim()
        task.add_done_callback(lambda _: target.release())
        call.begin(task)
        return call

    def _require_valid(self, exchange: Exchange) -> None:
        """Stop here if the request was interrupted, is held back, or its token has ended.

        Raises:
            AgentsError: It was, it is, or it has.
        """
        exchange.require_whole()
        if not self._guards.is_idle:
            require_free(self._guards, exchange)
            self._require_no_shadow(exchange)
        principal = exchange.principal
        if principal is not None and principal.expires_at <= self._clock.now():
            raise TokenExpiredError("The token's time is over")

    def _require_no_shadow(self, exchange: Exchange) -> None:
        call, kind, now = exchange.call, exchange.kind, self._clock.now()
        if call is None or kind is None:
            return
        if self._guards.shadow(exchange.role, call.name, kind, now) is not None:
            raise TargetUnavailableError("The role works in shadow now; nothing was done")

    def _send(
        self, exchange: Exchange, place: Place, meta: JsonObject, answered: JsonObject
    ) -> Awaitable[jsonrpc.Response]:
        """Send the request, and let go of its content if it is large and not needed again."""
        target = exchange.target
        if target is None:
            raise AssertionError("sent before it was claimed")
        out = self._write(exchange, place, target, meta, self._caller(exchange, place, meta))
        if answered and target.ref.era == "modern":
            out.params.update(answered)
        answer = target.request(out, exchange.wait)
        # Where it may have to be sent once more.
        is_needed = not is_announced(exchange) or (
            exchange.session is not None
            and target.ref.era == "modern"
            and bool(place.route.policy.asks)
        )
        if exchange.held_bytes > _SMALL_BYTES and not is_needed:
            exchange.digest = exchange.digest or _digest(exchange)
            exchange.params = {}
            exchange.message = None
            exchange.held_bytes = 0
            if exchange.call is not None:
                exchange.call = mcp.ToolCall(exchange.call.name, None)
        return answer

    def _write(
        self, exchange: Exchange, place: Place, target: Target, meta: JsonObject, caller: Caller
    ) -> Outgoing:
        stamp: JsonObject = {**self._envelope, mcp.REQUEST_ID_KEY: exchange.id}
        if target.ref.era == "modern":
            if place.route.policy.asks:
                stamp[mcp.CLIENT_CAPABILITIES_KEY] = _capabilities(exchange, meta, place)
            if exchange.session is not None and "logging" in place.capabilities:
                stamp[mcp.LOG_LEVEL_KEY] = exchange.session.level or "info"
        era = target.ref.era
        params = mcp.upstream_params(exchange.method, exchange.params, meta, era, stamp)
        headers = ()
        if exchange.call is not None and (tool := place.tools.get(exchange.call.name)) is not None:
            headers = tool.headers
        return Outgoing(exchange.method, params, headers, caller)

    def _caller(self, exchange: Exchange, place: Place, meta: JsonObject) -> Caller:
        if exchange.session is None:
            return ModernCaller(exchange, meta.get(mcp.LOG_LEVEL_KEY))
        asks = place.route.policy.asks
        return LegacyCaller(exchange, exchange.session, self._questions, asks, self._guards)

    # What a server asks in the middle.

    async def _ask_caller(self, exchange: Exchange, place: Place, result: JsonObject) -> JsonObject:
        """Ask a legacy caller what a modern server wants to know.

        Returns:
            What the request has to be repeated with.
        """
        state, asked = result.get("requestState"), result.get("inputRequests")
        answers: JsonObject = {}
        for key, entry in (asked if isinstance(asked, dict) else {}).items():
            answers[key] = await self._ask_one(exchange, place, entry)
        answered: JsonObject = {"inputResponses": answers} if answers else {}
        if isinstance(state, str):
            answered["requestState"] = state
        return answered

    async def _ask_one(self, exchange: Exchange, place: Place, entry: Json) -> JsonObject:
        method = entry.get("method") if isinstance(entry, dict) else None
        params = entry.get("params", {}) if isinstance(entry, dict) else None
        session, asks = exchange.session, place.route.policy.asks
        if not isinstance(method, str) or not isinstance(params, dict):
            raise UpstreamProtocolError("The instance asks something that is no request")
        if session is None or not can_be_asked(method, session.capabilities, asks):
            raise NotRelayedError("The tool asks its caller for more than the caller can answer")
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()

        def answer(found: JsonObject | None, _: JsonObject | None) -> None:
            if future.done():
                return
            if found is None:
                future.set_exception(NotRelayedError("The caller did not answer what it was asked"))
            else:
                future.set_result(found)

        caller = LegacyCaller(exchange, session, self._questions, asks, self._guards)
        if not caller.put(method, params, answer):
            raise NotRelayedError("The caller does not read what it is asked")
        return await exchange.wait(future)

    def _seal_state(
        self, exchange: Exchange, place: Place, meta: JsonObject, result: JsonObject
    ) -> Reply:
        """Bind what the server wants back to this caller and this request."""
        asked, capabilities = result.get("inputRequests"), _capabilities(exchange, meta, place)
        for entry in asked.values() if isinstance(asked, dict) else ():
            method = entry.get("method") if isinstance(entry, dict) else None
            if not isinstance(method, str) or mcp.ASKED_CAPABILITY.get(method) not in capabilities:
                raise NotRelayedError("The tool asks its caller for more than it may")
        state = result.get("requestState")
        if state is not None:
            nonce, target = secrets.token_hex(8), exchange.target
            facts = self._facts(exchange) | {"s": state, "n": nonce}
            if target is not None:
                # Servers seal what they give for themselves alone, as a rule.
                facts["w"] = target.ref.workload
                target.promise(nonce)
            result["requestState"] = self._seal.close(_STATE, facts)
        return self._reply(exchange, result)

    def _facts(self, exchange: Exchange) -> JsonObject:
        return {
            "r": exchange.role,
            "a": "" if exchange.principal is None else exchange.principal.agent,
            "d": self._digest_of(exchange),
            "t": int(self._clock.now().timestamp()) + _STATE_SECONDS,
        }

    def _digest_of(self, exchange: Exchange) -> str:
        exchange.digest = exchange.digest or _digest(exchange)
        return exchange.digest

    def _require_unused(self, nonce: str) -> None:
        if nonce in self._used:
            raise StateUnknownError("Invalid params: `requestState` was used")

    def _use(self, nonce: str) -> None:
        """Let a state's call go on: what changes something does so once an answer.

        Raises:
            StateUnknownError: It went on already.
        """
        self._require_unused(nonce)
        self._used[nonce] = None
        if len(self._used) > _MOST_USED:
            _ = self._used.popitem(last=False)

    def _open_state(self, exchange: Exchange, text: Json) -> JsonObject:
        """Open what a caller kept for its server.

        Raises:
            StateUnknownError: It was not given to this caller for this request, or was used.
        """
        opened = self._seal.open(_STATE, text) if isinstance(text, str) else None
        facts = self._facts(exchange)
        if not isinstance(opened, dict) or any(opened.get(key) != facts[key] for key in "rad"):
            raise StateUnknownError("Invalid params: unknown `requestState`")
        until = opened.get("t")
        if not isinstance(until, int) or until < self._clock.now().timestamp():
            raise StateUnknownError("Invalid params: `requestState` is too old")
        nonce = opened.get("n")
        if isinstance(nonce, str) and exchange.kind in {"WRITE", "DESTRUCTIVE"}:
            exchange.nonce = nonce
            self._require_unused(nonce)
        return opened

    def _read_answers(
        self, exchange: Exchange
    ) -> tuple[OpenCall | None, JsonObject, Promise | None]:
        """Read what a modern caller answers to a server.

        Returns:
            The call that waits for it; what the server has to be given, in its own words; and who
            waits for that.

        Raises:
            StateUnknownError: The state was not given to this caller for this request.
        """
        params = exchange.params
        answered: JsonObject = {}
        responses = params.get("inputResponses")
        if responses is not None:
            if not isinstance(responses, dict):
                raise InvalidParamsError("Invalid params: `inputResponses` must be an object")
            answered["inputResponses"] = responses
        text = params.get("requestState")
        if text is None:
            return None, answered, None
        opened = self._open_state(exchange, text)
        name = opened.get("p")
        if isinstance(name, str):
            call = self._parking.take(name, str(opened["a"]))
            if call is None:
                raise StateUnknownError("Invalid params: `requestState` was used, or is too old")
            return call, {}, None
        match opened:
            case {"w": str(workload), "n": str(nonce)}:
                promise = (workload, nonce)
            case _:
                promise = None
        return None, answered | {"requestState": opened.get("s")}, promise

    async def _attend(self, exchange: Exchange, call: OpenCall, meta: JsonObject) -> Reply:
        """Wait for a call's answer or its next question."""
        call.caller = ModernCaller(exchange, meta.get(mcp.LOG_LEVEL_KEY))
        call.token = meta.get(mcp.PROGRESS_TOKEN_KEY)
        try:
            while True:
                response = call.response()
                if response is not None:
                    return self._adapt(exchange, response)
                asked = call.input_requests()
                if asked:
                    facts = self._facts(exchange) | {"p": call.name}
                    if not self._parking.put(call):
                        raise TooManyCallsError("Too many calls wait for their callers")
                    state = self._seal.close(_STATE, facts)
                    result: JsonObject = {
                        "resultType": "input_required",
                        "inputRequests": asked,
                        "requestState": state,
                    }
                    return self._reply(exchange, result)
                await exchange.wait(call.news())
        except (AgentsError, asyncio.CancelledError):
            call.cancel()
            raise
        finally:
            call.caller = None

    # The answer.

    def _adapt(self, exchange: Exchange, response: jsonrpc.Response) -> Reply:
        result = response.result
        if result is not None and mcp.check_result_type(exchange.method, result):
            raise UpstreamProtocolError("A legacy instance answered in the modern way")
        return self._pass_on(exchange, response)

    def _pass_on(self, exchange: Exchange, response: jsonrpc.Response) -> Reply:
        if response.error is not None:
            return _relay_error(exchange, response.error)
        result = {} if response.result is None else response.result
        if exchange.method != "tools/call":
            self._filter_result(exchange, result)
        return self._reply(exchange, result)

    def _reply(self, exchange: Exchange, result: JsonObject) -> Reply:
        if exchange.request_id is None:
            raise AssertionError("only requests get here")
        result = mcp.result_for(exchange.era, exchange.method, result, self._info)
        category = "tool_error" if result.get("isError") is True else "ok"
        try:
            body = jsonrpc.encode(jsonrpc.result_body(exchange.request_id, result))
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError("The answer cannot be written as JSON") from error
        return Reply(200, body, category)


def _capabilities(exchange: Exchange, meta: JsonObject, place: Place) -> JsonObject:
    """Tell what the caller can be asked, of what its role's server may ask at all."""
    asks = place.route.policy.asks
    if not asks:
        return {}
    session = exchange.session
    declared = meta.get(mcp.CLIENT_CAPABILITIES_KEY) if session is None else session.capabilities
    return mcp.cut_capabilities(declared, asks)


def _too_late() -> AgentsError:
    return UpstreamTimeoutError("The instance did not answer in time")


def _digest(exchange: Exchange) -> str:
    """Name a request by its method and its parameters."""
    known = mcp.KNOWN_PARAMETERS.get(exchange.method, ())
    content: JsonObject = {key: exchange.params.get(key) for key in known}
    try:
        text = orjson.dumps([exchange.method, content], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Integers beyond 64 bits; a caller repeats its request as it was, order included.
        text = jsonrpc.encode([exchange.method, content])
    return hashlib.sha256(text).hexdigest()


def _relay_error(exchange: Exchange, error: JsonObject) -> Reply:
    """Pass on an error as the server made it: code, message and data."""
    code = error["code"]
    if not isinstance(code, int) or code in _OF_THIS_HOP:
        raise UpstreamProtocolError("The instance refused the gateway's own words")
    if exchange.era == "modern" and code == mcp.URL_ELICITATION_REQUIRED:
        raise NotRelayedError("The tool asks its caller for more, which is not available here")
    if exchange.era == "modern" and code == _RESOURCE_NOT_FOUND:
        code = jsonrpc.INVALID_PARAMS
        error = error | {"code": code}
    if exchange.era == "legacy" and code == mcp.MISSING_CAPABILITY:
        raise NotRelayedError("The tool asks its caller for more than the caller can answer")
    body: JsonObject = {"jsonrpc": "2.0", "id": exchange.request_id, "error": error}
    return Reply(status_of(exchange, code), jsonrpc.encode(body), "rpc_error")
