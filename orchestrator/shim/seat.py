"""The launcher of one workload: waits for a launch frame, then becomes the server.

Run by the engine as `python -I -S seat.py sit DIRECTORY FENCE LOG`, by absolute path. Its steps:

1. take the workload's fence, a record lock that lives through `execve`; whoever still holds it is
   an orphan of a dead engine and is ended, with its process group;
2. listen on `seat.sock` in DIRECTORY, take one launch frame from a peer of the same user;
3. make fresh FIFOs `in` and `out`, open both read-write onto file descriptors 0 and 1 (a server
   that speaks HTTP gets an empty stdin, and its log as stdout), set what the frame says, become
   the user that it names, acknowledge, and `execve`.

`python -I -S seat.py guard FENCE PROGRAM ARGUMENT...` takes the fence and becomes the program at
once: so a control plane whose engine died is replaced too, and never doubled.

Nothing of the project is imported, and little of the standard library: this program stands between
a crash and the next instance. What only a launch or an orphan needs is imported there.

Exit status: 78 for arguments that cannot be used, 75 when an orphan cannot be ended, 126 and 127
when the server cannot be executed; from then on, the server's own.
"""

# ruff: noqa: PTH102, PTH108, PTH208, SIM105 - pathlib and contextlib would double the time to listening

import errno
import fcntl
import os
import sys
import time
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"bandmaster-launch 1"
FRAME_LIMIT = 4 * 1024 * 1024
FRAME_SECONDS = 5.0
ORPHAN_SECONDS = 5.0
PIPE_BYTES = 1024 * 1024

EX_TEMPFAIL = 75
EX_CONFIG = 78
EX_CANNOT_EXECUTE = 126
EX_NOT_FOUND = 127

# The limits that a frame may set, by their number in Linux; `resource` is imported later.
LIMITS = frozenset({b"AS", b"CORE", b"CPU", b"DATA", b"FSIZE", b"NOFILE", b"NPROC", b"STACK"})


class RefusedError(Exception):
    """A frame or an argument that is not acted on; its text never repeats the input."""


class Frame:
    """What a server is started with.

    Attributes:
        argv: Program, absolute, and arguments.
        env: The exact environment.
        cwd: Working directory, absolute.
        umask: Its umask.
        limits: Soft and hard value of each resource limit.
        logs_stdout: Whether stdout goes to the log, and no FIFOs are made.
        user: User and group that it runs as; None for this process's own.
    """

    __slots__ = ("argv", "cwd", "env", "limits", "logs_stdout", "umask", "user")

    def __init__(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cwd: bytes,
        umask: int,
        limits: dict[bytes, tuple[int, int]],
    ) -> None:
        """Keep the parts."""
        self.argv: list[bytes] = argv
        self.env: dict[bytes, bytes] = env
        self.cwd: bytes = cwd
        self.umask: int = umask
        self.limits: dict[bytes, tuple[int, int]] = limits
        self.logs_stdout: bool = False
        self.user: tuple[int, int] | None = None


def parse(data: bytes) -> Frame:
    """Read a launch frame: NUL-ended records, `bandmaster-launch 1` first and `end` last.

    Args:
        data: All that the peer sent.

    Raises:
        RefusedError: It is anything but one whole frame.
    """
    if len(data) > FRAME_LIMIT:
        raise RefusedError("the frame is too large")
    records = data.split(b"\0")
    if len(records) < 3 or records[0] != MAGIC or records[-2:] != [b"end", b""]:  # noqa: PLR2004 - magic, end and the rest after the last NUL
        raise RefusedError("not a whole launch frame of version 1")
    argv: list[bytes] = []
    env: dict[bytes, bytes] = {}
    limits: dict[bytes, tuple[int, int]] = {}
    single: dict[bytes, bytes] = {}
    for record in records[1:-2]:
        key, separator, value = record.partition(b"=")
        name, found, content = value.partition(b"=")
        if key == b"arg" and separator:
            argv.append(value)
        elif key == b"env" and name and found and name not in env:
            env[name] = content
        elif key == b"limit":
            name, pair = _limit(value)
            if name in limits:
                raise RefusedError("a repeated limit")
            limits[name] = pair
        elif key in {b"cwd", b"umask", b"stdout", b"user"} and key not in single:
            single[key] = value
        else:
            raise RefusedError("an unknown, malformed or repeated record")
    return _frame(argv, env, limits, single)


