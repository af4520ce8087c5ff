"""Brings the record to one sink, line after line, in a thread of its own, until it is told to stop.

A line is behind a sink when it was taken, or was refused for good and lies in the file of refused
lines. What was taken, and not noted before the process died, is brought again with the same number.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from structlog.typing import FilteringBoundLogger

from orchestrator.audit.record import write_time
from orchestrator.audit.sinks.base import Entry, Outlet, RefusedError, SinkError
from orchestrator.audit.sinks.cursor import Cursor, read_cursor
from orchestrator.audit.sinks.dead import bury
from orchestrator.audit.sinks.tail import Batch, Tail, find_place
from orchestrator.clock import Clock
from orchestrator.errors import SecretError, SettingsError
from orchestrator.files import make_private_directory

FOLDER: Final = "sinks"
_UNREADABLE: Final = "this is no line of the record"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a sink waits.

    Attributes:
        look: For more lines, in seconds; what comes meanwhile is brought at once.
        first: After a failure, in seconds; twice as long after each further one.
        longest: After a failure at most.
    """

    look: float = 1.0
    first: float = 1.0
    longest: float = 60.0

    def after(self, failures: int) -> float:
        """Tell how long to wait after so many failures in a row, spread over the upper half."""
        doubled = self.first * 2.0 ** min(failures - 1, 16)
        return min(self.longest, doubled) * random.uniform(0.5, 1)  # noqa: S311  guards nothing


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sink is.

    Attributes:
        seq: Number of the last line that is behind it; None before it began.
        error: Why the next ones are not, empty if nothing is wrong.
        refused: How many its receiver refused.
        missed: How many were gone before it could read them.
    """

    seq: int | None = None
    error: str = ""
    refused: int = 0
    missed: int = 0


@final
class Worker:
    """Brings lines to one sink.

    Attributes:
        progress: How far it is; replaced as a whole, so any thread may read it.
    """

    def __init__(  # noqa: PLR0913, PLR0917  each is a thing of its own
        self,
        name: str,
        directory: Path,
        outlet: Callable[[], Outlet],
        batch: int,
        clock: Clock,
        log: FilteringBoundLogger,
        pace: Pace,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            name: The sink's name.
            directory: Where the record lies.
            outlet: Makes the way to its place, in the thread.
            batch: How many lines are brought at once at most.
            clock: Where time comes from.
            log: Structured log; no line of the record goes into it.
            pace: How long it waits.
        """
        self.progress = Progress()
        self._directory = directory
        self._path = directory / FOLDER / f"{name}.json"
        self._dead = directory / FOLDER / f"{name}.dead.jsonl"
        self._make = outlet
        self._outlet: Outlet | None = None
        self._batch = batch
        self._clock = clock
        self._log = log.bind(sink=name)
        self._pace = pace
        self._tail: Tail | None = None
        # Of the batch that is under way: how many of its lines are behind it.
        self._done = 0
        self._refused = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end after what it is doing now; returns at once."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, for so long; blocks."""
        self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """Whether it still reads."""
        return self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        batch: Batch | None = None
        while not self._stop.is_set():
            wait = 0.0
            try:
                if batch is None:
                    batch = self._next()
                if batch is None:
                    wait = self._pace.look
                else:
                    self._bring(batch)
                    batch = None
                failures = 0
                self._tell("")
            except (SinkError, SecretError, SettingsError, OSError, ValueError) as error:
                failures += 1
                after = error.after if isinstance(error, SinkError) else 0.0
                wait = max(after, self._pace.after(failures))
                self._tell(_words(error))
            except Exception as error:  # noqa: BLE001  a sink must never end without a word
                failures += 1
                wait = self._pace.after(failures)
                self._tell(f"unexpected {type(error).__name__}")
            _ = self._stop.wait(wait)
        if self._outlet is not None:
            self._outlet.close()

    def _next(self) -> Batch | None:
        tail = self._tail or self._open()
        batch = tail.take(self._batch)
        if batch is not None:
            self._done = self._refused = 0
            if batch.missed:
                self._log.error("lines are gone before a sink read them", lines=batch.missed)
            if batch.unread:
                # Nobody has to write on to have `verify` find them; here they are kept as they are.
                self._bury([(0, line) for line in batch.unread], _UNREADABLE)
        return batch

    def _open(self) -> Tail:
        make_private_directory(self._path.parent)
        try:
            kept = read_cursor(self._path)
        except ValueError as error:
            self._log.error("a sink begins anew with the oldest line", reason=str(error))
            kept = None
        cursor, why = find_place(self._directory, kept)
        if why:
            self._log.error("a sink finds another record than it left", reason=why)
        cursor.write(self._path)
        self._tail = Tail(self._directory, cursor)
        self._show(cursor)
        return self._tail

    def _bring(self, batch: Batch) -> None:
        """Bring what is left of a batch, and note that it is done."""
        size = len(batch.entries)
        while self._done < len(batch.entries):
            entries = batch.entries[self._done : self._done + size]
            try:
                self._send(entries)
            except RefusedError as error:
                if error.is_size and len(entries) > 1:
                    size = len(entries) // 2
                    continue
                self._bury([(entry.seq, entry.line) for entry in entries], str(error))
                self._refused += len(entries)
            self._done += len(entries)
        if self._tail is None:
            raise AssertionError("a batch was read")
        refused = batch.then.refused + self._refused
        cursor = replace(batch.then, refused=refused)
        cursor.write(self._path)
        self._tail.cursor = cursor
        self._show(cursor)

    def _send(self, entries: Sequence[Entry]) -> None:
        if self._outlet is None:
            self._outlet = self._make()
        self._outlet.send(entries)

    def _bury(self, lines: Sequence[tuple[int, bytes]], reason: str) -> None:
        bury(self._dead, lines, reason, write_time(self._clock.now()))
        self._log.error("lines are refused", lines=len(lines), reason=reason, kept=self._dead.name)

    def _show(self, cursor: Cursor) -> None:
        self.progress = replace(
            self.progress, seq=cursor.seq, refused=cursor.refused, missed=cursor.missed
        )

    def _tell(self, error: str) -> None:
        before = self.progress.error
        if error == before:
            return
        self.progress = replace(self.progress, error=error)
        if error:
            self._log.warning("a sink takes nothing", reason=error)
        else:
            self._log.info("a sink takes lines again")


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the record, or how far it is read: {error.strerror or type(error).__name__}"
    if isinstance(error, SecretError):
        return f"its secret is missing: {error}"
    return str(error)
