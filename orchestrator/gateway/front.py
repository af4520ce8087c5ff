"""One HTTP/1.1 connection over httptools, with ASGI behind it and bounds in front.

It stands where uvicorn's own protocol would, which costs twice as much per request, keeps a head
of any length and waits for it without end. Here an application starts when the bytes at hand are
read, which with most callers is the whole request; nothing is scheduled per request but the
application's task; a head that was read before on the connection is not parsed again; and what
takes too long is looked for now and then.

The bounds have to hold before anybody showed a token: any local process could otherwise fill the
daemon's memory, or take the descriptors that it keeps its instances alive with.
"""

import asyncio
import resource
from collections import deque
from itertools import islice
from typing import Any, Final, cast, final
from urllib.parse import unquote

import httptools
from typing_extensions import override
from uvicorn import Config
from uvicorn.server import ServerState

from orchestrator.gateway.asgi import Scope
from orchestrator.gateway.cycle import App, Cycle
from orchestrator.gateway.head import Head, KnownHead, learn, size_of_head

HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 10.0
# What has to be read or written between two looks of whoever reads or writes at all.
LEAST_BYTES: Final = 1024
# Requests behind the one that is answered.
MAX_PIPELINED: Final = 64
# Half of the descriptors stay for FIFOs, the database and the engine.
CONNECTIONS: Final = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
# How many connections are looked at for one that can be spared.
_LOOKED_AT: Final = 256

_REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@final
class Connection(asyncio.Protocol):
    """One connection; uvicorn makes it, counts it, and asks it to shut down.

    Attributes:
        drained: Is set when the other end has read enough; None if it has.
    """

    __slots__ = (
        "_answering",
        "_app",
        "_body_bytes",
        "_came",
        "_headers",
        "_heads",
        "_is_between",
        "_is_head_begun",
        "_is_paused",
        "_is_told_again",
        "_keep_alive_seconds",
        "_known",
        "_loop",
        "_misses",
        "_owed",
        "_parser",
        "_queue",
        "_quiet_bytes",
        "_reading",
        "_server",
        "_since",
        "_slow",
        "_timer",
        "_transport",
        "_unsent",
        "_url",
        "drained",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # pyright: ignore[reportExplicitAny] - as uvicorn passes it
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take what uvicorn gives to a protocol."""
        del app_state  # of the lifespan, which is off
        self._app = cast("App", config.loaded_app)
        self._keep_alive_seconds = config.timeout_keep_alive
        self._server = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # The request whose body comes in, the one that is answered, and those that wait for it.
        self._reading: Cycle | None = None
        self._answering: Cycle | None = None
        self._queue: deque[Cycle] = deque()
        # What came since the parser told of anything; it keeps unfinished headers by itself.
        self._quiet_bytes = 0
        self._is_head_begun = False
        self._is_told_again = False
        self._is_paused = False
        # The last head, if it may come again; how much of its body has not come; and whether the
        # parser stands before a request for sure, and has seen nothing of it.
        self._known: KnownHead | None = None
        self._misses = 0  # requests since then with other heads
        self._owed = 0
        self._is_between = True
        # What the parser told of the bytes that it was last given.
        self._heads = 0
        self._body_bytes = 0
        self.drained: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        # What `_look` compares with: when the present wait began, and what moved meanwhile.
        self._since = self._loop.time()
        self._came = 0
        self._unsent = 0
        self._slow: Cycle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)  # pyright: ignore[reportArgumentType] - typed as uvicorn's own protocols
        if len(self._server.connections) > CONNECTIONS and not self._make_room():
            self._transport.abort()
            return
        self._is_head_begun = True  # from now on, even if nothing comes at all
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _make_room(self) -> bool:
        """Cut a connection that waits for its next request, so that idle ones keep nobody out."""
        every = cast("set[Connection]", self._server.connections)
        idle = [
            one
            for one in islice(every, _LOOKED_AT)
            if one._answering is None and one is not self  # noqa: SLF001 - our own class
        ]
        if not idle:
            return False
        longest = min(idle, key=lambda one: one._since)  # noqa: SLF001 - the same
        every.discard(longest)
        longest.abort()
        return True

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._parser = None  # it holds this object
        if self._answering is not None:
            self._answering.lose()
        self._queue.clear()
        self.resume_writing()

    @override
    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        self._came += len(data)
        if self._owed:
            data = self._take_owed(data)
        elif self._known is not None and self._is_between and self._answering is None:
            data = self._take_known(self._known, data)
        if data:
            self._parse(data)

    def _take_known(self, known: KnownHead, data: bytes) -> bytes:
        """Begin a request if its head was read before.

        Returns:
            What is behind it; all if its head is another one.
        """
        size = known.find(data)
        if not size:
            self._misses += 1
            return data
        self._misses = 0
        self._is_head_begun = False
        cycle = Cycle(self, known.scope, known.head, True, False)  # noqa: FBT003 - as said there
        self._reading = self._answering = cycle
        self._owed = known.length
        rest = self._take_owed(data[size:])
        self._start(cycle)
        return rest

    def _take_owed(self, data: bytes) -> bytes:
        """Take the body of a request that the parser does not know.

        Returns:
            What is behind it.
        """
        cycle = self._reading
        body, rest = data[: self._owed], data[self._owed :]
        self._owed -= len(body)
        if cycle is not None:
            if body:
                cycle.take(body)
            if not self._owed:
                cycle.finish_body()
        return rest

    def _parse(self, data: bytes) -> None:
        self._quiet_bytes += len(data)
        was_between, self._is_between = self._is_between, False
        self._heads = self._body_bytes = 0
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse()
            return
        cycle = self._answering
        if cycle is not None and not cycle.is_started:
            self._start(cycle)
        if self._reading is not None:
            self._find_place(data, self._reading, was_between=was_between)
        if self._quiet_bytes:
            if self._quiet_bytes > HEAD_BYTES:
                self._transport.abort()
            elif not self._is_head_begun and (self._reading is None or self._reading.is_whole):
                self._is_head_begun = True
                self._since = self._loop.time()

    def _find_place(self, data: bytes, reading: Cycle, *, was_between: bool) -> None:
        """Find out whether the parser stands exactly behind what it told of, and learn the head.

        Args:
            data: What it was given.
            reading: The last request that it told of.
            was_between: Whether it stood before a request when it was given that.
        """
        size = 0
        if was_between and self._heads == 1:
            size = size_of_head(data)
            if not size or size + self._body_bytes != len(data):
                return
            # Where each is another one, learning is in vain: the longer so, the rarer.
            is_worth = self._misses != 1 and not self._misses & (self._misses - 1)
            if is_worth and reading.keep_alive:
                self._known = learn(data[:size], reading.scope, reading.head)
        elif self._heads or self._body_bytes != len(data):
            return
        self._is_between = reading.is_whole

    def _feed(self, data: bytes) -> None:
        """Have bytes parsed; a request for another protocol stays one of this.

        The parser leaves off behind the head of such a request, as if its body were that protocol
        already. Some clients of HTTP/2 write one with every body that they send.
        """
        while self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                reading, place = self._reading, cast("int", upgrade.args[0])
                if reading is None:
                    return
                reading.is_whole = False
                self._is_told_again = True
                self._parser = httptools.HttpRequestParser(self)
                data = _plain_head(reading.scope) + data[place:]
            else:
                return

    @override
    def pause_writing(self) -> None:
        self.drained = asyncio.Event()
        self._unsent = 0

    @override
    def resume_writing(self) -> None:
        if self.drained is not None:
            self.drained.set()
            self.drained = None

    def shutdown(self) -> None:
        """End the connection when its present reply is out; uvicorn asks for it."""
        if self._answering is None:
            self._transport.close()
        else:
            self._answering.keep_alive = False

    # What httptools tells.

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of those behind a body nobody hears."""
        # Source: RFC 9110, section 5.5: white space around a value is no part of it.
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Make a request of the head."""
        if self._is_told_again:
            self._is_told_again = False
            self._url, self._headers = b"", []
            return
        target, self._url = self._url, b""
        url = httptools.parse_url(target)
        headers, self._headers = self._headers, []
        if url.host:
            _check_authority(target, headers)
        path = url.path.decode("ascii")
        if len(self._queue) >= MAX_PIPELINED:
            # One read may hold ten thousand; whoever means them can wait for replies.
            raise ValueError("too many requests at once")
        if self._parser is None or (
            # It may have come in one piece, with or without a body.
            self._quiet_bytes > HEAD_BYTES and sum(map(_size, headers)) > HEAD_BYTES
        ):
            raise ValueError("the head is too long")
        self._quiet_bytes = 0
        self._heads += 1
        self._is_head_begun = False
        scope: Scope = {
            "type": "http",
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "query_string": url.query or b"",
            "headers": headers,
        }
        is_old = self._parser.get_http_version() == "1.0"
        cycle = self._reading = Cycle(
            self, scope, Head(scope["method"], headers), self._parser.should_keep_alive(), is_old
        )
        if self._answering is None:
            self._answering = cycle
        else:
            self._queue.append(cycle)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._quiet_bytes = 0
        self._body_bytes += len(body)
        if self._reading is not None:
            self._reading.take(body)

    def on_message_complete(self) -> None:
        """Take the end of the body."""
        self._quiet_bytes = 0
        self._headers = []
        if self._reading is not None:
            self._reading.finish_body()

    # What a cycle asks for.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def close(self) -> None:
        """End the connection when all is sent."""
        self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Let what comes in wait."""
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it come in again, unless there are more requests than can be answered."""
        if self._is_paused and not self._queue:
            self._is_paused = False
            self._transport.resume_reading()

    def forget(self, task: "asyncio.Task[None]") -> None:
        """Forget the task of a cycle that is at its end."""
        self._server.tasks.discard(task)

    def complete(self) -> None:
        """Go on with the next request, or wait for one."""
        cycle, self._answering = self._answering, None
        self._server.total_requests += 1
        if cycle is None or not cycle.keep_alive:
            self._transport.close()
            return
        if self._queue:
            self._answering = self._queue.popleft()
            self._start(self._answering)
        self._since = self._loop.time()
        self.resume_reading()

    def _start(self, cycle: Cycle) -> None:
        cycle.is_started = True
        task = cycle.task = self._loop.create_task(cycle.run(self._app))
        self._server.tasks.add(task)

    def _refuse(self) -> None:
        """What came is not HTTP: say so, behind the reply to what was before it."""
        self._parser = None
        self.pause_reading()
        last = self._reading
        if last is None or last.is_complete:
            self._transport.write(_REFUSED)
            self._transport.close()
        elif last.is_whole:
            last.keep_alive = False
            first = self._answering
            if first is not None and not first.is_started:
                self._start(first)
        elif self._answering is last and not last.is_begun:
            last.lose()
            self._transport.write(_REFUSED)
            self._transport.close()
        else:
            self._transport.abort()

    def _look(self) -> None:
        """End the connection if something on it takes too long."""
        now = self._loop.time()
        if self._is_overdue(now - self._since):
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _is_overdue(self, waited: float) -> bool:
        came, self._came = self._came, 0
        if self.drained is not None:
            before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
            return before > 0 and before - self._unsent < LEAST_BYTES
        if self._is_head_begun:
            return waited >= HEAD_SECONDS
        reading = self._reading
        if reading is not None and not reading.is_whole and not self._is_paused:
            before, self._slow = self._slow, reading
            return before is reading and came < LEAST_BYTES
        return self._answering is None and waited >= self._keep_alive_seconds


def _plain_head(scope: Scope) -> bytes:
    """Write of a head what tells how long the body is, and whether another request may follow."""
    kept = {b"content-length", b"transfer-encoding"}
    lines = [b"POST / HTTP/1.1", *(b"%b: %b" % one for one in scope["headers"] if one[0] in kept)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _check_authority(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a target that names another host than `Host` does.

    A server goes by the target, and the application looks at the header.
    Source: RFC 9112, section 3.2.2.
    """
    authority = target.split(b"/", 3)[2].lower()
    if any(name == b"host" and value.lower() != authority for name, value in headers):
        raise ValueError("the target names another host")


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])
