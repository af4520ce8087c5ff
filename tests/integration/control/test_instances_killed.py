"""A control plane that is killed at any point of a rotation; the next one goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.workload import WorkloadSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.control.conftest import Control, Project

RUN = str(Path(__file__).parents[2] / "servers" / "control_run.py")
READER = RoleName("reader")
G2 = WorkloadName("reader.scripted.g2")


async def run_and_kill(project: Project, *verbs: str, last: str, delay: float = 0) -> None:
    """Do these things in another process, and kill it so long after it said something."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, RUN, str(project.root), *verbs]
    process = await anyio.open_process(command, stdout=PIPE, stderr=DEVNULL, env=environ)
    try:
        assert process.stdout is not None
        said = ""
        with anyio.fail_after(30):
            async for text in TextReceiveStream(process.stdout):
                said += text
                if last in said:
                    break
        assert last in said
        await anyio.sleep(delay)  # whatever it does then is cut off
    finally:
        process.kill()
        _ = await process.wait()


def prepare(project: Project) -> None:
    """Write down what is run."""
    spec = project.spec(secrets={"UPSTREAM_KEY": "issued:"})
    rotation = {"upstream": {"issuer": "shop", "check": {"tool": "echo"}}}
    spec = WorkloadSpec.model_validate({**dict(spec), "rotation": rotation})
    _ = (project.root / "spec.json").write_text(spec.model_dump_json())


def variable_of(pid: int) -> str:
    """Read from a process itself what it was launched with."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(
        one.partition(b"=")[2].decode() for one in variables if one.startswith(b"UPSTREAM_KEY=")
    )


async def finish(project: Project, control: Control) -> None:
    """Go on from wherever it stopped, and look at what there is."""
    _ = await control.until_ready()
    await control.instances.ready(READER, "v2")
    await control.instances.switch(READER, "v2")
    assert (await control.instances.drain(READER, 0.2)).left == 0
    _ = await control.until_ready()
    assert set(control.instances.using(READER).values()) == {"v2"}
    state = project.state().state
    assert (state.staged, state.leaving) == ({}, {})
    assert [record.credential for record in state.processes.values()] == ["v2"]
    assert all(variable_of(record.pid) == "key-of-v2" for record in state.processes.values())
    assert await control.plane.call("reader", "echo", {"a": "b"}) == '{"a": "b"}'


@pytest.mark.parametrize(
    ("verbs", "last", "delay"),
    [
        ("start", "done start", 0.0),
        ("start ready", "begin ready", 0.0),
        ("start ready", "begin ready", 0.02),
        ("start ready", "begin ready", 0.1),
        ("start ready", "begin ready", 0.2),
        ("start ready", "done ready", 0.0),
        ("start ready switch", "begin switch", 0.0),
        ("start ready switch", "begin switch", 0.005),
        ("start ready switch", "done switch", 0.0),
        ("start call ready switch drain", "begin drain", 0.1),
        ("start ready switch drain", "begin drain", 0.0),
        ("start ready switch drain", "begin drain", 0.02),
        ("start ready switch drain", "done drain", 0.0),
    ],
)
async def test_a_killed_rotation_goes_on(
    project: Project, servers: Callable[[], list[int]], verbs: str, last: str, delay: float
) -> None:
    """Wherever it was killed: one generation, one process, one version, and it answers."""
    prepare(project)
    await run_and_kill(project, *verbs.split(), last=last, delay=delay)
    project.current["reader"] = "v1"
    with anyio.fail_after(60):
        async with project.control() as control:
            await finish(project, control)
            assert servers() == [control.pid()]
