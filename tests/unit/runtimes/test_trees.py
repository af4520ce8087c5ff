"""Directories that others filled are removed, whatever they put there."""

import os
import tempfile
from pathlib import Path

from orchestrator.runtimes.users import remove_tree


def test_a_tree_is_removed_however_deep_it_is() -> None:
    """A server cannot keep its directory by making others in it, each in the one before."""
    top = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    remove_tree(top)

    assert not top.exists()
