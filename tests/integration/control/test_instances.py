"""Processes that get another credential: beside the old ones, switched, drained; real processes."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.control.instances import Instances
from orchestrator.errors import NotRunningError, WorkloadNotReadyError
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.workload import WorkloadSpec
from orchestrator.rotation import ports

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from integration.control.conftest import Control, Project

    from orchestrator.model.base import JsonObject

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

READER = RoleName("reader")
G1, G2, G3 = (WorkloadName(f"reader.scripted.g{number}") for number in (1, 2, 3))
UPSTREAM: dict[str, object] = {
    "issuer": "shop",
    "check": {"tool": "echo", "arguments": {"are": "you there"}},
}
ROTATION = {"upstream": UPSTREAM}
SECRETS = {"UPSTREAM_KEY": "issued:"}
HOLD: JsonObject = {}


def as_port(instances: Instances) -> ports.Instances:
    """Be what rotations ask for; the type checker says so."""
    return instances


def version_in(pid: int) -> str:
    """Read from a process itself which version it was launched with."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = [one for one in variables if one.startswith(b"UPSTREAM_KEY=")]
    return found[0].decode().removeprefix("UPSTREAM_KEY=key-of-") if found else ""


def check_records(project: Project, *versions: str) -> None:
    """Every process has the version that stands in its record."""
    records = project.state().state.processes.values()
    assert sorted(version_in(record.pid) for record in records) == sorted(versions)
    assert all(version_in(record.pid) == record.credential for record in records)


def describe(project: Project, *options: str, **fields: object) -> WorkloadSpec:
    """Describe a role that has a credential."""
    spec = project.spec(*options, secrets=SECRETS)
    return WorkloadSpec.model_validate({**dict(spec), "rotation": ROTATION, **fields})


@asynccontextmanager
async def started(project: Project, *options: str, **fields: object) -> AsyncGenerator[Control]:
    """Run a role with a credential, and wait until it is ready."""
    project.current["reader"] = "v1"
    async with project.control() as control:
        _ = await control.start(describe(project, *options, **fields))
        with anyio.fail_after(180):
            yield control


async def test_a_rotation(
    project: Project, alive: Callable[[int], bool], servers: Callable[[], list[int]]
) -> None:
    """The new generation is checked first, then serves; the old one drains and is gone."""
    async with started(project) as control:
        instances, old = as_port(control.instances), control.pid()
        assert instances.using(READER) == {G1: "v1"}
        await instances.ready(READER, "v2")
        assert instances.using(READER) == {G1: "v1", G2: "v2"}
        check_records(project, "v1", "v2")
        assert project.noted()[-1] == 'call echo {"are": "you there"}'
        # Nothing is told to the gateway before the switch.
        assert control.plane.route("reader") == f"{G1} {old}"
        control.plane.events.clear()
        await instances.switch(READER, "v2")
        new = control.pid()
        assert control.plane.events == [f"leaving {G1}: {old}", f"reader: {G2} {new}"] or (
            set(control.plane.events) == {f"leaving {G1}: {old}", f"reader: {G2} {new}"}
        )
        assert project.state().state.roles[READER].credential == "v2"
        assert (control.role().credential, control.role().leaving[0].pid) == ("v2", old)
        assert alive(old)
        assert (await instances.drain(READER, 1)).left == 0
        assert not alive(old)
        assert instances.using(READER) == {G2: "v2"}
        check_records(project, "v2")
        assert servers() == [new]
        assert project.state().state.leaving == {}
        assert await instances.drain(READER, 1) == ports.Drain(0)


async def test_every_verb_may_be_called_again(project: Project) -> None:
    """What is done already is not done twice."""
    async with started(project) as control:
        instances = control.instances
        await instances.ready(READER, "v1")
        await instances.switch(READER, "v1")
        assert list(instances.using(READER)) == [G1]
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(instances.ready, READER, "v2")
        assert list(instances.using(READER)) == [G1, G2]
        for _ in range(2):
            await instances.switch(READER, "v2")
        for _ in range(2):
            assert (await instances.drain(READER, 1)).left == 0
        await instances.ready(READER, "v2")
        await instances.discard(READER)
        assert instances.using(READER) == {G2: "v2"}


