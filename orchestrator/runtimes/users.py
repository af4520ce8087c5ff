"""Unix users that instances run as, and the directories that are theirs.

`/proc/PID/environ` of a process, and with it the secrets of a role, can be read by every other
process of the same user. So each role may have a user of its own, where everything else runs as
root.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final

from orchestrator.errors import SettingsError
from orchestrator.files import PASSABLE_DIRECTORY, PRIVATE_DIRECTORY, make_private_directory

# Linux and useradd take no longer name.
_LONGEST: Final = 32
_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Account:
    """A unix user.

    Attributes:
        name: Its name.
        user: Its number.
        group: The number of its own group.
    """

    name: str
    user: int
    group: int


def is_root() -> bool:
    """Tell whether this process may start others as another user."""
    return os.geteuid() == 0


def find_account(name: str) -> Account | None:
    """Look a user up; None if the machine has none of this name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def need_account(name: str) -> Account | None:
    """Look up the user that a workload runs as; None stands for this process's own.

    Raises:
        SettingsError: There is no such user, it is root, or only root could become it.
    """
    if not name:
        return None
    account = find_account(name)
    if account is None:
        raise SettingsError(
            f"this machine has no user {name}", hint="`agents up --users` makes those of roles."
        )
    if not account.user or not account.group:
        raise SettingsError(f"{name} is root, or in its group", hint="Name another user.")
    if account.user == os.geteuid():
        return None
    if not is_root():
        raise SettingsError(f"only root can start a process as {name}")
    return account


def account_name(project: Path, part: str) -> str:
    """Name the user that a project has for a role.

    Args:
        project: The project's directory; two projects never share a user.
        part: The role.
    """
    prefix = f"bm-{hashlib.sha256(os.fsencode(project)).hexdigest()[:6]}-"
    room = _LONGEST - len(prefix)
    if len(part) > room:
        part = f"{part[: room - 9]}-{hashlib.sha256(part.encode()).hexdigest()[:8]}"
    return prefix + part


def shared_note(users: Collection[str]) -> str:
    """Tell what it means that instances run as the user of everything else; empty if none does.

    Args:
        users: The user of each role, empty for that one.
    """
    shared = sum(not user for user in users)
    if not shared:
        return ""
    whose = "all roles run" if shared == len(users) else f"{shared} of {len(users)} roles run"
    what = "`agents up --users`" if is_root() else "as root, `agents up --users`"
    return (
        f"{whose} as the user {_own_name()}, like Bandmaster itself: a hostile server can read "
        f"what that user can, the secrets of other roles included; {what} gives each its own"
    )


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def make_account(name: str, comment: str) -> Account:
    """Make a system user that cannot log in and owns nothing.

    Raises:
        SettingsError: It cannot be made.
    """
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise SettingsError(
            f"the user {name} cannot be made: this machine has no useradd",
            hint="Make it yourself, and name it with `user:` in the role file.",
        )
    shell = shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false"
    argv = [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    argv += ["--shell", shell, "--comment", comment, name]
    try:
        done = subprocess.run(  # noqa: S603 - a list of words, no shell, by absolute path
            argv,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"the user {name} cannot be made: useradd did not run") from error
    account = find_account(name)
    if account is None:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SettingsError(
            f"the user {name} cannot be made: {words[-1] if words else 'useradd failed'}"
        )
    return account


def make_role_directory(path: Path, account: Account | None, top: Path) -> None:
    """Make a directory that is a role's alone; what is in it changes hands with it.

    Args:
        path: The directory.
        account: The user that the role runs as; None for this process's own.
        top: A directory around it, of which others may pass what lies in between.

    Raises:
        SettingsError: It cannot be made or used.
    """
    if account is None and not (is_root() and path.exists() and path.stat().st_uid):
        make_private_directory(path)
        return
    try:
        make_private_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=PRIVATE_DIRECTORY)
        user, group = (account.user, account.group) if account else (0, 0)
        _hand_over(path, user, group)
        if account is not None:
            let_pass(path.parent, top)
    except OSError as error:
        raise SettingsError(f"{path} cannot be given to its role: {error.strerror}") from error


def let_pass(path: Path, top: Path) -> None:
    """Let others pass through a directory and those around it, up to `top`, and see nothing."""
    for place in (path, *path.parents):
        if not place.is_relative_to(top):
            return
        if stat.S_IMODE(place.stat().st_mode) == PRIVATE_DIRECTORY:
            place.chmod(PASSABLE_DIRECTORY)


def remove_tree(path: Path) -> None:
    """Remove a directory, or a link to one, that may be another user's."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        rmtree(path, ignore_errors=True)
    except RecursionError:  # directories in directories, as deep as somebody liked
        _ = subprocess.run(  # noqa: S603 - a path of ours
            ["/bin/rm", "-rf", "--", str(path)], check=False, stderr=subprocess.DEVNULL
        )


def _hand_over(path: Path, user: int, group: int) -> None:
    """Give a directory, and what an earlier user left in it, to a user; no link is followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != user:
            for _, folders, files, here in os.fwalk(".", dir_fd=descriptor, follow_symlinks=False):
                for name in (*folders, *files):
                    _give(name, here, facts.st_uid, (user, group))
        os.fchown(descriptor, user, group)
        os.fchmod(descriptor, PRIVATE_DIRECTORY)
    finally:
        os.close(descriptor)


def _give(name: str, here: int, before: int, after: tuple[int, int]) -> None:
    """Give a file or directory to a user if it is still the earlier one's; links stay as they are.

    Looked at and given by one descriptor: what is left of the earlier user may be awake, and put
    something else there in between.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        facts = os.fstat(descriptor)
        # A second name could be one that somebody gave to a file of another user.
        is_alone = stat.S_ISDIR(facts.st_mode) or facts.st_nlink == 1
        if facts.st_uid == before and is_alone and not stat.S_ISLNK(facts.st_mode):
            os.chown(f"/proc/self/fd/{descriptor}", *after)
    finally:
        os.close(descriptor)


def out_of_reach(account: Account, places: Sequence[tuple[str, int]]) -> str:
    """Tell the first path that a user may not use; empty if it may use all.

    Asked by a process that is that user: groups, lists of access rights and mounts all count.

    Args:
        account: The user.
        places: Absolute paths, each with what it is used for as in `os.access`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - its lines are run in a process that leaves no trace
        try:
            os.setgroups([])
            os.setresgid(account.group, account.group, account.group)
            os.setresuid(account.user, account.user, account.user)
            bad = next((path for path, mode in places if not os.access(path, mode)), "")
            _ = os.write(writer, os.fsencode(bad))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = os.fsdecode(pipe.read())
    _, status = os.waitpid(child, 0)
    if status:
        raise SettingsError(f"no process can be started as {account.name}")
    return answer
