"""Lines over two real FIFOs, to real processes."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import TargetUnavailableError, UpstreamProtocolError
from orchestrator.runtimes.channel import Channel

Starter = Callable[..., subprocess.Popen[bytes]]
MEGABYTE = 1024 * 1024


@pytest.fixture
def fifos(directory: Path) -> Path:
    """Make two FIFOs that nobody has opened."""
    for name in ("in", "out"):
        os.mkfifo(directory / name, 0o600)
    return directory


async def test_a_line_there_and_back(directory: Path, stdio: Starter) -> None:
    """What is sent arrives as one line, and what comes back has no newline."""
    _ = stdio("program.py", "echo")
    with anyio.fail_after(30), Channel(directory) as channel:
        await channel.send(b'{"a": 1}')
        assert await channel.receive() == b'{"a": 1}'


async def test_a_line_of_twenty_megabytes(directory: Path, stdio: Starter) -> None:
    """A very long line passes whole, in time that grows with its length only."""
    _ = stdio("program.py", "echo")
    line = os.urandom(10 * MEGABYTE).hex().encode()
    with anyio.fail_after(30), Channel(directory) as channel:
        async with anyio.create_task_group() as tasks:
            _ = tasks.start_soon(channel.send, line)
            assert await channel.receive() == line


async def test_ten_thousand_short_lines(directory: Path, stdio: Starter) -> None:
    """Many short lines come in order, none lost."""
    _ = stdio("program.py", "flood", "10000")
    with anyio.fail_after(30), Channel(directory) as channel:
        for number in range(10_000):
            assert await channel.receive() == b'{"n":%d}' % number


async def test_lines_of_many_senders_do_not_mix(directory: Path, stdio: Starter) -> None:
    """Concurrent senders of lines longer than the pipe each get their line through whole."""
    _ = stdio("program.py", "echo")
    lines = {bytes([letter]) * (2 * MEGABYTE) for letter in b"abcdef"}
    with anyio.fail_after(30), Channel(directory) as channel:
        async with anyio.create_task_group() as tasks:
            for line in lines:
                _ = tasks.start_soon(channel.send, line)
            assert {await channel.receive() for _ in lines} == lines


async def test_a_cancelled_sender_leaves_no_half_line(fifos: Path) -> None:
    """What a cancelled sender had begun is finished by the next one."""
    read = b""
    with anyio.fail_after(30), Channel(fifos) as channel:
        with anyio.move_on_after(0.05) as scope:
            await channel.send(b"a" * (3 * MEGABYTE))
        assert scope.cancelled_caught
        with anyio.move_on_after(0.05):
            await channel.send(b"never written")
        reader = os.open(fifos / "in", os.O_RDWR | os.O_NONBLOCK)
        try:
            async with anyio.create_task_group() as tasks:
                _ = tasks.start_soon(channel.send, b"second")
                while not read.endswith(b"second\n"):
                    try:
                        read += os.read(reader, MEGABYTE)
                    except BlockingIOError:
                        await anyio.wait_readable(reader)
        finally:
            os.close(reader)
    assert read == b"a" * (3 * MEGABYTE) + b"\nsecond\n"


async def test_the_server_sees_no_end_when_we_go(directory: Path, stdio: Starter) -> None:
    """Closing the channel does not end the server; a new channel talks to the same process."""
    process = stdio("program.py", "echo")
    with anyio.fail_after(30):
        with Channel(directory) as channel:
            await channel.send(b"first")
            assert await channel.receive() == b"first"
        with Channel(directory, resume=True) as channel:
            await channel.send(b'{"second": 2}')
            assert await channel.receive() == b'{"second": 2}'
    assert process.poll() is None


async def test_resume_drops_the_rest_of_a_half_read_line(fifos: Path) -> None:
    """A new reader drops what it cannot have the beginning of, and nothing else."""
    writer = os.open(fifos / "out", os.O_RDWR)
    try:
        _ = os.write(writer, b'":{"x":{}}}}\n{"id":1}\n')
        with anyio.fail_after(30), Channel(fifos, resume=True) as channel:
            assert await channel.receive() == b'{"id":1}'
        _ = os.write(writer, b'{"id":2}\nrubbish\n')
        with anyio.fail_after(30), Channel(fifos, resume=True) as channel:
            assert await channel.receive() == b'{"id":2}'
            assert await channel.receive() == b"rubbish"
    finally:
        os.close(writer)


async def test_resume_ends_a_half_written_line(fifos: Path) -> None:
    """The first thing that a new writer writes is a newline."""
    reader = os.open(fifos / "in", os.O_RDWR | os.O_NONBLOCK)
    try:
        with anyio.fail_after(30), Channel(fifos, resume=True) as channel:
            await channel.send(b"a")
            await channel.send(b"b")
        assert os.read(reader, 100) == b"\na\nb\n"
    finally:
        os.close(reader)


async def test_blank_lines_are_skipped(fifos: Path) -> None:
    """An empty line, and one with blanks only, is nothing."""
    writer = os.open(fifos / "out", os.O_RDWR)
    try:
        _ = os.write(writer, b"\n\r\n  \na")
        with anyio.fail_after(30), Channel(fifos) as channel:
            async with anyio.create_task_group() as tasks:

                async def finish() -> None:
                    await anyio.wait_all_tasks_blocked()
                    _ = os.write(writer, b"b\n")

                _ = tasks.start_soon(finish)
                assert await channel.receive() == b"ab"
    finally:
        os.close(writer)


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_over_the_limit_is_an_error(fifos: Path, end: bytes) -> None:
    """A line that grows over the limit is an error as soon as that is known."""
    writer = os.open(fifos / "out", os.O_RDWR)
    try:
        _ = os.write(writer, b"x" * 1001 + end)
        refused = pytest.raises(UpstreamProtocolError, match="more than 1000 bytes")
        with anyio.fail_after(30), Channel(fifos, limit_bytes=1000) as channel, refused:
            _ = await channel.receive()
    finally:
        os.close(writer)


async def test_the_usual_limit_is_32_megabytes(fifos: Path) -> None:
    """A server cannot have more than that kept of a line that it does not end."""
    writer = os.open(fifos / "out", os.O_RDWR | os.O_NONBLOCK)
    written = 0
    try:
        refused = pytest.raises(UpstreamProtocolError, match=f"more than {32 * MEGABYTE} bytes")
        with anyio.fail_after(30), Channel(fifos) as channel:
            async with anyio.create_task_group() as tasks:

                async def write() -> None:
                    nonlocal written
                    while True:
                        await anyio.wait_writable(writer)
                        written += os.write(writer, b"x" * MEGABYTE)

                _ = tasks.start_soon(write)
                with refused:
                    _ = await channel.receive()
                tasks.cancel_scope.cancel()
        assert 32 * MEGABYTE < written <= 35 * MEGABYTE
    finally:
        os.close(writer)


async def test_a_line_with_a_newline_is_not_sent(fifos: Path) -> None:
    """One call sends one line."""
    with Channel(fifos) as channel, pytest.raises(ValueError, match="no newline"):
        await channel.send(b"a\nb")


async def test_closing_wakes_who_waits(fifos: Path) -> None:
    """Receiver and sender that wait when the channel is closed are told so."""
    channel = Channel(fifos)
    ended: list[str] = []

    async def receive() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            _ = await channel.receive()
        ended.append("receiver")

    async def send() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await channel.send(b"x" * (3 * MEGABYTE))
        ended.append("sender")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            _ = tasks.start_soon(receive)
            _ = tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            channel.close()
            channel.close()
        assert sorted(ended) == ["receiver", "sender"]
        with pytest.raises(anyio.ClosedResourceError):
            _ = await channel.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await channel.send(b"x")


def test_fifos_that_are_not_there(directory: Path) -> None:
    """Missing FIFOs are a target that is not there; nothing is left open."""
    with pytest.raises(TargetUnavailableError, match="cannot be opened"):
        _ = Channel(directory)
    os.mkfifo(directory / "in")
    _ = (directory / "out").write_bytes(b"")
    with pytest.raises(TargetUnavailableError, match="not a FIFO"):
        _ = Channel(directory)
    (directory / "out").unlink()
    (directory / "out").symlink_to(directory / "in")
    with pytest.raises(TargetUnavailableError):
        _ = Channel(directory)
    # Others of this process open and close files of their own meanwhile.
    assert not [name for name in open_files() if name.startswith(str(directory))]


def open_files() -> list[str]:
    """Tell which files this process has open."""
    found: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


async def test_a_flood_lets_others_run(directory: Path, stdio: Starter) -> None:
    """While a server writes without pause other tasks still get their turn."""
    _ = stdio("program.py", "flood", "300000")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    with anyio.fail_after(30), Channel(directory) as channel:
        async with anyio.create_task_group() as tasks:
            _ = tasks.start_soon(count)
            for _ in range(300_000):
                _ = await channel.receive()
            tasks.cancel_scope.cancel()
    assert turns > 3


async def test_a_flood_of_short_lines_leaves_others_their_turn(fifos: Path) -> None:
    """One read may bring half a million lines; other tasks run between them."""
    writer = os.open(fifos / "out", os.O_RDWR)
    try:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await checkpoint()
                turns += 1

        with anyio.fail_after(30), Channel(fifos) as channel:
            _ = os.write(writer, b"1\n" * 30_000)
            async with anyio.create_task_group() as tasks:
                _ = tasks.start_soon(others)
                for _ in range(30_000):
                    assert await channel.receive() == b"1"
                tasks.cancel_scope.cancel()
        assert turns > 500
    finally:
        os.close(writer)


@contextmanager
def pair(*, limit_bytes: int = MEGABYTE, resume: bool = False) -> Generator[tuple[Channel, int]]:
    """Make a channel, and the server's end of its outgoing FIFO, for one example."""
    directory = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        for name in ("in", "out"):
            os.mkfifo(directory / name, 0o600)
        writer = os.open(directory / "out", os.O_RDWR)
        try:
            with Channel(directory, resume=resume, limit_bytes=limit_bytes) as channel:
                yield channel, writer
        finally:
            os.close(writer)
    finally:
        shutil.rmtree(directory)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """Cut a text at these places."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


LINES = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20)
PLACES = st.lists(st.integers(0, 1000), max_size=10)
BOUNDED = settings(max_examples=150, deadline=None)


@given(LINES, PLACES)
@BOUNDED
async def test_any_split_gives_the_same_lines(lines: list[bytes], places: list[int]) -> None:
    """However the bytes come, received or handed over, they are the lines that were written."""
    text = b"".join(line + b"\n" for line in lines)
    expected = [line for line in lines if line and not line.isspace()]
    with anyio.fail_after(30):
        with pair() as (channel, writer):
            for piece in cut(text, places):
                _ = os.write(writer, piece)
            assert [await channel.receive() for _ in expected] == expected
        with pair() as (channel, writer):
            found: list[bytes] = []
            channel.attach(found.append, lambda _: None)
            for piece in cut(text + b"end\n", places):
                _ = os.write(writer, piece)
                await asyncio.sleep(0)
            while not found or found[-1] != b"end":  # noqa: ASYNC110 - the loop's own turn
                await asyncio.sleep(0)
            assert found == [*expected, b"end"]


@given(LINES, PLACES, st.integers(0, 200))
@BOUNDED
async def test_a_limit_holds_for_any_split(
    lines: list[bytes], places: list[int], limit: int
) -> None:
    """What is too long breaks the channel, and what came before it still comes."""
    text = b"".join(line + b"\n" for line in lines) + b"x" * (limit + 1) + b"\nnever\n"
    before: list[bytes] = []
    for line in lines:
        if len(line) > limit:
            break
        before.append(line)
    broken: list[Exception] = []
    found: list[bytes] = []
    with anyio.fail_after(30), pair(limit_bytes=limit) as (channel, writer):
        channel.attach(found.append, broken.append)
        for piece in cut(text, places):
            _ = os.write(writer, piece)
            await asyncio.sleep(0)
        while not broken:  # noqa: ASYNC110 - the loop's own turn
            await asyncio.sleep(0)
    assert isinstance(broken[0], UpstreamProtocolError)
    # Lines of the read that broke it may be lost with it, but none is out of its order.
    assert found == [line for line in before if line and not line.isspace()][: len(found)]


@given(st.lists(st.integers(1, 400_000).map(lambda size: "x" * size), max_size=12))
@settings(BOUNDED, max_examples=30)
async def test_what_is_pushed_arrives_in_order(texts: list[str]) -> None:
    """Lines of any length, pushed whether or not the server reads, arrive whole and in order."""
    lines = [text.encode() for text in texts]
    with anyio.fail_after(30), pair() as (channel, _):
        # The first ones before anybody carries them.
        for line in lines[:2]:
            channel.push(line)
        channel.attach(lambda _: None, lambda _: None)
        for line in lines[2:]:
            channel.push(line)
        reader = os.open(Path(channel._directory) / "in", os.O_RDWR | os.O_NONBLOCK)
        try:
            text, size = b"", sum(len(line) + 1 for line in lines)
            while len(text) < size:
                try:
                    text += os.read(reader, 65536)
                except BlockingIOError:
                    await asyncio.sleep(0)
        finally:
            os.close(reader)
        assert text.split(b"\n")[:-1] == lines
        while channel.unsent_bytes:  # noqa: ASYNC110 - the loop's own turn
            await asyncio.sleep(0)


async def test_attached_resume_ends_a_half_written_line(fifos: Path) -> None:
    """A channel that is attached begins with a newline, too, and counts what waits."""
    reader = os.open(fifos / "in", os.O_RDWR | os.O_NONBLOCK)
    try:
        with Channel(fifos, resume=True) as channel:
            channel.push(b"a")
            assert channel.unsent_bytes == 1
            channel.attach(lambda _: None, lambda _: None)
            channel.push(b"b")
        # What was pushed in the turn in which it was closed is not lost.
        assert channel.unsent_bytes == 0
        assert os.read(reader, 100) == b"\na\nb\n"
        with pytest.raises(anyio.ClosedResourceError):
            channel.push(b"c")
    finally:
        os.close(reader)


async def test_a_server_that_does_not_read_is_known(fifos: Path) -> None:
    """What the pipe does not take waits, is counted, and goes when it is read."""
    reader = os.open(fifos / "in", os.O_RDWR | os.O_NONBLOCK)
    try:
        with anyio.fail_after(30), Channel(fifos) as channel:
            channel.attach(lambda _: None, lambda _: None)
            for _ in range(3):
                channel.push(b"x" * MEGABYTE)
            assert channel.unsent_bytes >= 2 * MEGABYTE
            size = 0
            while size < 3 * (MEGABYTE + 1):
                try:
                    size += len(os.read(reader, MEGABYTE))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert channel.unsent_bytes == 0
    finally:
        os.close(reader)


async def test_who_takes_lines_may_fail(fifos: Path) -> None:
    """An error nobody foresaw breaks the channel, so that nobody waits in vain."""
    writer = os.open(fifos / "out", os.O_RDWR)
    broken: list[Exception] = []
    try:
        with anyio.fail_after(30), Channel(fifos) as channel:

            def fail(_: bytes) -> None:
                raise KeyError

            channel.attach(fail, broken.append)
            _ = os.write(writer, b"1\n2\n")
            while not broken:  # noqa: ASYNC110 - the loop's own turn
                await asyncio.sleep(0)
    finally:
        os.close(writer)
    assert isinstance(broken[0], UpstreamProtocolError)
    assert isinstance(broken[0].__cause__, KeyError)


async def test_an_attached_flood_leaves_others_their_turn(fifos: Path) -> None:
    """Lines are handed over in small lots; the loop runs between them."""
    writer = os.open(fifos / "out", os.O_RDWR)
    found: list[bytes] = []
    turns = 0
    try:
        with anyio.fail_after(30), Channel(fifos) as channel:
            channel.attach(found.append, lambda _: None)
            _ = os.write(writer, b"1\n" * 30_000)
            while len(found) < 30_000:
                await asyncio.sleep(0)
                turns += 1
        assert turns > 500
    finally:
        os.close(writer)


async def test_a_line_that_is_lenient_json_is_no_rest(fifos: Path) -> None:
    """The first line of a channel that goes on may be no proper JSON, and still an answer."""
    writer = os.open(fifos / "out", os.O_RDWR)
    try:
        _ = os.write(writer, b'{"id": 1, "result": {"x": NaN}}\n')
        with anyio.fail_after(30), Channel(fifos, resume=True) as channel:
            assert b"NaN" in await channel.receive()
    finally:
        os.close(writer)
