"""A record that is written to, sinks that read it, and an HTTP server that takes their lines."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import orjson
import pytest
import structlog
from typing_extensions import override

from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.audit.sinks.worker import Pace, Worker
from orchestrator.clock import SystemClock
from orchestrator.journal import segments
from orchestrator.model.names import RoleName

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger

    from orchestrator.audit.sinks.base import Outlet

LONGEST: Final = 30.0
# Status, headers and body of an answer.
Answer: TypeAlias = tuple[int, dict[str, str], bytes]
QUICK: Final = Pace(look=0.01, first=0.01, longest=0.05)


@final
class HttpReceiver:
    """Takes batches by HTTP.

    Attributes:
        taken: The bodies that were answered with success, in their order.
        seen: The headers of every request, in small letters, in their order.
        judge: Tells how a body is answered.
        port: Where it listens.
    """

    def __init__(self, port: int = 0) -> None:
        """Listen."""
        self.taken: list[bytes] = []
        self.seen: list[dict[str, str]] = []
        self.judge: Callable[[bytes], Answer] = lambda _: (200, {}, b"")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.seen.append({key.lower(): value for key, value in self.headers.items()})
                status, headers, answer = outer.judge(body)
                if status < 300:
                    outer.taken.append(body)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                # No connection outlives its server, whose port the next one may want.
                self.send_header("connection", "close")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                _ = self.wfile.write(answer)

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/ingest"

    @property
    def lines(self) -> list[bytes]:
        """All lines that were taken."""
        return [line for body in tuple(self.taken) for line in body.splitlines()]

    def __enter__(self) -> HttpReceiver:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Go away."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@final
class Place:
    """A record, and the sinks that read it.

    Attributes:
        root: A directory.
        log: The one that writes.
    """

    def __init__(self, root: Path) -> None:
        """Open the record."""
        self.root = root
        self.directory = root / "audit"
        self.log = AuditLog(self.directory, root / "audit.key", SystemClock(), "1")
        self._workers: list[Worker] = []

    def fill(self, count: int) -> None:
        """Write until there are so many lines; the request of line 9 is `r8`."""
        while self.log.seq < count:
            entry = CallRecord("outcome", f"r{self.log.seq}", RoleName("treasury"), status=200)
            self.log.record(entry)

    def lines(self) -> list[bytes]:
        """Read the whole record."""
        paths = segments(self.directory)
        return [line for path in paths for line in path.read_bytes().splitlines()]

    def sink(
        self, outlet: Callable[[], Outlet], name: str = "siem", batch: int = 50, pace: Pace = QUICK
    ) -> Worker:
        """Begin to bring lines somewhere."""
        log = cast("FilteringBoundLogger", structlog.get_logger())
        worker = Worker(name, self.directory, outlet, batch, SystemClock(), log, pace)
        self._workers.append(worker)
        worker.start()
        return worker

    def end(self, worker: Worker) -> None:
        """Have a sink end."""
        worker.stop()
        worker.join(LONGEST)
        assert not worker.is_alive

    def close(self) -> None:
        """End all."""
        for worker in self._workers:
            self.end(worker)
        self.log.close()

    def refused(self, name: str = "siem") -> list[dict[str, object]]:
        """Read what a receiver refused."""
        path = self.directory / "sinks" / f"{name}.dead.jsonl"
        if not path.exists():
            return []
        return [
            cast("dict[str, object]", orjson.loads(line)) for line in path.read_bytes().splitlines()
        ]


Wait: TypeAlias = Callable[[Callable[[], bool]], None]


@pytest.fixture
def wait() -> Wait:
    """Give a function that waits until something is so; threads tell nobody."""

    def work(question: Callable[[], bool]) -> None:
        give_up = time.monotonic() + LONGEST
        while not question():
            assert time.monotonic() < give_up, "this never became so"
            time.sleep(0.01)

    return work


@pytest.fixture
def place() -> Iterator[Place]:
    """Make a record."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    made = Place(root)
    yield made
    made.close()
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """Serve HTTP."""
    with HttpReceiver() as made:
        yield made


@pytest.fixture
def receive() -> Generator[Callable[[int], HttpReceiver]]:
    """Give a function that serves HTTP on a port, until the test ends."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(HttpReceiver(port))
