"""Further processes of a role, started on demand; real engine, real servers."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.model.names import RoleName, ServerName, lane_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.model.snapshot import TargetRef
    from tests.integration.control.conftest import Control, Project

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

READER = RoleName("reader")
SOON = timedelta(seconds=1.5)


def lane(control: Control, era: str, owner: str = "") -> TargetRef | None:
    """Find a lane that may take calls."""
    lanes = control.plane.routes[READER].lanes
    return next((ref for ref in lanes if (ref.era, ref.owner) == (era, owner)), None)


async def until_lane(control: Control, era: str, owner: str = "") -> TargetRef:
    """Wait for a lane."""
    await control.until(lambda: lane(control, era, owner))
    found = lane(control, era, owner)
    assert found is not None
    return found


# The other era.


async def test_a_lane_of_the_other_era(project: Project) -> None:
    """Who needs the other era gets a process that is opened in it, once, beside the first."""
    async with project.control() as control:
        pid = await control.start(project.spec("--era", "both", era="auto"))
        assert control.plane.routes[READER].mirrors == {"legacy", "modern"}
        for _ in range(3):
            control.reconciler.note_wanted(READER, "legacy", "")
        found = await until_lane(control, "legacy")
        control.reconciler.note_wanted(READER, "legacy", "")
        assert found.workload == "reader.scripted.g1.l"
        assert (found.protocol_version, found.pid != pid) == ("2025-11-25", True)
        assert await control.plane.call("reader legacy", "echo", {"a": "b"}) == '{"a": "b"}'
        assert project.noted().count("initialize") == 1
        assert project.noted().count("start") == 2
        assert control.pid() == pid
        (told,) = control.role().lanes
        assert (told.workload, told.era, told.owner) == (found.workload, "legacy", "")
        assert (told.state, told.pid) == ("ready", found.pid)


async def test_what_is_there_is_not_started_again(project: Project) -> None:
    """A wish for the era of the first process, or for an owner where none counts, does nothing."""
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "both", era="auto"))
        control.reconciler.note_wanted(READER, "modern", "")
        control.reconciler.note_wanted(READER, "legacy", "alice")
        control.reconciler.note_wanted(RoleName("nobody"), "legacy", "")
        with anyio.move_on_after(0.3):
            await control.reconciler.change()
            pytest.fail(f"news: {control.role()}")
        assert project.noted() == ["start"]


async def test_a_legacy_server_is_not_asked_twice(project: Project) -> None:
    """A server that was asked for the newer era first and has the older is never tried again."""
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "legacy", era="auto"))
        assert control.plane.routes[READER].mirrors == {"legacy"}
        control.reconciler.note_wanted(READER, "modern", "")
        assert control.role().lanes == ()


async def test_a_pinned_era_has_no_other(project: Project) -> None:
    """Where the server file names the era there is only that one."""
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "both", era="modern"))
        assert control.plane.routes[READER].mirrors == {"modern"}


async def test_an_era_that_is_not_spoken(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A server that refuses an era is found out once, for all its roles and for good."""
    async with project.control() as control:
        one = project.spec("--era", "modern", era="auto")
        pid = await control.start(one, project.spec("--era", "modern", era="auto", role="other"))
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: "legacy" not in control.plane.routes[READER].mirrors)
        await control.until(lambda: sorted(servers()) == sorted([pid, control.pid("other")]))
        assert control.plane.routes[READER].refused == {}
        assert project.state().state.unspoken == {"scripted": ("legacy",)}
        other = RoleName("other")
        control.reconciler.note_wanted(other, "legacy", "")
        await control.until(lambda: "legacy" not in control.plane.routes[other].mirrors)
        assert project.noted().count("start") == 3
    async with project.control() as again:
        _ = await again.until_ready()
        assert again.plane.routes[READER].mirrors == {"modern"}
        with anyio.fail_after(30):
            await again.reconciler.restart(READER)
        assert again.plane.routes[READER].mirrors == {"legacy", "modern"}


async def test_a_lane_comes_back(project: Project) -> None:
    """A lane that crashes loses its place and its calls, and is followed by another; no other."""
    async with project.control() as control:
        pid = await control.start(project.spec("--era", "both", era="auto"))
        control.reconciler.note_wanted(READER, "legacy", "")
        first = await until_lane(control, "legacy")
        control.plane.events.clear()
        os.kill(first.pid, signal.SIGKILL)
        await control.until(lambda: (lane(control, "legacy") or first).pid != first.pid)
        second = await until_lane(control, "legacy")
        assert control.plane.events == [
            f"lose reader.scripted.g1.l {first.pid}",
            "reader legacy: gone",
            f"reader legacy: reader.scripted.g1.l {second.pid}",
        ]
        assert control.pid() == pid
        assert control.role().lanes[0].restarts == 1
        assert control.role().restarts == 0


