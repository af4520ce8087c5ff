"""Where tokens are kept: digests, never a text.

The only module that imports SQLAlchemy. Its methods block: call them in a thread.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast, final

import sqlalchemy as sql
from pydantic import SecretStr
from sqlalchemy.exc import DatabaseError
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    SettingsError,
    StateCorruptError,
    StateUnwritableError,
    TokenUnknownError,
)
from orchestrator.files import PRIVATE_FILE, make_private_directory
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import LONGEST_LIFE, USABLE, TokenRecord, TokenState

_BUSY_SECONDS: Final = 10


@final
class _Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC, kept as microseconds: comparable on every database."""

    impl = sql.BigInteger
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: sql.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    @override
    def process_result_value(self, value: int | None, dialect: sql.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_METADATA = sql.MetaData()
_TOKENS = sql.Table(
    "tokens",
    _METADATA,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("agent", sql.String(64), nullable=False),
    sql.Column("role", sql.String(32), nullable=False, index=True),
    sql.Column("digest", sql.LargeBinary(32), nullable=False, unique=True),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("created_at", _Moment, nullable=False),
    sql.Column("expires_at", _Moment, nullable=False),
    sql.Column("revoked_at", _Moment),
    sql.Column("revoked_by", sql.String(64)),
    sql.Column("reason", sql.String(500)),
    sql.Column("last_used_at", _Moment),
    # Empty so far; a rotation and a key for the digests will fill them.
    sql.Column("retire_at", _Moment),
    sql.Column("rotation_id", sql.String(36)),
    sql.Column("pepper_kid", sql.String(32)),
    sql.Column("cnf", sql.String(255)),
)


@final
class TokenStore:
    """The tokens of one project, in its database."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open the database, and make it if there is none.

        Args:
            path: The SQLite file; its directory is made private.
            clock: Tells when things happen.

        Raises:
            StateCorruptError: The file is no database of ours.
        """
        self._clock = clock
        self._path = path
        make_private_directory(path.parent)
        # SQLite gives its side files the mode of the main one, so this one decides for all.
        path.touch(mode=PRIVATE_FILE, exist_ok=True)
        path.chmod(PRIVATE_FILE)
        self._engine = sql.create_engine(
            sql.URL.create("sqlite", database=str(path)),
            connect_args={"timeout": _BUSY_SECONDS},
            hide_parameters=True,
        )
        try:
            with self._engine.begin() as connection:
                _ = connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            _METADATA.create_all(self._engine)
        except DatabaseError as error:
            self._engine.dispose()
            raise StateCorruptError(
                f"{path} is not a database of this project",
                hint="Move it away; agents then need new tokens.",
            ) from error

    @contextmanager
    def _begin(self) -> Generator[sql.Connection]:
        """Open a transaction; it is committed at the end of the block.

        Raises:
            StateUnwritableError: The database is locked for too long, full or gone.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise StateUnwritableError(
                f"{self._path} cannot be used now",
                hint="Is the disk full?",
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def issue(
        self, agent: AgentName, role: RoleName, ttl: timedelta
    ) -> tuple[TokenRecord, SecretStr]:
        """Make a token for an agent.

        Args:
            agent: Who will show it.
            role: The only role that it opens.
            ttl: How long it is good for, at most 90 days.

        Returns:
            What is kept, and the text, which is nowhere else.

        Raises:
            SettingsError: It would be good for longer than 90 days, or not at all.
        """
        if not timedelta() < ttl <= LONGEST_LIFE:
            raise SettingsError(
                "A token is good for at most 90 days", hint="Give a shorter --ttl, such as 30d."
            )
        minted, now = mint(), self._clock.now()
        record = TokenRecord(
            id=minted.id,
            agent=agent,
            role=role,
            digest=minted.digest,
            state="active",
            created_at=now,
            expires_at=now + ttl,
        )
        with self._begin() as connection:
            _ = connection.execute(
                _TOKENS.insert().values(
                    id=record.id,
                    agent=agent,
                    role=role,
                    digest=record.digest,
                    state=record.state,
                    created_at=record.created_at,
                    expires_at=record.expires_at,
                )
            )
        return record, minted.text

    def list(self) -> tuple[TokenRecord, ...]:
        """Tell all tokens, the oldest first; one past its time is told as expired."""
        now = self._clock.now()
        with self._begin() as connection:
            rows = connection.execute(_SELECT.order_by(_TOKENS.c.created_at, _TOKENS.c.id))
            return tuple(_read(row, now) for row in rows.mappings())

    def load_usable(self) -> tuple[TokenRecord, ...]:
        """Tell the tokens that open something now."""
        return tuple(record for record in self.list() if record.state in USABLE)

    def revoke(self, token_id: TokenId, *, by: str = "", reason: str = "") -> TokenRecord:
        """End a token for good; a second time changes nothing.

        Raises:
            TokenUnknownError: There is none with this id.
        """
        now = self._clock.now()
        with self._begin() as connection:
            _ = connection.execute(
                _TOKENS.update()
                .where(_TOKENS.c.id == token_id, _TOKENS.c.state != "revoked")
                .values(state="revoked", revoked_at=now, revoked_by=by, reason=reason)
            )
            row = connection.execute(_SELECT.where(_TOKENS.c.id == token_id)).mappings().first()
        if row is None:
            raise TokenUnknownError(
                f"There is no token with the id {token_id}", hint="See `agents token list`."
            )
        return _read(row, now)

    def note_use(self, used: Mapping[TokenId, datetime]) -> None:
        """Keep when tokens were last used."""
        if not used:
            return
        with self._begin() as connection:
            for token_id, moment in used.items():
                _ = connection.execute(
                    _TOKENS.update().where(_TOKENS.c.id == token_id).values(last_used_at=moment)
                )


_SELECT = sql.select(
    _TOKENS.c.id,
    _TOKENS.c.agent,
    _TOKENS.c.role,
    _TOKENS.c.digest,
    _TOKENS.c.state,
    _TOKENS.c.created_at,
    _TOKENS.c.expires_at,
    _TOKENS.c.revoked_at,
    _TOKENS.c.last_used_at,
)


def _read(row: sql.RowMapping, now: datetime) -> TokenRecord:
    values = cast("Mapping[str, object]", row)
    expires_at = cast("datetime", values["expires_at"])
    state = cast("TokenState", values["state"])
    return TokenRecord(
        id=TokenId(cast("str", values["id"])),
        agent=AgentName(cast("str", values["agent"])),
        role=RoleName(cast("str", values["role"])),
        digest=cast("bytes", values["digest"]),
        state="expired" if state in USABLE and now >= expires_at else state,
        created_at=cast("datetime", values["created_at"]),
        expires_at=expires_at,
        revoked_at=cast("datetime | None", values["revoked_at"]),
        last_used_at=cast("datetime | None", values["last_used_at"]),
    )
