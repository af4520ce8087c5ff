"""One role's instance: started, watched, brought back; real engine, real servers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.errors import TargetUnavailableError
from orchestrator.model.names import ServerName, WorkloadName

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.control.conftest import Control, Project

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

QUICK_PROBE = {"every": "100ms", "patience": "500ms", "misses": 2}


async def test_start_to_traffic(project: Project) -> None:
    """A role is started, probed and attested, and only then it has a route."""
    async with project.control() as control:
        await control.apply(project.spec("--tools", "order,echo", tools={"echo": "READ"}, cut=True))
        ready = await control.until_ready()
        assert control.plane.events == [
            "reader: no starting waits",
            f"reader: reader.scripted.g1 {ready.pid}",
        ]
        assert (ready.tools, ready.missing, ready.restarts) == (("echo",), (), 0)
        assert (ready.settled, ready.generation, ready.detail) == (True, 1, "")
        assert ready.url == "http://here/reader"
        assert ready.uptime_seconds is not None
        assert project.state().state.roles.keys() == {"reader"}
    assert project.noted() == ["start", "initialize"]


async def test_missing_tools_are_told(project: Project) -> None:
    """A promised tool that the server does not show stops nothing and is named."""
    async with project.control() as control:
        _ = await control.start(project.spec(tools={"echo": "READ", "order": "WRITE"}))
        assert control.role().missing == ("order",)


async def test_a_crash_is_made_good(project: Project, alive: Callable[[int], bool]) -> None:
    """A killed instance loses its route at once, callers may wait, and another one takes over."""
    async with project.control() as control:
        first = await control.start(project.spec())
        plane = control.plane
        plane.events.clear()
        os.kill(first, signal.SIGKILL)
        ready = await control.until_ready(other_than=first)
        assert plane.events == [
            f"lose reader.scripted.g1 {first}",
            "reader: no backoff waits",
            "reader: no starting waits",
            f"reader: reader.scripted.g1 {ready.pid}",
        ]
        assert (ready.restarts, ready.generation) == (1, 1)
        assert not alive(first)
        record = project.state().state.processes[WorkloadName("reader.scripted.g1")]
        assert (record.pid, record.restarts) == (ready.pid, 1)
        assert plane.revisions == sorted(set(plane.revisions))


async def test_the_end_is_told(project: Project) -> None:
    """Why an instance ended stands in the status until it is back."""
    async with project.control() as control:
        # The engine holds the next one back: its seat is stopped.
        first = await control.start(project.spec(restart={"backoff": "1m", "backoff_max": "1m"}))
        os.kill(first, signal.SIGKILL)
        second = await control.until_ready(other_than=first)
        assert second.pid is not None
        # The first process of a container is killed from outside by this signal alone.
        number = signal.SIGKILL if project.image else signal.SIGSEGV
        os.kill(second.pid, number)
        status = await control.until_state("backoff")
        assert status.detail.startswith(f"it ended by itself (killed by {number.name})")
        assert "agents logs reader" in status.hint
        assert status.retry_in_seconds is not None
        assert 0 < status.retry_in_seconds <= 60
        assert (status.tools, status.uptime_seconds, status.pid) == ((), None, None)


@pytest.mark.parametrize("code", [1, 78])
async def test_a_server_that_never_starts(project: Project, code: int) -> None:
    """One that ends at once is a crash loop with its status and a hint, and never has a route."""
    async with project.control() as control:
        await control.apply(project.spec("--exit", str(code), "--say", "no shop today"))
        status = await control.until_state("crash-looping")
        assert f"ended before it was ready (exit status {code})" in status.detail
        assert "no shop today" in status.detail
        assert "agents logs reader" in status.hint
        assert status.settled
        assert not any(": reader.scripted" in event for event in control.plane.events)
        assert control.plane.route("reader").startswith("no crash-looping")
        assert project.state().state.processes == {}


async def test_giving_up(project: Project, servers: Callable[[], list[int]]) -> None:
    """After as many failures as its role allows nobody tries again, and nothing is left."""
    async with project.control() as control:
        restart = {"backoff": "10ms", "backoff_max": "50ms", "give_up_after": 2}
        await control.apply(project.spec("--exit", "4", restart=restart))
        status = await control.until_state("failed")
        assert "exit status 4" in status.detail
        assert "given up after 2 failures" in status.detail
        await project.until_empty()
        assert servers() == []
        assert project.noted() == ["start", "start"]


async def test_a_program_that_is_not_there(project: Project) -> None:
    """The kernel's own reason is told, and it does not look as if something were on its way."""
    async with project.control() as control:
        await control.apply(project.spec(argv=("/nowhere/server",)))
        reason = "not found" if project.image else "No such file"
        await control.until(lambda: reason in control.role().detail)
        await control.until_settled()
        assert control.role().state in {"backoff", "crash-looping"}


