"""`agents logs`: the end of a log, and what follows."""

import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

import pytest

from orchestrator.cli.logs import LONGEST_BYTES, logs
from orchestrator.errors import NotRunningError, SettingsError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def log(project: Path) -> Path:
    """Return a role's log of 100 lines."""
    path = project / ".agents/logs/treasury.log"
    path.parent.mkdir(parents=True)
    _ = path.write_text("".join(f"line {number}\n" for number in range(100)))
    return path


def show(project: Path, role: str | None, lines: int = 50, *, daemon: bool = False) -> None:
    """Print a log."""
    logs(project, role, follow=False, lines=lines, daemon=daemon)


@pytest.mark.parametrize("lines", [0, 3, 500])
def test_the_end_of_a_log(project: Path, log: Path, capsys: Captured, lines: int) -> None:
    """As many lines as were asked for, the newest last."""
    show(project, "treasury", lines)
    every = log.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == (every[-lines:] if lines else [])


def test_bytes_that_are_no_text(project: Path, log: Path, capsys: Captured) -> None:
    """A server may write anything; every line is shown."""
    _ = log.write_bytes(b"caf\xe9\nlast, without an end")
    show(project, "treasury")
    assert capsys.readouterr().out == "caf\ufffd\nlast, without an end\n"


def test_a_line_without_an_end(
    project: Path, log: Path, follow: Callable[[], IO[str]], capsys: Captured
) -> None:
    """A line of any length is shown in pieces, and of a log of any size only the end is read."""
    _ = log.write_bytes(b"begin " + b"x" * 3 * LONGEST_BYTES + b"\nlast\n")
    show(project, "treasury")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert (first[:6], len(first), last) == ("begin ", LONGEST_BYTES, "last")

    with log.open("r+b") as file:
        _ = file.seek(2**40)  # full of holes
        _ = file.write(b"\nthe end\n")
    show(project, "treasury", 1)
    assert capsys.readouterr().out == "the end\n"
    output = follow()
    assert output.readline() == "the end\n"
    with log.open("ab") as file:
        _ = file.write(b"y" * 2 * LONGEST_BYTES)
    assert output.readline() == "y" * LONGEST_BYTES + "\n"


def test_a_terminal_is_not_commanded(
    project: Path, log: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server cannot move the cursor, change the title or forge lines of a terminal."""
    _ = log.write_bytes(b"\x1b]0;title\x07a\tb\x1b[2J\rforged\xc2\x9b31m\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(project, "treasury")
    assert capsys.readouterr().out == "?]0;title?a\tb?[2J?forged?31m\n"


@pytest.mark.usefixtures("log")
def test_a_log_that_is_not_there(project: Path) -> None:
    """Which logs there are is told."""
    with pytest.raises(NotRunningError, match="no log of executor") as caught:
        show(project, "executor")
    assert caught.value.hint == "There are logs of: treasury."
    with pytest.raises(NotRunningError, match="no log yet"):
        show(project, None, daemon=True)


@pytest.mark.parametrize(("role", "daemon"), [(None, False), ("treasury", True)])
def test_one_log_at_a_time(project: Path, role: str | None, daemon: bool) -> None:
    """Either a role or the daemon has to be named."""
    with pytest.raises(SettingsError):
        show(project, role, daemon=daemon)


@pytest.fixture
def follow(project: Path) -> Generator[Callable[[], IO[str]]]:
    """Return the function that follows the log as a process, and gives its output."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> IO[str]:
        words = ("logs", "treasury", "-f", "-n", "1", "-C", str(project))
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "orchestrator.cli.main", *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process.stdout

    yield start
    for process in processes:
        process.kill()
        _ = process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def test_following_over_rotations(log: Path, follow: Callable[[], IO[str]]) -> None:
    """New lines come whole, in order, each once, however often the log is rotated."""
    output = follow()
    assert output.readline() == "line 99\n"
    for number in range(3):
        with log.open("a") as file:
            _ = file.write(f"old {number}\nhalf")
            file.flush()
            assert output.readline() == f"old {number}\n"
            _ = file.write(" a line\n")
        _ = log.rename(log.with_suffix(f".log.{number}"))
        _ = log.write_text(f"new {number}\n")
        assert output.readline() == "half a line\n"
        assert output.readline() == f"new {number}\n"


def test_a_log_as_json_is_an_object_a_line(project: Path, log: Path, capsys: Captured) -> None:
    """A line that is an object already stays as it is, any other becomes one."""
    _ = log.write_text('{"event":"started"}\nTraceback\n7\n')
    logs(project, "treasury", follow=False, lines=9, daemon=False, as_json=True)

    assert capsys.readouterr().out.splitlines() == [
        '{"event":"started"}',
        '{"line": "Traceback"}',
        '{"line": "7"}',
    ]
