"""Starts, finds and ends the supervisord of one project."""

import hashlib
import os
import resource
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from typing import final

import anyio
from anyio.to_thread import run_sync
from pydantic import SecretStr

from orchestrator.errors import RuntimeUnavailableError, SettingsError
from orchestrator.files import (
    PRIVATE_FILE,
    hold_lock,
    make_private_directory,
    write_atomically,
)
from orchestrator.render.supervisord import CONTROL_PROGRAM, ControlProgram, EngineFacts, main_file
from orchestrator.runtimes import variables
from orchestrator.runtimes.fence import end_orphan
from orchestrator.runtimes.identity import command_line
from orchestrator.runtimes.rpc import USER, EngineFaultError, EngineRpc
from orchestrator.runtimes.users import remove_tree

SEAT = Path(__file__).parents[1] / "shim" / "seat.py"

# supervisord binds a longer, temporary name first; a unix socket's address holds 107 bytes.
_SOCKET_BYTES = 95
_START_SECONDS = 20.0
_CONTROL_SECONDS = 45.0
_LAST_LINES = 5
_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """Where an engine keeps what.

    Attributes:
        run: Directory of what lives as long as the engine; private.
        logs: Directory of logs; private.
    """

    run: Path
    logs: Path

    @property
    def socket(self) -> Path:
        """The engine's own socket."""
        return self.run / "supervisor.sock"

    @property
    def key(self) -> Path:
        """The password of that socket."""
        return self.run / "supervisor.key"

    @property
    def configuration(self) -> Path:
        """The engine's main file."""
        return self.run / "supervisor.conf"

    @property
    def programs(self) -> Path:
        """Directory with one file a workload."""
        return self.run / "conf.d"

    @property
    def log(self) -> Path:
        """The engine's log."""
        return self.logs / "engine.log"

    @property
    def errors(self) -> Path:
        """What the engine says before it has a log."""
        return self.logs / "engine.err"

    @property
    def lock(self) -> Path:
        """Held by whoever starts or ends the engine."""
        return self.run / "engine.lock"

    def seat(self, name: str) -> Path:
        """The directory of a workload's seat and FIFOs."""
        return self.run / "seats" / name

    def http_seat(self, name: str) -> Path:
        """A short link to that directory: the path of a server's own socket has little room.

        A directory of its own where the server runs as another user, who may not enter the seat.
        """
        return self.run / "at" / hashlib.sha256(name.encode()).hexdigest()[:8]

    def http_socket(self, name: str) -> Path:
        """The socket on which a workload's server may serve HTTP."""
        return self.http_seat(name) / "http.sock"

    def fence(self, name: str) -> Path:
        """The fence of a workload, or of the control plane."""
        return self.run / "fences" / f"{name}.lock"

    def make(self) -> None:
        """Make all directories.

        Raises:
            SettingsError: One cannot be made, or the run directory's path is too long.
        """
        length = len(os.fsencode(self.socket))
        if length > _SOCKET_BYTES:
            raise SettingsError(
                f"{self.socket} is too long for a unix socket ({length} bytes of {_SOCKET_BYTES})",
                hint="Name a shorter directory under `run:` in agents.yaml.",
            )
        inside = ("seats", "fences", "at")
        for path in (self.run, self.logs, self.programs, *(self.run / name for name in inside)):
            make_private_directory(path)

    def forget_seat(self, name: str) -> None:
        """Remove a workload's seat, and all that is in it."""
        rmtree(self.seat(name), ignore_errors=True)
        remove_tree(self.http_seat(name))


