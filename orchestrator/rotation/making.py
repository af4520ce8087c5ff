"""Has an upstream credential made, looks for what was lost on the way, and sweeps it up."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, final

import anyio.to_thread

from orchestrator.errors import (
    IssuerError,
    IssuerPersonError,
    IssuerUncertainError,
    RotationError,
)
from orchestrator.model.rotation import Rotation, State
from orchestrator.rotation.known import Known, Parts, Turn
from orchestrator.rotation.ports import Credential, Issuer, Minted, Verdict
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.states import Hold, Move, Outcome, Stage, Wait
from orchestrator.rotation.store import Version

MOST_ATTEMPTS: Final = 5
# Whoever gives the turn back wakes those who wait; this is for a wake that got lost.
TURN_SECONDS: Final = 60.0
# In the handle of a credential that a person handed over: who.
PROVIDED_BY: Final = "provided_by"


def name_of(role: str, rotation_id: str, attempt: int) -> str:
    """Name what an issuer is asked for, before it is asked."""
    return f"bm-{role}-{rotation_id}-{attempt}"


def _names_of(rotation: Rotation) -> set[str]:
    attempts = range(1, rotation.attempt + 1)
    return {name_of(rotation.role, rotation.id, attempt) for attempt in attempts}


@final
class Maker:
    """Asks issuers. What it was given is in memory until it is kept."""

    def __init__(self, parts: Parts, known: Known, turn: Turn, prover: Prover) -> None:
        """Prepare.

        Args:
            parts: What it works with.
            known: What is known of a rotation.
            turn: Whose turn it is.
            prover: Sees credentials end.
        """
        self._parts = parts
        self._known = known
        self._turn = turn
        self._prover = prover
        # Made by the issuer and not kept yet: lost if this process ends now, and then looked for.
        self._made: dict[str, Minted] = {}
        # Names that may be asked for: nobody was asked, or a person looked.
        self._fresh: set[str] = set()
        # Names that nobody was asked for, ever; and those to which the issuer said no.
        self._unasked: set[str] = set()
        self._refused: set[str] = set()

    def begin_anew(self, name: str) -> None:
        """Take it that nothing was made under a name: a person looked."""
        self._fresh.add(name)

    def forget(self, rotation: Rotation) -> None:
        """Forget a rotation that is over."""
        names = _names_of(rotation)
        for known in (self._fresh, self._unasked, self._refused):
            known.difference_update(names)
        _ = self._made.pop(rotation.new, None)

    def was_never_asked(self, rotation: Rotation) -> bool:
        """Tell whether it is certain that no issuer was asked for anything."""
        return rotation.attempt == 1 and rotation.new in self._unasked

    async def doubt(self, rotation: Rotation) -> str:
        """Tell what a person has to find out before a rotation is given up; empty if nothing.

        Where a new credential ends the old one, the old one may be dead as soon as the issuer was
        asked.

        Raises:
            AgentsError: It cannot be told.
            IssuerGoneError: The same.
        """
        if rotation.state is not State.MINTING or not rotation.old:
            return ""
        if await self._known.overlaps(rotation):
            return ""
        row = await self._known.row(rotation, rotation.new)
        issuer = self._known.issuer(row.issuer)
        if _names_of(rotation) <= self._unasked | self._refused:
            # It says that it did nothing. The old one tells whether that is so.
            old = await self._known.get(rotation.role, rotation.old)
            if old is None or not issuer.capabilities.probes:
                return ""
            if await issuer.probe(old) is not Verdict.REFUSED:
                return ""
        act = f"`agents rotate {{}} {rotation.id}`".format
        return (
            f"{row.issuer} may have made {rotation.new}, and that would have ended "
            f"{rotation.old}: look there. {act('provide')} takes what was made, {act('resume')} "
            f"has it made once more, {act('abort')} gives it up"
        )

    def in_memory(self, name: str) -> Credential | None:
        """Give what was made and not kept."""
        made = self._made.get(name)
        return None if made is None else made.credential

    async def keep(self, rotation: Rotation, minted: Minted) -> None:
        """Keep a credential, its facts first: a value without them could not be ended."""
        row = await self._known.row(rotation, rotation.new)
        self._unasked.discard(rotation.new)
        await self._note(rotation, row.issuer, minted)
        vault = self._parts.vault(rotation.role)
        await vault.put(rotation.role, rotation.new, minted.credential)

    def ask_for(self, rotation: Rotation, attempt: int, issuer: str) -> Move:
        """Write a name down before an issuer is asked for it."""
        name = name_of(rotation.role, rotation.id, attempt)
        self._fresh.add(name)
        self._unasked.add(name)
        gone: Mapping[str, Stage] = {rotation.new: "gone"} if rotation.new else {}
        return Move(State.MINTING, new=name, attempt=attempt, asks=issuer, stages=gone)

    async def mint(self, rotation: Rotation) -> Outcome:
        """Have it made and keep it, or go on with what was kept.

        Raises:
            RotationError: It was not made, or nobody knows.
            SecretError: It cannot be kept; it is still in memory.
        """
        if rotation.old and not self._turn.take(rotation.id):
            return Wait(TURN_SECONDS)
        row = await self._known.row(rotation, rotation.new)
        issuer = self._known.issuer(row.issuer)
        minted = self._made.get(rotation.new)
        if minted is None:
            kept = await self._known.get(rotation.role, rotation.new) if row.issued_at else None
            if kept is not None:
                return await self._adopt(rotation, row, issuer, kept)
            if rotation.new not in self._fresh:
                return await self._look(rotation, row, issuer)
            if not await self._known.overlaps(rotation):
                await self._known.pause(rotation)
            # From here on the name may be known to the issuer, whatever it says.
            self._fresh.discard(rotation.new)
            self._unasked.discard(rotation.new)
            life = self._life(rotation, issuer)
            try:
                minted = await issuer.mint(rotation.new, rotation.role, life)
            except IssuerPersonError as error:
                self._refused.add(rotation.new)
                await self._known.release(rotation)
                return Hold(
                    f"{error}; then `agents rotate provide {rotation.id}`",
                    stages={rotation.new: "gone"},
                )
            except RotationError as error:
                if isinstance(error, IssuerError):
                    self._refused.add(rotation.new)
                await self._known.release(rotation)
                raise
            self._made[rotation.new] = minted
        if minted.expires_at is not None and minted.expires_at <= self._parts.clock.now():
            _ = self._made.pop(rotation.new)
            await self._note(rotation, row.issuer, minted)
            raise IssuerError(f"{row.issuer} made a credential that has ended already")
        await self.keep(rotation, minted)
        _ = self._made.pop(rotation.new, None)
        return self._staged(minted, self._life(rotation, issuer))

    async def _adopt(
        self, rotation: Rotation, row: Version, issuer: Issuer, kept: Credential
    ) -> Outcome:
        """Go on with what was kept; what a person handed over may be the wrong one."""
        if PROVIDED_BY in row.handle and issuer.capabilities.probes:
            verdict = await issuer.probe(kept)
            if verdict is Verdict.REFUSED:
                await self._parts.vault(rotation.role).drop(rotation.role, rotation.new)
                return Hold(
                    f"{row.issuer} refuses the credential that was handed over, which was "
                    f"forgotten; `agents rotate provide {rotation.id}` takes another one",
                    stages={rotation.new: "gone"},
                )
        return Move(State.STAGED)

    def _life(self, rotation: Rotation, issuer: Issuer) -> timedelta:
        """Tell how long a new one is to live: as the rule says, or the issuer's longest."""
        every, longest = self._known.rule(rotation).every, issuer.capabilities.max_life
        return every if longest is None else min(every, longest)

    def _staged(self, minted: Minted, planned: timedelta) -> Move:
        if minted.expires_at is None:
            return Move(State.STAGED)
        life = minted.expires_at - self._parts.clock.now()
        is_short = life < planned * 0.9
        shown = timedelta(seconds=round(life.total_seconds()))
        error = f"it lives for {shown}, shorter than planned" if is_short else ""
        return Move(State.STAGED, error=error, alarm=is_short)

    async def _look(self, rotation: Rotation, row: Version, issuer: Issuer) -> Outcome:
        """Look for what may have been made: its text is lost, so it is ended, and made anew."""
        if await self._known.overlaps(rotation):
            if issuer.capabilities.lists:
                _ = await self.sweep(rotation, issuer)
                if rotation.new in await issuer.list(rotation.new):
                    # Another one now would be the third that lives.
                    raise IssuerUncertainError(f"{row.issuer} still lists {rotation.new}")
            elif row.stage != "gone" and issuer.capabilities.revoke != "expiry":
                self._prover.forget(rotation.new)
                ended = await self._prover.end(issuer, row, None, None, timedelta())
                if isinstance(ended, Hold):
                    return ended
        if rotation.attempt >= MOST_ATTEMPTS:
            if doubt := await self.doubt(rotation):
                return Hold(doubt)
            return Move(State.ABORTING, error="the issuer was asked often enough", alarm=True)
        return self.ask_for(rotation, rotation.attempt + 1, row.issuer)

    async def _note(self, rotation: Rotation, issuer: str, minted: Minted) -> None:
        version = Version(
            role=rotation.role,
            version=rotation.new,
            stage="pending",
            issuer=issuer,
            handle=minted.handle,
            asked_at=self._parts.clock.now(),
            issued_at=self._parts.clock.now(),
            expires_at=minted.expires_at,
            fingerprint=self._fingerprint(minted.credential),
            rotation_id=rotation.id,
        )
        await anyio.to_thread.run_sync(self._parts.store.note_minted, version)

    async def sweep(self, rotation: Rotation, issuer: Issuer, kept: str = "") -> set[str]:
        """End what an issuer made for this role and what nobody uses.

        Only names that this project gave are touched: another one may have a role of this name.
        """
        rows = await anyio.to_thread.run_sync(self._parts.store.versions, rotation.role)
        in_use = {row.version for row in rows if row.stage != "gone"} - {rotation.new} | {kept}
        ours = {row.rotation_id for row in rows}
        pattern = re.compile(rf"bm-{re.escape(rotation.role)}-([0-9a-f]{{12}})-[0-9]+")
        ended: set[str] = set()
        for name, handle in (await issuer.list(f"bm-{rotation.role}-")).items():
            match = pattern.fullmatch(name)
            if match is not None and match[1] in ours and name not in in_use:
                _ = await issuer.revoke(name, handle)
                ended.add(name)
        return ended

    def _fingerprint(self, credential: Credential) -> str:
        texts = [f"{name}={value.get_secret_value()}" for name, value in credential.fields.items()]
        body = "\0".join(sorted(texts)).encode()
        return hmac.new(self._parts.fingerprint_key, body, hashlib.sha256).hexdigest()[:8]
