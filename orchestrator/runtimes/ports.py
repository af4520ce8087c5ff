"""Ports of this machine: which one is free, and who listens on it.

Any local process can connect to a port, and any can listen on a free one. So whoever sends
something to a port of ours looks first who listens there.
"""

import asyncio
import os
import random
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from orchestrator.errors import TargetUnavailableError
from orchestrator.runtimes.address import HOST
from orchestrator.runtimes.identity import look_up, peer_of, user_of

_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below it are services that somebody may want to start by a number that is known.
_LOWEST = 16_384
_TRIES = 100
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
        inode: What tells it apart from all other sockets.
    """

    uid: int
    address: str
    inode: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if len(self.address) == len(_LOOPBACK_6):
            mapped = self.address.startswith(_MAPPED_6) and self.address.endswith(_LOOPBACK)
            return self.address == _LOOPBACK_6 or mapped
        return self.address.endswith(_LOOPBACK)


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody has now; it is not kept.

    It is none of those that the kernel gives to whoever needs just any, such as each connection
    from this machine: one of them could be gone before somebody listens on it.
    """
    low = _first_given()
    for _ in range(_TRIES if low > _LOWEST else 0):
        port = random.randrange(_LOWEST, low)  # noqa: S311  guards nothing
        with suppress(OSError):
            return _bound(port)
    return _bound(0)


def _first_given() -> int:
    """Tell the first of the ports that the kernel gives.

    Source: Linux, Documentation/networking/ip-sysctl.rst, ip_local_port_range.
    """
    try:
        return int(_GIVEN.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _bound(port: int) -> int:
    """Take a port, any for 0, and give it back."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as finder:
        finder.bind((HOST, port))
        return cast("tuple[str, int]", finder.getsockname())[1]


def listeners(table: str, port: int) -> frozenset[Listener]:
    """Tell who listens on a port, from a kernel's table of connections.

    Source: Linux, Documentation/networking/proc_net_tcp.rst.
    """
    ending = f":{port:04X}"
    rows = (line.split() for line in table.splitlines()[1:] if f"{ending} " in line)
    return frozenset(
        Listener(int(row[7]), row[1].removesuffix(ending), int(row[9]))
        for row in rows
        if row[3] == _LISTENS and row[1].endswith(ending)
    )


def check_own(port: int, group: int = 0) -> None:
    """Make sure that what listens on a port is ours, and that nobody but this machine reaches it.

    Args:
        port: The port.
        group: The process group that has to be the one that listens, whichever user it runs as;
            0 for any of this user.

    Raises:
        ConnectionRefusedError: Nobody listens, or another one of this user's processes.
        TargetUnavailableError: It is another user, or the network reaches it.
    """
    table = Path("/proc/net/tcp").read_text("ascii")
    table_6 = Path("/proc/net/tcp6")
    found = listeners(table, port)
    if table_6.exists():
        found |= listeners(table_6.read_text("ascii"), port)
    owner = user_of(group) if group else os.geteuid()
    if owner is None:
        raise ConnectionRefusedError
    if any(each.uid != owner for each in found):
        raise TargetUnavailableError(
            f"port {port} belongs to another user; nothing was sent",
            hint="Another process took the port; a unix socket cannot be taken.",
        )
    if not found or (group and not _belong({each.inode for each in found}, group)):
        raise ConnectionRefusedError
    if not all(each.is_local for each in found):
        raise TargetUnavailableError(
            f"the server listens on port {port} of more addresses than {HOST}, so that the network "
            "may reach it",
            hint=f"Tell it to bind {HOST}, or better a unix socket.",
        )


def check_listener(transport: asyncio.Transport, group: int = 0) -> None:
    """Make sure that a unix socket led to the server's user and container, and close it if not.

    The directory of the socket is that user's own: a link there could lead to another role's.

    Args:
        transport: The connection.
        group: The server's process group; 0 if it runs as this user.

    Raises:
        TargetUnavailableError: It is another user, or another container.
    """
    known = cast("socket.socket", transport.get_extra_info("socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(known.fileno())) as peer:
        pid, uid = peer_of(peer)
    if uid != (user_of(group) if group else os.geteuid()):
        transport.abort()
        raise TargetUnavailableError("another user listens on the server's socket")
    if group and not _is_inside(pid, group):
        transport.abort()
        raise TargetUnavailableError("another container listens on the server's socket")


def _is_inside(pid: int, group: int) -> bool:
    """Tell whether a process is in a server's container, if that is in one.

    Users of containers are the same in many of them; no two share their control groups, which no
    process without capabilities leaves.
    """
    its = _control_groups(group)
    return its == _control_groups(os.getpid()) or _control_groups(pid) == its


def _control_groups(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _belong(inodes: set[int], group: int) -> bool:
    """Tell whether processes of one group hold all these sockets; mostly its first one does."""
    left = inodes - _sockets_of(group)
    for entry in Path("/proc").iterdir() if left else ():
        facts = look_up(int(entry.name)) if entry.name.isdigit() else None
        if facts is not None and facts.group == group:
            left -= _sockets_of(int(entry.name))
    return not left


def _sockets_of(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                kind, _, inode = str(entry.readlink()).partition(":")
                if kind == "socket":
                    found.add(int(inode[1:-1]))
    return found
