"""What is told of rotations and tokens as it happens."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from orchestrator.model.rotation import Rotation


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; nothing of it is secret.

    Attributes:
        name: `rotation.` or `token.` and a word.
        at: When.
        role: The role; empty for what concerns all.
        actor: Who asked for it.
        approver: Who vouched for it, if somebody did.
        purpose: `agent` or `upstream`; empty where there is no rotation.
        agent: The agent; empty if none is meant.
        rotation: The rotation's id.
        before: Its state before.
        after: Its state after.
        credential: The id or version that is meant.
        fingerprint: Tells credentials apart without telling them.
        result: What came of it, in words.
        latency: Seconds that it took.
        alarm: Whether a person should look.
    """

    name: str
    at: datetime
    role: str = ""
    actor: str = ""
    approver: str = ""
    purpose: str = ""
    agent: str = ""
    rotation: str = ""
    before: str = ""
    after: str = ""
    credential: str = ""
    fingerprint: str = ""
    result: str = ""
    latency: float | None = None
    alarm: bool = False


Tell: TypeAlias = Callable[[Event], None]


def event_of(  # noqa: PLR0913  facts of one line
    name: str,
    rotation: Rotation,
    at: datetime,
    *,
    before: str = "",
    credential: str = "",
    fingerprint: str = "",
    result: str = "",
    latency: float | None = None,
    alarm: bool = False,
) -> Event:
    """Tell something of a rotation."""
    approver = (rotation.receipt or {}).get("approved_by")
    return Event(
        name=name,
        at=at,
        role=rotation.role,
        actor=rotation.requested_by,
        approver=approver if isinstance(approver, str) else "",
        purpose=rotation.purpose,
        agent=rotation.agent,
        rotation=rotation.id,
        before=before,
        after=rotation.state,
        credential=credential or rotation.new,
        fingerprint=fingerprint,
        result=result,
        latency=latency,
        alarm=alarm,
    )
