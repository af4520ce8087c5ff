"""Which credentials are current, which of them are due, and what a person should know of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias, final

import anyio.to_thread

from orchestrator.clock import Clock
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Rotation, RotationRule, State
from orchestrator.rotation import schedule
from orchestrator.rotation.schedule import Due
from orchestrator.rotation.states import is_inside
from orchestrator.rotation.store import RotationStore, Version
from orchestrator.rotation.vouching import open_receipts
from orchestrator.tokens.desk import WORKSTATION, TokenDesk
from orchestrator.tokens.record import TokenRecord

Roles: TypeAlias = Callable[[], Sequence[tuple[RoleName, RotationRule]]]
LAST_TICK: Final = "last_good_tick"
CLOCK_JUMP: Final = "clock_jump"
_NO_ROLE: Final = "no role has it any more"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a tick begins.

    Attributes:
        wanted: In this order.
        problem: Why nothing is begun although something is due; empty if nothing is wrong.
    """

    wanted: tuple[Due, ...]
    problem: str = ""


@final
class Calendar:
    """Reads; `note_tick` alone writes."""

    def __init__(self, store: RotationStore, desk: TokenDesk, roles: Roles, clock: Clock) -> None:
        """Prepare.

        Args:
            store: Rotations and upstream credentials.
            desk: Tokens.
            roles: The roles, from the least to the most power.
            clock: Where time comes from.
        """
        self._store = store
        self._desk = desk
        self._roles = roles
        self._clock = clock
        self._started_at = clock.now()

    async def due(self) -> tuple[Due, ...]:
        """Tell every current credential, role by role."""
        return await anyio.to_thread.run_sync(self._due)

    async def choose(self) -> Choice:
        """Choose what to begin now; nothing is written."""
        return await anyio.to_thread.run_sync(self._choose)

    async def note_tick(self) -> None:
        """Write down that due times were looked at."""
        await anyio.to_thread.run_sync(self._note_tick)

    async def notes(self) -> tuple[str, ...]:
        """Tell what a person should know, in sentences."""
        return await anyio.to_thread.run_sync(self._notes)

    def _due(self) -> tuple[Due, ...]:
        now, busy = self._clock.now(), self._busy()
        tokens = [one for one in self._desk.list() if one.state == "active"]
        tokens = [one for one in tokens if self._desk.issues_to(one.agent)]
        found: list[Due] = []
        for role, rule in self._roles():
            mine = [one for one in tokens if one.role == role]
            found += [self._token(one, rule, mine, busy, now) for one in mine]
            current = None if rule.upstream is None else self._store.current(role)
            if current is not None:
                found.append(_upstream(current, rule, busy, now))
        shown = {(one.role, one.credential) for one in found}
        return (*found, *(one for one in self._left(busy, now) if _key(one) not in shown))

    def _left(self, busy: dict[tuple[str, str, str], str], now: datetime) -> Iterable[Due]:
        """Tell upstream credentials that count and are of no role any more."""
        for version in self._store.alive():
            if version.stage == "current":
                left = _upstream(version, RotationRule(), busy, now)
                note = f"{_NO_ROLE}; `agents revoke-all {version.role}` ends it"
                yield replace(left, is_due=False, note=note)

    def _busy(self) -> dict[tuple[str, str, str], str]:
        open_ones = self._store.unfinished()
        return {(one.role, one.purpose, one.agent): one.id for one in open_ones}

    def _token(
        self,
        record: TokenRecord,
        rule: RotationRule,
        mine: Sequence[TokenRecord],
        busy: dict[tuple[str, str, str], str],
        now: datetime,
    ) -> Due:
        end = schedule.ends_at(record.created_at, rule.agent.every, record.expires_at)
        moment = schedule.due_at(f"{record.role}/{record.agent}", record.created_at, end)
        by_hand = record.agent != WORKSTATION and record.agent not in rule.agent.deliver
        rotation = busy.get((record.role, "agent", record.agent))
        notes = [f"rotation {rotation} is under way"] if rotation else []
        if by_hand:
            notes.append("no delivery: by hand")
        if sum(one.agent == record.agent for one in mine) > 1:
            notes.append("more than one token: revoke those that are not used")
        return Due(
            role=record.role,
            purpose="agent",
            agent=record.agent,
            credential=record.id,
            issued_at=record.created_at,
            expires_at=record.expires_at,
            due_at=moment,
            is_due=now >= moment and not rotation,
            warning=schedule.warning(record.created_at, end, now),
            by_hand=by_hand,
            note="; ".join(notes),
            ends_at=end,
        )

    def _choose(self) -> Choice:
        now, last = self._clock.now(), self._store.fact(LAST_TICK)
        jumped = self._store.fact(CLOCK_JUMP)
        if schedule.is_jump(last, now, self._started_at) or _is_distrusted(jumped, now):
            return Choice((), "the clock seems to have been set forward; nothing was replaced")
        due = [one for one in self._due() if one.is_due and not one.by_hand]
        if not due:
            return Choice(())
        past = self._store.all()
        wanted = [
            one for one in due if one.purpose == "agent" and not _failed_lately(one, past, now)
        ]
        upstream = [one for one in due if one.purpose == "upstream"]
        is_free = not any(is_inside(one) for one in past)
        # The first failure stops the run: what broke one role may break the next.
        if upstream and is_free and not _failed_lately(upstream[0], past, now):
            wanted.append(upstream[0])
        return Choice(tuple(wanted))

    def _note_tick(self) -> None:
        now, last = self._clock.now(), self._store.fact(LAST_TICK)
        if schedule.is_jump(last, now, self._started_at):
            self._store.note_fact(CLOCK_JUMP, now)
        elif not _is_distrusted(jumped := self._store.fact(CLOCK_JUMP), now) and jumped is not None:
            self._store.note_fact(CLOCK_JUMP, None)
        # Not every hour: that nothing is due should be seen without writing.
        if last is None or not timedelta() <= now - last < schedule.LATE_TICK / 3:
            self._store.note_fact(LAST_TICK, now)

    def _notes(self) -> tuple[str, ...]:
        now, found = self._clock.now(), list[str]()
        for one in self._due():
            if one.warning is not None and (one.is_due or one.warning in {"overdue", "1d", "3d"}):
                whose = f"the token of {one.agent}" if one.agent else "the upstream credential"
                when = "is too old" if one.warning == "overdue" else f"ends within {one.warning}"
                found.append(f"{one.role}: {whose} {when} ({one.ends_at:%Y-%m-%d %H:%M}Z)")
        found += [
            f"rotation {one.id} of {one.agent or one.role} waits for a person: {one.held_for}"
            for one in self._store.unfinished()
            if one.state is State.HELD
        ]
        found += [
            f"rotation {one.id} of {one.agent or one.role} tries {one.state} again: {one.error}"
            f"{_way_out(one)}"
            for one in self._store.unfinished()
            if one.state is not State.HELD and one.tries and one.error
        ]
        known = {one.new for one in self._store.unfinished()}
        known |= {one.old for one in self._store.unfinished()}
        found += [
            f"{one.role}: {one.credential} still works: {one.note}"
            for one in self._due()
            if one.note.startswith(_NO_ROLE)
        ]
        receipts = open_receipts(self._store.receipts())
        found += [
            f"{one.role}: {one.version} is not used and was not seen dead"
            f"{_word_for(receipts.get(one.version))}"
            for one in self._store.alive()
            if one.stage != "current" and one.version not in known
        ]
        last = self._store.fact(LAST_TICK)
        if last is not None and now - last > schedule.LATE_TICK:
            found.append(f"due times were looked at last at {last:%Y-%m-%d %H:%M}Z")
        if _is_distrusted(self._store.fact(CLOCK_JUMP), now):
            found.append("the clock seems to have been set forward: nothing is replaced for a day")
        return tuple(found)


