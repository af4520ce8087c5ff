"""Runs inside supervisord: children reaped at once, exact exit causes, a feed of exits.

Named in the engine's configuration as `[rpcinterface:agents]`; the public methods of `Api` become
`agents.METHOD`. Without it a child's death waits for the next turn of supervisord's loop, which
takes up to two seconds, and its signal is lost.

It imports the standard library and supervisor only. Nothing in here may raise into supervisord's
loop.

Source: supervisor 4.3.0, supervisord.py (runforever, reap) and process.py (finish, transition).
"""

import ctypes
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeAlias, cast, final

from supervisor import events
from supervisor.http import NOT_DONE_YET
from supervisor.loggers import Handler
from supervisor.medusa import asyncore_25
from supervisor.process import Subprocess
from supervisor.xmlrpc import Faults, RPCError

# The seat waits for its launch frame, so a short life is mostly a server that was launched at once
# and failed; how long to wait then is decided above the engine. Only a seat that fails by itself,
# again and again, is slowed down here.
QUICK_RESPAWNS = 8
SLOW_RESPAWN_SECONDS = 5.0

LONGEST_POLL_SECONDS = 60.0
KEPT_EXITS = 4096
# How long the loop waits for the end of what was killed.
STRAYS_SECONDS = 0.05
# As `render/supervisord.py` names it, which is not imported into the engine.
CONTROL_PROGRAM = "agentsd"

_READ = select.POLLIN | select.POLLPRI | select.POLLHUP
_FAULT = _READ | select.POLLOUT

# How often a waiting call is looked at while the loop turns; 0 would make the loop spin.
_POLL_DELAY_SECONDS = 0.001


class ProcessConfig(Protocol):
    """What is used of supervisor.options.ProcessConfig."""

    name: str


class Process(Protocol):
    """What is used of supervisor.process.Subprocess."""

    config: ProcessConfig
    pid: int
    state: int
    backoff: int
    delay: float
    spawnerr: str | None
    pipes: dict[str, int]


class ProcessGroup(Protocol):
    """What is used of supervisor.process.ProcessGroup."""

    processes: dict[str, Process]

    def stop_all(self) -> None:
        """Ask all its processes to end."""
        ...


class Options(Protocol):
    """What is used of supervisor.options.ServerOptions."""

    poller: object
    pidhistory: dict[int, Process]
    waitpid: Callable[[], tuple[int | None, int | None]]
    cleanup: Callable[[], None]


class Supervisord(Protocol):
    """What is used of supervisor.supervisord.Supervisor."""

    options: Options
    process_groups: dict[str, ProcessGroup]

    def reap(self) -> None:
        """Reap every child that ended."""
        ...


class BackoffEvent(Protocol):
    """What is used of supervisor.events.ProcessStateBackoffEvent."""

    process: Process


Deferred: TypeAlias = Callable[[], object]


