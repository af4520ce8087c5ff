"""XML-RPC to supervisord over its unix socket, without threads: one connection a call."""

import base64
import os
import xmlrpc.client  # the peer is our own engine, of the same user, which is checked below
from pathlib import Path
from typing import cast, final

import anyio
from anyio.abc import SocketAttribute, SocketStream

from orchestrator.errors import RuntimeUnavailableError
from orchestrator.runtimes.identity import peer_of

USER = "agents"
_RESPONSE_LIMIT = 16 * 1024 * 1024

# Fault numbers of supervisor.xmlrpc.Faults.
BAD_NAME = 10
NOT_RUNNING = 70
ALREADY_STARTED = 60
ALREADY_ADDED = 90
STILL_RUNNING = 91

Value = bool | int | str | float


class EngineFaultError(Exception):
    """supervisord understood a call and refused it.

    Attributes:
        number: Fault number.
    """

    def __init__(self, number: int, text: str) -> None:
        """Keep the number."""
        super().__init__(text)
        self.number: int = number


@final
class EngineRpc:
    """Calls methods of one supervisord."""

    def __init__(self, path: Path, key: Path) -> None:
        """Keep the places.

        Args:
            path: The engine's socket.
            key: File that holds the password; read at each call, as each engine has its own.
        """
        self._path = path
        self._key = key

    async def pid(self) -> int | None:
        """Tell the pid of the engine that listens, None when nothing does.

        Raises:
            RuntimeUnavailableError: Another user listens there.
        """
        try:
            stream = await anyio.connect_unix(self._path)
        except OSError:
            return None
        async with stream:
            return _check(stream)

    async def call(self, method: str, *arguments: Value) -> object:
        """Call a method; the caller bounds the time.

        Raises:
            RuntimeUnavailableError: The engine does not answer as one.
            EngineFaultError: It refuses.
        """
        body = xmlrpc.client.dumps(arguments, method).encode()
        try:
            key = self._key.read_text("ascii").strip()
            stream = await anyio.connect_unix(self._path)
            async with stream:
                _ = _check(stream)
                await stream.send(_request(body, key))
                status, content = await _response(stream)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ValueError) as error:
            raise RuntimeUnavailableError(
                f"the process engine does not answer ({method})",
                hint="Look into engine.log, then run `agents up`.",
            ) from error
        if status != 200:  # noqa: PLR2004 - HTTP's OK
            raise RuntimeUnavailableError(f"the process engine answered {method} with {status}")
        try:
            values = cast("tuple[object, ...]", xmlrpc.client.loads(content)[0])
        except xmlrpc.client.Fault as fault:
            raise EngineFaultError(fault.faultCode, fault.faultString) from fault
        except Exception as error:  # expat and xmlrpc.client raise a wide range for bad XML
            raise RuntimeUnavailableError("the process engine sent no XML-RPC") from error
        return values[0]


def _check(stream: SocketStream) -> int:
    """See that the listener is this user's; tell its pid."""
    pid, uid = peer_of(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - no Django
    if uid != os.geteuid():
        raise RuntimeUnavailableError("another user listens on the engine's socket")
    return pid


def _request(body: bytes, key: str) -> bytes:
    credentials = base64.b64encode(f"{USER}:{key}".encode()).decode()
    head = (
        "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n"
        f"Authorization: Basic {credentials}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _response(stream: SocketStream) -> tuple[int, bytes]:
    data = bytearray()
    head = -1
    length = 0
    while head < 0 or len(data) < head + length:
        data += await stream.receive()
        if len(data) > _RESPONSE_LIMIT:
            raise ValueError("too long")
        if head < 0 and (end := data.find(b"\r\n\r\n")) >= 0:
            head = end + 4
            length = _length(bytes(data[:end]))
    status = int(data.split(b" ", 2)[1])
    return status, bytes(data[head : head + length])


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise ValueError("no length")
