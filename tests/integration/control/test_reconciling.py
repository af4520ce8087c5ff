"""A whole project: applied, changed, taken up again after a crash, shut down."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.errors import NotRunningError, SettingsError, WorkloadNotReadyError
from orchestrator.model.desired import GatewaySettings
from orchestrator.model.names import RoleName, WorkloadName

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.control.conftest import Project

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

READER = RoleName("reader")


async def test_roles_are_kept_apart(project: Project) -> None:
    """What happens to one role happens to no other."""
    async with project.control() as control:
        one, bad = project.spec(role="one"), project.spec("--exit", "1", role="bad")
        await control.apply(one, bad, project.spec(role="two"))
        for role in ("one", "two"):
            _ = await control.until_ready(role)
        _ = await control.until_state("crash-looping", "bad")
        pids = control.pid("one"), control.pid("two")
        os.kill(pids[0], signal.SIGKILL)
        _ = await control.until_ready("one", other_than=pids[0])
        assert control.pid("two") == pids[1]
        assert control.role("two").restarts == 0
        assert [status.role for status in control.reconciler.statuses()] == ["bad", "one", "two"]


async def test_applying_the_same_changes_nothing(project: Project) -> None:
    """A role that runs as it should is not touched."""
    async with project.control() as control:
        pid = await control.start(project.spec())
        revisions = list(control.plane.revisions)
        await control.apply(project.spec())
        assert (control.pid(), control.plane.revisions) == (pid, revisions)


async def test_a_removed_role_is_drained_and_gone(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """Its route goes first, then its calls end, then its process; the others stay."""
    async with project.control() as control:
        _ = await control.start(project.spec(), project.spec(role="other"))
        control.plane.events.clear()
        pid = control.pid()
        await control.apply(project.spec(role="other"))
        assert control.plane.events == [
            "reader: gone",
            "drain reader.scripted.g1",
            "drained reader.scripted.g1 0",
            f"lose reader.scripted.g1 {pid}",
        ]
        assert servers() == [control.pid("other")]
        assert project.state().state.roles.keys() == {"other"}
        assert project.state().state.processes.keys() == {"other.scripted.g1"}


async def test_the_gateway_does_not_move(project: Project) -> None:
    """Another address is refused with a way out, and nothing is changed."""
    project.state().update(gateway=GatewaySettings(host="127.0.0.1", port=1))
    async with project.control() as control:
        with pytest.raises(SettingsError) as caught:
            await control.apply(project.spec())
        assert "agents down" in str(caught.value.hint)
        assert control.reconciler.statuses() == ()


# Taking up what ran before.


async def test_instances_outlive_the_control_plane(project: Project) -> None:
    """The next run adopts the very same process, without a new handshake, and counts on."""
    async with project.control() as control:
        first = await control.start(project.spec())
        os.kill(first, signal.SIGKILL)
        ready = await control.until_ready(other_than=first)
    async with project.control() as again:
        adopted = await again.until_ready()
        assert adopted.pid == ready.pid
        assert (adopted.restarts, adopted.generation) == (1, 1)
        assert min(again.plane.revisions) > max(control.plane.revisions)
        assert project.noted() == ["start", "initialize"] * 2
        assert await again.plane.call("reader", "echo", {"a": "b"}) == '{"a": "b"}'


async def test_what_ended_meanwhile_is_started(project: Project) -> None:
    """An instance that died while nobody watched is launched anew, and its pid not believed."""
    async with project.control() as control:
        pid = await control.start(project.spec())
    os.kill(pid, signal.SIGKILL)
    async with project.control() as again:
        ready = await again.until_ready()
        assert ready.pid != pid
        assert ready.restarts == 0


async def test_a_launch_that_nobody_recorded_is_replaced(
    project: Project, alive: Callable[[int], bool]
) -> None:
    """A crash between the launch and the record leaves a process that is not trusted."""
    async with project.control() as control:
        pid = await control.start(project.spec())
        name = WorkloadName("reader.scripted.g1")
    project.state().drop_process(name)
    async with project.control() as again:
        ready = await again.until_ready()
        assert ready.pid != pid
        assert not alive(pid)


async def test_another_processs_record_is_not_believed(project: Project) -> None:
    """A pid that now belongs to a process of another start time is nobody's instance."""
    async with project.control() as control:
        pid = await control.start(project.spec())
        name = WorkloadName("reader.scripted.g1")
    state = project.state()
    record = state.state.processes[name]
    state.keep_process(name, record.model_copy(update={"started": record.started + 1}))
    async with project.control() as again:
        assert (await again.until_ready()).pid != pid


