"""Finds whatever somebody did to a record: offline, with nothing but its files and a public key."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import orjson

from orchestrator.audit.chain import (
    CHECKPOINT_LINES,
    HEAD,
    NOTHING,
    Head,
    digest,
    is_signed,
    read_head,
)
from orchestrator.audit.keys import Keys
from orchestrator.audit.reader import parse
from orchestrator.journal import segments

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

MOST_FAULTS: Final = 100
# A writer that could not sign in time tries again with each line.
_MOST_UNSIGNED: Final = 2 * CHECKPOINT_LINES
_LINE_END: Final = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was written.

    Attributes:
        file: In which file.
        line: In which line of it, from 1; 0 for the file as a whole.
        seq: The line's own number, 0 if there is none.
        what: What is wrong.
    """

    file: str
    line: int
    seq: int
    what: str


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        files: How many files there are.
        lines: How many lines.
        unchained: How many of them are of an older format, which shows no change.
        signed: How many are signed.
        unsigned: How many are behind the last signed one.
        first: Number of the first line.
        last: The last line; note it elsewhere.
        since: Time of the first line.
        until: Time of the last line.
        removed: Lines that were removed because of their age, as signed lines say.
        is_growing: Whether the last line is not whole yet.
        faults: What is wrong, the first ones.
        count: How much is wrong.
    """

    files: int = 0
    lines: int = 0
    unchained: int = 0
    signed: int = 0
    unsigned: int = 0
    first: int = 0
    last: Head = field(default_factory=lambda: Head(0, NOTHING))
    since: str = ""
    until: str = ""
    removed: int = 0
    is_growing: bool = False
    faults: list[Fault] = field(default_factory=list)
    count: int = 0


def verify(
    directory: Path,
    keys: Keys,
    *,
    expect: Head | None = None,
    source: str = "--expect",
    tick: Callable[[int], None] | None = None,
) -> Report:
    """Look at every line of a record; blocks.

    Args:
        directory: Where it lies. It may be written meanwhile.
        keys: The keys that sign it.
        expect: A line as it was noted elsewhere.
        source: Where that was.
        tick: Is told how many lines are done, file by file.

    Raises:
        OSError: A file cannot be read.
    """
    # Before the lines: whatever it names has to be among them.
    head, is_head_signed = read_head(directory / HEAD, keys)
    paths = segments(directory)
    check = _Check(keys, {one.seq for one in (head, expect) if one is not None})
    check.report.files = len(paths)
    for path in paths:
        check.read(path, is_last=path == paths[-1])
        if tick is not None:
            tick(check.report.lines)
    check.end(head, expect, source, is_head_signed=is_head_signed)
    return check.report


@final
class _Check:
    """Goes through the lines once."""

    def __init__(self, keys: Keys, wanted: set[int]) -> None:
        self.report = Report()
        self._keys = keys
        # Hashes of the lines that somebody has noted.
        self._noted = dict.fromkeys(wanted, "")
        self._seq = 0
        self._prev = NOTHING
        self._is_chained = False
        self._signed_at = 0
        self._path = Path(HEAD)
        # What the first line follows, where that is not here; and what was removed by whom.
        self._before: tuple[int, str] | None = None
        self._removed: dict[int, tuple[int, str]] = {}

    def read(self, path: Path, *, is_last: bool) -> None:
        """Look at one file."""
        report, noted = self.report, self._noted
        self._path = path
        told: JsonObject | None = None
        with path.open("rb", buffering=1024 * 1024) as file:
            for number, raw in enumerate(file, 1):
                if raw[-1] != _LINE_END:
                    report.is_growing = is_last
                    if not is_last:
                        self._blame(path, number, 0, "is not whole")
                    break
                line = raw[:-1]
                report.lines += 1
                try:
                    told = cast("JsonObject", orjson.loads(line))
                    is_next = told["prev"] == self._prev and told["seq"] == self._seq + 1
                except (ValueError, KeyError, TypeError):
                    told, is_next = parse(line), False
                if is_next and self._is_chained:
                    self._seq += 1
                else:
                    self._take_odd(path, number, told)
                self._prev = digest(line)
                if self._seq in noted:
                    noted[self._seq] = self._prev
                if told is not None and ("signature" in told or "expected" in told):
                    self._take_signed(path, number, told)
        if told is not None:
            report.until = str(told.get("time", ""))

    def _take_odd(self, path: Path, number: int, told: "JsonObject | None") -> None:
        """Look at a line that does not simply follow the one before it."""
        seq = None if told is None else told.get("seq")
        if told is None or not isinstance(seq, int):
            self._blame(path, number, 0, "is no line of a record")
            return
        is_first = self.report.lines == 1
        if is_first:
            self.report.first, self.report.since = seq, str(told.get("time", ""))
        prev = told.get("prev")
        if prev is None:
            self.report.unchained += 1
        if prev is None and (self._is_chained or told.get("v") != 1):
            self._blame(path, number, seq, "is not chained")
        elif is_first and (seq, prev) not in {(1, NOTHING), (1, None)}:
            self._before = seq - 1, "" if prev is None else str(prev)
        elif not is_first and seq != self._seq + 1:
            self._blame(path, number, seq, self._tell_jump(seq))
        elif not is_first and prev not in {None, self._prev}:
            what = f"does not follow: line {self._seq} before it was changed, or it was itself"
            self._blame(path, number, seq, what)
        self._is_chained = self._is_chained or prev is not None
        self._seq = seq

    def _tell_jump(self, seq: int) -> str:
        if seq <= self._seq:
            return f"stands behind line {self._seq}: out of order, or twice"
        if seq == self._seq + 2:
            return f"line {seq - 1} before it is missing"
        return f"lines {self._seq + 1} to {seq - 1} before it are missing"

    def _take_signed(self, path: Path, number: int, told: "JsonObject") -> None:
        if "expected" in told:
            what = f"tells that the record did not hold {told['expected']} any more at this start"
            self._blame(path, number, self._seq, what)
        if "signature" not in told:
            return
        if str(told.get("key")) not in self._keys:
            self._blame(path, number, self._seq, f"is signed with another key, {told.get('key')}")
        elif not is_signed(told, self._keys):
            self._blame(path, number, self._seq, "its signature is wrong: changed, or forged")
        else:
            self.report.signed += 1
            self._signed_at = self._seq
            first, last = told.get("first"), told.get("last")
            if (
                told.get("event") == "tombstone"
                and isinstance(first, int)
                and isinstance(last, int)
            ):
                self._removed[last] = first, str(told.get("hash"))

    def end(
        self, head: Head | None, expect: Head | None, source: str, *, is_head_signed: bool
    ) -> None:
        """Look at what is known of both ends."""
        report = self.report
        report.last = Head(self._seq, self._prev, report.until)
        report.unsigned = self._seq - self._signed_at
        if report.lines and not self._is_chained:
            self._blame(Path(HEAD), 0, 0, "no line of this record is chained")
        if report.unsigned - report.unchained > _MOST_UNSIGNED:
            what = f"{report.unsigned} lines from here on have no signature: they were written anew"
            self._blame(self._path, 0, self._signed_at + 1, what)
        if self._before is not None:
            self._look_before(*self._before)
        if head is None:
            if self._is_chained:
                self._blame(Path(HEAD), 0, 0, "is missing, or cannot be read")
        elif not is_head_signed:
            self._blame(Path(HEAD), 0, head.seq, "is not signed with this record's key")
        else:
            self._compare(Path(HEAD), head)
        if expect is not None:
            self._compare(Path(source), expect)

    def _look_before(self, last: int, name: str) -> None:
        """Look for the signed line that allows that lines before the first one are gone."""
        known = self._removed.get(last)
        if known is None or (name and known[1] != name):
            what = f"the record begins with line {last + 1}; what was before it is missing"
            self._blame(Path(HEAD), 0, last + 1, what)
        else:
            self.report.removed = last

    def _compare(self, place: Path, head: Head) -> None:
        found = self._noted.get(head.seq, "")
        if head.seq > self._seq:
            what = f"names line {head.seq}, and the record ends with {self._seq}: it was cut"
            self._blame(place, 0, head.seq, what)
        elif found != head.hash and not (head.seq <= self.report.removed and not found):
            self._blame(place, 0, head.seq, f"line {head.seq} is another one now")

    def _blame(self, path: Path, line: int, seq: int, what: str) -> None:
        self.report.count += 1
        if len(self.report.faults) < MOST_FAULTS:
            self.report.faults.append(Fault(path.name, line, seq, what))
