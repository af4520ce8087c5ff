"""How often, how many at once, and with which arguments: what comes to an instance at all.

It stands behind the look-up of the tool, as its limits are an agent's and a tool's, and before
everything that is dear.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.errors import BusyError, RuleError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.model.base import JsonObject, format_duration
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.secret_formats import OVERLAP_BYTES, PIECE_BYTES
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.policy.gate import Gate, Where
from orchestrator.policy.rates import Buckets
from orchestrator.protocol import jsonrpc, mcp

# Bring what a caller wrote; a list's cursor is what its server gave out.
_WRITTEN: Final = frozenset({"resources/read", "prompts/get", "completion/complete"})
# What an instance answers, beside tools; the gateway answers the rest itself.
_OTHERS: Final = _WRITTEN | {"resources/list", "resources/templates/list", "prompts/list"}
_LATE: Final = "Too many calls are under way, and no place became free in {}; nothing was done"
_FULL: Final = "Too many calls are under way and waiting; nothing was done"
_RETRY_MS: Final = 1_000


@final
class Meter:
    """What is counted of one role, while its policy may change.

    Attributes:
        policy: The policy that its limits are from.
        buckets: Its rates.
        gate: Its places.
    """

    def __init__(self, policy: CompiledPolicy) -> None:
        """Begin with nothing counted."""
        self.policy = policy
        self.buckets = Buckets()
        self.gate = Gate(policy.policy.limits)

    def follow(self, policy: CompiledPolicy) -> None:
        """Go by another policy."""
        if policy is not self.policy:
            self.policy = policy
            self.gate.set_limits(policy.policy.limits)


@final
class Throttle:
    """Decides by the role's limits and rules; waits for a place where there may be one soon."""

    def __init__(
        self,
        policy_of: Callable[[Exchange], CompiledPolicy | None],
        clock: Clock,
        hang_up_patience: float,
    ) -> None:
        """Set what decides.

        Args:
            policy_of: Tells the policy that a request was allowed by; None if it has none.
            clock: Where time comes from.
            hang_up_patience: Seconds before it is looked whether a waiting caller is still there.
        """
        self._policy_of = policy_of
        self._clock = clock
        self._patience = hang_up_patience
        self._meters: dict[RoleName, Meter] = {}

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let a request through that the role's limits and rules allow.

        Raises:
            RuleError: They do not.
        """
        policy = self._policy_of(exchange)
        if policy is None or (exchange.call is None and exchange.method not in _OTHERS):
            return then(exchange)
        try:
            if policy.has_rates:
                self._charge(exchange, policy)
            rest = _check(exchange, policy)
        except RuleError as error:
            exchange.rule = error.rule
            raise
        if rest is None and not policy.has_places:
            return then(exchange)
        return self._wait_and_go_on(exchange, policy, rest, then)

    async def _wait_and_go_on(
        self, exchange: Exchange, policy: CompiledPolicy, rest: bytes | None, then: Handler
    ) -> Reply:
        try:
            if rest is not None:
                await _check_long(exchange, policy, rest)
                rest = None  # the call may take long behind this filter
            if policy.has_places:
                await self._enter(exchange, policy)
        except RuleError as error:
            exchange.rule = error.rule
            raise
        return await then(exchange)

    def _meter(self, exchange: Exchange, policy: CompiledPolicy) -> Meter:
        meter = self._meters.get(exchange.role)
        if meter is None:
            meter = self._meters[exchange.role] = Meter(policy)
        meter.follow(policy)
        return meter

    def _charge(self, exchange: Exchange, policy: CompiledPolicy) -> None:
        buckets = self._meter(exchange, policy).buckets
        policy.charge(buckets, _agent(exchange), _tool(exchange), self._clock.monotonic())

    async def _enter(self, exchange: Exchange, policy: CompiledPolicy) -> None:
        """Take a place until the reply has been sent.

        Raises:
            BusyError: There is none, and none became free in time.
        """
        gate = self._meter(exchange, policy).gate
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = gate.enter(_agent(exchange), _tool(exchange) or "", partial(_wake, moved))
        exchange.finally_do(partial(gate.leave, ticket))
        if ticket.where is Where.WAITING:
            try:
                await self._wait(exchange, policy.policy.limits.queue_patience, moved)
            except BaseException:
                gate.leave(ticket)
                raise
        if ticket.where is not Where.INSIDE:
            raise BusyError(_FULL, rule="limits.queue", retry_after_ms=_RETRY_MS)

    async def _wait(
        self, exchange: Exchange, patience: timedelta, moved: "asyncio.Future[None]"
    ) -> None:
        loop = asyncio.get_running_loop()
        late = BusyError(
            _LATE.format(format_duration(patience)),
            rule="limits.queue_patience",
            retry_after_ms=_RETRY_MS,
        )
        timer = loop.call_later(patience.total_seconds(), _fail, moved, late)
        if exchange.era == "modern":
            # In the legacy era a hang-up is no cancel.
            exchange.watch_at = loop.time() + self._patience
        try:
            await exchange.wait(moved)
        finally:
            timer.cancel()


def _check(exchange: Exchange, policy: CompiledPolicy) -> bytes | None:
    """Decide by the rules, and by what is sent as far as that is quickly done.

    Returns:
        What is sent, if it is still to be looked at.
    """
    call = exchange.call
    if call is not None:
        encoded = jsonrpc.encode(call.arguments) if call.arguments else b""
        if beside := _beside(exchange):
            encoded += jsonrpc.encode(beside)
        is_long = len(encoded) > PIECE_BYTES
        policy.check(ToolName(call.name), call.arguments, b"" if is_long else encoded)
        return encoded if is_long else None
    if exchange.method not in _WRITTEN:
        return None
    known = mcp.KNOWN_PARAMETERS[exchange.method]
    told: JsonObject = {key: value for key, value in exchange.params.items() if key in known}
    encoded = jsonrpc.encode({**told, **_beside(exchange)})
    if len(encoded) > PIECE_BYTES:
        return encoded
    policy.check_secrets(encoded)
    return None


def _beside(exchange: Exchange) -> JsonObject:
    """Tell what a caller wrote beside the parameters, and the instance gets."""
    found: JsonObject = {}
    meta = exchange.params.get("_meta")
    if isinstance(meta, dict) and not mcp.REPLACED_META.issuperset(meta):
        found = {key: value for key, value in meta.items() if key not in mcp.REPLACED_META}
    if (answers := exchange.params.get("inputResponses")) is not None:
        found["inputResponses"] = answers
    return found


async def _check_long(exchange: Exchange, policy: CompiledPolicy, encoded: bytes) -> None:
    """Look for secrets in megabytes, a third of a second's work, while others get their turns."""
    for start in range(0, len(encoded), PIECE_BYTES):
        policy.check_secrets(encoded[start : start + PIECE_BYTES + OVERLAP_BYTES])
        await asyncio.sleep(0)
    exchange.require_whole()


def _agent(exchange: Exchange) -> str:
    return "" if exchange.principal is None else exchange.principal.agent


def _tool(exchange: Exchange) -> ToolName | None:
    return None if exchange.call is None else ToolName(exchange.call.name)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: BusyError) -> None:
    if not future.done():
        future.set_exception(error)
