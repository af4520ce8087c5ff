"""The record in a file of somebody else's."""

from __future__ import annotations

import csv
import io
import resource
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.sinks.base import SinkError
from orchestrator.audit.sinks.file import FileOutlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.sinks.conftest import Place, Wait


def to(path: Path, form: str = "jsonl") -> Callable[[], FileOutlet]:
    """Give the way to a file."""
    return lambda: FileOutlet(path, FORMATS[form])


def test_the_copy_is_the_record(place: Place, wait: Wait) -> None:
    """Its bytes are the same, and only its owner reads it."""
    place.fill(120)
    path = place.root / "copy.jsonl"
    worker = place.sink(to(path))
    wait(lambda: worker.progress.seq == 120)
    assert path.read_bytes().splitlines() == place.lines()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_may_be_moved_away(place: Place, wait: Wait) -> None:
    """What rotates logs takes it, and the next line begins a new one, with its head."""
    place.fill(5)
    path, moved = place.root / "copy.csv", place.root / "copy.csv.1"
    worker = place.sink(to(path, "csv"))
    wait(lambda: worker.progress.seq == 5)
    _ = path.rename(moved)
    place.fill(8)
    wait(lambda: worker.progress.seq == 8)
    rows = [list(csv.DictReader(io.StringIO(each.read_text()))) for each in (moved, path)]
    assert [[row["seq"] for row in each] for each in rows] == [list("12345"), list("678")]


def test_a_line_that_was_cut_off_gets_its_end(place: Place, wait: Wait) -> None:
    """What a power failure left of a line does not swallow the next one."""
    path = place.root / "copy.jsonl"
    _ = path.write_bytes(b'{"torn":')
    place.fill(3)
    worker = place.sink(to(path))
    wait(lambda: worker.progress.seq == 3)
    assert path.read_bytes().splitlines() == [b'{"torn":', *place.lines()]


def test_on_a_full_disk_lines_wait(place: Place, wait: Wait) -> None:
    """Nothing of a batch is left that did not fit, and all of it comes when there is room."""
    small = place.root / "small"
    small.mkdir()
    path = small / "copy.jsonl"
    place.fill(200)
    size = sum(len(line) + 1 for line in place.lines())
    # As a full disk does: part of a write is done, and the next one fails.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        worker = place.sink(to(path))
        wait(lambda: worker.progress.error != "")
        assert worker.progress.error == f"{path} cannot be written: File too large"
        kept = path.read_bytes()
        assert kept.endswith(b"\n")
        assert kept.splitlines() == place.lines()[: worker.progress.seq]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    wait(lambda: worker.progress.seq == 200)
    assert path.read_bytes().splitlines() == place.lines()
    assert worker.progress.error == ""


@pytest.mark.parametrize("kind", ["directory", "link", "missing", "device"])
def test_only_a_plain_file_is_written(place: Place, kind: str) -> None:
    """Whoever puts something else in its place gets nothing."""
    path = place.root / "there"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(place.root / "elsewhere")
    elif kind == "missing":
        path = place.root / "nothing" / "there"
    outlet = to(Path("/dev/null") if kind == "device" else path)()
    with pytest.raises(SinkError, match="cannot be written"):
        outlet.send([])
    assert not (place.root / "elsewhere").exists()