async def test_an_adopted_instance_is_attested(project: Project) -> None:
    """What a server shows is checked again when the control plane comes back."""
    async with project.control() as control:
        pid = await control.start(project.spec("--surprise", "drain"))
    os.kill(pid, signal.SIGUSR1)
    async with project.control() as again:
        status = await again.until_state("quarantined")
        assert "drain" in status.detail


async def test_strays_are_ended(project: Project, servers: Callable[[], list[int]]) -> None:
    """What runs and is not wanted any more is ended before anything else begins."""
    async with project.control() as control:
        _ = await control.start(project.spec(), project.spec(role="other"))
    project.state().drop_role(RoleName("other"))
    async with project.control() as again:
        ready = await again.until_ready()
        assert servers() == [ready.pid]


# Replacing.


async def test_make_before_break(project: Project, alive: Callable[[int], bool]) -> None:
    """The new generation is ready before the old one is drained, and drained before it ends."""
    async with project.control() as control:
        old = await control.start(project.spec())
        control.plane.events.clear()
        await control.apply(project.spec(env={"PATH": os.defpath, "COLOUR": "red"}))
        new = control.role()
        assert control.plane.events == [
            f"reader: reader.scripted.g2 {new.pid}",
            "drain reader.scripted.g1",
            "drained reader.scripted.g1 0",
            f"lose reader.scripted.g1 {old}",
        ]
        assert (new.state, new.generation) == ("ready", 2)
        assert not alive(old)
        environment = await anyio.Path(f"/proc/{new.pid}/environ").read_bytes()
        assert b"COLOUR=red" in environment
        state = project.state().state
        assert state.roles[READER].generation == 2
        assert state.processes.keys() == {"reader.scripted.g2"}


async def test_a_call_in_flight_ends_in_peace(project: Project) -> None:
    """A call that the old generation took is answered by it, and only then it is asked to end."""
    async with project.control() as control:
        _ = await control.start(project.spec())
        replies: list[str] = []
        async with anyio.create_task_group() as group:

            async def call() -> None:
                replies.append(await control.plane.call("reader", "spin", {"seconds": "0.8"}))

            group.start_soon(call)
            await control.until(lambda: any("call spin" in line for line in project.noted()))
            with anyio.fail_after(30):
                await control.reconciler.restart(READER)
            assert replies == ['{"seconds": "0.8"}']
        assert "drained reader.scripted.g1 0" in control.plane.events
        assert project.noted()[-1] == "terminated"


async def test_a_drain_has_an_end(project: Project) -> None:
    """A call that is never answered is cut when the drain is over, and told to be lost."""
    async with project.control() as control:
        spec = project.spec(stop={"drain": "200ms", "grace": "1s"})
        _ = await control.start(spec)
        failures: list[str] = []
        async with anyio.create_task_group() as group:

            async def call() -> None:
                try:
                    _ = await control.plane.call("reader", "hold", {})
                except Exception as error:  # noqa: BLE001  which one is the test
                    failures.append(type(error).__name__)

            group.start_soon(call)
            await control.until(lambda: any("call hold" in line for line in project.noted()))
            with anyio.fail_after(30):
                await control.reconciler.restart(READER)
        assert failures == ["TargetLostError"]
        assert "drained reader.scripted.g1 1" in control.plane.events


async def test_a_crash_ends_the_drain(project: Project) -> None:
    """When the old process dies while it finishes its calls they end then, and no other comes."""
    async with project.control() as control:
        old = await control.start(project.spec(stop={"drain": "10m", "grace": "1s"}))
        failures: list[str] = []
        async with anyio.create_task_group() as group:

            async def call() -> None:
                try:
                    _ = await control.plane.call("reader", "hold", {})
                except Exception as error:  # noqa: BLE001  which one is the test
                    failures.append(type(error).__name__)

            group.start_soon(call)
            await control.until(lambda: any("call hold" in line for line in project.noted()))
            group.start_soon(control.reconciler.restart, READER)
            await control.until(lambda: "drain reader.scripted.g1" in control.plane.events)
            os.kill(old, signal.SIGKILL)
            with anyio.fail_after(60):  # the drain would take ten minutes
                while not failures:  # noqa: ASYNC110  as it is told by nothing else
                    await anyio.sleep(0.01)
        assert failures == ["TargetLostError"]
        assert project.noted().count("start") == 2