async def test_a_server_that_says_nothing(project: Project) -> None:
    """One that does not answer in its time is ended, and the question is named."""
    async with project.control() as control:
        await control.apply(project.spec("--mute", probe={"startup": "200ms"}))
        await control.until(lambda: "did not answer initialize" in control.role().detail)
        assert control.role().pid is None


# Tools.


async def test_one_tool_too_many(project: Project, servers: Callable[[], list[int]]) -> None:
    """A server that shows what it must not is ended, named, and never has a route."""
    async with project.control() as control:
        await control.apply(project.spec("--tools", "echo,drain"))
        status = await control.until_state("quarantined")
        assert "shows tools that its server file does not name: drain" in status.detail
        assert status.hint
        assert status.settled
        await control.until(lambda: not servers())
        assert control.plane.events == [
            "reader: no starting waits",
            "reader: no quarantined",
            *(event for event in control.plane.events if event.startswith("lose")),
        ]
        assert project.state().state.processes == {}
        assert project.noted().count("start") == 1


async def test_a_tool_of_another_band(project: Project) -> None:
    """A known tool beyond the role's bands is as bad where the server itself has bands."""
    async with project.control() as control:
        await control.apply(project.spec("--tools", "echo,order"))
        status = await control.until_state("quarantined")
        assert "it must not have: order" in status.detail


async def test_a_tool_that_comes_later(project: Project, servers: Callable[[], list[int]]) -> None:
    """A running server that grows a tool loses its route and its life."""
    async with project.control() as control:
        pid = await control.start(project.spec("--surprise", "drain"))
        os.kill(pid, signal.SIGUSR1)
        status = await control.until_state("quarantined")
        assert "drain" in status.detail
        assert control.plane.route("reader") == "no quarantined"
        await control.until(lambda: not servers())
        await control.until(lambda: control.plane.events[-1] == f"lose reader.scripted.g1 {pid}")


async def test_a_change_that_is_none(project: Project) -> None:
    """A server whose tools changed within its promise serves on; the new one is held."""
    async with project.control() as control:
        spec = project.spec("--surprise", "order", tools={"echo": "READ", "order": "WRITE"})
        pid = await control.start(spec)
        assert control.role().missing == ("order",)
        os.kill(pid, signal.SIGUSR1)
        await control.until(lambda: control.role().held == ("order",))
        role = control.role()
        assert (role.state, role.tools, role.missing, role.pid) == ("ready", ("echo",), (), pid)


async def test_a_change_that_is_not_shown(project: Project) -> None:
    """A server that says its tools changed and does not list them has no route any more."""
    async with project.control() as control:
        spec = project.spec("--surprise", "drain", "--mute-later", probe={"startup": "3s"})
        pid = await control.start(spec)
        os.kill(pid, signal.SIGUSR1)
        await control.until(lambda: control.plane.route("reader") != f"reader.scripted.g1 {pid}")
        _ = await control.until_ready(other_than=pid)


async def test_a_quarantined_role_is_tried_again_when_asked(project: Project) -> None:
    """Quarantine lasts until a person asks again; then everything is checked anew."""
    async with project.control() as control:
        await control.apply(project.spec("--tools", "echo,order"))
        _ = await control.until_state("quarantined")
        with anyio.fail_after(30):
            await control.reconciler.restart(project.spec().role)
        await control.until(lambda: control.role().generation == 2)
        status = await control.until_state("quarantined")
        assert status.generation == 2
        await control.apply(project.spec("--tools", "echo,order", cut=True))
        ready = await control.until_ready()
        assert (ready.generation, ready.tools) == (3, ("echo",))


