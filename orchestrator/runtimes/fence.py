"""The fences of workloads, seen from outside: who holds one, and the end of an orphan.

A fence is a file under a POSIX record lock that the workload's process holds from its seat to its
end (`shim/seat.py` takes it). It also names that process: pid, session, start time, boot.
"""

import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runtimes.identity import boot_id, is_alive, look_up

TERM_SECONDS = 5.0
KILL_SECONDS = 5.0

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that a fence file names.

    Attributes:
        pid: Its pid, also the id of its process group.
        session: Its session, the engine's.
        started: Its start time in ticks.
        boot: The machine's boot.
    """

    pid: int
    session: int
    started: int
    boot: str


def end_orphan(path: Path) -> bool:
    """End the process that holds a fence, with its group, and remove the fence.

    Blocks for up to ten seconds: call it in a worker thread. Only for a workload that the engine
    does not know.

    Returns:
        Whether there was something to end.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        named = _named(descriptor)
        locked = _locker(descriptor)
        ended = False
        if locked:
            ended = _end(locked, lambda: _locker(descriptor) == locked)
        if named is not None:
            ended = _end(named.pid, lambda: _is(named)) or ended
            ended = _end_remains(named) or ended
        if not _locker(descriptor):
            path.unlink(missing_ok=True)
        return ended
    finally:
        os.close(descriptor)


def _locker(descriptor: int) -> int:
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, query)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return 0 if kind == fcntl.F_UNLCK else pid


def _named(descriptor: int) -> Holder | None:
    fields = os.pread(descriptor, 256, 0).decode("ascii", "replace").split()
    match fields:
        case [pid, session, started, boot] if all(part.isdigit() for part in fields[:3]):
            return Holder(int(pid), int(session), int(started), boot)
        case _:
            return None


def _is(holder: Holder) -> bool:
    return is_alive(holder.pid, holder.started, holder.boot)


def _end(pid: int, still: Callable[[], bool]) -> bool:
    if pid <= 1 or pid == os.getpid():
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    family: dict[int, int] = {}
    try:
        # Asked only now: from here on the descriptor means that process and no other.
        if not still():
            return False
        family = _family(pid)
        facts = look_up(pid)
        leads = facts is not None and facts.group == pid
        with suppress(ProcessLookupError):
            if leads:
                _signal_group(pid, signal.SIGTERM)
            else:
                signal.pidfd_send_signal(process, signal.SIGTERM)
            if not select.select([process], [], [], TERM_SECONDS)[0]:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        if leads:
            _signal_group(pid, signal.SIGKILL)
        _ = select.select([process], [], [], KILL_SECONDS)
        return True
    finally:
        os.close(process)
        _kill_family(family)


def _family(pid: int) -> dict[int, int]:
    """Tell the start time of everything that a process started, and what that started.

    All of it: what was left alone is a child of the process again (`shim/seat.py` sees to that).
    """
    known: dict[int, list[tuple[int, int]]] = {}
    for entry in Path("/proc").iterdir():
        facts = look_up(int(entry.name)) if entry.name.isdigit() else None
        if facts is not None:
            known.setdefault(facts.parent, []).append((int(entry.name), facts.started))
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        for child, started in known.get(waiting.pop(), ()):
            if child not in found:
                found[child] = started
                waiting.append(child)
    return found


def _kill_family(family: dict[int, int]) -> None:
    """Kill what is left of a family, and what that started meanwhile."""
    while family:
        younger: dict[int, int] = {}
        for pid, started in family.items():
            if is_alive(pid, started, boot_id()):
                younger.update(_family(pid))
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        family = {pid: started for pid, started in younger.items() if pid not in family}


def _end_remains(holder: Holder) -> bool:
    """Kill what is left in the group of a process that ended without its engine."""
    ended = False
    for entry in Path("/proc").iterdir():
        facts = look_up(int(entry.name)) if entry.name.isdigit() else None
        if (
            facts is not None
            and facts.state not in {"Z", "X"}
            and facts.group == holder.pid
            and facts.session == holder.session
            and facts.started >= holder.started
        ):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                ended = True
    return ended


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
