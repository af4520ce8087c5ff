"""Whole projects on engines for containers that are closed to them, full, stopped or killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import OpenProject, Project
    from tests.e2e.engines.conftest import OwnEngine, RunEngine

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[2] / "servers"
# Nobody has this number.
USER: Final = 23_817
SERVER: Final = """\
server: NAME
description: A scripted server.
owner: me@example.com
source: tests
launch:
  MORE
container:
  image: IMAGE
  command: [python3, -I, -S, PROGRAM]
bands: {names: [look]}
tools:
TOOLS"""
ROLE: Final = """\
role: NAME
justification: Tests containers.
owner: me@example.com
server: SERVER
bands: [look]
runtime: RUNTIME
restart: {backoff: 100ms, backoff_max: 1s}
"""
HTTP_TOOLS: Final = ("echo", "reach", "through", "fill", "write", "whoami")
Object = dict[str, object]


def describe(project: Project, engine: OwnEngine, box: str) -> None:
    """Have one role that is a process, and one whose server is in a container."""
    _ = project.write("agents.yaml", f"listen: 127.0.0.1:0\ndocker: {{socket: {engine.socket}}}\n")
    _ = shutil.copy(SERVERS / "scripted.py", project.root)
    # What is left of a server is found by the project's name among its arguments.
    scripted = f"{SERVERS / 'scripted.py'}, --say, {project.root}"
    add_server(project, "scripted", box, scripted)
    add_role(project, "plain", "scripted", "process")
    add_role(project, "boxed", "scripted", "container")


def add_server(project: Project, name: str, box: str, words: str, more: str = "") -> None:
    """Write a server file; with something more about its launch it is one that speaks HTTP."""
    own = f'command: [{python()}, -I, -S, "{{project}}/scripted.py", --say, "{{project}}"]'
    tools = HTTP_TOOLS if more else ("echo",)
    lines = "".join(f"  {tool}: {{band: look, class: READ}}\n" for tool in tools)
    text = SERVER.replace("NAME", name).replace("IMAGE", box).replace("PROGRAM", words)
    text = text.replace("MORE", more or own).replace("TOOLS", lines)
    _ = project.write(f"roles/servers/{name}.yaml", text)


def add_role(project: Project, name: str, server: str, runtime: str) -> None:
    """Write a role file."""
    text = ROLE.replace("NAME", name).replace("SERVER", server).replace("RUNTIME", runtime)
    _ = project.write(f"roles/{name}.yaml", text)


def python() -> str:
    """Tell an interpreter that every user may run."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("no Python is installed where other users may run it")
    return found


async def echo(project: Project, role: str) -> None:
    """Call a role."""
    async with project.client(role) as client:
        assert not (await client.call_tool("echo", {"a": 1})).is_error


def servers(project: Project) -> set[int]:
    """Tell every process of the server in the container, of whichever container it is."""
    return {pid for pid, words in project.processes().items() if words.startswith("python3 -I")}


def is_ready(project: Project, role: str = "boxed") -> Callable[[], bool]:
    """Ask whether a role is ready."""
    return lambda: project.role(role)["state"] == "ready"


