"""The tables of approvals, and the way from rows to data and back."""

import json
from datetime import datetime
from typing import Final, TypedDict, cast

import sqlalchemy as sql

from orchestrator.database import Moment
from orchestrator.model.admin_governance import ApprovalState, Decision
from orchestrator.model.approval import Approval, Approver, Asked, Grant, Vote
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, ToolName
from orchestrator.model.server import ToolClass

METADATA: Final = sql.MetaData()
APPROVALS: Final = sql.Table(
    "approvals",
    METADATA,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("role", sql.String(32), nullable=False),
    sql.Column("agent", sql.String(64), nullable=False),
    sql.Column("tool", sql.String(128), nullable=False),
    sql.Column("arguments_sha256", sql.String(64), nullable=False),
    sql.Column("policy", sql.String(12), nullable=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("rule", sql.String(200), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("arguments", sql.Text),
    sql.Column("receipt", sql.Text, nullable=False),
    sql.Column("warnings", sql.Text, nullable=False),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("quorum", sql.Integer, nullable=False),
    sql.Column("lasts_seconds", sql.Integer, nullable=False),
    sql.Column("created_at", Moment, nullable=False),
    sql.Column("expires_at", Moment, nullable=False),
    sql.Column("request_id", sql.String(64), nullable=False),
    sql.Column("decided_at", Moment),
    sql.Column("used_at", Moment),
    sql.Column("used_by", sql.String(64)),
    sql.Column("subject", sql.String(255)),
    sql.Index("approvals_by_call", "arguments_sha256", "tool"),
    sql.Index("approvals_by_state", "state", "role"),
)
VOTES: Final = sql.Table(
    "approval_votes",
    METADATA,
    sql.Column("approval", sql.String(16), primary_key=True),
    sql.Column("by", sql.String(80), primary_key=True),
    sql.Column("decision", sql.String(8), nullable=False),
    sql.Column("at", Moment, nullable=False),
    sql.Column("reason", sql.String(500), nullable=False),
    sql.Column("channel", sql.String(16), nullable=False),
)
GRANTS: Final = sql.Table(
    "grants",
    METADATA,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("role", sql.String(32), nullable=False),
    sql.Column("tool", sql.String(128), nullable=False),
    sql.Column("policy", sql.String(12), nullable=False),
    sql.Column("agent", sql.String(64)),
    sql.Column("calls", sql.Integer),
    sql.Column("used", sql.Integer, nullable=False),
    sql.Column("created_at", Moment, nullable=False),
    sql.Column("expires_at", Moment, nullable=False),
    sql.Column("by", sql.String(80), nullable=False),
    sql.Column("subject", sql.String(255), nullable=False),
    sql.Column("reason", sql.String(500), nullable=False),
    sql.Column("ended_at", Moment),
    sql.Column("ended_by", sql.String(80), nullable=False),
)
APPROVERS: Final = sql.Table(
    "approvers",
    METADATA,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("subject", sql.String(255), nullable=False),
    sql.Column("roles", sql.Text, nullable=False),
    sql.Column("salt", sql.LargeBinary(16), nullable=False),
    sql.Column("verifier", sql.LargeBinary(32), nullable=False),
    sql.Column("added_at", Moment, nullable=False),
    sql.Column("added_by", sql.String(80), nullable=False),
)


class _GrantRow(TypedDict):
    id: str
    role: RoleName
    tool: ToolName
    policy: str
    agent: AgentName | None
    calls: int | None
    used: int
    created_at: datetime
    expires_at: datetime
    by: str
    subject: str
    reason: str
    ended_at: datetime | None
    ended_by: str


def approval_row(approval: Approval) -> dict[str, object]:
    """Write an approval as a row."""
    asked = approval.asked
    return {
        "id": approval.id,
        "role": asked.role,
        "agent": asked.agent,
        "tool": asked.tool,
        "arguments_sha256": asked.arguments_sha256,
        "policy": asked.policy,
        "kind": approval.kind,
        "rule": approval.rule,
        "state": approval.state,
        "arguments": json.dumps(approval.arguments),
        "receipt": approval.receipt,
        "warnings": json.dumps(approval.warnings),
        "digest": approval.digest,
        "quorum": approval.quorum,
        "lasts_seconds": approval.lasts_seconds,
        "created_at": approval.created_at,
        "expires_at": approval.expires_at,
        "request_id": approval.request_id,
        "subject": approval.subject,
    }


def read_approval(row: sql.RowMapping, votes: tuple[Vote, ...]) -> Approval:
    """Read an approval from its row."""
    text = cast("str | None", row["arguments"])
    return Approval(
        id=cast("str", row["id"]),
        asked=Asked(
            cast("RoleName", row["role"]),
            cast("AgentName", row["agent"]),
            cast("ToolName", row["tool"]),
            cast("str", row["arguments_sha256"]),
            cast("str", row["policy"]),
        ),
        kind=cast("ToolClass", row["kind"]),
        rule=cast("str", row["rule"]),
        state=cast("ApprovalState", row["state"]),
        arguments=None if text is None else cast("JsonObject", json.loads(text)),
        receipt=cast("str", row["receipt"]),
        warnings=tuple(cast("list[str]", json.loads(cast("str", row["warnings"])))),
        digest=cast("str", row["digest"]),
        quorum=cast("int", row["quorum"]),
        lasts_seconds=cast("int", row["lasts_seconds"]),
        created_at=cast("datetime", row["created_at"]),
        expires_at=cast("datetime", row["expires_at"]),
        request_id=cast("str", row["request_id"]),
        decided_at=cast("datetime | None", row["decided_at"]),
        used_at=cast("datetime | None", row["used_at"]),
        used_by=cast("str | None", row["used_by"]) or "",
        votes=votes,
        subject=cast("str | None", row["subject"]) or "",
    )


def read_vote(row: sql.RowMapping) -> Vote:
    """Read what somebody said from its row."""
    return Vote(
        by=cast("str", row["by"]),
        decision=cast("Decision", row["decision"]),
        at=cast("datetime", row["at"]),
        reason=cast("str", row["reason"]),
        channel=cast("str", row["channel"]),
    )


def read_grant(row: sql.RowMapping) -> Grant:
    """Read a grant from its row; columns and attributes have the same names."""
    return Grant(**cast("_GrantRow", dict(row)))


def read_approver(row: sql.RowMapping) -> Approver:
    """Read an approver from their row."""
    return Approver(
        name=cast("AgentName", row["name"]),
        subject=cast("str", row["subject"]),
        roles=tuple(map(RoleName, cast("list[str]", json.loads(cast("str", row["roles"]))))),
        added_at=cast("datetime", row["added_at"]),
        added_by=cast("str", row["added_by"]),
    )
