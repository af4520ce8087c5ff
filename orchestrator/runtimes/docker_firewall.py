"""The rules that close containers' networks against this machine; made, looked at, put back.

The engine calls a role's network internal, and yet what is in it reaches this machine's own
addresses. Whatever flushes the kernel's rules takes these along, so they are looked at again and
again. One table serves all projects of a machine: its rules go by how bridges are called.
"""

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Final, final

import structlog
import structlog.typing

from orchestrator.errors import ContainerError

# Names of bridges hold 15 characters.
INSIDE: Final = "mcpr-"
EDGE: Final = "mcpe-"
_SECONDS: Final = 20.0
_TABLE: Final = ("table", "inet", "bandmaster")
# What comes from a role's bridge stays on it; a proxy's goes out, but to no other proxy, as far as
# the kernel shows these rules what stays on one bridge. This machine gets replies to what it asked
# itself, and where a neighbour is.
_RULES: Final = f"""\
table inet bandmaster
delete table inet bandmaster
table inet bandmaster {{
    chain input {{
        type filter hook input priority -10; policy accept;
        iifname "{INSIDE}*" jump refuse
        iifname "{EDGE}*" jump refuse
    }}
    chain refuse {{
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        reject
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        iifname "{INSIDE}*" fib daddr . iif oif missing reject
        iifname != "{INSIDE}*" oifname "{INSIDE}*" reject
        iifname "{EDGE}*" oifname "{EDGE}*" reject
    }}
}}
"""


@final
class Firewall:
    """The table, as it was made; any thread may ask."""

    def __init__(self) -> None:
        """Look at nothing yet."""
        self._turn = threading.Lock()
        self._shown = b""
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger("agentsd")
        self.trouble = ""

    def close(self) -> bool:
        """Have the kernel refuse what comes from containers' networks to this machine.

        Returns:
            Whether the rules were there already, all of them and no others.

        Raises:
            ContainerError: They cannot be had.
        """
        with self._turn:
            if self._shown and self._show() == self._shown:
                self.trouble = ""
                return True
            _ = _nft("-f", "-", text=_RULES.encode())
            self._shown = self._show()
            self.trouble = ""
            return False

    def keep(self, forget: Callable[[], None]) -> None:
        """Put the rules back if they are gone, while there are bridges that need them.

        Args:
            forget: Called when they were: whatever was proven is to be proven again.
        """
        was_closed = bool(self._shown)
        try:
            if not any(name.startswith((INSIDE, EDGE)) for _, name in socket.if_nameindex()):
                self.trouble = ""
            elif not self.close() and was_closed:
                forget()
                self._log.warning(
                    "containers could reach this machine",
                    detail="the rules against it were gone, or others; they were put back",
                )
        except (ContainerError, OSError) as error:
            if not self.trouble:
                self._log.warning("containers may reach this machine", detail=str(error))
            self.trouble = f"containers may reach this machine: {error}"
            forget()

    def _show(self) -> bytes:
        try:
            return _nft("list", *_TABLE)
        except ContainerError:
            return b""


def _nft(*words: str, text: bytes = b"") -> bytes:
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if nft is None:
        raise ContainerError(
            "the container's network cannot be closed against this machine: there is no nft",
            hint="Install nftables.",
        )
    try:
        done = subprocess.run(  # noqa: S603 - words of our own
            [nft, *words], input=text, check=False, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ContainerError(
            "the container's network cannot be closed against this machine: nft does not end",
            hint="See what else sets rules here.",
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise ContainerError(
            f"the container's network cannot be closed against this machine: {said}",
            hint="The kernel needs nf_tables with its fib expression, and Bandmaster "
            "CAP_NET_ADMIN.",
        )
    return done.stdout
