"""A warm spare beside the process that serves; real engine, real servers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.model.names import RoleName, WorkloadName

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.control.conftest import Control, Project

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

READER = RoleName("reader")
QUICK_PROBE: dict[str, object] = {
    "every": "100ms",
    "patience": "500ms",
    "misses": 2,
    "startup": "8s",
}


def spare_pid(control: Control) -> int:
    """Tell the spare that is ready, 0 without one."""
    spare = control.role().spare
    return (spare.pid or 0) if spare is not None and spare.state == "ready" else 0


async def start(
    control: Control,
    project: Project,
    *options: str,
    tools: dict[str, str] | None = None,
    probe: dict[str, object] | None = None,
) -> int:
    """Run a role with a spare and wait until that stands by; tell the serving process."""
    fields: dict[str, object] = {"standby": 1, "probe": probe or {}}
    fields |= {"tools": tools} if tools else {}
    pid = await control.start(project.spec(*options, role="reader", **fields))
    await control.until(lambda: spare_pid(control))
    return pid


async def test_a_spare_stands_by(project: Project) -> None:
    """A second process is readied after the first and gets no route."""
    async with project.control() as control:
        pid = await start(control, project)
        spare = control.role().spare
        assert spare is not None
        assert (spare.workload, spare.state) == ("reader.scripted.g1.2", "ready")
        assert spare.pid not in {None, pid}
        assert control.plane.events == [
            "reader: no starting waits",
            f"reader: reader.scripted.g1 {pid}",
        ]
        assert project.noted() == ["start", "initialize"] * 2


async def test_the_spare_takes_over(project: Project, servers: Callable[[], list[int]]) -> None:
    """When the serving process ends calls go to the spare at once, and the next one stands by."""
    async with project.control() as control:
        first = await start(control, project)
        second = spare_pid(control)
        control.plane.events.clear()
        os.kill(first, signal.SIGKILL)
        await control.until(lambda: control.pid() == second)
        await control.until(lambda: spare_pid(control))
        # Nobody ever saw a role without a process.
        assert control.plane.events == [
            f"lose reader.scripted.g1 {first}",
            f"reader: reader.scripted.g1.2 {second}",
        ]
        assert (control.role().state, control.role().restarts) == ("ready", 1)
        assert await control.plane.call("reader", "echo", {"a": "b"}) == '{"a": "b"}'
        third = spare_pid(control)
        os.kill(second, signal.SIGKILL)
        await control.until(lambda: control.pid() == third)
        assert control.plane.events[-1] == f"reader: reader.scripted.g1 {third}"
        await control.until(lambda: spare_pid(control))
        assert len(servers()) == 2


async def test_the_spare_is_attested_when_it_takes_over(project: Project) -> None:
    """What a spare says of its tools while nobody listens counts from the moment it serves."""
    async with project.control() as control:
        options = ("--surprise", "order")
        tools = {"echo": "READ", "order": "WRITE"}
        first = await start(control, project, *options, tools=tools)
        second = spare_pid(control)
        os.kill(second, signal.SIGUSR1)
        assert control.role().tools == ("echo",)
        os.kill(first, signal.SIGKILL)
        await control.until(lambda: control.pid() == second)
        # Nobody has approved the tool: that is found out at once, not at the next look.
        await control.until(lambda: control.role().held == ("order",))


async def test_a_spare_that_shows_too_much(project: Project) -> None:
    """A spare that grows a tool is quarantined, the serving process serves on."""
    async with project.control() as control:
        first = await start(control, project, "--surprise", "drain", probe=QUICK_PROBE)
        os.kill(spare_pid(control), signal.SIGUSR1)
        await control.until(
            lambda: (spare := control.role().spare) is not None and spare.state == "quarantined"
        )
        assert (control.pid(), control.role().state) == (first, "ready")
        os.kill(first, signal.SIGKILL)
        _ = await control.until_ready(other_than=first)
        assert control.plane.route("reader").startswith("reader.scripted.g1 ")


async def test_a_serving_process_that_shows_too_much(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A quarantine is the whole role's: the spare is the same program and must not take over."""
    async with project.control() as control:
        first = await start(control, project, "--surprise", "drain")
        os.kill(first, signal.SIGUSR1)
        _ = await control.until_state("quarantined")
        await control.until(lambda: not servers())
        await control.until(lambda: control.role().spare is None)
        assert control.plane.route("reader") == "no quarantined"


