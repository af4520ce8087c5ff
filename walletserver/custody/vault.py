"""Seals private keys with a key derived from the passphrase.

Each wallet has its own salt. Derived keys are kept in memory, so that only the first signature
of a process pays for the derivation.
"""

import hashlib
import secrets
import threading
from typing import Final

from walletserver.codes import Code
from walletserver.errors import FlowError

SALT_LENGTH: Final = 16
_NONCE_LENGTH: Final = 12
# About 50 ms and 16 MiB: OWASP's smallest scrypt profile with p=1 asks for more, but a
# development signer has to stay quick. A strong passphrase makes up for it.
_COST: Final = 2**14
_BLOCK: Final = 8


class Vault:
    """Opens and seals keys; without a passphrase it can do neither."""

    def __init__(self, passphrase: str | None) -> None:
        """Keep the passphrase.

        Args:
            passphrase: From the environment; None when it is not set there.
        """
        self._passphrase = passphrase
        self._derived: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def unlock(self, salt: bytes) -> None:
        """Derive the key of one salt ahead of its use.

        Raises:
            FlowError: There is no passphrase.
        """
        self._key(salt)

    def seal(self, key: bytes, salt: bytes, context: str) -> bytes:
        """Encrypt a private key.

        Args:
            key: The private key.
            salt: Fresh random bytes, stored beside the result.
            context: What the sealed bytes belong to; they open under the same context only.

        Raises:
            FlowError: There is no passphrase.
        """
        # Loaded here because only signing instances need it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce = secrets.token_bytes(_NONCE_LENGTH)
        return nonce + AESGCM(self._key(salt)).encrypt(nonce, key, context.encode())

    def open(self, sealed: bytes, salt: bytes, context: str) -> bytes:
        """Decrypt a private key.

        Raises:
            FlowError: There is no passphrase, or it is not the one the key was sealed with.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce, body = sealed[:_NONCE_LENGTH], sealed[_NONCE_LENGTH:]
        try:
            return AESGCM(self._key(salt)).decrypt(nonce, body, context.encode())
        except InvalidTag as error:
            raise FlowError(
                Code.PASSPHRASE_REJECTED,
                "The signing passphrase does not open this wallet.",
                "Set WALLETSUITE_PASSPHRASE to the passphrase the wallet was created with and"
                " restart the server.",
            ) from error

    def _key(self, salt: bytes) -> bytes:
        if self._passphrase is None:
            raise FlowError(
                Code.PASSPHRASE_MISSING,
                "The signing passphrase is not set.",
                "Set WALLETSUITE_PASSPHRASE in the server's environment and restart it.",
            )
        with self._lock:
            if salt not in self._derived:
                self._derived[salt] = hashlib.scrypt(
                    self._passphrase.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, dklen=32
                )
            return self._derived[salt]
