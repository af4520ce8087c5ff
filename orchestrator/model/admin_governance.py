"""Requests of the control socket that govern calls: approvals, guards, incidents."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr

from orchestrator.model.base import Model, PositiveDuration
from orchestrator.model.names import AgentField, RoleField, ToolField
from orchestrator.model.notify import TargetField

ApprovalState: TypeAlias = Literal["pending", "approved", "denied", "expired", "used"]
Decision: TypeAlias = Literal["approve", "deny"]
Reason = Annotated[str, Field(max_length=500)]
# A default is none of JSON's types, so it is taken as it is.
MaybeSecret = Annotated[SecretStr, Field(validate_default=False)]
Roles = Annotated[tuple[RoleField, ...], Field(strict=False)]


class ApprovalsRequest(Model):
    """List approvals, the newest first.

    Attributes:
        role: Of one role, None for all.
        state: In one state, None for all.
        limit: How many at most.
    """

    op: Literal["approvals"] = "approvals"
    role: RoleField | None = None
    state: ApprovalState | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ApprovalRequest(Model):
    """Tell all of one approval, with what will happen and what differs from the last one."""

    op: Literal["approval"] = "approval"
    id: str


class ApprovalDecideRequest(Model):
    """Have a person's word on a call.

    Attributes:
        id: The approval.
        decision: The word.
        digest: Names what the person was shown; anything else is refused.
        reason: Why, in words.
        ticket: Who it is, as `approver.login` told; empty for the operator of this machine.
        link: The signed link that the person followed, instead of a ticket; empty for none.
    """

    op: Literal["approval.decide"] = "approval.decide"
    id: str
    decision: Decision
    digest: str
    reason: Reason = ""
    ticket: MaybeSecret = SecretStr("")
    link: MaybeSecret = SecretStr("")


class LinkRequest(Model):
    """Tell the approval that a signed link is for; it decides nothing."""

    op: Literal["approval.link"] = "approval.link"
    link: SecretStr


class GrantsRequest(Model):
    """List standing grants."""

    op: Literal["grants"] = "grants"
    role: RoleField | None = None


class GrantRequest(Model):
    """Approve calls of a tool beforehand, for a time.

    Attributes:
        role: The role.
        tool: The tool.
        agent: Only of this agent; None for each of the role.
        lasts: For how long.
        calls: How many calls at most; None for any number.
        reason: Why, in words.
        ticket: Who grants it; empty for the operator.
    """

    op: Literal["grant"] = "grant"
    role: RoleField
    tool: ToolField
    agent: AgentField | None = None
    lasts: PositiveDuration
    calls: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    reason: Reason
    ticket: MaybeSecret = SecretStr("")


class GrantEndRequest(Model):
    """End a standing grant."""

    op: Literal["grant.end"] = "grant.end"
    id: str
    reason: Reason = ""
    ticket: MaybeSecret = SecretStr("")


class ApproversRequest(Model):
    """List the people who may approve."""

    op: Literal["approvers"] = "approvers"


class ApproverAddRequest(Model):
    """Name a person who may approve; from the first one on nobody else may.

    Attributes:
        name: The person.
        passphrase: What proves that it is this person.
        subject: The person as the identity provider of agents calls them; they approve nothing
            that was asked for in their own name.
        roles: For which roles only; empty for all.
        ticket: Who says so: another approver, where there is one already.
    """

    op: Literal["approver.add"] = "approver.add"
    name: AgentField
    passphrase: SecretStr
    subject: str = ""
    roles: Roles = ()
    ticket: MaybeSecret = SecretStr("")


class ApproverRemoveRequest(Model):
    """Take an approver's right away."""

    op: Literal["approver.remove"] = "approver.remove"
    name: AgentField
    ticket: MaybeSecret = SecretStr("")


class ApproverLoginRequest(Model):
    """Prove to be an approver; the answer has a `ticket` that is good for a while."""

    op: Literal["approver.login"] = "approver.login"
    name: AgentField
    passphrase: SecretStr


class ConsoleNoteRequest(Model):
    """Record something about the console itself: who tried to get in, and how it went."""

    op: Literal["console.note"] = "console.note"
    event: Literal[
        "console.opened",
        "console.login",
        "console.login_refused",
        "console.login_replayed",
        "console.form_refused",
        "console.request_refused",
    ]


