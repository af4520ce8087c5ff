"""Roles whose servers run in containers, from `agents up` to `agents down`."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import OpenProject, Project

CANARY: Final = "canary-5e0b77 it's"
SCRIPTED: Final = Path(__file__).parents[1] / "servers" / "scripted.py"
WALLET: Final = {"walletName": "treasury", "chain": "ethereum"}
SERVER: Final = """\
server: NAME
description: A scripted server.
owner: me@example.com
source: tests
launch:
  command: ["{python}", -I, -S, SCRIPT, --tools, "echo,crash"]
  accepts: {KEY: Opens nothing.}
container:
  image: IMAGE
  command: [python3, -I, -S, SCRIPT, --tools, "echo,crash", --say, hello from inside]
bands: {names: [look]}
tools:
  echo: {band: look, class: READ}
  crash: {band: look, class: WRITE}
"""
ROLE: Final = """\
role: NAME
justification: Tests containers.
owner: me@example.com
server: scripted
bands: [look]
runtime: RUNTIME
"""


@pytest.fixture
def project(open_project: OpenProject, box: str) -> Generator[Project]:
    """Give a project with a role in a container and one that is a process."""
    with open_project() as found:
        server = SERVER.replace("NAME", "scripted").replace("IMAGE", box)
        _ = found.write("roles/servers/scripted.yaml", server.replace("SCRIPT", str(SCRIPTED)))
        boxed = ROLE.replace("NAME", "boxed").replace("RUNTIME", "container")
        _ = found.write("roles/boxed.yaml", f"{boxed}secrets: {{KEY: env:KEY}}\n")
        _ = found.write(
            "roles/plain.yaml", ROLE.replace("NAME", "plain").replace("RUNTIME", "process")
        )
        found.env["KEY"] = CANARY
        try:
            yield found
        finally:
            for each in containers(found):
                _ = subprocess.run(["docker", "rm", "-f", each], check=False, capture_output=True)


def containers(project: Project) -> list[str]:
    """Tell every container of a project, by id."""
    mine = f"label=bandmaster.project={project.state / 'run'}"
    return subprocess.run(
        ["docker", "ps", "-aq", "--no-trunc", "-f", mine],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip


def remove_containers(project: Project) -> None:
    """Remove what a project left."""
    for each in containers(project):
        _ = subprocess.run(["docker", "rm", "-f", each], check=False, capture_output=True)


def inspect(container: str) -> str:
    """Tell what the engine knows of a container."""
    words = ["docker", "inspect", container]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def environment(pid: int) -> bytes:
    """Tell the environment of a process."""
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_from_up_to_down(project: Project) -> None:
    """A role in a container is called like any other, comes back, logs, and ends with the rest."""
    _ = project.agents("up", "-d")
    async with project.client("boxed") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo", "crash"]
        assert not (await client.call_tool("echo", {"a": 1})).is_error
    (found,) = containers(project)
    assert CANARY not in inspect(found)
    pid = project.pid("boxed")
    assert f"KEY={CANARY}".encode() in environment(pid)
    assert b"KEY=" not in environment(project.pid("plain"))
    os.kill(pid, signal.SIGKILL)
    project.wait(lambda: project.pid("boxed") not in {pid, None})
    assert project.role("boxed")["restarts"] == 1
    assert containers(project) != [found]
    async with project.client("boxed") as client:
        assert not (await client.call_tool("echo", {"a": 2})).is_error
    assert project.agents("logs", "boxed").stdout.count("hello from inside") == 2
    _ = project.agents("down")
    assert containers(project) == []
    assert "Nothing was running" in project.agents("down").stdout


def is_ready(project: Project, role: str) -> Callable[[], bool]:
    """Ask whether a role is ready."""
    return lambda: project.role(role)["state"] == "ready"


def test_the_daemon_is_killed_at_any_time(project: Project) -> None:
    """However often and whenever it is killed: one container serves, no other is there."""
    _ = project.agents("up", "-d")
    dice = random.Random(7)  # noqa: S311 - the same moments each time
    pids = {project.pid("boxed")}
    for turn in range(6):
        if turn % 2:
            with suppress(ProcessLookupError):
                os.kill(project.pid("boxed"), signal.SIGKILL)
        time.sleep(dice.uniform(0, 0.4))  # the moment is what is tried
        os.kill(project.daemon_pid(), signal.SIGKILL)
        project.wait(lambda: bool(project.agents("status", check=None).stdout))
        project.wait(is_ready(project, "boxed"))
        project.wait(lambda: len(containers(project)) == 1)
        pids.add(project.pid("boxed"))
    assert len(pids) >= 3
    last = project.pid("boxed")
    os.kill(project.daemon_pid(), signal.SIGKILL)
    project.wait(is_ready(project, "boxed"))
    assert project.pid("boxed") == last  # adopted
    _ = project.agents("down")
    assert containers(project) == []


def test_without_a_daemon_all_of_it_ends(project: Project) -> None:
    """`agents down` ends containers that nobody watches any more, state or not."""
    _ = project.agents("up", "-d")
    os.kill(project.engine_pid(), signal.SIGKILL)
    os.kill(project.daemon_pid(), signal.SIGKILL)
    assert len(containers(project)) == 1
    assert "stopped" in project.agents("down").stdout
    assert containers(project) == []
    _ = project.agents("up", "-d")
    first = containers(project)
    shutil.rmtree(project.state)
    _ = project.agents("up", "-d")
    second = containers(project)
    assert len(second) == 1
    assert second != first
    shutil.rmtree(project.state)
    _ = project.agents("down")
    assert containers(project) == []


async def test_without_an_engine_for_containers(project: Project) -> None:
    """A role whose engine is not there says so, with a cure; the others are served."""
    _ = project.write("agents.yaml", "listen: 127.0.0.1:0\ndocker: {socket: /nowhere.sock}\n")
    done = project.agents("up", "-d", check=6)
    assert "there is no container engine: /nowhere.sock does not exist" in done.stderr
    assert "Install and start Docker" in done.stderr
    assert (project.role("plain")["state"], project.role("boxed")["state"]) == ("ready", "backoff")
    async with project.client("plain") as client:
        assert not (await client.call_tool("echo", {"a": 1})).is_error
    _ = project.agents("down")


def test_an_image_that_is_not_there(project: Project) -> None:
    """A missing image is told with what to do, and the plan of a role is checked without it."""
    path = project.root / "roles/servers/scripted.yaml"
    lines = path.read_text().splitlines()
    nobodys = "sha256:" + 64 * "0"
    _ = path.write_text(
        "\n".join(f"  image: {nobodys}" if "image:" in line else line for line in lines)
    )
    done = project.agents("up", "-d", check=6)
    assert f"the image {nobodys} is not on this machine" in done.stderr
    _ = project.agents("down")
    assert json.loads(project.agents("status", "--json", check=None).stdout)["running"] is False


async def test_the_stock_roles_run_in_containers(open_project: OpenProject, box: str) -> None:
    """Bootstrap included: the wallet's token is made in a container, and opens the executor's."""
    assert box
    images = [str(Path(__file__).parents[2] / "scripts" / "images"), "test"]
    _ = await anyio.run_process(images)
    with open_project() as project:
        _ = project.agents("init")
        server = project.root / "roles" / "servers" / "wallet.yaml"
        text = server.read_text().replace("bandmaster-wallet:local", "bandmaster-wallet:test")
        _ = server.write_text(text)
        for name in ("monitoring", "treasury", "executor"):
            role = project.root / "roles" / f"{name}.yaml"
            _ = role.write_text(f"{role.read_text()}runtime: container\n")
        try:
            _ = project.agents("up", "-d")
            made = project.state / "wallet-owner"
            assert (made / "executor.token").stat().st_uid == made.stat().st_uid
            for name, count in (("monitoring", 7), ("treasury", 10), ("executor", 13)):
                async with project.client(name) as client:
                    assert len((await client.list_tools()).tools) == count
            async with project.client("executor") as client:
                found = await client.call_tool("get_wallet_address", {**WALLET})
                assert not found.is_error
            token = (made / "executor.token").read_text().strip()
            for each in containers(project):
                assert token not in inspect(each)
                assert str(made) not in inspect(each)
            # As an earlier version left it: in the directory that all of them write.
            _ = project.agents("down")
            shared = project.state / "wallet"
            for name in ("executor.token", "passphrase"):
                _ = (made / name).rename(shared / name)
            _ = project.agents("up", "-d")
            assert {path.name for path in made.iterdir()} == {"executor.token", "passphrase"}
            assert not (shared / "passphrase").exists()
            async with project.client("executor") as client:
                found = await client.call_tool("get_wallet_address", {**WALLET})
                assert not found.is_error
            assert (made / "executor.token").read_text().strip() == token
            _ = project.agents("down")
        finally:
            remove_containers(project)
