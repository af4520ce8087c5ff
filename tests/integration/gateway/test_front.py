"""The front as any program on the machine sees it: bytes on a real socket, good, bad or none."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import uvloop
from structlog.testing import capture_logs
from uvicorn import Config
from uvicorn.server import ServerState

from orchestrator.gateway.asgi import Body, Start
from orchestrator.gateway.front import HEAD_SECONDS, MAX_PIPELINED, Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from orchestrator.gateway.asgi import Receive, Scope, Send

GET = b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"
GET_SAYS = b"GET /a ?x=1 0 host"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
POST_SAYS = b"POST /p ? 5 content-length,host"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
    b"2\r\nlo\r\n0\r\nX-Trailer: y\r\n\r\n",
)
REFUSED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# Far more than the system keeps for two sockets.
MUCH = 40_000_000
PIECE = b"z" * 100_000
# With this, what takes half a minute takes less than two seconds.
QUICK = 20.0


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    """Write a request without a body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: h", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(slots=True)
class Answer:
    """One reply, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """One connection of a caller that writes its bytes by hand."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def send(self, *pieces: bytes) -> None:
        """Send one piece after the other."""
        for piece in pieces:
            self.socket.sendall(piece)

    def send_until_stuck(self, data: bytes) -> int:
        """Send until nothing more is taken; tell how much was."""
        sent, self_timeout = 0, self.socket.gettimeout()
        self.socket.settimeout(0.2)
        try:
            while sent < len(data):
                sent += self.socket.send(data[sent : sent + 1_000_000])
        except TimeoutError:
            pass
        self.socket.settimeout(self_timeout)
        return sent

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            return False
        self._held += data
        return bool(data)

    def line(self) -> str:
        """Read up to a line end."""
        while b"\r\n" not in self._held:
            assert self._more(), self._held
        line, _, self._held = self._held.partition(b"\r\n")
        return line.decode("latin-1")

    def take(self, size: int) -> bytes:
        """Read so many bytes; fewer if there are no more."""
        while len(self._held) < size and self._more():
            pass
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def rest(self) -> bytes:
        """Read to the end of the connection."""
        while self._more():
            pass
        held, self._held = self._held, b""
        return held

    def head(self) -> Answer:
        """Read the head of a reply."""
        status = int(self.line().split()[1])
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.partition(": ")
            headers[name] = value
        return Answer(status, headers, b"")

    def body(self, answer: Answer) -> bytes:
        """Read the body that belongs to a head."""
        if "content-length" in answer.headers:
            return self.take(int(answer.headers["content-length"]))
        if "transfer-encoding" not in answer.headers:
            return self.rest()
        pieces: list[bytes] = []
        while size := int(self.line(), 16):
            pieces.append(self.take(size))
            assert self.line() == ""
        assert self.line() == ""
        return b"".join(pieces)

    def answer(self) -> Answer:
        """Read one reply."""
        answer = self.head()
        answer.body = self.body(answer)
        return answer

    def ask(self, *pieces: bytes) -> Answer:
        """Send a request, and read the reply."""
        self.send(*pieces)
        return self.answer()


