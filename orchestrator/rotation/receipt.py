"""What is kept of how credentials ended; pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.rotation import Rotation

NOT_PROVED = "not proved: nobody can ask this issuer whether it is refused"
NO_ANSWER = "not proved: the issuer did not tell; a person vouched for it"
NO_ISSUER = "not proved: its issuer is not applied any more; a person vouched for it"
NEVER_ASKED = "its issuer was never asked for it"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen of a credential's end.

    Attributes:
        asked_at: When its end was asked for; None if a person saw to it.
        refused_at: When it was first refused; None if nobody could ask.
        refusals: How often in a row.
        control: What the other credential was answered in the same minute; empty if nobody could
            ask or there is none.
        note: What else there is to know.
    """

    asked_at: datetime | None
    refused_at: datetime | None
    refusals: int
    control: str
    note: str = ""

    @property
    def is_seen(self) -> bool:
        """Whether it was seen refused."""
        return self.refused_at is not None


def moment(value: datetime | None) -> str | None:
    """Write a moment."""
    return None if value is None else value.isoformat()


def describe(proof: Proof) -> JsonObject:
    """Tell a proof."""
    took = None
    if proof.asked_at is not None and proof.refused_at is not None:
        took = round((proof.refused_at - proof.asked_at).total_seconds() * 1000, 3)
    return {
        "proved": proof.is_seen,
        "revoke_asked_at": moment(proof.asked_at),
        "refused_at": moment(proof.refused_at),
        "refused_after_ms": took,
        "refusals": proof.refusals,
        "control": proof.control,
        "note": proof.note,
    }


def with_proof(rotation: Rotation, ended: str, proof: JsonObject | None) -> JsonObject:
    """Add a proof to what a rotation has of its receipt."""
    return {
        **(rotation.receipt or {}),
        "requested_at": moment(rotation.created_at),
        "requested_by": rotation.requested_by,
        "reason": rotation.reason,
        "ended": ended,
        "kept": rotation.new if ended == rotation.old else rotation.old,
        "proof": proof,
    }


def with_orphans(receipt: JsonObject, orphans: Iterable[str]) -> JsonObject:
    """Add the names that were asked for and are not used."""
    return {**receipt, "orphans": cast("list[Json]", sorted(orphans))}


def proof_of(rotation: Rotation) -> JsonObject | None:
    """Tell the proof that is written down, None if there is none yet."""
    found = (rotation.receipt or {}).get("proof")
    return found if isinstance(found, dict) else None


def approval(by: str, at: datetime, version: str) -> JsonObject:
    """Write down that a person vouches for a credential's end."""
    return {"approved_by": by, "approved_at": moment(at), "approved": version}


def is_approved(rotation: Rotation, version: str) -> bool:
    """Tell whether a person said that a credential is dead."""
    receipt = rotation.receipt or {}
    return "approved_by" in receipt and receipt.get("approved", version) == version
