"""Which credentials a request to rotate is about; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.errors import RotationUnknownError
from orchestrator.model.admin import RotateRequest
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Rotation
from orchestrator.model.status import CredentialStatus
from orchestrator.rotation.schedule import Due


@dataclass(frozen=True, slots=True)
class Choice:
    """What a request is about.

    Attributes:
        wanted: What is replaced, in this order.
        left: What would be meant as well and is not touched now: tokens that a person has to hand
            over, and, of what is due, all upstream credentials but the first.
    """

    wanted: tuple[Due, ...]
    left: tuple[Due, ...]


def choose(dues: Iterable[Due], request: RotateRequest, roles: Sequence[RoleName]) -> Choice:
    """Choose what a request is about.

    A token that a person has to hand over is replaced only if its agent is named: its text is
    shown to whoever asks, this once.

    Args:
        dues: Every current credential.
        request: The request.
        roles: The roles, from the least to the most power.
    """
    rank = {role: number for number, role in enumerate(roles)}
    meant = [
        due
        for due in dues
        if (due.role in request.roles if request.roles else due.role in rank)
        and request.purpose in (None, due.purpose)
        and request.agent in (None, due.agent)
        and (due.is_due or not request.due)
    ]
    # An agent that has several tokens is meant once.
    single = {(due.role, due.purpose, due.agent): due for due in reversed(meant)}
    wanted: list[Due] = []
    left: list[Due] = []
    for due in sorted(
        single.values(),
        key=lambda due: (rank.get(due.role, len(rank)), due.purpose, due.agent),
    ):
        is_second = request.due and due.purpose == "upstream" and _has_upstream(wanted)
        waits = due.by_hand and request.agent is None
        (left if is_second or waits else wanted).append(due)
    return Choice(tuple(wanted), tuple(left))


def _has_upstream(dues: Iterable[Due]) -> bool:
    return any(due.purpose == "upstream" for due in dues)


def less(dues: Iterable[Due], rotations: Iterable[Rotation]) -> tuple[Due, ...]:
    """Tell what is left when these rotations were begun."""
    begun = {(one.role, one.purpose, one.agent) for one in rotations}
    return tuple(due for due in dues if (due.role, due.purpose, due.agent) not in begun)


def nothing_to_do(request: RotateRequest, left: Sequence[Due]) -> RotationUnknownError:
    """Say why a request is about nothing."""
    if left:
        first = left[0]
        return RotationUnknownError(
            f"the token of {first.agent} for {first.role} is handed over by a person; "
            "nothing was done",
            hint=f"`agents rotate {first.role} --agent {first.agent}` shows the new one, once.",
        )
    what = "credential" if request.purpose is None else f"{request.purpose} credential"
    if request.agent is not None:
        what = f"token of agent {request.agent}"
    where = " or ".join(request.roles) or "any role"
    return RotationUnknownError(
        f"there is no {what} of {where} that could be replaced",
        hint="`agents rotate status` lists those that can. An upstream credential needs "
        "`rotation: {upstream: ...}` in its role file, a token somebody who has it.",
    )


def describe_due(due: Due) -> CredentialStatus:
    """Tell a credential's age and end; nothing of it is secret."""
    return CredentialStatus(
        role=due.role,
        purpose=due.purpose,
        agent=due.agent,
        credential=due.credential,
        issued_at=due.issued_at,
        expires_at=due.expires_at,
        due_at=due.due_at,
        is_due=due.is_due,
        warning=due.warning,
        by_hand=due.by_hand,
        note=due.note,
    )
