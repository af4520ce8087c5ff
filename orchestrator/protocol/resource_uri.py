"""URIs as an allowlist names them: exact, or with `{name}` for one segment of the path.

URIs are compared as they are written. Whatever makes two spellings of one place stays outside of
a variable: percent-encoding, dot segments, a slash, a query.
"""

import re
from typing import Final, final

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?=.)")
_STRANGE: Final = re.compile(r"[\s\x00-\x1f\x7f\\]")
_VARIABLE: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_.]{0,63}\}")
# There a variable would be any host of the world.
_OF_HOSTS: Final = frozenset({"http:", "https:", "ws:", "wss:", "ftp:", "sftp:", "ssh:", "file:"})
_AUTHORITY: Final = 2  # the segment behind `//`
_DOTS: Final = frozenset({".", ".."})
_HOLE: Final = "\0"
# Source: RFC 3986, section 3.3, without percent-encoding and without what separates parameters.
_SEGMENT: Final = r"[A-Za-z0-9._~!$'()*+,=:@\0-]+"
_HOST: Final = r"[A-Za-z0-9._~\0-]+"


@final
class UriRule:
    """One entry of an allowlist.

    Attributes:
        text: The entry as it was written.
    """

    def __init__(self, text: str) -> None:
        """Read an entry.

        Raises:
            ValueError: It is none; in words for whoever wrote it.
        """
        scheme = _SCHEME.match(text)
        if scheme is None:
            raise ValueError("a URI begins with its scheme, such as file:///srv/docs/a.md")
        if _STRANGE.search(text):
            raise ValueError("a URI has no spaces, backslashes or control characters")
        segments = text.split("/")
        if _DOTS & set(segments):
            raise ValueError("a URI of an allowlist has no `.` or `..` as a segment")
        self.text = text
        self._pattern = re.compile(
            "/".join(_expression(number, segment) for number, segment in enumerate(segments))
        )
        if not self.is_exact:
            _check_variables(scheme[0].lower(), segments)

    @property
    def is_exact(self) -> bool:
        """Whether it names a single URI."""
        return "{" not in self.text and "}" not in self.text

    def allows(self, uri: str) -> bool:
        """Tell whether it names a URI."""
        if self.is_exact:
            return uri == self.text
        return _HOLE not in uri and self._matches(uri)

    def covers(self, template: str) -> bool:
        """Tell whether it names every URI that a server's template makes of plain values."""
        filled = _VARIABLE.sub(_HOLE, template)
        return "{" not in filled and not self.is_exact and self._matches(filled)

    def _matches(self, uri: str) -> bool:
        return self._pattern.fullmatch(uri) is not None and not _DOTS & set(uri.split("/"))


def _expression(number: int, segment: str) -> str:
    anything = _HOST if number == _AUTHORITY else _SEGMENT
    return anything.join(map(re.escape, _VARIABLE.split(segment)))


def _check_variables(scheme: str, segments: list[str]) -> None:
    for number, segment in enumerate(segments):
        variables = _VARIABLE.findall(segment)
        if "{" in _VARIABLE.sub("", segment) or "}" in _VARIABLE.sub("", segment):
            raise ValueError("a variable is written {name}, with letters, digits and _")
        if len(variables) > 1:
            raise ValueError("a segment has at most one variable")
        if variables and scheme in _OF_HOSTS and number <= _AUTHORITY:
            raise ValueError("a variable may not stand in place of a host")
    path, _, rest = re.sub("#", "?", "/".join(segments)).partition("?")
    if "{" in rest or "{" in path.partition(":")[0]:
        raise ValueError("a variable stands for a segment of the path, and nowhere else")