async def test_a_stopped_lane_is_replaced(project: Project) -> None:
    """A lane that is alive and answers nothing is found and replaced like any process."""
    quick = {"every": "100ms", "patience": "500ms", "misses": 2}
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "both", era="auto", probe=quick))
        control.reconciler.note_wanted(READER, "legacy", "")
        first = await until_lane(control, "legacy")
        os.kill(first.pid, signal.SIGSTOP)
        await control.until(lambda: (lane(control, "legacy") or first).pid != first.pid)


async def test_a_lane_with_a_tool_too_many(project: Project) -> None:
    """A lane that shows what it must not is quarantined and refused; the others serve on."""
    gate = project.root / "gate"
    async with project.control() as control:
        spec = project.spec("--era", "both", "--extra-if", f"{gate}:drain", era="auto")
        pid = await control.start(spec)
        gate.touch()
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: control.plane.routes[READER].refused)
        why = control.plane.routes[READER].refused[("legacy", "")]
        assert "tools that it must not have" in why
        assert control.plane.routes[READER].lanes == ()
        (told,) = control.role().lanes
        assert (told.state, control.pid()) == ("quarantined", pid)
        assert "drain" in told.detail
        await control.until(lambda: control.role().lanes[0].pid is None)
        assert not any("reader legacy: reader" in event for event in control.plane.events)


async def test_a_quarantined_role_has_no_lanes(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """When the role's own process shows too much its lanes end with it, and none is begun."""
    async with project.control() as control:
        pid = await control.start(project.spec("--era", "both", "--surprise", "drain", era="auto"))
        control.reconciler.note_wanted(READER, "legacy", "")
        _ = await until_lane(control, "legacy")
        os.kill(pid, signal.SIGUSR1)
        _ = await control.until_state("quarantined")
        assert control.plane.routes[READER].lanes == ()
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: not servers())
        assert control.role().lanes == ()


async def test_a_lane_that_does_not_start(project: Project) -> None:
    """A lane that cannot be had is refused with a reason, and comes when its trouble is over."""
    gate = project.root / "gate"
    async with project.control() as control:
        spec = project.spec("--era", "both", "--exit-if", str(gate), era="auto")
        pid = await control.start(spec)
        gate.touch()
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: control.plane.routes[READER].refused)
        assert "does not become ready" in control.plane.routes[READER].refused[("legacy", "")]
        assert "exit status 1" in control.role().lanes[0].detail
        gate.unlink()
        _ = await until_lane(control, "legacy")
        assert control.plane.routes[READER].refused == {}
        assert control.pid() == pid


# Processes of one owner.


async def test_each_agent_has_its_own(project: Project) -> None:
    """With `per-agent` each agent gets a process of its own, in the era that it speaks."""
    async with project.control() as control:
        pid = await control.start(project.spec("--era", "both", era="auto", sharing="per-agent"))
        assert control.plane.routes[READER].sharing == "per-agent"
        control.reconciler.note_wanted(READER, "modern", "")
        control.reconciler.note_wanted(READER, "modern", "alice")
        control.reconciler.note_wanted(READER, "legacy", "bob@example.com")
        alice = await until_lane(control, "modern", "alice")
        bob = await until_lane(control, "legacy", "bob@example.com")
        assert len({pid, alice.pid, bob.pid}) == 3
        assert alice.workload == f"reader.scripted.g1.{lane_part('modern', 'alice')}"
        names = {(told.owner, told.era) for told in control.role().lanes}
        assert names == {("alice", "modern"), ("bob@example.com", "legacy")}