@final
class TurnPoller:
    """Polls just what the loop asked for in this very turn.

    supervisord registers everything anew in each turn, and its own poller keeps what was registered
    before. A descriptor that was closed meanwhile stays in it; once its number is taken by a pipe
    whose other end is closed, every poll returns at once and the loop spins for ever.

    Source: supervisor 4.3.0, supervisord.py (runforever) and poller.py (PollPoller).
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._wanted: dict[int, int] = {}

    def register_readable(self, descriptor: int) -> None:
        """Wait for something to read, in this turn."""
        self._wanted[descriptor] = self._wanted.get(descriptor, 0) | _READ

    def register_writable(self, descriptor: int) -> None:
        """Wait for room to write, in this turn."""
        self._wanted[descriptor] = self._wanted.get(descriptor, 0) | select.POLLOUT

    def unregister_readable(self, _descriptor: int) -> None:
        """Do nothing: the next turn begins with nothing."""

    def unregister_writable(self, _descriptor: int) -> None:
        """Do nothing: the next turn begins with nothing."""

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        """Wait for the first event, at most so many seconds.

        Returns:
            Descriptors to read from, and descriptors to write to.
        """
        wanted, self._wanted = self._wanted, {}
        poller = select.poll()
        for descriptor, mask in wanted.items():
            poller.register(descriptor, mask)
        # An error counts as an event of what was asked for: whoever handles it then closes.
        found = [
            (descriptor, wanted[descriptor] & (event | (_FAULT if event & select.POLLERR else 0)))
            for descriptor, event in poller.poll(timeout * 1000)
        ]
        readable = [descriptor for descriptor, event in found if event & _READ]
        return readable, [descriptor for descriptor, event in found if event & select.POLLOUT]

    def before_daemonize(self) -> None:
        """Do nothing: it holds no descriptor."""

    def after_daemonize(self) -> None:
        """Do nothing: it holds no descriptor."""

    def close(self) -> None:
        """Do nothing: it holds no descriptor."""


@final
class Waker:
    """Makes a signal end supervisord's poll: a dispatcher on the wakeup descriptor."""

    def __init__(self, supervisord: Supervisord) -> None:
        """Open the pipe and enter it into the loop."""
        self._supervisord = supervisord
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _ = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        _socket_map()[self._reading] = self

    def close(self) -> None:
        """Leave the loop, before supervisord closes descriptors that it does not know."""
        _ = signal.set_wakeup_fd(-1)
        _ = _socket_map().pop(self._reading, None)
        os.close(self._reading)
        os.close(self._writing)

    def readable(self) -> bool:
        """Tell the loop to wait for a byte."""
        return True

    def writable(self) -> bool:
        """Tell the loop that there is nothing to write."""
        return False

    def handle_read_event(self) -> None:
        """Reap now; the same turn of the loop then starts what has to start."""
        with suppress(BlockingIOError):
            _ = os.read(self._reading, 4096)
        self._supervisord.reap()
        for dispatcher in _socket_map().values():
            # A call that waits is looked at again in the next turn, however short ago it was.
            if getattr(dispatcher, "delay", 0):
                vars(dispatcher)["last_writable_check"] = 0.0

    def handle_write_event(self) -> None:
        """Do nothing; never called."""

    def handle_error(self) -> None:
        """Do nothing: the loop calls it for an exception above, which the next turn repeats."""


@final
class Exits:
    """Every child that ended, with its cause, and the end of what it left behind."""

    def __init__(self, options: Options) -> None:
        """Take the place of supervisord's own waitpid."""
        self._options = options
        # Left behind by the control plane: what it had asked of programs may finish.
        self._spared: set[int] = set()
        self.boot: str = f"{os.getpid()}-{time.time_ns()}"
        self.serial: int = 0
        self._kept: deque[dict[str, object]] = deque(maxlen=KEPT_EXITS)

    def waitpid(self) -> tuple[int | None, int | None]:
        """Reap one child, with the contract of supervisor.options.ServerOptions.waitpid.

        Before that, while its pid is still taken, the rest of its process group is killed, and
        what had left that: a server leaves nothing behind.
        """
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None:
                return None, None
            process = self._options.pidhistory.get(ended.si_pid)
            if process is not None:
                kill_group(ended.si_pid, signal.SIGKILL)
            if process is not None and process.config.name == CONTROL_PROGRAM:
                self._spare()
            else:
                self._kill_strays()
            self._spared.discard(ended.si_pid)
            pid, status, usage = os.wait4(ended.si_pid, os.WNOHANG)
        except ChildProcessError:
            return None, None
        if pid and process is not None:
            self.serial += 1
            self._kept.append(
                {
                    "serial": self.serial,
                    "name": process.config.name,
                    "pid": pid,
                    "code": os.waitstatus_to_exitcode(status),
                    "peak_kb": usage.ru_maxrss,
                }
            )
        return (pid, status) if pid else (None, None)

    def _strays(self) -> set[int]:
        """Tell live children that nobody here started: what ended servers left behind.

        A server that lives has such children itself (`shim/seat.py` sees to that), so nothing of
        it is among them.
        """
        known = self._options.pidhistory
        return {pid for pid in children() if pid not in known and pid not in self._spared}

    def _spare(self) -> None:
        """Let what the control plane had begun go on without it, unless it may be a server's."""
        if not any(is_over(pid) for pid in self._options.pidhistory if not self._is_control(pid)):
            self._spared |= self._strays()

    def _is_control(self, pid: int) -> bool:
        return self._options.pidhistory[pid].config.name == CONTROL_PROGRAM

    def _kill_strays(self) -> None:
        """Kill them, and their children, which are strays then; the loop reaps them later."""
        give_up = time.monotonic() + STRAYS_SECONDS
        while strays := self._strays():
            for pid in strays:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > give_up:
                return  # the end of each of them leads here again
            time.sleep(0.0005)

    def since(self, boot: str, serial: int) -> str:
        """Tell what ended after a serial number, as JSON.

        `lost` is true when the number is of another boot, or too old to be answered whole.
        """
        lost = boot != self.boot
        after = self.serial if lost else serial
        exits = [record for record in self._kept if cast("int", record["serial"]) > after]
        lost = lost or len(exits) != self.serial - after
        return json.dumps({"boot": self.boot, "serial": self.serial, "lost": lost, "exits": exits})


