"""A project from `agents up` to `agents down`, and through every kind of crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, Project

TOOLS = {"monitoring": 7, "treasury": 10, "executor": 13}


def roles_of(status: Object) -> dict[str, Object]:
    """Tell the roles of a status by name."""
    return {str(role["role"]): role for role in cast("list[Object]", status["roles"])}


async def call(project: Project, role: str, mode: str = "auto") -> str:
    """Make one call as an agent of the role."""
    with anyio.fail_after(90):
        async with project.client(role, mode) as client:
            result = await client.call_tool("get_price", {"symbol": "ETH"})
            assert not result.is_error, result.content
            return str(result.content[0])


def test_one_command_brings_three_roles_up_and_one_takes_them_down(project: Project) -> None:
    """After `agents up -d` three roles are ready, each in a process and with tools of its own."""
    status = project.json("up", "-d")

    roles = roles_of(status)
    assert {name: len(cast("list[str]", role["tools"])) for name, role in roles.items()} == TOOLS
    assert {role["state"] for role in roles.values()} == {"ready"}
    assert len({role["pid"] for role in roles.values()}) == 3
    assert cast("Object", status["gateway"])["ready"] is True
    for role in roles.values():
        keys = {"bands", "mode", "generation", "restarts", "uptime_seconds", "url"}
        assert keys <= role.keys()
    assert roles_of(project.json("status")).keys() == roles.keys()

    _ = project.agents("down")

    assert project.processes() == {}
    assert project.json("status", check=10)["running"] is False
    assert "Nothing was running" in project.agents("down").stdout


def test_a_second_up_joins_and_leaves_the_instances_alone(running: Project) -> None:
    """A second `agents up -d` says who runs and changes no process."""
    before = {role: running.pid(role) for role in TOOLS}

    second = running.agents("up", "-d")

    assert f"Already running here (engine {running.engine_pid()})" in second.stderr
    assert {role: running.pid(role) for role in TOOLS} == before


def test_only_runs_the_named_role_and_a_later_up_adds_the_others(project: Project) -> None:
    """`--only` runs one role; without it the rest follows beside it."""
    assert roles_of(project.json("up", "-d", "--only", "monitoring")).keys() == {"monitoring"}
    first = project.pid("monitoring")

    assert roles_of(project.json("up", "-d")).keys() == TOOLS.keys()
    assert project.pid("monitoring") == first

    assert roles_of(project.json("up", "-d", "--only", "treasury")).keys() == {"treasury"}


def test_a_dry_run_tells_the_plan_and_starts_nothing(project: Project) -> None:
    """`--dry-run` names every action and leaves no process and no state."""
    actions = cast("list[Object]", project.json("up", "--dry-run")["actions"])

    assert {(action["action"], action["role"]) for action in actions} == {
        ("start", role) for role in TOOLS
    }
    assert project.processes() == {}
    assert not project.state.exists()


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_each_agent_reaches_its_own_instance_in_both_eras(
    running: Project, mode: str
) -> None:
    """The official client lists 7, 10 and 13 tools and gets an answer from each role's process."""
    for role, count in TOOLS.items():
        with anyio.fail_after(90):
            async with running.client(role, mode) as client:
                tools = (await client.list_tools()).tools
                assert len(tools) == count
                assert {tool.name for tool in tools} == set(
                    cast("list[str]", running.role(role)["tools"])
                )
        assert "3000" in await call(running, role, mode)


async def test_a_killed_server_is_back_and_answers(running: Project) -> None:
    """After kill -9 of a server the very next call is answered, by a new process."""
    before = running.pid("treasury")
    others = {role: running.pid(role) for role in ("monitoring", "executor")}

    os.kill(before, signal.SIGKILL)

    assert "3000" in await call(running, "treasury")
    after = running.role("treasury")
    assert after["pid"] != before
    assert after["restarts"] == 1
    assert {role: running.pid(role) for role in others} == others


