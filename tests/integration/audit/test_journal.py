"""A journal on a real disk."""

import asyncio
import os
import resource
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from orchestrator.errors import StateUnwritableError
from orchestrator.journal import Journal, segments

P = ParamSpec("P")
T = TypeVar("T")


def names(directory: Path) -> list[str]:
    """Tell the files of a journal."""
    return sorted(path.name for path in directory.iterdir())


def open_files(home: Path) -> list[str]:
    """Tell which files below a directory this process has open."""
    found: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that was used to look
            found.append(str(entry.readlink()))
    return [name for name in found if name.startswith(str(home))]


async def test_lines_come_back_in_their_order(home: Path) -> None:
    """What was appended is there at once, and again when the journal is opened again."""
    journal = Journal(home / "j")
    for number in range(100):
        journal.append(b"%d" % number)
    expected = [b"%d" % number for number in range(100)]
    assert journal.load() == expected
    journal.close()
    again = Journal(home / "j")
    assert (again.load(), again.torn_bytes) == (expected, 0)
    again.append(b"100")
    assert again.load() == [*expected, b"100"]
    again.close()


def test_nobody_else_can_read_it(home: Path) -> None:
    """Files and directory are their owner's alone."""
    journal = Journal(home / "j", segment_bytes=8, reserve_bytes=4096)
    journal.append(b"12345678")
    journal.append(b"12345678")
    journal.close()
    assert names(home / "j") == ["00000001.jsonl", "00000002.jsonl", "reserve"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home / "j").iterdir()} == {0o600}
    assert stat.S_IMODE((home / "j").stat().st_mode) == 0o700


def test_a_line_with_a_line_end_is_refused(home: Path) -> None:
    """Nobody can write two lines where one is meant."""
    journal = Journal(home / "j")
    with pytest.raises(ValueError, match="line end"):
        journal.append(b'{"a":1}\n{"forged":true}')
    assert journal.load() == []
    journal.close()


async def test_segments_are_whole_lines_and_read_in_order(home: Path) -> None:
    """A segment ends before the line that would make it too long; a longer line has its own."""
    journal = Journal(home / "j", segment_bytes=64)
    lines = [b"x" * size for size in (10, 60, 2, 200, 1, 61, 3)]
    for line in lines:
        journal.append(line)
    with anyio.fail_after(30):
        await journal.durable()
    assert journal.load() == lines
    sizes = [path.stat().st_size for path in segments(home / "j")]
    assert sizes == [11, 64, 201, 64, 4]
    journal.close()


def test_segments_are_sorted_by_number(home: Path) -> None:
    """The hundred millionth segment comes after the one before it."""
    directory = home / "j"
    directory.mkdir()
    for name in ("100000000.jsonl", "99999999.jsonl", "1.jsonl", "x.jsonl", "00000001.torn"):
        _ = (directory / name).write_bytes(name.encode() + b"\n")
    assert [path.name for path in segments(directory)] == ["99999999.jsonl", "100000000.jsonl"]


class CountingWorker(ThreadPoolExecutor):
    """A worker that counts what it is given; each is one sync."""

    jobs = 0

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


async def test_everybody_who_waits_shares_one_sync(home: Path) -> None:
    """Sixteen callers cost at most 1.5 syncs for 8 lines, and each line is on disk."""
    journal = Journal(home / "j")
    journal._worker = worker = CountingWorker(1)

    async def write(lines: int) -> None:
        for number in range(lines):
            journal.append(b"%d" % number)
            await journal.durable()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(write, 50)
    assert len(journal.load()) == 16 * 50
    assert worker.jobs <= 16 * 50 * 1.5 / 8
    journal.close()


async def test_who_stops_waiting_disturbs_nobody(home: Path) -> None:
    """Each waiter has a future of its own."""
    journal = Journal(home / "j")
    journal.append(b"1")
    first, second = journal.durable(), journal.durable()
    assert first.cancel()
    with anyio.fail_after(30):
        await second
        await journal.durable()  # nothing is new: done at once
    journal.close()


async def test_a_sync_that_was_under_way_does_not_count(home: Path) -> None:
    """A line that was appended during a sync waits for the next one."""
    journal = Journal(home / "j")
    journal._worker = worker = CountingWorker(1)
    journal.append(b"1")
    early = journal.durable()
    journal.append(b"2")
    late = journal.durable()
    with anyio.fail_after(30):
        await early
        assert not late.done()
        await late
    assert worker.jobs == 2
    journal.close()


@pytest.mark.parametrize("rest", [b"x", b"half a line", b"y" * 200_000])
def test_what_a_crash_left_of_a_line_is_put_aside(home: Path, rest: bytes) -> None:
    """Whole lines stay, the rest of one is kept in a file of its own, and told."""
    journal = Journal(home / "j")
    journal.append(b"whole")
    journal.close()
    path = home / "j" / "00000001.jsonl"
    for turn in (1, 2):
        with path.open("ab") as file:
            _ = file.write(rest)
        again = Journal(home / "j")
        assert again.torn_bytes == len(rest)
        assert again.load() == [b"whole"] * turn
        again.append(b"whole")
        again.close()
        assert (home / "j" / "00000001.torn").read_bytes() == (rest + b"\n") * turn
    assert Journal(home / "j").torn_bytes == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.binary(max_size=300).filter(lambda line: b"\n" not in line)), data=st.data()
)
def test_a_journal_that_was_cut_anywhere_opens(
    home: Path, lines: list[bytes], data: st.DataObject
) -> None:
    """Wherever its last segment ends, all lines that are whole are there, and it goes on."""
    path = home / "j" / "00000001.jsonl"
    path.parent.mkdir(exist_ok=True)
    whole = b"".join(line + b"\n" for line in lines)
    cut = data.draw(st.integers(0, len(whole)))
    _ = path.write_bytes(whole[:cut])
    journal = Journal(home / "j")
    journal.append(b"next")
    journal.close()
    kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
    assert path.read_bytes() == kept + b"next\n"
    assert journal.torn_bytes == cut - len(kept)


