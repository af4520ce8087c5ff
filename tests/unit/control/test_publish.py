"""Snapshots, and the gateway that gets them."""

from pathlib import Path
from typing import final

import anyio
import pytest
from typing_extensions import override

from orchestrator.control import publish
from orchestrator.control.dataplane import DataPlane
from orchestrator.control.publish import Publisher
from orchestrator.control.state import StateFile
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, ServerName, WorkloadName
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Pulse, Route, Snapshot

SHOP = ServerName("shop")
READER, WRITER = RoleName("reader"), RoleName("writer")


@final
class Plane(DataPlane):
    """Remembers what it was told; the gateway is outside of the control plane."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.snapshots: list[Snapshot] = []
        self.lost: list[tuple[str, int, str]] = []

    @override
    def swap(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    @override
    async def drain(self, workload: WorkloadName, grace: float) -> int:
        return 0

    @override
    async def see_out(self, workload: WorkloadName, grace: float, *, promises: bool) -> Drain:
        return Drain(0)

    @override
    def hold(self, role: RoleName, seconds: float) -> None:
        return

    @override
    def release(self, role: RoleName) -> None:
        return

    @override
    def cut(self, role: RoleName) -> int:
        return 3

    @override
    def lose(self, workload: WorkloadName, pid: int, reason: str) -> None:
        self.lost.append((workload, pid, reason))

    @override
    def pulse(self, workload: WorkloadName) -> Pulse | None:
        return None

    @override
    async def ping(self, workload: WorkloadName) -> None:
        return

    @override
    async def list_tools(self, workload: WorkloadName) -> tuple[JsonObject, ...]:
        return ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the state is kept."""
    return tmp_path / "control.json"


def route(role: RoleName, reason: str = "starting") -> Route:
    """Make a route without a target."""
    return Route(role, SHOP, None, reason=reason)


def test_a_late_gateway_gets_all_earlier_routes(path: Path) -> None:
    """Whatever was published before the gateway came is what it serves from first."""
    publisher, plane = Publisher(StateFile(path)), Plane()
    publisher.publish(route(READER))
    publisher.publish(route(WRITER))
    publisher.publish(route(READER, "ready"))
    publisher.attach(plane)
    assert [dict(snapshot.routes) for snapshot in plane.snapshots] == [
        {READER: route(READER, "ready"), WRITER: route(WRITER)}
    ]
    publisher.withdraw(WRITER)
    assert plane.snapshots[-1] is publisher.snapshot
    assert plane.snapshots[-1].routes.keys() == {READER}


def test_a_snapshot_never_changes(path: Path) -> None:
    """What the gateway holds is its own: later changes are in later snapshots only."""
    publisher = Publisher(StateFile(path))
    publisher.publish(route(READER))
    before = publisher.snapshot
    publisher.withdraw(READER)
    assert before.routes == {READER: route(READER)}
    with pytest.raises(TypeError):
        before.routes[WRITER] = route(WRITER)  # type: ignore[index]  # the case under test


def test_revisions_only_grow(path: Path) -> None:
    """No revision is ever seen twice, over any number of restarts without a goodbye."""
    seen: list[int] = []
    for _ in range(3):
        plane = Plane()
        publisher = Publisher(StateFile(path))
        publisher.attach(plane)
        for _ in range(publish._ROOM + 5):
            publisher.publish(route(READER))
        seen += [snapshot.revision for snapshot in plane.snapshots]
    assert seen == sorted(set(seen))
    assert len(seen) == 3 * (publish._ROOM + 6)


def test_most_changes_cost_no_write(path: Path) -> None:
    """Routes change often; the state on disk is replaced once in a thousand times."""
    publisher = Publisher(StateFile(path))
    before = path.stat().st_ino
    for _ in range(publish._ROOM - 1):
        publisher.publish(route(READER))
    assert path.stat().st_ino == before
    publisher.publish(route(READER))
    assert StateFile(path).state.revision > publisher.snapshot.revision


async def test_waiting_for_the_gateway(path: Path) -> None:
    """Whoever needs the gateway waits until there is one; a loss before is told to nobody."""
    publisher, plane = Publisher(StateFile(path)), Plane()
    publisher.lose(WorkloadName("reader.shop.g1"), 7, "it ended")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                assert await publisher.plane() is plane

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            publisher.attach(plane)
    publisher.lose(WorkloadName("reader.shop.g1"), 8, "it ended")
    assert plane.lost == [("reader.shop.g1", 8, "it ended")]