async def test_an_ended_session_leaves_nothing(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """The lane of a session that ended finishes its calls, then its process ends; none stays."""
    async with project.control() as control:
        spec = project.spec(sharing="per-session")
        pid = await control.start(spec)
        one, two = "0123456789abcdef", "fedcba9876543210"
        for key in (one, two):
            control.reconciler.note_wanted(READER, "legacy", key)
        first, second = await until_lane(control, "legacy", one), lane(control, "legacy", two)
        second = await until_lane(control, "legacy", two)
        replies: list[str] = []
        async with anyio.create_task_group() as group:

            async def call() -> None:
                name = f"reader legacy {one}"
                replies.append(await control.plane.call(name, "spin", {"seconds": "0.5"}))

            group.start_soon(call)
            await control.until(lambda: any("call spin" in line for line in project.noted()))
            control.reconciler.note_unwanted(READER, one)
            assert lane(control, "legacy", one) is None
        assert replies == ['{"seconds": "0.5"}']
        await control.until(lambda: sorted(servers()) == sorted([pid, second.pid]))
        assert f"drained {first.workload} 0" in control.plane.events


async def test_a_wish_right_after_the_end(project: Project) -> None:
    """An owner who comes back while the old lane still ends gets a new one after it."""
    async with project.control() as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        control.reconciler.note_wanted(READER, "legacy", "alice")
        first = await until_lane(control, "legacy", "alice")
        for _ in range(3):
            control.reconciler.note_unwanted(READER, "alice")
            control.reconciler.note_wanted(READER, "legacy", "alice")
        second = await until_lane(control, "legacy", "alice")
        assert second.pid != first.pid
        assert second.workload == first.workload
        assert await control.plane.call("reader legacy alice", "echo", {}) == "{}"


async def test_there_is_an_end_to_owners(project: Project) -> None:
    """Only so many owners have processes; more are refused in words until there is room."""
    async with project.control(most_owners=2) as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        for owner in ("alice", "bob", "carol"):
            control.reconciler.note_wanted(READER, "legacy", owner)
        await control.until(lambda: control.plane.routes[READER].refused)
        refused = control.plane.routes[READER].refused
        assert refused.keys() == {("legacy", "carol")}
        assert "2 callers have instances of their own" in refused[("legacy", "carol")]
        _ = await until_lane(control, "legacy", "alice")
        control.reconciler.note_unwanted(READER, "alice")
        assert control.plane.routes[READER].refused == {}
        control.reconciler.note_wanted(READER, "legacy", "carol")
        _ = await until_lane(control, "legacy", "carol")


# The end of lanes.


async def test_an_idle_lane_ends(project: Project, servers: Callable[[], list[int]]) -> None:
    """A lane that nobody calls ends after a while, and one that is used does not."""
    async with project.control(lane_idle=SOON) as control:
        pid = await control.start(project.spec(sharing="per-agent"))
        control.reconciler.note_wanted(READER, "legacy", "bob")
        bob = await until_lane(control, "legacy", "bob")
        async with anyio.create_task_group() as group:

            async def call() -> None:
                await control.plane.call("reader legacy bob", "hold", {})

            group.start_soon(call)
            # Not at once: one that is idle for as long as its start takes would never be ready.
            control.reconciler.note_wanted(READER, "legacy", "alice")
            _ = await until_lane(control, "legacy", "alice")
            await control.until(lambda: lane(control, "legacy", "alice") is None)
            await control.until(lambda: sorted(servers()) == sorted([pid, bob.pid]))
            assert lane(control, "legacy", "bob") == bob
            group.cancel_scope.cancel()
        await control.until(lambda: servers() == [pid])
        assert control.role().lanes == ()
        control.reconciler.note_wanted(READER, "legacy", "bob")
        assert (await until_lane(control, "legacy", "bob")).pid != bob.pid


async def test_a_slow_lane_is_not_idle(project: Project) -> None:
    """A lane that takes longer to start than it may be idle is there for who waits for it."""
    async with project.control(lane_idle=timedelta(milliseconds=1)) as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        control.plane.events.clear()
        control.reconciler.note_wanted(READER, "legacy", "alice")
        name = f"reader legacy alice: reader.scripted.g1.{lane_part('legacy', 'alice')}"
        await control.until(lambda: any(name in event for event in control.plane.events))


async def test_lanes_end_with_their_generation(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A replaced role drains its old lanes; those of the new generation begin on demand."""
    async with project.control() as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        control.reconciler.note_wanted(READER, "legacy", "alice")
        old = await until_lane(control, "legacy", "alice")
        replies: list[str] = []
        async with anyio.create_task_group() as group:

            async def call() -> None:
                name = "reader legacy alice"
                replies.append(await control.plane.call(name, "spin", {"seconds": "0.8"}))

            group.start_soon(call)
            await control.until(lambda: any("call spin" in line for line in project.noted()))
            with anyio.fail_after(30):
                await control.reconciler.restart(READER)
        assert replies == ['{"seconds": "0.8"}']
        assert servers() == [control.pid()]
        assert f"drained {old.workload} 0" in control.plane.events
        control.reconciler.note_wanted(READER, "legacy", "alice")
        new = await until_lane(control, "legacy", "alice")
        assert new.workload.startswith("reader.scripted.g2.l-")


async def test_a_removed_role_takes_its_lanes_along(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """Nothing of a role is left when it is removed, and nothing of it is started then."""
    async with project.control() as control:
        _ = await control.start(project.spec(sharing="per-agent"), project.spec(role="other"))
        control.reconciler.note_wanted(READER, "legacy", "alice")
        _ = await until_lane(control, "legacy", "alice")
        await control.apply(project.spec(role="other"))
        assert servers() == [control.pid("other")]
        assert project.state().state.processes.keys() == {"other.scripted.g1"}
        control.reconciler.note_wanted(READER, "legacy", "alice")
        with anyio.fail_after(30):
            await control.reconciler.shutdown()
        assert servers() == []
        assert await project.runtime.observe() == {}


async def test_a_lane_under_way_ends_with_the_role(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A lane that is being started when its role is removed leaves no process behind."""
    async with project.control() as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        for owner in ("alice", "bob", "carol"):
            control.reconciler.note_wanted(READER, "legacy", owner)
        with anyio.fail_after(30):
            await control.reconciler.shutdown()
        assert servers() == []
        assert await project.runtime.observe() == {}


# After a crash of the control plane.


async def test_lanes_are_adopted(project: Project) -> None:
    """The next run takes up the very same processes, with their owners, without a handshake."""
    async with project.control() as control:
        _ = await control.start(project.spec(sharing="per-agent"))
        for owner in ("alice", "bob"):
            control.reconciler.note_wanted(READER, "legacy", owner)
        alice = await until_lane(control, "legacy", "alice")
        bob = await until_lane(control, "legacy", "bob")
    os.kill(bob.pid, signal.SIGKILL)
    before = project.noted()
    async with project.control() as again:
        assert await until_lane(again, "legacy", "alice") == alice
        assert await again.plane.call("reader legacy alice", "echo", {"a": "b"}) == '{"a": "b"}'
        # Nobody has asked for the other one since.
        assert [told.owner for told in again.role().lanes] == ["alice"]
        assert project.noted()[len(before) :] == ['call echo {"a": "b"}']
        again.reconciler.note_wanted(READER, "legacy", "bob")
        assert (await until_lane(again, "legacy", "bob")).workload == bob.workload


async def test_lanes_that_nobody_recorded_are_strays(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A lane that was launched and not yet written down is ended before anything else begins."""
    async with project.control() as control:
        pid = await control.start(project.spec(sharing="per-agent"))
        control.reconciler.note_wanted(READER, "legacy", "alice")
        found = await until_lane(control, "legacy", "alice")
    project.state().drop_process(found.workload)
    async with project.control() as again:
        _ = await again.until_ready()
        assert servers() == [pid]
        assert again.role().lanes == ()


async def test_lanes_of_an_older_generation_are_strays(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A crash in the middle of a replacement leaves the new generation alone, and clean records."""
    async with project.control() as control:
        spec = project.spec(sharing="per-agent")
        _ = await control.start(spec)
        control.reconciler.note_wanted(READER, "legacy", "alice")
        _ = await until_lane(control, "legacy", "alice")
    state = project.state()
    state.keep_role(READER, spec.model_copy(update={"generation": state.next_generation(READER)}))
    async with project.control() as again:
        ready = await again.until_ready()
        assert servers() == [ready.pid]
        assert project.state().state.processes.keys() == {"reader.scripted.g2"}


async def test_a_crash_at_any_moment(project: Project, servers: Callable[[], list[int]]) -> None:
    """Wherever the control plane is stopped, the next run finds what is recorded, and no more."""
    spec = project.spec(sharing="per-agent")
    async with project.control() as control:
        pid = await control.start(spec)
    owners = ("alice", "bob", "carol")
    for turn in range(8):
        async with project.control() as control:
            for owner in owners:
                control.reconciler.note_wanted(READER, "legacy", owner)
            with anyio.move_on_after(0.03 * turn):
                await control.until(lambda: len(control.plane.routes[READER].lanes) == 3)
            if turn % 3 == 2:
                control.reconciler.note_unwanted(READER, "bob")
    records = project.state().state.processes.values()
    recorded = {record.pid for record in records} & set(servers())
    async with project.control() as control:
        _ = await control.until_ready()
        await control.until(lambda: len(control.plane.routes[READER].lanes) == len(recorded) - 1)
        assert sorted(servers()) == sorted(recorded)
        assert control.pid() == pid
        for owner in owners:
            control.reconciler.note_wanted(READER, "legacy", owner)
        for owner in owners:
            _ = await until_lane(control, "legacy", owner)
        assert len(servers()) == 4
        with anyio.fail_after(30):
            await control.reconciler.shutdown()
        assert servers() == []


async def test_an_adopted_era_lane(project: Project) -> None:
    """The lane of the other era is found again, too, and its era with it."""
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "both", era="auto"))
        control.reconciler.note_wanted(READER, "legacy", "")
        found = await until_lane(control, "legacy")
        assert project.state().state.eras == {ServerName("scripted"): "modern"}
    async with project.control() as again:
        assert await until_lane(again, "legacy") == found
