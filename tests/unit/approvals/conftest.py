"""A desk for approvals over a real database, with a clock and policies of the test's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, final

import pytest
from typing_extensions import override

from orchestrator.approvals.desk import ApprovalDesk
from orchestrator.approvals.people import Person
from orchestrator.approvals.store import ApprovalStore
from orchestrator.clock import Clock
from orchestrator.database import Database
from orchestrator.errors import RecordUnavailableError
from orchestrator.model.approval import Approval, Asked, Demand, Wish
from orchestrator.model.names import AgentName, RoleName, ToolName
from orchestrator.model.notes import NoteFields, Notes

if TYPE_CHECKING:
    from orchestrator.model.admin_governance import Decision
    from orchestrator.model.base import JsonObject

ALICE = Person("alice")
HOUR = timedelta(hours=1)


@final
class FakeClock(Clock):
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        """Begin at some moment."""
        self.time = datetime(2026, 11, 5, 12, tzinfo=UTC)
        self.seconds = 1000.0

    @override
    def now(self) -> datetime:
        return self.time

    @override
    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, span: timedelta) -> None:
        """Let time pass."""
        self.time += span
        self.seconds += span.total_seconds()


@final
class FakeNotes(Notes):
    """Keeps what it is told in memory, or refuses to."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.told: list[tuple[str, NoteFields]] = []
        self.is_full = False

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        if self.is_full:
            raise RecordUnavailableError("the disk is full")
        self.told.append((event, fields))

    def events(self) -> list[str]:
        """Tell the names of what it was told."""
        return [event for event, _ in self.told]


@dataclass
class World:
    """A desk and all that it works with."""

    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    notes: FakeNotes = field(default_factory=FakeNotes)
    policy: str = "p1"

    def __post_init__(self) -> None:
        """Open the database."""
        self.open()

    def open(self) -> None:
        """Open the database as a fresh process does."""
        self.database = Database(self.root / "agents.db")
        self.store = ApprovalStore(self.database)
        self.desk = ApprovalDesk(self.store, self.clock, self.notes, lambda _: self.policy)

    def close(self) -> None:
        """Let go of the database."""
        self.desk.close()
        self.database.close()

    def crash(self) -> None:
        """End, and begin again with what is on disk."""
        self.close()
        self.open()

    def wish(
        self,
        amount: str = "1",
        *,
        agent: str = "bot",
        tool: str = "pay",
        quorum: int = 1,
        lasts: timedelta = HOUR,
        receipt: str = "",
    ) -> Wish:
        """Tell a call."""
        arguments: JsonObject = {"amount": amount, "to": "bob"}
        asked = Asked(
            RoleName("treasury"), AgentName(agent), ToolName(tool), f"sha of {amount}", self.policy
        )
        demand = Demand("approval.destructive", quorum, lasts)
        return Wish(asked, "DESTRUCTIVE", demand, arguments, receipt, "r-1")

    def find(self, name: str) -> Approval:
        """Look an approval up."""
        found = self.store.find(name, self.clock.now())
        assert found is not None
        return found

    async def decide(
        self, name: str, decision: Decision = "approve", person: Person = ALICE, digest: str = ""
    ) -> Approval:
        """Have a person's word."""
        digest = digest or self.find(name).digest
        return await self.desk.decide(name, decision, digest, person)

    def wish_under(self, wish: Wish, policy: str) -> Wish:
        """Tell the same call under another policy."""
        return replace(wish, asked=replace(wish.asked, policy=policy))


@pytest.fixture(scope="session")
def new_world() -> type[World]:
    """Give the way to make a world."""
    return World


@pytest.fixture
def world() -> Generator[World]:
    """Make a world with nothing in it."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    made = World(root)
    yield made
    made.close()
    shutil.rmtree(root)
