"""Workloads in real containers: waiting, launched, seen, ended; and nothing secret anywhere."""

# ruff: noqa: ASYNC110, ASYNC240 - what is watched here is the engine and small files

from __future__ import annotations

import json
import os
import signal
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import ContainerEngineError, ContainerError, WorkloadStartError
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit
from orchestrator.runtimes.base import FeedGap
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.identity import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.model.base import JsonObject
    from orchestrator.runtimes.base import Process
    from tests.integration.containers.runtime.conftest import Boxes, Relay

CANARY = "canary-77e0b1"
ODD = f'{CANARY} it\'s "quoted" $HOME `id` \\ \n second line \t Ăşçü \x81\x88 end'
SECONDS = 120.0
SOON = timedelta(seconds=2)


async def test_a_container_waits_and_becomes_the_server(boxes: Boxes) -> None:
    """A started container waits; launched, it is the server, under the same process."""
    spec = boxes.spec("scripted.py")
    with anyio.fail_after(SECONDS):
        await boxes.runtime.start(spec)
        status = (await boxes.runtime.observe())[spec.name]
        assert (status.state, status.waiting) == (EngineState.RUNNING, True)
        process = await boxes.runtime.launch(spec, {})
        assert process.pid == status.pid
        assert is_alive(process.pid, process.started, process.boot_id)
        assert await boxes.call(process, "echo", {"a": 1}) == '{"a": 1}'
        # A new object, as after a restart of the control plane, sees the same.
        status = (await DockerRuntime(boxes.files).observe())[spec.name]
        assert (status.pid, status.waiting) == (process.pid, False)
        await boxes.runtime.start(spec)  # it runs: nothing changes
        with pytest.raises(WorkloadStartError, match="runs already"):
            _ = await boxes.runtime.launch(spec, {})
        assert (await boxes.runtime.observe())[spec.name].pid == process.pid


async def test_values_arrive_and_nobody_else_learns_them(
    boxes: Boxes, client: Callable[..., str]
) -> None:
    """Variables arrive byte by byte; neither the engine nor its files know any, nor do ours."""
    spec = boxes.spec(
        "program.py", "report", f"{boxes.root}/seen",
        env={"PLAIN": f"{ODD} 1", "EMPTY": ""},
        secrets={"KEY": "env:KEY"},
        container={"keep": {str(boxes.root): str(boxes.root)}},
    )  # fmt: skip
    with anyio.fail_after(SECONDS):
        await boxes.runtime.start(spec)
        process = await boxes.runtime.launch(spec, {SecretName("KEY"): SecretStr(f"{ODD} 2")})
        while not (boxes.root / "seen").exists():
            await anyio.sleep(0.01)
    seen = cast("dict[str, str]", json.loads((boxes.root / "seen").read_text())["env"])
    assert seen["PLAIN"] == f"{ODD} 1"
    assert seen["KEY"] == f"{ODD} 2"
    assert seen["EMPTY"] == ""
    assert "BANDMASTER_LAUNCH" not in seen
    assert CANARY not in client("inspect", boxes.name(spec.name))
    kept = Path(client("info", "-f", "{{.DockerRootDir}}")) / "containers"
    identifier = cast("str", boxes.inspect(spec.name)["Id"])
    for path in (kept / identifier).rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()
    for path in boxes.files.run.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()
    assert CANARY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


async def test_a_missing_value_stops_the_launch(boxes: Boxes) -> None:
    """Without a value for every secret nothing is handed over; a NUL character is refused."""
    spec = boxes.spec("scripted.py", secrets={"KEY": "env:KEY"})
    with anyio.fail_after(SECONDS):
        await boxes.runtime.start(spec)
        with pytest.raises(WorkloadStartError, match="KEY"):
            _ = await boxes.runtime.launch(spec, {})
        with pytest.raises(ContainerError, match="NUL character in the server's variable KEY"):
            _ = await boxes.runtime.launch(spec, {SecretName("KEY"): SecretStr("a\0b")})
        assert (await boxes.runtime.observe())[spec.name].waiting


