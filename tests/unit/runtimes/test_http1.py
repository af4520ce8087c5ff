"""Responses as the HTTP client reads them, however their bytes are split."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, final

from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from orchestrator.errors import AgentsError, TargetLostError, UpstreamProtocolError
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http1 import (
    Exchange,
    HttpClient,
    _Connection,
    body_of,
    head,
    with_body,
    without_body,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS = Address("/mcp", port=80)
BODY = b'{"jsonrpc":"2.0","id":1,"result":{}}'


@final
class Heard(Exchange):
    """Remembers what it hears."""

    def __init__(self) -> None:
        """Ask for nothing in particular."""
        super().__init__(b"POST / HTTP/1.1\r\n\r\n")
        self.status = 0
        self.headers: Mapping[bytes, bytes] = {}
        self.body = b""
        self.is_whole = False
        self.error: AgentsError | None = None

    @override
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        assert self.status == 0
        self.status, self.headers = status, headers

    @override
    def took_piece(self, piece: bytes) -> None:
        assert self.status
        assert not self.is_whole
        self.body += piece

    @override
    def ended(self) -> None:
        assert not self.is_whole
        assert self.error is None
        self.is_whole = True

    @override
    def failed(self, error: AgentsError) -> None:
        assert not self.is_whole
        assert self.error is None
        self.error = error


@final
class Wire(asyncio.Transport):
    """Takes what is written, and is closed when it is told."""

    def __init__(self) -> None:
        """Be open."""
        super().__init__()
        self.written = b""
        self.is_closed = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    @override
    def close(self) -> None:
        self.is_closed = True

    @override
    def abort(self) -> None:
        self.is_closed = True

    @override
    def get_write_buffer_size(self) -> int:
        return 0


def read(pieces: list[bytes], *, ends: bool = False) -> tuple[Heard, Wire]:
    """Let one connection read these, and perhaps the end."""

    async def run() -> tuple[Heard, Wire]:
        client = HttpClient(ADDRESS, lambda: 0.0)
        connection, wire, heard = _Connection(client), Wire(), Heard()
        connection.connection_made(wire)
        connection.send(heard)
        for piece in pieces:
            if not wire.is_closed:
                connection.data_received(piece)
        if ends and not wire.is_closed:
            connection.connection_lost(None)
        client.close()
        return heard, wire

    return asyncio.run(run())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at some places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def response(*lines: str, body: bytes = b"") -> bytes:
    """Write a response."""
    return "\r\n".join((*lines, "", "")).encode() + body


LENGTH = f"Content-Length: {len(BODY)}"
PLAIN = response("HTTP/1.1 200 OK", "Content-Type: application/json", LENGTH, body=BODY)
INTERIM = response("HTTP/1.1 103 Early Hints", "link: x") + response("HTTP/1.1 100 Continue")
CHUNKED = response(
    "HTTP/1.1 200 OK",
    "transfer-encoding: chunked",
    body=b"10\r\n"
    + BODY[:16]
    + b"\r\n%x;x=y\r\n" % (len(BODY) - 16)
    + BODY[16:]
    + b"\r\n0\r\nSet-Cookie: a\r\n\r\n",
)
UNTIL_END = response("HTTP/1.0 200 OK", "content-type: text/event-stream", body=BODY)
PLACES = st.lists(st.integers(0, 400), max_size=12)


@given(st.sampled_from([PLAIN, INTERIM + PLAIN, CHUNKED]), PLACES)
def test_any_split_gives_the_same_response(data: bytes, places: list[int]) -> None:
    """Whole responses are heard once, without interim ones and trailers."""
    heard, wire = read(cut(data, places))
    assert (heard.status, heard.body, heard.is_whole, heard.error) == (200, BODY, True, None)
    assert b"set-cookie" not in heard.headers
    assert b"link" not in heard.headers
    assert wire.written == heard.request


@given(PLACES)
def test_a_body_until_the_end(places: list[int]) -> None:
    """A body without a length is whole when the connection ends, and not before."""
    heard, _ = read(cut(UNTIL_END, places), ends=True)
    assert (heard.body, heard.is_whole, heard.error) == (BODY, True, None)


@given(st.sampled_from([PLAIN, CHUNKED]), st.data())
def test_a_response_that_was_cut_off(whole: bytes, data: st.DataObject) -> None:
    """No beginning of a response is taken for all of it."""
    length = data.draw(st.integers(0, len(whole) - 1))
    heard, _ = read([whole[:length]], ends=True)
    assert not heard.is_whole
    assert isinstance(heard.error, TargetLostError)


@given(st.binary(max_size=300), PLACES)
def test_rubbish(data: bytes, places: list[int]) -> None:
    """Whatever comes is heard as a response, as none, or not at all; nothing else happens."""
    heard, _ = read(cut(b"HTTP/1.1 " + data, places), ends=True)
    assert heard.is_whole or isinstance(heard.error, TargetLostError | UpstreamProtocolError)


@given(PLACES)
def test_a_connection_with_a_second_response_is_not_kept(places: list[int]) -> None:
    """What comes after a response is heard by nobody, and nothing is sent there any more."""
    heard, wire = read(cut(PLAIN + PLAIN, places))
    assert (heard.body, heard.is_whole) == (BODY, True)
    assert wire.is_closed


def test_requests_are_written_as_they_are() -> None:
    """A head names the address; a body has its length."""
    begun = head("POST", ADDRESS, [("a", "b")])
    assert begun == b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:80\r\na: b\r\n"
    request = with_body(begun, b"\r\n\r\n")
    assert request == begun + b"content-length: 4\r\n\r\n\r\n\r\n"
    assert body_of(request) == b"\r\n\r\n"
    assert without_body(begun) == begun + b"\r\n"
