"""The control socket: takes orders from this user's own commands, one a connection."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, final

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from orchestrator.errors import AgentsError, ConfigError
from orchestrator.model.admin import REQUEST, Failure, Progress, Reply, Request, Result
from orchestrator.runtimes.identity import peer_of

MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
REQUEST_SECONDS: Final = 10.0
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
Handler = Callable[[Request], AsyncGenerator[Progress | Result]]


@final
class AdminServer:
    """Answers requests; one connection carries one request and its replies."""

    def __init__(self, path: Path, handler: Handler, log: FilteringBoundLogger) -> None:
        """Prepare.

        Args:
            path: The socket; its directory is private. A stale one is replaced.
            handler: Answers one request: any progress, then one result; raises AgentsError.
            log: Structured log.
        """
        self._path = path
        self._handler = handler
        self._log = log

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        self._path.unlink(missing_ok=True)
        listener = await anyio.create_unix_listener(self._path, mode=0o600)
        async with listener:
            task_status.started()
            await listener.serve(self._serve_one)

    async def _serve_one(self, stream: SocketStream) -> None:
        async with stream:
            connection = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  this is no Django
            _, uid = peer_of(connection)
            if uid != os.geteuid():
                self._log.warning("control connection refused", uid=uid)
                return
            try:
                await self._answer(stream)
            except _GONE:
                return  # whoever asked has gone; what was asked for goes on

    async def _answer(self, stream: SocketStream) -> None:
        try:
            with anyio.fail_after(REQUEST_SECONDS):
                line = await BufferedByteReceiveStream(stream).receive_until(
                    b"\n", MAX_REQUEST_BYTES
                )
            request = REQUEST.validate_json(line, strict=False)
        except (ValidationError, anyio.IncompleteRead, anyio.DelimiterNotFound, TimeoutError):
            error = ConfigError(
                "the request is not understood", hint="Use the same version on both sides."
            )
            await _send(stream, _failure(error))
            return
        try:
            async with aclosing(self._handler(request)) as replies:
                async for reply in replies:
                    await _send(stream, reply)
        except AgentsError as error:
            await _send(stream, _failure(error))
        except _GONE:
            raise
        except Exception:  # noqa: BLE001  whatever it is, it ends one request, not the daemon
            self._log.exception("control request failed", op=request.op)
            unexpected = AgentsError(f"{request.op} failed unexpectedly; see the daemon's log")
            await _send(stream, _failure(unexpected))


async def _send(stream: SocketStream, reply: Reply) -> None:
    await stream.send(reply.model_dump_json().encode() + b"\n")


def _failure(error: AgentsError) -> Failure:
    return Failure(code=error.code, message=str(error), hint=error.hint, exit_code=error.exit_code)
