"""supervisord on a full disk."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from supervisor import loggers
from orchestrator.runtimes import supervisord_plugin
loggers.Handler.handleError = supervisord_plugin._lose_line
handler = loggers.StreamHandler(open("/dev/full", "w"))
handler.setLevel(loggers.LevelsByName.INFO)
handler.setFormat("%(message)s")
loggers.Logger(loggers.LevelsByName.INFO, [handler]).info("a line")
import os
os._exit(7)
"""


def test_a_line_that_cannot_be_logged_is_lost() -> None:
    """It is no reason to end, also where standard error is on the same disk."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=full, check=False)
    assert done.returncode == 7
