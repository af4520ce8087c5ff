"""What agents and people are told about approvals, in words."""

from datetime import timedelta

from orchestrator.errors import (
    ApprovalClosedError,
    ApprovalDeniedError,
    ApprovalRequiredError,
    ApprovalTakenError,
    BusyError,
)
from orchestrator.model.approval import Approval
from orchestrator.model.base import format_duration

_AGAIN = "Then make exactly this call again, with the same arguments."


def required(approval: Approval, before: Approval | None) -> ApprovalRequiredError:
    """Tell an agent that people have to approve its call.

    Args:
        approval: What waits for them.
        before: What there was of the same call before, if it does not count any more.
    """
    lasts = format_duration(timedelta(seconds=approval.lasts_seconds))
    who = "A person has" if approval.quorum == 1 else f"{approval.quorum} people have"
    return ApprovalRequiredError(
        f"{who} to approve this call of {approval.asked.tool}: {approval.id}{_why(before)}; "
        "nothing was done",
        approval=approval.id,
        required_action=(
            f"Ask a person to look at it and to decide: `agents approvals show {approval.id}`, "
            f"then `agents approvals approve {approval.id}`. {_AGAIN} "
            f"It waits for {lasts}, and an approval is good for one call within {lasts}."
        ),
        hint=f"See it with `agents approvals show {approval.id}`.",
    )


def denied(approval: Approval) -> ApprovalDeniedError:
    """Tell an agent that somebody said no."""
    reason = next((vote.reason for vote in approval.votes if vote.decision == "deny"), "")
    said = f" ({reason})" if reason else ""
    return ApprovalDeniedError(
        f"A person denied this call of {approval.asked.tool}{said}: {approval.id}; "
        "nothing was done",
        approval=approval.id,
        required_action="Do not make this call again. Ask the person what to do instead.",
    )


def taken(name: str) -> ApprovalTakenError:
    """Tell an agent that its approval belongs to another call."""
    return ApprovalTakenError(
        f"{name} is used by an equal call, or was used up; nothing was done",
        approval=name,
        required_action=(
            "Wait for the other call's result. If this one is meant to be made as well, make it "
            "again then: it asks for an approval of its own."
        ),
    )


def too_many(most: int, rule: str) -> BusyError:
    """Tell an agent that it has asked for enough."""
    return BusyError(
        f"{most} calls of this agent wait for people already; nothing was done",
        rule=rule,
        retry_after_ms=60_000,
    )


def closed(approval: Approval, *, is_older: bool = False) -> ApprovalClosedError:
    """Tell a person that nothing can be decided any more."""
    if is_older:
        why = "was asked for under another policy of its role than today's"
    elif approval.state == "pending":
        why = "was changed by somebody else just now"
    else:
        why = f"is {approval.state}"
    return ApprovalClosedError(
        f"{approval.id} {why}; nothing was changed",
        approval=approval.id,
        hint="The agent has to make its call again; that asks anew.",
    )


def _why(before: Approval | None) -> str:
    """Tell why an earlier approval of the same call does not count."""
    if before is None:
        return ""
    if before.state == "used":
        return f" ({before.id} was used by an earlier call, and is good for one)"
    if before.state in {"pending", "approved"}:
        return f" ({before.id} was asked for under an earlier policy)"
    if before.state == "expired":
        return f" (the time of {before.id} is over)"
    return ""
