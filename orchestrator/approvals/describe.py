"""What the control socket tells of approvals, grants and approvers, as JSON.

`approvals` answers a list of `describe_approval`, the newest first, without `diff`.
`approval`, `approval.link` and `approval.decide` answer one of it, with `diff`:

    {"id": "ap-7k3m9q2x", "state": "pending" | "approved" | "denied" | "expired" | "used",
     "role": "executor", "agent": "workstation", "tool": "send_transaction",
     "subject": "the agent as its identity provider calls it, or empty",
     "class": "READ" | "WRITE" | "DESTRUCTIVE", "rule": "approval.destructive",
     "arguments": {...} | null,            # null: dropped some time after the decision
     "arguments_sha256": "64 hex digits", "policy": "12 hex digits", "request_id": "...",
     "receipt": "lines of text",           # never empty
     "warnings": ["what could not be read", ...],
     "digest": "64 hex digits",            # `approval.decide` has to name it
     "quorum": 1, "missing": 1,            # how many more people have to approve
     "votes": [{"by": "alice", "decision": "approve" | "deny", "at": "2026-11-05T12:00:00Z",
                "reason": "", "channel": "socket" | "link"}, ...],
     "created_at": "...Z", "expires_at": "...Z", "decided_at": "...Z" | null,
     "used_at": "...Z" | null, "used_by": "request id, or empty",
     "diff": null                          # there is no earlier approved call of this tool here
             | {"against": "ap-...", "decided_at": "...Z",
                "receipt": ["  line", "- line", "+ line", ...],
                "arguments": [{"place": "to", "before": json | null, "after": json | null,
                               "kind": "added" | "removed" | "changed"}, ...]}}

`approval.link` adds `"approver": "the name that the link is for, or empty"`.
`grants` answers a list of `describe_grant`; `grant` and `grant.end` one.
`approvers` answers `{"approvers": [describe_approver, ...], "operator": "operator:alice" | null}`:
the operator decides as long as no approver is named; `approver.add` and `approver.remove` one.
`approver.login` answers `{"ticket": "...", "name": "...", "idle_seconds": 900}`.
All texts are as agents wrote them: whoever shows them neutralises what a page or terminal obeys.
"""

from datetime import datetime

from orchestrator.model.approval import Approval, Approver, Grant, Vote
from orchestrator.model.base import Json, JsonObject


def describe_approval(approval: Approval) -> JsonObject:
    """Tell an approval."""
    return {
        "id": approval.id,
        "state": approval.state,
        "role": approval.asked.role,
        "agent": approval.asked.agent,
        "subject": approval.subject,
        "tool": approval.asked.tool,
        "class": approval.kind,
        "rule": approval.rule,
        "arguments": approval.arguments,
        "arguments_sha256": approval.asked.arguments_sha256,
        "policy": approval.asked.policy,
        "request_id": approval.request_id,
        "receipt": approval.receipt,
        "warnings": [*approval.warnings],
        "digest": approval.digest,
        "quorum": approval.quorum,
        "missing": missing(approval),
        "votes": [_describe_vote(vote) for vote in approval.votes],
        "created_at": iso(approval.created_at),
        "expires_at": iso(approval.expires_at),
        "decided_at": _moment(approval.decided_at),
        "used_at": _moment(approval.used_at),
        "used_by": approval.used_by,
    }


def describe_grant(grant: Grant, now: datetime, policy: str | None) -> JsonObject:
    """Tell a grant.

    Args:
        grant: The grant.
        now: The time.
        policy: Revision of its role's policy now; None if nobody knows.
    """
    return {
        "id": grant.id,
        "state": _state_of(grant, now, policy),
        "role": grant.role,
        "tool": grant.tool,
        "agent": grant.agent,
        "calls": grant.calls,
        "used": grant.used,
        "policy": grant.policy,
        "created_at": iso(grant.created_at),
        "expires_at": iso(grant.expires_at),
        "by": grant.by,
        "reason": grant.reason,
        "ended_at": _moment(grant.ended_at),
        "ended_by": grant.ended_by,
    }


def describe_approver(approver: Approver) -> JsonObject:
    """Tell an approver."""
    return {
        "name": approver.name,
        "subject": approver.subject,
        "roles": [*approver.roles],
        "added_at": iso(approver.added_at),
        "added_by": approver.added_by,
    }


def missing(approval: Approval) -> int:
    """Tell how many more people have to approve."""
    said = {vote.by for vote in approval.votes if vote.decision == "approve"}
    return max(0, approval.quorum - len(said)) if approval.state == "pending" else 0


def iso(moment: datetime) -> str:
    """Write a moment."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(moment: datetime | None) -> Json:
    return None if moment is None else iso(moment)


def _describe_vote(vote: Vote) -> JsonObject:
    return {
        "by": vote.by,
        "decision": vote.decision,
        "at": iso(vote.at),
        "reason": vote.reason,
        "channel": vote.channel,
    }


def _state_of(grant: Grant, now: datetime, policy: str | None) -> str:
    if grant.ended_at is not None:
        return "ended"
    if grant.expires_at <= now:
        return "expired"
    if grant.calls is not None and grant.used >= grant.calls:
        return "used up"
    if policy is not None and policy != grant.policy:
        return "other policy"
    return "active"
