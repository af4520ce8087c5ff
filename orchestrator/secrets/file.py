"""Secrets that are files of their own, and the trust that a file with secrets deserves."""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.files import read_regular, who_may_write
from orchestrator.model.secret import KEPT, SecretRef
from orchestrator.secrets.base import Secret, SecretStore

LIMIT_BYTES: Final = 64 * 1024
LINKED: Final = "Name the file itself."


def read_secret_file(
    path: Path, *, follow: bool = False, readers: int = 0, kept: bool = False
) -> str:
    """Read a file that nobody else can replace, and nobody else read unless it is allowed.

    Checked on the open descriptor, so that nothing can be put in its place in between.

    Args:
        path: The file, absolute.
        follow: Whether the path may be a symbolic link.
        readers: Bits of its mode for others that are no reason to refuse it.
        kept: Whether it may belong to whoever owns its directory, a container's user.

    Raises:
        SecretNotFoundError: There is no such file.
        SecretStoreUnavailableError: It cannot be read, is no text, or others could read or
            replace it.
    """
    text = _decode(read_secret_bytes(path, follow=follow, readers=readers, kept=kept))
    if text is None:
        raise SecretStoreUnavailableError(f"{path} is no UTF-8 text")
    return text


def read_secret_bytes(
    path: Path, *, follow: bool = False, readers: int = 0, kept: bool = False
) -> bytes:
    """Do the same for a file that need not be text."""
    try:
        content, facts = read_regular(path, LIMIT_BYTES, follow=follow)
        parents = {place: place.stat() for place in _parents(path, follow=follow)}
    except OSError as error:
        raise _cannot_read(path, error) from error
    owners = {0, os.geteuid()}
    if kept:
        # A second name could be one of a file that is somewhere else.
        owners |= {parents[path.parent].st_uid} if facts.st_nlink == 1 else set()
    _check_owner(path, facts, readers, owners)
    for parent, parent_facts in parents.items():
        writer = who_may_write(parent_facts)
        if kept and not parent_facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            continue
        # In a directory such as /tmp nobody can replace another user's file.
        if writer and not parent_facts.st_mode & stat.S_ISVTX:
            raise SecretStoreUnavailableError(
                f"{path} could be replaced: {writer} may write its directory",
                hint=f"{'chown $USER' if writer.startswith('its') else 'chmod go-w'} {parent}",
            )
    if len(content) > LIMIT_BYTES:
        raise SecretStoreUnavailableError(
            f"{path} is too large for a secret", hint=f"At most {LIMIT_BYTES // 1024} KiB."
        )
    return content


def without_newline(text: str) -> str:
    """Remove one newline at the end."""
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _parents(path: Path, *, follow: bool) -> set[Path]:
    """Tell the directories that decide which file is opened: of the path, and of its target."""
    return {path.parent, Path(os.path.realpath(path)).parent} if follow else {path.parent}


def _decode(content: bytes) -> str | None:
    # The error object would carry the whole content along.
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _check_owner(path: Path, facts: os.stat_result, readers: int, owners: Collection[int]) -> None:
    if facts.st_uid not in owners:
        raise SecretStoreUnavailableError(
            f"{path} belongs to user {facts.st_uid}, who could change it",
            hint=f"chown $USER {path}",
        )
    mode = stat.S_IMODE(facts.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~readers:
        raise SecretStoreUnavailableError(
            f"{path} has mode {mode:04o}: others can read or write it", hint=f"chmod 600 {path}"
        )


def _cannot_read(path: Path, error: OSError) -> SecretNotFoundError | SecretStoreUnavailableError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return SecretNotFoundError(f"{path} does not exist")
        case errno.ELOOP:
            return SecretStoreUnavailableError(f"{path} is a symbolic link", hint=LINKED)
        case _:
            reason = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
            return SecretStoreUnavailableError(f"{path} cannot be read: {reason}")


@final
class FileStore(SecretStore):
    """`file:PATH`: the whole file, without one newline at its end."""

    @override
    def read(self, reference: SecretRef) -> Secret:
        follow = reference.option("follow") == "true"
        # A Kubernetes volume gives its files to a group of the pod, and there is no other way for
        # a pod that does not run as root.
        readers = stat.S_IRGRP if follow else 0
        kept = reference.option(KEPT) == "true"
        path = Path(reference.path)
        try:
            text = read_secret_file(path, follow=follow, readers=readers, kept=kept)
        except SecretStoreUnavailableError as error:
            if error.hint != LINKED:
                raise
            hint = f"Name the file itself, or write file:{path}?follow=true."
            raise SecretStoreUnavailableError(error.message, hint=hint) from error
        return Secret(SecretStr(without_newline(text)))
