"""Keys of `agents top`."""

from __future__ import annotations

import os
import pty
import threading
import tty
from pathlib import Path

from orchestrator.cli.top import Top
from orchestrator.paths import Paths


def test_what_was_typed_ahead_confirms_nothing(tmp_path: Path) -> None:
    """A `y` from before the question is no answer to it."""
    ours, theirs = pty.openpty()
    _ = tty.setcbreak(theirs)
    _ = os.write(ours, b"y")
    # It waits for a key of afterwards.
    screen = Top(Paths(tmp_path, tmp_path, tmp_path), theirs, "")
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(screen._confirm("approve?", None)))
    asking.start()
    # Long enough for a `y` that counts; one that does not leaves it waiting.
    asking.join(1.0)
    for _ in range(3000):
        if not asking.is_alive():
            break
        _ = os.write(ours, b"n")
        asking.join(0.02)
    os.close(ours)
    os.close(theirs)
    assert answers == [False]
