"""Where a server of this machine serves HTTP, as one text in records and snapshots."""

from dataclasses import dataclass
from typing import Final, Self, final

from typing_extensions import override

from orchestrator.errors import TargetUnavailableError

HOST: Final = "127.0.0.1"
_UNIX: Final = "unix:"
_HTTP: Final = f"http://{HOST}:"


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where a server serves HTTP.

    Attributes:
        path: The path of its URL.
        socket: Its unix socket; empty when it listens on a port.
        port: Its port on 127.0.0.1; 0 when it listens on a socket.
    """

    path: str
    socket: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:SOCKET:/PATH` or `http://127.0.0.1:PORT/PATH`.

        Raises:
            TargetUnavailableError: It is neither.
        """
        if text.startswith(_UNIX):
            socket, _, path = text.removeprefix(_UNIX).rpartition(":")
            if socket.startswith("/") and path.startswith("/"):
                return cls(path, socket=socket)
        elif text.startswith(_HTTP):
            port, slash, path = text.removeprefix(_HTTP).partition("/")
            if slash and port.isascii() and port.isdigit() and 0 < int(port) <= 0xFFFF:  # noqa: PLR2004 - the largest port
                return cls(f"/{path}", port=int(port))
        raise TargetUnavailableError("The instance has no address that can be used")

    @property
    def authority(self) -> str:
        """The `Host` header; with a port, as servers that check it expect one."""
        return f"{HOST}:{self.port}" if self.port else "localhost:80"

    @override
    def __str__(self) -> str:
        return (
            f"{_HTTP}{self.port}{self.path}" if self.port else f"{_UNIX}{self.socket}:{self.path}"
        )


def fill(text: str, address: Address | None) -> str:
    """Put the address into a server's argument or variable; without one nothing changes."""
    if address is None:
        return text
    if address.port:
        return text.replace("{port}", str(address.port))
    return text.replace("{socket}", address.socket)
