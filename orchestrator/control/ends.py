"""The ends of a workload's processes: which are known, how each ended, and waiting for one."""

import signal
from typing import final

import anyio

from orchestrator.errors import WorkloadError
from orchestrator.model.names import WorkloadName


@final
class Ends:
    """Known ends, by process; the news of one may come before anybody waits for it."""

    def __init__(self) -> None:
        """Know of none."""
        self._codes: dict[int, int | None] = {}
        self._causes: dict[int, str] = {}
        self._news = anyio.Event()

    def __contains__(self, pid: int) -> bool:
        """Tell whether a process is known to have ended."""
        return pid in self._codes

    def note(self, pid: int, code: int | None, cause: str = "") -> None:
        """Take the news of an end; None stands for an unknown exit code."""
        self._codes[pid] = code
        if cause:
            self._causes[pid] = cause
        event, self._news = self._news, anyio.Event()
        event.set()

    def take(self, pid: int) -> int | None:
        """Give the exit code of a process that ended, once."""
        return self._codes.pop(pid)

    def how(self, pid: int) -> str:
        """Say how a process ended, in words; the cause, if there is one, is told once."""
        words = describe_exit(self._codes.get(pid))
        cause = self._causes.pop(pid, "")
        return f"{words}, {cause}" if cause else words

    def forget(self) -> None:
        """Forget all: what ended before a launch is none of its."""
        self._codes.clear()
        self._causes.clear()

    async def wait(self, pid: int) -> None:
        """Wait until a process has ended."""
        while pid not in self._codes:
            await self._news.wait()


@final
class EndedError(WorkloadError):
    """The process ended before it was ready."""

    code = "workload.start"

    def __init__(self, workload: WorkloadName, code: int | None, how: str = "") -> None:
        """Keep the exit code."""
        how = how or describe_exit(code)
        super().__init__(f"{workload} ended before it was ready ({how})")
        self.exit: int | None = code


def describe_exit(code: int | None) -> str:
    """Say how a process ended, in words."""
    if code is None:
        return "exit status unknown"
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
