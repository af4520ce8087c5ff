"""Which state of a rotation may follow which, as a table, and what a step says comes next; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from orchestrator.model.base import JsonObject
from orchestrator.model.rotation import FINISHED, Rotation, State

Stage: TypeAlias = Literal["pending", "current", "previous", "gone"]

# What a step may lead to. Everything unfinished may also be held, and be ended by an emergency.
TABLE: Final[Mapping[State, frozenset[State]]] = MappingProxyType({
    State.PLANNED: frozenset({State.MINTING, State.ABORTING}),
    # To itself: with another name, after the first one was lost.
    State.MINTING: frozenset({State.MINTING, State.STAGED, State.ABORTING}),
    State.STAGED: frozenset({State.VERIFIED, State.ABORTING}),
    State.VERIFIED: frozenset({State.PROMOTED, State.ABORTING}),
    State.PROMOTED: frozenset({State.SWITCHED, State.ROLLING_BACK}),
    State.SWITCHED: frozenset({State.DRAINED, State.ROLLING_BACK}),
    State.DRAINED: frozenset({State.REVOKING}),
    State.REVOKING: frozenset({State.DONE}),
    State.ROLLING_BACK: frozenset({State.ABORTING}),
    State.ABORTING: frozenset({State.FAILED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.HELD: frozenset(),
})  # fmt: skip

# While one is here, no other role's upstream credential is changed.
INSIDE: Final = frozenset(
    {
        State.MINTING,
        State.STAGED,
        State.VERIFIED,
        State.PROMOTED,
        State.SWITCHED,
        State.ROLLING_BACK,
    }
)

EVENTS: Final[Mapping[State, str]] = MappingProxyType(
    {
        State.PLANNED: "planned",
        State.MINTING: "minting",
        State.STAGED: "staged",
        State.VERIFIED: "verified",
        State.PROMOTED: "promoted",
        State.SWITCHED: "switched",
        State.DRAINED: "drained",
        State.REVOKING: "revoke_requested",
        State.ROLLING_BACK: "rolling_back",
        State.ABORTING: "aborted",
        State.DONE: "done",
        State.FAILED: "failed",
        State.HELD: "held",
    }
)


@dataclass(frozen=True, slots=True)
class Move:
    """The rotation is in another state from now on.

    Attributes:
        to: The state.
        new: The new credential, if that changes.
        attempt: What the issuer is asked for the how many-th time, if that changes.
        asks: The issuer that is about to be asked for `new`; None if none is.
        stages: What becomes of versions, in the same transaction.
        receipt: What was seen, if that changes.
        error: What went wrong, if something did.
        alarm: Whether a person should look.
    """

    to: State
    new: str | None = None
    attempt: int | None = None
    asks: str | None = None
    stages: Mapping[str, Stage] = field(default_factory=dict[str, Stage])
    receipt: JsonObject | None = None
    error: str = ""
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for some seconds; that is no failure."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A person has to do something.

    Attributes:
        why: What, in a sentence.
        stages: What becomes of versions, in the same transaction.
    """

    why: str
    stages: Mapping[str, Stage] = field(default_factory=dict[str, Stage])


Outcome: TypeAlias = Move | Wait | Hold


def place(rotation: Rotation) -> State:
    """Tell how far a rotation came, held or not."""
    return rotation.held_at or rotation.state


def is_inside(rotation: Rotation) -> bool:
    """Tell whether others have to wait.

    Not for one that waits for a person's credential, nor for a role's first one, with which no
    instance works yet.
    """
    if rotation.purpose == "agent" or not rotation.old:
        return False
    if rotation.state is State.HELD:
        return rotation.held_at in INSIDE - {State.MINTING}
    return rotation.state in INSIDE


def undo_of(rotation: Rotation) -> State | None:
    """Tell which state takes a rotation back, None if it only goes forward from where it is."""
    options = TABLE[place(rotation)]
    if State.ROLLING_BACK in options:
        return State.ROLLING_BACK if rotation.old else None
    takes_back = State.ABORTING in options and place(rotation) is not State.ROLLING_BACK
    return State.ABORTING if takes_back else None


def moved(rotation: Rotation, move: Move, now: datetime) -> Rotation:
    """Tell a rotation after a move.

    Raises:
        AssertionError: The table does not have it.
    """
    before = place(rotation)
    if move.to not in TABLE[before]:
        raise AssertionError(f"{before} is not followed by {move.to}")
    again = move.to is before
    return rotation.model_copy(
        update={
            "state": move.to,
            "held_at": None,
            "held_for": "",
            "new": rotation.new if move.new is None else move.new,
            "attempt": rotation.attempt if move.attempt is None else move.attempt,
            "receipt": rotation.receipt if move.receipt is None else move.receipt,
            "error": move.error or rotation.error,
            "tries": rotation.tries if again else 0,
            "not_before": rotation.not_before if again else None,
            "changed_at": now,
            "moments": {move.to: now, **rotation.moments},
        }
    )


def held(rotation: Rotation, why: str, now: datetime) -> Rotation:
    """Tell a rotation that waits for a person."""
    if rotation.state in FINISHED or rotation.state is State.HELD:
        raise AssertionError(f"{rotation.state} is not held")
    return rotation.model_copy(
        update={
            "state": State.HELD,
            "held_at": rotation.state,
            "held_for": why,
            "not_before": None,
            "changed_at": now,
            "moments": {State.HELD: now, **rotation.moments},
        }
    )


def released(rotation: Rotation, now: datetime, receipt: JsonObject | None = None) -> Rotation:
    """Tell a rotation that goes on where it was."""
    return rotation.model_copy(
        update={
            "state": place(rotation),
            "held_at": None,
            "held_for": "",
            "tries": 0,
            "not_before": None,
            "changed_at": now,
            "receipt": rotation.receipt if receipt is None else receipt,
        }
    )


def stopped(rotation: Rotation, receipt: JsonObject, now: datetime) -> Rotation:
    """Tell a rotation that an emergency ended, with all credentials that it was about."""
    return rotation.model_copy(
        update={
            "state": State.FAILED,
            "held_at": None,
            "held_for": "",
            "not_before": None,
            "receipt": receipt,
            "error": "ended by revoke-all",
            "changed_at": now,
            "moments": {State.FAILED: now, **rotation.moments},
        }
    )