async def test_a_silent_spare_is_replaced(project: Project) -> None:
    """A spare that is alive and answers nothing is replaced before anybody needs it."""
    async with project.control() as control:
        first = await start(control, project, probe=QUICK_PROBE)
        second = spare_pid(control)
        os.kill(second, signal.SIGSTOP)
        await control.until(lambda: spare_pid(control) not in {0, second})
        assert control.pid() == first
        assert not any("lose" in event and str(first) in event for event in control.plane.events)


async def test_a_spare_that_never_starts(project: Project) -> None:
    """A spare in a crash loop disturbs nothing; its state is told beside the role's."""
    gate = project.root / "gate"
    async with project.control() as control:
        first = await start(control, project, "--exit-if", str(gate))
        gate.touch()
        os.kill(spare_pid(control), signal.SIGKILL)
        await control.until(
            lambda: (spare := control.role().spare) is not None and spare.state == "crash-looping"
        )
        role = control.role()
        assert (role.state, role.pid, role.settled) == ("ready", first, True)
        assert role.spare is not None
        assert "exit status 1" in role.spare.detail
        gate.unlink()
        await control.until(lambda: spare_pid(control))


async def test_both_may_end(project: Project) -> None:
    """When both end the first one that is back serves, and the other one stands by."""
    async with project.control() as control:
        first = await start(control, project)
        second = spare_pid(control)
        for pid in (first, second):
            os.kill(pid, signal.SIGKILL)
        await control.until(lambda: spare_pid(control) not in {0, first, second})
        assert control.pid() not in {first, second}
        assert await control.plane.call("reader", "echo", {}) == "{}"


async def test_a_role_with_a_spare_is_replaced(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A replacement switches to the new generation, which has a spare of its own."""
    async with project.control() as control:
        first = await start(control, project)
        os.kill(first, signal.SIGKILL)  # so that the second one serves
        await control.until(lambda: control.role().restarts)
        await control.until(lambda: spare_pid(control))
        old = control.pid()
        control.plane.events.clear()
        with anyio.fail_after(30):
            await control.reconciler.restart(READER)
        new = control.role()
        assert control.plane.events == [
            f"reader: reader.scripted.g2 {new.pid}",
            "drain reader.scripted.g1.2",
            "drained reader.scripted.g1.2 0",
            *(event for event in control.plane.events if event.startswith("lose")),
        ]
        assert f"lose reader.scripted.g1.2 {old}" in control.plane.events
        await control.until(lambda: spare_pid(control))
        assert sorted(servers()) == sorted([control.pid(), spare_pid(control)])
        assert project.state().state.processes.keys() == {
            "reader.scripted.g2",
            "reader.scripted.g2.2",
        }


@pytest.mark.parametrize("which", ["none", "serving", "spare"])
async def test_both_are_adopted(project: Project, which: str) -> None:
    """The next run takes up both, and the same one serves unless it died meanwhile."""
    async with project.control() as control:
        first = await start(control, project)
        second = spare_pid(control)
    dead = {"none": 0, "serving": first, "spare": second}[which]
    if dead:
        os.kill(dead, signal.SIGKILL)
    async with project.control() as again:
        await again.until(lambda: spare_pid(again))
        pids = {again.pid(), spare_pid(again)}
        assert pids >= {first, second} - {dead}
        assert dead not in pids
        assert len(pids) == 2
        assert again.pid() == (second if dead == first else first)


async def test_an_unrecorded_spare_is_a_stray(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A crash between a spare's launch and its record leaves one that is not trusted."""
    async with project.control() as control:
        first = await start(control, project)
        second = spare_pid(control)
    project.state().drop_process(WorkloadName("reader.scripted.g1.2"))
    async with project.control() as again:
        await again.until(lambda: spare_pid(again))
        assert again.pid() == first
        assert spare_pid(again) != second
        assert sorted(servers()) == sorted([first, spare_pid(again)])


async def test_no_spare_any_more(project: Project, servers: Callable[[], list[int]]) -> None:
    """A role that is to have no spare any more keeps none."""
    async with project.control() as control:
        _ = await start(control, project)
        await control.apply(project.spec())
        assert servers() == [control.pid()]
        assert control.role().spare is None
        with anyio.fail_after(30):
            await control.reconciler.shutdown()
        assert servers() == []
        assert await project.runtime.observe() == {}
