"""The writer of the record. There is one: it numbers the lines, and nothing else writes them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import anyio
import anyio.to_thread

from orchestrator.audit.record import CallRecord, Fields, write_time
from orchestrator.audit.retire import find_old, remove
from orchestrator.audit.sieve import Sieve
from orchestrator.audit.writer import Writer
from orchestrator.clock import Clock
from orchestrator.errors import RecordUnavailableError, StateUnwritableError
from orchestrator.model.audit import Audit
from orchestrator.model.notes import NoteFields

# Like refusals a second that are written; the rest is counted.
MOST_ALIKE: Final = 10
# A power failure takes no more than this of what need not be durable.
KEEP_SECONDS: Final = 1.0
# What is new is signed after so long at the latest.
CHECKPOINT_SECONDS: Final = 60.0
# How often it is looked for files that are too old.
RETIRE_SECONDS: Final = 3600.0
# What strangers can bring about as often as they like, by the console's port or a link's address.
_BY_ANYBODY: Final = frozenset(
    {
        "approval.refused",
        "approver.refused",
        "console.form_refused",
        "console.login_refused",
        "console.login_replayed",
        "console.request_refused",
    }
)
# What the writer says itself of each line.
_OWN: Final = frozenset({"event", "key", "prev", "seq", "signature", "time", "v"})


@final
class AuditLog:
    """Writes the record. Belongs to one event loop.

    While it cannot write, it refuses; it tries again with every request.

    Attributes:
        trouble: Why it cannot be written, empty if it can.
        behind: Tells which sinks have not read a line yet, by its number.
    """

    def __init__(
        self,
        directory: Path,
        key: Path,
        clock: Clock,
        version: str,
        rule: Callable[[], Audit] = Audit,
    ) -> None:
        """Open the record, or begin one; blocks.

        Args:
            directory: Where it lies.
            key: The key that signs it; made if there is none.
            clock: Where time comes from.
            version: Version of the program, told in the first line of each run.
            rule: Tells how long lines are kept, and what is done while none can be written.

        Raises:
            StateCorruptError: There is a record, and no line of it can be read; or there is a key,
                and it is none.
            SettingsError: The directory cannot be used.
        """
        self._directory = directory
        self._key = key
        self._clock = clock
        self._version = version
        self._rule = rule
        self.trouble = ""
        self.behind: Callable[[int], Sequence[str]] = lambda _: ()
        self._writer: Writer | None = None
        self._is_begun = False
        self._is_closed = False
        self._sign_at = self._retire_at = 0.0
        # Requests that have no line, since the first of them.
        self._unrecorded = 0
        self._unrecorded_since = ""
        self._sieve: Sieve[CallRecord] = Sieve(MOST_ALIKE)
        self._beside: Sieve[str] = Sieve(MOST_ALIKE)
        # On a full disk `admit` tries again, and lets nothing in until then.
        with suppress(StateUnwritableError):
            self._open().settle()

    @property
    def seq(self) -> int:
        """Number of the last line, 0 while there is none."""
        return 0 if self._writer is None else self._writer.seq

    @property
    def reads_on(self) -> bool:
        """Whether requests that only read go on while none can be recorded."""
        return self._rule().when_full == "read-on"

    def admit(self) -> None:
        """Refuse a request whose end could not be recorded.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        try:
            writer = self._writer if self._is_begun else None
            if writer is None:
                writer = self._open()
            writer.journal.admit()
            if self._unrecorded:
                self._tell_gap(writer)
        except StateUnwritableError as error:
            self.miss()
            self.trouble = str(error)
            raise RecordUnavailableError(str(error), hint=error.hint) from error

    def intend(self, entry: CallRecord) -> "asyncio.Future[None]":
        """Write that a call is about to be made.

        Returns:
            A future that is done when the line is on disk, and fails with `StateUnwritableError`.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        return self._write(entry.fields()).journal.durable()

    def note(self, event: str, fields: NoteFields) -> None:
        """Write what happened beside calls; of like refusals in a flood only their number.

        Raises:
            RecordUnavailableError: The record cannot be written.
            ValueError: A field has a name that the writer gives itself.
        """
        if not _OWN.isdisjoint(fields):
            raise ValueError("the record gives these names itself")
        if event in _BY_ANYBODY:
            now, likeness = self._clock.monotonic(), (event, fields.get("code"), fields.get("why"))
            if self._writer is not None:
                self._tell_omitted(self._writer, now)
            if not self._beside.passes(likeness, event, now):
                return
        told: Fields = {**fields, "event": event}
        _ = self._write(told)

    async def note_durably(self, event: str, fields: NoteFields) -> None:
        """Write what happened beside calls; it is on disk when this returns.

        Raises:
            RecordUnavailableError: The record cannot be written.
            ValueError: A field has a name that the writer gives itself.
        """
        self.note(event, fields)
        try:
            await self._open().journal.durable()
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error

    def _write(self, fields: Fields) -> Writer:
        try:
            writer = self._open()
            writer.write(fields)
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error
        return writer

    def record(self, entry: CallRecord) -> None:
        """Write how a request went; it survives the end of this process when this returns.

        Raises:
            RecordUnavailableError: The record cannot be written.
        """
        try:
            writer = self._writer if self._is_begun else None
            if writer is None:
                writer = self._open()
            if entry.event == "decision":
                now = self._clock.monotonic()
                self._tell_omitted(writer, now)
                if not self._sieve.passes(entry.likeness(), entry, now):
                    return
            writer.write(entry.fields(), is_urgent=True)
        except StateUnwritableError as error:
            self.miss()
            self.trouble = str(error)
            raise RecordUnavailableError(str(error), hint=error.hint) from error

    async def keep(self) -> None:
        """Put on disk every second what nobody waits for, and tell what was left out."""
        while True:
            await anyio.sleep(KEEP_SECONDS)
            # The next request hears of it; the head is tried again with the next checkpoint.
            with suppress(StateUnwritableError, OSError):
                writer = self._open()
                now = self._clock.monotonic()
                self._tell_omitted(writer, now)
                if now >= self._sign_at:
                    writer.checkpoint()
                    self._sign_at = now + CHECKPOINT_SECONDS
                head = writer.new_head
                await writer.journal.durable()
                if head is not None:
                    await anyio.to_thread.run_sync(writer.keep_head, head)
                if now >= self._retire_at:
                    self._retire_at = now + RETIRE_SECONDS
                    await self._retire(writer)

    async def _retire(self, writer: Writer) -> None:
        """Remove files that are too old, when it is on disk that they are removed."""
        keep = self._rule().keep
        if keep is None:
            return
        limit = write_time(self._clock.now() - keep)
        old = await anyio.to_thread.run_sync(find_old, self._directory, limit)
        for one in old:
            stone = one.tombstone(f"older than {keep}")
            if unsent := self.behind(one.last):
                stone["unsent"] = ", ".join(unsent)
            writer.write(stone, is_signed=True)
        if old:
            await writer.journal.durable()
            await anyio.to_thread.run_sync(remove, old)

    def close(self) -> None:
        """Write that the record ends here, and let go of it; blocks."""
        if self._writer is None or self._is_closed:
            return
        self._tell_omitted(self._writer, float("inf"))
        with suppress(StateUnwritableError):  # it shows by the missing line
            self._writer.write({"event": "stop"}, is_urgent=True)
        self._is_closed = True
        self._writer.close()

    def _open(self) -> Writer:
        """Open the record where an earlier run ended, and tell that this one begins."""
        if self._is_closed:
            raise StateUnwritableError(f"{self._directory} is closed", hint="The daemon ends.")
        if self._writer is None:
            self._writer = Writer(self._directory, self._key, self._clock)
        if not self._is_begun:
            self._writer.write({**self._writer.found, "event": "start", "version": self._version})
            self._is_begun = True
            self._writer.checkpoint()
            self._sign_at = self._clock.monotonic() + CHECKPOINT_SECONDS
        return self._writer

    def _tell_omitted(self, writer: Writer, now: float) -> None:
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
            self._write_omitted(writer, fields, count)
        for count, event in self._beside.turn(now):
            self._write_omitted(writer, {"code": event, "count": count, "event": "omitted"}, count)

    def _write_omitted(self, writer: Writer, fields: Fields, count: int) -> None:
        try:
            writer.write(fields, is_urgent=True)
        except StateUnwritableError:
            self.miss(count)

    def _tell_gap(self, writer: Writer) -> None:
        fields: Fields = {
            "count": self._unrecorded,
            "event": "gap",
            "since": self._unrecorded_since,
        }
        writer.write(fields)
        self._unrecorded, self.trouble = 0, ""

    def miss(self, count: int = 1) -> None:
        """Count what has no line, to be told as soon as there can be one."""
        if self._unrecorded == 0:
            self._unrecorded_since = write_time(self._clock.now())
        self._unrecorded += count
