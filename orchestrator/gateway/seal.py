"""Values that callers keep for the gateway: nobody else can read, make or change one.

A sealed value holds its own facts, so that it outlives the gateway's process and any replica with
the same key can open it.
"""

import base64
import binascii
import secrets
from pathlib import Path
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.errors import StateCorruptError
from orchestrator.files import make_private_directory, write_atomically
from orchestrator.model.base import Json
from orchestrator.protocol import jsonrpc

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
# Longer texts are none of ours, unless a server's own state is in them.
_MAX_CHARACTERS: Final = 4 * 1024 * 1024


def load_key(path: Path) -> bytes:
    """Read the key, or make one if there is none yet.

    Raises:
        StateCorruptError: The file is there and holds no key.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        make_private_directory(path.parent)
        key = secrets.token_bytes(KEY_BYTES)
        write_atomically(path, key)
        return key
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be read: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise StateCorruptError(
            f"{path} holds no key of {KEY_BYTES} bytes",
            hint="Move it away, then `agents restart`; agents have to open their sessions again.",
        )
    return key


@final
class Seal:
    """Seals JSON values, each for one purpose.

    Source: NIST SP 800-38D; a nonce is random, as far fewer than 2^32 values are sealed.
    """

    def __init__(self, key: bytes) -> None:
        """Seal with this key of 32 bytes."""
        self._cipher = AESGCM(key)

    def close(self, purpose: str, value: Json) -> str:
        """Seal a value; the text is safe in a header."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, jsonrpc.encode(value), purpose.encode())
        return _write(sealed)

    def open(self, purpose: str, text: str) -> Json:
        """Open a sealed value; None if it is none of ours, or was sealed for something else."""
        if len(text) > _MAX_CHARACTERS:
            return None
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            if _write(sealed) != text:
                return None  # another spelling of the same bytes
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return jsonrpc.decode(self._cipher.decrypt(nonce, rest, purpose.encode()))
        except (binascii.Error, ValueError, InvalidTag):
            return None


def _write(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")
