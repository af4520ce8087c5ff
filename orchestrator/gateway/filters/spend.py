"""Counts what calls add up to; last before the instance, so that nothing counts that is refused.

What is counted is on disk before the call is made, and stays counted whatever becomes of it: only
a call that no instance took is given back.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Final, TypeAlias, cast, final

import orjson

from orchestrator.errors import (
    RecordUnavailableError,
    RuleError,
    StateError,
    StateUnwritableError,
)
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.log import get_log
from orchestrator.gateway.sums import SumStore
from orchestrator.model.base import Json
from orchestrator.model.names import RoleName, ToolName
from orchestrator.policy.decide import CompiledPolicy, exceeded
from orchestrator.policy.sums import Entry, Excess, Needs

# Rounds of calls that their callers were asked about and have not answered yet.
_MOST_ROUNDS: Final = 1_000
_MOST_ALIKE: Final = 100
_ASKED: Final = b'"input_required"'
_ANSWERS: Final = frozenset({"inputResponses", "requestState"})

# Whose call of what, with which amounts.
_Round: TypeAlias = tuple[RoleName, str, ToolName, tuple[Decimal, ...]]


@final
class Spend:
    """Reserves a call's amounts before it is made."""

    def __init__(
        self, policy_of: Callable[[Exchange], CompiledPolicy | None], store: SumStore | None
    ) -> None:
        """Set what decides.

        Args:
            policy_of: Tells the policy that a request was allowed by; None if it has none.
            store: Where sums are kept; without one, calls that count are refused.
        """
        self._policy_of = policy_of
        self._store = store
        self._rounds: OrderedDict[_Round, deque[tuple[Entry, ...]]] = OrderedDict()

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let a call through that the sums have room for.

        Raises:
            ArgumentsRefusedError: An amount is missing, or is none.
            SumExceededError: There is no room for it.
            RecordUnavailableError: Nobody can tell, or it cannot be kept.
        """
        # Nothing of the call itself stays in this frame: it may take long behind this filter.
        tool = None if exchange.call is None else ToolName(exchange.call.name)
        policy = self._policy_of(exchange)
        if tool is None or policy is None or not policy.has_sums(tool):
            return then(exchange)
        return self._reserve(exchange, tool, policy, then)

    async def _reserve(
        self, exchange: Exchange, tool: ToolName, policy: CompiledPolicy, then: Handler
    ) -> Reply:
        try:
            needs = policy.needs(tool, None if exchange.call is None else exchange.call.arguments)
            agent = "" if exchange.principal is None else exchange.principal.agent
            key = (exchange.role, agent, tool, tuple(amount for _, amount in needs))
            before = self._end_round(key) if _ANSWERS & exchange.params.keys() else ()
            entries, reply = await self._count(exchange, tool, needs, before, then)
        except RuleError as error:
            exchange.rule = error.rule
            raise
        if is_asked(reply):
            self._begin_round(key, entries)
        return reply

    async def _count(
        self,
        exchange: Exchange,
        tool: ToolName,
        needs: Needs,
        before: tuple[Entry, ...],
        then: Handler,
    ) -> tuple[tuple[Entry, ...], Reply]:
        """Make a call; what was counted of it before its caller was asked counts from now on."""
        if self._store is None:
            raise RecordUnavailableError("There is no place for sums")
        try:
            counted = self._store.reserve(exchange.role, tool, needs, instead=before)
            if isinstance(counted, Excess):
                raise exceeded(tool, counted)
            entries, durable = counted
        except StateError as error:
            raise _unrecorded(error) from error
        try:
            await exchange.wait(durable)
            return entries, await then(exchange)
        except BaseException as error:
            if exchange.target is None and not before:
                # No instance was even chosen, whatever went wrong.
                self._store.give_back(entries)
            if isinstance(error, StateUnwritableError):
                raise _unrecorded(error) from error
            raise

    def _begin_round(self, key: _Round, entries: tuple[Entry, ...]) -> None:
        """Remember a call that was counted, and goes on when its caller has answered."""
        rounds = self._rounds.setdefault(key, deque(maxlen=_MOST_ALIKE))
        rounds.append(entries)
        if len(self._rounds) > _MOST_ROUNDS:
            # It stays counted, and its call will count once more.
            _ = self._rounds.popitem(last=False)

    def _end_round(self, key: _Round) -> tuple[Entry, ...]:
        """Tell what was counted of such a call, nothing if there is none; it goes on once."""
        rounds = self._rounds.get(key)
        if rounds is None:
            return ()
        entries = rounds.popleft()
        if not rounds:
            del self._rounds[key]
        return entries


def _unrecorded(error: StateError) -> RecordUnavailableError:
    _ = get_log(__name__).error("sums_unavailable", reason=str(error))
    return RecordUnavailableError(str(error), hint=error.hint)


def is_asked(reply: Reply) -> bool:
    """Tell whether the call is not over: the caller is asked, and will repeat it."""
    if _ASKED not in reply.body:
        return False
    match cast("Json", orjson.loads(reply.body)):
        case {"result": {"resultType": "input_required"}}:
            return True
        case _:
            return False
