"""Runs a program that tells a secret: bounded in time and answer, and wholly gone afterwards.

Secrets go in by stdin only, or by a variable where the program knows no other way; never by an
argument.
"""

import os
import re
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Final, NoReturn

from pydantic import SecretStr

from orchestrator.errors import SecretStoreUnavailableError
from orchestrator.files import who_may_replace
from orchestrator.secrets.redact import redact

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT_BYTES: Final = 64 * 1024
_WORDS_BYTES: Final = 4096
_SHOWN: Final = 300
_CHUNK: Final = 65_536
# What may be a secret, in an answer that came to nothing.
_SHORTEST: Final = 8
_WORDS: Final = re.compile(r"(?<![A-Za-z0-9+/_.~-])(?=([A-Za-z0-9+/=_.~-]{8,4096}))")
_MOST_WORDS: Final = 100


@dataclass(frozen=True, slots=True)
class Task:
    """What is run.

    Attributes:
        name: What errors call it.
        argv: The program, absolute, and its arguments.
        timeout: How long it may take, in seconds.
        env: Plain variables, beside a short baseline; nothing else of ours reaches it.
        secrets: Variables whose values are secrets, for a program that knows no other way.
        stdin: What it reads; nothing if None.
        directory: Where it runs.
        quotes: Whether errors quote what it wrote to stderr last.
    """

    name: str
    argv: Sequence[str]
    timeout: float
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    stdin: SecretStr | None = None
    directory: Path = Path("/")
    quotes: bool = True


@dataclass(slots=True)
class _Heard:
    output: bytearray = field(default_factory=bytearray)
    words: bytearray = field(default_factory=bytearray)