async def test_a_killed_daemon_is_back_and_adopts_the_servers(running: Project) -> None:
    """After kill -9 of the daemon the same server processes answer under the same tokens."""
    before = {role: running.pid(role) for role in TOOLS}
    tokens = {role: running.token(role) for role in TOOLS}
    daemon, url = running.daemon_pid(), running.url("treasury")

    os.kill(daemon, signal.SIGKILL)

    running.wait(lambda: running.is_ready() and running.daemon_pid() != daemon)
    assert {role: running.pid(role) for role in TOOLS} == before
    assert {role: running.token(role) for role in TOOLS} == tokens
    assert running.url("treasury") == url
    assert "3000" in await call(running, "treasury")


async def test_a_killed_engine_is_replaced_by_up_without_doubles(running: Project) -> None:
    """After kill -9 of supervisord, `agents up` leaves exactly one process a role."""
    before = {role: running.pid(role) for role in TOOLS}
    engine = running.engine_pid()

    os.kill(engine, signal.SIGKILL)
    _ = running.agents("up", "-d")

    assert running.engine_pid() != engine
    servers = [words for words in running.processes().values() if "walletserver" in words]
    assert len(servers) == 3
    assert not set(before.values()) & set(running.processes())
    assert "3000" in await call(running, "monitoring")


def test_down_after_a_killed_engine_leaves_nothing(running: Project) -> None:
    """After kill -9 of supervisord, `agents down` alone ends daemon and servers."""
    os.kill(running.engine_pid(), signal.SIGKILL)

    _ = running.agents("down")

    assert running.processes() == {}


def test_up_and_down_straight_after_a_killed_daemon(running: Project) -> None:
    """Commands that meet a daemon in the middle of its restart wait for it or do without."""
    os.kill(running.daemon_pid(), signal.SIGKILL)
    _ = running.agents("up", "-d")
    os.kill(running.daemon_pid(), signal.SIGKILL)
    _ = running.agents("down")

    assert running.processes() == {}


async def test_restart_replaces_a_ready_instance_without_a_failed_call(running: Project) -> None:
    """While `agents restart` replaces an instance, every call of a busy agent is answered."""
    before = running.role("treasury")
    answered = 0
    with anyio.fail_after(60):
        async with running.client("treasury") as client, anyio.create_task_group() as group:
            done = anyio.Event()

            async def restart() -> None:
                _ = await anyio.to_thread.run_sync(running.agents, "restart", "treasury")
                done.set()

            group.start_soon(restart)
            while not done.is_set():
                result = await client.call_tool("get_price", {"symbol": "ETH"})
                assert not result.is_error, result.content
                answered += 1

    after = running.role("treasury")
    assert answered > 5
    assert after["pid"] != before["pid"]
    assert after["generation"] == cast("int", before["generation"]) + 1
    assert cast("int", before["pid"]) not in running.processes()


def test_a_changed_role_is_replaced_and_the_others_stay(running: Project) -> None:
    """A changed role file is applied by the next `up`; unchanged roles keep their process."""
    before = {role: running.pid(role) for role in TOOLS}
    path = running.root / "roles" / "treasury.yaml"
    _ = path.write_text(path.read_text().replace("bands: [read, prepare]", "bands: [read]"))

    status = roles_of(running.json("up", "-d"))

    assert len(cast("list[str]", status["treasury"]["tools"])) == 7
    assert status["treasury"]["pid"] != before["treasury"]
    assert {role: status[role]["pid"] for role in ("monitoring", "executor")} == {
        role: before[role] for role in ("monitoring", "executor")
    }


def test_a_mistake_in_a_file_changes_nothing_that_runs(running: Project) -> None:
    """`up` with a broken file names file and line, and everything runs on as it was."""
    before = {role: running.pid(role) for role in TOOLS}
    path = running.root / "roles" / "treasury.yaml"
    _ = path.write_text(path.read_text() + "\nbandss: [read]\n")

    failed = running.agents("up", "-d", check=2)

    assert "roles/treasury.yaml:" in failed.stderr
    assert "bandss" in failed.stderr
    assert {role: running.pid(role) for role in TOOLS} == before


