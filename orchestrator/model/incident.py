"""An incident: what was done when a role went wrong, and what was undone later."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from orchestrator.model.base import Model
from orchestrator.model.names import RoleField

StepName: TypeAlias = Literal[
    "freeze", "revoke", "cut", "export", "notify", "reissue", "thaw", "tell"
]
# In their order; each is on disk before the next begins.
START_STEPS: tuple[StepName, ...] = ("freeze", "revoke", "cut", "export", "notify")
CLOSE_STEPS: tuple[StepName, ...] = ("reissue", "thaw", "tell")
# `opening`: steps of the start are under way; `open`: they are done, somebody looks into it;
# `closing`: steps of the close are under way; `closed`: they are done.
IncidentState: TypeAlias = Literal["opening", "open", "closing", "closed"]


class IncidentStep(Model):
    """One step that was taken.

    Attributes:
        name: Which.
        at: When it was done.
        took_ms: How long it took.
        ok: Whether it was seen to be done; if not, `note` says what a person has to do.
        note: What was done, in words.
        facts: The same for programs: counts, files, ids.
    """

    name: StepName
    at: datetime
    took_ms: float
    ok: bool
    note: str
    facts: dict[str, str | int | bool] = Field(default_factory=dict)


class Incident(Model):
    """One incident; the answer to `incidents` (a list), `incident.start` and `incident.close`.

    Attributes:
        id: Its id.
        role: The role.
        state: How far it is.
        reason: Why it was started.
        by: Who started it.
        started_at: When.
        steps: What was done at the start, in order.
        close_reason: Why it was closed; empty as long as it is not.
        closed_by: Who closed it; empty like the reason.
        closed_at: When its closing began; None like the reason.
        close_steps: What was done at the close, in order.
        remaining: What cannot be undone, or was left as it is; one sentence each.
        durable: Whether all of it is on disk. Else it holds, and is tried to be written.
    """

    id: str
    role: RoleField
    state: IncidentState
    reason: str
    by: str
    started_at: datetime
    steps: Annotated[tuple[IncidentStep, ...], Field(strict=False)] = ()
    close_reason: str = ""
    closed_by: str = ""
    closed_at: datetime | None = None
    close_steps: Annotated[tuple[IncidentStep, ...], Field(strict=False)] = ()
    remaining: Annotated[tuple[str, ...], Field(strict=False)] = ()
    durable: bool = True
