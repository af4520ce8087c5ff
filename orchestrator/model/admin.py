"""Requests and replies of the control socket: one JSON object a line, in both directions.

A client sends one request; the daemon answers with any number of `progress` replies and ends with
one `result` or one `failure`. A closed connection without either means that the daemon went away.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr, TypeAdapter

from orchestrator.model.admin_governance import GovernanceRequest
from orchestrator.model.base import HIDE_INPUT, Duration, Json, JsonObject, Model
from orchestrator.model.desired import Desired
from orchestrator.model.names import AgentField, RoleField
from orchestrator.model.rotation import Purpose
from orchestrator.model.settings import AttachField


class StatusRequest(Model):
    """Ask for the project's status; with `follow`, again at every change."""

    op: Literal["status"] = "status"
    follow: bool = False


class ApplyRequest(Model):
    """Make the project run exactly this."""

    op: Literal["apply"] = "apply"
    desired: Desired


class RestartRequest(Model):
    """Replace a role's instance by a new one."""

    op: Literal["restart"] = "restart"
    role: RoleField


class AttachRequest(Model):
    """Have the server at another address serve a role whose servers somebody else starts."""

    op: Literal["attach"] = "attach"
    role: RoleField
    url: AttachField


class ShutdownRequest(Model):
    """Drain, stop every instance, and leave the engine ready to be stopped."""

    op: Literal["shutdown"] = "shutdown"


class TokenIssueRequest(Model):
    """Issue a token."""

    op: Literal["token.issue"] = "token.issue"
    role: RoleField
    agent: AgentField
    ttl: Duration


class TokenListRequest(Model):
    """List tokens, never their text."""

    op: Literal["token.list"] = "token.list"


class TokenRevokeRequest(Model):
    """Revoke a token by its id."""

    op: Literal["token.revoke"] = "token.revoke"
    id: str


class TokenDenyRequest(Model):
    """Refuse access tokens of an identity provider: one, or all that a subject has so far.

    Attributes:
        id: The token, as records call it.
        jti: The token, as the identity provider calls it.
        subject: The subject.
    """

    op: Literal["token.deny"] = "token.deny"
    id: str = ""
    jti: str = ""
    subject: str = ""


class PinsListRequest(Model):
    """List what is pinned, of one role or of all."""

    op: Literal["pins.list"] = "pins.list"
    role: RoleField | None = None


class PinsDiffRequest(Model):
    """Tell what differs between a role's pins and its live tools."""

    op: Literal["pins.diff"] = "pins.diff"
    role: RoleField


class PinsApproveRequest(Model):
    """Pin what a role shows now, if it is still what the operator saw."""

    op: Literal["pins.approve"] = "pins.approve"
    role: RoleField
    expect: str


class RotateRequest(Model):
    """Replace credentials.

    Attributes:
        roles: The roles, none for all.
        purpose: Which of their two credentials, None for both.
        agent: Only the tokens of this agent.
        due: Only what is due.
        dry_run: Tell what would be done, and do nothing.
        reason: Why, in words.
    """

    op: Literal["rotate"] = "rotate"
    roles: Annotated[tuple[RoleField, ...], Field(strict=False)] = ()
    purpose: Purpose | None = None
    agent: AgentField | None = None
    due: bool = False
    dry_run: bool = False
    reason: str = ""


class RotationsRequest(Model):
    """Tell rotations: one by its id, or those of a role, or all; with due times and warnings."""

    op: Literal["rotations"] = "rotations"
    id: str | None = None
    role: RoleField | None = None


class RotationActRequest(Model):
    """Have a person's word on a rotation: go on, take it back, or say that the old one is dead."""

    op: Literal["rotation.act"] = "rotation.act"
    id: str
    act: Literal["resume", "abort", "approve-revoke"]


class RotationProvideRequest(Model):
    """Hand over a credential that a person made."""

    op: Literal["rotation.provide"] = "rotation.provide"
    id: str
    value: SecretStr


class RevokeAllRequest(Model):
    """End every credential of some roles at once, and keep the roles down.

    Attributes:
        roles: The roles; empty means all, and only with `everything`.
        everything: Says that all roles are meant.
        reason: Why, in words.
    """

    op: Literal["revoke-all"] = "revoke-all"
    roles: Annotated[tuple[RoleField, ...], Field(strict=False)] = ()
    everything: bool = False
    reason: str


class ReopenRequest(Model):
    """Let a role run again whose credentials were all revoked."""

    op: Literal["reopen"] = "reopen"
    role: RoleField


CredentialRequest: TypeAlias = (
    RotateRequest
    | RotationsRequest
    | RotationActRequest
    | RotationProvideRequest
    | RevokeAllRequest
    | ReopenRequest
)
Request: TypeAlias = Annotated[
    StatusRequest
    | ApplyRequest
    | RestartRequest
    | AttachRequest
    | ShutdownRequest
    | TokenIssueRequest
    | TokenListRequest
    | TokenRevokeRequest
    | TokenDenyRequest
    | PinsListRequest
    | PinsDiffRequest
    | PinsApproveRequest
    | CredentialRequest
    | GovernanceRequest,
    Field(discriminator="op"),
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request, config=HIDE_INPUT)


class Progress(Model):
    """Something that happened on the way."""

    type: Literal["progress"] = "progress"
    body: JsonObject


class Result(Model):
    """The answer."""

    type: Literal["result"] = "result"
    body: Json


class Failure(Model):
    """The request failed; `code`, `exit_code` and `hint` are those of the error."""

    type: Literal["failure"] = "failure"
    code: str
    message: str
    hint: str | None = None
    exit_code: int


Reply: TypeAlias = Annotated[Progress | Result | Failure, Field(discriminator="type")]
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply, config=HIDE_INPUT)
