"""A role's policy on its way to the gateway; real engine, real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import WorkloadNotReadyError
from orchestrator.model.names import RoleName
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from tests.integration.control.conftest import Control, Project

READER = RoleName("reader")
STRICT = RolePolicy.model_validate({"limits": {"calls_per_minute": 5}, "resources": ("shop://a",)})


def policy(control: Control) -> RolePolicy:
    """Tell what calls are decided by."""
    return control.plane.routes[READER].policy


async def test_a_policy_reaches_the_gateway(project: Project) -> None:
    """What the files say of calls is part of the route from its beginning."""
    async with project.control() as control:
        _ = await control.start(project.spec(policy=STRICT))
        assert policy(control) == STRICT


async def test_a_change_of_policy_touches_no_process(project: Project) -> None:
    """Another policy holds at once, for processes of every kind, and survives a crash."""
    async with project.control() as control:
        pid = await control.start(project.spec(standby=1))
        await control.until(lambda: project.noted().count("start") == 2)
        assert policy(control) == RolePolicy()
        control.plane.events.clear()
        await control.apply(project.spec(standby=1, policy=STRICT))
        assert policy(control) == STRICT
        role = control.role()
        assert (role.pid, role.generation, role.restarts) == (pid, 1, 0)
        assert control.plane.events == []
        assert project.state().state.roles[READER].policy == STRICT
        await control.apply(project.spec(standby=1, policy=STRICT))
        assert project.noted().count("start") == 2
    async with project.control() as again:
        assert (await again.until_ready()).pid == pid
        assert policy(again) == STRICT


async def test_a_policy_holds_whatever_becomes_of_the_processes(project: Project) -> None:
    """A change that does not start leaves the old processes, under the new policy."""
    async with project.control() as control:
        pid = await control.start(project.spec())
        changed = project.spec("--exit", "4", policy=STRICT)
        with pytest.raises(WorkloadNotReadyError, match="keeps serving"):
            await control.apply(changed)
        assert (control.pid(), policy(control)) == (pid, STRICT)
        assert project.state().state.roles[READER].policy == STRICT


async def test_what_a_server_may_ask_is_told_when_it_is_opened(project: Project) -> None:
    """Other permissions to ask need other processes; the old ones keep what they were told."""
    asking = RolePolicy.model_validate({"asks": ("elicitation", "roots")})
    async with project.control() as control:
        pid = await control.start(project.spec())
        with pytest.raises(WorkloadNotReadyError):
            await control.apply(project.spec("--exit", "4", policy=asking))
        assert (control.pid(), policy(control)) == (pid, RolePolicy())
        await control.apply(project.spec("--note-asks", policy=asking))
        assert control.role().generation == 3
        assert policy(control) == asking
        assert 'asks {"elicitation": {"form": {}, "url": {}}, "roots": {}}' in project.noted()
