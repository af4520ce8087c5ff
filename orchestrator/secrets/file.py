"""Secrets that are files of their own, and the trust that a file with secrets deserves."""

import errno
import os
import stat
from pathlib import Path
from typing import Final, final

from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.files import read_regular, who_may_write
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import SecretStore

LIMIT_BYTES: Final = 64 * 1024


def read_secret_file(path: Path) -> str:
    """Read a file that nobody else can read or replace.

    Checked on the open descriptor, so that nothing can be put in its place in between.

    Args:
        path: The file, absolute.

    Raises:
        SecretNotFoundError: There is no such file.
        SecretStoreUnavailableError: It cannot be read, or others could read or replace it.
    """
    try:
        content, facts = read_regular(path, LIMIT_BYTES, follow=False)
        parent = path.parent.stat()
    except OSError as error:
        raise _cannot_read(path, error) from error
    _check_owner(path, facts)
    writer = who_may_write(parent)
    # In a directory such as /tmp nobody can replace another user's file.
    if writer and not parent.st_mode & stat.S_ISVTX:
        raise SecretStoreUnavailableError(
            f"{path} could be replaced: {writer} may write its directory",
            hint=f"{'chown $USER' if writer.startswith('its') else 'chmod go-w'} {path.parent}",
        )
    if len(content) > LIMIT_BYTES:
        raise SecretStoreUnavailableError(
            f"{path} is too large for a secret", hint=f"At most {LIMIT_BYTES // 1024} KiB."
        )
    text = _decode(content)
    if text is None:
        raise SecretStoreUnavailableError(f"{path} is no UTF-8 text")
    return text


def _decode(content: bytes) -> str | None:
    # The error object would carry the whole content along.
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _check_owner(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid not in {0, os.geteuid()}:
        raise SecretStoreUnavailableError(
            f"{path} belongs to user {facts.st_uid}, who could change it",
            hint=f"chown $USER {path}",
        )
    mode = stat.S_IMODE(facts.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretStoreUnavailableError(
            f"{path} has mode {mode:04o}: others can read or write it", hint=f"chmod 600 {path}"
        )


def _cannot_read(path: Path, error: OSError) -> SecretNotFoundError | SecretStoreUnavailableError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return SecretNotFoundError(f"{path} does not exist")
        case errno.ELOOP:
            return SecretStoreUnavailableError(
                f"{path} is a symbolic link", hint="Name the file itself."
            )
        case _:
            reason = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
            return SecretStoreUnavailableError(f"{path} cannot be read: {reason}")


@final
class FileStore(SecretStore):
    """`file:PATH`: the whole file, without one newline at its end."""

    @override
    def read(self, reference: SecretRef) -> str:
        text = read_secret_file(Path(reference.path))
        return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