async def test_compacting_replaces_everything(home: Path) -> None:
    """After it there are only the given lines; further ones follow them."""
    journal = Journal(home / "j", segment_bytes=16)
    for number in range(10):
        journal.append(b"old %d" % number)
    for turn in range(3):
        journal.compact([b"base", b"%d" % turn])
        assert journal.load() == [b"base", b"%d" % turn]
        journal.append(b"new")
        with anyio.fail_after(30):
            await journal.durable()
        assert journal.load() == [b"base", b"%d" % turn, b"new"]
    journal.close()
    again = Journal(home / "j")
    assert again.load() == [b"base", b"2", b"new"]
    again.close()


async def test_compacting_while_somebody_waits(home: Path) -> None:
    """Who waits for a line that is being replaced is answered; twice in a row is once."""
    journal = Journal(home / "j")
    for turn in range(20):
        journal.append(b"old")
        before = journal.durable()
        journal.compact([b"first"])
        journal.compact([b"base %d" % turn])
        journal.append(b"new")
        after = journal.durable()
        with anyio.fail_after(30):
            await before
            await after
        assert journal.load() == [b"base %d" % turn, b"new"]
    assert len(open_files(home)) <= 2
    journal.close()


def test_a_crash_while_compacting_counts_nothing_twice(home: Path) -> None:
    """Segments that were replaced and not yet removed are not read, and removed later."""
    journal = Journal(home / "j")
    journal.append(b"old")
    journal.compact([b"base"])
    journal.close()
    _ = (home / "j" / "00000001.jsonl").write_bytes(b"old\n")
    assert [path.name for path in segments(home / "j")] == ["00000002.base.jsonl"]
    again = Journal(home / "j")
    assert (again.load(), names(home / "j")) == ([b"base"], ["00000002.base.jsonl"])
    again.append(b"new")
    assert again.load() == [b"base", b"new"]
    again.close()


async def test_a_failed_sync_is_told_and_its_segment_is_left(home: Path) -> None:
    """Nobody is told that a line is durable that may not be; later lines begin a new segment."""
    journal = Journal(home / "j")
    journal.append(b"1")
    with anyio.fail_after(30):
        await journal.durable()
    # A pipe takes what is written and cannot be synced, as a disk that fails late.
    reader, writer = os.pipe()
    journal._file, file = writer, journal._file
    journal.append(b"2")
    waiting = [journal.durable() for _ in range(3)]
    for future in waiting:
        with anyio.fail_after(30), pytest.raises(StateUnwritableError):
            await future
    with pytest.raises(StateUnwritableError):
        journal.append(b"not while it was just now that it failed")
    journal._retry_at = 0.0
    journal.append(b"3")
    with anyio.fail_after(30):
        await journal.durable()
    assert journal.load() == [b"1", b"3"]
    assert [path.name for path in segments(home / "j")] == ["00000001.jsonl", "00000002.jsonl"]
    journal.close()
    os.close(reader)
    os.close(file)


async def test_a_file_that_may_not_grow_keeps_whole_lines(home: Path) -> None:
    """A line that does not fit leaves nothing behind; when there is room, it goes on by itself."""
    journal = Journal(home / "j")
    journal.append(b"x" * 99)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        for urgent in (False, True):
            with pytest.raises(StateUnwritableError, match="cannot be written"):
                journal.append(b"y" * 99, is_urgent=urgent)
            assert segments(home / "j")[0].stat().st_size == 100
        journal.append(b"z" * 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(b"y" * 99)
    with anyio.fail_after(30):
        await journal.durable()
    assert journal.load() == [b"x" * 99, b"z" * 9, b"y" * 99]
    journal.close()


def test_a_directory_that_cannot_be_read_is_told(home: Path) -> None:
    """What is in the way is told as an error of the state."""
    (home / "j" / "00000001.jsonl").mkdir(parents=True)
    with pytest.raises(StateUnwritableError, match="Is a directory"):
        _ = Journal(home / "j")


def test_a_link_is_not_followed(home: Path) -> None:
    """A segment is never written through a symbolic link."""
    (home / "j").mkdir()
    _ = (home / "target").write_bytes(b"")
    (home / "j" / "00000001.jsonl").symlink_to(home / "target")
    with pytest.raises(StateUnwritableError):
        _ = Journal(home / "j")


async def test_closing_ends_who_waits(home: Path) -> None:
    """A waiter of a journal that is closed does not wait for ever, and everything is on disk."""
    journal = Journal(home / "j")
    journal.append(b"1")
    future = journal.durable()
    journal.close()
    with anyio.fail_after(30), pytest.raises(asyncio.CancelledError):
        await future
    assert segments(home / "j")[0].read_bytes() == b"1\n"
