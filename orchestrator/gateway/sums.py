"""The sums of all roles, as they survive a restart and a crash.

An amount is on disk before its call is made, and counts from then on, whatever becomes of the
call; only one that surely was not sent is given back.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import orjson

from orchestrator.clock import Clock
from orchestrator.errors import SettingsError, StateCorruptError, StateUnwritableError
from orchestrator.gateway.log import get_log
from orchestrator.journal import Journal
from orchestrator.model.amount import format_amount, parse_amount
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ToolName
from orchestrator.policy.sums import Entry, Excess, Ledger, Needs

if TYPE_CHECKING:
    import asyncio

# Lines that may be added before it is looked whether fewer would do.
_MANY_LINES: Final = 20_000


@final
class SumStore:
    """A ledger and its journal, which is opened when the first amount is counted."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Keep it here; nothing is read or made yet."""
        self._directory = directory
        self._clock = clock
        self._ledger = Ledger()
        self._journal: Journal | None = None
        self._added = 0

    def reserve(
        self, role: RoleName, tool: ToolName, needs: Needs, *, instead: tuple[Entry, ...] = ()
    ) -> "tuple[tuple[Entry, ...], asyncio.Future[None]] | Excess":
        """Count a call, or tell what it would be too much for.

        Args:
            role: Whose.
            tool: What it calls.
            needs: Every bound of the tool, with what the call would add to it.
            instead: What was counted of the same call before, and counts no longer if this does.

        Returns:
            What was counted, and when that is on disk: the call has to wait for it.

        Raises:
            StateUnwritableError: It cannot be kept; nothing was counted.
            StateCorruptError: Nobody knows what was counted before.
        """
        journal = self._journal or self._open()
        for entry in instead:
            self._ledger.give_back(entry)
        counted = self._ledger.reserve(role, tool, needs, self._now_ms())
        if isinstance(counted, Excess):
            for entry in instead:
                self._ledger.add(entry)
            return counted
        try:
            for entry in counted:
                journal.append(_write(entry, "count"))
            for entry in instead:
                journal.append(_write(entry, "back"))
        except StateUnwritableError:
            # What is in the journal of it counts after a restart, which is the safe side.
            for entry in counted:
                self._ledger.give_back(entry)
            for entry in instead:
                self._ledger.add(entry)
            raise
        self._added += len(counted) + len(instead)
        durable = journal.durable()
        if self._added > _MANY_LINES:
            self._compact(journal)
        return counted, durable

    def give_back(self, entries: Iterable[Entry]) -> None:
        """Count these no longer: their call surely was not made."""
        for entry in entries:
            self._ledger.give_back(entry)
            if self._journal is None:
                continue
            try:
                self._journal.append(_write(entry, "back"))
                self._added += 1
            except StateUnwritableError:
                _ = get_log(__name__).warning("sum_not_given_back")

    def close(self) -> None:
        """Put everything on disk as far as possible."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _open(self) -> Journal:
        try:
            journal = Journal(self._directory)
        except SettingsError as error:
            raise StateUnwritableError(str(error), hint=error.hint) from error
        try:
            lines = journal.load()
            self._ledger = _read(lines, self._now_ms())
        except (ValueError, KeyError, TypeError, OSError) as error:
            journal.close()
            raise StateCorruptError(
                f"{self._directory} cannot be read, so nobody knows what was counted",
                hint="Put its files aside to begin all sums anew.",
            ) from error
        self._journal, self._added = journal, len(lines)
        self._compact(journal)
        return journal

    def _compact(self, journal: Journal) -> None:
        """Replace the journal by what still counts, if that is much less."""
        now_ms = self._now_ms()
        kept = [
            _write(entry, "count") for entry in self._ledger.entries() if entry.until_ms > now_ms
        ]
        if self._added > 2 * len(kept) + _MANY_LINES // 10:
            try:
                journal.compact(kept)
            except StateUnwritableError:
                _ = get_log(__name__).warning("sums_not_compacted")
                return
        self._added = len(kept)


def _write(entry: Entry, kind: str) -> bytes:
    role, tool, argument = entry.account
    return orjson.dumps(
        {
            "kind": kind,
            "role": role,
            "tool": tool,
            "argument": argument,
            "amount": format_amount(entry.amount),
            "at": entry.at_ms,
            "until": entry.until_ms,
        }
    )


def _read(lines: Iterable[bytes], now_ms: int) -> Ledger:
    ledger = Ledger()
    for line in lines:
        told = cast("JsonObject", orjson.loads(line))
        account = (RoleName(str(told["role"])), ToolName(str(told["tool"])), str(told["argument"]))
        amount = parse_amount(told["amount"])
        entry = Entry(account, _whole(told["at"]), _whole(told["until"]), amount)
        if entry.until_ms <= now_ms:
            continue
        if told["kind"] == "count":
            ledger.add(entry)
        else:
            ledger.give_back(entry)
    return ledger


def _whole(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError("a time is a whole number")
    return value
