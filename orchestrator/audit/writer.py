"""Numbers lines, chains them and signs some; daily files."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final, final

from orchestrator.audit.chain import (
    CHECKPOINT_LINES,
    HEAD,
    NOTHING,
    PUBLIC,
    Head,
    beside_key,
    digest,
    read_head,
    sign,
    write_head,
)
from orchestrator.audit.keys import PublicKey, load_signer, read_key_file, write_keys
from orchestrator.audit.reader import newest_first, parse
from orchestrator.audit.record import FORMAT, Fields, seal, write_time
from orchestrator.clock import Clock
from orchestrator.errors import SettingsError, StateCorruptError, StateUnwritableError
from orchestrator.files import write_atomically
from orchestrator.journal import Journal, segments

SEGMENT_BYTES: Final = 64 * 1024 * 1024
# Enough for the outcomes of some thousand calls that were under way when the disk became full.
RESERVE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _End:
    """Where an earlier run left the record.

    Attributes:
        seq: Number of the last line that has one.
        hash: Of the last line, whatever it is.
        day: Ordinal of its day, 0 if it tells none.
        is_chained: Whether it is a part of the chain.
    """

    seq: int = 0
    hash: str = NOTHING
    day: int = 0
    is_chained: bool = True


@final
class Writer:
    """The one writer of the lines. Belongs to one event loop.

    Attributes:
        journal: Where they go.
        seq: Number of the last one.
        signed: Number of the last one that is signed.
        found: What was found at opening, for the first line of this run.
    """

    def __init__(self, directory: Path, key: Path, clock: Clock) -> None:
        """Go on where an earlier run ended; blocks.

        Args:
            directory: Where the record lies.
            key: The key that signs it; made if there is none.
            clock: Where time comes from.

        Raises:
            StateCorruptError: No line of the record can be read, or the key is none.
            StateUnwritableError: The disk has no room.
            SettingsError: The directory cannot be used.
        """
        self._directory = directory
        self._clock = clock
        self._signer = load_signer(key)
        self._kept_head, self._kept_keys = beside_key(key)
        self.journal = Journal(directory, reserve_bytes=RESERVE_BYTES)
        try:
            keys = self._publish()
            end = _find_end(directory)
            self.found: Fields = {"pid": os.getpid(), "torn_bytes": self.journal.torn_bytes}
            if missed := _missed(directory, self._kept_head, keys, end):
                self.found["expected"] = missed
            if not end.is_chained:
                self.found["unchained"] = end.seq
                self.journal.turn()
        except BaseException:
            self.journal.close()
            raise
        self.seq, self._prev, self._day = end.seq, end.hash, end.day
        self.signed = self.seq
        self._head: Head | None = None

    def write(self, fields: Fields, *, is_urgent: bool = False, is_signed: bool = False) -> None:
        """Write one line.

        Args:
            fields: What it tells.
            is_urgent: Whether the reserve of the disk may be used for it.
            is_signed: Whether it is signed itself.

        Raises:
            StateUnwritableError: It could not be written, and nothing of it is there.
        """
        now = self._clock.now()
        if now.toordinal() != self._day or self.journal.size > SEGMENT_BYTES:
            self._turn(now)
        self._append(fields, now, self._sign if is_signed else seal, is_urgent=is_urgent)
        if self.seq - self.signed >= CHECKPOINT_LINES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Sign everything so far, if that is not done yet; on a full disk later."""
        if self.seq == self.signed:
            return
        with suppress(StateUnwritableError):  # the next line tries again
            now = self._clock.now()
            self._append({"event": "checkpoint"}, now, self._sign, is_urgent=True)
            self.signed = self.seq
            self._head = Head(self.seq, self._prev, write_time(now))

    @property
    def new_head(self) -> Head | None:
        """Tell the newest checkpoint if its head is not kept yet.

        Keep it when the line is on disk and not before: a head whose line a power failure took
        looks like a record that somebody cut.
        """
        return self._head

    def keep_head(self, head: Head) -> None:
        """Keep the head; blocks.

        Raises:
            OSError: It cannot be written.
        """
        write_head(self._directory / HEAD, head, self._signer)
        write_head(self._kept_head, head, self._signer)
        if self._head == head:
            self._head = None

    def settle(self) -> None:
        """Put everything on disk, and keep the head; blocks.

        Raises:
            StateUnwritableError: That cannot be done now.
        """
        self.journal.sync()
        if self._head is not None:
            try:
                self.keep_head(self._head)
            except OSError as error:
                raise StateUnwritableError(
                    f"{self._directory} cannot be written: {error.strerror}"
                ) from error

    def close(self) -> None:
        """Sign everything, and let go of it; blocks."""
        self.checkpoint()
        with suppress(StateUnwritableError):  # an earlier head is there
            self.settle()
        self.journal.close()

    def _append(
        self, fields: Fields, now: datetime, make: Callable[[Fields], bytes], *, is_urgent: bool
    ) -> None:
        fields["prev"] = self._prev
        fields["seq"] = self.seq + 1
        # orjson writes a time in a fifth of the time, but leaves a fraction of zero out.
        fields["time"] = now if now.microsecond else write_time(now)
        fields["v"] = FORMAT
        line = make(fields)
        self.journal.append(line, is_urgent=is_urgent)
        self.seq += 1
        self._prev = digest(line)

    def _sign(self, fields: Fields) -> bytes:
        return sign(fields, self._signer)

    def _turn(self, now: datetime) -> None:
        """Begin the file of a new day, or one more of the same."""
        if self._day:
            self.checkpoint()
            with suppress(StateUnwritableError):  # the old one goes on, and the next line tries
                self.journal.turn()
        self._day = now.toordinal()

    def _publish(self) -> dict[str, PublicKey]:
        """Keep the public key beside the lines, with those of earlier keys.

        Which these are is known beside the key alone: whoever can write the lines adds none.
        """
        path, own = self._directory / PUBLIC, self._signer.public
        known = _read_keys(self._kept_keys)
        # An older version kept them beside the lines only.
        keys = {**((known if known is not None else _read_keys(path)) or {})}
        keys.setdefault(own.id, own)
        for one, found in ((self._kept_keys, known), (path, _read_keys(path))):
            if found is not None and list(found) == list(keys):
                continue
            try:
                write_atomically(one, write_keys(keys.values()))
            except OSError as error:
                raise StateUnwritableError(
                    f"{one} cannot be written: {error.strerror}", hint="Make room on the disk."
                ) from error
        return keys


