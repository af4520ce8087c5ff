"""What containers see of this machine: FIFOs, a place for a socket, a log, kept directories."""

import errno
import fcntl
import io
import os
import stat
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final, final

import anyio

from orchestrator.errors import ContainerError, WorkloadStartError
from orchestrator.files import make_private_directory
from orchestrator.model.names import WorkloadName
from orchestrator.runtimes.channel import PIPE_BYTES
from orchestrator.runtimes.docker_container import HostPlaces
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.users import is_root, remove_tree

# Everything around them is passed by nobody else; only the one container has them mounted.
_FIFO: Final = 0o666
_PASSABLE: Final = 0o711
# What is made in it belongs to our group, by which a server's socket is reached without root.
_OPEN: Final = 0o2777
# Appended to from inside, and read by nobody there.
_LOG: Final = 0o602
_FIFOS: Final = ("env", "in", "out")
_WAIT_SECONDS: Final = 0.002
_SETPIPE_SZ: Final = 1031


@dataclass(frozen=True, slots=True)
class InsideUser:
    """A user of an image.

    Attributes:
        user: Its number, the same outside.
        group: The number of its group.
    """

    user: int
    group: int


@final
class DockerFiles:
    """The places of all containers of a project."""

    def __init__(self, files: EngineFiles) -> None:
        """Keep the places."""
        self._files = files
        self._seats = files.run / "containers"

    @property
    def project(self) -> str:
        """What tells the project's containers from all others."""
        return str(self._files.run)

    @property
    def mark(self) -> Path:
        """Names the engine, where this project ever had a container."""
        return self._seats / "engine"

    def engine(self) -> str:
        """Tell the socket of the engine that has this project's containers; empty without any."""
        try:
            return self.mark.read_text("utf-8").strip()
        except FileNotFoundError:
            return ""

    def set_engine(self, socket: str) -> None:
        """Remember the engine."""
        make_private_directory(self._seats)
        if self.engine() != socket:
            _ = self.mark.write_text(f"{socket}\n", "utf-8")

    def seat(self, name: str) -> Path:
        """The directory of a container's FIFOs."""
        return self._seats / name

    def knows(self, name: WorkloadName) -> bool:
        """Tell whether a workload is, or was meant to be, a container."""
        return self.seat(name).is_dir()

    @property
    def has_seats(self) -> bool:
        """Whether there are, or were, containers that nobody has stopped."""
        return self._seats.is_dir() and any(each.is_dir() for each in self._seats.iterdir())

    def socket(self, name: str) -> Path:
        """The socket on which a server may serve HTTP."""
        return self._files.http_socket(name)

    def is_waiting(self, name: str) -> bool:
        """Tell whether a container has not been launched yet."""
        return (self.seat(name) / "env").exists()

    def places(self, name: str, role: str, *, serves_socket: bool) -> HostPlaces:
        """Tell what a container sees."""
        # In memory, and little of it: only root reaches what the engine makes.
        has_own = serves_socket and not is_root()
        return HostPlaces(
            channel=str(self.seat(name)),
            log=str(self._files.logs / f"{role}.log"),
            serves_socket=serves_socket,
            http=str(self._files.http_seat(name)) if has_own else "",
        )

    def link_http(self, name: str, place: str) -> None:
        """Have the short way to a server's socket lead to where it is."""
        link = self._files.http_seat(name)
        make_private_directory(link.parent)
        remove_tree(link)
        link.symlink_to(place)

    def prepare(self, name: str, places: HostPlaces) -> None:
        """Make the places of a container anew: nothing of an earlier one is left in them."""
        make_private_directory(self._seats)
        seat = self.seat(name)
        rmtree(seat, ignore_errors=True)
        seat.mkdir(mode=_PASSABLE)
        seat.chmod(_PASSABLE)
        for each in _FIFOS:
            os.mkfifo(seat / each)
            (seat / each).chmod(_FIFO)
        make_private_directory(self._files.logs)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(places.log, flags, 0o600)
        os.fchmod(descriptor, _LOG)
        os.close(descriptor)
        if places.http:
            place = Path(places.http)
            make_private_directory(place.parent)
            remove_tree(place)
            place.mkdir()
            place.chmod(_OPEN)

    def forget(self, name: str) -> None:
        """Remove the places of a container."""
        rmtree(self.seat(name), ignore_errors=True)
        remove_tree(self._files.http_seat(name))

    def forget_all(self) -> None:
        """Remove the places of all containers, and which engine had them."""
        rmtree(self._seats, ignore_errors=True)

    async def hand_over(self, name: str, text: bytes) -> None:
        """Give the waiting container its environment, once.

        It is read by a shell that waits in `open`. The FIFO's name goes first: whatever happens
        then, nobody takes this container for one that waits.

        Raises:
            WorkloadStartError: It does not read.
        """
        path = self.seat(name) / "env"
        while True:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                break
            except FileNotFoundError:
                raise WorkloadStartError(f"{name} runs already") from None
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody has it open yet
                    raise
            await anyio.sleep(_WAIT_SECONDS)
        try:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                _ = fcntl.fcntl(descriptor, _SETPIPE_SZ, PIPE_BYTES)
            rest = memoryview(text)
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    await anyio.wait_writable(descriptor)
        except BrokenPipeError:
            raise WorkloadStartError(f"{name} ended while it was launched") from None
        finally:
            os.close(descriptor)


def keep_directory(place: str, user: InsideUser, image_user: str) -> None:
    """Make sure that a container's user can write a kept directory.

    Raises:
        ContainerError: It is another user's, or no directory.
    """
    path = Path(place)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            raise ContainerError(
                f"{place} is a link, which may lead anywhere", hint="Name the directory itself."
            )
        if is_root() and not any(path.iterdir()):
            os.chown(path, user.user, user.group, follow_symlinks=False)
        # Only now: another role may have been given it meanwhile, and have written to it.
        facts = path.lstat()
    except OSError as error:
        raise ContainerError(
            f"{place} cannot be kept for the container: {error.strerror}",
            hint="Look at the directory around it.",
        ) from error
    may_write = facts.st_mode & (0o200 if facts.st_uid == user.user else 0o002)
    if facts.st_gid == user.group:
        may_write |= facts.st_mode & 0o020
    if not may_write:
        raise ContainerError(
            f"{place} is not writable for the container's user {image_user}, number {user.user}",
            hint=f"`chown -R {user.user}:{user.group} {place}` as root.",
        )


def user_in(archive: bytes | None, name: str, image: str) -> InsideUser:
    """Find a user in an image's `/etc/passwd`.

    Args:
        archive: The file, in an archive; None if the image has none.
        name: The user.
        image: For messages.

    Raises:
        ContainerError: There is no such user, or it is root under another name.
    """
    for line in _only_file(archive).decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[0] == name and fields[2].isdigit() and fields[3].isdigit():  # noqa: PLR2004 - name, password, user, group
            found = InsideUser(int(fields[2]), int(fields[3]))
            if not found.user or not found.group:
                raise ContainerError(
                    f"the user {name} of the image {image} is root, or in its group",
                    hint="Name another user under `container: user:` of the server.",
                )
            return found
    raise ContainerError(
        f"the image {image} has no user {name} in its /etc/passwd",
        hint="Name one that it has under `container: user:` of the server, never root.",
    )


def _only_file(archive: bytes | None) -> bytes:
    if archive is None:
        return b""
    with tarfile.open(fileobj=io.BytesIO(archive)) as box:
        for member in box:
            if member.isfile() and (file := box.extractfile(member)) is not None:
                return file.read()
    return b""
