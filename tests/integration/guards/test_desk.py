"""What is held back, with its real database: what counts when, and what a full disk does to it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, final

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

from orchestrator.clock import Clock, SystemClock
from orchestrator.database import Database
from orchestrator.errors import (
    RecordUnavailableError,
    RoleFrozenError,
    StateUnwritableError,
    ToolDisabledError,
)
from orchestrator.guards.desk import GuardDesk
from orchestrator.guards.index import Guards
from orchestrator.guards.store import HoldStore
from orchestrator.guards.words import notes_of
from orchestrator.model.guards import Hold
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.notes import NoteFields, Notes

LONGEST: Final = 30
NOW: Final = datetime(2026, 11, 5, 12, tzinfo=UTC)
ROLE: Final = RoleName("high")
FREEZE: Final = Hold(kind="frozen", role=ROLE, since=NOW, by="operator:ann", reason="odd")


@final
class Told(Notes):
    """Remembers what was told, and when it was."""

    def __init__(self, guards: Guards) -> None:
        """Look at these guards while being told."""
        self.events: list[tuple[str, bool]] = []
        self.is_full = False
        self._guards = guards

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        if self.is_full:
            raise RecordUnavailableError("the disk is full")
        self.events.append((event, is_frozen(self._guards)))


def is_frozen(guards: Guards) -> bool:
    """Tell whether the role is."""
    return isinstance(guards.refusal(ROLE, "echo", "READ"), RoleFrozenError)


@pytest.fixture
def database() -> Generator[Database]:
    """Open a database."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as name:
        made = Database(Path(name) / "agents.db")
        yield made
        made.close()


def open_desk(database: Database, clock: Clock | None = None) -> tuple[Guards, GuardDesk, Told]:
    """Open what an earlier process left."""
    guards = Guards()
    assert is_frozen(guards)  # before anything was read
    told = Told(guards)
    desk = GuardDesk(guards, HoldStore(database), told, clock or SystemClock())
    desk.load()
    return guards, desk, told


async def release(desk: GuardDesk) -> tuple[Hold, ...]:
    """End an operator's freeze of the role."""
    return await desk.release(
        ("frozen", "read-only"), ROLE, None, origin="operator", by="operator:ann", reason=""
    )


async def test_to_hold_counts_at_once_and_to_let_go_when_it_is_on_disk(database: Database) -> None:
    """A freeze is never late, and a thaw never early; both outlive the process."""
    guards, desk, told = open_desk(database)
    assert not is_frozen(guards)
    assert await desk.hold(FREEZE)
    assert not await desk.hold(FREEZE)
    again, other, _ = open_desk(database)
    assert is_frozen(again)
    assert other.holds == (FREEZE,)
    assert await release(desk) == (FREEZE,)
    assert await release(desk) == ()
    assert told.events == [("guard.frozen", True), ("guard.thawed", True)]
    assert not is_frozen(guards)
    again, _, _ = open_desk(database)
    assert not is_frozen(again)


async def test_a_full_disk_keeps_nobody_from_freezing(database: Database) -> None:
    """It counts, says that it is not on disk, and is there as soon as there is room."""
    guards, desk, told = open_desk(database)
    write = database.write

    def refuse() -> object:
        raise StateUnwritableError("the disk is full")

    database.write = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(StateUnwritableError, match="NOT on disk"):
        _ = await desk.hold(FREEZE)
    assert is_frozen(guards)
    assert any("NOT on disk" in one for one in notes_of(desk.holds, "", desk.unwritten, NOW))
    with pytest.raises(StateUnwritableError):
        _ = await release(desk)
    assert is_frozen(guards)
    database.write = write
    with anyio.fail_after(LONGEST):
        async with anyio.create_task_group() as group:
            group.start_soon(desk.keep)
            while desk.unwritten:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    again, _, _ = open_desk(database)
    assert is_frozen(again)
    assert told.events[0] == ("guard.frozen", True)


async def test_what_cannot_be_told_is_not_let_go(database: Database) -> None:
    """Without its line in the record nobody thaws; a freeze holds all the same."""
    guards, desk, told = open_desk(database)
    told.is_full = True
    with pytest.raises(StateUnwritableError):
        _ = await desk.hold(FREEZE)
    assert is_frozen(guards)
    with pytest.raises(RecordUnavailableError):
        _ = await release(desk)
    assert is_frozen(guards)


