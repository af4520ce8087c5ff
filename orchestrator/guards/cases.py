"""Incidents, on disk. Its methods block: call them in a thread."""

from typing import cast, final

import sqlalchemy as sql
from pydantic import ValidationError

from orchestrator.database import Database, Moment
from orchestrator.errors import StateCorruptError
from orchestrator.model.incident import Incident

_METADATA = sql.MetaData()
_INCIDENTS = sql.Table(
    "incidents",
    _METADATA,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("role", sql.String(32), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("started_at", Moment, nullable=False),
    # All of it, as JSON: steps are read with their incident, and never looked for alone.
    sql.Column("body", sql.Text, nullable=False),
)


@final
class IncidentStore:
    """The incidents of one project."""

    def __init__(self, database: Database) -> None:
        """Open them.

        Raises:
            StateUnwritableError: The database cannot be used now.
        """
        self._database = database
        database.prepare(_METADATA)

    def load(self) -> tuple[Incident, ...]:
        """Read all of them, the oldest first.

        Raises:
            StateUnwritableError: The database cannot be used now.
            StateCorruptError: There is one that nobody here understands.
        """
        bodies = sql.select(_INCIDENTS.c.body).order_by(_INCIDENTS.c.started_at)
        with self._database.read() as connection:
            found = cast("list[str]", connection.execute(bodies).scalars().all())
        try:
            return tuple(Incident.model_validate_json(body, strict=False) for body in found)
        except ValidationError:
            raise StateCorruptError(
                "an incident in the database is not understood",
                hint="Use the newer version that wrote it; nothing is served until then.",
            ) from None

    def put(self, incident: Incident) -> None:
        """Keep one, in place of what was known of it; on disk when this returns.

        Raises:
            StateUnwritableError: It cannot be kept.
        """
        with self._database.write() as connection:
            _ = connection.execute(_INCIDENTS.delete().where(_INCIDENTS.c.id == incident.id))
            _ = connection.execute(
                _INCIDENTS.insert().values(
                    id=incident.id,
                    role=incident.role,
                    state=incident.state,
                    started_at=incident.started_at,
                    body=incident.model_dump_json(),
                )
            )
