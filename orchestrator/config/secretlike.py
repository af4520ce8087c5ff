"""Tells what looks like a secret, so that one pasted into a file is refused and never repeated.

A guess, on the careful side: whoever is hit by mistake can always move the value behind a
reference under `secrets:`.
"""

import re
from collections import Counter
from math import log2

from orchestrator.model.secret_formats import find_secret

_SECRET_WORDS = frozenset({
    "KEY", "KEYS", "APIKEY", "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASS",
    "PASSPHRASE", "PASSCODE", "PIN", "CREDENTIAL", "CREDENTIALS", "CREDS", "MNEMONIC", "SEED",
    "PRIVATE", "PRIVATEKEY", "BEARER", "COOKIE", "DSN",
})  # fmt: skip
# What is said about a secret, and is none: WALLETSERVER_TOKEN_FILE, MAX_TOKEN_AGE, PUBLIC_KEY.
_HARMLESS_WORDS = frozenset({
    "FILE", "PATH", "DIR", "DIRECTORY", "NAME", "ID", "TTL", "AGE", "MODE", "TYPE", "HEADER",
    "COUNT", "LIMIT", "MAX", "MIN", "SIZE", "LENGTH", "PUBLIC", "ALGORITHM", "SECONDS", "MS",
})  # fmt: skip
# A plain word, or a file of the project: `{state}/keys.json`.
_HARMLESS_VALUE = re.compile(
    r"[0-9]{1,6}|true|false|yes|no|on|off|none||\{(?:project|state)\}/[^\s\0]*", re.IGNORECASE
)

# What is a secret in a file, but need not be one in a call, beside the formats known for sure.
_LIKELY = re.compile(
    r"""
      \b(?:0x)?[0-9a-fA-F]{64}\b                             # a private key, or a hash
    | \b[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@              # a password inside a URL
    | \b[Bb]earer\ +[\w.~+/-]{16,}
    """,
    re.VERBOSE,
)
_MNEMONIC = re.compile(r"[a-z]{3,8}(?: [a-z]{3,8}){11}(?:(?: [a-z]{3,8}){3}){0,4}")
_RANDOM_RUN = re.compile(r"[A-Za-z0-9+/_-]{20,}")
_MIN_ENTROPY_BITS = 3.6
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_HEX = re.compile(r"[0-9a-fA-F]{32,}")
_PLACE = re.compile(r"(?:/|\./|\.\./|~|\{)|[a-z][a-z0-9+.-]*://")

_SAYABLE = re.compile(r"[A-Za-z0-9_.@/<-]{1,64}")


def is_sayable(word: str) -> bool:
    """Tell whether a word of the user may stand in a message."""
    return _SAYABLE.fullmatch(word) is not None and not looks_random(word)


def is_secret_name(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    words = set(name.upper().split("_"))
    return bool(words & _SECRET_WORDS) and not words & _HARMLESS_WORDS


def is_harmless(value: str) -> bool:
    """Tell whether a value is too plain to be a secret, whatever its name."""
    return _HARMLESS_VALUE.fullmatch(value) is not None


def looks_known(value: str) -> bool:
    """Tell whether a text holds a secret of a known format."""
    return (
        find_secret(value.encode("utf-8", "replace")) is not None
        or _LIKELY.search(value) is not None
        or _MNEMONIC.fullmatch(value.strip()) is not None
    )


def looks_random(value: str) -> bool:
    """Tell whether a text holds a secret of a known format, or a word that looks random."""
    if looks_known(value):
        return True
    if _PLACE.match(value) or _UUID.fullmatch(value) or _ADDRESS.fullmatch(value):
        return False
    return any(_is_random(run[0]) for run in _RANDOM_RUN.finditer(value))


def _is_random(run: str) -> bool:
    if _HEX.fullmatch(run):
        return True
    mixed = all(re.search(kind, run) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return mixed and _entropy_bits(run) >= _MIN_ENTROPY_BITS


def _entropy_bits(text: str) -> float:
    total = len(text)
    return -sum(n / total * log2(n / total) for n in Counter(text).values())
