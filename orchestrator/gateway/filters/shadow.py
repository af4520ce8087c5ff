"""Calls that are recorded and not made: an operator looks at what an agent would do."""

from collections.abc import Awaitable, Sequence
from typing import Final, final

from orchestrator.approvals.draft import LONGEST_ARGUMENTS
from orchestrator.approvals.receipt import divide, write_receipt
from orchestrator.audit.record import hash_arguments
from orchestrator.audit.summary import pick, summarize
from orchestrator.clock import Clock
from orchestrator.errors import RecordUnavailableError, ShadowedError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.guards.index import Guards
from orchestrator.model.base import JsonObject
from orchestrator.model.guards import OF_FILE, OF_OPERATOR
from orchestrator.model.names import ToolName
from orchestrator.model.notes import Notes

EVENT: Final = "shadow"
_SENTENCE: Final = "This role works in shadow: the call was recorded, and nothing was done"


@final
class Shadow:
    """Ends calls that fall into a shadow."""

    def __init__(self, guards: Guards, notes: Notes | None, clock: Clock) -> None:
        """Set what decides.

        Args:
            guards: What is in shadow, beside what the role's own policy says.
            notes: Where calls are told; without it they are refused.
            clock: Tells when a shadow is over.
        """
        self._guards = guards
        self._notes = notes
        self._clock = clock

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let a call through that is to be made.

        Raises:
            ShadowedError: It was recorded, and is not made.
            RecordUnavailableError: It cannot be recorded.
        """
        if exchange.call is None:
            return then(exchange)
        origin = self._origin(exchange)
        return then(exchange) if not origin else self._record(exchange, origin)

    def _origin(self, exchange: Exchange) -> str:
        """Tell who put a call into a shadow; empty if nobody did."""
        call, kind, place = exchange.call, exchange.kind, exchange.place
        if call is None or kind is None or place is None:
            return ""
        rule = place.route.policy.shadow
        if rule is None and self._guards.is_idle:
            return ""
        now = self._clock.now()
        if self._guards.shadow(exchange.role, call.name, kind, now) is not None:
            return OF_OPERATOR
        if rule is None or rule.until <= now:
            return ""
        named = kind != "READ" if rule.tools == "all-writes" else ToolName(call.name) in rule.tools
        return OF_FILE if named else ""

    async def _record(self, exchange: Exchange, origin: str) -> Reply:
        if self._notes is None:
            raise RecordUnavailableError("There is no record of calls that are not made")
        call, principal, place = exchange.call, exchange.principal, exchange.place
        if call is None or principal is None or place is None:
            raise AssertionError("authorized before")
        if not exchange.arguments_sha256:
            exchange.arguments_sha256 = hash_arguments(call.arguments)
        tool, policy = ToolName(call.name), place.route.policy
        told = {
            "role": exchange.role,
            "agent": principal.agent,
            "token": principal.token_id,
            "tool": call.name,
            "class": exchange.kind or "",
            "request": exchange.id,
            "arguments_sha256": exchange.arguments_sha256,
            "policy": exchange.policy_revision,
            "run": "" if exchange.session is None else exchange.session.key,
            "origin": origin,
            "summary": _summary(call.arguments, policy.identifies.get(tool, ())),
            "receipt": _receipt(policy.receipts.get(tool, ""), call.arguments, exchange.held_bytes),
        }
        await self._notes.tell(EVENT, {name: text for name, text in told.items() if text})
        exchange.rule = "shadow"
        raise ShadowedError(_SENTENCE)


def _summary(arguments: JsonObject | None, names: Sequence[str]) -> str:
    """Tell what may be kept of the arguments, in one line."""
    told = {**summarize(arguments), **pick(arguments, names)}
    return ", ".join(f"{name}: {text}" for name, text in told.items())


def _receipt(template: str, arguments: JsonObject | None, size: int) -> str:
    """Tell what would have happened, by nothing but the arguments that the server file names.

    Of megabytes nothing is told: to write them out would take seconds, in which all others wait.
    """
    if not template or not arguments or size > LONGEST_ARGUMENTS:
        return ""
    return write_receipt(template, divide(template, arguments)[0]).text