async def test_a_launch_that_is_cut_off_starts_nothing(boxes: Boxes) -> None:
    """Half an environment never becomes a server's: the container ends with status 78."""
    spec = boxes.spec("scripted.py")
    with anyio.fail_after(SECONDS):
        await boxes.runtime.start(spec)
        async with aclosing(boxes.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            path = boxes.files.run / "containers" / spec.name / "env"
            await anyio.to_thread.run_sync(path.write_text, "HOME='/tmp'\n")
            ended = await anext(feed)
    assert isinstance(ended, WorkloadExit)
    assert ended.code == 78
    assert "the launch was cut off" in (boxes.files.logs / "reader.log").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
async def test_an_end_by_signal_is_told(boxes: Boxes, number: int, code: int) -> None:
    """The end of the first process is told with its process and exact cause."""
    spec = boxes.spec("scripted.py")
    process = await boxes.run(spec)
    _ = await boxes.call(process, "echo", {})
    with anyio.fail_after(SECONDS):
        async with aclosing(boxes.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            os.kill(process.pid, number)
            ended = await anext(feed)
    assert ended == WorkloadExit(name=spec.name, pid=process.pid, code=code)
    assert (await boxes.runtime.observe())[spec.name].state is EngineState.STOPPED


async def test_out_of_memory_is_told(boxes: Boxes) -> None:
    """A server that takes more memory than it may is killed, and that is the cause that is told."""
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}",
        http={"listen": "socket", "path": "/mcp"}, container={"memory": "64MiB"},
    )  # fmt: skip
    process = await boxes.run(spec)
    assert await boxes.call(process, "echo", {"a": 1}) == '{"a": 1}'
    much: JsonObject = {"bytes": 200_000_000}
    with anyio.fail_after(SECONDS):
        async with aclosing(boxes.runtime.exits()) as feed, anyio.create_task_group() as group:
            assert isinstance(await anext(feed), FeedGap)
            group.start_soon(_call_in_vain, boxes, process, much)
            ended = await anext(feed)
            assert isinstance(ended, WorkloadExit)
            assert (ended.code, ended.cause) == (-9, "out of memory")
            group.cancel_scope.cancel()


async def _call_in_vain(boxes: Boxes, process: Process, arguments: JsonObject) -> None:
    try:
        _ = await boxes.call(process, "fill", arguments)
    except Exception:  # noqa: BLE001 - it dies while it is asked
        await anyio.sleep_forever()


async def test_a_polite_server_ends_quickly(boxes: Boxes) -> None:
    """One that heeds SIGTERM is not waited for any longer, and nothing of it is left."""
    spec = boxes.spec("scripted.py", stop={"drain": "1s", "grace": "10m"})
    process = await boxes.run(spec)
    _ = await boxes.call(process, "echo", {})
    with anyio.fail_after(SECONDS):
        await boxes.runtime.stop(spec.name, timedelta(minutes=10))
        assert await boxes.runtime.observe() == {}
        await boxes.runtime.stop(spec.name, SOON)  # it is stopped already
    assert not boxes.runtime.knows(spec.name)
    assert boxes.everything() == []


async def test_a_stubborn_server_is_killed_after_its_grace(boxes: Boxes) -> None:
    """One that ignores SIGTERM on purpose has its grace, and its children end with it."""
    spec = boxes.spec(
        "program.py", "family", f"{boxes.root}/family",
        container={"keep": {str(boxes.root): str(boxes.root)}},
    )  # fmt: skip
    process = await boxes.run(spec)
    with anyio.fail_after(SECONDS):
        while not (boxes.root / "family").exists():
            await anyio.sleep(0.01)
        await boxes.runtime.stop(spec.name, timedelta(seconds=1))
    assert not is_alive(process.pid, process.started, process.boot_id)
    assert boxes.everything() == []


async def test_what_does_not_hear_is_not_asked(boxes: Boxes) -> None:
    """The first process of a container ignores what it has no handler for: it is killed at once."""
    spec = boxes.spec("program.py", "silent")
    _ = await boxes.run(spec)
    with anyio.fail_after(SECONDS):
        await boxes.runtime.stop(spec.name, timedelta(minutes=10))


async def test_each_launch_has_a_container_of_its_own(boxes: Boxes) -> None:
    """After an end another container takes over: fresh FIFOs, fresh files, the same name."""
    spec = boxes.spec("scripted.py")
    first = await boxes.run(spec)
    before = boxes.inspect(spec.name)["Id"]
    with anyio.fail_after(SECONDS):
        await boxes.runtime.signal(spec.name, signal.SIGKILL)
        while (await boxes.runtime.observe())[spec.name].pid:
            await anyio.sleep(0.01)
    second = await boxes.run(spec)
    assert second.pid != first.pid
    assert boxes.inspect(spec.name)["Id"] != before
    assert await boxes.call(second, "echo", {"b": 2}) == '{"b": 2}'
    assert len(boxes.everything()) == 1


