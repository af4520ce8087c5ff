"""Files that survive a crash: atomic replace, private modes, an advisory lock."""

import errno
import fcntl
import grp
import os
import pwd
import re
import stat
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import LockHeldError, SettingsError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
# Others pass through to what is theirs further inside, and see nothing of the rest.
PASSABLE_DIRECTORY = 0o711
# Programs that run a file, and the options after which it is no file.
_INTERPRETERS = (
    (re.compile(r"(ba|da|z|k|)sh"), re.compile(r"-[a-z]*c")),
    (re.compile(r"(python|pypy|ruby|perl|php|lua|node)[0-9.]*"), re.compile(r"-[A-Za-z]*[cemr]")),
)
# The namespace of processes that is the machine's own, and no container's.
_MACHINE = 0xEFFFFFFC
# A temporary file of `write_atomically`.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<pid>[1-9][0-9]{0,9})\.tmp", re.DOTALL)


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, with its parents.

    One that root lets others pass through, to their own homes further inside, is left so.

    Raises:
        SettingsError: It cannot be made, is no directory, belongs to somebody else, or is open to
            others and cannot be closed.
    """
    try:
        path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        facts = path.stat()
        if facts.st_uid != os.geteuid():
            raise SettingsError(f"{path} belongs to another user", hint="Name another directory.")
        mode, is_root = stat.S_IMODE(facts.st_mode), not os.geteuid()
        if mode != PRIVATE_DIRECTORY and not (is_root and mode == PASSABLE_DIRECTORY):
            path.chmod(PRIVATE_DIRECTORY)
        if not os.access(path, os.W_OK | os.X_OK):
            raise SettingsError(f"{path} cannot be written", hint="Name another directory.")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be used as a directory: {error.strerror}",
            hint="Make it writable, or name another one under `state:` in agents.yaml.",
        ) from error


def write_atomically(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace a file's whole content, durably: a reader sees the old bytes or the new ones.

    Args:
        path: The file; its directory must exist.
        content: The bytes.
        mode: The file's mode from its first moment.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # One that a crash left is in the way, and one that somebody else put there would be theirs.
    with suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            _ = file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def remove_leftovers(directory: Path, names: Collection[str] | None = None) -> int:
    """Remove what `write_atomically` left in a directory when its process was killed.

    Only regular files of this user's, named as it names them, whose process is gone. One of the
    number of this process is of an earlier one: call this before anything is written.

    Args:
        directory: Where; a missing one has none.
        names: The files that were to be written; any if None.

    Returns:
        How many were removed.
    """
    removed = 0
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _LEFTOVER.fullmatch(entry.name)
            if match is None or (names is not None and match["name"] not in names):
                continue
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                is_ours = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
                if is_ours and not _is_running(int(match["pid"])):
                    Path(entry.path).unlink()
                    removed += 1
    return removed


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sync_directory(path: Path) -> None:
    """Make renames and removals inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, limit: int, *, follow: bool) -> tuple[bytes, os.stat_result]:
    """Read a regular file, with the facts of the very file that was read.

    Args:
        path: The file.
        limit: Bytes to read; one more is read, so that a longer answer means a longer file.
        follow: Whether the last part of the path may be a symbolic link.

    Raises:
        OSError: It cannot be opened or read, or is no regular file.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return file.read(limit + 1), facts


def who_may_write(facts: os.stat_result) -> str | None:
    """Tell who, beside this user and root, may write what these facts describe.

    The private group that many systems give each user counts as the user.

    Returns:
        A few words such as `everybody`, or None when nobody else may.
    """
    if facts.st_uid not in {0, os.geteuid()}:
        return f"its owner, user {facts.st_uid},"
    mode = stat.S_IMODE(facts.st_mode)
    if mode & stat.S_IWOTH:
        return "everybody"
    if mode & stat.S_IWGRP and not _is_private_group(facts.st_gid, facts.st_uid):
        return f"group {facts.st_gid}"
    return None


def is_read_only(path: Path) -> bool:
    """Tell whether a file is of a mount that nobody writes, in a container.

    There another user's number means nothing, and whoever made the mount has chosen what is in it.
    Elsewhere that user may reach the same file by another way, and write it.
    """
    # Source: Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO.
    is_inside = Path("/proc/self/ns/pid").stat().st_ino != _MACHINE
    return is_inside and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def who_may_replace(path: Path) -> tuple[str, Path] | None:
    """Tell who, beside this user and root, could have something else run in a program's place.

    A link is as good as the directories that it is in and leads to; and whoever may rename one that
    is further up can have another in its place between this look and the start.

    Args:
        path: The program, absolute.

    Returns:
        A few words such as `everybody`, and what they may write; None when nobody else may.

    Raises:
        OSError: It is not there, or cannot be looked at.
    """
    for place in dict.fromkeys((path, *path.parents, *path.resolve().parents)):
        facts = place.stat()
        writer = who_may_write(facts)
        # In a directory such as /tmp nobody can replace another user's file.
        if writer and not (place != path and facts.st_mode & stat.S_ISVTX):
            return writer, place
    return None


def script_of(argv: Sequence[str], directory: Path) -> Path | None:
    """Tell the file that an interpreter is to run; None if it is none, or was given no file.

    Args:
        argv: The program and its arguments.
        directory: Where it runs.
    """
    name = Path(argv[0]).name
    stops = next((stop for known, stop in _INTERPRETERS if known.fullmatch(name)), None)
    for word in argv[1:] if stops is not None else ():
        if stops is not None and stops.fullmatch(word):
            return None
        if word.startswith("/") or (not word.startswith("-") and (directory / word).is_file()):
            return directory / word
    return None


def _is_private_group(group: int, user: int) -> bool:
    try:
        person, members = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    return (
        person.pw_gid == group
        and members.gr_name == person.pw_name
        and set(members.gr_mem) <= {person.pw_name}
    )


@contextmanager
def hold_lock(path: Path) -> Generator[None]:
    """Hold an exclusive advisory lock on a file for the length of the block.

    Raises:
        LockHeldError: Another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockHeldError(f"{path} is held by another process") from error
        yield
    finally:
        os.close(descriptor)
