"""Who may approve, kept with what proves it. Its methods block: call them in a thread."""

import hashlib
import hmac
import json
import secrets
from typing import Final, cast, final

import sqlalchemy as sql

from orchestrator.approvals.tables import APPROVERS, METADATA, read_approver
from orchestrator.database import Database
from orchestrator.model.approval import Approver
from orchestrator.model.names import AgentName

_SALT_BYTES: Final = 16
# A tenth of a second and 32 MiB for each try.
_COST: Final = 2**15
_BLOCK: Final = 8
_MEMORY: Final = 64 * 1024 * 1024
_DIGEST_BYTES: Final = 32


@final
class Roster:
    """The approvers of one project."""

    def __init__(self, database: Database) -> None:
        """Make the table if it is not there.

        Raises:
            StateUnwritableError: It cannot be made.
        """
        self._database = database
        database.prepare(METADATA)
        # Who does not exist takes as long to be refused as who does.
        self._nobody = (secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_DIGEST_BYTES))

    def every(self) -> list[Approver]:
        """Tell all approvers, by name."""
        with self._database.read() as connection:
            rows = connection.execute(sql.select(APPROVERS).order_by(APPROVERS.c.name))
            return [read_approver(row) for row in rows.mappings()]

    def proves(self, name: str, passphrase: str) -> bool:
        """Tell whether a passphrase is an approver's; it takes the same time for everybody."""
        query = sql.select(APPROVERS.c.salt, APPROVERS.c.verifier).where(APPROVERS.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        salt, verifier = self._nobody if row is None else cast("tuple[bytes, bytes]", tuple(row))
        is_right = hmac.compare_digest(_derive(passphrase, salt), verifier)
        return is_right and row is not None

    def add(self, approver: Approver, passphrase: str) -> bool:
        """Keep an approver; tell whether the name was free."""
        salt = secrets.token_bytes(_SALT_BYTES)
        verifier = _derive(passphrase, salt)
        with self._database.write() as connection:
            taken = sql.select(APPROVERS.c.name).where(APPROVERS.c.name == approver.name)
            if connection.execute(taken).one_or_none() is not None:
                return False
            _ = connection.execute(
                APPROVERS.insert().values(
                    name=approver.name,
                    subject=approver.subject,
                    roles=json.dumps(approver.roles),
                    salt=salt,
                    verifier=verifier,
                    added_at=approver.added_at,
                    added_by=approver.added_by,
                )
            )
            return True

    def remove(self, name: AgentName) -> bool:
        """Take an approver's right away; tell whether there was one of that name."""
        with self._database.write() as connection:
            gone = connection.execute(APPROVERS.delete().where(APPROVERS.c.name == name))
            return gone.rowcount == 1


def _derive(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(),
        salt=salt,
        n=_COST,
        r=_BLOCK,
        p=1,
        maxmem=_MEMORY,
        dklen=_DIGEST_BYTES,
    )
