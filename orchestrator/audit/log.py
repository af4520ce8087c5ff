"""The writer of the record. There is one: it numbers the lines, and nothing else writes them."""

import asyncio
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, final

import anyio

from orchestrator.audit.reader import newest_first, parse
from orchestrator.audit.record import FORMAT, CallRecord, Fields, seal
from orchestrator.audit.sieve import Sieve
from orchestrator.clock import Clock
from orchestrator.errors import RecordUnavailableError, StateCorruptError, StateUnwritableError
from orchestrator.journal import Journal, segments

SEGMENT_BYTES: Final = 64 * 1024 * 1024
# Enough for the outcomes of some thousand calls that were under way when the disk became full.
RESERVE_BYTES: Final = 1024 * 1024
# Like refusals a second that are written; the rest is counted.
MOST_ALIKE: Final = 10
# A power failure takes no more than this of what need not be durable.
KEEP_SECONDS: Final = 1.0


@final
class AuditLog:
    """Writes the record. Belongs to one event loop.

    While it cannot write, it refuses; it tries again with every request.
    """

    def __init__(self, directory: Path, clock: Clock, version: str) -> None:
        """Open the record, or begin one; blocks.

        Args:
            directory: Where it lies.
            clock: Where time comes from.
            version: Version of the program, told in the first line of each run.

        Raises:
            StateCorruptError: There is a record, and no line of it can be read.
            SettingsError: The directory cannot be used.
        """
        self._directory = directory
        self._clock = clock
        self._version = version
        self._journal: Journal | None = None
        self._number = 0
        self._is_begun = False
        # Requests that have no line, since the first of them.
        self._unrecorded = 0
        self._unrecorded_since = ""
        self._sieve: Sieve[CallRecord] = Sieve(MOST_ALIKE)
        # On a full disk `admit` tries again, and lets nothing in until then.
        with suppress(StateUnwritableError):
            _ = self._open()

    def admit(self) -> None:
        """Refuse a request whose end could not be recorded.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        try:
            journal = self._journal if self._is_begun else None
            if journal is None:
                journal = self._open()
            journal.admit()
            if self._unrecorded:
                self._tell_gap(journal)
        except StateUnwritableError as error:
            self._miss()
            raise RecordUnavailableError(str(error), hint=error.hint) from error

    def intend(self, entry: CallRecord) -> "asyncio.Future[None]":
        """Write that a call is about to be made.

        Returns:
            A future that is done when the line is on disk, and fails with `StateUnwritableError`.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        try:
            journal = self._open()
            self._write(journal, entry.fields())
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error
        return journal.durable()

    def record(self, entry: CallRecord) -> None:
        """Write how a request went; it survives the end of this process when this returns.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        try:
            journal = self._journal if self._is_begun else None
            if journal is None:
                journal = self._open()
            if entry.event == "decision":
                now = self._clock.monotonic()
                self._tell_omitted(journal, now)
                if not self._sieve.passes(entry.likeness(), entry, now):
                    return
            self._write(journal, entry.fields(), is_urgent=True)
        except StateUnwritableError as error:
            self._miss()
            raise RecordUnavailableError(str(error), hint=error.hint) from error

    async def keep(self) -> None:
        """Put on disk every second what nobody waits for, and tell what was left out."""
        while True:
            await anyio.sleep(KEEP_SECONDS)
            with suppress(StateUnwritableError):  # the next request hears of it
                journal = self._open()
                self._tell_omitted(journal, self._clock.monotonic())
                await journal.durable()

    def close(self) -> None:
        """Write that the record ends here, and let go of it; blocks."""
        if self._journal is None:
            return
        self._tell_omitted(self._journal, float("inf"))
        with suppress(StateUnwritableError):  # it shows by the missing line
            self._write(self._journal, {"event": "stop"}, is_urgent=True)
        self._journal.close()

    def _open(self) -> Journal:
        """Open the journal where an earlier run ended, and tell that this one begins."""
        if self._journal is None:
            journal = Journal(
                self._directory, segment_bytes=SEGMENT_BYTES, reserve_bytes=RESERVE_BYTES
            )
            self._number = _last_number(self._directory)
            self._journal = journal
        if not self._is_begun:
            begin: Fields = {
                "event": "start",
                "pid": os.getpid(),
                "torn_bytes": self._journal.torn_bytes,
                "version": self._version,
            }
            self._write(self._journal, begin)
            self._is_begun = True
        return self._journal

    def _tell_omitted(self, journal: Journal, now: float) -> None:
        for count, first in self._sieve.turn(now):
            fields: Fields = {
                "code": first.code,
                "count": count,
                "event": "omitted",
                "status": first.status,
            }
            if first.agent is not None:
                fields |= {"agent": first.agent, "role": first.role}
            # What makes lines alike, and no more.
            if first.agent is not None and first.policy:
                fields["method"] = first.method
            if first.kind is not None and first.tool is not None:
                fields["tool"] = first.tool
            try:
                self._write(journal, fields, is_urgent=True)
            except StateUnwritableError:
                self._miss(count)

    def _tell_gap(self, journal: Journal) -> None:
        fields: Fields = {
            "count": self._unrecorded,
            "event": "gap",
            "since": self._unrecorded_since,
        }
        self._write(journal, fields)
        self._unrecorded = 0

    def _miss(self, count: int = 1) -> None:
        if self._unrecorded == 0:
            self._unrecorded_since = _text(self._clock.now())
        self._unrecorded += count

    def _write(self, journal: Journal, fields: Fields, *, is_urgent: bool = False) -> None:
        fields["seq"] = self._number + 1
        now = self._clock.now()
        # orjson writes a time in a fifth of the time, but leaves a fraction of zero out.
        fields["time"] = now if now.microsecond else _text(now)
        fields["v"] = FORMAT
        journal.append(seal(fields), is_urgent=is_urgent)
        self._number += 1


def _text(moment: datetime) -> str:
    """Write a time in UTC so that it sorts as text."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def _last_number(directory: Path) -> int:
    """Tell the number of the last line; 0 if there is none."""
    for line in newest_first(directory):
        value = parse(line)
        number = None if value is None else value.get("seq")
        if isinstance(number, int):
            return number
    if any(path.stat().st_size for path in segments(directory)):
        raise StateCorruptError(
            f"{directory} holds a record that cannot be read",
            hint="Keep it for whoever looks into it: move it away, then `agents up`.",
        )
    return 0