def run(task: Task) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Its process group is killed as soon as the program itself ended, or when its time is up.

    Raises:
        SecretStoreUnavailableError: It cannot be started or trusted, took too long, wrote too
            much or no text, or ended with another status than 0; then with its last words.
    """
    check_program(task.name, Path(task.argv[0]))
    heard = _Heard()
    with _started(task) as process:
        ended = _talk(task, process, heard)
    text = _decoded(bytes(heard.output))
    if not ended:
        _fail(task, heard, f"did not end within {task.timeout:g} s")
    if len(heard.output) > LIMIT_BYTES:
        _fail(task, heard, f"wrote more than {LIMIT_BYTES // 1024} KiB")
    if process.returncode < 0:
        _fail(task, heard, f"was ended by signal {-process.returncode}")
    if process.returncode:
        _fail(task, heard, f"ended with status {process.returncode}")
    if text is None:
        raise SecretStoreUnavailableError(f"{task.name} wrote no UTF-8 text")
    return text


def check_program(name: str, path: Path, *, is_run: bool = True) -> None:
    """Refuse a program that somebody else could replace: it would tell the secret, or get one.

    Args:
        name: What errors call it.
        path: The program, absolute.
        is_run: Whether it is run itself; a script is read by another program.

    Raises:
        SecretStoreUnavailableError: It cannot be run, or must not be trusted.
    """
    try:
        facts = path.stat()
        replacer = who_may_replace(path)
    except OSError as error:
        raise SecretStoreUnavailableError(
            f"{name}: {path} cannot be run: {(error.strerror or 'no such file').lower()}"
        ) from error
    wanted, what = (os.X_OK, "program") if is_run else (os.R_OK, "script")
    if not stat.S_ISREG(facts.st_mode) or not os.access(path, wanted):
        raise SecretStoreUnavailableError(
            f"{name}: {path} cannot be run: not a {what}",
            hint=f"chmod u+{'x' if is_run else 'r'} {path}",
        )
    if replacer is not None:
        writer, place = replacer
        raise SecretStoreUnavailableError(
            f"{name}: {path} could be replaced: {writer} may write {place}",
            hint=f"chmod go-w {place}",
        )


@contextmanager
def _started(task: Task) -> Generator[subprocess.Popen[bytes]]:
    """Start a program in a group of its own, and kill the group at the end, whatever happens."""
    try:
        process = subprocess.Popen(  # noqa: S603  an argument list from a checked file, no shell
            list(task.argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(task),
            cwd=task.directory,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        # ValueError: a NUL character. No cause is kept: an argument list may be in it.
        reason = (error.strerror or "") if isinstance(error, OSError) else "a NUL character"
        raise SecretStoreUnavailableError(
            f"{task.name} cannot be started: {reason.lower()}"
        ) from None
    try:
        yield process
    finally:
        # Before it is reaped: until then nobody else can have the group's number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _ = process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(pipe)


def _environment(task: Task) -> dict[str, str]:
    home = os.environ.get("HOME", "/")
    plain = {"PATH": SYSTEM_PATH, "HOME": home, "LANG": "C.UTF-8", "TZ": "UTC", **task.env}
    return plain | {name: value.get_secret_value() for name, value in task.secrets.items()}


def _close(pipe: IO[bytes] | None) -> None:
    with suppress(OSError):
        if pipe is not None:
            pipe.close()


def _talk(task: Task, process: subprocess.Popen[bytes], heard: _Heard) -> bool:
    """Write stdin and read the rest until the program itself ends; False if time is up."""
    stdin, stdout, stderr = _pipes(process)
    rest = memoryview(task.stdin.get_secret_value().encode() if task.stdin is not None else b"")
    end = time.monotonic() + task.timeout
    exit_of = os.pidfd_open(process.pid)
    inputs = {stdout: heard.output, stderr: heard.words}
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(exit_of, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            for pipe in inputs:
                selector.register(pipe, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                ready = [key.fileobj for key, _ in selector.select(left)]
                for pipe in inputs.keys() & ready:
                    if _read(pipe, inputs[pipe]) == b"":
                        selector.unregister(pipe)
                if stdin in ready and not (rest := _write(stdin, rest)):
                    selector.unregister(stdin)
                    _close(stdin)
                if exit_of in ready:
                    _read_the_rest(inputs)
                if exit_of in ready or len(heard.output) > LIMIT_BYTES:
                    return True
                del heard.words[:-_WORDS_BYTES]
        return False
    finally:
        os.close(exit_of)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("started with three pipes")
    for pipe in (process.stdin, process.stdout, process.stderr):
        os.set_blocking(pipe.fileno(), False)
    return process.stdin, process.stdout, process.stderr


def _write(pipe: IO[bytes], rest: memoryview) -> memoryview:
    try:
        return rest[os.write(pipe.fileno(), rest[:_CHUNK]) :]
    except BlockingIOError:
        return rest
    except OSError:
        return memoryview(b"")  # it does not want to know


def _read(pipe: IO[bytes], kept: bytearray) -> bytes | None:
    """Read what is there; nothing at the end, None if there is nothing now."""
    try:
        chunk = os.read(pipe.fileno(), _CHUNK)
    except BlockingIOError:
        return None
    kept += chunk
    return chunk


def _read_the_rest(inputs: Mapping[IO[bytes], bytearray]) -> None:
    """Read what the program left; what it left running may hold the pipes open for ever."""
    for pipe, kept in inputs.items():
        while not pipe.closed and len(kept) <= LIMIT_BYTES and _read(pipe, kept):
            pass


def _decoded(content: bytes) -> str | None:
    # The error object would carry the whole content along.
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _fail(task: Task, heard: _Heard, what: str) -> NoReturn:
    """Raise with the program's last words, in which it may have told the secret itself."""
    output = heard.output.decode(errors="replace").strip()
    told = [match[1] for match in islice(_WORDS.finditer(output), _MOST_WORDS)]
    values = [*map(SecretStr, [output, *told]), *task.secrets.values()]
    values += [task.stdin] if task.stdin is not None else []
    lines = heard.words[-_WORDS_BYTES:].decode(errors="replace").splitlines()
    if len(heard.words) >= _WORDS_BYTES:
        # Its beginning is gone, and half a secret is not known as one.
        _ = lines.pop(0)
    words = next((line for line in reversed(lines) if line.strip()), "")
    words = redact(words, [each for each in values if len(each) >= _SHORTEST])
    shown = "".join(letter if letter.isprintable() else " " for letter in words)[:_SHOWN]
    quote = f": {shown}" if shown and task.quotes else ""
    raise SecretStoreUnavailableError(f"{task.name} {what}{quote}")
