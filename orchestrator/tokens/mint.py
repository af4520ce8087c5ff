"""The bytes of an agent token: its format, its checksum and its digest.

`mga_`, 12 digits of public id, 43 digits of secret (32 random bytes), 6 digits of CRC-32 over all
that stands before; digits in base 62. The checksum is no security: it tells a typing error and a
scanner's false find from a token without a look-up.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from orchestrator.model.names import TokenId

PREFIX: Final = "mga_"
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 43
CRC_LENGTH: Final = 6
# What leak scanners look for.
FORMAT: Final = r"\bmga_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"mga_(?P<id>[0-9A-Za-z]{12})_[0-9A-Za-z]{49}")


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token; its text exists here only.

    Attributes:
        id: Its public id.
        text: What the agent shows.
        digest: What is kept.
    """

    id: TokenId
    text: SecretStr
    digest: bytes = field(repr=False)


def mint() -> Minted:
    """Make a token that nobody has seen."""
    public = "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))
    secret = _base62(int.from_bytes(secrets.token_bytes(32), "big"), SECRET_LENGTH)
    body = f"{PREFIX}{public}_{secret}"
    text = body + _checksum(body)
    return Minted(TokenId(public), SecretStr(text), digest(text))


def read_id(text: str) -> TokenId | None:
    """Tell the id inside a text, or None if the text is no token at all."""
    match = _TOKEN.fullmatch(text)
    if match is None or _checksum(text[:-CRC_LENGTH]) != text[-CRC_LENGTH:]:
        return None
    return TokenId(match["id"])


def digest(text: str) -> bytes:
    """Hash a token for keeping and comparing.

    One round without salt is enough, as 256 random bits cannot be guessed.
    """
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CRC_LENGTH)


def _base62(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