@final
class Engine:
    """The process engine of one project: one supervisord for one run directory."""

    def __init__(self, files: EngineFiles) -> None:
        """Keep the places."""
        self.files = files
        self._rpc = EngineRpc(files.socket, files.key)

    async def find(self) -> int | None:
        """Tell the pid of the running engine, None when none runs.

        A pid file is never believed: only a socket that answers counts.

        Raises:
            RuntimeUnavailableError: Something listens and is not an engine of ours.
        """
        pid = await self._rpc.pid()
        if pid is None:
            return None
        try:
            with anyio.fail_after(_START_SECONDS):
                _ = await self._rpc.call("supervisor.getState")
        except (EngineFaultError, TimeoutError) as error:
            raise RuntimeUnavailableError(f"the process engine ({pid}) does not answer") from error
        except RuntimeUnavailableError:
            if await self._rpc.pid() is None:  # it ended between the two questions
                return None
            raise
        return pid

    async def start(self, control: Sequence[str] | None, values: Mapping[str, SecretStr]) -> int:
        """Start the engine; does nothing but tell its pid when it runs already.

        Args:
            control: Absolute program and arguments of the control plane, None for none.
            values: Variables to keep beside the engine (see `runtimes.variables`); a running
                engine keeps the ones it has.

        Returns:
            The engine's pid.

        Raises:
            LockHeldError: Another command starts or ends it at this moment.
            RuntimeUnavailableError: It ended, or did not answer in time.
            SettingsError: A directory cannot be used.
        """
        self.files.make()
        with hold_lock(self.files.lock):
            running = await self.find()
            if running is not None:
                return running
            self._write(control)
            descriptor = variables.create(values)
            try:
                pid = self._spawn(descriptor)
            finally:
                os.close(descriptor)
            try:
                with anyio.fail_after(_START_SECONDS):
                    await self._answered(pid)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                _ = _reap(pid)
                raise
            return pid

    async def shutdown(self, grace: timedelta) -> None:
        """End the control plane, then all workloads side by side, then the engine.

        Args:
            grace: How long workloads may take together before they are killed. Each one's own
                grace is part of its program's file.

        Raises:
            LockHeldError: Another command starts or ends it at this moment.
        """
        with hold_lock(self.files.lock):
            pid = await self.find()
            if pid is None:
                return
            process = os.pidfd_open(pid)
            try:
                await self._stop_programs(grace)
                with anyio.move_on_after(grace.total_seconds() + 5.0):
                    await anyio.wait_readable(process)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                await anyio.wait_readable(process)
            finally:
                os.close(process)
            _ = _reap(pid)
            await run_sync(self._clear)

    async def _stop_programs(self, grace: timedelta) -> None:
        with anyio.move_on_after(_CONTROL_SECONDS):
            with suppress(EngineFaultError, RuntimeUnavailableError):
                _ = await self._rpc.call("supervisor.stopProcess", CONTROL_PROGRAM, False)  # noqa: FBT003 - positional by protocol
                _ = await self._rpc.call("agents.settled", CONTROL_PROGRAM, _CONTROL_SECONDS)
        with anyio.move_on_after(grace.total_seconds()):
            with suppress(EngineFaultError, RuntimeUnavailableError):
                _ = await self._rpc.call("supervisor.stopAllProcesses", False)  # noqa: FBT003 - positional by protocol
                while await self._rpc.call("agents.busy", grace.total_seconds()):
                    pass
        with anyio.move_on_after(5.0):
            with suppress(EngineFaultError, RuntimeUnavailableError):
                _ = await self._rpc.call("agents.kill_all")
                _ = await self._rpc.call("supervisor.shutdown")

    def _write(self, control: Sequence[str] | None) -> None:
        key = secrets.token_urlsafe(32)
        write_atomically(self.files.key, key.encode() + b"\n")
        facts = EngineFacts(
            run=str(self.files.run),
            log=str(self.files.log),
            user=USER,
            # SHA-1 is the one form that supervisord knows; 256 random bits have no dictionary.
            password_sha1=hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(),
            root=os.geteuid() == 0,
            descriptors=min(_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        )
        program = None
        if control is not None:
            guarded = seat_command("guard", str(self.files.fence(CONTROL_PROGRAM)), *control)
            program = ControlProgram(guarded, str(self.files.logs / f"{CONTROL_PROGRAM}.log"))
        write_atomically(self.files.configuration, main_file(facts, program).encode())

    def _spawn(self, descriptor: int) -> int:
        """Start supervisord in a session of its own, with nothing inherited but the variables."""
        python = sys.executable
        argv = [python, *engine_words(self.files)]
        home = os.environ.get("HOME", "/")
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LANG": "C.UTF-8"}
        errors = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_DUP2, descriptor, variables.DESCRIPTOR),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.files.errors), errors, PRIVATE_FILE),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # A descriptor that this command itself inherited, a lock for one, must not live on there.
        actions += [
            (os.POSIX_SPAWN_CLOSE, number)
            for number in _inheritable()
            if number > variables.DESCRIPTOR
        ]
        mask = os.umask(0o077)
        try:
            return os.posix_spawn(
                python,
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP),
            )
        finally:
            _ = os.umask(mask)

    async def _answered(self, pid: int) -> None:
        """Poke the engine's socket until it answers; the first answer also ends its first wait."""
        while True:
            if _reap(pid):
                raise RuntimeUnavailableError(
                    f"the process engine ended at once: {self._last_words()}",
                    hint=f"Look into {self.files.log} and {self.files.errors}.",
                )
            if await self._rpc.pid() == pid:
                with suppress(RuntimeUnavailableError):
                    _ = await self._rpc.call("supervisor.getState")
                    return
            await anyio.sleep(0.005)

    def _last_words(self) -> str:
        lines: list[str] = []
        for path in (self.files.log, self.files.errors):
            with suppress(FileNotFoundError):
                lines += path.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
        return " / ".join(lines) or "it said nothing"

    def _clear(self) -> None:
        """Remove what only a running engine needs, and end what escaped it."""
        for path in (self.files.run / "fences").glob("*.lock"):
            _ = end_orphan(path)
        for path in (self.files.socket, self.files.key, self.files.configuration):
            path.unlink(missing_ok=True)
        for path in self.files.programs.glob("*.conf"):
            path.unlink(missing_ok=True)
        for path in (self.files.run / "seats").iterdir():
            self.files.forget_seat(path.name)


