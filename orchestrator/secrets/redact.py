"""Takes secrets out of text that somebody else wrote."""

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Final, final
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

HIDDEN: Final = "[hidden]"
# Agent tokens and wallet tokens, whoever's they are.
_TOKENS: Final = re.compile(r"\b(?:mga_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}|mpc_key_[0-9a-f]{64})\b")
# Shorter texts stand in words that are no secrets.
_SHORTEST: Final = 8
_MOST: Final = 1000


@final
class Redactor:
    """Takes the values that it was told out of texts, in every form that they travel in."""

    def __init__(self, values: Iterable[SecretStr] = ()) -> None:
        """Begin with some values."""
        self._lock = threading.Lock()
        self._values: dict[str, tuple[str, ...]] = {}
        self._forms: tuple[str, ...] = ()
        self.learn(values)

    def learn(self, values: Iterable[SecretStr]) -> None:
        """Take further values along; of very many the oldest are forgotten."""
        with self._lock:
            new = [each.get_secret_value() for each in values]
            new = [plain for plain in new if plain and plain not in self._values]
            if not new:
                return
            for plain in new:
                self._values[plain] = tuple(_forms(plain))
            while len(self._values) > _MOST:
                del self._values[next(iter(self._values))]
            forms = {form for each in self._values.values() for form in each}
            # What holds another form goes first.
            self._forms = tuple(sorted(forms, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """Replace every value that was learned, and every token."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return _TOKENS.sub(HIDDEN, text)


# Every value that this process has resolved.
LIVE: Final = Redactor()


def redact(text: str, values: Iterable[SecretStr] = ()) -> str:
    """Replace the given secrets, every secret that this process resolved, and every token."""
    return LIVE.clean(Redactor(values).clean(text))


def _forms(plain: str) -> Iterator[str]:
    # A text from the environment may hold bytes that are no characters.
    raw = plain.encode(errors="surrogateescape")
    yield plain
    # A key of several lines is often quoted by one of them.
    yield from (line for line in plain.split("\n") if len(line) >= _SHORTEST)
    for ascii_only in (True, False):
        yield json.dumps(plain, ensure_ascii=ascii_only)[1:-1]
    yield repr(plain)[1:-1]
    for coded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield coded
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), coded)
    yield raw.hex()
    yield raw.hex().upper()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        yield from _inside(raw, encode(b"\0" + raw).decode(), 1)
        yield from _inside(raw, encode(b"\0\0" + raw).decode(), 2)
        yield from _inside(raw, encode(raw).decode(), 0)


def _inside(raw: bytes, encoded: str, shift: int) -> Iterator[str]:
    """Give what Base64 makes of a text inside another, without the letters that neighbours share.

    Args:
        raw: The text.
        encoded: It, with so many bytes before it.
        shift: How many.
    """
    piece = encoded[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
    if len(piece) >= _SHORTEST:
        yield piece
