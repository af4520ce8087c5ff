"""The project's database: how it is opened, and what every transaction keeps to.

SQLAlchemy is imported here, in the token store and in the store of rotations. Everything here
blocks: call it in a thread.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast, final

import sqlalchemy as sql
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from orchestrator.errors import LockHeldError, StateCorruptError, StateUnwritableError
from orchestrator.files import PRIVATE_FILE, make_private_directory

# Grows with every change that an older version would misread.
SCHEMA: Final = 3
_BUSY_SECONDS: Final = 10
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@final
class Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC, kept as microseconds: comparable on every database."""

    impl = sql.BigInteger
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: sql.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    @override
    def process_result_value(self, value: int | None, dialect: sql.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


_METADATA = sql.MetaData()
# One row: the number of whoever may write.
_FENCE = sql.Table(
    "fence",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("number", sql.Integer, nullable=False),
)


@final
class Database:
    """One SQLite file. What was committed survives a loss of power."""

    def __init__(self, path: Path) -> None:
        """Open the database, and make it if there is none.

        Args:
            path: The file; its directory is made private.

        Raises:
            StateCorruptError: The file is no database of ours, or one of a newer version.
            StateUnwritableError: It is locked for too long, or the disk is full.
        """
        self._path = path
        self._fence: int | None = None
        make_private_directory(path.parent)
        # SQLite gives its side files the mode of the main one, so this one decides for all.
        path.touch(mode=PRIVATE_FILE, exist_ok=True)
        path.chmod(PRIVATE_FILE)
        self._engine = sql.create_engine(
            sql.URL.create("sqlite", database=str(path)),
            connect_args={"timeout": _BUSY_SECONDS},
            # Transactions are begun here, in words: a driver's own would begin too late.
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )
        try:
            self._open()
        except OperationalError as error:
            self._engine.dispose()
            raise StateUnwritableError(
                f"{path} cannot be used now", hint="Is the disk full?"
            ) from error
        except DatabaseError as error:
            self._engine.dispose()
            raise StateCorruptError(
                f"{path} is not a database of this project",
                hint="Move it away; agents then need new tokens.",
            ) from error
        except StateCorruptError:
            self._engine.dispose()
            raise

    def _open(self) -> None:
        with self._engine.connect() as connection:
            found = cast("int", connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            if found > SCHEMA:
                raise StateCorruptError(
                    f"{self._path} was written by a newer version (schema {found}, not {SCHEMA})",
                    hint="Use the newer version; nothing was changed.",
                )
            connection.exec_driver_sql("PRAGMA journal_mode=WAL").close()
        self.prepare(_METADATA)

    def prepare(self, metadata: sql.MetaData) -> None:
        """Make the tables and columns that an older version did not have.

        Raises:
            StateUnwritableError: They cannot be made.
        """
        with self.write() as connection:
            metadata.create_all(connection)
            for table in metadata.sorted_tables:
                known = {
                    cast("str", row[1])
                    for row in connection.exec_driver_sql(f"PRAGMA table_info({table.name})")
                }
                for column in table.columns:
                    if column.name not in known:
                        kind = column.type.compile(self._engine.dialect)
                        _ = connection.exec_driver_sql(
                            f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"
                        )
            _ = connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")

    def take_fence(self) -> None:
        """Be the one who may write: whoever was it before is refused from now on.

        Raises:
            StateUnwritableError: The database cannot be written.
        """
        self._fence = None
        with self.write() as connection:
            number = self._number(connection) + 1
            _ = connection.execute(_FENCE.delete())
            _ = connection.execute(_FENCE.insert().values(id=1, number=number))
        self._fence = number

    @contextmanager
    def read(self) -> Generator[sql.Connection]:
        """Open a transaction that changes nothing; it sees one moment of the database.

        Raises:
            StateUnwritableError: The database is locked for too long, full or gone.
        """
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Generator[sql.Connection]:
        """Open a transaction; it is on disk at the end of the block.

        Raises:
            StateUnwritableError: The database is locked for too long, full or gone.
            LockHeldError: Somebody else took the fence.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            if self._fence is not None and self._number(connection) != self._fence:
                raise LockHeldError(
                    f"{self._path} is written by another process now",
                    hint="Two daemons of one project? Stop one.",
                )
            yield connection

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, begin: str) -> Generator[sql.Connection]:
        try:
            with self._engine.connect() as connection:
                # Asked for here and not at connecting: that cannot be told which it is about.
                _ = connection.exec_driver_sql("PRAGMA synchronous=FULL")
                _ = connection.exec_driver_sql(begin)
                try:
                    yield connection
                    _ = connection.exec_driver_sql("COMMIT")
                except BaseException:
                    # A connection that was given up in the middle is rolled back by its end.
                    with suppress(SQLAlchemyError):
                        _ = connection.exec_driver_sql("ROLLBACK")
                    raise
        except DatabaseError as error:
            raise StateUnwritableError(
                f"{self._path} cannot be used now",
                hint="Is the disk full?",
            ) from error

    @staticmethod
    def _number(connection: sql.Connection) -> int:
        return connection.execute(sql.select(_FENCE.c.number)).scalar_one_or_none() or 0
