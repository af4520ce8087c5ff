"""Secrets that are typed or pasted into a terminal: a real one."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import IO, Final, cast

import pytest

PROGRAM: Final = """
import json, sys
from orchestrator.cli.hidden import ask_hidden
from orchestrator.errors import SettingsError
try:
    told = ask_hidden("Value: ")
except SettingsError as error:
    told = {"error": str(error)}
print(json.dumps(told), flush=True)
print(json.dumps(sys.stdin.readline()), flush=True)
"""
Answer = tuple[object, object, bytes]


def read(pipe: IO[bytes]) -> object:
    """Read one line of JSON."""
    return cast("object", json.loads(pipe.readline()))


def shown(terminal: int, until: bytes) -> bytes:
    """Read what a terminal shows, until a text was there."""
    seen = b""
    while until not in seen:
        assert select.select([terminal], [], [], 20)[0]
        seen += os.read(terminal, 4096)
    return seen


@pytest.fixture
def ask() -> Generator[Callable[[bytes], Answer]]:
    """Give a way to paste something at the prompt; a line `next` is typed afterwards.

    It tells what the function gave or refused, what the next reader got, and what was shown.
    """
    terminal, other = os.openpty()

    def paste(content: bytes) -> Answer:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=other, stderr=other, stdout=subprocess.PIPE
        ) as program:
            assert program.stdout is not None
            seen = shown(terminal, b"Value: ")
            _ = os.write(terminal, content)
            told = read(program.stdout)
            _ = os.write(terminal, b"next\n")
            rest = read(program.stdout)
            return told, rest, seen + shown(terminal, b"next")

    yield paste
    os.close(terminal)
    os.close(other)


def test_a_line_is_read_and_not_shown(ask: Callable[[bytes], Answer]) -> None:
    """One line is given as it is; the terminal shows nothing of it."""
    told, rest, seen = ask("ein-schlüssel\n".encode())
    assert told == "ein-schlüssel\n"
    assert rest == "next\n"
    assert b"ein-" not in seen


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----\n", "one line"),
        (b"first-half\nsecond-half", "one line"),
        (b"x" * 5000 + b"\n", "longer than a terminal passes on"),
        (b"bad-\xff\xfe-text\n", "UTF-8"),
    ],
)
def test_what_is_no_line_is_refused(
    ask: Callable[[bytes], Answer], content: bytes, problem: str
) -> None:
    """Half a credential is never taken for all of it, and no rest reaches the shell."""
    told, rest, seen = ask(content)
    assert problem in cast("dict[str, str]", told)["error"]
    assert rest == "next\n"
    assert content[:8] not in seen
