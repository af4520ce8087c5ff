"""Asks the desktop's keyring for one password; `orchestrator.secrets.keyring` runs it.

stdin: `{"service", "user"}`. stdout: `{"value"}`, `{"absent": true}` or `{"problem"}`. What a
library says in its errors is kept to itself.
"""

import json
import os
import sys
from typing import Final, TextIO, cast

# Keyrings that keep what they are given encrypted, or in another process. All others are refused:
# the library would fall back to a plain file, or to whatever a file in the home names.
_REAL: Final = ("keyring.backends.SecretService", "keyring.backends.kwallet")


def _ask(service: str, user: str) -> dict[str, str | bool]:
    try:
        import keyring.backend  # noqa: PLC0415  its absence is an answer
        import keyring.errors  # noqa: PLC0415  the same
    except ImportError:
        return {"problem": "library"}
    real = [each for each in keyring.backend.get_all_keyring() if type(each).__module__ in _REAL]
    if not real:
        return {"problem": "none"}
    chosen = max(real, key=lambda each: each.priority)
    try:
        value = chosen.get_password(service, user)
    except keyring.errors.KeyringLocked:
        return {"problem": "locked"}
    except keyring.errors.KeyringError:
        return {"problem": "failed"}
    return {"absent": True} if value is None else {"value": value}


def main(answer_to: TextIO) -> None:
    """Answer the one question on stdin."""
    request = cast("dict[str, str]", json.load(sys.stdin))
    try:
        answer = _ask(request["service"], request["user"])
    except Exception:  # noqa: BLE001  whatever it is, its text could hold the password
        answer = {"problem": "failed"}
    json.dump(answer, answer_to)
    answer_to.flush()


if __name__ == "__main__":
    # What libraries print goes nowhere.
    _out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(_null, 1)
    os.dup2(_null, 2)
    main(_out)
