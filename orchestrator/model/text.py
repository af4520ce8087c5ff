"""Text that somebody else wrote, made fit to be shown on a terminal.

A server chooses its descriptions, results and errors. Shown as they are, they could move the
cursor, colour a line away, turn its direction round, or hold words that a person does not see and
a model does.
"""

import re
from typing import Final

# Source: Unicode 17, DerivedCoreProperties, Default_Ignorable_Code_Point: shown as nothing, and
# some of them are printable to Python. U+2800 is blank, too, without having the property.
_INVISIBLE: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SUSPECT: Final = re.compile(f"[^\\x20-\\x7e\\u00a1-\\u00ac\\u00ae-\\u024f]|[{_INVISIBLE}]")
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")
_BMP: Final = 0xFFFF


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Write every character that is not seen as itself as `\uXXXX`, as JSON does.

    Args:
        text: Any text.
        keep: Characters that stay what they are although they are not printable.
    """

    def write(match: re.Match[str]) -> str:
        letter = match[0]
        if letter in keep or (letter.isprintable() and not _HIDDEN.match(letter)):
            return letter
        code = ord(letter)
        if code <= _BMP:
            return f"\\u{code:04x}"
        code -= _BMP + 1
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"

    return _SUSPECT.sub(write, text)


def cut(text: str, longest: int) -> str:
    """Shorten a text to so many characters, and show that it was longer."""
    return text if len(text) <= longest else text[: max(0, longest - 3)] + "..."
