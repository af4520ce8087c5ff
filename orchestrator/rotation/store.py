"""Where rotations, versions of upstream credentials and receipts are kept.

Never a credential: those are in the vault. Its methods block: call them in a thread.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, cast, final

import sqlalchemy as sql
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from orchestrator.clock import Clock
from orchestrator.database import Database, Moment
from orchestrator.errors import LockHeldError, RotationBusyError, RotationUnknownError
from orchestrator.model.base import HIDE_INPUT, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import FINISHED, Purpose, Rotation
from orchestrator.rotation.states import Stage

_METADATA = sql.MetaData()
_ROTATIONS = sql.Table(
    "rotations",
    _METADATA,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("role", sql.String(32), nullable=False, index=True),
    sql.Column("purpose", sql.String(16), nullable=False),
    sql.Column("agent", sql.String(64), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("is_open", sql.Boolean, nullable=False),
    sql.Column("created_at", Moment, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
_ = sql.Index(
    "one_open_rotation",
    _ROTATIONS.c.role,
    _ROTATIONS.c.purpose,
    _ROTATIONS.c.agent,
    unique=True,
    sqlite_where=_ROTATIONS.c.is_open,
    postgresql_where=_ROTATIONS.c.is_open,
)
_VERSIONS = sql.Table(
    "versions",
    _METADATA,
    sql.Column("role", sql.String(32), primary_key=True),
    sql.Column("version", sql.String(120), primary_key=True),
    sql.Column("stage", sql.String(16), nullable=False),
    sql.Column("issuer", sql.String(32), nullable=False),
    sql.Column("handle", sql.Text, nullable=False),
    sql.Column("asked_at", Moment, nullable=False),
    sql.Column("issued_at", Moment),
    sql.Column("expires_at", Moment),
    sql.Column("fingerprint", sql.String(16), nullable=False),
    sql.Column("rotation_id", sql.String(12), nullable=False),
)
_ = sql.Index(
    "one_current_version",
    _VERSIONS.c.role,
    unique=True,
    sqlite_where=_VERSIONS.c.stage == "current",
    postgresql_where=_VERSIONS.c.stage == "current",
)
_FACTS = sql.Table(
    "rotation_facts",
    _METADATA,
    sql.Column("name", sql.String(32), primary_key=True),
    sql.Column("at", Moment, nullable=False),
)
_RECEIPTS = sql.Table(
    "receipts",
    _METADATA,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("at", Moment, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
_JSON: Final[TypeAdapter[JsonObject]] = TypeAdapter(JsonObject, config=HIDE_INPUT)
_NO_STAGES: Final[Mapping[str, Stage]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Version:
    """One upstream credential, without its texts.

    Attributes:
        role: Whose it is.
        version: The name that the issuer was asked for.
        stage: Where it stands.
        issuer: Who was asked.
        handle: How the issuer knows it; empty before that is known.
        asked_at: When the issuer was asked, or was about to be.
        issued_at: When it was made; None if nobody knows whether it was.
        expires_at: When it ends by itself.
        fingerprint: Tells it apart without telling it.
        rotation_id: The rotation that asked.
    """

    role: RoleName
    version: str
    stage: Stage
    issuer: str
    handle: JsonObject
    asked_at: datetime
    issued_at: datetime | None
    expires_at: datetime | None
    fingerprint: str
    rotation_id: str


@final
class RotationStore:
    """The rotations of one project, in its database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Make what is missing in the database.

        Raises:
            StateUnwritableError: It cannot be made.
        """
        self._database = database
        self._clock = clock
        database.prepare(_METADATA)

    def take_over(self) -> None:
        """Be the only one who writes: another engine on this database is refused from now on."""
        self._database.take_fence()

    def plan(self, rotation: Rotation) -> None:
        """Write a new rotation down.

        Raises:
            RotationBusyError: One of the same credential is under way.
        """
        with self._database.write() as connection:
            try:
                _ = connection.execute(_ROTATIONS.insert().values(_row(rotation)))
            except IntegrityError:
                found = self._find_open(connection, rotation.role, rotation.purpose, rotation.agent)
                raise _busy(found, rotation.role, rotation.purpose, rotation.agent) from None

    def require_free(self, role: RoleName, purpose: Purpose, agent: str) -> None:
        """Refuse to go on where a credential is replaced already.

        Raises:
            RotationBusyError: That is under way.
        """
        with self._database.read() as connection:
            found = self._find_open(connection, role, purpose, agent)
        if found:
            raise _busy(found, role, purpose, agent)

    @staticmethod
    def _find_open(connection: sql.Connection, role: RoleName, purpose: Purpose, agent: str) -> str:
        same = (
            _ROTATIONS.c.role == role,
            _ROTATIONS.c.purpose == purpose,
            _ROTATIONS.c.agent == agent,
            _ROTATIONS.c.is_open,
        )
        return connection.execute(sql.select(_ROTATIONS.c.id).where(*same)).scalar() or ""

    def write(
        self,
        before: Rotation,
        after: Rotation,
        *,
        stages: Mapping[str, Stage] = _NO_STAGES,
        asks: str | None = None,
    ) -> None:
        """Write a rotation's next state down, with all that changes by it.

        Args:
            before: What it was.
            after: What it is.
            stages: What becomes of versions of its role.
            asks: The issuer that is about to be asked for `after.new`.

        Raises:
            LockHeldError: It is not what it was: somebody else works on it.
        """
        with self._database.write() as connection:
            found = connection.execute(
                _ROTATIONS.update()
                .where(_ROTATIONS.c.id == before.id, _ROTATIONS.c.state == before.state)
                .values(_row(after))
            )
            if found.rowcount != 1:
                raise LockHeldError(f"rotation {before.id} is worked on by somebody else")
            if asks is not None:
                _ = connection.execute(
                    _VERSIONS.insert().values(
                        role=after.role,
                        version=after.new,
                        stage="pending",
                        issuer=asks,
                        handle="{}",
                        asked_at=self._clock.now(),
                        fingerprint="",
                        rotation_id=after.id,
                    )
                )
            self._set_stages(connection, after.role, stages)

    def get(self, rotation_id: str) -> Rotation:
        """Tell one rotation.

        Raises:
            RotationUnknownError: There is none with this id.
        """
        found = self._rotations(_ROTATIONS.c.id == rotation_id)
        if not found:
            raise RotationUnknownError(
                f"there is no rotation {rotation_id[:12]!r}", hint="See `agents rotate status`."
            )
        return found[0]

    def all(self, role: RoleName | None = None) -> tuple[Rotation, ...]:
        """Tell all rotations, or those of one role, the oldest first."""
        return self._rotations(sql.true() if role is None else _ROTATIONS.c.role == role)

    def unfinished(self) -> tuple[Rotation, ...]:
        """Tell the rotations that are under way, the oldest first."""
        return self._rotations(_ROTATIONS.c.is_open)

    def note_minted(self, version: Version) -> None:
        """Keep what an issuer told of a credential that it made."""
        with self._database.write() as connection:
            _ = connection.execute(
                _VERSIONS.update()
                .where(_VERSIONS.c.role == version.role, _VERSIONS.c.version == version.version)
                .values(
                    stage=version.stage,
                    handle=_JSON.dump_json(version.handle).decode(),
                    issued_at=version.issued_at,
                    expires_at=version.expires_at,
                    fingerprint=version.fingerprint,
                )
            )

    def set_stages(self, role: RoleName, stages: Mapping[str, Stage]) -> None:
        """Change where versions of a role stand."""
        with self._database.write() as connection:
            self._set_stages(connection, role, stages)

    def version(self, role: RoleName, version: str) -> Version | None:
        """Tell one version, None if there is none."""
        found = self._versions(_VERSIONS.c.role == role, _VERSIONS.c.version == version)
        return found[0] if found else None

    def current(self, role: RoleName) -> Version | None:
        """Tell the version that counts, None if there is none."""
        found = self._versions(_VERSIONS.c.role == role, _VERSIONS.c.stage == "current")
        return found[0] if found else None

    def versions(self, role: RoleName) -> tuple[Version, ...]:
        """Tell all versions of a role that ever were, the oldest first."""
        return self._versions(_VERSIONS.c.role == role)

    def alive(self) -> tuple[Version, ...]:
        """Tell the versions of all roles that are not known to be gone."""
        return self._versions(_VERSIONS.c.stage != "gone")

    def idle(self) -> tuple[Version, ...]:
        """Tell the versions that no role has and no rotation needs, and that may yet live.

        Looked at before and after the rotations: one that is made, or that a role gets, meanwhile
        is none of them.
        """
        before = {(one.role, one.version) for one in self.alive() if one.stage != "current"}
        for rotation in self.unfinished():
            before -= {(rotation.role, rotation.old), (rotation.role, rotation.new)}
        return tuple(
            one
            for one in self.alive()
            if one.stage != "current" and (one.role, one.version) in before
        )

    def doubtful(self, since: datetime) -> tuple[Version, ...]:
        """Tell the versions that may yet be made: asked for since then, given up, never seen."""
        return self._versions(
            _VERSIONS.c.stage == "gone",
            _VERSIONS.c.issued_at.is_(None),
            _VERSIONS.c.asked_at >= since,
        )

    def fact(self, name: str) -> datetime | None:
        """Tell when something was noted, None if never."""
        with self._database.read() as connection:
            found = connection.execute(sql.select(_FACTS.c.at).where(_FACTS.c.name == name))
            return found.scalar_one_or_none()

    def note_fact(self, name: str, at: datetime | None) -> None:
        """Note when something was; None forgets it."""
        with self._database.write() as connection:
            _ = connection.execute(_FACTS.delete().where(_FACTS.c.name == name))
            if at is not None:
                _ = connection.execute(_FACTS.insert().values(name=name, at=at))

    def keep_receipt(self, receipt_id: str, body: JsonObject) -> None:
        """Keep the receipt of an emergency."""
        text = _JSON.dump_json(body).decode()
        with self._database.write() as connection:
            _ = connection.execute(_RECEIPTS.delete().where(_RECEIPTS.c.id == receipt_id))
            _ = connection.execute(
                _RECEIPTS.insert().values(id=receipt_id, at=self._clock.now(), body=text)
            )

    def receipt(self, receipt_id: str) -> JsonObject | None:
        """Tell the receipt of an emergency, None if there is none with this id."""
        query = sql.select(_RECEIPTS.c.body).where(_RECEIPTS.c.id == receipt_id)
        with self._database.read() as connection:
            body = cast("str | None", connection.execute(query).scalar())
        return None if body is None else _JSON.validate_json(body)

    def amend_receipt(self, receipt_id: str, body: JsonObject, gone: Iterable[Version]) -> None:
        """Write into a receipt what became of versions, and that they are gone, at once."""
        text = _JSON.dump_json(body).decode()
        with self._database.write() as connection:
            _ = connection.execute(
                _RECEIPTS.update().where(_RECEIPTS.c.id == receipt_id).values(body=text)
            )
            for one in gone:
                self._set_stages(connection, one.role, {one.version: "gone"})

    def receipts(self) -> tuple[JsonObject, ...]:
        """Tell the receipts of emergencies, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sql.select(_RECEIPTS.c.body).order_by(_RECEIPTS.c.at))
            return tuple(
                _JSON.validate_json(body) for body in cast("Iterable[str]", rows.scalars())
            )

    @staticmethod
    def _set_stages(
        connection: sql.Connection, role: RoleName, stages: Mapping[str, Stage]
    ) -> None:
        # Whatever was current makes room first: there is never more than one.
        for version, stage in sorted(stages.items(), key=lambda item: item[1] == "current"):
            if stage == "current":
                _ = connection.execute(
                    _VERSIONS.update()
                    .where(
                        _VERSIONS.c.role == role,
                        _VERSIONS.c.stage == "current",
                        _VERSIONS.c.version != version,
                    )
                    .values(stage="previous")
                )
            _ = connection.execute(
                _VERSIONS.update()
                .where(_VERSIONS.c.role == role, _VERSIONS.c.version == version)
                .values(stage=stage)
            )

    def _rotations(self, where: sql.ColumnElement[bool]) -> tuple[Rotation, ...]:
        query = sql.select(_ROTATIONS.c.body).where(where)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_ROTATIONS.c.created_at, _ROTATIONS.c.id))
            return tuple(
                Rotation.model_validate_json(body) for body in cast("Iterable[str]", rows.scalars())
            )

    def _versions(self, *where: sql.ColumnElement[bool]) -> tuple[Version, ...]:
        query = sql.select(_VERSIONS).where(*where)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_VERSIONS.c.asked_at, _VERSIONS.c.version))
            return tuple(_read(row) for row in rows.mappings())