def _frame(
    argv: list[bytes],
    env: dict[bytes, bytes],
    limits: dict[bytes, tuple[int, int]],
    single: dict[bytes, bytes],
) -> Frame:
    umask = single.get(b"umask", b"")
    if len(umask) != 3 or not all(48 <= digit <= 55 for digit in umask):  # noqa: PLR2004 - three octal digits in ASCII
        raise RefusedError("no umask of three octal digits")
    cwd = single.get(b"cwd", b"")
    if not argv or not argv[0].startswith(b"/") or not cwd.startswith(b"/"):
        raise RefusedError("no absolute program and working directory")
    stdout = single.get(b"stdout")
    if stdout not in {None, b"log"}:
        raise RefusedError("an unknown stdout")
    frame = Frame(argv, env, cwd, int(umask, 8), limits)
    frame.logs_stdout = stdout is not None
    if b"user" in single:
        frame.user = _user(single[b"user"])
    return frame


def _user(value: bytes) -> tuple[int, int]:
    parts = value.split(b":")
    if len(parts) != 2 or not all(part.isdigit() and len(part) < 10 for part in parts):  # noqa: PLR2004 - user and group, below the kernel's "unchanged"
        raise RefusedError("a malformed user")
    user, group = int(parts[0]), int(parts[1])
    if not user or not group:
        raise RefusedError("root is no user for a server")
    return user, group


def _limit(value: bytes) -> tuple[bytes, tuple[int, int]]:
    parts = value.split(b":")
    if len(parts) != 3 or parts[0] not in LIMITS:  # noqa: PLR2004 - name, soft, hard
        raise RefusedError("a malformed or unknown limit")
    # bytes.isdigit() takes ASCII digits only, where int() would take signs, blanks and "_".
    if not all(part.isdigit() and len(part) < 19 for part in parts[1:]):  # noqa: PLR2004 - fits in rlim_t
        raise RefusedError("a malformed limit")
    soft, hard = int(parts[1]), int(parts[2])
    if soft > hard:
        raise RefusedError("a soft limit above its hard limit")
    return parts[0], (soft, hard)


# --- the fence ---------------------------------------------------------------------------------


