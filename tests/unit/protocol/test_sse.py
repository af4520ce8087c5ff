"""Event-stream framing, whatever the bytes and however they are split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UpstreamProtocolError
from orchestrator.protocol.sse import EventStream

STREAM = (
    '\ufeff: ping\n\nid: 1\ndata:\n\nevent: message\r\ndata: {"a":1}\r\n\r\n'
    "retry: 5\rdata: two\rdata:  lines\r\revent: other\ndata: no\n\nid: 2\ndata: ünï\n\n"
    "id: 3\ndata: unfinished"
).encode()
EVENTS = [b'{"a":1}', b"two\n lines", "ünï".encode()]
LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at some places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def read(pieces: list[bytes]) -> tuple[list[bytes], EventStream]:
    """Read a stream piece by piece."""
    stream = EventStream()
    return [data for piece in pieces for data in stream.feed(piece)], stream


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_events(places: list[int]) -> None:
    """However the bytes are split, the same events come out; unfinished ones do not."""
    found, stream = read(cut(STREAM, places))
    assert found == EVENTS
    assert (stream.last_id, stream.retry_ms) == (b"2", 5)


@given(st.lists(TEXTS), LINE_ENDS, st.lists(st.integers(0, 2_000), max_size=20))
def test_what_is_written_is_read(texts: list[str], end: bytes, places: list[int]) -> None:
    """Events come out as they were written, with any of the three line ends and any split."""
    written = b"".join(b"data: " + text.encode() + end + end for text in texts)
    found, _ = read(cut(written, places))
    assert found == [text.encode() for text in texts]


@given(st.binary(), st.lists(st.integers(0, 200), max_size=10))
def test_rubbish_is_read_alike_however_it_is_split(data: bytes, places: list[int]) -> None:
    """No bytes break the reader, and no split of them gives other events."""
    whole, once = read([data])
    parts, split = read(cut(data, places))
    assert parts == whole
    assert split.last_id == once.last_id


def test_ids_that_cannot_be_sent_back_are_no_ids() -> None:
    """An id with a NUL, or one of a kilobyte and more, is passed over."""
    _, stream = read([b"id: 7\ndata: x\n\nid: a\0b\n\nid: " + b"x" * 1_025 + b"\n\n"])
    assert stream.last_id == b"7"


@pytest.mark.parametrize(
    "piece", [b"data: xxxxxxxxxxxxxxxx", b"data\n", b"\xff\x00", b"id: 1\ndata: y\n"]
)
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    """What one event may hold is bounded, in one line or in many."""
    stream = EventStream(limit_bytes=1_000)
    with pytest.raises(UpstreamProtocolError, match="more than 1000 bytes"):
        _ = [stream.feed(piece) for _ in range(2_000)]


def test_many_small_events_are_no_large_one() -> None:
    """The limit is of one event, and an event of its size passes."""
    stream = EventStream(limit_bytes=100)
    event = b"data: " + b"x" * 90 + b"\n\n"
    found = [data for _ in range(100) for data in stream.feed(event)]
    assert found == [b"x" * 90] * 100
