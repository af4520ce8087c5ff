"""Formats of secrets that are known for sure, wherever they stand: in a file, in an argument.

What is found is no accident, so that a call may be refused for it. The search stays cheap for
what tools are usually called with, and linear for whatever else comes: all formats are long runs
of letters, so only the beginnings of long runs are looked at.
"""

import re
from typing import Final

from orchestrator.model.phrase import LENGTHS, holds_phrase

# Of a long text so much is looked at before others get a turn; nothing that is looked for is longer
# than what two pieces have in common.
PIECE_BYTES: Final = 64 * 1024
OVERLAP_BYTES: Final = 16 * 1024
_RUN: Final = b"x" * 16
_LETTERS: Final = bytes(
    ord("x") if re.match(rb"[A-Za-z0-9_-]", bytes([byte])) else ord(" ") for byte in range(256)
)
_PREFIX: Final = 2  # letters that tell which formats come into question

# By how it begins: what it looks like, and what it is.
_FORMATS: Final = tuple(
    (re.compile(pattern.encode()), name)
    for pattern, name in (
        (r"eyJ[\w-]{8,}+\.[\w-]*+\.", "a JSON Web Token"),
        (r"AGE-SECRET-KEY-1", "an age key"),
        (r"gh[opsur]_\w{20}", "a GitHub token"),
        (r"github_pat_\w{20}", "a GitHub token"),
        (r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|oas|soat)-[\w-]{16}", "a GitLab token"),
        (r"xox[a-z]-[\w-]{10}", "a Slack token"),
        (r"xapp-[\w-]{10}", "a Slack token"),
        (r"A[KS]IA[A-Z0-9]{16}\b", "an AWS key"),
        (r"AIza[\w-]{30}", "a Google key"),
        (r"GOCSPX-[\w-]{20}", "a Google key"),
        (r"[spr]k_(?:live|test|prod)_\w{6}", "a Stripe key"),
        (r"whsec_[A-Za-z0-9+/=]{16}", "a Stripe key"),
        (r"sk-ant-[\w-]{6}", "an Anthropic key"),
        (r"sk-(?:live|test|proj|or|svcacct)-\w{6}|sk-[A-Za-z0-9]{16}", "an API key"),
        (r"hf_[A-Za-z0-9]{20}", "a Hugging Face token"),
        (r"npm_[A-Za-z0-9]{20}", "an npm token"),
        (r"pypi-[\w-]{20}", "a PyPI token"),
        (r"dop_v1_[0-9a-f]{32}", "a DigitalOcean token"),
        (r"(?:ows|mpc)_key_[0-9a-f]{16}", "a wallet token"),
    )
)
_PREFIXES: Final = frozenset(
    b"ey AG gh gi gl xo xa AK AS AI GO sk pk rk wh hf np py do ow mp".split()
)
# Our own, found wherever they stand. Source: orchestrator/tokens/mint.py.
_OWN_MARK: Final = b"mga_"
_OWN: Final = re.compile(rb"mga_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY")
# A key of 32 bytes looks like the hash of a transaction: only its name tells.
_KEY_LENGTHS: Final = (64, 66)
_KEY: Final = re.compile(rb"(?:0x)?[0-9a-fA-F]{64}")
_KEY_NAME: Final = re.compile(rb"(?:private|secret|signing)[_-]?key\W{1,8}\Z", re.IGNORECASE)
_NAME_LENGTH: Final = 24
_SENDGRID: Final = b"SG."
_SHORTEST_PHRASE: Final = 4 * LENGTHS[0] - 2  # bytes
_CODED: Final = re.compile(rb"\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2}")


def find_secret(data: bytes) -> str | None:
    """Look for a secret of a known format.

    Args:
        data: A text, or a JSON text.

    Returns:
        What was found, such as `a GitHub token`; never the secret.
    """
    # `in` takes twice as long: it tries to read what is looked for as a number first.
    if data.find(b"\\") >= 0 or data.find(b"%") >= 0:
        data = _without_escapes(data)
    runs = data.translate(_LETTERS)
    begin = runs.find(_RUN)
    if begin >= 0 and _OWN_MARK in data and _OWN.search(data):
        return "a token of an agent"
    while begin >= 0:
        end = runs.find(b" ", begin)
        end = len(runs) if end < 0 else end
        if found := _look_at(data, begin, end):
            return found
        begin = runs.find(_RUN, end)
    if data.find(b"PRIVATE KEY") >= 0 and _PEM.search(data):
        return "a private key"
    if len(data) > _SHORTEST_PHRASE and runs.count(b" x") >= LENGTHS[0] - 1 and holds_phrase(data):
        return "the recovery phrase of a wallet"
    return None


def _without_escapes(data: bytes) -> bytes:
    """Blank out escapes: their letters would hide where a word begins."""
    for escape in (rb"\\", rb"\n", rb"\t", rb"\r", rb"\b", rb"\f"):
        data = data.replace(escape, b"  ")
    return _CODED.sub(b" ", data)


def _look_at(data: bytes, begin: int, end: int) -> str | None:
    """Tell what a run of letters is, if it is a secret."""
    if data[begin : begin + _PREFIX] in _PREFIXES:
        for pattern, name in _FORMATS:
            if pattern.match(data, begin):
                return name
    if end - begin in _KEY_LENGTHS and _KEY.match(data, begin):
        before = data[max(0, begin - _NAME_LENGTH) : begin]
        return "a private key" if _KEY_NAME.search(before) else None
    return "a SendGrid key" if data[max(0, begin - 3) : begin] == _SENDGRID else None