async def test_a_changed_description_is_replaced(boxes: Boxes) -> None:
    """Starting with other limits replaces the container."""
    process = await boxes.run(boxes.spec("scripted.py"))
    with anyio.fail_after(SECONDS):
        await boxes.runtime.start(boxes.spec("scripted.py", container={"memory": "96MiB"}))
    status = (await boxes.runtime.observe())[WorkloadName("reader.boxed.g1")]
    assert status.waiting
    assert status.pid != process.pid
    host = cast("dict[str, object]", boxes.inspect("reader.boxed.g1")["HostConfig"])
    assert host["Memory"] == host["MemorySwap"] == 96 * 2**20


async def test_what_nobody_keeps_is_swept(boxes: Boxes) -> None:
    """Containers that nobody keeps are ended; those that somebody keeps go on."""
    kept = await boxes.run(boxes.spec("scripted.py"))
    stray = await boxes.run(boxes.spec("scripted.py", role="stray"))
    with anyio.fail_after(SECONDS):
        swept = await DockerRuntime(boxes.files).sweep([kept.workload])
        assert swept == (stray.workload,)
        assert (await boxes.runtime.observe()).keys() == {kept.workload}
        assert await boxes.runtime.end_all()
        assert not await boxes.runtime.end_all()
    assert boxes.everything() == []


async def test_a_server_has_no_more_power_than_it_needs(boxes: Boxes) -> None:
    """No capability, no new privileges, a named user, nothing to write but what it is given."""
    kept = boxes.root / "kept"
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"},
        container={"keep": {str(kept): "/var/lib/kept"}},
    )  # fmt: skip
    process = await boxes.run(spec)
    facts = cast("dict[str, str]", json.loads(await boxes.call(process, "whoami", {})))
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert facts["Uid"].split() == ["10001"] * 4
    assert facts["Gid"].split() == ["10001"] * 4
    say = boxes.call
    assert "Read-only" in await say(process, "write", {"path": "/etc/x", "bytes": 1})
    assert "failed" in await say(process, "write", {"path": "/run/bandmaster/x", "bytes": 1})
    assert await say(process, "write", {"path": "/tmp/x", "bytes": 1000}) == "written"  # noqa: S108 - inside
    full = await say(process, "write", {"path": "/tmp/x", "bytes": 2_000_000})  # noqa: S108 - inside
    assert "No space left" in full
    assert await say(process, "write", {"path": "/var/lib/kept/x", "bytes": 3}) == "written"
    assert (kept / "x").read_bytes() == b"xxx"
    assert (kept / "x").stat().st_mode & 0o777 == 0o600
    about = boxes.inspect(spec.name)
    host = cast("dict[str, object]", about["HostConfig"])
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert (host["NetworkMode"], host["PidsLimit"]) == ("none", 16)
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-file": "3", "max-size": "1m"}}
    assert not host["PortBindings"]


async def test_an_engine_that_is_cut_off(boxes: Boxes, relay: Relay) -> None:
    """What runs goes on and is remembered; it is told, and all is well when the engine is back."""
    spec = boxes.spec("scripted.py", container={"engine": str(relay.place)})
    process = await boxes.run(spec)
    runtime = boxes.runtime
    with anyio.fail_after(SECONDS):
        async with aclosing(runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            relay.cut()
            with pytest.raises(ContainerEngineError):
                _ = await anext(feed)
        assert "containers that run go on" in runtime.notes()[0]
        with pytest.raises(ContainerEngineError, match="there is no container engine"):
            _ = await runtime.observe()
        assert runtime.remembered()[spec.name].pid == process.pid
        assert await boxes.call(process, "echo", {"c": 3}) == '{"c": 3}'
        relay.mend()
        async with aclosing(runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            assert runtime.notes() == ()
            assert (await runtime.observe())[spec.name].pid == process.pid
            os.kill(process.pid, signal.SIGKILL)
            assert await anext(feed) == WorkloadExit(name=spec.name, pid=process.pid, code=-9)