async def test_a_discarded_one_is_gone(project: Project, servers: Callable[[], list[int]]) -> None:
    """What was readied and is not wanted any more leaves nothing; the old one never noticed."""
    async with started(project) as control:
        old = control.pid()
        await control.instances.ready(READER, "v2")
        await control.instances.discard(READER)
        assert (servers(), control.pid()) == ([old], old)
        assert project.state().state.staged == {}
        with pytest.raises(WorkloadNotReadyError):
            await control.instances.switch(READER, "v2")
        await control.instances.ready(READER, "v3")
        assert control.instances.using(READER) == {G1: "v1", G3: "v3"}
        # Another version takes its place.
        await control.instances.ready(READER, "v4")
        assert sorted(control.instances.using(READER).values()) == ["v1", "v4"]


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ({"tool": "refuse", "arguments": {"code": "E"}}, "the check call of refuse failed"),
        ({"tool": "hold", "arguments": {}}, "did not answer the check call of hold"),
        ({"tool": "crash", "arguments": {}}, "ended"),
    ],
)
async def test_a_failed_check(
    project: Project, servers: Callable[[], list[int]], check: dict[str, object], reason: str
) -> None:
    """A process that cannot work with the new credential never gets a call."""
    rotation = {"upstream": {**UPSTREAM, "check": check}}
    # What is never answered is waited for so long.
    probe = {"startup": "6s"} if check["tool"] == "hold" else {}
    async with started(project, rotation=rotation, probe=probe) as control:
        old = control.pid()
        with pytest.raises(WorkloadNotReadyError, match=reason):
            await control.instances.ready(READER, "v2")
        assert (servers(), control.pid()) == ([old], old)
        assert control.role().state == "ready"
        assert f"reader: {G2}" not in str(control.plane.events)


async def test_a_version_that_is_not_there(project: Project) -> None:
    """Without its credential a generation is not begun, and the error says what to do."""
    project.withheld.add("v2")
    async with started(project) as control:
        with pytest.raises(WorkloadNotReadyError, match="there is no version v2") as caught:
            await control.instances.ready(READER, "v2")
        assert caught.value.hint == "Mint it."
        assert control.instances.using(READER) == {G1: "v1"}


async def test_a_lane_begun_in_a_rotation(project: Project) -> None:
    """A process that the old generation gets after the promotion has the old credential, too."""
    async with started(project, sharing="per-agent") as control:
        await control.instances.ready(READER, "v2")
        project.current["reader"] = "v2"
        control.reconciler.note_wanted(READER, "legacy", "alice")
        await control.until(lambda: control.plane.routes[READER].lanes)
        (lane,) = control.plane.routes[READER].lanes
        assert lane.workload.startswith(f"{G1}.")
        assert version_in(lane.pid) == "v1"


async def test_a_role_without_a_credential_is_blocked(project: Project) -> None:
    """A role whose first credential is not there yet says so, and starts when it is."""
    project.withheld.add("")
    async with project.control() as control:
        await control.apply(describe(project))
        status = await control.until_state("blocked")
        assert (status.detail, status.hint) == ("there is no version ", "Mint it.")
        project.current["reader"] = "v1"
        _ = await control.until_ready()
        assert control.instances.using(READER) == {G1: "v1"}
        check_records(project, "v1")


async def test_a_crash_brings_the_same_version_back(project: Project) -> None:
    """During a rotation the old generation comes back with the old credential."""
    async with started(project) as control:
        old = control.pid()
        await control.instances.ready(READER, "v2")
        project.current["reader"] = "v2"  # promoted, not switched yet
        os.kill(old, signal.SIGKILL)
        _ = await control.until_ready(other_than=old)
        assert control.instances.using(READER) == {G1: "v1", G2: "v2"}
        check_records(project, "v1", "v2")


async def test_other_changes_meanwhile(project: Project) -> None:
    """A change of policy stays; one of processes discards what was readied, and no version."""
    async with started(project) as control:
        await control.instances.ready(READER, "v2")
        policy = {"limits": {"concurrency": 3}}
        await control.apply(describe(project, policy=policy))
        assert sorted(control.instances.using(READER).values()) == ["v1", "v2"]
        await control.instances.switch(READER, "v2")
        limits = project.state().state.roles[READER].policy.limits
        assert limits.concurrency == 3
        assert (await control.instances.drain(READER, 1)).left == 0
        await control.instances.ready(READER, "v3")
        await control.apply(describe(project, env={"PATH": "/bin"}))
        assert set(control.instances.using(READER).values()) == {"v2"}
        with pytest.raises(WorkloadNotReadyError):
            await control.instances.switch(READER, "v3")
        await control.instances.ready(READER, "v3")
        staged = project.state().state.staged[READER]
        assert (staged.env, staged.credential) == ({"PATH": "/bin"}, "v3")
        await control.reconciler.restart(READER)
        assert set(control.instances.using(READER).values()) == {"v2"}
        await control.apply()
        assert control.instances.using(READER) == {}
        with pytest.raises(NotRunningError):
            await control.instances.ready(READER, "v3")
        assert (await control.instances.drain(READER, 1)).left == 0
        await control.instances.discard(READER)


