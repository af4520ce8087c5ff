"""The launch frame: written by the runtime, read by the seat."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator.errors import WorkloadStartError
from orchestrator.runtimes.launch_frame import LIMIT_BYTES, MAGIC, LaunchFrame
from orchestrator.shim import seat

WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAME = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
VALID = LaunchFrame(("/bin/true",), {"A": "1"}, {"B": SecretStr("2")}, "/").encode()


@given(
    program=WORD,
    arguments=st.lists(WORD, max_size=4),
    env=st.dictionaries(NAME, WORD, max_size=4),
    secrets=st.dictionaries(NAME.map(lambda name: "S" + name), WORD, max_size=3),
    umask=st.integers(0, 0o777),
)
def test_what_is_written_is_read(
    program: str, arguments: list[str], env: dict[str, str], secrets: dict[str, str], umask: int
) -> None:
    """Arguments, variables and umask come back exactly, whatever characters they hold."""
    plain = {name: value for name, value in env.items() if name not in secrets}
    hidden = {name: SecretStr(value) for name, value in secrets.items()}
    written = LaunchFrame(("/" + program, *arguments), plain, hidden, "/" + program, umask)
    frame = seat.parse(written.encode())
    assert [os.fsdecode(part) for part in frame.argv] == ["/" + program, *arguments]
    found = {os.fsdecode(name): os.fsdecode(value) for name, value in frame.env.items()}
    assert found == {**plain, **secrets}
    assert os.fsdecode(frame.cwd) == "/" + program
    assert frame.umask == umask
    assert frame.limits == {b"CORE": (1, 1), b"NOFILE": (4096, 65536)}


@pytest.mark.parametrize("logs", [True, False])
def test_where_stdout_goes(logs: bool) -> None:
    """The frame tells whether stdout is the log, or the FIFO of a protocol."""
    frame = LaunchFrame(("/bin/true",), {}, {}, "/", logs_stdout=logs)
    assert seat.parse(frame.encode()).logs_stdout is logs


def test_whose_process_it_becomes() -> None:
    """The frame tells user and group by number; without them the engine's own stay."""
    frame = LaunchFrame(("/bin/true",), {}, {}, "/", user=(998, 996))
    assert seat.parse(frame.encode()).user == (998, 996)
    assert seat.parse(VALID).user is None


@pytest.mark.parametrize(
    "user", ["0:1", "1:0", "1", "1:2:3", "-1:1", "+1:1", "1: 2", "a:b", ":", "", "4294967295:1"]
)
def test_no_server_becomes_root_or_nobody_known(user: str) -> None:
    """Root, and what is no pair of plain numbers, is refused."""
    data = VALID.replace(b"cwd=/", f"user={user}\0cwd=/".encode())
    with pytest.raises(seat.RefusedError):
        _ = seat.parse(data)


@given(st.integers(0, len(VALID) - 1))
def test_a_frame_that_was_cut_off_is_refused(length: int) -> None:
    """No beginning of a frame is a frame."""
    with pytest.raises(seat.RefusedError):
        _ = seat.parse(VALID[:length])


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    """Bytes that are no frame are refused, and nothing else is raised."""
    with pytest.raises(seat.RefusedError):
        _ = seat.parse(junk)


@given(st.lists(st.binary(max_size=12).filter(lambda part: b"\0" not in part), max_size=6))
def test_junk_between_magic_and_end_is_refused_or_a_frame(records: list[bytes]) -> None:
    """Whatever stands in the records, the answer is a whole frame or a refusal."""
    data = b"\0".join([MAGIC, *records, b"end", b""])
    try:
        frame = seat.parse(data)
    except seat.RefusedError:
        return
    assert frame.argv[0].startswith(b"/")
    assert frame.cwd.startswith(b"/")


@pytest.mark.parametrize(
    "record",
    [
        b"shell=/bin/sh",
        b"arg",
        b"env=NOVALUE",
        b"env==x",
        b"env=A=again",
        b"cwd=/again",
        b"umask=022",
        b"stdout=/etc/passwd",
        b"stdout=",
        b"limit=CORE:0:0",
        b"limit=CPU:1",
        b"limit=CPU:-1:1",
        b"limit=CPU:2:1",
        b"limit=CPU:1_0:20",
        b"limit=MAGIC:1:1",
        b"",
        b"end",
    ],
)
def test_unknown_and_repeated_records_are_refused(record: bytes) -> None:
    """One record too many refuses the whole frame."""
    head, tail = VALID[: -len(b"end\0")], b"end\0"
    assert seat.parse(head + tail).env == {b"A": b"1", b"B": b"2"}
    with pytest.raises(seat.RefusedError):
        _ = seat.parse(head + record + b"\0" + tail)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"arg=/bin/true", b"arg=bin/true"),
        (b"cwd=/", b"cwd=."),
        (b"umask=077", b"umask=0x7"),
        (b"umask=077\0", b""),
        (b"arg=/bin/true\0", b""),
        (b"cwd=/\0", b""),
        (b"launch 1", b"launch 2"),
    ],
)
def test_missing_and_relative_parts_are_refused(old: bytes, new: bytes) -> None:
    """A program, a directory and a umask are needed, all unmistakable."""
    assert old in VALID
    with pytest.raises(seat.RefusedError):
        _ = seat.parse(VALID.replace(old, new))


def test_a_refusal_repeats_nothing() -> None:
    """The words of a refusal hold nothing of the frame, which may hold a secret."""
    with pytest.raises(seat.RefusedError) as caught:
        _ = seat.parse(VALID.replace(b"end\0", b"env=B=canary-value\0end\0"))
    assert "canary" not in str(caught.value)


def test_a_frame_too_large_is_refused_on_both_sides() -> None:
    """Neither end handles more than four megabytes."""
    with pytest.raises(WorkloadStartError, match="too large"):
        _ = LaunchFrame(("/bin/true",), {"A": "x" * LIMIT_BYTES}, {}, "/").encode()
    with pytest.raises(seat.RefusedError, match="too large"):
        _ = seat.parse(b"x" * (LIMIT_BYTES + 1))


def test_a_name_is_plain_or_secret() -> None:
    """A variable given both ways is an error, as nobody could say which one counts."""
    with pytest.raises(WorkloadStartError, match="A is both"):
        _ = LaunchFrame(("/bin/true",), {"A": "1"}, {"A": SecretStr("2")}, "/").encode()


def test_a_nul_in_a_secret_is_refused_without_its_value() -> None:
    """A NUL would end the record early; the refusal names the variable only."""
    with pytest.raises(WorkloadStartError) as caught:
        _ = LaunchFrame(("/bin/true",), {}, {"A": SecretStr("canary\0x")}, "/").encode()
    assert "env A" in str(caught.value)
    assert "canary" not in str(caught.value)
