"""The launch frame that turns a seat into a server, as bytes; `shim/seat.py` reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from orchestrator.errors import WorkloadStartError

MAGIC = b"bandmaster-launch 1"
LIMIT_BYTES = 4 * 1024 * 1024

# A core limit of 1 and not 0: a piped core_pattern ignores 0, and 1 is the kernel's "no pipe".
_LIMITS: Mapping[str, tuple[int, int]] = {"CORE": (1, 1), "NOFILE": (4096, 65536)}


@dataclass(frozen=True, slots=True)
class LaunchFrame:
    """What a server is started with.

    Attributes:
        argv: Program, absolute, and arguments.
        env: Its plain variables.
        secrets: Its variables that hold a secret; one name is in one of the two only.
        cwd: Absolute working directory.
        umask: Its umask.
        limits: Soft and hard value of each resource limit; lowered to what the engine may give.
        logs_stdout: Whether its stdout goes to its log, and its stdin is empty; without it both
            are FIFOs.
        user: User and group that it runs as, by number; None for the engine's own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    secrets: Mapping[str, SecretStr]
    cwd: str
    umask: int = 0o077
    limits: Mapping[str, tuple[int, int]] = field(default_factory=lambda: _LIMITS)
    logs_stdout: bool = False
    user: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """Write the frame.

        Raises:
            WorkloadStartError: Something of it has no place in a frame; no value is repeated.
        """
        if both := sorted(self.env.keys() & self.secrets.keys()):
            raise WorkloadStartError(f"{', '.join(both)} is both a plain variable and a secret")
        records = [MAGIC]
        records += [_record("arg", "", part) for part in self.argv]
        records += [_record("env", f"{name}=", value) for name, value in self.env.items()]
        records += [
            _record("env", f"{name}=", value.get_secret_value())
            for name, value in self.secrets.items()
        ]
        records.append(_record("cwd", "", self.cwd))
        records.append(_record("umask", "", f"{self.umask:03o}"))
        records += [
            _record("limit", f"{name}:", f"{soft}:{hard}")
            for name, (soft, hard) in self.limits.items()
        ]
        if self.logs_stdout:
            records.append(_record("stdout", "", "log"))
        if self.user is not None:
            records.append(_record("user", "", f"{self.user[0]}:{self.user[1]}"))
        data = b"\0".join([*records, b"end", b""])
        if len(data) > LIMIT_BYTES:
            raise WorkloadStartError("the arguments and variables of the server are too large")
        return data


def _record(kind: str, name: str, value: str) -> bytes:
    data = os.fsencode(f"{kind}={name}{value}")
    if b"\0" in data:
        raise WorkloadStartError(f"a NUL character in the server's {kind} {name.rstrip('=')}")
    return data
