"""What people have to approve first: after it is allowed at all, before it takes a place.

A call without an approval ends here with an error that says what a person can do. One with an
approval goes on, and uses it up, on disk, before an instance hears of the call.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast, final

import orjson

from orchestrator.audit.record import hash_arguments
from orchestrator.errors import ApprovalError, RecordUnavailableError, StateUnknownError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.filters.spend import is_asked
from orchestrator.model.approval import Asked, Demand, Wish
from orchestrator.model.names import ToolName
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.canonical import canonical

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

# Calls that their callers were asked about in the middle and have not answered yet.
_MOST_ROUNDS: Final = 1_000
_MOST_ALIKE: Final = 100
_ANSWERS: Final = frozenset({"inputResponses", "requestState"})
# What of `_meta` a server hears of a call that was approved: it is no part of what people saw.
_META: Final = mcp.REPLACED_META | {mcp.LOG_LEVEL_KEY, "traceparent", "tracestate"}


class Pass(Protocol):
    """What lets one call through."""

    @property
    def id(self) -> str:
        """The approval's name, or the grant's."""
        ...

    async def spend(self, request_id: str) -> None:
        """Use it up: on disk when this returns, and then the call may be made.

        Raises:
            ApprovalTakenError: It is not there any more; the call must not be made.
            RecordUnavailableError: It cannot be written; the call must not be made.
        """
        ...

    def release(self) -> None:
        """Let go of it; what was not spent may let another call through."""
        ...


class Gatekeeper(Protocol):
    """Knows what was approved."""

    async def admit(self, wish: Wish) -> Pass:
        """Find what a call may be made by.

        Raises:
            ApprovalError: It may not be made (yet).
            RecordUnavailableError: Nobody knows.
        """
        ...


# A call, who makes it, and whether it goes on with what its server gave for that.
_Round: TypeAlias = tuple[Asked, str, bool]


@final
class Approve:
    """Lets calls through that people approved, where a role asks for it."""

    def __init__(
        self, policy_of: Callable[[Exchange], CompiledPolicy | None], gatekeeper: Gatekeeper | None
    ) -> None:
        """Set what decides.

        Args:
            policy_of: Tells the policy that a request was allowed by; None if it has none.
            gatekeeper: Knows what was approved; without one, calls that need it are refused.
        """
        self._policy_of = policy_of
        self._gatekeeper = gatekeeper
        # By call: the approvals of those whose server waits for an answer of the caller.
        self._rounds: OrderedDict[_Round, deque[str]] = OrderedDict()

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let a call through that needs no approval, or has one.

        Raises:
            ApprovalError: It needs one first.
            ArgumentsRefusedError: Nobody could read what would have to be approved.
            StateUnknownError: It goes on with a call that is not known.
            RecordUnavailableError: Nobody knows what was approved, or it cannot be kept.
        """
        # Nothing of the call itself stays in this frame: it may take long behind this filter.
        policy = self._policy_of(exchange)
        if policy is None or exchange.call is None:
            return then(exchange)
        demand = policy.approval.get(ToolName(exchange.call.name))
        if demand is None:
            return then(exchange)
        return self._decide(exchange, policy, demand, then)

    async def _decide(
        self, exchange: Exchange, policy: CompiledPolicy, demand: Demand, then: Handler
    ) -> Reply:
        exchange.rule = demand.rule
        asked = _asked(exchange)
        _narrow(exchange)
        if not _ANSWERS.isdisjoint(exchange.params):
            has_state = exchange.params.get("requestState") is not None
            # Without the state that it was given, it would begin anew beside the one that waits.
            key = asked, _subject(exchange), has_state
            goes_on = self._end_round(key) if exchange.era == "modern" else ""
            if goes_on:
                # Its approval was used up when it was made; this is the answer that it waits for.
                exchange.approval = goes_on
                _send_what_is_named(exchange)
                return self._note_round(asked, exchange, await then(exchange))
            if has_state:
                raise StateUnknownError(
                    "Invalid params: unknown `requestState`; this call begins anew, without it"
                )
            # Nobody was asked, and nobody saw it.
            exchange.params = {
                key: value for key, value in exchange.params.items() if key not in _ANSWERS
            }
        held = await self._admit(exchange, asked, demand, policy)
        try:
            exchange.approval = held.id
            _send_what_is_named(exchange)
            _bind(exchange, held)
            return self._note_round(asked, exchange, await then(exchange))
        finally:
            held.release()

    async def _admit(
        self, exchange: Exchange, asked: Asked, demand: Demand, policy: CompiledPolicy
    ) -> Pass:
        call, kind = exchange.call, exchange.kind
        if self._gatekeeper is None:
            raise RecordUnavailableError("There is no place for approvals")
        if call is None or kind is None:
            raise AssertionError("authorized before")
        receipt = policy.policy.receipts.get(asked.tool, "")
        arguments = call.arguments or {}
        try:
            held = await self._gatekeeper.admit(
                Wish(asked, kind, demand, arguments, receipt, exchange.id, _subject(exchange))
            )
        except ApprovalError as error:
            exchange.approval = error.approval
            raise
        try:
            # It was no wait that could be interrupted.
            exchange.require_whole()
        except BaseException:
            held.release()
            raise
        return held

    def _note_round(self, asked: Asked, exchange: Exchange, reply: Reply) -> Reply:
        """Remember a call that goes on when its caller has answered."""
        if is_asked(reply):
            key = asked, _subject(exchange), _gives_state(reply)
            rounds = self._rounds.setdefault(key, deque(maxlen=_MOST_ALIKE))
            rounds.append(exchange.approval)
            if len(self._rounds) > _MOST_ROUNDS:
                # Its next round asks for an approval of its own.
                _ = self._rounds.popitem(last=False)
        return reply

    def _end_round(self, key: _Round) -> str:
        """Tell the approval of such a call, empty if there is none; it goes on once."""
        rounds = self._rounds.get(key)
        if rounds is None:
            return ""
        name = rounds.popleft()
        if not rounds:
            del self._rounds[key]
        return name