async def test_an_incident_and_an_operator_hold_apart(database: Database) -> None:
    """Each ends its own."""
    guards, desk, _ = open_desk(database)
    incident = FREEZE.model_copy(update={"origin": "incident:inc-1"})
    assert await desk.hold(FREEZE)
    assert await desk.hold(incident)
    assert await release(desk) == (FREEZE,)
    assert is_frozen(guards)
    assert desk.holds == (incident,)


async def test_a_shadow_gets_another_end(database: Database) -> None:
    """The later word counts, also after a restart."""
    guards, desk, _ = open_desk(database)
    shadow = Hold(kind="shadow", role=ROLE, since=NOW, until=NOW + timedelta(hours=2))
    shorter = shadow.model_copy(update={"until": NOW + timedelta(hours=1)})
    assert await desk.hold(shadow)
    assert await desk.hold(shorter)
    for each in (guards, open_desk(database)[0]):
        assert each.holds == (shorter,)
        assert each.shadow(ROLE, "send", "WRITE", NOW) == shorter
        assert each.shadow(ROLE, "send", "WRITE", NOW + timedelta(hours=1)) is None
        assert each.shadow(ROLE, "echo", "READ", NOW) is None
        assert each.shadow(RoleName("low"), "send", "WRITE", NOW) is None


async def test_a_shadow_that_is_over_is_forgotten(database: Database) -> None:
    """Nobody has to ask for it with each call, and the record says when it ended."""
    clock = MovedClock()
    guards, desk, told = open_desk(database, clock)
    shadow = Hold(kind="shadow", role=ROLE, since=NOW, until=NOW + timedelta(hours=2))
    with anyio.fail_after(LONGEST):
        assert await desk.hold(shadow)
        assert not guards.is_idle
        clock.moment = NOW + timedelta(hours=2)
        async with anyio.create_task_group() as group:
            group.start_soon(desk.keep)
            while not guards.is_idle:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert open_desk(database)[0].is_idle
    assert [event for event, _ in told.events] == ["guard.shadow_started", "guard.shadow_ended"]


@final
class MovedClock(Clock):
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        """Begin with a time."""
        self.moment = NOW

    @override
    def now(self) -> datetime:
        return self.moment

    @override
    def monotonic(self) -> float:
        return 0.0


def test_who_is_refused_what() -> None:
    """The wider hold counts beside the narrower; READ goes on where the role may read."""
    guards = Guards()
    guards.load(
        [
            Hold(kind="read-only", role=ROLE),
            Hold(kind="disabled", role=None, tool=ToolName("wipe")),
            Hold(kind="disabled", role=ROLE, tool=ToolName("echo")),
        ]
    )
    low = RoleName("low")
    assert isinstance(guards.refusal(ROLE, "send", "WRITE"), RoleFrozenError)
    assert isinstance(guards.refusal(ROLE, "echo", "READ"), ToolDisabledError)
    assert isinstance(guards.refusal(low, "wipe", "DESTRUCTIVE"), ToolDisabledError)
    assert guards.refusal(ROLE, "look", "READ") is None
    assert guards.refusal(ROLE, None, None) is None
    assert guards.refusal(low, "echo", "READ") is None
    guards.load([Hold(kind="frozen", role=None)])
    assert isinstance(guards.refusal(low, None, None), RoleFrozenError)


async def test_what_is_held_while_nobody_knows_is_held_after(database: Database) -> None:
    """An incident of a bad day does not end because the database is mended."""
    store = HoldStore(database)
    _ = store.load()
    store.put(FREEZE.model_copy(update={"kind": "of a newer version"}))
    guards, desk, _ = open_desk(database)
    assert desk.problem
    assert desk.hold_now(FREEZE.model_copy(update={"origin": "incident:inc-1"}))
    with database.write() as connection:
        _ = connection.exec_driver_sql("DELETE FROM holds")
    with anyio.fail_after(LONGEST):
        async with anyio.create_task_group() as group:
            group.start_soon(desk.keep)
            while desk.problem or desk.unwritten:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert is_frozen(guards)
    again, _, _ = open_desk(database)
    assert is_frozen(again)
