"""Heads that a connection has read before: nobody can tell that they were not parsed again."""

import asyncio
import re
from collections.abc import Iterable
from itertools import product

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typing_extensions import override
from uvicorn import Config
from uvicorn.server import ServerState

from orchestrator.gateway.asgi import Body, Receive, Scope, Send, Start
from orchestrator.gateway.front import Connection
from orchestrator.gateway.head import Head, learn, size_of_head

Seen = tuple[str, str, bytes, bytes]

PLAIN = (b"Host: h", b"Accept: application/json")
OTHER = (b"host: other", b"X-A: 1", b"x-a: 2")


def request(
    lines: Iterable[bytes], body: bytes, *, path: bytes = b"/r/mcp", framing: str = "length"
) -> bytes:
    """Write a request."""
    head = [b"POST " + path + b" HTTP/1.1", *lines]
    if framing == "length":
        head.append(b"Content-Length: %d" % len(body))
    elif framing == "zeros":
        head.insert(1, b"content-length:  00%d" % len(body))
    elif framing == "chunks":
        head.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        body += b"0\r\n\r\n"
    elif framing == "get":
        head[0], body = b"GET " + path + b" HTTP/1.1", b""
    elif framing == "upgrade":
        head += [b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", b""]) + body


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.written = b""
        self.is_open = True
        self.reads = asyncio.Event()
        self.reads.set()

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += bytes(data)

    @override
    def close(self) -> None:
        """End it."""
        self.is_open = False

    @override
    def abort(self) -> None:
        """End it."""
        self.is_open = False

    @override
    def pause_reading(self) -> None:
        """Let what comes wait."""
        self.reads.clear()

    @override
    def resume_reading(self) -> None:
        """Let it come."""
        self.reads.set()


class World:
    """One connection, and an application that tells what it saw."""

    def __init__(self, *, is_direct: bool) -> None:
        """Open the connection.

        Args:
            is_direct: Whether the application speaks to the front beside ASGI.
        """
        self.seen: list[Seen] = []
        self.is_direct = is_direct
        config = Config(self.answer, lifespan="off", interface="asgi3", log_config=None)
        config.load()
        self.state = ServerState()
        self.connection = Connection(config, self.state, {})
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell head and body, and answer with how many there were."""
        direct = scope.get("direct") if self.is_direct else None
        body = None if direct is None else direct.take_whole()
        more = body is None
        body = body or b""
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        head = Head(scope["method"], scope["headers"]) if direct is None else direct.head
        assert head.values == dict(scope["headers"])
        told = b",".join(b"%b=%b" % header for header in head.raw)
        self.seen.append((scope["method"], scope["path"], told, body))
        said = b"%d;" % len(self.seen)
        lines = b"content-length: %d\r\n" % len(said)
        if direct is None or not direct.reply(200, lines, said):
            start = Start(type="http.response.start", status=200, headers=[])
            start["headers"].append((b"content-length", b"%d" % len(said)))
            await send(start)
            await send(Body(type="http.response.body", body=said, more_body=False))

    async def feed(self, pieces: Iterable[bytes], *, waits: bool) -> None:
        """Give bytes in pieces, each when the one before has been answered or at once."""
        for piece in pieces:
            _ = await self.transport.reads.wait()
            if not self.transport.is_open:
                return
            self.connection.data_received(piece)
            if waits:
                await self.settle()
        await self.settle()

    async def settle(self) -> None:
        """Let the application come to its end."""
        for _ in range(20):
            await asyncio.sleep(0)

    def end(self) -> None:
        """Lose the connection."""
        self.connection.connection_lost(None)


def play(pieces: list[bytes], *, waits: bool, is_direct: bool) -> tuple[list[Seen], bytes]:
    """Tell what an application sees of such pieces, and what it answers."""

    async def go() -> tuple[list[Seen], bytes]:
        world = World(is_direct=is_direct)
        with anyio.fail_after(30):
            await world.feed(pieces, waits=waits)
        world.end()
        return world.seen, world.transport.written

    return asyncio.run(go())


INNER = request(PLAIN, b"a")
FRAMINGS = ("length", "length", "length", "zeros", "chunks", "get", "upgrade")
REQUESTS = st.builds(
    request,
    st.sampled_from([PLAIN, PLAIN, OTHER]),
    # A body may be a request by itself, which must not be taken for one.
    st.sampled_from([b"", b"a", b"a", b"{}" * 7, b"x" * 100, INNER, INNER + b"\r\n"]),
    framing=st.sampled_from(FRAMINGS),
)


@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=6), st.lists(st.integers(1, 200)))
@example([INNER, INNER, INNER], [])
@example([INNER, request(PLAIN, b"x" * 12)] * 2, [])
@example([INNER, request(PLAIN, INNER), INNER], [])
@example([INNER, request(OTHER, INNER), INNER], [])
@example([INNER, request(OTHER, INNER, framing="chunks"), INNER], [])
@example([INNER, request(PLAIN, INNER, framing="upgrade"), INNER], [])
@example([INNER, INNER + b"P", INNER[1:]], [])
def test_any_split_is_read_alike(requests: list[bytes], cuts: list[int]) -> None:
    """What comes request by request, or in any pieces, is read as each request by itself."""
    whole = b"".join(requests)
    expected, written = play([bytes([byte]) for byte in whole], waits=False, is_direct=False)
    answers = _bodies(written)
    assert answers
    pieces: list[bytes] = []
    for cut in cuts:
        pieces.append(whole[:cut])
        whole = whole[cut:]
    pieces.append(whole)
    at_each_head = [one for one in re.split(rb"(?=POST |GET )", b"".join(requests)) if one]
    for way in ([*requests], [piece for piece in pieces if piece], at_each_head):
        for waits, is_direct in product((True, False), repeat=2):
            seen, written = play(way, waits=waits, is_direct=is_direct)
            assert seen == expected
            assert _bodies(written) == answers


def _bodies(written: bytes) -> bytes:
    """Read the bodies of replies."""
    bodies = b""
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        bodies, written = bodies + rest[:length], rest[length:]
    return bodies


def test_a_head_is_found_again_with_any_length() -> None:
    """Only the digits of the body's length may differ, and are read anew."""
    text = request(PLAIN, b"12345")[:-5]
    headers = [(b"host", b"h"), (b"accept", b"application/json"), (b"content-length", b"5")]
    scope = Scope(type="http", method="POST", path="/r/mcp", query_string=b"", headers=headers)
    known = learn(text, scope, Head("POST", headers))
    assert known is not None
    known.head.tool = "echo"
    assert known.find(text + b"12345") == len(text)
    longer = text.replace(b": 5", b": 123")
    assert known.find(longer + b"1") == len(longer)
    assert (known.length, known.head.values[b"content-length"]) == (123, b"123")
    assert known.head.tool == "echo"
    assert [*known.scope["headers"]][2] == (b"content-length", b"123")
    assert known.head.raw == known.scope["headers"]
    assert headers[2] == (b"content-length", b"5")


@pytest.mark.parametrize(
    "length", [b"", b"5 ", b"+5", b"-5", b"5,5", b"0x5", b"123456", b"5\r\nX: y", b"\xb2"]
)
def test_a_head_with_another_length_than_digits_is_not_found(length: bytes) -> None:
    """What is no plain number is left to the parser."""
    text = request(PLAIN, b"12345")[:-5]
    headers = [(b"host", b"h"), (b"accept", b"application/json"), (b"content-length", b"5")]
    scope = Scope(type="http", method="POST", path="/r/mcp", query_string=b"", headers=headers)
    known = learn(text, scope, Head("POST", headers))
    assert known is not None
    assert known.find(text.replace(b": 5", b": " + length)) == 0
    assert known.find(text[:-1]) == 0
    assert known.find(text.replace(b"POST", b"GET ")) == 0
    assert known.length == 5


@pytest.mark.parametrize(
    "line",
    [
        (b"Transfer-Encoding: chunked", b"transfer-encoding", b"chunked"),
        (b"Expect: 100-continue", b"expect", b"100-continue"),
        (b"Upgrade: h2c", b"upgrade", b"h2c"),
        (b"Content-Length: 5", b"content-length", b"5"),
        (b"X-Long: " + b"x" * 2048, b"x-long", b"x" * 2048),
    ],
)
def test_odd_heads_are_parsed_each_time(line: tuple[bytes, bytes, bytes]) -> None:
    """Where a head tells more than a body of some length, it is not kept."""
    text = request((*PLAIN, line[0]), b"12345")[:-5]
    headers = [(b"host", b"h"), (b"accept", b"application/json"), line[1:]]
    headers.append((b"content-length", b"5"))
    scope = Scope(type="http", method="POST", path="/r/mcp", query_string=b"", headers=headers)
    assert learn(text, scope, Head("POST", headers)) is None


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"A: b\r\n\r\nrest\n", 8),
        (b"A: b\r\n\r\n", 8),
        (b"A: b\r\n", 0),
        (b"A: b\n\r\n\r\n", 0),
        (b"A: b\rc\r\n\r\n", 0),
        (b"", 0),
    ],
)
def test_the_end_of_a_head_is_certain(data: bytes, size: int) -> None:
    """Lines that end in another way leave it open where a head ends."""
    assert size_of_head(data) == size


