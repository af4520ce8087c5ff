"""The ways to a syslog server."""

import array
import fcntl
import socket
import ssl
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, final

from typing_extensions import override

from orchestrator.audit.formats.base import Format
from orchestrator.audit.sinks.base import Entry, Outlet, SinkError, gently
from orchestrator.audit.sinks.syslog import frame, render
from orchestrator.model.sinks import SyslogServer

SECONDS: Final = 10.0
LONGEST: Final = {"udp": 2048, "unix": 8192, "tcp": 65_536, "tls": 65_536}
_LOOK_SECONDS: Final = 0.01
_KINDS: Final = {"udp": socket.SOCK_DGRAM, "unix": socket.SOCK_DGRAM}


@final
class SyslogOutlet(Outlet):
    """Sends messages to one server.

    Syslog has no answers: by UDP and a socket what was sent counts as taken, by TCP and TLS what
    the other machine has acknowledged.
    """

    def __init__(
        self,
        server: SyslogServer,
        form: Format,
        longest: int | None,
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        """Mean this server.

        Args:
            server: Where it listens.
            form: How the texts of messages are written.
            longest: Bytes of one message at most, None for what is usual.
            context: Tells how TLS is done.
        """
        self._server = server
        self._form = form
        self._longest = longest or LONGEST[server.transport]
        self._context = context
        self._socket: socket.socket | None = None

    @override
    def send(self, entries: Sequence[Entry]) -> None:
        messages = [render(entry, self._form, self._longest) for entry in gently(entries)]
        try:
            if self._socket is None or self._is_gone(self._socket):
                self.close()
                self._socket = self._connect()
            if self._server.transport in _KINDS:
                for message in messages:
                    _ = self._socket.send(message)
            else:
                self._socket.sendall(frame(messages))
                _wait_until_acknowledged(self._socket)
        except OSError as error:
            self.close()
            raise SinkError(_reason(error)) from None
        except BaseException:
            self.close()
            raise

    @override
    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        server = self._server
        if server.transport == "unix":
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            return _joined(made, server.host)
        if server.transport == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(
                server.host, server.port, type=socket.SOCK_DGRAM
            )[0]
            return _joined(socket.socket(family, kind, protocol), address[:2])
        made = socket.create_connection((server.host, server.port), timeout=SECONDS)
        if server.transport == "tcp":
            return made
        try:
            return self._context().wrap_socket(made, server_hostname=server.host)
        except BaseException:
            made.close()
            raise

    def _is_gone(self, connection: socket.socket) -> bool:
        """Whether the server has closed the connection; what is sent there is lost."""
        if self._server.transport in _KINDS:
            return False
        connection.settimeout(0)
        try:
            # Nothing is said on this way, so whatever can be read is its end.
            return not connection.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            connection.settimeout(SECONDS)


def _joined(made: socket.socket, address: str | tuple[object, ...]) -> socket.socket:
    try:
        made.settimeout(SECONDS)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _wait_until_acknowledged(connection: socket.socket) -> None:
    """Wait until nothing that was sent is on its way any more.

    Raises:
        OSError: It still is after some seconds, or the connection broke.
    """
    give_up = time.monotonic() + SECONDS
    left = array.array("i", [0])
    while True:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
        if not left[0]:
            break
        if time.monotonic() > give_up:
            raise TimeoutError
        time.sleep(_LOOK_SECONDS)
    if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, "broke")


def _reason(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return "its certificate is not accepted"
        case ConnectionRefusedError() | FileNotFoundError():
            return "nothing listens there"
        case TimeoutError():
            return f"it took nothing within {SECONDS:g} s"
        case _:
            return f"it cannot be reached ({error.strerror or type(error).__name__})"
