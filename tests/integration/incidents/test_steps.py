"""Incidents with their real database, guards and tokens, ended at every durable write."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, cast, final

import anyio
import anyio.lowlevel
import pytest
import structlog
from typing_extensions import override

from orchestrator.clock import SystemClock
from orchestrator.control.incident_steps import Means, Steps
from orchestrator.control.incidents import Incidents
from orchestrator.database import Database
from orchestrator.errors import (
    AgentsError,
    IncidentUnknownError,
    NotRunningError,
    RecordUnavailableError,
    RoleFrozenError,
    RotationError,
    StateUnwritableError,
    TokenError,
)
from orchestrator.guards.cases import IncidentStore
from orchestrator.guards.desk import GuardDesk
from orchestrator.guards.index import Guards
from orchestrator.guards.store import HoldStore
from orchestrator.model.incident import CLOSE_STEPS, START_STEPS, Incident
from orchestrator.model.message import Delivery, Link, Notifier
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.notes import NoteFields, Notes
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

LONGEST: Final = 30
ROLE: Final = RoleName("high")
LINE: Final = '{"agent":"alice","event":"outcome","role":"high","seq":1,"time":"2026-01-01T00Z"}\n'


class Killed(BaseException):
    """The process ends here."""


@final
@dataclass
class Fate:
    """When the process ends: at which durable write, and on which side of it.

    Attributes:
        at: Number of the write; 0 for never.
        is_after: Whether the write was done.
        count: How many there were.
    """

    at: int = 0
    is_after: bool = False
    count: int = 0

    def step(self, write: Callable[[], None]) -> None:
        """Write, or end around it."""
        self.count += 1
        if self.count == self.at and not self.is_after:
            raise Killed
        write()
        if self.count == self.at:
            raise Killed


@final
class Told(Notes, Notifier):
    """Remembers what was told to the record and to people, over the end of processes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.events: list[str] = []
        self.messages: list[str] = []
        self.is_full = False

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        if self.is_full:
            raise RecordUnavailableError("the disk is full")
        self.events.append(event)

    @override
    def send(
        self,
        topic: str,
        title: str,
        text: str,
        links: Sequence[Link] | Callable[[str], Sequence[Link]] = (),
        *,
        owner: str = "",
    ) -> None:
        raise AssertionError("incidents wait for what becomes of a message")

    @override
    async def deliver(
        self,
        topic: str,
        title: str,
        text: str,
        links: Sequence[Link] | Callable[[str], Sequence[Link]] = (),
        *,
        owner: str = "",
        grace: float = 10.0,
    ) -> tuple[Delivery, ...]:
        self.messages.append(topic)
        return (Delivery("ops", "delivered", 1),)


@dataclass
class World:
    """What outlives a process.

    Attributes:
        place: Its files.
        told: What others heard.
        cut: Roles whose callers were cut.
        texts: Tokens of the agents, by agent.
    """

    place: Path
    told: Told = field(default_factory=Told)
    cut: list[RoleName] = field(default_factory=list[RoleName])
    texts: dict[str, str] = field(default_factory=dict[str, str])
    closed: set[RoleName] = field(default_factory=set[RoleName])


@dataclass
class Process:
    """One life of the daemon, as far as incidents are concerned.

    Attributes:
        incidents: The incidents.
        guards: What is held back.
        index: Which tokens open something.
        desk: Changes tokens.
        desk_of_guards: Changes what is held back.
    """

    incidents: Incidents
    guards: Guards
    index: TokenIndex
    desk: TokenDesk
    desk_of_guards: GuardDesk

    def is_refused(self, text: str) -> bool:
        """Tell whether a token opens nothing."""
        try:
            _ = self.index.look(text, ROLE)
        except TokenError:
            return True
        return False

    def is_frozen(self) -> bool:
        """Tell whether the role is."""
        return isinstance(self.guards.refusal(ROLE, "echo", "READ"), RoleFrozenError)