async def test_a_change_while_one_is_readied(project: Project) -> None:
    """A slow start holds nobody up, and is told when another change takes its place."""
    gate = project.root / "gate"
    gate.touch()
    async with started(project, "--exit-unless", str(gate)) as control:
        gate.unlink()
        errors: list[Exception] = []

        async def ready() -> None:
            with pytest.raises(WorkloadNotReadyError) as caught:
                await control.instances.ready(READER, "v2")
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(ready)
            await control.until(lambda: READER in project.state().state.staged)
            with anyio.fail_after(30):
                await control.apply()
        assert len(errors) == 1


async def test_a_call_keeps_the_old_one(project: Project, alive: Callable[[int], bool]) -> None:
    """As long as a call is in flight its process runs, however often somebody drains."""
    async with started(project) as control:
        old = control.pid()
        async with anyio.create_task_group() as group:
            group.start_soon(control.plane.call, "reader", "hold", HOLD)
            await control.until(lambda: "call hold {}" in project.noted())
            await control.instances.ready(READER, "v2")
            await control.instances.switch(READER, "v2")
            for _ in range(2):
                assert (await control.instances.drain(READER, 0.1)).left == 1
            assert alive(old)
            assert list(project.state().state.leaving) == [READER]
            group.cancel_scope.cancel()
        assert (await control.instances.drain(READER, 1)).left == 0
        assert not alive(old)


async def test_lanes_and_spares_move_along(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """Whoever has a process of its own has one with the new credential before the switch."""
    fields: dict[str, object] = {"era": "auto", "standby": 1}
    async with started(project, "--era", "both", **fields) as control:
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: len(project.state().state.processes) == 3)
        await control.until(lambda: "reader legacy" in str(control.plane.events))
        await control.instances.ready(READER, "v2")
        await control.until(lambda: len(project.state().state.processes) == 6)
        check_records(project, *["v1"] * 3, *["v2"] * 3)
        await control.instances.switch(READER, "v2")
        assert control.plane.route("reader legacy").startswith(f"{G2}.l ")
        assert (await control.instances.drain(READER, 1)).left == 0
        assert set(control.instances.using(READER)) == {G2, f"{G2}.2", f"{G2}.l"}
        check_records(project, *["v2"] * 3)
        assert len(servers()) == 3


@pytest.mark.parametrize("step", ["ready", "switch", "drain"])
async def test_a_crash_between_the_verbs(
    project: Project, servers: Callable[[], list[int]], step: str
) -> None:
    """The next run of the control plane finds every process, and the rotation goes on."""
    fields: dict[str, object] = {"era": "auto"}
    async with started(project, "--era", "both", **fields) as control:
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: len(control.instances.using(READER)) == 2)
        await control.instances.ready(READER, "v2")
        project.current["reader"] = "v2"
        if step != "ready":
            await control.instances.switch(READER, "v2")
        if step == "drain":
            async with anyio.create_task_group() as group:
                group.start_soon(control.instances.drain, READER, 10)
                await control.until(lambda: f"see out {G1}" in control.plane.events)
                group.cancel_scope.cancel()
    before = sorted(servers())
    async with project.control() as control:
        with anyio.fail_after(60):
            await control.instances.ready(READER, "v2")
            await control.instances.switch(READER, "v2")
            _ = await control.until_ready()
            assert control.plane.route("reader").startswith(f"{G2} ")
            leaving = [event for event in control.plane.events if event.startswith("leaving")]
            if len(before) == 4:  # as long as nothing was drained nothing is launched
                assert sorted(servers()) == before
                assert {event.split(":")[0] for event in leaving} >= {f"leaving {G1}"}
            assert (await control.instances.drain(READER, 0.3)).left == 0
            assert set(control.instances.using(READER)) == {G2, f"{G2}.l"}
            check_records(project, "v2", "v2")
            assert len(servers()) == 2
            assert project.state().state.leaving == {}


