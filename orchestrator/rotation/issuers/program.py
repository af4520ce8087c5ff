"""Asks a program something: JSON on its stdin, JSON from its stdout, in bounded time and size."""

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, final

import anyio
from anyio.abc import ByteSendStream, Process
from pydantic import SecretStr

from orchestrator.errors import ProtocolError, SecretStoreUnavailableError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import SecretName
from orchestrator.model.secret import SecretRef
from orchestrator.protocol import jsonrpc
from orchestrator.secrets.program import check_program

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Source: sysexits.h, EX_TEMPFAIL.
NOTHING_DONE: Final = 75
_LIMIT_BYTES: Final = 256 * 1024
_END_SECONDS: Final = 5.0

Resolve = Callable[[Mapping[SecretName, SecretRef]], Awaitable[Mapping[SecretName, SecretStr]]]


class ProgramError(Exception):
    """A program gave no answer.

    Attributes:
        was_refused: Whether it said, or is known, to have done nothing.
    """

    def __init__(self, message: str, *, was_refused: bool) -> None:
        """Keep what is known; no word of the program is in it."""
        super().__init__(message)
        self.was_refused: bool = was_refused


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the programs of an issuer run with.

    Attributes:
        fill: Puts places into words: `{python}`, `{project}` and `{state}`.
        env: Plain variables beside a short baseline.
        secrets: Variables whose values are resolved for each run.
        resolve: Resolves them.
        timeout: How long a run may take.
    """

    fill: Callable[[str], str]
    env: Mapping[SecretName, str]
    secrets: Mapping[SecretName, SecretRef]
    resolve: Resolve = field(repr=False)
    timeout: timedelta

    async def ask(self, command: Sequence[str], question: JsonObject) -> JsonObject:
        """Run a program and give its answer.

        Args:
            command: The program and its arguments, before places are put in.
            question: What it reads on stdin.

        Raises:
            SecretError: A variable of it does not resolve; it was not run.
            ProgramError: It could not be run, ended badly, took too long, or gave no answer.
        """
        argv = [self.fill(word) for word in command]
        _check(argv[0])
        resolved = await self.resolve(self.secrets)
        env: dict[str, str] = {
            "PATH": SYSTEM_PATH,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        env |= {name: self.fill(value) for name, value in self.env.items()}
        env |= {name: value.get_secret_value() for name, value in resolved.items()}
        try:
            status, output = await _run(argv, env, jsonrpc.encode(question), self.timeout)
        except ProgramError as error:
            text = f"{_shown(argv, question)} {error}"
            raise ProgramError(text, was_refused=error.was_refused) from error.__cause__
        if status == NOTHING_DONE:
            text = f"{_shown(argv, question)} ended with status {status}: nothing was done"
            raise ProgramError(text, was_refused=True)
        if status:
            text = f"{_shown(argv, question)} ended with status {status}; its stderr is not kept"
            raise ProgramError(text, was_refused=False)
        try:
            answer = jsonrpc.decode(output)
        except ProtocolError:
            answer = None
        if not isinstance(answer, dict):
            text = f"{_shown(argv, question)} answered with no JSON object"
            raise ProgramError(text, was_refused=False)
        return answer


def _shown(argv: list[str], question: JsonObject) -> str:
    """Name a program with its script, if it has one, and what it was asked."""
    script = [word for word in argv[1:] if word.startswith("/")][:1]
    return f"{question.get('verb', 'asked')}: {' '.join([argv[0], *script])}"


def _check(program: str) -> None:
    """Refuse a program that somebody else could replace.

    Raises:
        ProgramError: It is one, or cannot be run.
    """
    # What is named without a place is looked for where root alone puts programs.
    if program.startswith("/"):
        try:
            check_program("the program", Path(program))
        except SecretStoreUnavailableError as error:
            raise ProgramError(str(error), was_refused=True) from None


async def _run(
    argv: list[str], env: dict[str, str], question: bytes, timeout: timedelta
) -> tuple[int, bytes]:
    try:
        # What it writes to stderr goes nowhere: it may hold what must not be in a log.
        process = await anyio.open_process(
            argv, env=env, cwd="/", start_new_session=True, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        reason = error.strerror or "unknown"
        raise ProgramError(f"cannot be run: {reason}", was_refused=True) from error
    try:
        with anyio.fail_after(timeout.total_seconds()):
            output = await _talk(process, question)
            if len(output) > _LIMIT_BYTES:
                raise ProgramError("answered with too much", was_refused=False)
            return await process.wait(), output
    except TimeoutError:
        seconds = timeout.total_seconds()
        raise ProgramError(f"gave no answer within {seconds:g} s", was_refused=False) from None
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _talk(process: Process, question: bytes) -> bytes:
    """Write the question and read what it answers, up to a byte more than it may."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("opened without pipes")
    output = b""
    async with anyio.create_task_group() as group:
        group.start_soon(_write, process.stdin, question)
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
