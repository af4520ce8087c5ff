"""Serves one client over stdin and stdout."""

import io
import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio
from typing_extensions import override

from walletserver.logs import log_event
from walletserver.server import InFlight, WalletMcpServer
from walletserver.shutdown import StopSignal

if TYPE_CHECKING:
    from typing_extensions import Buffer

_STDIN: Final = 0
# Between the end of the last call and the end of input, so that its reply is written out: the
# SDK cancels what is left when input ends.
_SETTLE_SECONDS: Final = 0.05
# What the end of a drain leaves for closing down before the process is ended the hard way.
_MARGIN_SECONDS: Final = 0.5
# How long a line just read may take to become a call that is counted.
_ENTRY_SECONDS: Final = 0.25


class StoppableInput(io.RawIOBase):
    """Standard input that also ends at a stop signal, and only once the calls are served.

    The SDK reads stdin in a thread that nothing can interrupt; an end of file from below is the
    one way to make it return.
    """

    def __init__(self, stop_descriptor: int, in_flight: InFlight, grace_seconds: float) -> None:
        """Keep the parts.

        Args:
            stop_descriptor: Becomes readable when it is time to stop.
            in_flight: The calls to wait for.
            grace_seconds: How long to wait for them.
        """
        super().__init__()
        self._in_flight = in_flight
        self._grace_seconds = grace_seconds
        self._poll = select.poll()
        self._stop = stop_descriptor
        self._last_read = 0.0
        self._poll.register(_STDIN, select.POLLIN)
        self._poll.register(stop_descriptor, select.POLLIN)

    @override
    def readable(self) -> bool:
        """Return True."""
        return True

    @override
    def readinto(self, buffer: "Buffer") -> int:
        """Read what there is; 0 is the end."""
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        view = memoryview(buffer)
        data = b"" if self._stop in ready else os.read(_STDIN, len(view))
        if data:
            self._last_read = time.monotonic()
        else:
            self._drain()
        view[: len(data)] = data
        return len(data)

    def _drain(self) -> None:
        pause = threading.Event()
        pause.wait(max(0.0, self._last_read + _ENTRY_SECONDS - time.monotonic()))
        is_drained = self._in_flight.wait_idle(self._grace_seconds)
        pause.wait(_SETTLE_SECONDS)
        log_event("input_ended", drained=is_drained)


def serve_stdio(
    server: WalletMcpServer, in_flight: InFlight, stop: StopSignal, shutdown_seconds: float
) -> None:
    """Serve until the client closes stdin or the process is told to stop."""
    grace = max(0.0, shutdown_seconds - _MARGIN_SECONDS)
    raw = StoppableInput(stop.descriptor, in_flight, grace)
    # The SDK takes sys.stdin as it is when it is not descriptor 0 itself.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")
    anyio.run(server.run_stdio_async)
