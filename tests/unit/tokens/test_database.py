"""The project's database."""

import sqlite3
from pathlib import Path

import pytest

from orchestrator import database
from orchestrator.errors import StateUnwritableError


def test_in_use_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told to move a database away that is only locked, or has no room."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0)
    path = tmp_path / "state" / "agents.db"
    database.Database(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    _ = other.execute("PRAGMA journal_mode=DELETE")
    _ = other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateUnwritableError):
        _ = database.Database(path)
    other.close()
    database.Database(path).close()
