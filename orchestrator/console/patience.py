"""How long a connection may take to say what it wants: nobody holds one open for nothing."""

import asyncio
from typing import Final, cast, final

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 10.0


@final
class Patient(H11Protocol):
    """uvicorn's own, which waits for ever for a first request.

    It is chosen by name as it bounds how long headers are, and takes one `Host` alone.
    """

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        _ = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        # None as long as no request is there whole up to its body.
        if cast("object", self.cycle) is None and not self.transport.is_closing():
            self.transport.close()
