"""Asks for a secret on the terminal, without showing it."""

import os
import select
import sys
import termios
from typing import Final, cast

from orchestrator.errors import SettingsError

# A terminal cuts longer lines without a word.
# Source: Linux, n_tty.c, N_TTY_BUF_SIZE.
_LONGEST_LINE_BYTES: Final = 4095
# What is pasted comes at once.
_MORE_SECONDS: Final = 0.1
_PIPED: Final = "Keep it in a file that nobody else may read, and give it by `< FILE`."


def ask_hidden(prompt: str) -> str:
    """Read one line from the terminal on standard input; nothing of it is shown.

    `getpass` would take the first of several pasted lines for all of it.

    Args:
        prompt: Is shown on standard error.

    Returns:
        The line with its end, or less if the terminal went away.

    Raises:
        SettingsError: It is not one whole line of text; nothing of the rest reaches the shell.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    local, rest = cast("int", before[3]), before[4:]
    hidden = [*before[:3], local & ~termios.ECHO, *rest]
    # Half a line is not told of otherwise.
    by_byte = [*before[:3], local & ~(termios.ECHO | termios.ICANON), *rest]
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
        _ = sys.stderr.write(prompt)
        sys.stderr.flush()
        line = os.read(terminal, _LONGEST_LINE_BYTES + 1)
        termios.tcsetattr(terminal, termios.TCSANOW, by_byte)
        is_more = bool(select.select([terminal], [], [], _MORE_SECONDS)[0])
    finally:
        # It also throws away what nobody read.
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        _ = sys.stderr.write("\n")
    if is_more:
        raise SettingsError("a prompt takes one line, and there were more", hint=_PIPED)
    if len(line) >= _LONGEST_LINE_BYTES:
        raise SettingsError("the line is longer than a terminal passes on", hint=_PIPED)
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise SettingsError("a credential is UTF-8 text") from None
