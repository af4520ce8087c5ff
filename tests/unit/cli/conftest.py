"""A project with the stock files, in a directory whose path leaves room for sockets."""

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator.config.stock import stock_files


@pytest.fixture
def root() -> Generator[Path]:
    """Make an empty directory."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def project(root: Path) -> Path:
    """Unpack the stock project."""
    for name, content in stock_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_bytes(content)
    return root