def _key(due: Due) -> tuple[str, str]:
    return due.role, due.credential


def _upstream(
    current: Version, rule: RotationRule, busy: dict[tuple[str, str, str], str], now: datetime
) -> Due:
    every = schedule.OLDEST if rule.upstream is None else rule.upstream.every
    issued_at = current.issued_at or now
    end = schedule.ends_at(issued_at, every, current.expires_at)
    moment = schedule.due_at(current.role, issued_at, end)
    rotation = busy.get((current.role, "upstream", ""))
    return Due(
        role=current.role,
        purpose="upstream",
        agent="",
        credential=current.version,
        issued_at=issued_at,
        expires_at=current.expires_at,
        due_at=moment,
        is_due=now >= moment and not rotation,
        warning=schedule.warning(issued_at, end, now),
        by_hand=False,
        note=f"rotation {rotation} is under way" if rotation else "",
        ends_at=end,
    )


def _way_out(rotation: Rotation) -> str:
    if rotation.purpose == "agent" or rotation.state not in {State.ABORTING, State.REVOKING}:
        return ""
    return f"; `agents rotate approve-revoke {rotation.id}` if you ended it yourself"


def _word_for(receipt_id: str | None) -> str:
    if receipt_id is None:
        return ""
    return f"; `agents rotate approve-revoke {receipt_id}` if you ended it yourself"


def _failed_lately(due: Due, past: Sequence[Rotation], now: datetime) -> bool:
    since = now - schedule.retry_after(due.span)
    return any(
        one.state is State.FAILED
        and one.purpose == due.purpose
        and (due.purpose == "upstream" or (one.role, one.agent) == (due.role, due.agent))
        and since < one.changed_at <= now
        for one in past
    )


def _is_distrusted(jumped: datetime | None, now: datetime) -> bool:
    # A clock that was set back again is believed.
    return jumped is not None and jumped <= now < jumped + schedule.DISTRUST
