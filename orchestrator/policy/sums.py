"""Rolling sums of what arguments say, and their bounds, over an injected time.

Times are rounded up to a thousandth of the longest window, so that a sum of any length is kept in
bounded room: an amount counts a little longer than it has to, and never shorter.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final, TypeAlias, final

from orchestrator.model.amount import EXACT, parse_amount
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.rules import Sum

_MILLISECOND: Final = timedelta(milliseconds=1)
_SLOTS: Final = 1000
_ZERO: Final = Decimal(0)

# What is added up: an argument of a tool of a role.
Account: TypeAlias = tuple[RoleName, ToolName, str]
# Every bound of a tool, with what a call would add to it.
Needs: TypeAlias = "Sequence[tuple[Bound, Decimal]]"


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on one account.

    Attributes:
        rule: Its name, as in the role file.
        argument: The argument, with dots.
        window: The time over which it is added up.
        max: The largest sum.
    """

    rule: str
    argument: str
    window: timedelta
    max: Decimal


@dataclass(frozen=True, slots=True)
class Entry:
    """An amount that counts.

    Attributes:
        account: Where it counts.
        at_ms: When it began to count, rounded up.
        until_ms: When the longest window of its account lets go of it.
        amount: The amount.
    """

    account: Account
    at_ms: int
    until_ms: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Excess:
    """What a call would be too much for.

    Attributes:
        bound: The bound.
        left: What is left of it now.
        wait_ms: When there would be room for the call; None for never.
    """

    bound: Bound
    left: Decimal
    wait_ms: int | None


def bounds_of(sums: Sequence[Sum]) -> dict[ToolName, tuple[Bound, ...]]:
    """Tell the bounds of each tool."""
    bounds: dict[ToolName, tuple[Bound, ...]] = {}
    for index, one in enumerate(sums):
        bound = Bound(f"sums[{index}]", one.argument, one.window, one.max)
        bounds[one.tool] = (*bounds.get(one.tool, ()), bound)
    return bounds


def read_amount(arguments: JsonObject, argument: str) -> Decimal:
    """Read what a call is about.

    Raises:
        ValueError: There is no such argument, or it is no amount; in words for a model.
    """
    value: Json = arguments
    for name in argument.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    try:
        return parse_amount(value)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must be given, as a plain decimal such as 5 or 0.25"
        ) from error


@final
class Ledger:
    """All that counts, of all roles."""

    def __init__(self) -> None:
        """Begin with nothing."""
        # By account and the time at which it counts from: what, and until when.
        self._accounts: dict[Account, dict[int, tuple[Decimal, int]]] = {}

    def reserve(
        self, role: RoleName, tool: ToolName, needs: Needs, now_ms: int
    ) -> tuple[Entry, ...] | Excess:
        """Count a call, or tell what it would be too much for; then nothing is counted.

        Args:
            role: Whose.
            tool: What it calls.
            needs: Every bound of the tool, with what the call would add to it.
            now_ms: The time.
        """
        for bound, amount in needs:
            excess = self._excess((role, tool, bound.argument), bound, amount, now_ms)
            if excess is not None:
                return excess
        self.forget(role, tool, now_ms)
        entries: list[Entry] = []
        for argument in dict.fromkeys(bound.argument for bound, _ in needs):
            own = [need for need in needs if need[0].argument == argument]
            longest = max(bound.window for bound, _ in own) // _MILLISECOND
            step = max(1, longest // _SLOTS)
            at_ms = -(-now_ms // step) * step
            entry = Entry((role, tool, argument), at_ms, at_ms + longest, own[0][1])
            self.add(entry)
            entries.append(entry)
        return tuple(entries)

    def _excess(
        self, account: Account, bound: Bound, amount: Decimal, now_ms: int
    ) -> Excess | None:
        slots = self._accounts.get(account, {})
        begin_ms = now_ms - bound.window // _MILLISECOND
        counted = sorted((at_ms, slot[0]) for at_ms, slot in slots.items() if at_ms > begin_ms)
        total = _add_up(amount for _, amount in counted)
        over = EXACT.subtract(EXACT.add(total, amount), bound.max)
        if over <= _ZERO:
            return None
        left = max(_ZERO, EXACT.subtract(bound.max, total))
        wait_ms: int | None = None
        for at_ms, freed in counted if amount <= bound.max else ():
            wait_ms = at_ms - begin_ms
            over = EXACT.subtract(over, freed)
            if over <= _ZERO:
                break
        return Excess(bound, left, wait_ms)

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        slots = self._accounts.setdefault(entry.account, {})
        amount, until_ms = slots.get(entry.at_ms, (_ZERO, 0))
        slots[entry.at_ms] = (EXACT.add(amount, entry.amount), max(until_ms, entry.until_ms))

    def give_back(self, entry: Entry) -> None:
        """Count an entry no longer, as what it was for was surely not done."""
        slots = self._accounts.get(entry.account, {})
        amount, until_ms = slots.get(entry.at_ms, (_ZERO, 0))
        if amount >= entry.amount:
            slots[entry.at_ms] = (EXACT.subtract(amount, entry.amount), until_ms)

    def forget(self, role: RoleName, tool: ToolName, now_ms: int) -> None:
        """Let go of what no window of a tool reaches any more."""
        for account in [each for each in self._accounts if each[:2] == (role, tool)]:
            slots = self._accounts[account]
            self._accounts[account] = {
                at_ms: slot for at_ms, slot in slots.items() if slot[1] > now_ms
            }

    def entries(self) -> Iterator[Entry]:
        """Tell all that counts, in as few entries as possible."""
        for account, slots in self._accounts.items():
            for at_ms, (amount, until_ms) in slots.items():
                yield Entry(account, at_ms, until_ms, amount)


def _add_up(amounts: Iterable[Decimal]) -> Decimal:
    total = _ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