def _gives_state(reply: Reply) -> bool:
    """Tell whether a server that asks gave its caller something to come back with."""
    result = cast("JsonObject", cast("JsonObject", orjson.loads(reply.body))["result"])
    return result.get("requestState") is not None


def _asked(exchange: Exchange) -> Asked:
    call, principal = exchange.call, exchange.principal
    if call is None or principal is None:
        raise AssertionError("authorized before")
    if not exchange.arguments_sha256:
        exchange.arguments_sha256 = hash_arguments(call.arguments)
    return Asked(
        exchange.role,
        principal.agent,
        ToolName(call.name),
        exchange.arguments_sha256,
        exchange.policy_revision,
    )


def _subject(exchange: Exchange) -> str:
    principal = exchange.principal
    return "" if principal is None or principal.proof is None else principal.proof.subject


def _narrow(exchange: Exchange) -> None:
    """Leave out what an agent could tell a server beside the arguments that people see."""
    meta = exchange.params.get("_meta")
    if isinstance(meta, dict) and not _META.issuperset(meta):
        kept = {key: value for key, value in meta.items() if key in _META}
        exchange.params = {**exchange.params, "_meta": kept}


def _send_what_is_named(exchange: Exchange) -> None:
    """Have the arguments sent as the text that their hash names.

    Several ways to write a number have one name, and a server may read each in its own way.
    """
    call = exchange.call
    if call is None or not call.arguments:
        return
    arguments = cast("JsonObject", jsonrpc.decode(canonical(call.arguments)))
    exchange.params = {**exchange.params, "arguments": arguments}
    exchange.call = mcp.ToolCall(call.name, arguments)


def _bind(exchange: Exchange, held: Pass) -> None:
    """Use an approval up when it is on disk that the call is about to be made."""
    record = exchange.announce

    async def announce(announced: Exchange) -> None:
        await record(announced)
        await held.spend(announced.id)

    exchange.announce = announce