# Secrets.


async def test_a_missing_secret_blocks(project: Project) -> None:
    """A role without its secret is blocked with a reason, and goes on when the secret is there."""
    path = project.files.run / "token"  # where only the control plane can write
    async with project.control() as control:
        await control.apply(project.spec(secrets={"TOKEN": f"file:{path}"}))
        status = await control.until_state("blocked")
        assert "TOKEN" in status.detail
        assert status.settled
        assert project.noted() == []
        _ = path.write_text("a secret of some length\n")
        path.chmod(0o600)
        ready = await control.until_ready()
        assert ready.restarts == 0


async def test_blocked_is_no_news(project: Project) -> None:
    """While a secret is missing nothing changes, however often it is looked for."""
    async with project.control() as control:
        await control.apply(project.spec(secrets={"TOKEN": f"file:{project.root}/token"}))
        _ = await control.until_state("blocked")
        before = list(control.plane.revisions)
        with anyio.move_on_after(0.3):  # six looks
            await control.reconciler.change()
            pytest.fail(f"news: {control.role()}")
        assert control.plane.revisions == before


# Eras.


async def test_the_era_is_remembered(project: Project) -> None:
    """A server is asked once which era it speaks, and opened in it from then on."""
    async with project.control() as control:
        first = await control.start(project.spec("--era", "both", era="auto"))
        assert project.state().state.eras == {"scripted": "modern"}
        os.kill(first, signal.SIGKILL)
        _ = await control.until_ready(other_than=first)
    assert "initialize" not in project.noted()


async def test_a_remembered_era_may_be_over(project: Project) -> None:
    """A server that speaks another era than it once did is found out, not refused for ever."""
    project.state().update(eras={ServerName("scripted"): "modern"})
    async with project.control() as control:
        _ = await control.start(project.spec("--era", "legacy", era="auto"))
        assert project.state().state.eras == {"scripted": "legacy"}


# Wedged.


async def test_a_stopped_server_is_replaced(project: Project, alive: Callable[[int], bool]) -> None:
    """A process that is alive and answers nothing is found, killed and replaced."""
    async with project.control() as control:
        pid = await control.start(project.spec(probe=QUICK_PROBE))
        os.kill(pid, signal.SIGSTOP)
        told: list[str] = []

        def look() -> bool:
            told.append(control.role().detail)
            return control.role().state == "ready" and control.pid() != pid

        await control.until(look)
        assert not alive(pid)
        assert control.role().restarts == 1
        assert any("silent" in detail for detail in told)
        assert not any("by itself" in detail for detail in told)


async def test_a_busy_server_is_left_alone(project: Project) -> None:
    """A server that computes for longer than any patience keeps its process and its call."""
    async with project.control() as control:
        pid = await control.start(project.spec("--tools", "echo", probe=QUICK_PROBE))
        reply = await call(control, "spin", {"seconds": "3"}, seconds=60)
        assert reply == '{"seconds": "3"}'
        assert (control.pid(), control.role().restarts) == (pid, 0)


async def test_a_quiet_server_is_left_alone(project: Project) -> None:
    """A server that nobody calls answers its signs of life, and nothing is changed."""
    async with project.control() as control:
        pid = await control.start(project.spec(probe=QUICK_PROBE))
        with anyio.move_on_after(0.6):
            await control.reconciler.change()
            pytest.fail(f"news: {control.role()}")
        assert control.pid() == pid


async def test_a_broken_wire_is_found(project: Project) -> None:
    """A server that the gateway gave up, as no reader stands what it wrote, is replaced."""
    async with project.control() as control:
        pid = await control.start(project.spec(probe=QUICK_PROBE))
        broken = TargetUnavailableError("as after a line of more than 32 MB")
        control.plane.connections[WorkloadName("reader.scripted.g1")].fail(broken)
        ready = await control.until_ready(other_than=pid)
        assert ready.restarts == 1
        assert await call(control, "echo", {"a": "b"}) == '{"a": "b"}'


async def call(
    control: Control, tool: str, arguments: dict[str, str], *, seconds: float = 30
) -> str:
    """Call a tool through the gateway's own target."""
    with anyio.fail_after(seconds):
        return await control.plane.call("reader", tool, dict(arguments))
