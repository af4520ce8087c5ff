"""Where a server serves HTTP, as one text in records and snapshots."""

import re
from dataclasses import dataclass
from typing import Final, Self, final

from typing_extensions import override

from orchestrator.errors import TargetUnavailableError

HOST: Final = "127.0.0.1"
_UNIX: Final = "unix:"
_LAST_PORT: Final = 0xFFFF
_HTTP: Final = f"http://{HOST}:"
# Before the URL of a server that somebody else runs; its name may stand in between.
_ELSEWHERE: Final = "elsewhere:"
_SCHEME: Final = "http://"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+=")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where a server serves HTTP.

    Attributes:
        path: The path of its URL.
        socket: Its unix socket; empty when it listens on a port.
        port: Its port; 0 when it listens on a socket.
        host: The host, if somebody else runs it; empty for 127.0.0.1, where it has to be ours.
        name: What that host is called, if `host` is where its name led.
    """

    path: str
    socket: str = ""
    port: int = 0
    host: str = ""
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:SOCKET:/PATH`, `http://127.0.0.1:PORT/PATH` or `elsewhere:[NAME=]URL`.

        Raises:
            TargetUnavailableError: It is none of them.
        """
        if text.startswith(_UNIX):
            socket, _, path = text.removeprefix(_UNIX).rpartition(":")
            if socket.startswith("/") and path.startswith("/"):
                return cls(path, socket=socket)
        elif text.startswith(_ELSEWHERE):
            name, scheme, rest = text.removeprefix(_ELSEWHERE).partition(_SCHEME)
            authority, slash, path = rest.partition("/")
            match = _HOST_AND_PORT.fullmatch(authority)
            is_named = not name or _NAME.fullmatch(name)
            if is_named and scheme and slash and match and 0 < int(match[2]) <= _LAST_PORT:
                host, name = match[1].strip("[]"), name.removesuffix("=")
                return cls(f"/{path}", port=int(match[2]), host=host, name=name)
        elif text.startswith(_HTTP):
            port, slash, path = text.removeprefix(_HTTP).partition("/")
            if slash and port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT:
                return cls(f"/{path}", port=int(port))
        raise TargetUnavailableError("The instance has no address that can be used")

    @property
    def authority(self) -> str:
        """The `Host` header; with a port, as servers that check it expect one."""
        host = self.name or self.host or HOST
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{self.port}" if self.port else "localhost:80"

    @override
    def __str__(self) -> str:
        if self.host:
            host = f"[{self.host}]" if ":" in self.host else self.host
            name = f"{self.name}=" if self.name else ""
            return f"{_ELSEWHERE}{name}{_SCHEME}{host}:{self.port}{self.path}"
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
