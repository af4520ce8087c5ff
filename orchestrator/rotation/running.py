"""Runs programs of the user's in bounded time and size; nothing of them is left afterwards."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteSendStream, Process

from orchestrator.errors import SecretStoreUnavailableError
from orchestrator.files import script_of
from orchestrator.secrets.program import check_program

_LIMIT_BYTES: Final = 256 * 1024
_END_SECONDS: Final = 5.0
_ROOT: Final = Path("/")


class ProgramError(Exception):
    """A program gave no answer.

    Attributes:
        was_refused: Whether it said, or is known, to have done nothing.
    """

    def __init__(self, message: str, *, was_refused: bool) -> None:
        """Keep what is known; no word of the program is in it."""
        super().__init__(message)
        self.was_refused: bool = was_refused


def check(argv: Sequence[str], directory: Path = _ROOT) -> None:
    """Refuse a program, or the script that an interpreter runs, that somebody else could replace.

    Args:
        argv: The program and its arguments.
        directory: Where it runs.

    Raises:
        ProgramError: It is one, or cannot be run.
    """
    program, script = argv[0], script_of(argv, directory)
    try:
        # What is named without a place is looked for where root alone puts programs.
        if program.startswith("/"):
            check_program("the program", Path(program))
        if script is not None:
            check_program("the script", script, is_run=False)
    except SecretStoreUnavailableError as error:
        raise ProgramError(str(error), was_refused=True) from None


async def run(  # noqa: PLR0913  one process
    argv: Sequence[str],
    env: Mapping[str, str],
    question: bytes,
    timeout: timedelta,
    *,
    directory: Path = _ROOT,
    is_heard: bool = True,
) -> tuple[int, bytes]:
    """Run a program to its end, then kill its process group, whatever happens.

    Args:
        argv: The program and its arguments.
        env: All its variables.
        question: What it reads on stdin.
        timeout: How long it may take.
        directory: Where it runs.
        is_heard: Whether what it writes to stdout is wanted.

    Returns:
        Its exit status, and what it wrote.

    Raises:
        ProgramError: It cannot be run, took too long or wrote too much.
    """
    output = subprocess.PIPE if is_heard else subprocess.DEVNULL
    try:
        # What it writes to stderr goes nowhere: it may hold what must not be in a log.
        process = await anyio.open_process(
            argv,
            env=env,
            cwd=directory,
            start_new_session=True,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        reason = error.strerror or "unknown"
        raise ProgramError(f"cannot be run: {reason}", was_refused=True) from error
    try:
        with anyio.fail_after(timeout.total_seconds()):
            heard = await _talk(process, question)
            if len(heard) > _LIMIT_BYTES:
                raise ProgramError("answered with too much", was_refused=False)
            return await process.wait(), heard
    except TimeoutError:
        seconds = timeout.total_seconds()
        raise ProgramError(f"gave no answer within {seconds:g} s", was_refused=False) from None
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _talk(process: Process, question: bytes) -> bytes:
    """Write the question and read what it answers, up to a byte more than it may."""
    if process.stdin is None:
        raise AssertionError("opened without a pipe")
    output = b""
    async with anyio.create_task_group() as group:
        group.start_soon(_write, process.stdin, question)
        if process.stdout is None:
            _ = await process.wait()
            group.cancel_scope.cancel()
            return output
        async for part in process.stdout:
            output += part
            if len(output) > _LIMIT_BYTES:
                break
        group.cancel_scope.cancel()
    return output


async def _write(stdin: ByteSendStream, question: bytes) -> None:
    # A program need not read what it is asked.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stdin.send(question)
        await stdin.aclose()


async def _end(process: Process) -> None:
    """Kill what is left of its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(_END_SECONDS):
        await process.aclose()
