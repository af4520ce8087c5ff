"""Takes secrets out of text that somebody else wrote."""

import base64
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr

HIDDEN: Final = "[hidden]"
# Agent tokens and wallet tokens, whoever's they are.
_TOKENS: Final = re.compile(r"\b(?:mga_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}|mpc_key_[0-9a-f]{64})\b")


def redact(text: str, values: Iterable[SecretStr]) -> str:
    """Replace every secret in a text, plain, as Base64 and as part of a URL, and every token."""
    for value in values:
        plain = value.get_secret_value()
        raw = plain.encode()
        encoded = base64.b64encode(raw).decode()
        safe = base64.urlsafe_b64encode(raw).decode()
        for form in (plain, quote(plain, safe=""), encoded, safe, raw.hex()):
            text = text.replace(form, HIDDEN)
    return _TOKENS.sub(HIDDEN, text)
