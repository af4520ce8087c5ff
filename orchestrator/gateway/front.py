"""Uvicorn's HTTP protocol, with the bounds that have to hold before anybody showed a token.

Uvicorn keeps a head of any length, waits for it without end, and takes as many connections as
there are descriptors: any local process could fill the daemon's memory, or take the descriptors
that it keeps its instances alive with.
"""

import asyncio
import resource
from typing import Final, final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 30.0
# Half of the descriptors stay for FIFOs, the database and the engine.
CONNECTIONS: Final = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


@final
class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _silent_bytes = 0
    _heard = False
    _head_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._heard = False
        super().data_received(data)
        # The parser itself keeps a header that is not whole yet, in the head and behind the body.
        self._silent_bytes = 0 if self._heard else self._silent_bytes + len(data)
        if max(self._head_bytes, self._silent_bytes) > HEAD_BYTES:
            self.transport.abort()

    @override
    def on_message_begin(self) -> None:
        self._heard = True
        self._head_bytes = 0
        self._await_head()
        super().on_message_begin()

    @override
    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self._heard = True
        self._head_bytes += len(name) + len(value)
        super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._heard = True
        self._forget_timer()
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._heard = True
        super().on_body(body)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