def test_a_head_that_comes_again_is_found_again() -> None:
    """One request with another head in between changes nothing; two do, as they may go on."""

    async def go() -> list[Head]:
        heads: list[Head] = []

        async def answer(scope: Scope, _: Receive, __: Send) -> None:
            direct = scope.get("direct")
            assert direct is not None
            assert direct.take_whole() == b"a"
            heads.append(direct.head)
            assert direct.reply(200, b"content-length: 1\r\n", b"x")

        config = Config(answer, lifespan="off", interface="asgi3", log_config=None)
        config.load()
        connection = Connection(config, ServerState(), {})
        connection.connection_made(Transport())
        other = request(OTHER[:2], b"a")
        for data in (INNER, INNER, other, INNER, other, other, other, INNER):
            connection.data_received(data)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return heads

    heads = asyncio.run(go())
    names = {id(head): number for number, head in reversed([*enumerate(heads)])}
    assert [names[id(head)] for head in heads] == [0, 0, 2, 0, 4, 5, 5, 7]


SIZE = len(INNER)
LATE = request(PLAIN, INNER)
ODD = request(OTHER, INNER)
NESTED = request(OTHER[:2], b"a")
NEST = request(OTHER[:2], NESTED)
CHUNKS = request(OTHER, INNER, framing="chunks")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([LATE, LATE[:-SIZE], LATE[-SIZE:], LATE], id="of a known head"),
        pytest.param([INNER, ODD[:-SIZE], ODD[-SIZE:], INNER], id="of another head"),
        pytest.param([INNER, ODD[: 5 - SIZE], ODD[5 - SIZE :], INNER], id="begun"),
        pytest.param([INNER, CHUNKS[: -SIZE - 7], INNER, b"\r\n0\r\n\r\n", INNER], id="in chunks"),
        pytest.param([INNER, INNER + b"PO", b"ST" + INNER[4:]], id="behind half a word"),
        pytest.param([NEST[: -len(NESTED)], NESTED, NESTED, NESTED], id="of a head just learned"),
        pytest.param([INNER, ODD[:9], ODD[9:-SIZE], INNER, INNER], id="behind a head in pieces"),
    ],
)
def test_a_body_after_the_answer_is_no_request(pieces: list[bytes]) -> None:
    """Who answers before the body has come leaves the body to be passed over."""

    async def go() -> tuple[int, bytes]:
        world = World(is_direct=False)
        count = 0

        async def hasty(_: Scope, __: Receive, send: Send) -> None:
            nonlocal count
            count += 1
            start = Start(type="http.response.start", status=200, headers=[])
            start["headers"].append((b"content-length", b"0"))
            await send(start)
            await send(Body(type="http.response.body", body=b"", more_body=False))

        config = Config(hasty, lifespan="off", interface="asgi3", log_config=None)
        config.load()
        world.connection = Connection(config, world.state, {})
        world.connection.connection_made(world.transport)
        with anyio.fail_after(30):
            await world.feed(pieces, waits=True)
        world.end()
        return count, world.transport.written

    count, written = asyncio.run(go())
    assert count == 3
    assert written == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" * 3


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        pytest.param([INNER + b"P", INNER], 1, id="behind a request"),
        pytest.param([ODD[:-5], ODD[-5:] + b"P", ODD], 1, id="behind a body"),
        pytest.param([INNER + b"PO", b"ST" + INNER[4:], b"ST" + INNER[4:]], 2, id="a torn head"),
        pytest.param([INNER, INNER + b"P", INNER], 2, id="behind a known head"),
    ],
)
def test_half_a_word_before_a_head_is_not_overlooked(pieces: list[bytes], count: int) -> None:
    """A head counts only where the parser would begin to read one."""
    seen, written = play(pieces, waits=True, is_direct=True)
    assert len(seen) == count
    assert written.endswith(b"connection: close\r\n\r\n")
    assert written.count(b"HTTP/1.1 400") == 1