class _QuickLoop:
    """An event loop in which time passes faster."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float) -> None:
        self._loop = loop
        self._speed = speed
        self.create_task = loop.create_task

    def time(self) -> float:
        return self._loop.time() * self._speed

    def call_later(self, delay: float, act: Callable[[], object]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay / self._speed, act)


@dataclass(slots=True)
class Front:
    """Connections of the front, with an application that plays what a path says."""

    speed: float
    listener: socket.socket
    state: ServerState = field(default_factory=ServerState)
    told: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue[str])
    lines: list[Line] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, is_ready: threading.Event) -> None:
        """Serve until told to stop."""
        loop = self._loop = asyncio.get_running_loop()
        config = Config(self.play, timeout_keep_alive=round(HEAD_SECONDS), log_config=None)
        config.loaded_app = self.play
        seen = cast("asyncio.AbstractEventLoop", cast("object", _QuickLoop(loop, self.speed)))
        make = partial(Connection, config, self.state, {}, seen)
        async with await loop.create_server(make, sock=self.listener):
            is_ready.set()
            _ = await self._over.wait()
            for connection in tuple(self.state.connections):
                cast("Connection", cast("object", connection)).abort()

    def do(self, act: Callable[[], object]) -> None:
        """Do something in the server's thread."""
        assert self._loop is not None
        _ = self._loop.call_soon_threadsafe(act)

    def open_gate(self) -> None:
        """Let go on what waits."""
        self.do(self._gate.set)

    def stop(self) -> None:
        """End."""
        for line in self.lines:
            line.socket.close()
        self.do(self._over.set)

    def shut_down(self) -> None:
        """Have every connection shut down, as uvicorn does."""

        def act() -> None:
            for connection in tuple(self.state.connections):
                connection.shutdown()
            self.told.put("shut down")

        self.do(act)
        self.expect("shut down")

    def connect(self) -> Line:
        """Open a connection."""
        line = Line(cast("int", self.listener.getsockname()[1]))
        self.lines.append(line)
        return line

    def until_left(self) -> None:
        """Wait until nobody is connected: the server may learn it after its callers did."""
        until = time.monotonic() + 30
        while self.state.connections:
            assert time.monotonic() < until
            time.sleep(0.01)

    def expect(self, word: str) -> None:
        """Wait for a word of the application."""
        assert self.told.get(timeout=30) == word

    async def play(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the application."""
        match scope["path"].removeprefix("/"):
            case "early":
                await _send(send, b"no", status=401)
            case "boom":
                raise ValueError("boom")
            case "split":
                await _send(send, b"", headers=[(b"x", b"a\r\nb: c")])
            case "short":
                await _send(send, b"12", headers=[(b"content-length", b"3")])
            case "torn" | "stream" | "big" as way:
                await self._stream(way, send)
            case "hang":
                _ = await receive()
                self.told.put("waits")
                self.told.put((await receive()).get("type", ""))
            case "gated":
                self.told.put("waits")
                _ = await self._gate.wait()
                await self._echo(scope, receive, send)
            case _:
                await self._echo(scope, receive, send)

    async def _stream(self, way: str, send: Send) -> None:
        """Send a reply of no told length."""
        await send(Start(type="http.response.start", status=200, headers=[]))
        if way == "torn":
            await send(Body(type="http.response.body", body=b"part", more_body=True))
            raise ValueError("torn")
        if way == "stream":
            self.told.put("streams")
            _ = await self._gate.wait()
            await send(Body(type="http.response.body", body=b"data: x\n\n", more_body=True))
        else:
            for _ in range(MUCH // len(PIECE)):
                await send(Body(type="http.response.body", body=PIECE, more_body=True))
            self.told.put("sent")
        await send(Body(type="http.response.body", body=b"", more_body=False))

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message.get("type") == "http.disconnect":
                self.told.put("http.disconnect")
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        names = b",".join(sorted(name for name, _ in scope["headers"]))
        path = scope["path"].encode()
        said = (scope["method"].encode(), path, b"?" + scope["query_string"], b"%d" % size, names)
        await _send(send, b" ".join(said))


async def _send(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    given = headers or [(b"content-length", b"%d" % len(body))]
    await send(Start(type="http.response.start", status=status, headers=given))
    await send(Body(type="http.response.body", body=body, more_body=False))


def _open_front(speed: float) -> Generator[Front]:
    """Serve on the loop that the gateway runs on; the caller is another thread, and blocks."""
    front = Front(speed, socket.create_server(("127.0.0.1", 0)))
    is_ready = threading.Event()
    thread = threading.Thread(target=lambda: uvloop.run(front.serve(is_ready)))
    thread.start()
    try:
        assert is_ready.wait(30)
        yield front
    finally:
        front.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def front() -> Generator[Front]:
    """Give a front with time as it is."""
    yield from _open_front(1.0)


@pytest.fixture
def quick() -> Generator[Front]:
    """Give a front for which time passes fast."""
    yield from _open_front(QUICK)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        pytest.param((GET,), GET_SAYS, id="no body"),
        pytest.param((POST,), POST_SAYS, id="whole"),
        pytest.param((POST[:-5], POST[-5:]), POST_SAYS, id="head and body"),
        pytest.param(
            tuple(POST[at : at + 7] for at in range(0, len(POST), 7)), POST_SAYS, id="sevens"
        ),
        pytest.param(tuple(POST[at : at + 1] for at in range(len(POST))), POST_SAYS, id="bytes"),
        pytest.param(CHUNKED, b"POST /p ? 5 host,transfer-encoding", id="chunks"),
        pytest.param((b"\r\n\r\n", GET), GET_SAYS, id="behind empty lines"),
    ],
)
def test_a_request_is_read_however_it_is_cut(
    front: Front, pieces: tuple[bytes, ...], says: bytes
) -> None:
    """The same request comes in any pieces, twice on one connection."""
    line = front.connect()
    for _ in range(2):
        answer = line.ask(*pieces)
        assert (answer.status, answer.body) == (200, says)
        assert answer.headers == {"content-length": str(len(says))}


def test_pipelined_requests_are_answered_in_their_order(front: Front) -> None:
    """Later requests wait for the reply to the first one, also when it takes long."""
    line = front.connect()
    line.send(get("/gated") + GET + POST)
    front.expect("waits")
    front.open_gate()
    bodies = [line.answer().body for _ in range(3)]
    assert bodies == [b"GET /gated ? 0 host", GET_SAYS, POST_SAYS]
    assert line.ask(GET).body == GET_SAYS


def test_a_flood_of_requests_in_one_piece_is_cut_short(front: Front) -> None:
    """So many requests are answered in one go as anybody could mean, and no more are read."""
    line = front.connect()
    line.send(GET * 5_000)
    replies = line.rest().count(b"HTTP/1.1 200")
    assert MAX_PIPELINED <= replies <= MAX_PIPELINED + 1


def test_a_caller_that_asks_whether_to_go_on_is_told(front: Front) -> None:
    """`Expect: 100-continue` is answered when somebody wants the body, and goes no further."""
    line = front.connect()
    line.send(b"POST /p HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert line.head().status == 100
    assert line.ask(b"hello").body == POST_SAYS


def test_head_tells_the_length_alone(front: Front) -> None:
    """A reply to HEAD has the head of the other, and nothing behind it."""
    line = front.connect()
    line.send(get("/h", method="HEAD"))
    assert line.head().headers == {"content-length": "16"}
    assert line.ask(GET).body == GET_SAYS


@pytest.mark.parametrize("headers", [(), ("Connection: keep-alive",)])
def test_old_callers_get_one_reply(front: Front, headers: tuple[str, ...]) -> None:
    """To HTTP/1.0 the connection's end is the reply's end, and no piece has a length."""
    answer = (line := front.connect()).ask(get("/o", *headers, version="1.0"))
    assert answer.body.startswith(b"GET /o ? 0 ")
    assert (answer.headers["connection"], line.rest()) == ("close", b"")
    front.open_gate()
    answer = front.connect().ask(get("/stream", *headers, version="1.0"))
    assert (answer.headers, answer.body) == ({"connection": "close"}, b"data: x\n\n")


def test_a_caller_that_closes_gets_one_reply(front: Front) -> None:
    """Behind `Connection: close` nothing is answered."""
    line = front.connect()
    answer = line.ask(get("/x", "Connection: close") + GET)
    assert (answer.headers["connection"], line.rest()) == ("close", b"")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"Content-Length: 5\r\n\r\nhello",), id="at once"),
        pytest.param((b"Content-Length: 5\r\n\r\n", b"hel", b"lo"), id="later"),
        pytest.param(
            (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\n\r\n"), id="chunks"
        ),
    ],
)
def test_an_upgrade_does_not_take_place(front: Front, pieces: tuple[bytes, ...]) -> None:
    """Who wants another protocol is answered in this one, with its body, as often as it asks."""
    line = front.connect()
    head = get("/u", "Connection: Upgrade", "Upgrade: h2c", method="POST")[:-2]
    for _ in range(2):
        answer = line.ask(head + pieces[0], *pieces[1:])
        assert (answer.status, answer.body.split()[:4]) == (200, [b"POST", b"/u", b"?", b"5"])
    assert line.ask(get("/u", "Connection: Upgrade", "Upgrade: websocket") + GET).status == 200
    assert line.answer().body == GET_SAYS


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\r\n\r\n", id="TLS"),
        pytest.param(CHUNKED[0][:-8] + b"ZZ\r\n", id="a chunk's length"),
        pytest.param(
            POST[:-9] + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks too"
        ),
        pytest.param(POST[:-9] + b"\r\nContent-Length: 6\r\n\r\nhello!", id="two lengths"),
        pytest.param(get("h:1", method="CONNECT"), id="CONNECT"),
        pytest.param(get("http://other/abs"), id="another host"),
        pytest.param(get("http://h:1/abs"), id="another port"),
        pytest.param(get("http://u@h/abs"), id="a name before the host"),
        pytest.param(get("http://h/abs", "Host: other"), id="another host behind"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nx: a\nb: c\r\n\r\n", id="a line end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nx : a\r\n\r\n", id="a space"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\n x: a\r\n\r\n", id="a folded line"),
    ],
)
def test_what_is_no_http_is_refused(front: Front, data: bytes) -> None:
    """It gets a 400 and the end of the connection; two readers could take it for two things."""
    line = front.connect()
    line.send(data)
    assert line.rest() == REFUSED
    assert front.connect().ask(GET).body == GET_SAYS


def test_rubbish_does_not_take_away_the_replies_before_it(front: Front) -> None:
    """Requests that came in one piece with it are all answered, and the connection ends."""
    line = front.connect()
    line.send(GET + GET + b"rubbish\r\n\r\n")
    assert line.rest().count(b"HTTP/1.1 200") == 2


def test_rubbish_does_not_take_away_the_reply_before_it(front: Front) -> None:
    """What was asked before the rubbish came is answered, then the connection ends."""
    line = front.connect()
    answer = line.ask(GET + b"NOPE\r\n\r\n")
    assert (answer.body, line.rest()) == (GET_SAYS, b"")
    line = front.connect()
    line.send(get("/gated"))
    front.expect("waits")
    line.send(b"NOPE\r\n\r\n")
    front.open_gate()
    assert line.answer().body == b"GET /gated ? 0 host"
    assert line.rest() == b""


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://h/abs?q", b"GET /abs ?q 0 host"),
        ("*", b"GET * ? 0 host"),
        ("/%41%2fb?%41", b"GET /A/b ?%41 0 host"),
    ],
)
def test_targets_are_paths(front: Front, target: str, says: bytes) -> None:
    """Whatever form a target has, the application sees its path, decoded once."""
    assert front.connect().ask(get(target)).body == says


def test_a_reply_may_come_before_the_body(front: Front) -> None:
    """Who was refused early sends the rest of the body, then asks again."""
    line = front.connect()
    answer = line.ask(
        b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n", b"x" * 200_000
    )
    assert (answer.status, answer.body) == (401, b"no")
    assert line.ask(GET).body == GET_SAYS


@pytest.mark.parametrize("path", ["/boom", "/split"])
def test_an_application_that_fails_answers_500(front: Front, path: str) -> None:
    """The caller learns that something failed and nothing more; a header cannot be split."""
    with capture_logs() as logs:
        line = front.connect()
        line.send(get(path))
        assert line.rest() == FAILED
    assert [log["event"] for log in logs] == ["unexpected_error"]


@pytest.mark.parametrize("path", ["/torn", "/short"])
def test_a_torn_reply_is_not_taken_for_whole(front: Front, path: str) -> None:
    """A reply that the application did not end has no end for the caller either."""
    with capture_logs():
        line = front.connect()
        line.send(get(path))
        told = line.rest()
    assert told == FAILED or (b"4\r\npart\r\n" in told and not told.endswith(b"0\r\n\r\n"))


def test_bodies_wait_for_their_reader(front: Front) -> None:
    """A body that nobody reads yet stays with the caller; read, it comes whole."""
    line = front.connect()
    line.send(b"POST /gated HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % MUCH)
    front.expect("waits")
    data = PIECE * (MUCH // len(PIECE))
    sent = line.send_until_stuck(data)
    assert sent < MUCH
    front.open_gate()
    assert line.ask(data[sent:]).body == b"POST /gated ? %d content-length,host" % MUCH
    assert line.ask(GET).body == GET_SAYS


def test_requests_wait_for_their_replies(front: Front) -> None:
    """Who sends requests without end, and waits for no reply, is not read any more."""
    line = front.connect()
    line.send(get("/gated"))
    front.expect("waits")
    assert line.send_until_stuck(GET * (MUCH // len(GET))) < MUCH


def test_replies_wait_for_their_reader(front: Front) -> None:
    """A reply that the caller does not read stops the application; read, it comes whole."""
    line = front.connect()
    line.send(get("/big"))
    head = line.head()
    with pytest.raises(queue.Empty):
        _ = front.told.get(timeout=0.2)
    assert len(line.body(head)) == MUCH
    front.expect("sent")


@pytest.mark.parametrize("path", ["/hang", "/p"])
def test_a_hang_up_is_told(front: Front, path: str) -> None:
    """The application learns that its caller is gone, in the body and behind it."""
    line = front.connect()
    if path == "/hang":
        line.send(get(path))
        front.expect("waits")
    else:
        line.send(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhello")
    line.socket.close()
    front.expect("http.disconnect")


def test_a_caller_that_closes_its_half_is_gone(front: Front) -> None:
    """Nothing tells half a close from a whole one before something is written."""
    line = front.connect()
    line.send(get("/hang"))
    front.expect("waits")
    line.socket.shutdown(socket.SHUT_WR)
    front.expect("http.disconnect")
    assert line.rest() == b""


def test_nobody_keeps_a_connection_by_saying_nothing(quick: Front) -> None:
    """Whoever neither sends nor reads what is due loses the connection."""
    said = (b"", b"GET / HT", b"\r\n" * 10, POST[:-2], GET, get("/big"))
    lines = [quick.connect() for _ in said]
    for line, data in zip(lines, said, strict=True):
        line.send(data)
    assert [line.rest() for line in lines[:4]] == [b""] * 4
    assert lines[4].rest().endswith(GET_SAYS)
    quick.until_left()  # nothing tells that the last one was cut: who reads is not cut
    assert not lines[5].rest().endswith(b"0\r\n\r\n")


def test_listeners_and_workers_have_time(quick: Front) -> None:
    """A stream, and a request that takes long, outlast what a silent connection is given."""
    stream, call = quick.connect(), quick.connect()
    stream.send(get("/stream"))
    quick.expect("streams")
    call.send(get("/gated"))
    quick.expect("waits")
    for _ in range(2):
        assert quick.connect().rest() == b""
    quick.open_gate()
    assert stream.answer().body == b"data: x\n\n"
    assert call.answer().body == b"GET /gated ? 0 host"


def test_slow_and_steady_is_enough(quick: Front) -> None:
    """Who sends a body or reads a reply slowly, but does, is served to the end."""
    line = quick.connect()
    line.send(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (40 * 4096))
    for _ in range(40):
        line.send(b"x" * 4096)
        time.sleep(0.05)  # slowness itself is what is tested
    assert line.answer().body == b"POST /p ? %d content-length,host" % (40 * 4096)


def test_shutting_down_ends_what_is_idle_and_finishes_what_is_not(front: Front) -> None:
    """A call in flight gets its reply, which says that the connection ends."""
    idle, busy = front.connect(), front.connect()
    assert idle.ask(GET).body == GET_SAYS
    busy.send(get("/gated"))
    front.expect("waits")
    front.shut_down()
    assert idle.rest() == b""
    front.open_gate()
    answer = busy.answer()
    assert (answer.body, answer.headers["connection"]) == (b"GET /gated ? 0 host", "close")
    assert busy.rest() == b""
    front.until_left()
    assert front.state.total_requests == 2
