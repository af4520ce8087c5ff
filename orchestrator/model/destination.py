"""Hosts and ports that a role's servers may reach; read by a proxy that starts often.

Source: RFC 6890 (addresses with a special purpose), RFC 6052 (NAT64), RFC 1123 (host names).
"""

import ipaddress
import re
from typing import Final, NamedTuple, TypeAlias

from typing_extensions import override

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_HOST: Final = 253
_LAST_PORT: Final = 65_535
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})"
)
# Resolvers read such a last part as a piece of an address: 127.1, 0x7f000001.
_LIKE_A_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_EXPECTED: Final = (
    "a destination is a host and a port, such as api.example.com:443 or [2001:db8::1]:5432"
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# They carry an IPv4 address, which may be anybody's: Teredo and 6to4.
_TUNNELS: Final = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))
# Public by what Python says, and yet inside: Azure's virtual machines ask the first for settings,
# Oracle's the second, which is kept for protocols.
_INSIDE: Final = (
    ipaddress.IPv4Network("168.63.129.16/32"),
    ipaddress.IPv4Network("192.0.0.0/24"),
)


class Destination(NamedTuple):
    """A host, by name or by literal address, and a port.

    Attributes:
        host: Lower case, without a dot at the end; an address in its shortest form, no brackets.
        port: From 1.
    """

    host: str
    port: int

    @property
    def address(self) -> IPAddress | None:
        """The address, if the host is written as one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @override
    def __str__(self) -> str:
        """Write it as it is listed."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_destination(text: str) -> Destination:
    """Read `HOST:PORT`.

    Raises:
        ValueError: It is none; or a name that resolvers read as an address, such as `127.1`.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= _LAST_PORT:
        raise ValueError(_EXPECTED)
    port = int(match["port"])
    six = match["six"]
    host = "" if match["host"] is None else match["host"].lower().removesuffix(".")
    try:
        if six is not None and "%" not in six:
            return Destination(str(ipaddress.IPv6Address(six)), port)
        if _LIKE_A_NUMBER.fullmatch(host.rpartition(".")[2]):
            return Destination(str(ipaddress.IPv4Address(host)), port)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if len(host) > LONGEST_HOST or not _NAME.fullmatch(host):
        raise ValueError(_EXPECTED)
    return Destination(host, port)


def is_public(address: IPAddress) -> bool:
    """Whether an address is somebody's on the internet: no machine's own, no private network's.

    An address of version 6 that stands for one of version 4 counts as that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _UNICAST or any(address in tunnel for tunnel in _TUNNELS):
            return False
    if any(address in network for network in _INSIDE):
        return False
    return address.is_global and not address.is_multicast
