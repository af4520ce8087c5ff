"""Requests and replies of the control socket: one JSON object a line, in both directions.

A client sends one request; the daemon answers with any number of `progress` replies and ends with
one `result` or one `failure`. A closed connection without either means that the daemon went away.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from orchestrator.model.base import Duration, Json, JsonObject, Model
from orchestrator.model.desired import Desired
from orchestrator.model.names import AgentField, RoleField


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


Request: TypeAlias = Annotated[
    StatusRequest
    | ApplyRequest
    | RestartRequest
    | ShutdownRequest
    | TokenIssueRequest
    | TokenListRequest
    | TokenRevokeRequest
    | PinsListRequest
    | PinsDiffRequest
    | PinsApproveRequest,
    Field(discriminator="op"),
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


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
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