def _read_keys(path: Path) -> dict[str, PublicKey] | None:
    """Read public keys; None where there is no file of them, or it is spoilt."""
    if path.exists():
        with suppress(SettingsError):
            return read_key_file(path)
    return None


def _find_end(directory: Path) -> _End:
    last: str | None = None
    for line in newest_first(directory):
        last = digest(line) if last is None else last
        told = parse(line)
        seq = None if told is None else told.get("seq")
        if told is None or not isinstance(seq, int):
            continue
        day = 0
        with suppress(ValueError):
            day = date.fromisoformat(str(told.get("time"))[:10]).toordinal()
        return _End(seq, last, day, is_chained=told.get("v") != 1)
    if any(path.stat().st_size for path in segments(directory)):
        raise StateCorruptError(
            f"{directory} holds a record that cannot be read",
            hint="Keep it for whoever looks into it: move it away, then `agents up`.",
        )
    return _End()


def _missed(directory: Path, kept: Path, keys: dict[str, PublicKey], end: _End) -> str:
    """Tell the head that an earlier run signed, if the record does not hold it any more."""
    head, is_signed = read_head(directory / HEAD, keys)
    if head is None and end.seq and end.is_chained:
        return "none"
    if head is not None and not (is_signed and _holds(directory, head, end)):
        return str(head)
    other, is_signed = read_head(kept, keys)
    if other is None or not is_signed or _holds(directory, other, end):
        return ""
    return str(other)


def _holds(directory: Path, head: Head, end: _End) -> bool:
    """Tell whether a record has this line, or has removed it because of its age."""
    if head.seq > end.seq:
        return False
    for line in newest_first(directory):
        told = parse(line)
        seq = None if told is None else told.get("seq")
        if seq == head.seq:
            return digest(line) == head.hash
        if isinstance(seq, int) and seq < head.seq:
            return False
    return True
