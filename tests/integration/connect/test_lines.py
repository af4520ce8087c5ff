"""Lines on real pipes: whole in any pieces, bounded, and never waited for in vain."""

from __future__ import annotations

import os

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.shim.lines import read_lines, write_line

LIMIT = 16
LINES = st.lists(st.binary(max_size=2 * LIMIT).map(lambda line: line.replace(b"\n", b"")))


@settings(deadline=None, max_examples=50)
@given(LINES, st.binary(max_size=2 * LIMIT).map(lambda line: line.replace(b"\n", b"")), st.data())
def test_any_split_gives_the_same_lines(
    lines: list[bytes], last: bytes, data: st.DataObject
) -> None:
    """Each line comes whole, too long ones as none, and the last one without its newline."""
    text = b"".join(line + b"\n" for line in lines) + last
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    async def feed(writer: int) -> None:
        for piece in pieces:
            _ = os.write(writer, piece) if piece else 0
            await anyio.wait_all_tasks_blocked()
        os.close(writer)

    async def read() -> list[bytes | None]:
        reader, writer = os.pipe()
        found: list[bytes | None] = []
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(feed, writer)
                found += [line async for line in read_lines(reader, LIMIT)]
        os.close(reader)
        return found

    expected = [
        line if len(line) <= LIMIT else None for line in (*lines, *([last] if last else []))
    ]
    assert anyio.run(read) == expected


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 1_000_000])
async def test_long_lines_are_written_whole(size: int) -> None:
    """A pipe that is full is waited for, without blocking anything else."""
    reader, writer = os.pipe()
    line = bytes(97 + n % 26 for n in range(size))

    async def write() -> None:
        await write_line(writer, line)
        os.close(writer)

    found: list[bytes | None] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            found += [each async for each in read_lines(reader, size)]
    os.close(reader)
    assert found == [line]


async def test_nobody_reads() -> None:
    """Whoever writes to a pipe without a reader is told."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await write_line(writer, b"line")
    os.close(writer)
