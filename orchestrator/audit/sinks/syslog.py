"""Lines as syslog messages.

Source: RFC 5424 (the message), RFC 6587, 3.4.1 (octet counting over TCP), RFC 5425 (TLS), RFC 5426
(UDP), RFC 5612 (the enterprise number for examples: this program has none of its own).
"""

import os
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from orchestrator.audit.formats.base import Format, text_of, weight_of
from orchestrator.audit.sinks.base import Entry
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

# Log audit.
FACILITY: Final = 13
# By the weight from which on they hold: critical, error, warning, notice.
_SEVERITIES: Final = ((9, 2), (7, 3), (4, 4), (3, 5))
_INFORMATIONAL: Final = 6
_BOM: Final = b"\xef\xbb\xbf"
_NAME: Final = re.compile(r"[^!-~]")
_ELEMENT: Final = "bandmaster@32473"
_FIELDS: Final = ("role", "agent", "tool", "class", "outcome", "code", "request", "run", "by")
_LONGEST_PARAMETER: Final = 128


def priority_of(told: "JsonObject") -> int:
    """Tell the PRI of a line."""
    weight = weight_of(told)
    severity = next((number for least, number in _SEVERITIES if weight >= least), _INFORMATIONAL)
    return FACILITY * 8 + severity


def render(entry: Entry, form: Format, longest: int) -> bytes:
    """Write one message.

    Args:
        entry: The line.
        form: How its text is written.
        longest: Bytes that the message may have. What is cut off the text is counted in the
            parameter `truncated`; the line's number leads to the whole of it.
    """
    text = form.render(entry.line, entry.told)
    mark = b"" if text.isascii() else _BOM
    whole = _head(entry, 0) + mark + text
    if len(whole) <= longest:
        return whole
    # The count has to be known before there is room for it.
    room = max(0, longest - len(_head(entry, len(text))) - len(_BOM))
    # Not inside a character.
    kept = text[:room].decode("utf-8", "ignore").encode()
    return _head(entry, len(text) - len(kept)) + (b"" if kept.isascii() else _BOM) + kept


def frame(messages: Sequence[bytes]) -> bytes:
    """Put messages behind each other so that their ends are found, by counting octets."""
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


def _head(entry: Entry, truncated: int) -> bytes:
    told = entry.told
    parameters = [f'seq="{entry.seq}"']
    if truncated:
        parameters.append(f'truncated="{truncated}"')
    parameters += [f'{name}="{_escape(text_of(told, name))}"' for name in _FIELDS if name in told]
    words = (
        f"<{priority_of(told)}>1",
        _name(text_of(told, "time"), 32),
        _name(socket.gethostname(), 255),
        "bandmaster",
        str(os.getpid()),
        _name(text_of(told, "event"), 32),
        f"[{_ELEMENT} {' '.join(parameters)}]",
        "",
    )
    return " ".join(words).encode("utf-8", "replace")


def _name(text: str, longest: int) -> str:
    return _NAME.sub("?", text)[:longest] or "-"


def _escape(text: str) -> str:
    seen = visible(text[:_LONGEST_PARAMETER], keep="")
    return seen.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
