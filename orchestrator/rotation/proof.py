"""Ends an upstream credential, and looks until it is refused."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.errors import IssuerError
from orchestrator.rotation.ports import Credential, Ending, Issuer, Verdict
from orchestrator.rotation.receipt import NO_ANSWER, NOT_PROVED, Proof
from orchestrator.rotation.states import Hold, Wait
from orchestrator.rotation.store import Version

# One refusal may be a mistake of a load balancer.
ENOUGH: Final = 3
_LONGEST_PAUSE: Final = 60.0
# So long after it said yes, an issuer is asked again.
_ASK_AGAIN: Final = 8.0


@dataclass(slots=True)
class _Case:
    """What was seen of one credential so far.

    Attributes:
        began: When its end was wanted, in monotonic time.
        asked_at: When the issuer took the request; None if it did not yet.
        asked: Whether it need not be asked.
        refused_at: When the present row of refusals began.
        refusals: How many there are in a row.
        unknown: How many answers in a row told nothing.
        pause: Seconds until the next look.
    """

    began: float
    asked_at: datetime | None = None
    asked: bool = False
    refused_at: datetime | None = None
    refusals: int = 0
    unknown: int = 0
    pause: float = 1.0


@final
class Prover:
    """Sees credentials end. What it saw is in memory only: after a restart it looks again."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing seen."""
        self._clock = clock
        self._cases: dict[str, _Case] = {}

    def forget(self, version: str) -> None:
        """Begin anew with a credential."""
        _ = self._cases.pop(version, None)

    async def end(  # noqa: PLR0913  one credential, and how to see its end
        self,
        issuer: Issuer,
        version: Version,
        credential: Credential | None,
        control: Credential | None,
        within: timedelta,
        *,
        is_implied: bool = False,
        is_approved: bool = False,
    ) -> Proof | Wait | Hold:
        """End a credential, one step at a time.

        Args:
            issuer: Who made it.
            version: The credential.
            credential: Its texts; None if they are lost.
            control: Another one, which has to be accepted through the same way.
            within: How long it may take until it is refused.
            is_implied: Whether it ends by what was done already.
            is_approved: Whether a person says that it ended: believed where the issuer does not
                tell, and not where it says the contrary.

        Raises:
            IssuerError: It could not be asked for, and nobody can look.
        """
        case = self._cases.setdefault(version.version, _Case(self._clock.monotonic()))
        can = issuer.capabilities
        if can.revoke == "expiry" and not is_implied:
            if version.expires_at is None and not is_approved:
                return Hold(
                    f"nothing ends {version.version} at {version.issuer}: see that it is dead"
                )
            if version.expires_at is not None:
                left = (version.expires_at - self._clock.now()).total_seconds()
                if left > 0:
                    case.began = self._clock.monotonic()
                    return Wait(min(left, _LONGEST_PAUSE))
            case.asked = True
        case.asked = case.asked or is_implied or is_approved
        if not case.asked:
            held = await self._ask(case, issuer, version, can_look=can.probes and bool(credential))
            if held is not None:
                # Unless the person has done it already, which a look may tell.
                seen = await issuer.probe(credential) if can.probes and credential else None
                if seen is not Verdict.REFUSED:
                    return held
                case.asked = True
        if not can.probes or credential is None:
            note = NOT_PROVED if not can.probes else "not proved: its texts were lost"
            self.forget(version.version)
            return Proof(case.asked_at, None, 0, "", note)
        seen = await self._look(case, issuer, version, credential, control, within)
        if is_approved and case.unknown >= ENOUGH:
            self.forget(version.version)
            return Proof(case.asked_at, None, 0, "", NO_ANSWER)
        return seen

    async def _ask(
        self, case: _Case, issuer: Issuer, version: Version, *, can_look: bool
    ) -> Hold | None:
        try:
            ending = await issuer.revoke(version.version, version.handle)
        except IssuerError:
            # It may have done it all the same: looking tells, where one can look.
            if not can_look:
                raise
            return None
        if ending is Ending.BY_PERSON:
            return Hold(
                f"end {version.version} at {version.issuer}, as no request can do it; "
                "`agents rotate approve-revoke` says that it was done"
            )
        case.asked = True
        case.asked_at = case.asked_at or self._clock.now()
        return None

    async def _look(  # noqa: PLR0913, PLR0917  as `end`
        self,
        case: _Case,
        issuer: Issuer,
        version: Version,
        credential: Credential,
        control: Credential | None,
        within: timedelta,
    ) -> Proof | Wait | Hold:
        verdict = await issuer.probe(credential)
        case.unknown = case.unknown + 1 if verdict is Verdict.UNKNOWN else 0
        if verdict is Verdict.REFUSED:
            case.refused_at = case.refused_at or self._clock.now()
            case.refusals += 1
            case.pause = 1.0
        else:
            # Neither an answer that proves nothing nor a refusal is in a row with what was before.
            case.refused_at, case.refusals = None, 0
            if verdict is Verdict.ACCEPTED and case.pause >= _ASK_AGAIN:
                case.asked = False
        if case.refusals >= ENOUGH:
            seen = Verdict.ACCEPTED if control is None else await issuer.probe(control)
            if seen is Verdict.ACCEPTED:
                self.forget(version.version)
                told = "" if control is None else str(seen)
                return Proof(case.asked_at, case.refused_at, case.refusals, told)
        if self._clock.monotonic() - case.began > within.total_seconds():
            self.forget(version.version)
            return Hold(
                f"{version.issuer} still does not refuse {version.version} ({verdict}), or refuses "
                "the other one as well"
            )
        pause = case.pause
        case.pause = min(case.pause * 2, _LONGEST_PAUSE)
        return Wait(pause)