@pytest.fixture
def world() -> Generator[World]:
    """Make a place with a record, and two tokens."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as name:
        place = Path(name)
        (place / "audit").mkdir()
        _ = (place / "audit" / "00000001.jsonl").write_text(LINE)
        made = World(place)
        clock = SystemClock()
        store = TokenStore(place / "agents.db", clock)
        desk = TokenDesk(store, TokenIndex(clock), clock, place / "tokens")
        desk.keep_workstation_tokens([ROLE])
        made.texts["workstation"] = desk.file_of(ROLE).read_text().strip()
        _, text = desk.issue(AgentName("alice"), ROLE, timedelta(days=1))
        made.texts["alice"] = text.get_secret_value()
        store.close()
        yield made


@asynccontextmanager
async def process(world: World, fate: Fate | None = None) -> AsyncGenerator[Process]:
    """Live once; the incidents' work runs meanwhile."""
    clock, destiny = SystemClock(), fate or Fate()
    log = cast("FilteringBoundLogger", structlog.get_logger())
    tokens = TokenStore(world.place / "agents.db", clock)
    store = IncidentStore(tokens.database)
    put = store.put
    store.put = lambda incident: destiny.step(lambda: put(incident))
    guards = Guards()
    guard_desk = GuardDesk(guards, HoldStore(tokens.database), world.told, clock)
    guard_desk.load()
    index = TokenIndex(clock)
    desk = TokenDesk(tokens, index, clock, world.place / "tokens")

    def cut(role: RoleName) -> int:
        world.cut.append(role)
        return 0

    steps = Steps(
        Means(
            guards=guard_desk,
            tokens=desk,
            cut=cut,
            notifier=world.told,
            owner_of=lambda _: "Tests <owner@example.com>",
            is_closed=world.closed.__contains__,
            record=world.place / "audit",
            folder=world.place / "incidents",
            clock=clock,
        )
    )
    known = store.load()
    for one in known:
        steps.hold_again(one)
    incidents = Incidents(known, steps=steps, store=store, notes=world.told, clock=clock, log=log)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(incidents.run)
            yield Process(incidents, guards, index, desk, guard_desk)
            group.cancel_scope.cancel()
    finally:
        tokens.close()


async def start(one: Process) -> Incident:
    """Start an incident, and tell it as it is at the end."""
    last: Incident | None = None
    async for incident in one.incidents.start(ROLE, [ROLE], reason="odd", by="operator:ann"):
        last = incident
    assert last is not None
    return last


async def close(one: Process, incident_id: str) -> Incident:
    """Close an incident, and tell it as it is at the end."""
    last: Incident | None = None
    async for incident in one.incidents.close(incident_id, reason="over", by="operator:bob"):
        last = incident
    assert last is not None
    return last


