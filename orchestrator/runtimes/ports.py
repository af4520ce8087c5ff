"""Ports of this machine: which one is free, and who listens on it.

Any local process can connect to a port, and any can listen on a free one. So whoever sends
something to a port of ours looks first who listens there.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from orchestrator.errors import TargetUnavailableError
from orchestrator.runtimes.address import HOST

_LISTENS = "0A"
# 127.0.0.0/8 as the kernel writes it: words of four bytes, least significant byte first.
_LOOPBACK = "7F"
_LOOPBACK_6 = "00000000000000000000000001000000"
_MAPPED_6 = "0000000000000000FFFF0000"


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens.

    Attributes:
        uid: Its user.
        address: Its address in the kernel's own writing.
    """

    uid: int
    address: str

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if len(self.address) == len(_LOOPBACK_6):
            mapped = self.address.startswith(_MAPPED_6) and self.address.endswith(_LOOPBACK)
            return self.address == _LOOPBACK_6 or mapped
        return self.address.endswith(_LOOPBACK)


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody has now; it is not kept."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as finder:
        finder.bind((HOST, 0))
        return cast("tuple[str, int]", finder.getsockname())[1]


def listeners(table: str, port: int) -> frozenset[Listener]:
    """Tell who listens on a port, from a kernel's table of connections.

    Source: Linux, Documentation/networking/proc_net_tcp.rst.
    """
    ending = f":{port:04X}"
    rows = (line.split() for line in table.splitlines()[1:] if f"{ending} " in line)
    return frozenset(
        Listener(int(row[7]), row[1].removesuffix(ending))
        for row in rows
        if row[3] == _LISTENS and row[1].endswith(ending)
    )


def check_own(port: int) -> None:
    """Make sure that what listens on a port is ours, and that nobody but this machine reaches it.

    Raises:
        ConnectionRefusedError: Nobody listens.
        TargetUnavailableError: It is somebody else, or the network reaches it.
    """
    try:
        tables = [Path(f"/proc/net/{name}").read_text("ascii") for name in ("tcp", "tcp6")]
    except OSError:
        return  # no Linux, or one without IPv6
    found = [each for table in tables for each in listeners(table, port)]
    if not found:
        raise ConnectionRefusedError
    if any(each.uid != os.geteuid() for each in found):
        raise TargetUnavailableError(
            f"port {port} belongs to another user; nothing was sent",
            hint="Another process took the port; a unix socket cannot be taken.",
        )
    if not all(each.is_local for each in found):
        raise TargetUnavailableError(
            f"the server listens on port {port} of more addresses than {HOST}, so that the network "
            "may reach it",
            hint=f"Tell it to bind {HOST}, or better a unix socket.",
        )
