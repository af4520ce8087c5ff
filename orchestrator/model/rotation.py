"""A rotation as data: what is replaced, how far it came, and what a role file says of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from orchestrator.model.base import Duration, Json, Model, PositiveDuration
from orchestrator.model.names import AgentField, RoleField, ToolField

Purpose: TypeAlias = Literal["agent", "upstream"]
# No credential grows older than this, whatever a role file says.
OLDEST = timedelta(days=90)

IssuerField = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class State(StrEnum):
    """How far a rotation came; each is on disk before the next step is taken."""

    PLANNED = "planned"  # id, name, old credential, reason and requester are written
    MINTING = "minting"  # the issuer may have been asked
    STAGED = "staged"  # the new credential is kept, as pending
    VERIFIED = "verified"  # something works with the new one
    PROMOTED = "promoted"  # the new one is current: whatever starts now starts with it
    SWITCHED = "switched"  # nothing new goes to the old one
    DRAINED = "drained"  # nothing uses the old one any more
    REVOKING = "revoking"  # its end was asked for
    DONE = "done"  # the old one was seen refused and the new one accepted
    ROLLING_BACK = "rolling-back"  # back to the old one
    ABORTING = "aborting"  # the new one is being taken back
    FAILED = "failed"  # the old one works as before, the new one is gone
    HELD = "held"  # a person has to do something


FINISHED = frozenset({State.DONE, State.FAILED})


class Rotation(Model):
    """One rotation.

    Attributes:
        id: Its id, 12 lower-case hexadecimal digits.
        role: The role.
        purpose: `agent` for the token that an agent shows the gateway, `upstream` for what the
            role's server shows others.
        agent: Whose token it is; empty for `upstream`.
        state: How far it came.
        held_at: While it is held, the state that it goes back to.
        held_for: While it is held, what a person has to do, in a sentence.
        attempt: Counts what was asked of the issuer.
        old: The credential that ends: a token's id or a version; empty if there is none.
        new: The credential that begins; empty before it is known.
        reason: Why, in words.
        requested_by: Who asked for it.
        error: What went wrong last, in words without any secret; empty if nothing did.
        tries: Failures in a row at this state.
        not_before: When the next try is made, or None.
        created_at: When it was planned.
        changed_at: When anything of it changed last: its state, or a try failed.
        moments: When each state was reached first.
        receipt: What was seen at the end, None before.
    """

    id: str
    role: RoleField
    purpose: Purpose
    agent: str = ""
    state: State
    held_at: State | None = None
    held_for: str = ""
    attempt: Annotated[int, Field(ge=1)] = 1
    old: str = ""
    new: str = ""
    reason: str = ""
    requested_by: str = ""
    error: str = ""
    tries: int = 0
    not_before: datetime | None = None
    created_at: datetime
    changed_at: datetime
    moments: dict[State, datetime] = Field(default_factory=dict)
    receipt: dict[str, Json] | None = None


class Closure(Model):
    """An order to end everything of some roles; kept from its beginning to its receipt.

    Attributes:
        id: Its id, and its receipt's.
        roles: The roles.
        reason: Why, in words.
        requested_by: Who asked for it.
        requested_at: When.
    """

    id: str
    roles: Annotated[tuple[RoleField, ...], Field(strict=False)]
    reason: str
    requested_by: str
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Drain:
    """How the end of an old generation went.

    Attributes:
        left: Calls that are still in flight; its processes then still run.
        oldest: Seconds since the oldest of them was sent, 0 if there is none.
    """

    left: int
    oldest: float = 0.0


class Check(Model):
    """A harmless call that has to succeed before an instance with a new credential gets traffic.

    Attributes:
        tool: A tool of the role's of class READ.
        arguments: Its arguments.
    """

    tool: ToolField
    arguments: dict[str, Json] = Field(default_factory=dict)


class Delivery(Model):
    """Where an agent finds its new token.

    Attributes:
        file: A file, absolute or beginning with `{state}/` or `{project}/`; replaced as a whole
            and readable by its owner alone.
        command: A program that reads the token from stdin; a list of words, no shell.
    """

    file: str | None = None
    command: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class AgentRotation(Model):
    """How the tokens of a role's agents are replaced.

    Attributes:
        every: How old a token gets at most; it is replaced some days earlier. A token that was
            issued for a shorter time is followed by one of that time.
        overlap: How long the old one works beside the new one at most. Then new calls with it are
            refused; those under way that change something end by themselves.
        quiet: How long the old one has to be unused before it is revoked.
        deliver: Where agents find new tokens, by name. The workstation's own is always known; an
            agent that is not named gets its token by hand, with `agents rotate`.
    """

    every: PositiveDuration = OLDEST
    overlap: Duration = timedelta(hours=24)
    quiet: Duration = timedelta(minutes=5)
    deliver: dict[AgentField, Delivery] = Field(default_factory=dict)


class UpstreamRotation(Model):
    """How the credential of a role's server is replaced.

    Attributes:
        issuer: Who makes it: a name under `issuers:` in `agents.yaml`. Variables take it by
            `issued:` or `issued:FIELD` under `secrets:`. Left out where `vault-lease:` references
            say it.
        every: How old it gets at most; it is replaced some days earlier, or before it expires.
        soak: How long the old instance stays idle beside the new one before it is stopped.
        hold: How long calls may wait where the issuer knows no overlap; those in flight have half
            of it to end, the other half is for the new credential.
        prove_within: How long the issuer may take to refuse the old one.
        check: A harmless call that has to succeed with the new one.
    """

    issuer: IssuerField | None = None
    every: PositiveDuration = OLDEST
    soak: Duration = timedelta(seconds=60)
    hold: PositiveDuration = timedelta(seconds=20)
    prove_within: PositiveDuration = timedelta(minutes=10)
    check: Check | None = None


class RotationRule(Model):
    """How a role's credentials are replaced.

    Attributes:
        agent: The tokens that its agents show the gateway.
        upstream: The credential that its server shows others; none is rotated unless it is given.
    """

    agent: AgentRotation = AgentRotation()
    upstream: UpstreamRotation | None = None