def ghosts_of(files: EngineFiles) -> tuple[int, ...]:
    """Tell supervisords of this run directory, whether or not they can still be reached.

    One whose sockets were deleted under it goes on running; only its command line tells of it.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            ours = entry.stat().st_uid == os.geteuid()
        except FileNotFoundError:
            continue
        if ours and command_line(int(entry.name))[1:] == engine_words(files):
            found.append(int(entry.name))
    return tuple(found)


async def end_ghosts(files: EngineFiles, grace: timedelta) -> int:
    """End supervisords of this run directory that cannot be reached; they end their programs.

    Args:
        files: Where the engine keeps what.
        grace: How long one may take before it is killed.

    Returns:
        How many there were.
    """
    ghosts = ghosts_of(files)
    for pid in ghosts:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if command_line(pid)[1:] != engine_words(files):
                continue  # the pid means another process by now
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)
                with anyio.move_on_after(grace.total_seconds()):
                    await anyio.wait_readable(process)
                    break
        finally:
            os.close(process)
    return len(ghosts)


def engine_words(files: EngineFiles) -> tuple[str, ...]:
    """Tell the arguments of the engine's command line, after the interpreter."""
    return ("-I", "-m", "supervisor.supervisord", "-c", str(files.configuration))


def seat_command(*arguments: str) -> tuple[str, ...]:
    """Write the command line of the seat, as the engine runs it."""
    return (sys.executable, "-I", "-S", str(SEAT), *arguments)


def _inheritable() -> tuple[int, ...]:
    found: list[int] = []
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is wanted
        with suppress(OSError):  # the listing's own
            if os.get_inheritable(int(entry)):
                found.append(int(entry))
    return tuple(found)


def _reap(pid: int) -> bool:
    """Tell whether a child has ended, and let it go; False for a process of another parent."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