def _busy(rotation_id: str, role: RoleName, purpose: Purpose, agent: str) -> RotationBusyError:
    return RotationBusyError(
        f"rotation {rotation_id} of {agent or role} ({purpose}) is under way",
        hint=f"`agents rotate status {rotation_id}` tells how far it is.",
    )


def _row(rotation: Rotation) -> dict[str, object]:
    return {
        "id": rotation.id,
        "role": rotation.role,
        "purpose": rotation.purpose,
        "agent": rotation.agent,
        "state": rotation.state.value,
        "is_open": rotation.state not in FINISHED,
        "created_at": rotation.created_at,
        "body": rotation.model_dump_json(),
    }


def _read(row: sql.RowMapping) -> Version:
    values = cast("Mapping[str, object]", row)
    return Version(
        role=RoleName(cast("str", values["role"])),
        version=cast("str", values["version"]),
        stage=cast("Stage", values["stage"]),
        issuer=cast("str", values["issuer"]),
        handle=_JSON.validate_json(cast("str", values["handle"])),
        asked_at=cast("datetime", values["asked_at"]),
        issued_at=cast("datetime | None", values["issued_at"]),
        expires_at=cast("datetime | None", values["expires_at"]),
        fingerprint=cast("str", values["fingerprint"]),
        rotation_id=cast("str", values["rotation_id"]),
    )
