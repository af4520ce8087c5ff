"""Where a sink goes on: after a removal, after an older copy was put back, after rubbish."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.sinks.file import FileOutlet
from orchestrator.audit.sinks.tail import Tail, find_place
from orchestrator.journal import segments

if TYPE_CHECKING:
    from orchestrator.audit.sinks.worker import Worker
    from tests.integration.sinks.conftest import Place, Wait


def begin(place: Place) -> Worker:
    """Bring the record to a file."""
    return place.sink(lambda: FileOutlet(place.root / "copy", FORMATS["jsonl"]))


def brought(place: Place) -> list[int]:
    """Tell the numbers of the lines in it."""
    lines = (place.root / "copy").read_bytes().splitlines()
    return [json.loads(line)["seq"] for line in lines]


def turn(place: Place) -> None:
    """Begin a new file of the record."""
    assert place.log._writer is not None
    place.log._writer.journal.turn()


def test_lines_that_were_removed_before_are_told(place: Place, wait: Wait) -> None:
    """A sink that was away too long goes on with what is there, and counts what is not."""
    place.fill(5)
    first = begin(place)
    wait(lambda: first.progress.seq == 5)
    place.end(first)
    place.fill(8)
    turn(place)
    place.fill(12)
    segments(place.directory)[0].unlink()
    second = begin(place)
    wait(lambda: second.progress.seq == 12)
    assert second.progress.missed == 3
    assert brought(place) == [1, 2, 3, 4, 5, 9, 10, 11, 12]


def test_a_new_sink_begins_with_the_oldest_line_there_is(place: Place, wait: Wait) -> None:
    """What was removed before it was there is no loss of its own."""
    place.fill(5)
    turn(place)
    place.fill(9)
    segments(place.directory)[0].unlink()
    worker = begin(place)
    wait(lambda: worker.progress.seq == 9)
    assert worker.progress.missed == 0
    assert brought(place) == [6, 7, 8, 9]


def test_an_older_copy_of_the_record_is_noticed(place: Place, wait: Wait) -> None:
    """New lines with old numbers come all the same: whoever has both can tell."""
    place.fill(5)
    older = place.root / "older"
    _ = shutil.copytree(place.directory, older)
    place.fill(9)
    first = begin(place)
    wait(lambda: first.progress.seq == 9)
    place.end(first)
    path = segments(place.directory)[0]
    _ = path.write_bytes((older / path.name).read_bytes())
    second = begin(place)
    wait(lambda: second.progress.seq == 5)
    with path.open("ab") as file:
        _ = file.write(b'{"event":"outcome","seq":6}\n')
    wait(lambda: second.progress.seq == 6)
    assert brought(place) == [*range(1, 10), 6]


def test_a_record_that_was_changed_behind_it_is_noticed(place: Place, wait: Wait) -> None:
    """A sink whose last line is another one now says so, and goes on behind that number."""
    place.fill(5)
    first = begin(place)
    wait(lambda: first.progress.seq == 5)
    place.end(first)
    place.fill(8)
    path = segments(place.directory)[0]
    _ = path.write_bytes(path.read_bytes().replace(b'"r4"', b'"r-four"'))
    second = begin(place)
    wait(lambda: second.progress.seq == 8)
    assert brought(place) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_cursor_that_is_rubbish_means_all_anew(place: Place, wait: Wait) -> None:
    """Rather twice than never."""
    place.fill(3)
    first = begin(place)
    wait(lambda: first.progress.seq == 3)
    place.end(first)
    _ = (place.directory / "sinks" / "siem.json").write_text("rubbish")
    second = begin(place)
    wait(lambda: brought(place) == [1, 2, 3, 1, 2, 3])
    wait(lambda: second.progress.seq == 3)


def test_what_is_no_line_is_kept_beside(place: Place, wait: Wait) -> None:
    """Rubbish in the record reaches nobody, and is not lost."""
    place.fill(3)
    with segments(place.directory)[0].open("ab") as file:
        _ = file.write(b"rubbish\n")
    worker = begin(place)
    wait(lambda: worker.progress.seq == 3)
    wait(lambda: len(place.refused()) == 1)
    assert place.refused()[0]["line"] == "rubbish"
    assert brought(place) == [1, 2, 3]


def test_a_line_that_is_not_whole_waits(place: Place) -> None:
    """Half of a line is no line."""
    place.fill(3)
    path = segments(place.directory)[0]
    with path.open("ab") as file:
        _ = file.write(b'{"seq":4')
    cursor, why = find_place(place.directory, None)
    assert why == ""
    tail = Tail(place.directory, cursor)
    batch = tail.take(10)
    assert batch is not None
    assert [entry.seq for entry in batch.entries] == [1, 2, 3]
    tail.cursor = batch.then
    assert tail.take(10) is None
    with path.open("ab") as file:
        _ = file.write(b"}\n")
    batch = tail.take(10)
    assert batch is not None
    assert [entry.line for entry in batch.entries] == [b'{"seq":4}']