async def test_a_hold_waits_for_calls(project: Project) -> None:
    """A hold is there when no call is in flight any more; if one does not end it is given up."""
    async with started(project) as control:
        await control.instances.hold(READER, 5)
        await control.instances.release(READER)
        assert control.plane.events[-3:] == ["hold reader 5", f"see out {G1}", "release reader"]
        async with anyio.create_task_group() as group:
            group.start_soon(control.plane.call, "reader", "hold", HOLD)
            await control.until(lambda: "call hold {}" in project.noted())
            # Half of the time is for what the calls wait for.
            with pytest.raises(
                WorkloadNotReadyError, match=r"1 calls .* did not end within 0\.1 s"
            ):
                await control.instances.hold(READER, 0.2)
            assert "hold reader 0.2" in control.plane.events
            assert control.plane.events[-1] == "release reader"
            group.cancel_scope.cancel()


@pytest.mark.parametrize("standby", [0, 1])
async def test_an_emergency(
    project: Project, servers: Callable[[], list[int]], standby: int
) -> None:
    """A closed role has no process at once, stays down over a crash, and comes back."""
    options = ("--stubborn", "--era", "both")
    stop = {"drain": "5m", "grace": "5m"}
    fields: dict[str, object] = {"era": "auto", "standby": standby, "stop": stop}
    spec = describe(project, *options, **fields)
    async with started(project, *options, **fields) as control:
        control.reconciler.note_wanted(READER, "legacy", "")
        await control.until(lambda: len(control.instances.using(READER)) == 2 + standby)
        await control.instances.ready(READER, "v2")
        async with anyio.create_task_group() as group:

            async def call() -> None:
                with pytest.raises(Exception, match="cut"):
                    _ = await control.plane.call("reader", "hold", {})

            group.start_soon(call)
            await control.until(lambda: "call hold {}" in project.noted())
            # Nobody is drained, and nobody is given its grace.
            with anyio.fail_after(30):
                assert await control.instances.close(READER, "it leaked") == 1
            assert servers() == []
        assert control.instances.using(READER) == {}
        status = control.role()
        assert (status.state, status.detail) == ("stopped", "closed: it leaked")
        assert status.hint == "`agents reopen reader` lets it run again."
        assert control.plane.route("reader").startswith("no stopped")
        with pytest.raises(WorkloadNotReadyError, match="reader is closed"):
            await control.instances.ready(READER, "v3")
        with pytest.raises(NotRunningError, match="reader is closed"):
            await control.reconciler.restart(READER)
        await control.apply(spec)
        assert (servers(), control.role().state) == ([], "stopped")
    assert project.state().state.closed == {READER: "it leaked"}
    async with project.control() as control:
        assert control.plane.route("reader").startswith("no stopped")
        await control.apply(describe(project, *options, era="auto"))
        assert (servers(), control.role().state) == ([], "stopped")
        project.current["reader"] = "v3"
        await control.instances.reopen(READER)
        _ = await control.until_ready()
        assert set(control.instances.using(READER).values()) == {"v3"}
        await control.instances.reopen(READER)
        assert project.state().state.closed == {}


async def test_a_role_that_is_closed_before_it_is_applied(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """Nothing starts that was closed while it was not there."""
    async with project.control() as control:
        assert await control.instances.close(READER, "it leaked") == 0
        await control.apply(project.spec())
        assert (servers(), control.role().state) == ([], "stopped")
        await control.apply()
        await control.apply(project.spec())
        assert control.role().state == "stopped"
        await control.apply()
        await control.instances.reopen(READER)
        _ = await control.start(project.spec())


async def test_an_emergency_waits_for_no_change(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """A replacement that takes its time neither holds an emergency up nor survives it."""
    async with started(project) as control:
        slow = describe(project, "--mute", probe={"startup": "5m"})
        errors: list[Exception] = []

        async def replace() -> None:
            with pytest.raises(WorkloadNotReadyError, match="reader is closed") as caught:
                await control.apply(slow)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(replace)
            await control.until(lambda: len(control.instances.using(READER)) == 2)
            with anyio.fail_after(30):
                assert await control.instances.close(READER, "it leaked") == 0
        assert len(errors) == 1
        assert (servers(), control.role().state) == ([], "stopped")
