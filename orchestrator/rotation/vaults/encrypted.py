"""The project's own vault: one encrypted file for each role and version.

AES-256-GCM; role and version are bound to each file, so that none can be put in another's place.
What cannot be opened is told and left as it is: it may be the key that is wrong.

Source: NIST SP 800-38D; a nonce is random, as far fewer than 2^32 credentials are kept.
"""

import base64
import binascii
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import anyio.to_thread
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError, SettingsError
from orchestrator.files import (
    make_private_directory,
    read_regular,
    sync_directory,
    who_may_write,
    write_atomically,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.protocol import jsonrpc
from orchestrator.rotation.ports import Credential, Vault

KEY_BYTES: Final = 32
_MAGIC: Final = b"bandmaster-vault 1\0"
_NONCE_BYTES: Final = 12
_LIMIT_BYTES: Final = 1024 * 1024
_MAKING: Final = threading.Lock()
# Both are parts of a path.
_ROLE: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


def load_key(path: Path, vault: Path) -> bytes:
    """Read the vault's key, or make one where nothing is kept yet.

    Args:
        path: The file of the key.
        vault: The directory of the vault.

    Raises:
        SecretStoreUnavailableError: It cannot be read or made, holds no key, others may read it,
            or it is gone while something is kept that only it opens.
    """
    try:
        # First credentials of many roles come at once, each in a thread of its own: were two keys
        # made, one of them would be gone, and with it what it sealed.
        with _MAKING:
            try:
                key, facts = read_regular(path, KEY_BYTES, follow=False)
            except FileNotFoundError:
                return _make_key(path, vault)
    except OSError as error:
        raise SecretStoreUnavailableError(f"{path} cannot be read: {error.strerror}") from error
    if facts.st_mode & 0o077 or who_may_write(facts):
        raise SecretStoreUnavailableError(
            f"others may have read {path}, the key of the vault",
            hint=f"`chmod 600 {path}`, then replace every credential: `agents rotate`.",
        )
    if len(key) != KEY_BYTES:
        raise SecretStoreUnavailableError(
            f"{path} holds no key of {KEY_BYTES} bytes", hint="Put it back from a backup."
        )
    return key


def _make_key(path: Path, vault: Path) -> bytes:
    if vault.is_dir() and any(vault.glob("*/*")):
        raise SecretStoreUnavailableError(
            f"{path} is gone, and what {vault} keeps opens with it alone",
            hint="Put it back from a backup; or move the vault away, and have new credentials "
            "made: `agents rotate --purpose upstream`.",
        )
    key = secrets.token_bytes(KEY_BYTES)
    try:
        make_private_directory(path.parent)
        write_atomically(path, key)
    except (OSError, SettingsError) as error:
        raise SecretStoreUnavailableError(f"{path} cannot be made: {_why(error)}") from error
    return key


def parse_key(text: SecretStr) -> bytes:
    """Read a key that is kept elsewhere: 64 hexadecimal digits, or Base64 of 32 bytes.

    Raises:
        SecretStoreUnavailableError: It is none.
    """
    for read in (bytes.fromhex, _from_base64):
        try:
            key = read(text.get_secret_value().strip())
        except (ValueError, binascii.Error):
            continue
        if len(key) == KEY_BYTES:
            return key
    raise SecretStoreUnavailableError(
        f"the reference under `vault: key:` holds no key of {KEY_BYTES} bytes",
        hint="`openssl rand -hex 32` makes one.",
    )


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@final
class EncryptedVault(Vault):
    """Keeps credentials in files that are of no use without the key."""

    def __init__(self, directory: Path, key: Callable[[], bytes]) -> None:
        """Keep the places; the key is asked for when it is needed first.

        Args:
            directory: The vault's directory.
            key: Gives the key; may block.
        """
        self._directory = directory
        self._key = key
        self._cipher: AESGCM | None = None

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        await anyio.to_thread.run_sync(self._put, role, version, credential)

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        return await anyio.to_thread.run_sync(self._get, role, version)

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        """Do nothing: nobody else reads this vault."""

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        await anyio.to_thread.run_sync(self._drop, role, version)

    def _put(self, role: RoleName, version: str, credential: Credential) -> None:
        path = self._path(role, version)
        fields: JsonObject = {
            name: text.get_secret_value() for name, text in credential.fields.items()
        }
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._open_cipher().encrypt(nonce, jsonrpc.encode(fields), _bound(role, version))
        try:
            make_private_directory(self._directory)
            make_private_directory(path.parent)
            # Each directory entry on the way to the file has to survive a power cut, too.
            for place in (self._directory.parent, self._directory):
                sync_directory(place)
            write_atomically(path, _MAGIC + nonce + sealed)
        except (OSError, SettingsError) as error:
            raise SecretStoreUnavailableError(
                f"{path} cannot be written: {_why(error)}",
                hint="Make room on the disk, or make it writable; the old credential works on.",
            ) from error

    def _get(self, role: RoleName, version: str) -> Credential:
        path = self._path(role, version)
        try:
            content, _ = read_regular(path, _LIMIT_BYTES, follow=False)
        except FileNotFoundError as error:
            raise SecretNotFoundError(f"the vault keeps no {version} of {role}") from error
        except OSError as error:
            raise SecretStoreUnavailableError(f"{path} cannot be read: {error.strerror}") from error
        start = len(_MAGIC) + _NONCE_BYTES
        if not content.startswith(_MAGIC) or not start < len(content) <= _LIMIT_BYTES:
            raise SecretStoreUnavailableError(
                f"{path} is no file of the vault, or was cut off", hint=_RESTORE
            )
        try:
            nonce = content[len(_MAGIC) : start]
            text = self._open_cipher().decrypt(nonce, content[start:], _bound(role, version))
        except InvalidTag:
            raise SecretStoreUnavailableError(
                f"{path} does not open: it was changed, or sealed with another key", hint=_RESTORE
            ) from None
        fields = jsonrpc.decode(text)
        if not isinstance(fields, dict):
            raise SecretStoreUnavailableError(f"{path} holds no credential", hint=_RESTORE)
        return Credential({name: SecretStr(str(value)) for name, value in fields.items()})

    def _drop(self, role: RoleName, version: str) -> None:
        path = self._path(role, version)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_directory(path.parent)
        except OSError as error:
            raise SecretStoreUnavailableError(
                f"{path} cannot be removed: {error.strerror}"
            ) from error

    def _path(self, role: RoleName, version: str) -> Path:
        if not _ROLE.fullmatch(role) or not _VERSION.fullmatch(version):
            raise SecretStoreUnavailableError("a role or version that no file can be named after")
        return self._directory / role / version

    def _open_cipher(self) -> AESGCM:
        if self._cipher is None:
            self._cipher = AESGCM(self._key())
        return self._cipher


_RESTORE: Final = "Put the file, or the key, back from a backup; nothing was deleted."


def _bound(role: RoleName, version: str) -> bytes:
    return _MAGIC + f"{role}\0{version}".encode()


def _why(error: OSError | SettingsError) -> str:
    return error.strerror or "unknown" if isinstance(error, OSError) else str(error)