@final
class Api:
    """What the control plane may call."""

    def __init__(self, supervisord: Supervisord) -> None:
        """Take over reaping and the delay after a short life."""
        self._supervisord = supervisord
        Handler.handleError = _lose_line
        self._exits = Exits(supervisord.options)
        supervisord.options.waitpid = self._exits.waitpid
        _subscribe(events.ProcessStateBackoffEvent, self._shorten_delay)
        _subscribe(events.SupervisorStoppingEvent, self._stop_all)

    def exits(self, boot: str, since: int, patience: float) -> Deferred | str | bool:
        """Wait for a child's end; answers at once when the boot is not the present one.

        Args:
            boot: The boot of the last answer, empty at first.
            since: The serial number of the last answer.
            patience: Longest wait in seconds.
        """
        exits = self._exits
        return self._wait(
            patience,
            lambda: boot != exits.boot or since != exits.serial,
            lambda: exits.since(boot, since),
        )

    def settled(self, name: str, patience: float) -> Deferred | str | bool:
        """Wait until a program has no process; tells whether that is so."""
        process = self._find(name)
        return self._wait(patience, lambda: not process.pid, lambda: not process.pid)

    def signal(self, name: str, number: int) -> bool:
        """Signal a program's whole process group; tells whether there was a process.

        Only the parent can do that without the risk of hitting a reused pid.
        """
        process = self._find(name)
        return bool(process.pid) and kill_group(process.pid, number)

    def busy(self, patience: float) -> Deferred | str | bool:
        """Wait until no program has a process; tells whether one still has."""

        def has_process() -> bool:
            return any(process.pid for process in self._all())

        return self._wait(patience, lambda: not has_process(), has_process)

    def kill_all(self) -> bool:
        """Kill the process group of every program; tells whether there was one."""
        pids = [process.pid for process in self._all() if process.pid]
        return sum(kill_group(pid, signal.SIGKILL) for pid in pids) > 0

    def programs(self) -> str:
        """List all programs, as JSON."""
        return json.dumps(
            [
                {
                    "name": process.config.name,
                    "state": process.state,
                    "pid": process.pid,
                    "problem": process.spawnerr or "",
                }
                for process in self._all()
            ]
        )

    def _all(self) -> list[Process]:
        groups = self._supervisord.process_groups.values()
        return [process for group in groups for process in group.processes.values()]

    def _find(self, name: str) -> Process:
        group = self._supervisord.process_groups.get(name)
        process = group.processes.get(name) if group is not None else None
        if process is None:
            raise RPCError(Faults.BAD_NAME, name)
        return process

    def _wait(
        self, patience: float, is_done: Callable[[], bool], answer: Callable[[], str | bool]
    ) -> Deferred | str | bool:
        if is_done():
            return answer()
        deadline = time.monotonic() + min(float(patience), LONGEST_POLL_SECONDS)

        def later() -> object:
            done = is_done() or time.monotonic() >= deadline
            return answer() if done else cast("object", NOT_DONE_YET)

        # supervisord looks these up on the function itself.
        vars(later)["delay"] = _POLL_DELAY_SECONDS
        vars(later)["rpcinterface"] = self
        return later

    def _shorten_delay(self, event: BackoffEvent) -> None:
        """Replace the delay of k seconds after the k-th short life."""
        process = event.process
        slow = process.backoff > QUICK_RESPAWNS
        process.delay = time.time() + SLOW_RESPAWN_SECONDS if slow else 0.0

    def _stop_all(self, _event: object) -> None:
        """Stop all programs side by side; supervisord alone stops one after the other."""
        for group in self._supervisord.process_groups.values():
            group.stop_all()