def _stat_of(pid: int) -> tuple[int, int, int, int] | None:
    """Tell group, session, start time in ticks and parent of a live process, None without one."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    # The name in parentheses may itself hold blanks and parentheses.
    fields = text[text.rfind(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:
        return None
    return int(fields[2]), int(fields[3]), int(fields[19]), int(fields[1])


def _started(pid: int) -> int:
    facts = _stat_of(pid)
    return facts[2] if facts else -1


def _boot() -> bytes:
    descriptor = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64).strip()
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int:
    """Tell who holds the lock on a file, 0 for nobody."""
    import struct  # noqa: PLC0415 - only an orphan makes it necessary

    layout = "hhqqi4x"  # struct flock of 64-bit Linux
    query = struct.pack(layout, fcntl.F_WRLCK, 0, 0, 0, 0)
    answer: tuple[int, ...] = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, query))
    return 0 if answer[0] == fcntl.F_UNLCK else answer[4]


def _end_group(pid: int, still: "Callable[[], bool]") -> None:
    """End an orphan with its process group: TERM, five seconds, KILL.

    Args:
        pid: The orphan.
        still: Tells whether that pid is the orphan; asked once the process is held by a
            descriptor, so that a reused pid is never signalled.
    """
    import select  # noqa: PLC0415 - only an orphan makes it necessary
    import signal  # noqa: PLC0415 - the same

    if pid <= 1 or pid == os.getpid():
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    family: dict[int, int] = {}
    try:
        if not still():
            return
        family = _family(pid)
        leads = os.getpgid(pid) == pid
        if leads:
            _signal_group(pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], ORPHAN_SECONDS)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        if leads:
            _signal_group(pid, signal.SIGKILL)
        _ = select.select([process], [], [], ORPHAN_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
        _kill_family(family)


def _family(pid: int) -> dict[int, int]:
    """Tell the start time of everything that a process started, and what that started.

    All of it: what was left alone is a child of the process again.
    """
    known: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        facts = _stat_of(int(name)) if name.isdigit() else None
        if facts:
            known.setdefault(facts[3], []).append((int(name), facts[2]))
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
    import signal  # noqa: PLC0415 - only an orphan makes it necessary

    while family:
        younger: dict[int, int] = {}
        for pid, started in family.items():
            if _started(pid) == started:
                younger.update(_family(pid))
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        family = {pid: started for pid, started in younger.items() if pid not in family}


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _end_remains(group: int, session: int, started: int) -> None:
    """Kill what an orphan left in its process group when it ended without its engine."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return
    import signal  # noqa: PLC0415 - only remains make it necessary

    for name in os.listdir("/proc"):
        if name.isdigit():
            facts = _stat_of(int(name))
            # The same group in the same session, and younger than its first process.
            if facts and facts[0] == group and facts[1] == session and facts[2] >= started:
                try:
                    os.kill(int(name), signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass


def _end_last(descriptor: int) -> None:
    """End the process that the fence file names, if it lives, then name this one."""
    boot = _boot()
    last = os.pread(descriptor, 256, 0).split()
    # Its pid, session, start and boot; any other content was cut off while it was written.
    if len(last) == 4 and last[3] == boot and all(field.isdigit() for field in last[:3]):  # noqa: PLR2004 - just said
        pid, session, started = int(last[0]), int(last[1]), int(last[2])
        if pid != os.getpid():
            if _started(pid) == started:
                _end_group(pid, lambda: _started(pid) == started)
            _end_remains(pid, session, started)
    facts = _stat_of(os.getpid())
    if facts is not None:
        record = b"%d %d %d %s\n" % (os.getpid(), facts[1], facts[2], boot)
        _ = os.pwrite(descriptor, record, 0)
        os.ftruncate(descriptor, len(record))


def take_fence(path: str) -> int:
    """Become the only process of the workload, ending an orphan that still is it.

    The lock ends with this process, wherever `execve` leads it, and is not inherited by its
    children. It is also lost when the server closes the descriptor; so the file names its holder,
    too, and a successor that finds the lock free looks whether that holder really is gone.

    Args:
        path: The fence file.

    Returns:
        The descriptor, inheritable; closing it would open the fence.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    deadline = time.monotonic() + 3 * ORPHAN_SECONDS
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
        if time.monotonic() > deadline:
            _say("an orphan holds the fence and cannot be ended")
            raise SystemExit(EX_TEMPFAIL)
        pid = _holder(descriptor)
        if pid:
            _end_group(pid, lambda pid=pid: _holder(descriptor) == pid)
    _end_last(descriptor)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional only
    return descriptor


# --- the seat ----------------------------------------------------------------------------------


def _say(text: str) -> None:
    _ = os.write(2, f"seat: {text}\n".encode(errors="replace"))


def _forget(*names: str) -> None:
    for name in names:
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def _enter(directory: str) -> None:
    """Go into the seat's directory, which must be private."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise RefusedError(f"{directory} is not private")
        os.fchdir(descriptor)
    finally:
        os.close(descriptor)


def _listen() -> socket:
    """Listen on `seat.sock`, by a relative name: a whole path may be too long for a socket."""
    _forget("seat.sock", "in", "out", "http.sock")
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    mask = os.umask(0o177)
    listener.bind("seat.sock")
    _ = os.umask(mask)
    listener.listen(8)
    return listener


def _accept(listener: socket) -> socket:
    # The call that `socket.socket.accept` makes; that class would cost ten milliseconds.
    accept: Callable[[], tuple[int, object]] = getattr(listener, "_accept")  # noqa: B009 # pyright: ignore[reportAny] - typeshed does not list it
    descriptor, _ = accept()
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
    return socket(AF_UNIX, SOCK_STREAM, 0, fileno=descriptor)


def _read_frame(peer: socket) -> Frame:
    """Read all that the peer sends, in bounded time and size."""
    uid = int.from_bytes(peer.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], sys.byteorder)
    if uid != os.geteuid():
        raise RefusedError("the peer is another user")
    deadline = time.monotonic() + FRAME_SECONDS
    parts: list[bytes] = []
    size = 0
    while True:
        peer.settimeout(max(deadline - time.monotonic(), 0.001))
        part = peer.recv(65536)
        if not part:
            return parse(b"".join(parts))
        parts.append(part)
        size += len(part)
        if size > FRAME_LIMIT:
            raise RefusedError("the frame is too large")


