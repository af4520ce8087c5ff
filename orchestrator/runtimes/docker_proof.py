"""The proof that a container does not reach this machine: it is tried, over IPv4 and IPv6."""

import ipaddress
import shutil
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

from orchestrator.errors import ContainerError

_SECONDS: Final = 60.0
_REACHED: Final = 3
# Run inside a container's network: ends with 3 if anything lets it through to this machine.
_TRY: Final = """\
import socket, sys, threading
port, *hosts = sys.argv[1:]
links = [name for _, name in socket.if_nameindex() if name != "lo"]
reached = []
def knock(host):
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError:
        return
    reached.append(host)
local = [f"{host}%{link}" for host in hosts if host.startswith("fe80:") for link in links]
tries = [threading.Thread(target=knock, args=(host,))
         for host in [*local, *(host for host in hosts if not host.startswith("fe80:"))]]
for each in tries:
    each.start()
for each in tries:
    each.join()
sys.exit(3 if reached else 0)
"""


def prove_closed(pid: int, bridge: str) -> None:
    """Make sure that what is in a container does not reach this machine.

    Args:
        pid: Its first process.
        bridge: This machine's end of its network.

    Raises:
        ContainerError: It does, or that cannot be told.
    """
    enter = shutil.which("nsenter")
    if enter is None:
        raise ContainerError(
            "it cannot be seen whether the container's network is closed: there is no nsenter",
            hint="Install util-linux.",
        )
    with _listen() as listener:
        port = cast("tuple[str, int]", listener.getsockname()[:2])[1]
        words = [
            enter, f"--net=/proc/{pid}/ns/net", sys.executable, "-I", "-S", "-c", _TRY,
            str(port), *sorted(own_addresses(bridge)),
        ]  # fmt: skip
        try:
            status = subprocess.run(  # noqa: S603 - words of our own
                words, check=False, capture_output=True, timeout=_SECONDS, env={}
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    if status == _REACHED:
        raise ContainerError(
            "the container reaches this machine, in spite of the rules against it",
            hint="Look at `nft list table inet bandmaster`, and at what else sets rules here. "
            "The container was removed.",
        )
    if status != 0:
        raise ContainerError("it cannot be seen whether the container's network is closed")


def own_addresses(bridge: str = "") -> set[str]:
    """Tell this machine's addresses that a container might reach.

    Args:
        bridge: The bridge whose link-local address is told, too; those of others lead nowhere.
    """
    found: set[str] = set()
    # Source: Linux, /proc/net/fib_trie: local addresses stand before a line with "host LOCAL".
    lines = Path("/proc/net/fib_trie").read_text("ascii").splitlines()
    for line, after in pairwise(lines):
        if "host LOCAL" in after:
            found.add(line.split()[-1])
    six = Path("/proc/net/if_inet6")  # not there without IPv6
    for line in six.read_text("ascii").splitlines() if six.exists() else ():
        digits, *_, link = line.split()
        address = ipaddress.IPv6Address(int(digits, 16))
        if not address.is_link_local or link == bridge:
            found.add(str(address))
    return {each for each in found if not ipaddress.ip_address(each).is_loopback}


def _listen() -> socket.socket:
    """Listen on any port of all addresses."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
