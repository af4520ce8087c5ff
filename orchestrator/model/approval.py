"""Approvals as data: what has to be asked for, what was asked, who said what, who may say it."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.model.admin_governance import ApprovalState, Decision
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, ToolName
from orchestrator.model.server import ToolClass


@dataclass(frozen=True, slots=True)
class Demand:
    """What a role asks people for before a tool is called.

    Attributes:
        rule: Which rule does, as its place in the role file.
        quorum: How many different people have to approve a call.
        lasts: How long a call waits for people, and then, approved, for being made.
    """

    rule: str
    quorum: int
    lasts: timedelta


@dataclass(frozen=True, slots=True)
class Asked:
    """What an approval is bound to: one call, of one agent, under one policy.

    Attributes:
        role: The role.
        agent: Who asks.
        tool: The tool.
        arguments_sha256: Names the arguments.
        policy: Revision of the policy.
    """

    role: RoleName
    agent: AgentName
    tool: ToolName
    arguments_sha256: str
    policy: str


@dataclass(frozen=True, slots=True)
class Wish:
    """One call that has come, and may be made only by an approval.

    Attributes:
        asked: What its approval would be bound to.
        kind: The tool's class.
        demand: What its role asks for.
        arguments: Its arguments.
        receipt: How the tool's calls are told to people; empty for all arguments as they are.
        request_id: The request.
        subject: Who asks as the agents' identity provider calls them, empty if it does not.
    """

    asked: Asked
    kind: ToolClass
    demand: Demand
    arguments: JsonObject
    receipt: str
    request_id: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said.

    Attributes:
        by: Who; `operator:NAME` for the operator of this machine.
        decision: What.
        at: When.
        reason: Why, in words; may be empty.
        channel: How it came: `socket`, or `link`.
    """

    by: str
    decision: Decision
    at: datetime
    reason: str = ""
    channel: str = "socket"


@dataclass(frozen=True, slots=True)
class Approval:
    """One call that waits, or waited, for people.

    Attributes:
        id: Its name, such as `ap-7k3m9q2x`.
        asked: What it is bound to.
        kind: The tool's class.
        rule: Which rule asks for it, as its place in the role file.
        state: Where it is.
        arguments: What the call was asked with; None when they were dropped again.
        receipt: What will happen, in lines for a person.
        warnings: What a person should know beside it: what could not be read, above all.
        digest: Names all that a person is shown; a decision has to name it, too.
        quorum: How many people have to approve.
        lasts_seconds: How long it waits for people, and then for its call.
        created_at: When it was asked for.
        expires_at: When its time is over.
        request_id: The request that asked first.
        decided_at: When the last person needed said so, or None.
        used_at: When its call was about to be made, or None.
        used_by: The request that was made by it, empty if none was.
        votes: What people said, the first first.
        subject: Who asked as the agents' identity provider calls them, empty if it does not.
    """

    id: str
    asked: Asked
    kind: ToolClass
    rule: str
    state: ApprovalState
    arguments: JsonObject | None
    receipt: str
    warnings: tuple[str, ...]
    digest: str
    quorum: int
    lasts_seconds: int
    created_at: datetime
    expires_at: datetime
    request_id: str
    decided_at: datetime | None = None
    used_at: datetime | None = None
    used_by: str = ""
    votes: tuple[Vote, ...] = ()
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """A standing approval of a tool's calls, for a time.

    Attributes:
        id: Its name, such as `gr-7k3m9q2x`.
        role: The role.
        tool: The tool.
        policy: Revision of the policy that it was given under; another one ends it.
        agent: Only for this agent; None for each of the role.
        calls: How many calls at most; None for any number.
        used: How many there were.
        created_at: When it was given.
        expires_at: When its time is over.
        by: Who gave it.
        subject: The same person as the agents' identity provider calls them, if it does.
        reason: Why, in words.
        ended_at: When somebody ended it, or None.
        ended_by: Who did, empty if nobody.
    """

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
    ended_at: datetime | None = None
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Approver:
    """A person who may approve.

    Attributes:
        name: Their name.
        subject: Them as the agents' identity provider calls them, empty if it does not.
        roles: For which roles only; empty for all.
        added_at: Since when.
        added_by: Who said so.
    """

    name: AgentName
    subject: str
    roles: tuple[RoleName, ...]
    added_at: datetime
    added_by: str


def fold(name: str) -> str:
    """Write a name as everybody writes it who means the same person."""
    return unicodedata.normalize("NFKC", name).casefold()


def are_one(some: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether names speak of the same person; empty ones speak of nobody."""
    return bool({fold(name) for name in some if name} & {fold(name) for name in others if name})
