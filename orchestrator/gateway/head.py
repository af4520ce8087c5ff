"""The head of an HTTP request, with what was found out about it.

Callers say the same head with every request of a connection. It is read once, and whoever finds out
something that follows from the head alone notes it here.
"""

import re
from typing import TYPE_CHECKING, Final, final

from orchestrator.gateway.asgi import RawHeaders, Scope

if TYPE_CHECKING:
    from orchestrator.model.names import RoleName
    from orchestrator.model.snapshot import Era

_NONE: Final[frozenset[bytes]] = frozenset()
_LENGTH: Final = b"content-length"
# Kept with an idle connection, the caller's token included: longer heads are read anew each time.
_LONGEST: Final = 2048
_MOST_DIGITS: Final = 5
_WRITTEN_LENGTH: Final = re.compile(
    rb"\r\ncontent-length: *([0-9]{1,%d})\r\n" % _MOST_DIGITS, re.IGNORECASE
)
# What makes of a request more than a head and a body of told length.
_ODD: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


@final
class Head:
    """What HTTP tells before the body: the method, and the headers by name in lower case.

    Attributes:
        method: The HTTP method.
        raw: As they came.
        values: The last value of each name.
        repeated: Names that came more than once.
        role: The role at whose URL it asks, if it is one of ours and so are the host and the
            origin that it names; None if nobody looked yet, or it is not (app).
        era: The rules that it asks for, None if nobody looked yet (parse).
        is_usual: Whether it is as nearly all callers write it (parse).
        tool: The tool that it says is called, where it says that plainly (parse).
    """

    __slots__ = (
        "era",
        "is_usual",
        "method",
        "raw",
        "repeated",
        "role",
        "tool",
        "values",
    )

    def __init__(self, method: str, raw: RawHeaders) -> None:
        """Index the headers."""
        self.method = method
        self.raw = raw
        self.values: dict[bytes, bytes] = dict(raw)
        self.repeated: frozenset[bytes] = _NONE
        if len(self.values) < len(raw):
            seen: set[bytes] = set()
            self.repeated = frozenset(
                name for name, _ in raw if name in seen or seen.add(name) is not None
            )
        self.role: RoleName | None = None
        self.era: Era | None = None
        self.is_usual = False
        self.tool: str | None = None


@final
class KnownHead:
    """A head that a connection has read, to be found again in what it reads next.

    Attributes:
        scope: What ASGI tells of it.
        head: The same for the gateway's own application.
        length: How long the body is.
    """

    __slots__ = ("_after", "_before", "_text", "head", "length", "scope")

    def __init__(self, text: bytes, begin: int, end: int, scope: Scope, head: Head) -> None:
        """Keep a head.

        Args:
            text: All of it.
            begin: Where in it the digits of the body's length begin.
            end: Where they end.
            scope: What a parser made of it.
            head: The same.
        """
        self._text = text
        self._before = text[:begin]
        self._after = text[end:]
        self.scope: Scope = scope
        self.head = head
        self.length = int(text[begin:end])

    def find(self, data: bytes) -> int:
        """Tell how many bytes of what was read are this head, with any length; 0 if none are."""
        if data.startswith(self._text):
            return len(self._text)
        if not data.startswith(self._before):
            return 0
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS + 1)
        digits = data[begin : max(begin, end)]
        if not digits.isdigit() or not data.startswith(self._after, end):
            return 0
        self._say(digits)
        return len(self._text)

    def _say(self, digits: bytes) -> None:
        """Tell of a body of another length; what else was found out stays true."""
        before, raw = self.head, self.head.raw
        raw = [(name, digits if name == _LENGTH else value) for name, value in raw]
        self._text = self._before + digits + self._after
        self.length = int(digits)
        scope: Scope = {**self.scope, "headers": raw}
        self.scope = scope
        self.head = Head(before.method, raw)
        self.head.role, self.head.tool = before.role, before.tool
        self.head.era, self.head.is_usual = before.era, before.is_usual


def size_of_head(data: bytes) -> int:
    """Tell how long the head is with which what was read begins.

    Returns:
        0 if it has no end, or if its lines end in ways in which readers may differ.
    """
    end = data.find(b"\r\n\r\n") + 4
    lines = data.count(b"\r\n", 0, end)
    is_plain = data.count(b"\n", 0, end) == lines == data.count(b"\r", 0, end)
    return end if is_plain and lines else 0


def learn(text: bytes, scope: Scope, head: Head) -> KnownHead | None:
    """Keep a head.

    Args:
        text: All of it.
        scope: What a parser made of it.
        head: The same.

    Returns:
        None if it is longer than is worth it, or tells more than a body of some length.
    """
    names = head.values.keys()
    if len(text) > _LONGEST or head.repeated or not _ODD.isdisjoint(names):
        return None
    match = _WRITTEN_LENGTH.search(text)
    if match is None or match[1] != head.values.get(_LENGTH):
        return None
    return KnownHead(text, match.start(1), match.end(1), scope, head)
