"""All changes of what is held back go through here."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import anyio
import anyio.to_thread

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError, StateUnwritableError
from orchestrator.guards.index import Guards
from orchestrator.model.guards import Hold, HoldKind
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.notes import NoteFields, Notes

if TYPE_CHECKING:
    # It brings SQLAlchemy, which the daemon loads beside its first instances' start.
    from orchestrator.guards.store import HoldStore

RETRY_SECONDS: Final = 1.0
_EVENTS: Final[dict[HoldKind, tuple[str, str]]] = {
    "frozen": ("guard.frozen", "guard.thawed"),
    "read-only": ("guard.frozen", "guard.thawed"),
    "disabled": ("guard.disabled", "guard.enabled"),
    "shadow": ("guard.shadow_started", "guard.shadow_stopped"),
}
_OVER: Final = "guard.shadow_ended"
# A clock that is put forward ends a shadow no later than this.
_LONGEST_WAIT_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Unwritten:
    hold: Hold
    is_told: bool = False


@final
class GuardDesk:
    """Holds back, and lets go.

    To hold back counts at once, in memory: neither a full disk nor a slow one may let a call
    through meanwhile. To let go counts when it is on disk.
    """

    def __init__(self, guards: Guards, store: "HoldStore", notes: Notes, clock: Clock) -> None:
        """Change what these guards hold back.

        Args:
            guards: What the gateway asks.
            store: Where it is kept.
            notes: Where people's decisions are told.
            clock: Tells when a shadow is over.
        """
        self._guards = guards
        self._store = store
        self._notes = notes
        self._clock = clock
        # One change of what is on disk at a time.
        self._lock = anyio.Lock()
        self._unwritten: list[_Unwritten] = []
        self._news = anyio.Event()

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Everything that is held back."""
        return self._guards.holds

    @property
    def problem(self) -> str:
        """Why nobody knows what is held back; empty usually."""
        return self._guards.problem

    @property
    def unwritten(self) -> int:
        """How many holds count, and are not on disk yet."""
        return len(self._unwritten)

    def load(self) -> None:
        """Read what is held back, before anybody asks; blocks.

        Where it cannot be read, everything is frozen.
        """
        try:
            self._guards.load(self._store.load())
        except AgentsError as error:
            self._guards.fail(str(error))

    def hold_now(self, hold: Hold) -> bool:
        """Hold something back in memory, without a pause; `hold`, or time, puts it on disk.

        Returns:
            Whether that is new.
        """
        if any(_is_like(one, hold) for one in (*self.holds, *self._waiting())):
            return False
        self._unwritten.append(_Unwritten(hold))
        if not self.problem:
            self._guards.load((*self.holds, hold))
        # Otherwise everything is frozen, and this is held as soon as it is known what else is.
        self._news.set()
        return True

    async def hold(self, hold: Hold) -> bool:
        """Hold something back; on disk, and told, when this returns.

        Returns:
            Whether that is new.

        Raises:
            StateUnwritableError: It counts, and is tried again to be written.
            StateCorruptError: Nobody knows what is held back, so everything is.
        """
        self._require_known()
        known = next((one for one in self.holds if _is_like(one, hold)), None)
        if known is not None and hold.kind == "shadow":
            await self._replace(known, hold)
            return True
        if known is not None and not any(one.hold is known for one in self._unwritten):
            return False
        is_new = self.hold_now(hold)
        if not await self._catch_up():
            raise StateUnwritableError(
                "this holds now and is NOT on disk: it is forgotten if the daemon ends before it "
                "is",
                hint="Free space on the disk; the daemon goes on trying to write it, and `agents "
                "status` shows it until then.",
            )
        return is_new

    async def release(  # noqa: PLR0913  what a hold is known by, and who ends it
        self,
        kinds: Collection[HoldKind],
        role: RoleName | None,
        tool: ToolName | None,
        *,
        origin: str,
        by: str,
        reason: str,
    ) -> tuple[Hold, ...]:
        """Let go of what was held back; told, then on disk, before it counts.

        Args:
            kinds: Which ways of holding back.
            role: At which role; None for the hold of all.
            tool: Of which tool; None likewise.
            origin: Whose holds: of the operator, or of an incident.
            by: Who says so.
            reason: Why, in words.

        Returns:
            What was let go of.

        Raises:
            RecordUnavailableError: It cannot be told; nothing changed.
            StateUnwritableError: It cannot be written; nothing changed.
            StateCorruptError: Nobody knows what is held back, so everything is.
        """
        self._require_known()
        async with self._lock:
            ended = tuple(
                one
                for one in self.holds
                if one.kind in kinds and (one.role, one.tool, one.origin) == (role, tool, origin)
            )
            if not ended:
                return ()
            for one in ended:
                await self._notes.tell(_EVENTS[one.kind][1], _fields(one, by, reason))
            await anyio.to_thread.run_sync(self._store.remove, *ended)
            self._unwritten = [one for one in self._unwritten if one.hold not in ended]
            self._guards.load(one for one in self.holds if one not in ended)
            return ended

    async def keep(self) -> None:
        """Do what could not be done before, and end shadows whose time is over; until cancelled."""
        while True:
            if self.problem:
                await self._load_again()
            if self.problem or not (await self._catch_up() and await self._end_shadows()):
                await anyio.sleep(RETRY_SECONDS)
                continue
            now = self._clock.now()
            ends = [(one.until - now).total_seconds() for one in self.holds if one.until]
            with anyio.move_on_after(min([*ends, _LONGEST_WAIT_SECONDS]) if ends else None):
                await self._news.wait()
            self._news = anyio.Event()

    async def _load_again(self) -> None:
        try:
            known = await anyio.to_thread.run_sync(self._store.load)
        except AgentsError as error:
            self._guards.fail(str(error))
        else:
            self._guards.load((*known, *self._waiting()))

    def _waiting(self) -> tuple[Hold, ...]:
        return tuple(one.hold for one in self._unwritten)

    async def _end_shadows(self) -> bool:
        """Forget shadows whose time is over; nobody asks for them any more. True if that is so."""
        async with self._lock:
            now = self._clock.now()
            over = tuple(one for one in self.holds if one.until is not None and one.until <= now)
            try:
                for one in over:
                    await self._notes.tell(_OVER, _fields(one, one.by, one.reason))
                if over:
                    await anyio.to_thread.run_sync(self._store.remove, *over)
            except AgentsError:
                return False
            self._guards.load(one for one in self.holds if one not in over)
            return True

    async def _replace(self, known: Hold, hold: Hold) -> None:
        """Give a shadow another end; told, then on disk, before it counts."""
        async with self._lock:
            await self._notes.tell(_EVENTS[hold.kind][0], _fields(hold, hold.by, hold.reason))
            await anyio.to_thread.run_sync(self._store.put, hold)
            self._unwritten = [one for one in self._unwritten if one.hold != known]
            self._guards.load((*(one for one in self.holds if one != known), hold))
            self._news.set()

    async def _catch_up(self) -> bool:
        """Tell and write what is not on disk yet; True when all of it is."""
        async with self._lock:
            for one in tuple(self._unwritten):
                hold = one.hold
                try:
                    if not one.is_told:
                        fields = _fields(hold, hold.by, hold.reason)
                        await self._notes.tell(_EVENTS[hold.kind][0], fields)
                        one.is_told = True
                    await anyio.to_thread.run_sync(self._store.put, hold)
                except AgentsError:
                    return False
                self._unwritten.remove(one)
            return True

    def _require_known(self) -> None:
        if self.problem:
            raise StateUnwritableError(
                f"everything is frozen, as nobody knows what was: {self.problem}",
                hint="Mend the database first: `agents logs --daemon`.",
            )


def _is_like(one: Hold, other: Hold) -> bool:
    key = (other.kind, other.role, other.tool, other.origin)
    return (one.kind, one.role, one.tool, one.origin) == key


def _fields(hold: Hold, by: str, reason: str) -> NoteFields:
    """Tell a hold for the record; what has nothing to tell is left out."""
    told = {
        "role": hold.role or "",
        "tool": hold.tool or "",
        "hold": hold.kind,
        "until": "" if hold.until is None else hold.until.isoformat().replace("+00:00", "Z"),
        "by": by,
        "reason": reason,
        "origin": hold.origin,
    }
    return {name: value for name, value in told.items() if value}