def as_user(
    project: Project, *words: str, group: int = USER, check: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run `agents` as a user who is not root."""
    # It may read whatever the command is made of, wherever that is installed; no more.
    rights = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    # So that it is told so, too, when it asks beforehand.
    rights = (*rights, "--securebits=+no_setuid_fixup")
    who = (f"--reuid={USER}", f"--regid={USER}", f"--groups={group}")
    done = subprocess.run(
        ["setpriv", *who, *rights, AGENTS, *words],
        cwd=project.root, env=project.env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert check in {None, done.returncode}, f"{done.stdout}\n{done.stderr}"
    return done


def roles_of(project: Project) -> dict[str, Object]:
    """Tell the status of each role to the user whose daemon it is."""
    text = as_user(project, "status", "--json", check=None).stdout
    roles = cast("dict[str, list[Object]]", json.loads(text))["roles"]
    return {str(role["role"]): role for role in roles}


def give(project: Project) -> None:
    """Give the project to the user."""
    for path in (project.root, *project.root.rglob("*")):
        os.chown(path, USER, USER)


async def test_an_engine_that_is_closed_to_a_user(
    run_engine: RunEngine, open_project: OpenProject, box: str
) -> None:
    """Its refusal is told with the cure, processes run, and once it is open all of it does."""
    with run_engine() as engine, open_project() as project:
        engine.load(box)
        describe(project, engine, box)
        give(project)
        engine.socket.chmod(0o600)
        try:
            done = as_user(project, "up", "-d", check=6)
            assert f"this user may not use the container engine: {engine.socket}" in done.stderr
            assert "as a member of the socket's group, who is as good as root" in done.stderr
            assert roles_of(project)["plain"]["state"] == "ready"
            assert roles_of(project)["boxed"]["state"] == "backoff"
            await echo_as(project, "plain")
            os.chown(engine.socket, USER, USER)
            project.wait(lambda: roles_of(project)["boxed"]["state"] == "ready")
            await echo_as(project, "boxed")
        finally:
            _ = as_user(project, "down", check=None)
        assert engine.containers() == []


async def echo_as(project: Project, role: str) -> None:
    """Call a role of a daemon that another user started."""
    url = str(roles_of(project)[role]["url"])
    async with project.client(role, url=url) as client:
        assert not (await client.call_tool("echo", {"a": 1})).is_error


async def test_a_user_in_the_group_of_the_engine(
    run_engine: RunEngine, open_project: OpenProject, box: str
) -> None:
    """Without root containers are called that need no network; one that does is refused."""
    group = USER + 1
    with run_engine() as engine, open_project() as project:
        engine.load(box)
        describe(project, engine, box)
        for name, words in (("socket", "--socket, '{socket}'"), ("port", "--port, '{port}'")):
            http = f"transport: http\n  listen: {name}\n  path: /mcp"
            add_server(project, name, box, f"{SERVERS / 'boxed_http.py'}, {words}", http)
            add_role(project, f"by-{name}", name, "container")
        give(project)
        os.chown(engine.socket, 0, group)
        engine.socket.chmod(0o660)
        try:
            done = as_user(project, "up", "-d", group=group, check=6)
            assert "only root closes the network of a container" in done.stderr
            assert "Start Bandmaster as root" in done.stderr
            states = {name: role["state"] for name, role in roles_of(project).items()}
            assert states.pop("by-port") in {"backoff", "crash-looping"}
            assert states == dict.fromkeys(("plain", "boxed", "by-socket"), "ready")
            for role in states:
                await echo_as(project, role)
            assert len(engine.containers()) == 2
        finally:
            _ = as_user(project, "down", group=group, check=None)
        assert engine.containers() == []


async def test_the_disk_of_an_engine_is_full(
    run_engine: RunEngine, open_project: OpenProject, box: str
) -> None:
    """It is told with the cure, nothing is left of the attempt, and with room it goes on."""
    with run_engine(size="400m") as engine, open_project() as project:
        engine.load(box)
        describe(project, engine, box)
        engine.fill()
        done = project.agents("up", "-d", check=6)
        assert "no space left on device" in done.stderr
        assert "The disk of the engine is full" in done.stderr
        assert is_ready(project, "plain")()
        assert engine.containers() == []
        engine.empty()
        project.wait(is_ready(project))
        await echo(project, "boxed")
        engine.fill()
        # What runs needs no room.
        await echo(project, "boxed")
        pid = project.pid("boxed")
        os.kill(pid, signal.SIGKILL)
        # Whether the old one leaves room enough for the next is the engine's affair.
        project.wait(
            lambda: (
                project.is_replaced("boxed", pid) or "no space left" in str(project.role("boxed"))
            )
        )
        engine.empty()
        project.wait(lambda: project.is_replaced("boxed", pid))
        await echo(project, "boxed")
        assert servers(project) == {project.pid("boxed")}
        assert len(engine.containers()) == 1
        _ = project.agents("down")
        assert engine.containers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("options", [(), ("--live-restore",)])
async def test_an_engine_ends_and_comes_back(
    run_engine: RunEngine,
    open_project: OpenProject,
    box: str,
    number: signal.Signals,
    options: tuple[str, ...],
) -> None:
    """Whether it ends its containers or leaves them: one serves afterwards, and none is left."""
    with run_engine(*options) as engine, open_project() as project:
        engine.load(box)
        describe(project, engine, box)
        _ = project.agents("up", "-d")
        await echo(project, "boxed")
        pid = first = project.pid("boxed")
        plain = project.pid("plain")
        engine.end(number)
        project.wait(lambda: is_engine_missed(project))
        if options or number == signal.SIGKILL:
            await echo(project, "boxed")
            assert project.pid("boxed") == first
        engine.start()
        project.wait(lambda: not is_engine_missed(project) and is_ready(project)())
        if options:
            assert project.pid("boxed") == first
        else:
            project.wait(lambda: project.is_replaced("boxed", first))
            pid = project.pid("boxed")
        await echo(project, "boxed")
        assert len(engine.containers()) == 1
        assert servers(project) == {pid}
        assert project.pid("plain") == plain
        os.kill(pid, signal.SIGKILL)
        project.wait(lambda: project.is_replaced("boxed", pid))
        await echo(project, "boxed")
        _ = project.agents("down")
        assert engine.containers() == []


def is_engine_missed(project: Project) -> bool:
    """Ask whether `agents status` notes that the engine for containers is away."""
    return any("container" in each for each in cast("list[str]", project.status()["notes"]))
