"""The one SQLite file, shared by several processes.

Every write is one `BEGIN IMMEDIATE` transaction: it has the whole file to itself from its first
read on, and is either committed and synced or, after a crash at any point, has not happened.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, TypeVar, cast

from walletserver.codes import Code
from walletserver.errors import UpstreamError
from walletserver.ledger.schema import SCHEMA_VERSION, STATEMENTS
from walletserver.logs import log_event, where
from walletserver.private_files import open_private

SqlValue: TypeAlias = str | int | float | bytes | None
Row: TypeAlias = tuple[SqlValue, ...]

_KindT = TypeVar("_KindT", str, int, float, bytes)

_BUSY_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.01


class Store:
    """A connection that is opened at the first use, and serves one caller at a time."""

    def __init__(self, path: Path) -> None:
        """Remember the file; nothing is opened yet.

        Args:
            path: The ledger file; it and its directory are created private when missing.
        """
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._is_writing = False

    @contextmanager
    def write(self) -> Generator[None]:
        """Hold one atomic transaction; a nested `write` joins the outer one.

        An exception undoes everything done inside the outermost block.

        Raises:
            UpstreamError: The ledger cannot be opened, locked or written.
        """
        with self._lock:
            if self._is_writing:
                yield
                return
            self._execute("BEGIN IMMEDIATE")
            self._is_writing = True
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._open().in_transaction:
                    self._execute("ROLLBACK")
                raise
            finally:
                self._is_writing = False

    def rows(self, sql: str, *values: SqlValue) -> list[Row]:
        """Run one statement and return all its rows, possibly none.

        Raises:
            UpstreamError: The ledger failed.
        """
        with self._lock:
            return self._execute(sql, values)

    def row(self, sql: str, *values: SqlValue) -> Row | None:
        """Run one statement and return its first row, if it has one.

        Raises:
            UpstreamError: The ledger failed.
        """
        found = self.rows(sql, *values)
        return found[0] if found else None

    def close(self) -> None:
        """Close the connection; a later call would open it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _execute(self, sql: str, values: Sequence[SqlValue] = ()) -> list[Row]:
        try:
            # The driver types its rows as Any; SQLite has no values but these.
            return cast("list[Row]", self._open().execute(sql, values).fetchall())
        except (sqlite3.Error, OSError) as error:
            _fail(error)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Made by us first, so that SQLite does not make it readable for others. Closed
            # before SQLite opens it, as closing any descriptor drops the process's locks.
            os.close(open_private(self._path, os.O_RDWR))
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def text(value: SqlValue) -> str:
    """Return a column that is text by its schema."""
    return _expect(value, str)


def number(value: SqlValue) -> int:
    """Return a column that is an integer by its schema."""
    return _expect(value, int)


def real(value: SqlValue) -> float:
    """Return a column that is a real number by its schema."""
    return _expect(value, float)


def blob(value: SqlValue) -> bytes:
    """Return a column that is bytes by its schema."""
    return _expect(value, bytes)


def _expect(value: SqlValue, kind: type[_KindT]) -> _KindT:
    if not isinstance(value, kind):
        raise UpstreamError(Code.LEDGER_CORRUPT, "The ledger holds a value of the wrong kind.")
    return value


def _prepare(connection: sqlite3.Connection) -> None:
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = cast("tuple[int]", connection.execute("PRAGMA user_version").fetchone())
    if version == 0:
        for statement in STATEMENTS:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError


def _enter_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not call its busy handler for this one change, so several instances that make
    # the file at the same moment have to take turns here.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _fail(error: Exception) -> NoReturn:
    log_event("ledger_failed", error=where(error))
    raise UpstreamError(
        Code.LEDGER_UNAVAILABLE, "The ledger cannot be used at the moment.", retry_after_ms=1000
    ) from error
