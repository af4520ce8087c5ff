"""Values of `env:` references that outlive the control plane and are nowhere on disk.

They stand in an anonymous memory file. The engine inherits its descriptor and never reads it; any
process of the same user reaches it through `/proc/ENGINE/fd/3`. So the values are in no
environment, no argument, no file and no heap of the engine, and are gone when the engine ends.
"""

import fcntl
import hashlib
import os
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pydantic import SecretStr

from orchestrator.errors import SettingsError, StateCorruptError

# supervisord closes descriptors from 5 upward when it is asked to restart.
DESCRIPTOR = 3
LIMIT_BYTES = 4 * 1024 * 1024

_NAME = "bandmaster-variables"
_MAGIC = b"BMVARS01"
_HEADER = struct.Struct("<8sQ32s")  # magic, length, SHA-256 of what follows


def create(variables: Mapping[str, SecretStr]) -> int:
    """Make the memory file.

    Returns:
        Its descriptor, not inheritable.
    """
    descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    try:
        _store(descriptor, _encode(variables))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_variables(engine: int) -> dict[str, SecretStr]:
    """Read the variables that an engine keeps.

    Args:
        engine: Pid of the engine, as its socket's listener.

    Raises:
        StateCorruptError: The engine keeps none, or a writer died in the middle.
    """
    with _open(engine, os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
        header = os.pread(descriptor, _HEADER.size, 0)
        if len(header) != _HEADER.size:
            raise StateCorruptError("the engine's variables are cut off")
        magic, length, digest = cast("tuple[bytes, int, bytes]", _HEADER.unpack(header))
        if magic != _MAGIC or length > LIMIT_BYTES:
            raise StateCorruptError("the engine's variables have no valid header")
        content = os.pread(descriptor, length, _HEADER.size)
    if len(content) != length or hashlib.sha256(content).digest() != digest:
        raise StateCorruptError("the engine's variables are cut off")
    return _decode(content)


def write_variables(engine: int, variables: Mapping[str, SecretStr]) -> None:
    """Replace the variables that an engine keeps.

    Raises:
        SettingsError: They are too large, or a name or value cannot be one of a variable.
        StateCorruptError: The engine keeps none.
    """
    content = _encode(variables)
    with _open(engine, os.O_RDWR, fcntl.LOCK_EX) as descriptor:
        _store(descriptor, content)


@contextmanager
def _open(engine: int, flags: int, lock: int) -> Generator[int]:
    path = f"/proc/{engine}/fd/{DESCRIPTOR}"
    try:
        if not str(Path(path).readlink()).startswith(f"/memfd:{_NAME}"):
            raise StateCorruptError("the engine keeps no variables")
        # A descriptor of its own, with its own lock and position.
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise StateCorruptError(
            f"the engine's variables cannot be reached: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, lock)
        yield descriptor
    finally:
        os.close(descriptor)


def _store(descriptor: int, content: bytes) -> None:
    """Write so that a reader after a crash at any point sees all of it, or that it is torn."""
    header = _HEADER.pack(_MAGIC, len(content), hashlib.sha256(content).digest())
    _ = os.pwrite(descriptor, b"\0" * _HEADER.size, 0)
    os.ftruncate(descriptor, _HEADER.size)
    view, offset = memoryview(content), _HEADER.size
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    _ = os.pwrite(descriptor, header, 0)


def _encode(variables: Mapping[str, SecretStr]) -> bytes:
    records: list[bytes] = []
    for name, value in variables.items():
        record = os.fsencode(f"{name}={value.get_secret_value()}")
        if not name or "=" in name or b"\0" in record:
            raise SettingsError("a variable whose name or value no environment can hold")
        records.append(record + b"\0")
    content = b"".join(records)
    if len(content) > LIMIT_BYTES:
        raise SettingsError("the variables that roles refer to are too large")
    return content


def _decode(content: bytes) -> dict[str, SecretStr]:
    pairs = (os.fsdecode(record).partition("=") for record in content.split(b"\0")[:-1])
    return {name: SecretStr(value) for name, _, value in pairs}