def _lose_line(self: Handler) -> None:
    """Do without a line that cannot be logged: supervisord's own way is to end on a full disk.

    Source: supervisor 4.3.0, loggers.py (Handler.handleError); it prints to a file on that disk.
    """


def adopt() -> None:
    """Become the parent of everything below this process that loses its own."""
    set_child_subreaper = 36
    libc = ctypes.CDLL(None)
    _ = cast("int", libc.prctl(set_child_subreaper, 1, 0, 0, 0))


def children() -> list[int]:
    """Tell the live children of this process."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:  # noqa: PTH123 - quicker
            pids = [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # the kernel was built without that file
        every = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - the same
        pids = [pid for pid in every if parent_of(pid) == own]
    return [pid for pid in pids if not is_over(pid)]


def parent_of(pid: int) -> int:
    """Tell the parent of a process, 0 without one."""
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def is_over(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    fields = stat_of(pid)
    return not fields or fields[0] in {b"Z", b"X"}


def stat_of(pid: int) -> list[bytes]:
    """Read what the kernel says of a process, from its state on; empty without one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - quicker
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name in parentheses may itself hold blanks and parentheses.
    return text[text.rfind(b")") + 2 :].split()


def kill_group(group: int, number: int) -> bool:
    """Signal a process group; tells whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _socket_map() -> dict[int, object]:
    return cast("dict[int, object]", asyncore_25.socket_map)


def _subscribe(kind: type, callback: Callable[[BackoffEvent], None]) -> None:
    events.subscribe(kind, callback)  # pyright: ignore[reportUnknownMemberType] - supervisor has no types


def _prepare_child_descriptors(self: Subprocess) -> None:
    """Do what Subprocess._prepare_child_fds does, with one call in place of thousands."""
    pipes = cast("dict[str, int]", self.pipes)
    redirected = cast("bool", self.config.redirect_stderr)  # pyright: ignore[reportOptionalMemberAccess] - set before any spawn
    _ = os.dup2(pipes["child_stdin"], 0)
    _ = os.dup2(pipes["child_stdout"], 1)
    _ = os.dup2(pipes["child_stdout" if redirected else "child_stderr"], 2)
    os.closerange(3, 1 << 20)


def make(supervisord: Supervisord, **_options: str) -> Api:
    """Build the namespace; supervisord calls it at its start and again at each SIGHUP."""
    _ = os.umask(0o077)
    adopt()
    supervisord.options.poller = TurnPoller()
    waker = Waker(supervisord)
    cleanup = supervisord.options.cleanup

    def close_then_clean_up() -> None:
        waker.close()
        cleanup()

    supervisord.options.cleanup = close_then_clean_up
    Subprocess._prepare_child_fds = _prepare_child_descriptors  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way to change it
    return Api(supervisord)
