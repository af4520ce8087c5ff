"""What is held back, on disk. Its methods block: call them in a thread."""

from typing import final, get_args

import sqlalchemy as sql

from orchestrator.database import Database, Moment
from orchestrator.errors import StateCorruptError
from orchestrator.model.guards import Hold, HoldKind

_METADATA = sql.MetaData()
# All roles and all tools are empty texts here: an absent one would be unlike itself in a key.
_HOLDS = sql.Table(
    "holds",
    _METADATA,
    sql.Column("kind", sql.String(16), primary_key=True),
    sql.Column("role", sql.String(32), primary_key=True),
    sql.Column("tool", sql.String(128), primary_key=True),
    sql.Column("origin", sql.String(64), primary_key=True),
    sql.Column("since", Moment, nullable=False),
    sql.Column("until", Moment),
    sql.Column("by", sql.String(128), nullable=False),
    sql.Column("reason", sql.String(500), nullable=False),
)


@final
class HoldStore:
    """The holds of one project."""

    def __init__(self, database: Database) -> None:
        """Keep them in the project's database; nothing is read or written yet."""
        self._database = database
        self._is_prepared = False

    def load(self) -> tuple[Hold, ...]:
        """Read all of them.

        Raises:
            StateUnwritableError: The database cannot be used now.
            StateCorruptError: There is one that nobody here understands.
        """
        if not self._is_prepared:
            self._database.prepare(_METADATA)
            self._is_prepared = True
        with self._database.read() as connection:
            return tuple(_read(row) for row in connection.execute(_HOLDS.select()).mappings())

    def put(self, hold: Hold) -> None:
        """Keep one, in place of the one that is like it; on disk when this returns.

        Raises:
            StateUnwritableError: It cannot be kept.
        """
        with self._database.write() as connection:
            _ = connection.execute(_HOLDS.delete().where(_is(hold)))
            _ = connection.execute(
                _HOLDS.insert().values(
                    kind=hold.kind,
                    role=hold.role or "",
                    tool=hold.tool or "",
                    origin=hold.origin,
                    since=hold.since,
                    until=hold.until,
                    by=hold.by,
                    reason=hold.reason,
                )
            )

    def remove(self, *holds: Hold) -> None:
        """Forget some; on disk when this returns.

        Raises:
            StateUnwritableError: They cannot be forgotten.
        """
        with self._database.write() as connection:
            for hold in holds:
                _ = connection.execute(_HOLDS.delete().where(_is(hold)))


def _is(hold: Hold) -> sql.ColumnElement[bool]:
    return sql.and_(
        _HOLDS.c.kind == hold.kind,
        _HOLDS.c.role == (hold.role or ""),
        _HOLDS.c.tool == (hold.tool or ""),
        _HOLDS.c.origin == hold.origin,
    )


def _read(row: sql.RowMapping) -> Hold:
    kept = dict(row)
    if kept["kind"] not in get_args(HoldKind):
        raise StateCorruptError(
            f"something is held back in a way that is not known here: {kept['kind']!r}",
            hint="Use the newer version that wrote it; until then everything is frozen.",
        )
    return Hold.model_validate(
        {**kept, "role": kept["role"] or None, "tool": kept["tool"] or None}, strict=False
    )
