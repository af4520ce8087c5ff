"""The sinks of the record: as many threads as agents.yaml names, put together here."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, assert_never, final

import anyio
import anyio.to_thread
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.sinks.base import Outlet, SinkError
from orchestrator.audit.sinks.worker import Pace, Worker
from orchestrator.clock import Clock
from orchestrator.config.places import Places
from orchestrator.model.audit import Audit
from orchestrator.model.secret import SecretRef
from orchestrator.model.sinks import FileSink, HttpSink, OtlpSink, Sink, SyslogSink
from orchestrator.paths import Paths

LOOK_SECONDS: Final = 1.0
# What is not brought by then is brought after the next start.
END_SECONDS: Final = 2.0
# So many lines may wait without a word.
_BEHIND: Final = 10_000


@final
class Sinks:
    """Has a thread for each sink that is applied. Belongs to the event loop."""

    def __init__(  # noqa: PLR0913  the parts that it brings together
        self,
        paths: Paths,
        rule: Callable[[], Audit],
        last: Callable[[], int],
        *,
        look_up: Callable[[SecretRef], SecretStr],
        clock: Clock,
        log: FilteringBoundLogger,
        pace: Pace | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            paths: Where the project keeps what.
            rule: Tells what is applied now.
            last: Tells the number of the record's last line.
            look_up: Tells what a reference stands for; may block.
            clock: Where time comes from.
            log: Structured log.
            pace: How long sinks wait.
        """
        self._paths = paths
        self._rule = rule
        self._last = last
        self._look_up = look_up
        self._clock = clock
        self._log = log
        self._pace = pace or Pace()
        self._workers: dict[str, tuple[Sink, Worker]] = {}

    async def run(self) -> None:
        """Keep the sinks that are applied at work until cancelled."""
        try:
            while True:
                self._follow()
                await anyio.sleep(LOOK_SECONDS)
        finally:
            for _, worker in self._workers.values():
                worker.stop()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._join)

    def _follow(self) -> None:
        wanted = self._rule().sinks
        for name, (sink, worker) in tuple(self._workers.items()):
            if wanted.get(name) != sink:
                worker.stop()
            if not worker.is_alive:
                del self._workers[name]
        for name, sink in wanted.items():
            # One that ends still writes down how far it is.
            if name not in self._workers:
                worker = Worker(
                    name,
                    self._paths.audit,
                    lambda sink=sink: self._open(sink),
                    sink.batch,
                    self._clock,
                    self._log,
                    self._pace,
                )
                self._workers[name] = (sink, worker)
                worker.start()

    def _join(self) -> None:
        give_up = self._clock.monotonic() + END_SECONDS
        for _, worker in self._workers.values():
            worker.join(max(0.0, give_up - self._clock.monotonic()))

    def behind(self, seq: int) -> tuple[str, ...]:
        """Tell the sinks that have not read a line which is about to be removed; log it, too."""
        found = tuple(
            name
            for name in sorted(self._rule().sinks)
            if name not in self._workers or (self._workers[name][1].progress.seq or 0) < seq
        )
        if found:
            self._log.error("lines are removed before every sink has them", last=seq, sinks=found)
        return found

    def notes(self) -> tuple[str, ...]:
        """Tell what a person should know."""
        found: list[str] = []
        for name, (_, worker) in sorted(self._workers.items()):
            progress = worker.progress
            lag = 0 if progress.seq is None else max(0, self._last() - progress.seq)
            words: list[str] = []
            if progress.error or lag > _BEHIND:
                words.append(f"is {lag} lines behind" + (progress.error and f": {progress.error}"))
            if progress.refused:
                words.append(
                    f"refused {progress.refused} lines, which are in "
                    f"{self._paths.audit / 'sinks' / name}.dead.jsonl"
                )
            if progress.missed:
                words.append(f"never got {progress.missed} lines, which were removed before")
            if words:
                found.append(f"the sink {name} {'; '.join(words)}")
        return tuple(found)

    def _open(self, sink: Sink) -> Outlet:
        """Make the way to a sink; in its thread."""
        match sink:
            case FileSink():
                from orchestrator.audit.sinks.file import FileOutlet  # noqa: PLC0415  as below

                return FileOutlet(self._place(sink.file), FORMATS[sink.format])
            case SyslogSink():
                from orchestrator.audit.sinks.wire import SyslogOutlet  # noqa: PLC0415  as below

                ca = sink.ca
                return SyslogOutlet(
                    sink.server, FORMATS[sink.format], sink.longest, lambda: self._context(ca)
                )
            case HttpSink() | OtlpSink():
                # The HTTP client takes a while to load, and most projects have no sink.
                from orchestrator.audit.sinks.http import HttpOutlet, Post  # noqa: PLC0415
                from orchestrator.audit.sinks.otlp import MEDIA_TYPE, OtlpOutlet  # noqa: PLC0415

                secret = sink.secret
                token = None if secret is None else lambda: self._look_up(secret)
                context = self._context(sink.ca)
                if isinstance(sink, OtlpSink):
                    return OtlpOutlet(Post(sink.otlp, MEDIA_TYPE, context, token))
                form = FORMATS[sink.format]
                return HttpOutlet(Post(sink.http, form.media_type, context, token), form)
            case _:
                assert_never(sink)

    def _context(self, ca: str | None) -> ssl.SSLContext:
        if ca is None:
            return ssl.create_default_context()
        path = self._place(ca)
        try:
            return ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError):
            raise SinkError(f"{path} cannot be read as authorities") from None

    def _place(self, text: str) -> Path:
        return self._paths.root / Places(self._paths.root, self._paths.state).fill(text)