def test_the_foreground_shows_the_roles_and_ctrl_c_stops_everything(project: Project) -> None:
    """`agents up` stays, prints each role, and SIGINT drains and stops all of it."""
    agents = Path(sys.executable).with_name("agents")
    with subprocess.Popen(
        [agents, "up"],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        project.wait(project.is_ready, 60)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)

    assert process.returncode == 0, told
    assert "executor" in told
    assert "Everything is stopped." in told
    assert project.processes() == {}


async def test_one_request_id_is_in_every_log_on_its_way(running: Project) -> None:
    """The record of a call and the server's log line carry the same request id."""
    assert "3000" in await call(running, "treasury")

    lines = running.agents("calls", "treasury", "--json").stdout.splitlines()
    calls = [cast("Object", json.loads(line)) for line in lines if '"tools/call"' in line]
    assert f'"requestId":"{calls[-1]["request"]}"' in running.agents("logs", "treasury").stdout


def test_logs_show_what_an_instance_wrote(running: Project) -> None:
    """`agents logs` prints the server's own log, `--daemon` the gateway's."""
    assert '"event":"started"' in running.agents("logs", "monitoring").stdout
    assert "gateway ready" in running.agents("logs", "--daemon").stdout
    assert "monitoring" in running.agents("logs", "nobody", check=10).stderr


async def test_servers_and_gateway_outlive_the_engine(running: Project) -> None:
    """After kill -9 of supervisord the same processes answer calls, and write their logs."""
    before = {role: running.pid(role) for role in TOOLS}

    os.kill(running.engine_pid(), signal.SIGKILL)

    for _ in range(5):
        assert "3000" in await call(running, "treasury")
    assert {role: running.pid(role) for role in TOOLS} == before
    running.wait(lambda: "the process engine" in str(running.status()["notes"]))


def test_an_engine_whose_files_were_deleted_is_found_and_stopped(running: Project) -> None:
    """`rm -rf .agents` under a running project leaves nothing that `up` or `down` overlooks."""
    shutil.rmtree(running.state)
    again = running.agents("up", "-d")

    assert "was still running" in again.stderr
    servers = [words for words in running.processes().values() if "walletserver" in words]
    assert len(servers) == 3

    shutil.rmtree(running.state)
    assert "Everything is stopped." in running.agents("down").stdout
    assert running.processes() == {}


def test_a_change_that_takes_tools_away_never_leaves_the_stronger_instance(
    running: Project,
) -> None:
    """When a narrowed role cannot start, its old instance does not go on serving."""
    before = running.pid("executor")
    path = running.root / "roles" / "executor.yaml"
    _ = path.write_text(path.read_text().replace("bands: full", "bands: [read]"))
    server = running.root / "roles" / "servers" / "wallet.yaml"
    _ = server.write_text(
        server.read_text().replace("  get_price: {band: read, class: READ}\n", "")
    )

    failed = running.agents("up", "-d", "--only", "executor", check=6)

    assert "get_price" in failed.stderr
    assert running.role("executor")["state"] == "quarantined"
    assert before not in running.processes()


def test_a_change_that_fails_is_remembered_in_the_status(running: Project) -> None:
    """A change that adds nothing new and cannot start leaves the old instance, and says so."""
    before = running.pid("monitoring")
    server = running.root / "roles" / "servers" / "wallet.yaml"
    _ = server.write_text(
        server.read_text()
        .replace("{python}", "{project}/broken")
        .replace("-I, -m, walletserver", "")
    )
    broken = running.write("broken", "#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)

    failed = running.agents("up", "-d", "--only", "monitoring", check=6)

    assert "keeps serving" in failed.stderr
    role = running.role("monitoring")
    assert (role["state"], role["pid"]) == ("ready", before)
    assert "exit status 3" in str(role["detail"])
    assert "was not taken" in str(role["detail"])


def test_ctrl_c_during_the_start_stops_everything_too(project: Project) -> None:
    """SIGINT before all roles are ready leaves nothing behind."""
    agents = Path(sys.executable).with_name("agents")
    with subprocess.Popen(
        [agents, "up"],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        project.wait((project.state / "run" / "control.sock").exists)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)

    assert "Everything is stopped." in told
    assert project.processes() == {}