@pytest.mark.parametrize(
    ("options", "startup", "reason"),
    [
        (("--exit", "4"), "30s", "exit status 4"),
        (("--tools", "echo,drain"), "30s", "drain"),
        (("--mute",), "300ms", "did not answer"),
    ],
)
async def test_a_failed_replacement_changes_nothing(
    project: Project,
    servers: Callable[[], list[int]],
    options: tuple[str, ...],
    startup: str,
    reason: str,
) -> None:
    """When the new generation does not become ready the old one serves on, and why is told."""
    async with project.control() as control:
        old = await control.start(project.spec())
        control.plane.events.clear()
        with pytest.raises(WorkloadNotReadyError) as caught:
            await control.apply(project.spec(*options, probe={"startup": startup}))
        assert reason in str(caught.value)
        assert "generation 1 keeps serving" in str(caught.value)
        assert (control.pid(), control.role().generation) == (old, 1)
        assert control.plane.route("reader") == f"reader.scripted.g1 {old}"
        assert not any(": reader" in event for event in control.plane.events)
        assert servers() == [old]
        assert project.state().state.roles[READER].generation == 1
        # The number is used up all the same.
        await control.apply(project.spec(mode="owner"))
        assert control.role().generation == 3


async def test_the_old_one_may_die_meanwhile(project: Project) -> None:
    """A crash of the serving generation during its replacement costs no more than a crash."""
    async with project.control() as control:
        old = await control.start(project.spec())
        gate = project.root / "gate"
        async with anyio.create_task_group() as group:
            changed = project.spec("--exit-unless", str(gate))
            group.start_soon(control.apply, changed)
            await control.until(lambda: "is being readied" in control.role().detail)
            assert not control.role().settled
            os.kill(old, signal.SIGKILL)
            gate.touch()
        ready = await control.until_ready()
        assert ready.generation == 2


async def test_restart_of_nobody(project: Project) -> None:
    """A role that is not applied cannot be restarted; those that can be are named."""
    async with project.control() as control:
        _ = await control.start(project.spec())
        with pytest.raises(NotRunningError, match="running: reader"):
            await control.reconciler.restart(RoleName("nobody"))


async def test_a_stuck_role_is_tried_again_by_apply(project: Project) -> None:
    """Applying the same files again gives a crash-looping role another chance at once."""
    gate = project.root / "gate"
    async with project.control() as control:
        restart = {"backoff": "1ms", "backoff_max": "10m"}
        spec = project.spec("--exit-unless", str(gate), restart=restart)
        await control.apply(spec)
        _ = await control.until_state("crash-looping")
        gate.touch()
        await control.apply(spec)
        ready = await control.until_ready()
        assert ready.generation == 2


# The end.


async def test_shutdown_leaves_nothing(
    project: Project, servers: Callable[[], list[int]], alive: Callable[[int], bool]
) -> None:
    """Every process is gone, with its children, and nothing starts again with the next run."""
    family = project.root / "family"
    async with project.control() as control:
        stop = {"drain": "1s", "grace": "300ms"}
        stubborn = project.spec("--stubborn", "--children", str(family), stop=stop)
        await control.apply(stubborn, project.spec("--exit", "1", role="bad"))
        _ = await control.until_ready()
        children: list[int] = [
            int(word) for word in family.read_text().strip("[]").replace(",", " ").split()
        ]
        if not project.image:  # inside a container processes have other numbers
            assert all(alive(pid) for pid in children)
        with anyio.fail_after(30):
            await control.reconciler.shutdown()
        assert control.reconciler.statuses() == ()
        assert control.reconciler.is_settled()
        assert servers() == []
        if not project.image:
            await control.until(lambda: not any(alive(pid) for pid in children))
    state = project.state().state
    assert (state.roles, state.processes) == ({}, {})
    async with project.control() as again:
        assert again.reconciler.statuses() == ()
        assert await project.runtime.observe() == {}


# Without an engine.


async def test_instances_outlive_the_engine(project: Project) -> None:
    """When the engine is killed calls go on, and what is wrong is told."""
    async with project.control() as control:
        pid = await control.start(project.spec())
        engine = await project.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        await control.until(control.reconciler.notes)
        assert "agents up" in control.reconciler.notes()[0]
        assert control.pid() == pid
        assert await control.plane.call("reader", "echo", {}) == "{}"
        os.kill(pid, signal.SIGKILL)
        status = await control.until_state("backoff")
        assert control.plane.route("reader").startswith("no backoff")
        assert status.pid is None


@pytest.mark.parametrize("restart", [{"give_up_after": 1}, {}])
async def test_nothing_that_fails_without_an_engine_ends_the_control_plane(
    project: Project, restart: dict[str, int]
) -> None:
    """A role that has to be quarantined or given up just then takes no other role with it."""
    async with project.control() as control:
        pid = await control.start(
            project.spec("--surprise", "drain", restart=restart), project.spec(role="other")
        )
        engine = await project.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        await control.until(control.reconciler.notes)
        os.kill(pid, signal.SIGKILL if restart else signal.SIGUSR1)
        _ = await control.until_state("failed" if restart else "quarantined")
        with anyio.move_on_after(0.2):
            await anyio.sleep_forever()
        assert control.role("other").state == "ready"
        assert await control.plane.call("other", "echo", {}) == "{}"
