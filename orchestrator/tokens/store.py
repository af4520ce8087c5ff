"""Where tokens are kept: digests, never a text. Its methods block: call them in a thread."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypedDict, cast, final

import sqlalchemy as sql
from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.database import Database, Moment
from orchestrator.errors import RotationError, SettingsError
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.denial import KEPT, Denial
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import LONGEST_LIFE, USABLE, TokenRecord, TokenState

_METADATA = sql.MetaData()
_TOKENS = sql.Table(
    "tokens",
    _METADATA,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("agent", sql.String(64), nullable=False),
    sql.Column("role", sql.String(32), nullable=False, index=True),
    sql.Column("digest", sql.LargeBinary(32), nullable=False, unique=True),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("created_at", Moment, nullable=False),
    sql.Column("expires_at", Moment, nullable=False),
    sql.Column("revoked_at", Moment),
    sql.Column("revoked_by", sql.String(64)),
    sql.Column("reason", sql.String(500)),
    sql.Column("last_used_at", Moment),
    sql.Column("retire_at", Moment),
    sql.Column("rotation_id", sql.String(36)),
    # Empty so far; a key for the digests and a sender constraint will fill them.
    sql.Column("pepper_kid", sql.String(32)),
    sql.Column("cnf", sql.String(255)),
)
_DENIALS = sql.Table(
    "denials",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("kind", sql.String(8), nullable=False),
    sql.Column("issuer", sql.String(2048), nullable=False),
    sql.Column("name", sql.String(255), nullable=False),
    sql.Column("until", Moment, nullable=False),
    sql.Column("created_at", Moment, nullable=False),
)
# One that is being delivered, and the one that it replaces.
_MOST_USABLE = 2


@dataclass(frozen=True, slots=True)
class Word:
    """Why a token is revoked.

    Attributes:
        at: When that was asked for.
        by: Who asked.
        reason: Why, in words.
    """

    at: datetime
    by: str
    reason: str


class _Kept(TypedDict):
    kind: Literal["token", "subject", "role"]
    issuer: str
    name: str
    until: datetime
    created_at: datetime


@final
class TokenStore:
    """The tokens of one project.

    Attributes:
        database: Where they are; rotations are kept beside them.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open the database, and make it if there is none.

        Args:
            path: The SQLite file; its directory is made private.
            clock: Tells when things happen.

        Raises:
            StateCorruptError: The file is no database of ours.
        """
        self._clock = clock
        self.database: Database = Database(path)
        self.database.prepare(_METADATA)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def issue(
        self, agent: AgentName, role: RoleName, ttl: timedelta, *, rotation: str = ""
    ) -> tuple[TokenRecord, SecretStr]:
        """Make a token for an agent.

        Args:
            agent: Who will show it.
            role: The only role that it opens.
            ttl: How long it is good for, at most 90 days.
            rotation: The rotation that it is a part of: it is pending until that promotes it.

        Returns:
            What is kept, and the text, which is nowhere else.

        Raises:
            SettingsError: It would be good for longer than 90 days, or not at all.
            RotationError: It is for a rotation, and the agent has two usable ones already.
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
            state="pending" if rotation else "active",
            created_at=now,
            expires_at=now + ttl,
            rotation_id=rotation,
        )
        with self.database.write() as connection:
            if rotation and self._count_usable(connection, record, now) >= _MOST_USABLE:
                raise RotationError(
                    f"agent {agent} has two usable tokens for role {role} already",
                    hint="See `agents token list`; revoke one of them.",
                )
            _ = connection.execute(
                _TOKENS.insert().values(
                    id=record.id,
                    agent=agent,
                    role=role,
                    digest=record.digest,
                    state=record.state,
                    created_at=record.created_at,
                    expires_at=record.expires_at,
                    rotation_id=rotation or None,
                )
            )
        return record, minted.text

    def overlap(self, new: TokenId, old: TokenId, retire_at: datetime) -> tuple[TokenRecord, ...]:
        """Let the new token of a rotation count, and the old one go on for a while.

        Args:
            new: Becomes active, if it is pending.
            old: Becomes retiring, if it is active; empty if there is none.
            retire_at: When the old one ends at the latest; never later than it would by itself.

        Returns:
            Both as they are now.
        """
        with self.database.write() as connection:
            _ = connection.execute(_change(new, "pending", "active"))
            _ = connection.execute(
                _change(old, "active", "retiring").values(
                    retire_at=sql.func.min(sql.literal(retire_at, Moment), _TOKENS.c.expires_at)
                )
            )
            return self._find(connection, _TOKENS.c.id.in_((new, old)))

    def undo_overlap(self, new: TokenId, old: TokenId) -> tuple[TokenRecord, ...]:
        """Let the old token count again, and the new one be pending. Returns as `overlap`."""
        with self.database.write() as connection:
            _ = connection.execute(_change(new, "active", "pending"))
            _ = connection.execute(_change(old, "retiring", "active").values(retire_at=None))
            return self._find(connection, _TOKENS.c.id.in_((new, old)))

    def get(self, token_id: TokenId) -> TokenRecord | None:
        """Tell one token, None if there is none with this id."""
        with self.database.read() as connection:
            return next(iter(self._find(connection, _TOKENS.c.id == token_id)), None)

    def of_rotation(self, rotation: str) -> tuple[TokenRecord, ...]:
        """Tell the tokens that were made by a rotation, the oldest first."""
        with self.database.read() as connection:
            return self._find(connection, _TOKENS.c.rotation_id == rotation)

    def list(self) -> tuple[TokenRecord, ...]:
        """Tell all tokens, the oldest first; one past its time is told as expired."""
        with self.database.read() as connection:
            return self._find(connection, sql.true())

    def load_usable(self) -> tuple[TokenRecord, ...]:
        """Tell the tokens that open something now."""
        return tuple(record for record in self.list() if record.state in USABLE)

    def revoke(self, words: Mapping[TokenId, Word]) -> None:
        """End tokens for good, all of them or none; a second time changes nothing."""
        with self.database.write() as connection:
            for token_id, word in words.items():
                _ = connection.execute(
                    _TOKENS.update()
                    .where(_TOKENS.c.id == token_id, _TOKENS.c.state != "revoked")
                    .values(
                        state="revoked",
                        revoked_at=word.at,
                        revoked_by=word.by,
                        reason=word.reason,
                    )
                )

    def _find(
        self, connection: sql.Connection, where: sql.ColumnElement[bool]
    ) -> tuple[TokenRecord, ...]:
        now = self._clock.now()
        rows = connection.execute(_SELECT.where(where).order_by(_TOKENS.c.created_at, _TOKENS.c.id))
        return tuple(_read(row, now) for row in rows.mappings())

    def _count_usable(self, connection: sql.Connection, record: TokenRecord, now: datetime) -> int:
        return connection.execute(
            sql.select(sql.func.count())
            .select_from(_TOKENS)
            .where(
                _TOKENS.c.agent == record.agent,
                _TOKENS.c.role == record.role,
                _TOKENS.c.state.in_(USABLE),
                sql.func.coalesce(_TOKENS.c.retire_at, _TOKENS.c.expires_at) > now,
            )
        ).scalar_one()

    def deny(self, denials: Iterable[Denial]) -> None:
        """Keep that access tokens are refused, for as long as it matters."""
        with self.database.write() as connection:
            for denial in denials:
                _ = connection.execute(
                    _DENIALS.delete().where(_DENIALS.c.created_at < denial.created_at - KEPT)
                )
                _ = connection.execute(_DENIALS.insert().values(**asdict(denial)))

    def load_denials(self) -> tuple[Denial, ...]:
        """Tell which access tokens are refused."""
        with self.database.read() as connection:
            rows = connection.execute(_SELECT_DENIALS)
            return tuple(Denial(**cast("_Kept", dict(row))) for row in rows.mappings())

    def note_use(self, used: Mapping[TokenId, datetime]) -> None:
        """Keep when tokens were last used."""
        if not used:
            return
        with self.database.write() as connection:
            for token_id, moment in used.items():
                _ = connection.execute(
                    _TOKENS.update().where(_TOKENS.c.id == token_id).values(last_used_at=moment)
                )


