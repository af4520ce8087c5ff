"""What a rotation does to an agent's token, one step a state."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, final

import anyio.to_thread
from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.errors import TokenError
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.rotation import AgentRotation, Delivery, Rotation, State
from orchestrator.rotation import receipt as receipts
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.events import Tell, event_of
from orchestrator.rotation.states import Move, Outcome, Wait
from orchestrator.rotation.timing import Elapsed, next_look
from orchestrator.tokens.desk import WORKSTATION, Revocation, TokenDesk
from orchestrator.tokens.record import LONGEST_LIFE, USABLE, TokenRecord
from orchestrator.tokens.verify import TokenIndex

_ENOUGH: Final = 3
# So long after its rotation is over a token waits for whoever asked for it.
_UNTAKEN_SECONDS: Final = 60.0
# Calls that change something end by their own deadlines, which are shorter; then they are cut.
_LAST_CALLS: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an agent's token is rotated with.

    Attributes:
        desk: Issues and revokes.
        index: What the gateway asks.
        deliverer: Brings tokens to agents.
        rule: What a role file says.
        streams_open: Tells how many requests and streams of a token are open.
        changing: Tells how many calls of a token are under way that change something.
        clock: Where time comes from.
        tell: Is told what happens.
    """

    desk: TokenDesk
    index: TokenIndex
    deliverer: Deliverer
    rule: Callable[[RoleName], AgentRotation | None]
    streams_open: Callable[[TokenId], int]
    changing: Callable[[TokenId], int]
    clock: Clock
    tell: Tell


