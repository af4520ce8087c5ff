"""What a client asks the forward proxy for: heads of HTTP/1.1, without I/O.

Source: RFC 9110, sections 7.6.1, 9.3.6 and 11.7; RFC 9112, section 3.2.
"""

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.model.destination import Destination, parse_destination

HEAD_END: Final = b"\r\n\r\n"
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIRST: Final = re.compile(rf"(?P<method>{_WORD}) (?P<target>[!-~]+) HTTP/1\.[01]")
_FIELD: Final = re.compile(rf"(?P<name>{_WORD}):[ \t]*(?P<value>[^\x00-\x08\x0a-\x1f\x7f]*)")
_PLAIN: Final = "http://"
_PLAIN_PORT: Final = 80
# They are for the next hop, which is us. What frames the body has to stay, whoever names it.
_ONE_HOP: Final = frozenset({"connection", "host", "keep-alive", "te", "trailer", "upgrade"})
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be understood.

    Attributes:
        destination: Where to.
        credential: Value of `Proxy-Authorization`; empty without one.
        head: What goes to the destination first; empty for a tunnel.
    """

    destination: Destination
    credential: bytes
    head: bytes

    @property
    def is_tunnel(self) -> bool:
        """Whether it was CONNECT."""
        return not self.head


def read_head(head: bytes) -> Asked:
    """Read a request's head.

    Args:
        head: All of it, with the empty line at its end.

    Raises:
        ValueError: It is no request for a forward proxy; says why, in words for the client, and
            repeats nothing of it.
    """
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    first = _FIRST.fullmatch(lines[0])
    fields = [_FIELD.fullmatch(line) for line in lines[1:]]
    if first is None or None in fields:
        raise ValueError("this is no request of HTTP/1.1")
    pairs = [(each["name"].lower(), each["value"].rstrip(" \t")) for each in fields if each]
    credential = next((value for name, value in pairs if name == "proxy-authorization"), "")
    method, target = first["method"], first["target"]
    if method == "CONNECT":
        return Asked(parse_destination(target), credential.encode("latin-1"), b"")
    if target[: len(_PLAIN)].lower() != _PLAIN:
        raise ValueError(
            "this is a forward proxy: ask for CONNECT host:port, or for a whole http:// URL"
        )
    match = re.fullmatch(r"([^/?#@]+)([/?][^#]*)?", target[len(_PLAIN) :])
    if match is None:
        raise ValueError("the URL is none that a proxy can ask for")
    authority, rest = match[1], match[2] or "/"
    path = rest if rest.startswith("/") else f"/{rest}"
    has_port = re.search(r":[0-9]+$", authority)
    destination = parse_destination(authority if has_port else f"{authority}:{_PLAIN_PORT}")
    if destination.port != _PLAIN_PORT:
        raise ValueError("plain http:// is passed on to port 80 only; ask for CONNECT host:port")
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == "connection"
        for word in value.split(",")
    }
    dropped = _ONE_HOP | (named - _FRAMING)
    kept = [
        f"{name}: {value}"
        for name, value in pairs
        if name not in dropped and not name.startswith("proxy-")
    ]
    written = [f"{method} {path} HTTP/1.1", f"host: {authority}", "connection: close", *kept]
    return Asked(
        destination,
        credential.encode("latin-1"),
        "\r\n".join(written).encode("latin-1") + HEAD_END,
    )
