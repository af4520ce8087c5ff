"""Which process a pid means: start time and boot beside it, so that no reused pid is believed."""

import os
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel says of a process.

    Attributes:
        state: One letter, such as `S`; `Z` is a process that has ended.
        parent: Its parent.
        group: Its process group.
        session: Its session.
        started: Start time in clock ticks since boot.
    """

    state: str
    parent: int
    group: int
    session: int
    started: int


@cache
def boot_id() -> str:
    """Tell the id of the machine's present boot."""
    return _BOOT_ID.read_text("ascii").strip()


def look_up(pid: int) -> ProcessFacts | None:
    """Tell what runs under a pid, None without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    fields = text[text.rfind(b")") + 2 :].split()
    return ProcessFacts(
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def is_alive(pid: int, started: int, boot: str) -> bool:
    """Tell whether that very process still runs."""
    facts = look_up(pid)
    return (
        facts is not None
        and facts.state not in {"Z", "X"}
        and facts.started == started
        and boot == boot_id()
    )


def user_of(pid: int) -> int | None:
    """Tell the user that a process runs as, None without a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    line = next((line for line in text.splitlines() if line.startswith("Uid:")), "")
    return int(line.split()[1]) if line else None


def kill_group(pid: int, started: int, boot: str) -> None:
    """Kill the process group of that very process, if it still runs."""
    if is_alive(pid, started, boot):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def command_line(pid: int) -> tuple[str, ...]:
    """Tell a process's arguments; empty without a process, or when it has just ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
    return tuple(part.decode(errors="surrogateescape") for part in data.split(b"\0")[:-1])


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Tell pid and uid of the process at the other end of a connected unix socket.

    Source: unix(7), SO_PEERCRED: the credentials that were in effect at connect(2), or at listen(2)
    where the other end is the listener.
    """
    size = struct.calcsize("3i")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


def processor_seconds(pid: int) -> float:
    """Tell how much processor time a process has used so far; 0 without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text[text.rfind(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
