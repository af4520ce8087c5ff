"""The report of credentials, and what of it is logged."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast, final

import anyio
import anyio.lowlevel
import pytest
import structlog
from structlog.testing import capture_logs
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import StateUnwritableError
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Rotation, State
from orchestrator.rotation.overview import Overview
from orchestrator.rotation.schedule import Due

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
NEAR = Due(
    role=RoleName("treasury"),
    purpose="upstream",
    agent="",
    credential="bm-treasury-1",
    issued_at=NOW - timedelta(days=83),
    expires_at=NOW + timedelta(days=7),
    due_at=NOW,
    is_due=True,
    warning="7d",
    by_hand=False,
    note="",
    ends_at=NOW + timedelta(days=7),
)


@final
class StandingClock(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Begin on an evening."""
        self.time = NOW

    @override
    def now(self) -> datetime:
        return self.time

    @override
    def monotonic(self) -> float:
        return 0.0


@final
class Told:
    """What an engine tells."""

    def __init__(self) -> None:
        """Begin with one credential that ends soon."""
        self.dues: Sequence[Due] = [NEAR]
        self.rotated: Sequence[Rotation] = []
        self.noted: Sequence[str] = ["treasury: held"]
        self.broken = False
        self.looked = anyio.Event()

    async def due(self) -> Sequence[Due]:
        """Tell what is current."""
        self.looked.set()
        if self.broken:
            raise StateUnwritableError("the database cannot be read")
        return self.dues

    async def rotations(self, role: RoleName | None = None) -> Sequence[Rotation]:
        """Tell rotations."""
        assert role is None
        return self.rotated

    async def notes(self) -> Sequence[str]:
        """Tell what a person should know."""
        return self.noted


@pytest.fixture
def told() -> Told:
    """Make what is told."""
    return Told()


def overview(told: Told, clock: Clock) -> Overview:
    """Make a report of it."""
    log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
    return Overview(told, clock, log)


def rotation(state: State) -> Rotation:
    """Make a rotation in a state."""
    return Rotation(
        id=f"{state:x<12}",
        role=RoleName("treasury"),
        purpose="upstream",
        state=state,
        created_at=NOW,
        changed_at=NOW,
    )


async def test_the_report(told: Told) -> None:
    """It is empty before the first look; finished rotations are no part of it."""
    told.rotated = [rotation(State.DONE), rotation(State.HELD), rotation(State.FAILED)]
    made = overview(told, StandingClock())
    assert made.report.credentials == ()
    await made.refresh()
    (one,) = made.report.credentials
    assert (one.role, one.warning, one.due_at) == ("treasury", "7d", NOW)
    assert [one.state for one in made.report.rotations] == [State.HELD]
    assert made.report.notes == ("treasury: held",)


async def test_each_warning_is_logged_once_a_day(told: Told) -> None:
    """The same again is silent until the day changes; another one is news."""
    clock = StandingClock()
    made = overview(told, clock)
    with capture_logs() as logs:
        await made.refresh()
        await made.refresh()
    assert [entry["event"] for entry in logs] == [
        "credential grows old",
        "credentials need somebody",
    ]
    assert (logs[0]["credential"], logs[0]["warning"]) == ("bm-treasury-1", "7d")
    with capture_logs() as logs:
        told.noted = [*told.noted, "monitoring: held"]
        await made.refresh()
    assert [entry.get("detail") for entry in logs] == ["monitoring: held"]
    clock.time += timedelta(hours=2)
    with capture_logs() as logs:
        await made.refresh()
    assert len(logs) == 3


async def test_a_database_that_cannot_be_read(told: Told) -> None:
    """The earlier report stays, and it is looked again."""
    made = overview(told, StandingClock())
    await made.refresh()
    told.broken, told.looked = True, anyio.Event()
    with capture_logs() as logs, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            await told.looked.wait()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert [entry["event"] for entry in logs] == ["credentials not looked through"]
    assert len(made.report.credentials) == 1