async def settled(one: Process, state: str) -> Incident:
    """Wait until the only incident is in a state."""
    while True:
        [incident] = one.incidents.all()
        if incident.state == state:
            return incident
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def doomed(world: World, fate: Fate) -> AsyncGenerator[Process]:
    """Live until the end that was meant."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with process(world, fate) as one:
            yield one
    assert caught.group_contains(Killed)


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("at", range(1, len(START_STEPS) + 3))
async def test_a_start_is_finished_by_the_next_process(
    world: World, at: int, is_after: bool
) -> None:
    """Wherever a process ends, the next one holds at once what was on disk, and takes the rest."""
    with anyio.fail_after(LONGEST):
        async with doomed(world, Fate(at, is_after)) as one:
            _ = await start(one)
        async with process(world) as one:
            if (at, is_after) == (1, False):
                assert one.incidents.all() == ()  # nobody was told that there is one
                return
            assert one.is_frozen()
            assert one.is_refused(world.texts["workstation"])
            incident = await settled(one, "open")
            assert tuple(step.name for step in incident.steps) == START_STEPS
            assert all(step.ok for step in incident.steps)
            assert incident.durable
            assert all(map(one.is_refused, world.texts.values()))
            assert world.cut.count(ROLE) in {1, 2}
            assert "incident.started" in world.told.events
            assert (world.place / "incidents" / incident.id / "record.jsonl").read_text() == LINE
            with pytest.raises(RotationError, match=incident.id):
                one.incidents.require_none(ROLE)


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("at", range(1, len(CLOSE_STEPS) + 3))
async def test_a_close_is_finished_by_the_next_process(
    world: World, at: int, is_after: bool
) -> None:
    """Wherever a process ends, the role is still held, or the next one lets go of it whole."""
    with anyio.fail_after(LONGEST):
        async with process(world) as one:
            name = (await start(one)).id
        async with doomed(world, Fate(at, is_after)) as one:
            _ = await close(one, name)
        async with process(world) as one:
            if (at, is_after) == (1, False):
                assert one.incidents.get(name).state == "open"
                assert one.is_frozen()
                _ = await close(one, name)
            incident = await settled(one, "closed")
            assert tuple(step.name for step in incident.close_steps) == CLOSE_STEPS
            assert not one.is_frozen()
            fresh = one.desk.file_of(ROLE).read_text().strip()
            assert not one.is_refused(fresh)
            assert all(map(one.is_refused, world.texts.values()))
            assert any("alice" in text for text in incident.remaining)
            with pytest.raises(IncidentUnknownError, match="closed already"):
                _ = await close(one, name)


async def test_a_full_disk_stops_no_incident(world: World) -> None:
    """Everything is refused at once, loudly not durable, and on disk as soon as there is room."""
    with anyio.fail_after(LONGEST):
        async with process(world) as one:
            database = _database(one)
            write = database.write
            database.write = _refuse
            world.told.is_full = True
            incident = await start(one)
            assert not incident.durable
            assert one.is_frozen()
            assert all(map(one.is_refused, world.texts.values()))
            taken = {step.name: step.ok for step in incident.steps}
            assert taken == {**dict.fromkeys(START_STEPS, True), "freeze": False, "revoke": False}
            assert any("NOT on disk" in text for text in one.incidents.notes())
            with pytest.raises(AgentsError):
                _ = await close(one, incident.id)
            assert one.incidents.get(incident.id).state == "open"
            database.write = write
            world.told.is_full = False
            one.desk.catch_up()
            while not one.incidents.get(incident.id).durable or "incident.started" not in (
                world.told.events
            ):
                await anyio.lowlevel.checkpoint()
        async with process(world) as one:
            assert one.incidents.get(incident.id).state == "open"
            assert one.is_refused(world.texts["alice"])


async def test_a_second_start_joins_the_first(world: World) -> None:
    """Two people who press the button have one incident."""
    with anyio.fail_after(LONGEST):
        async with process(world) as one:
            first = await start(one)
            assert (await start(one)).id == first.id
            assert len(one.incidents.all()) == 1
            with pytest.raises(NotRunningError):
                async for _ in one.incidents.start(
                    RoleName("none"), [ROLE], reason="odd", by="operator:ann"
                ):
                    pass
            with pytest.raises(IncidentUnknownError):
                _ = one.incidents.get("inc-0")


async def test_an_incident_that_begins_while_one_is_closed_holds(world: World) -> None:
    """Whoever starts one in that moment has a new one, and the role stays as it is."""
    with anyio.fail_after(LONGEST):
        async with process(world) as one:
            first = await start(one)
            world.told.is_full = True
            one.incidents._known[first.id] = first.model_copy(
                update={"state": "closing", "closed_by": "operator:bob"}
            )
            with pytest.raises(RecordUnavailableError):  # it stops at the thaw, which is told
                _ = await close(one, first.id)
            world.told.is_full = False
            second = await start(one)
            assert second.id != first.id
            closed = await close(one, first.id)
            assert closed.state == "closed"
            assert one.is_frozen()
            assert one.desk.is_closed(ROLE)
            _ = await close(one, second.id)
            assert not one.is_frozen()
            assert not one.is_refused(one.desk.file_of(ROLE).read_text().strip())


async def test_what_others_hold_stays_held(world: World) -> None:
    """Neither an operator's freeze nor a closed role ends with an incident, and it says so."""
    with anyio.fail_after(LONGEST):
        async with process(world) as one:
            incident = await start(one)
            hold = one.guards.holds[0].model_copy(update={"origin": "operator", "role": None})
            assert await one.desk_of_guards.hold(hold)
            world.closed.add(ROLE)
            closed = await close(one, incident.id)
            assert one.is_frozen()
            assert one.desk.is_closed(ROLE)
            text = " ".join(closed.remaining)
            assert "agents thaw" in text
            assert "agents reopen high" in text


def _database(one: Process) -> Database:
    store: TokenStore = one.desk._store
    return store.database


def _refuse() -> NoReturn:
    raise StateUnwritableError("the disk is full")
