"""Where approvals and grants are kept. Its methods block: call them in one thread.

The database alone knows what is approved: every change is one transaction that names the state it
starts from, so that a crash at any point leaves an approval used or unused, and never both.
"""

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Final, cast, final

import sqlalchemy as sql

from orchestrator.approvals.tables import (
    APPROVALS,
    GRANTS,
    METADATA,
    VOTES,
    approval_row,
    read_approval,
    read_grant,
    read_vote,
)
from orchestrator.database import Database
from orchestrator.model.admin_governance import ApprovalState
from orchestrator.model.approval import Approval, Asked, Grant, Vote, are_one
from orchestrator.model.names import AgentName, RoleName, ToolName

_OPEN: Final = ("pending", "approved")
# A denial is an answer as long as its call could have waited.
_ANSWERING: Final = (*_OPEN, "denied")
_ENDED: Final = ("denied", "expired", "used")
# How long the content of a call that is over is kept, and how long that it was there.
KEEP_CONTENT: Final = timedelta(days=7)
KEEP: Final = timedelta(days=400)
DROPPED: Final = "(What the call was asked with is not kept any more.)"


@final
class ApprovalStore:
    """Approvals and grants of one project."""

    def __init__(self, database: Database) -> None:
        """Make the tables that are not there.

        Raises:
            StateUnwritableError: They cannot be made.
        """
        self._database = database
        database.prepare(METADATA)

    # Approvals.

    def find(self, name: str, now: datetime) -> Approval | None:
        """Tell one approval, None if there is none of that name."""
        with self._database.read() as connection:
            return next(iter(_read(connection, APPROVALS.c.id == name, now)), None)

    def answering(self, asked: Asked, subject: str, now: datetime) -> Approval | None:
        """Tell the approval that answers a call now: one that waits, is given, or was denied.

        Args:
            asked: The call.
            subject: Who asks as the agents' identity provider calls them; may be empty.
            now: The time.
        """
        where = sql.and_(
            _is_call(asked),
            sql.func.coalesce(APPROVALS.c.subject, "") == subject,
            APPROVALS.c.policy == asked.policy,
            APPROVALS.c.state.in_(_ANSWERING),
            APPROVALS.c.expires_at > now,
        )
        with self._database.read() as connection:
            return next(iter(_read(connection, where, now, 1)), None)

    def last(self, asked: Asked, now: datetime) -> Approval | None:
        """Tell the newest approval of a call, whatever became of it and under any policy."""
        with self._database.read() as connection:
            return next(iter(_read(connection, _is_call(asked), now, 1)), None)

    def last_approved(self, before: Approval, now: datetime) -> Approval | None:
        """Tell the call of the same tool and role that was approved last before another."""
        where = sql.and_(
            APPROVALS.c.role == before.asked.role,
            APPROVALS.c.tool == before.asked.tool,
            APPROVALS.c.id != before.id,
            _was_approved(),
            APPROVALS.c.decided_at < (before.decided_at or now),
        )
        with self._database.read() as connection:
            order = APPROVALS.c.decided_at.desc()
            return next(iter(_read(connection, where, now, 1, order)), None)

    def every(
        self, role: RoleName | None, state: ApprovalState | None, limit: int, now: datetime
    ) -> list[Approval]:
        """Tell approvals, the newest first; one past its time is told as expired."""
        where = sql.true() if role is None else APPROVALS.c.role == role
        if state is not None:
            is_late = sql.and_(APPROVALS.c.state.in_(_OPEN), APPROVALS.c.expires_at <= now)
            if state == "expired":
                where &= (APPROVALS.c.state == state) | is_late
            else:
                where &= (APPROVALS.c.state == state) & ~is_late
        with self._database.read() as connection:
            return _read(connection, where, now, limit)

    def count_pending(self, role: RoleName, agent: AgentName, now: datetime) -> int:
        """Tell how many calls of an agent wait for people."""
        count = sql.select(sql.func.count()).where(
            APPROVALS.c.role == role,
            APPROVALS.c.agent == agent,
            APPROVALS.c.state == "pending",
            APPROVALS.c.expires_at > now,
        )
        with self._database.read() as connection:
            return connection.execute(count).scalar_one()

    def add(self, approval: Approval) -> None:
        """Keep an approval that was asked for."""
        with self._database.write() as connection:
            _ = connection.execute(APPROVALS.insert().values(approval_row(approval)))

    def vote(
        self, approval: Approval, vote: Vote, state: ApprovalState, expires_at: datetime
    ) -> bool:
        """Keep what a person said, and what follows from it.

        Args:
            approval: What it is about, as it was when the person was heard.
            vote: What was said.
            state: Where the approval is now.
            expires_at: When its time is over now.

        Returns:
            Whether it counts: it does not where the approval went on meanwhile.
        """
        change = (
            APPROVALS.update()
            .where(
                APPROVALS.c.id == approval.id,
                APPROVALS.c.state == "pending",
                APPROVALS.c.expires_at > vote.at,
            )
            .values(state=state, expires_at=expires_at)
        )
        if state != "pending":
            change = change.values(decided_at=vote.at)
        with self._database.write() as connection:
            if connection.execute(change).rowcount != 1:
                return False
            # Whoever approved may think better of it as long as others are missing.
            earlier = sql.and_(VOTES.c.approval == approval.id, VOTES.c.by == vote.by)
            _ = connection.execute(VOTES.delete().where(earlier))
            _ = connection.execute(VOTES.insert().values(approval=approval.id, **asdict(vote)))
            return True

    def forget_votes(self, by: str) -> None:
        """Forget what a person said about calls that wait for others still."""
        waiting = sql.select(APPROVALS.c.id).where(APPROVALS.c.state == "pending")
        with self._database.write() as connection:
            _ = connection.execute(
                VOTES.delete().where(VOTES.c.by == by, VOTES.c.approval.in_(waiting))
            )

    def use(self, name: str, request_id: str, now: datetime) -> bool:
        """Use an approval up; it is on disk when this returns.

        Returns:
            Whether it was there to be used. Only once in its life it is.
        """
        change = (
            APPROVALS.update()
            .where(
                APPROVALS.c.id == name,
                APPROVALS.c.state == "approved",
                APPROVALS.c.expires_at > now,
            )
            .values(state="used", used_at=now, used_by=request_id)
        )
        with self._database.write() as connection:
            return connection.execute(change).rowcount == 1

    def tidy(self, now: datetime) -> tuple[str, ...]:
        """Write down what time has decided, and forget what is long over.

        Returns:
            The names of what expired since the last time.
        """
        late = sql.and_(APPROVALS.c.state.in_(_OPEN), APPROVALS.c.expires_at <= now)
        newer = APPROVALS.alias()
        is_newest = ~sql.exists().where(
            newer.c.role == APPROVALS.c.role,
            newer.c.tool == APPROVALS.c.tool,
            newer.c.state.in_(("approved", "used")),
            newer.c.decided_at > APPROVALS.c.decided_at,
        )
        is_over = sql.and_(
            APPROVALS.c.state.in_(_ENDED), APPROVALS.c.expires_at < now - KEEP_CONTENT
        )
        forget = sql.and_(
            is_over,
            APPROVALS.c.arguments.is_not(None),
            # The next call of the tool is shown beside the last one that was approved.
            ~sql.and_(_was_approved(), is_newest),
        )
        gone = sql.select(APPROVALS.c.id).where(is_over, APPROVALS.c.expires_at < now - KEEP)
        with self._database.write() as connection:
            expired = tuple(connection.execute(sql.select(APPROVALS.c.id).where(late)).scalars())
            _ = connection.execute(APPROVALS.update().where(late).values(state="expired"))
            _ = connection.execute(
                APPROVALS.update().where(forget).values(arguments=None, receipt=DROPPED)
            )
            _ = connection.execute(VOTES.delete().where(VOTES.c.approval.in_(gone)))
            _ = connection.execute(APPROVALS.delete().where(APPROVALS.c.id.in_(gone)))
        return expired

    # Grants.

    def grants(self, role: RoleName | None) -> list[Grant]:
        """Tell grants, the newest first."""
        where = sql.true() if role is None else GRANTS.c.role == role
        query = sql.select(GRANTS).where(where).order_by(GRANTS.c.created_at.desc())
        with self._database.read() as connection:
            return [read_grant(row) for row in connection.execute(query).mappings()]

    def granting(self, asked: Asked, subject: str, now: datetime) -> list[Grant]:
        """Tell the grants that a call may be made by.

        Args:
            asked: The call.
            subject: Who asks as the agents' identity provider calls them; may be empty.
            now: The time.
        """
        return [
            grant
            for grant in self.grants(asked.role)
            if grant.tool == asked.tool
            and grant.policy == asked.policy
            and grant.agent in {None, asked.agent}
            # Nobody approves what is asked for in their own name.
            and not are_one((grant.by, grant.subject), (asked.agent, subject))
            and grant.ended_at is None
            and grant.expires_at > now
            and (grant.calls is None or grant.used < grant.calls)
        ]

    def add_grant(self, grant: Grant) -> None:
        """Keep a grant."""
        with self._database.write() as connection:
            _ = connection.execute(GRANTS.insert().values(asdict(grant)))

    def use_grant(self, name: str, now: datetime) -> bool:
        """Count one more call of a grant; it is on disk when this returns.

        Returns:
            Whether there was one left.
        """
        change = (
            GRANTS.update()
            .where(
                GRANTS.c.id == name,
                GRANTS.c.ended_at.is_(None),
                GRANTS.c.expires_at > now,
                GRANTS.c.calls.is_(None) | (GRANTS.c.used < GRANTS.c.calls),
            )
            .values(used=GRANTS.c.used + 1)
        )
        with self._database.write() as connection:
            return connection.execute(change).rowcount == 1

    def end_grant(self, name: str, by: str, now: datetime) -> bool:
        """End a grant; tell whether it was there to be ended."""
        change = (
            GRANTS.update()
            .where(GRANTS.c.id == name, GRANTS.c.ended_at.is_(None))
            .values(ended_at=now, ended_by=by)
        )
        with self._database.write() as connection:
            return connection.execute(change).rowcount == 1


