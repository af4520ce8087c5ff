"""Short marks of values, for telling whether two are the same without showing either."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr

from orchestrator.errors import StateCorruptError
from orchestrator.files import PRIVATE_FILE, make_private_directory, sync_directory

_KEY_BYTES: Final = 32
_DIGITS: Final = 8


@final
class Fingerprints:
    """Marks values with a key of this project, so that a mark tells nothing elsewhere."""

    def __init__(self, path: Path) -> None:
        """Keep where the key is, or will be made at the first use."""
        self._path = path
        self._key: bytes | None = None

    def of(self, value: SecretStr) -> str:
        """Mark a value by eight hexadecimal digits.

        Raises:
            StateCorruptError: The key cannot be read, or is none.
        """
        raw = value.get_secret_value().encode()
        return hmac.new(self.key(), raw, hashlib.sha256).hexdigest()[:_DIGITS]

    def key(self) -> bytes:
        """Give the key.

        Raises:
            StateCorruptError: It cannot be read, or is none.
        """
        if self._key is None:
            self._key = _load(self._path)
        return self._key


def _load(path: Path) -> bytes:
    try:
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            _make(path)
            key = path.read_bytes()
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be used: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise StateCorruptError(
            f"{path} holds no key of {_KEY_BYTES} bytes",
            hint="Move it away; fingerprints of earlier logs then mean nothing any more.",
        )
    return key


def _make(path: Path) -> None:
    """Make the key, unless another process is quicker."""
    make_private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _ = file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        # Unlike a rename, a link replaces nothing.
        path.hardlink_to(temporary)
        sync_directory(path.parent)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