class ConsoleHereRequest(Model):
    """Say that a console is there; it is taken to be gone a minute later.

    Attributes:
        url: Where people elsewhere open signed links; empty where there is none, or it has ended.
    """

    op: Literal["console.here"] = "console.here"
    url: Annotated[str, Field(pattern=r"^(https://[A-Za-z0-9.:-]{1,255})?$")]


ConsoleOrder: TypeAlias = ConsoleNoteRequest | ConsoleHereRequest

ApprovalOrder: TypeAlias = (
    ApprovalsRequest
    | ApprovalRequest
    | ApprovalDecideRequest
    | LinkRequest
    | GrantsRequest
    | GrantRequest
    | GrantEndRequest
    | ApproversRequest
    | ApproverAddRequest
    | ApproverRemoveRequest
    | ApproverLoginRequest
)


class GuardsRequest(Model):
    """Tell everything that is held back: frozen, disabled, in shadow."""

    op: Literal["guards"] = "guards"


class FreezeRequest(Model):
    """Refuse calls, from the next one on.

    Attributes:
        role: Of one role; None for all.
        read_only: Let calls of READ tools through.
        reason: Why, in words.
    """

    op: Literal["freeze"] = "freeze"
    role: RoleField | None = None
    read_only: bool = False
    reason: Reason = ""


class ThawRequest(Model):
    """End a freeze: that of one role, or the one of all roles."""

    op: Literal["thaw"] = "thaw"
    role: RoleField | None = None
    reason: Reason = ""


class DisableRequest(Model):
    """Refuse calls of a tool, at one role or at all."""

    op: Literal["disable"] = "disable"
    tool: ToolField
    role: RoleField | None = None
    reason: Reason = ""


class EnableRequest(Model):
    """Allow them again."""

    op: Literal["enable"] = "enable"
    tool: ToolField
    role: RoleField | None = None
    reason: Reason = ""


class ShadowStartRequest(Model):
    """Record calls that change something, and make none of them, for a time.

    Attributes:
        role: The role.
        tool: One tool only; None for all that are not READ.
        lasts: For how long.
        reason: Why, in words.
    """

    op: Literal["shadow.start"] = "shadow.start"
    role: RoleField
    tool: ToolField | None = None
    lasts: PositiveDuration
    reason: Reason = ""


class ShadowStopRequest(Model):
    """Have calls made again."""

    op: Literal["shadow.stop"] = "shadow.stop"
    role: RoleField
    tool: ToolField | None = None
    reason: Reason = ""


class ShadowReportRequest(Model):
    """Tell the calls that were not made."""

    op: Literal["shadow.report"] = "shadow.report"
    role: RoleField | None = None
    since: PositiveDuration | None = None


GuardOrder: TypeAlias = (
    GuardsRequest
    | FreezeRequest
    | ThawRequest
    | DisableRequest
    | EnableRequest
    | ShadowStartRequest
    | ShadowStopRequest
    | ShadowReportRequest
)


class IncidentsRequest(Model):
    """Tell incidents: one by its id, or all."""

    op: Literal["incidents"] = "incidents"
    id: str | None = None


class IncidentStartRequest(Model):
    """Freeze a role, revoke its tokens, cut its streams, export its record, tell its owner."""

    op: Literal["incident.start"] = "incident.start"
    role: RoleField
    reason: Annotated[str, Field(min_length=3, max_length=500)]


class IncidentCloseRequest(Model):
    """Undo of an incident what may be undone, each step checked."""

    op: Literal["incident.close"] = "incident.close"
    id: str
    reason: Reason = ""


class NotifyTestRequest(Model):
    """Send a test message to one target, or to all.

    Attributes:
        target: The target, None for all.
    """

    op: Literal["notify.test"] = "notify.test"
    target: TargetField | None = None


IncidentOrder: TypeAlias = IncidentsRequest | IncidentStartRequest | IncidentCloseRequest
GovernanceRequest: TypeAlias = (
    ApprovalOrder | GuardOrder | IncidentOrder | NotifyTestRequest | ConsoleOrder
)