def _receive(listener: socket) -> tuple[socket, Frame]:
    """Wait for the first peer with a frame that can be acted on."""
    while True:
        peer = _accept(listener)
        try:
            return peer, _read_frame(peer)
        except RefusedError as error:
            _say(f"refused a launch: {error}")
            _answer(peer, f"refused {error}")
        except TimeoutError:
            _answer(peer, "refused the frame took too long")
        except OSError:
            _say("lost a peer before its frame was whole")
        peer.close()


def _answer(peer: socket, text: str) -> None:
    try:
        peer.settimeout(1.0)
        peer.sendall(text.encode() + b"\n")
    except OSError:
        pass  # the peer is gone; its loss shows in the log, and the engine shows the rest


def _open_fifos(*, shared: bool) -> tuple[int, int]:
    """Make both FIFOs anew: what was written to a dead process is never read by its successor.

    Nobody but us passes the directory that they are in; inside the server, which runs as another
    user, their mode lets it open `/dev/stdin` by that name, too.
    """
    opened: list[int] = []
    for name in ("in", "out"):
        _forget(name)
        os.mkfifo(name, 0o600)
        # Read-write, so that neither end ever sees the other go.
        descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _ = fcntl.fcntl(descriptor, 1031, PIPE_BYTES)  # F_SETPIPE_SZ
        except OSError:
            pass  # beyond what the user may have: the default of 64 KiB works, too
        if shared:
            os.fchmod(descriptor, 0o666)
        opened.append(descriptor)
    return opened[0], opened[1]


def _open_log() -> tuple[int, int]:
    """Give an empty stdin, and the log, which is on stderr already, as stdout."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 2


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own descriptor


def _restrict(frame: Frame) -> None:
    """Set signals, umask, limits and "no new privileges"."""
    import resource  # noqa: PLC0415 - not needed until here, and the seat has to listen soon
    import signal  # noqa: PLC0415 - the same

    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        _ = signal.signal(number, signal.SIG_DFL)
    _ = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _ = os.umask(frame.umask)
    numbers = {
        b"AS": resource.RLIMIT_AS,
        b"CORE": resource.RLIMIT_CORE,
        b"CPU": resource.RLIMIT_CPU,
        b"DATA": resource.RLIMIT_DATA,
        b"FSIZE": resource.RLIMIT_FSIZE,
        b"NOFILE": resource.RLIMIT_NOFILE,
        b"NPROC": resource.RLIMIT_NPROC,
        b"STACK": resource.RLIMIT_STACK,
    }
    for name, (soft, hard) in frame.limits.items():
        ceiling = resource.getrlimit(numbers[name])[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)  # noqa: PLW2901 - never above what we have
        resource.setrlimit(numbers[name], (soft, hard))
    _forbid_new_privileges()
    # What the server starts and leaves alone becomes its child again, whatever session it went
    # into, and the engine's when the server ends: so nobody gets away. Kept through `execve`.
    set_child_subreaper = 36
    _ = _prctl(set_child_subreaper, 1)


def _forbid_new_privileges() -> None:
    """Make setuid programs useless to the server and to all that it starts."""
    set_no_new_privs, get_no_new_privs = 38, 39
    _ = _prctl(set_no_new_privs, 1)
    if _prctl(get_no_new_privs, 0) != 1:
        raise OSError(errno.EPERM, "no-new-privileges could not be set")


def _prctl(option: int, value: int) -> int:
    return _call("prctl", (option, value, 0, 0, 0))


def _call(name: str, arguments: tuple[int, ...]) -> int:
    # The bare module: `ctypes` itself takes eight milliseconds to import, this takes a half.
    import _ctypes  # noqa: PLC0415 - not needed until here

    # typeshed leaves out that no name means this very program.
    program = _ctypes.dlopen(None, 0)  # pyright: ignore[reportArgumentType] - just said
    function = _ctypes.dlsym(program, name)
    return _ctypes.call_function(function, arguments)  # pyright: ignore[reportAny] - it gives an int


def _leave_keyring() -> None:
    """Join an empty session keyring: nothing that another role keeps is read through a shared one.

    Where there are no keyrings, or a container forbids them, nothing could be read either.
    """
    keyctl = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
    number = keyctl.get(os.uname().machine)
    if number is None:
        return
    get_id, join, of_session = 0, 1, -3
    if _call("syscall", (number, join, 0)) < 0 <= _call("syscall", (number, get_id, of_session, 0)):
        raise OSError(errno.EPERM, "the session keyring could not be left")


def _be_user(user: int, group: int) -> None:
    """Become a user without groups, capabilities or a way back."""
    drop_from_bounding_set, capabilities = 24, 64
    for number in range(capabilities):
        _ = _prctl(drop_from_bounding_set, number)  # -1 for one that there is not, or may not
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    if os.getresuid() != (user,) * 3 or os.getresgid() != (group,) * 3 or os.getgroups():
        raise OSError(errno.EPERM, "another user could not be become")


def _close_fence(fence: int) -> int:
    """Hold the fence by a descriptor that cannot write to it.

    Its file names a process that a successor, who is root, ends: another user must not choose it.
    The lock is lost and taken again. Whoever comes in between finds this process in the file.
    """
    reader = os.open(f"/proc/self/fd/{fence}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fence)
    fcntl.lockf(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.set_inheritable(reader, True)  # noqa: FBT003 - positional only
    return reader


def _become(peer: socket, fence: int, frame: Frame) -> int:
    """Turn into the server; returns an exit status only if that fails."""
    stage = "stdin and stdout"
    try:
        is_other = frame.user is not None
        stdin, stdout = _open_log() if frame.logs_stdout else _open_fifos(shared=is_other)
        stage = "limits"
        _restrict(frame)
        stage = "descriptors"
        _ = os.dup2(stdin, 0)
        _ = os.dup2(stdout, 1)
        if frame.user is not None:
            fence = _close_fence(fence)
        _close_all_but({0, 1, 2, fence, peer.fileno()})
        _forget("seat.sock")
        if frame.user is not None:
            stage = "user"
            _be_user(*frame.user)
        stage = "keyring"
        _leave_keyring()
        stage = "working directory"
        os.chdir(frame.cwd)
        stage = "execute"
        _answer(peer, "opened")
        # The peer's descriptor is closed by a successful execve: an end without more is success.
        os.execve(frame.argv[0], frame.argv, frame.env)  # noqa: S606 - its purpose
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        _say(f"cannot start the server ({stage}): {os.strerror(number)}")
        _answer(peer, f"failed {number} {stage}")
        missing = stage == "execute" and number == errno.ENOENT
        return EX_NOT_FOUND if missing else EX_CANNOT_EXECUTE


def _warm() -> None:
    """Import what the launch needs, now that a launch can be taken and nobody waits for it."""
    import _ctypes  # noqa: F401, PLC0415 # pyright: ignore[reportUnusedImport] - just said
    import resource  # noqa: F401, PLC0415 # pyright: ignore[reportUnusedImport] - just said
    import signal  # noqa: F401, PLC0415 # pyright: ignore[reportUnusedImport] - just said


def _log_to(path: str) -> None:
    """Append what is written to stderr to a file.

    The engine's pipe would break with the engine, and a server that logs would die of it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    _ = os.dup2(descriptor, 2)
    os.close(descriptor)


