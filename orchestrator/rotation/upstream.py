"""What a rotation does to the credential of a role's server, one step a state."""

from contextlib import suppress
from datetime import timedelta
from typing import Final, final

import anyio.to_thread

from orchestrator.errors import (
    AgentsError,
    IssuerError,
    IssuerUncertainError,
    NotRunningError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Drain, Rotation, State
from orchestrator.rotation import receipt as receipts
from orchestrator.rotation.known import IssuerGoneError, Known, Parts, Turn
from orchestrator.rotation.making import TURN_SECONDS, Maker
from orchestrator.rotation.ports import Credential, Minted, Verdict
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.states import Hold, Move, Outcome, Stage, Wait, place
from orchestrator.rotation.store import Version
from orchestrator.rotation.timing import Elapsed, next_look

# Calls that change something are not cut: after this a person decides.
_LONGEST_DRAIN: Final = timedelta(minutes=15)
_DRAIN_SLICE: Final = 5.0


@final
class UpstreamDriver:
    """Takes the next step of a rotation; may be asked again for a step that was not finished."""

    def __init__(self, parts: Parts, turn: Turn, elapsed: Elapsed, prover: Prover) -> None:
        """Prepare.

        Args:
            parts: What it works with.
            turn: Whose turn it is.
            elapsed: Tells how long a rotation has been somewhere.
            prover: Sees credentials end.
        """
        self._parts = parts
        self._turn = turn
        self._elapsed = elapsed
        self._prover = prover
        self._known = Known(parts)
        self._maker = Maker(parts, self._known, turn, prover)

    async def step(self, rotation: Rotation) -> Outcome:
        """Take the next step.

        Raises:
            AgentsError: It was not done; the state is as it was.
        """
        try:
            return await self._step(rotation)
        except IssuerGoneError as gone:
            return Hold(
                f"{gone}: put it back under `issuers:` in agents.yaml, run `agents up`, then "
                f"`agents rotate resume {rotation.id}`"
            )

    async def _step(self, rotation: Rotation) -> Outcome:  # noqa: PLR0911  one case a state
        match rotation.state:
            case State.PLANNED:
                return self._plan(rotation)
            case State.MINTING:
                return await self._maker.mint(rotation)
            case State.STAGED:
                return await self._verify(rotation)
            case State.VERIFIED:
                return self._promote(rotation)
            case State.PROMOTED:
                return await self._switch(rotation)
            case State.SWITCHED:
                return await self._drain(rotation)
            case State.DRAINED:
                return Move(State.REVOKING)
            case State.REVOKING:
                return await self._revoke(rotation)
            case State.ROLLING_BACK:
                return await self._roll_back(rotation)
            case _:
                return await self._abort(rotation)

    async def can_undo(self, rotation: Rotation) -> bool:
        """Tell whether the old credential still works: without overlap it ended with the mint."""
        if place(rotation) in {State.PLANNED, State.MINTING} or not rotation.old:
            return True
        try:
            return await self._known.overlaps(rotation)
        except (AgentsError, IssuerGoneError):
            return False

    async def doubt(self, rotation: Rotation) -> str:
        """Tell what a person has to find out before a rotation is given up; empty if nothing."""
        try:
            return await self._maker.doubt(rotation)
        except (AgentsError, IssuerGoneError):
            return ""

    def note_resumed(self, rotation: Rotation) -> None:
        """A person looked, and lets the rotation go on."""
        if rotation.state is State.MINTING:
            self._maker.begin_anew(rotation.new)
        self._elapsed.forget(rotation.id)
        self._prover.forget(rotation.old)
        self._prover.forget(rotation.new)

    def forget(self, rotation: Rotation) -> None:
        """Forget a rotation that is over."""
        self._maker.forget(rotation)
        self._prover.forget(rotation.old)
        self._prover.forget(rotation.new)

    async def keep(self, rotation: Rotation, minted: Minted) -> None:
        """Keep a credential that a person made."""
        await self._maker.keep(rotation, minted)

    # The steps.

    def _plan(self, rotation: Rotation) -> Outcome:
        if rotation.old and not self._turn.take(rotation.id):
            return Wait(TURN_SECONDS)
        rule = self._parts.rule(rotation.role)
        if rule is None or rule.issuer is None:
            return Move(State.ABORTING, error="the role has no issuer any more", alarm=True)
        return self._maker.ask_for(rotation, rotation.attempt, rule.issuer)

    async def _verify(self, rotation: Rotation) -> Outcome:
        if rotation.old and not self._turn.take(rotation.id):
            return Wait(TURN_SECONDS)
        row = await self._known.row(rotation, rotation.new)
        issuer = self._known.issuer(row.issuer)
        if issuer.capabilities.probes:
            verdict = await issuer.probe(await self._known.text(rotation.role, rotation.new))
            if verdict is Verdict.REFUSED:
                raise IssuerError(f"{row.issuer} refuses what it has just made")
            if verdict is Verdict.UNKNOWN:
                raise IssuerUncertainError(f"{row.issuer} does not say whether it accepts it")
        if rotation.old:
            if not await self._known.overlaps(rotation):
                # What is in flight cannot be saved any more, if this is after a crash.
                with suppress(WorkloadNotReadyError):
                    await self._known.pause(rotation)
            await self._parts.instances.ready(rotation.role, rotation.new)
        return Move(State.VERIFIED)

    @staticmethod
    def _promote(rotation: Rotation) -> Outcome:
        stages: dict[str, Stage] = {rotation.new: "current"}
        if rotation.old:
            stages[rotation.old] = "previous"
        return Move(State.PROMOTED, stages=stages)

    async def _switch(self, rotation: Rotation) -> Outcome:
        parts, role = self._parts, rotation.role
        await parts.vault(role).promote(role, rotation.new)
        if rotation.old:
            # Where nothing runs, whatever starts next starts with the new one.
            with suppress(NotRunningError):
                # Ready it is, unless it was lost meanwhile.
                await parts.instances.ready(role, rotation.new)
                await parts.instances.switch(role, rotation.new)
            await self._known.release(rotation)
        return Move(State.SWITCHED)

    async def _drain(self, rotation: Rotation) -> Outcome:
        if not rotation.old:
            return Move(State.DRAINED)
        soak = self._known.rule(rotation).soak
        waited = self._elapsed.since(rotation, State.SWITCHED, soak)
        if waited < soak:
            return Wait((soak - waited).total_seconds())
        drain = await self._drain_once(rotation.role)
        if not drain.left and not self._is_in_use(rotation.role, rotation.old):
            return Move(State.DRAINED)
        if waited - soak > _LONGEST_DRAIN:
            return Hold(_busy("old", drain))
        return Wait(next_look(waited - soak))

    async def _revoke(self, rotation: Rotation) -> Outcome:
        role = rotation.role
        if not rotation.old:
            return Move(State.DONE, receipt=await self._closing(rotation, rotation.new))
        if receipts.proof_of(rotation) is None:
            row = await self._known.row(rotation, rotation.old)
            control = await self._known.text(role, rotation.new)
            new_row = await self._known.row(rotation, rotation.new)
            seen = await self._end(
                rotation,
                row,
                await self._known.get(role, rotation.old),
                control if new_row.issuer == row.issuer else None,
            )
            if not isinstance(seen, receipts.Proof):
                return seen
            rotation = await self._note_proof(rotation, rotation.old, seen)
        await self._parts.vault(role).drop(role, rotation.old)
        receipt = await self._closing(rotation, rotation.new)
        return Move(State.DONE, stages={rotation.old: "gone"}, receipt=receipt)

    async def _roll_back(self, rotation: Rotation) -> Outcome:
        parts, role = self._parts, rotation.role
        store, old = parts.store, rotation.old
        stages: dict[str, Stage] = {old: "current", rotation.new: "pending"}
        await anyio.to_thread.run_sync(store.set_stages, RoleName(role), stages)
        await parts.vault(role).promote(role, old)
        with suppress(NotRunningError):
            await parts.instances.ready(role, old)
            await parts.instances.switch(role, old)
            await parts.instances.discard(role)
        drain = await self._drain_once(role)
        if drain.left or self._is_in_use(role, rotation.new):
            waited = self._elapsed.since(rotation, State.ROLLING_BACK, timedelta())
            if waited >= _LONGEST_DRAIN:
                return Hold(_busy("new", drain))
            return Wait(next_look(waited))
        return Move(State.ABORTING)

    async def _abort(self, rotation: Rotation) -> Outcome:
        role = rotation.role
        row = await self._known.find(rotation, rotation.new)
        if row is None:
            return Move(State.FAILED, receipt={**(rotation.receipt or {}), "ended": ""})
        with_instances = State.STAGED in rotation.moments
        if with_instances:
            with suppress(NotRunningError):
                await self._parts.instances.discard(role)
        await self._known.release(rotation)
        if self._maker.was_never_asked(rotation):
            # Whether the issuer answers does not matter.
            told = receipts.describe(receipts.Proof(None, None, 0, "", receipts.NEVER_ASKED))
            receipt = receipts.with_orphans(receipts.with_proof(rotation, rotation.new, told), ())
            return Move(State.FAILED, stages={rotation.new: "gone"}, receipt=receipt)
        if row.stage != "gone" and receipts.proof_of(rotation) is None:
            lost = self._maker.in_memory(rotation.new)
            old = await self._known.get(role, rotation.old) if rotation.old else None
            new = lost or await self._known.get(role, rotation.new)
            seen = await self._end(rotation, row, new, old)
            if not isinstance(seen, receipts.Proof):
                return seen
            rotation = await self._note_proof(rotation, rotation.new, seen)
        await self._parts.vault(role).drop(role, rotation.new)
        receipt = await self._closing(rotation, rotation.old)
        return Move(State.FAILED, stages={rotation.new: "gone"}, receipt=receipt)

    # What they share.

    async def _end(
        self,
        rotation: Rotation,
        row: Version,
        credential: Credential | None,
        control: Credential | None,
    ) -> receipts.Proof | Wait | Hold:
        """End a credential of a rotation; arguments and errors as `Prover.end`.

        Raises:
            IssuerGoneError: Its issuer is not applied any more, and nobody vouches for its end.
        """
        is_approved = receipts.is_approved(rotation, row.version)
        try:
            issuer = self._known.issuer(row.issuer)
            is_implied = not await self._known.overlaps(rotation)
        except IssuerGoneError:
            if not is_approved:
                raise
            return receipts.Proof(None, None, 0, "", receipts.NO_ISSUER)
        return await self._prover.end(
            issuer,
            row,
            credential,
            control,
            self._known.rule(rotation).prove_within,
            is_implied=is_implied,
            is_approved=is_approved,
        )

    async def _drain_once(self, role: RoleName) -> Drain:
        try:
            return await self._parts.instances.drain(role, _DRAIN_SLICE)
        except NotRunningError:
            return Drain(0)

    def _is_in_use(self, role: RoleName, version: str) -> bool:
        """Tell whether a process lives that was started with it, such as one that is stopped."""
        return version in self._parts.instances.using(role).values()

    async def _note_proof(self, rotation: Rotation, ended: str, proof: receipts.Proof) -> Rotation:
        """Write the proof down before the text is dropped: without it, nobody can look again."""
        body = receipts.with_proof(rotation, ended, receipts.describe(proof))
        noted = rotation.model_copy(update={"receipt": body})
        await anyio.to_thread.run_sync(self._parts.store.write, rotation, noted)
        return noted

    async def _closing(self, rotation: Rotation, kept: str) -> JsonObject:
        """Sweep up what was made late, and tell what became of all that was asked for."""
        rows = await anyio.to_thread.run_sync(self._parts.store.versions, rotation.role)
        mine = [row for row in rows if row.rotation_id == rotation.id]
        orphans = {row.version for row in mine} - {rotation.new, rotation.old}
        ended = rotation.old if kept == rotation.new else rotation.new
        unswept: list[Json] = []
        for name in sorted({row.issuer for row in mine}):
            try:
                orphans |= await self._sweep(rotation, name, kept)
            except (AgentsError, IssuerGoneError):
                # Whoever vouches for the end does not wait for an issuer that is gone.
                if not receipts.is_approved(rotation, ended):
                    raise
                unswept.append(name)
        known = rotation.receipt or {}
        if "ended" not in known:
            ended = "" if kept == rotation.new else rotation.new
            known = receipts.with_proof(rotation, ended, None)
        if unswept:
            more: JsonObject = {"not_looked_through": unswept}
            known = {**known, **more}
        return receipts.with_orphans(known, orphans)

    async def _sweep(self, rotation: Rotation, name: str, kept: str) -> set[str]:
        issuer = self._known.issuer(name)
        # Without overlap the last one ended the others, and one end might be everybody's.
        if issuer.capabilities.lists and issuer.capabilities.overlap:
            return await self._maker.sweep(rotation, issuer, kept)
        return set()


def _busy(which: str, drain: Drain) -> str:
    if not drain.left:
        return f"the {which} instance does not end"
    return f"{drain.left} calls to the {which} instance do not end; they are not cut"