def _is_call(asked: Asked) -> sql.ColumnElement[bool]:
    return sql.and_(
        APPROVALS.c.arguments_sha256 == asked.arguments_sha256,
        APPROVALS.c.tool == ToolName(asked.tool),
        APPROVALS.c.role == asked.role,
        APPROVALS.c.agent == asked.agent,
    )


def _was_approved() -> sql.ColumnElement[bool]:
    return sql.or_(
        APPROVALS.c.state.in_(("approved", "used")),
        # Its time was over before its call came.
        sql.and_(APPROVALS.c.state == "expired", APPROVALS.c.decided_at.is_not(None)),
    )


def _read(
    connection: sql.Connection,
    where: sql.ColumnElement[bool],
    now: datetime,
    limit: int | None = None,
    order: sql.UnaryExpression[datetime] | None = None,
) -> list[Approval]:
    query = sql.select(APPROVALS).where(where).limit(limit)
    newest = APPROVALS.c.created_at.desc() if order is None else order
    rows = connection.execute(query.order_by(newest, APPROVALS.c.id)).mappings().all()
    names = [cast("str", row["id"]) for row in rows]
    votes: dict[str, list[Vote]] = {}
    said = sql.select(VOTES).where(VOTES.c.approval.in_(names)).order_by(VOTES.c.at)
    for row in connection.execute(said).mappings():
        votes.setdefault(cast("str", row["approval"]), []).append(read_vote(row))
    found = [read_approval(row, tuple(votes.get(cast("str", row["id"]), ()))) for row in rows]
    return [
        replace(one, state="expired") if one.state in _OPEN and one.expires_at <= now else one
        for one in found
    ]