_SELECT_DENIALS = sql.select(
    _DENIALS.c.kind,
    _DENIALS.c.issuer,
    _DENIALS.c.name,
    _DENIALS.c.until,
    _DENIALS.c.created_at,
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
    _TOKENS.c.retire_at,
    _TOKENS.c.rotation_id,
)


def _change(token_id: TokenId, before: TokenState, after: TokenState) -> sql.Update:
    return (
        _TOKENS.update()
        .where(_TOKENS.c.id == token_id, _TOKENS.c.state == before)
        .values(state=after)
    )


def _read(row: sql.RowMapping, now: datetime) -> TokenRecord:
    values = cast("Mapping[str, object]", row)
    state = cast("TokenState", values["state"])
    record = TokenRecord(
        id=TokenId(cast("str", values["id"])),
        agent=AgentName(cast("str", values["agent"])),
        role=RoleName(cast("str", values["role"])),
        digest=cast("bytes", values["digest"]),
        state=state,
        created_at=cast("datetime", values["created_at"]),
        expires_at=cast("datetime", values["expires_at"]),
        revoked_at=cast("datetime | None", values["revoked_at"]),
        last_used_at=cast("datetime | None", values["last_used_at"]),
        retire_at=cast("datetime | None", values["retire_at"]),
        rotation_id=cast("str | None", values["rotation_id"]) or "",
    )
    if state in USABLE and now >= record.ends_at:
        return replace(record, state="expired")
    return record