@final
class AgentDriver:
    """Takes the next step of a rotation; may be asked again for a step that was not finished."""

    def __init__(self, parts: Parts, elapsed: Elapsed) -> None:
        """Prepare.

        Args:
            parts: What it works with.
            elapsed: Tells how long a rotation has been somewhere.
        """
        self._parts = parts
        self._elapsed = elapsed
        # Made and not delivered yet, by rotation; or waiting for the person who asked.
        self._texts: dict[str, tuple[TokenId, SecretStr]] = {}
        self._by_hand: dict[str, SecretStr] = {}
        # When one that nobody took yet is forgotten, in monotonic time.
        self._untaken: dict[str, float] = {}
        self._quiet_since: dict[str, float] = {}
        self._was_busy: set[str] = set()
        # Calls that were waited for when their token's time was over.
        self._last_calls: dict[str, int] = {}

    def take(self, rotation_id: str) -> SecretStr | None:
        """Give a token that a person hands over, once."""
        self.drop_untaken()
        _ = self._untaken.pop(rotation_id, None)
        return self._by_hand.pop(rotation_id, None)

    def drop_untaken(self) -> None:
        """Forget tokens whose rotations are over and that nobody took."""
        now = self._parts.clock.monotonic()
        for rotation_id in [name for name, end in self._untaken.items() if end <= now]:
            del self._untaken[rotation_id]
            _ = self._by_hand.pop(rotation_id, None)

    async def step(  # noqa: PLR0911  one case a state
        self, rotation: Rotation
    ) -> Outcome:
        """Take the next step.

        Raises:
            AgentsError: It was not done; the state is as it was.
            OSError: The same: a file cannot be written.
        """
        match rotation.state:
            case State.PLANNED:
                return Move(State.MINTING)
            case State.MINTING:
                return await self._mint(rotation)
            case State.STAGED:
                return self._await_use(rotation)
            case State.VERIFIED:
                return await self._promote(rotation)
            case State.PROMOTED:
                return Move(State.SWITCHED)
            case State.SWITCHED:
                return self._await_quiet(rotation)
            case State.DRAINED:
                return Move(State.REVOKING)
            case State.REVOKING:
                return await self._revoke(rotation)
            case State.ROLLING_BACK:
                await _off(self._parts.desk.undo_overlap, _new(rotation), _old(rotation))
                return Move(State.ABORTING)
            case _:
                return await self._abort(rotation)

    async def can_undo(self, rotation: Rotation) -> bool:
        """Tell whether the old token still works."""
        return not rotation.old or self._is_good(_old(rotation), rotation)

    async def doubt(self, rotation: Rotation) -> str:  # noqa: ARG002  one of two drivers
        """Tell what a person has to find out: nothing, as all that is asked is here."""
        return ""

    def note_resumed(self, rotation: Rotation) -> None:
        """A person looked, and lets the rotation go on: every step looks for itself."""

    def forget(self, rotation: Rotation) -> None:
        """Forget a rotation that is over."""
        _ = self._texts.pop(rotation.id, None)
        if rotation.state is State.ABORTING:
            _ = self._by_hand.pop(rotation.id, None)
        elif rotation.id in self._by_hand:
            self._untaken[rotation.id] = self._parts.clock.monotonic() + _UNTAKEN_SECONDS
        self.drop_untaken()
        _ = self._quiet_since.pop(rotation.id, None)
        self._was_busy.discard(rotation.id)
        _ = self._last_calls.pop(rotation.id, None)

    # The steps.

    async def _mint(self, rotation: Rotation) -> Outcome:
        made = self._texts.get(rotation.id)
        if made is None:
            for record in await _off(self._parts.desk.of_rotation, rotation.id):
                if record.state not in USABLE:
                    continue
                if self._is_there(rotation, record):
                    return Move(State.STAGED, new=record.id)
                # Its text was in the memory of a process that is gone.
                await self._end(record.id, "its text was lost before it was delivered")
            life = min(self._rule(rotation).every, LONGEST_LIFE)
            old = await _off(self._parts.desk.get, _old(rotation))
            if old is not None:
                # Whoever asked for a short one did not mean the first one only.
                life = min(life, old.expires_at - old.created_at)
            issue = partial(
                self._parts.desk.issue,
                AgentName(rotation.agent),
                RoleName(rotation.role),
                life,
                rotation=rotation.id,
            )
            record, text = await _off(issue)
            made = self._texts[rotation.id] = (record.id, text)
        await self._deliver(rotation, made[1])
        _ = self._texts.pop(rotation.id, None)
        self._say("token.minted", rotation, made[0])
        return Move(State.STAGED, new=made[0])

    def _await_use(self, rotation: Rotation) -> Outcome:
        index, overlap = self._parts.index, self._rule(rotation).overlap
        if not self._is_good(_new(rotation), rotation):
            return Move(State.ABORTING, error="the new token was ended", alarm=True)
        if not rotation.old or not self._is_good(_old(rotation), rotation):
            return Move(State.VERIFIED)
        if index.was_used(_new(rotation)):
            self._say("token.used_first", rotation, _new(rotation))
            return Move(State.VERIFIED)
        if index.was_used(_old(rotation)):
            self._was_busy.add(rotation.id)
        waited = self._elapsed.since(rotation, State.STAGED, overlap)
        if waited < overlap:
            return Wait(min(next_look(waited), (overlap - waited).total_seconds()))
        if self._is_asleep(rotation):
            return Move(State.VERIFIED)
        return Move(State.ABORTING, error="the agent never used its new token", alarm=True)

    async def _promote(self, rotation: Rotation) -> Outcome:
        retire_at = self._parts.clock.now() + self._rule(rotation).overlap
        await _off(self._parts.desk.overlap, _new(rotation), _old(rotation), retire_at)
        return Move(State.PROMOTED)

    def _await_quiet(self, rotation: Rotation) -> Outcome:
        old, rule, now = _old(rotation), self._rule(rotation), self._parts.clock.monotonic()
        waited = self._elapsed.since(rotation, State.PROMOTED, rule.overlap)
        if not rotation.old or not self._is_good(old, rotation) or waited >= rule.overlap:
            return self._await_last_calls(rotation, waited - rule.overlap)
        # Asked before anything else, as asking begins anew.
        is_busy = self._parts.index.was_used(old) or self._parts.streams_open(old) > 0
        since = now if is_busy else self._quiet_since.get(rotation.id, now)
        self._quiet_since[rotation.id] = since
        if now - since >= rule.quiet.total_seconds():
            return Move(State.DRAINED)
        left = min(
            rule.quiet.total_seconds() - now + since, (rule.overlap - waited).total_seconds()
        )
        return Wait(min(next_look(waited), left))

    def _await_last_calls(self, rotation: Rotation, over: timedelta) -> Outcome:
        """Let calls end that change something: with the token new ones are refused already.

        Args:
            rotation: The rotation.
            over: How long ago the overlap ended.
        """
        left = self._parts.changing(_old(rotation)) if rotation.old else 0
        if left and over < _LAST_CALLS:
            self._last_calls[rotation.id] = max(left, self._last_calls.get(rotation.id, 0))
            return Wait(next_look(max(over, timedelta())))
        waited_for = self._last_calls.get(rotation.id, 0)
        if not waited_for:
            return Move(State.DRAINED)
        told: receipts.JsonObject = {
            "calls_waited_for": waited_for - left,
            "waited_ms": round(max(over, timedelta()).total_seconds() * 1000, 3),
        }
        return Move(State.DRAINED, receipt={**(rotation.receipt or {}), **told})

    async def _revoke(self, rotation: Rotation) -> Outcome:
        proof = None
        if rotation.old:
            proof = await self._end_and_prove(rotation, _old(rotation), _new(rotation))
        receipt = receipts.with_orphans(
            receipts.with_proof(rotation, rotation.old, proof), await self._orphans(rotation)
        )
        path = self._path(rotation)
        if path is not None:
            await _off(self._parts.deliverer.forget, path)
        return Move(State.DONE, receipt=receipt)

    async def _abort(self, rotation: Rotation) -> Outcome:
        proof, note = None, ""
        await _off(self._parts.desk.undo_overlap, _new(rotation), _old(rotation))
        path = self._path(rotation)
        if path is not None and self._is_good(_old(rotation), rotation):
            # The old token first: an agent that looks now finds one that works.
            is_back = await _off(self._parts.deliverer.restore, path, _old(rotation))
            note = "" if is_back else f"{path} does not hold the old token"
        elif path is not None:
            await _off(self._parts.deliverer.forget, path)
        for record in await _off(self._parts.desk.of_rotation, rotation.id):
            if record.state in USABLE:
                proof = await self._end_and_prove(rotation, record.id, _old(rotation))
        if rotation.agent == WORKSTATION and self._path_is_ours(rotation):
            # Where neither token is in its file it gets another one, as at each start.
            keep = self._parts.desk.keep_workstation_tokens
            await _off(keep, [RoleName(rotation.role)])
        receipt = receipts.with_orphans(
            receipts.with_proof(rotation, rotation.new, proof), await self._orphans(rotation)
        )
        return Move(State.FAILED, receipt={**receipt, "delivery": note})

    # What they share.

    def _rule(self, rotation: Rotation) -> AgentRotation:
        return self._parts.rule(RoleName(rotation.role)) or AgentRotation()

    def _delivery(self, rotation: Rotation) -> Delivery | None:
        return self._rule(rotation).deliver.get(AgentName(rotation.agent))

    def _path(self, rotation: Rotation) -> Path | None:
        delivery = self._delivery(rotation)
        if delivery is not None:
            return self._parts.deliverer.path_of(delivery)
        if rotation.agent == WORKSTATION:
            return self._parts.desk.file_of(RoleName(rotation.role))
        return None

    def _path_is_ours(self, rotation: Rotation) -> bool:
        """Tell whether the token's file is one that the desk looks after."""
        role = RoleName(rotation.role)
        return self._path(rotation) == self._parts.desk.file_of(role) and (
            self._parts.rule(role) is not None
        )

    def _is_there(self, rotation: Rotation, record: TokenRecord) -> bool:
        """Tell whether a token reached its agent, as far as can be seen."""
        path = self._path(rotation)
        if path is not None:
            return self._parts.deliverer.holds(path, record.id)
        return record.last_used_at is not None or self._parts.index.was_used(record.id)

    def _is_asleep(self, rotation: Rotation) -> bool:
        """Tell whether the workstation just did nothing: it reads its file whenever it does."""
        path = self._path(rotation)
        return (
            rotation.agent == WORKSTATION
            and rotation.id not in self._was_busy
            and path is not None
            and self._parts.deliverer.holds(path, _new(rotation))
        )

    async def _deliver(self, rotation: Rotation, text: SecretStr) -> None:
        delivery, path = self._delivery(rotation), self._path(rotation)
        deliverer = self._parts.deliverer
        if path is not None:
            await _off(deliverer.put, path, text, _old(rotation) if rotation.old else None)
        elif delivery is not None and delivery.command:
            agent, role = AgentName(rotation.agent), RoleName(rotation.role)
            await deliverer.run(delivery.command, text, agent, role)
        else:
            self._by_hand[rotation.id] = text

    def _is_good(self, token_id: TokenId, rotation: Rotation) -> bool:
        """Ask what the gateway asks."""
        try:
            _ = self._parts.index.look_by_id(token_id, RoleName(rotation.role))
        except TokenError:
            return False
        return True

    async def _end(self, token_id: TokenId, reason: str) -> Revocation:
        revoke = partial(
            self._parts.desk.revoke_with_receipt, token_id, by="rotation", reason=reason
        )
        return await _off(revoke)

    async def _end_and_prove(
        self, rotation: Rotation, ended: TokenId, control: TokenId
    ) -> receipts.JsonObject:
        done = await self._end(ended, f"rotation {rotation.id}")
        refusals = sum(not self._is_good(ended, rotation) for _ in range(_ENOUGH))
        accepted = self._is_good(control, rotation) if control else None
        told = {None: "", True: "accepted", False: "refused"}[accepted]
        proof = receipts.Proof(done.requested_at, done.refused_at, refusals, told)
        self._say("token.revoked", rotation, ended)
        return {**receipts.describe(proof), **done.describe()}

    async def _orphans(self, rotation: Rotation) -> set[str]:
        made = await _off(self._parts.desk.of_rotation, rotation.id)
        return {str(record.id) for record in made} - {rotation.new}

    def _say(self, name: str, rotation: Rotation, token_id: TokenId) -> None:
        now = self._parts.clock.now()
        self._parts.tell(event_of(name, rotation, now, credential=token_id))


def _new(rotation: Rotation) -> TokenId:
    return TokenId(rotation.new)


def _old(rotation: Rotation) -> TokenId:
    return TokenId(rotation.old)


_off = anyio.to_thread.run_sync
