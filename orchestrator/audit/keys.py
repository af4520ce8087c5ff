"""The key that signs the record, and the public keys that check it."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from orchestrator.errors import SettingsError, StateCorruptError, StateUnwritableError
from orchestrator.files import make_private_directory, read_regular, write_atomically

KEY_BYTES: Final = 32
_PREFIX: Final = "ed25519:"
_MOST_BYTES: Final = 64 * 1024


@final
class PublicKey:
    """Checks what its other half has signed.

    Attributes:
        id: Short name of the key, in each line that it signed.
        text: The key as people and programs pass it on.
    """

    def __init__(self, raw: bytes) -> None:
        """Take the key's 32 bytes."""
        self._key = Ed25519PublicKey.from_public_bytes(raw)
        self.id = hashlib.sha256(raw).hexdigest()[:16]
        self.text = _PREFIX + base64.b64encode(raw).decode("ascii")

    def has_signed(self, data: bytes, signature: object) -> bool:
        """Tell whether a signature, in base64, is of this data."""
        if not isinstance(signature, str):
            return False
        try:
            raw = base64.b64decode(signature, validate=True)
            self._key.verify(raw, data)
        except (InvalidSignature, ValueError, binascii.Error):
            return False
        # Base64 has several texts for the same bytes, and one that is right.
        return base64.b64encode(raw).decode("ascii") == signature


# Public keys by their short name.
Keys: TypeAlias = Mapping[str, PublicKey]


@final
class Signer:
    """Signs.

    Attributes:
        public: The other half.
    """

    def __init__(self, raw: bytes) -> None:
        """Take the key's 32 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> str:
        """Sign data; the signature is base64."""
        return base64.b64encode(self._key.sign(data)).decode("ascii")


def load_signer(path: Path) -> Signer:
    """Read the key, or make one if there is none yet.

    Raises:
        StateCorruptError: The file is there and holds no key.
        StateUnwritableError: There is none, and no room for one.
    """
    try:
        raw, _ = read_regular(path, KEY_BYTES, follow=False)
    except FileNotFoundError:
        make_private_directory(path.parent)
        raw = Ed25519PrivateKey.generate().private_bytes_raw()
        try:
            write_atomically(path, raw)
        except OSError as error:
            raise StateUnwritableError(
                f"{path} cannot be written: {error.strerror}", hint="Make room on the disk."
            ) from error
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) != KEY_BYTES:
        raise StateCorruptError(
            f"{path} holds no key of {KEY_BYTES} bytes",
            hint="Put the right one back; or move it away, and the record is signed with a new one "
            "from the next start on.",
        )
    return Signer(raw)


def read_keys(text: str) -> dict[str, PublicKey]:
    """Read public keys, one a line; `#` begins a comment.

    Raises:
        SettingsError: A line is no key.
    """
    keys: list[PublicKey] = []
    for line in text.splitlines():
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            raw = base64.b64decode(word.removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        if not word.startswith(_PREFIX) or len(raw) != KEY_BYTES:
            raise SettingsError(
                "a public key of a record is `ed25519:` with 44 characters of base64",
                hint="`agents audit key` prints it.",
            )
        keys.append(PublicKey(raw))
    return {key.id: key for key in keys}


def read_key_file(path: Path) -> dict[str, PublicKey]:
    """Read a file of public keys.

    Raises:
        SettingsError: It cannot be read, or a line of it is no key.
    """
    try:
        data, _ = read_regular(path, _MOST_BYTES, follow=True)
        return read_keys(data.decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} holds no public keys") from error


def write_keys(keys: Iterable[PublicKey]) -> bytes:
    """Make a file of public keys, as `read_key_file` reads it."""
    return "".join(f"{key.text} # {key.id}\n" for key in keys).encode("ascii")