def sit(directory: str, fence_path: str, log_path: str) -> int:
    """Wait in a directory for a launch frame and become the server."""
    try:
        _log_to(log_path)
        _enter(directory)
        fence = take_fence(fence_path)
        listener = _listen()
    except (OSError, RefusedError) as error:
        _say(f"cannot wait here: {error}")
        return EX_CONFIG
    _warm()
    peer, frame = _receive(listener)
    return _become(peer, fence, frame)


def guard(fence_path: str, argv: list[str]) -> int:
    """Take a fence and become a program at once."""
    _ = take_fence(fence_path)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - becoming that program is the purpose
    except OSError as error:
        _say(f"cannot start {argv[0]}: {error.strerror}")
        return EX_NOT_FOUND if error.errno == errno.ENOENT else EX_CANNOT_EXECUTE


def main(argv: list[str]) -> int:
    """Run the command line."""
    if len(argv) == 5 and argv[1] == "sit" and all(path.startswith("/") for path in argv[2:]):  # noqa: PLR2004 - sit DIRECTORY FENCE LOG
        return sit(argv[2], argv[3], argv[4])
    if len(argv) >= 4 and argv[1] == "guard" and argv[2].startswith("/") and argv[3][:1] == "/":  # noqa: PLR2004 - guard FENCE PROGRAM ...
        return guard(argv[2], argv[3:])
    _say(
        "usage: seat.py sit DIRECTORY FENCE LOG | guard FENCE PROGRAM ARGUMENT... (absolute paths)"
    )
    return EX_CONFIG


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
