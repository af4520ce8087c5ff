"""The engine: one real supervisord for one run directory."""

# ruff: noqa: ASYNC110, ASYNC230, ASYNC240 - what is watched here is /proc and small files,
# and nothing else runs in this loop

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import (
    LockHeldError,
    RuntimeUnavailableError,
    SettingsError,
    StateCorruptError,
)
from orchestrator.files import hold_lock
from orchestrator.model.workload import WorkloadExit
from orchestrator.runtimes.engine import Engine, EngineFiles
from orchestrator.runtimes.rpc import EngineFaultError, EngineRpc
from orchestrator.runtimes.variables import DESCRIPTOR, read_variables, write_variables

if TYPE_CHECKING:
    from tests.integration.runtimes.conftest import Project

SOON = timedelta(seconds=2)
CANARY = "canary-5c1f0a"


async def test_start_is_idempotent(project: "Project") -> None:
    """A second start finds the engine that runs, also from another object."""
    with anyio.fail_after(30):
        assert await project.engine.find() is None
        pid = await project.engine.start(None, {})
        assert await project.engine.start(None, {}) == pid
        assert await Engine(project.files).find() == pid


async def test_engine_is_detached(running: "Project") -> None:
    """The engine leads a session of its own, with a minimal environment and no terminal."""
    with anyio.fail_after(30):
        pid = await running.engine.find()
    assert pid is not None
    assert os.getsid(pid) == pid
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0] for variable in environment if variable}
    assert names <= {b"PATH", b"HOME", b"LANG"}
    assert str(Path(f"/proc/{pid}/fd/0").readlink()) == os.devnull


async def test_everything_it_writes_is_private(running: "Project") -> None:
    """No file of the engine can be read by others."""
    open_to_others = [
        path for path in running.root.rglob("*") if path.stat().st_mode & 0o077 and path.exists()
    ]
    assert open_to_others == []


async def test_inherited_descriptors_end_with_the_command(project: "Project") -> None:
    """A lock that this process holds with an inheritable descriptor is not kept by the engine."""
    path = project.root / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional only
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with anyio.fail_after(30):
            _ = await project.engine.start(None, {})
    finally:
        os.close(descriptor)
    with hold_lock(path):
        pass


async def test_shutdown_leaves_nothing(
    running: "Project", processes: Callable[[Path], list[int]]
) -> None:
    """Shutting down ends every process and removes sockets, keys and configuration."""
    with anyio.fail_after(30):
        await running.runtime.start(running.spec("program.py", "stubborn", grace=60))
        _ = await running.runtime.launch(running.spec("program.py", "stubborn", grace=60), {})
        await running.engine.shutdown(timedelta(seconds=0.5))
        await running.engine.shutdown(SOON)  # it is down already
    assert processes(running.root) == []
    left = {path.name for path in running.files.run.rglob("*") if path.is_file()}
    assert left <= {"engine.lock", "reader.test.g1.lock"}


async def test_a_killed_engine_is_started_again(running: "Project") -> None:
    """The socket and pid file that a killed engine leaves behind do not count as one."""
    with anyio.fail_after(30):
        pid = await running.engine.find()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while await running.engine.find() is not None:
            await anyio.sleep(0.01)
        assert running.files.socket.exists()
        assert await running.engine.start(None, {}) != pid


async def test_control_plane_is_started_and_never_doubled(project: "Project") -> None:
    """The control plane runs as a program of the engine; an orphan of a killed engine is ended."""
    marks = project.root / "marks"
    marks.mkdir()
    code = "import os, sys, time; open(f'{sys.argv[1]}/{os.getpid()}', 'w'); time.sleep(600)"
    control = (sys.executable, "-I", "-S", "-c", code, str(marks))
    with anyio.fail_after(30):
        engine = await project.engine.start(control, {})
        while not (first := list(marks.iterdir())):
            await anyio.sleep(0.01)
        os.kill(engine, signal.SIGKILL)
        while await project.engine.find() is not None:
            await anyio.sleep(0.01)
        _ = await project.engine.start(control, {})
        while len(list(marks.iterdir())) < 2:
            await anyio.sleep(0.01)
    assert not Path(f"/proc/{first[0].name}/cwd").exists()
    with anyio.fail_after(30):
        assert await project.runtime.observe() == {}


async def test_why_it_ended_at_once_is_told(project: "Project") -> None:
    """An engine that cannot run is an error with its own last words."""
    project.files.make()
    _ = (project.files.programs / "broken.conf").write_text("[program:broken]\nstartsecs=x\n")
    with anyio.fail_after(30), pytest.raises(RuntimeUnavailableError, match="broken") as caught:
        _ = await project.engine.start(None, {})
    assert "ended at once" in str(caught.value)


async def test_two_commands_do_not_start_it_at_once(project: "Project") -> None:
    """While one command starts the engine, another one is told so."""
    project.files.make()
    lock = hold_lock(project.files.run / "engine.lock")
    with anyio.fail_after(30), lock, pytest.raises(LockHeldError):
        _ = await project.engine.start(None, {})


async def test_a_wrong_key_is_refused(running: "Project", directory: Path) -> None:
    """Who reaches the socket without the key can do nothing."""
    key = directory / "wrong"
    _ = key.write_text("wrong")
    with anyio.fail_after(30):
        with pytest.raises(RuntimeUnavailableError, match="401"):
            _ = await EngineRpc(running.files.socket, key).call("supervisor.shutdown")
        assert await running.engine.find() is not None


async def test_unknown_method_is_a_fault(running: "Project") -> None:
    """The engine's own refusals keep their number."""
    client = EngineRpc(running.files.socket, running.files.key)
    with anyio.fail_after(30), pytest.raises(EngineFaultError) as caught:
        _ = await client.call("agents.nothing")
    assert caught.value.number == 1


async def test_something_else_on_the_socket(project: "Project") -> None:
    """A listener that is no engine is an error, not an engine."""
    project.files.make()
    _ = project.files.key.write_text("key")

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    with anyio.fail_after(30):
        listener = await anyio.create_unix_listener(project.files.socket)
        async with listener, anyio.create_task_group() as tasks:
            _ = tasks.start_soon(listener.serve, hang_up)
            with pytest.raises(RuntimeUnavailableError, match="does not answer"):
                _ = await project.engine.find()
            tasks.cancel_scope.cancel()


def test_a_path_too_long_for_a_socket_is_refused(directory: Path) -> None:
    """The length of the run directory's path is checked before anything starts."""
    with pytest.raises(SettingsError, match="too long for a unix socket"):
        EngineFiles(directory / ("x" * 80), directory / "logs").make()


# --- variables ---------------------------------------------------------------------------------


async def test_variables_outlive_whoever_wrote_them(project: "Project") -> None:
    """Variables are read back from the engine, with every character, and can be replaced."""
    values = {"A": SecretStr(CANARY), "B": SecretStr("ü=\n"), "EMPTY": SecretStr("")}
    with anyio.fail_after(30):
        pid = await project.engine.start(None, values)
    assert read_variables(pid) == values
    write_variables(pid, {"C": SecretStr("x" * 100_000)})
    assert read_variables(pid) == {"C": SecretStr("x" * 100_000)}
    write_variables(pid, {})
    assert read_variables(pid) == {}


async def test_variables_survive_a_restart_by_signal(project: "Project") -> None:
    """SIGHUP makes the engine start over; it keeps the variables and answers again."""
    with anyio.fail_after(30):
        pid = await project.engine.start(None, {"A": SecretStr(CANARY)})
        spec = project.spec("program.py", "silent")
        await project.runtime.start(spec)
        before = (await project.runtime.observe())[spec.name].pid
        os.kill(pid, signal.SIGHUP)
        while True:
            try:
                status = (await project.runtime.observe()).get(spec.name)
            except RuntimeUnavailableError:
                status = None
            if status is not None and status.pid not in {0, before}:
                break
            await anyio.sleep(0.02)
        assert await project.engine.find() == pid
        assert read_variables(pid) == {"A": SecretStr(CANARY)}
        process = await project.runtime.launch(spec, {})
        # The feed and prompt reaping work in the second life, too.
        feed = project.runtime.exits()
        _ = await anext(feed)
        os.kill(process.pid, signal.SIGKILL)
        ended = await anext(feed)
        assert isinstance(ended, WorkloadExit)
        assert ended.code == -9
        await feed.aclose()


async def test_variables_are_nowhere_else(project: "Project") -> None:
    """A kept value is in no environment, no argument, no file, and not in the engine's memory."""
    with anyio.fail_after(30):
        pid = await project.engine.start(None, {"A": SecretStr(CANARY)})
        spec = project.spec("program.py", "silent")
        await project.runtime.start(spec)
    needle = CANARY.encode()
    for path in project.root.rglob("*"):
        assert not path.is_file() or needle not in path.read_bytes(), path
    for name in ("environ", "cmdline"):
        assert needle not in Path(f"/proc/{pid}/{name}").read_bytes()
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if "rw" in line.split()[1] and "[v" not in line:
                _ = memory.seek(first)
                assert needle not in memory.read(last - first)


async def test_the_seat_does_not_inherit_the_variables(running: "Project") -> None:
    """No child of the engine has the descriptor."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
    links: list[str] = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        # The program is starting: it opens and closes files of its own meanwhile.
        with suppress(FileNotFoundError):
            links.append(str(path.readlink()))
    assert links
    assert not any("memfd" in link for link in links)


async def test_a_torn_write_is_seen(project: "Project") -> None:
    """A writer that died in the middle leaves an error, never half of the variables."""
    with anyio.fail_after(30):
        pid = await project.engine.start(None, {"A": SecretStr(CANARY), "B": SecretStr("2")})
    descriptor = os.open(f"/proc/{pid}/fd/{DESCRIPTOR}", os.O_RDWR)
    try:
        whole = os.pread(descriptor, 4096, 0)
        for torn in (b"", whole[:10], whole[:60], b"\0" * 48 + whole[48:], whole[:-1] + b"x"):
            os.ftruncate(descriptor, 0)
            _ = os.pwrite(descriptor, torn, 0)
            with pytest.raises(StateCorruptError):
                _ = read_variables(pid)
    finally:
        os.close(descriptor)
    write_variables(pid, {"A": SecretStr("again")})
    assert read_variables(pid) == {"A": SecretStr("again")}


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A", "x\0y")])
async def test_impossible_variables_are_refused(name: str, value: str, running: "Project") -> None:
    """A name or value that no environment can hold is refused, and is not repeated."""
    with anyio.fail_after(30):
        pid = await running.engine.find()
    assert pid is not None
    with pytest.raises(SettingsError) as caught:
        write_variables(pid, {name: SecretStr(value + CANARY)})
    assert CANARY not in str(caught.value)
    with pytest.raises(SettingsError, match="too large"):
        write_variables(pid, {"A": SecretStr("x" * 5_000_000)})


def test_a_process_without_variables() -> None:
    """Another process's descriptors are never taken for variables."""
    with pytest.raises(StateCorruptError):
        _ = read_variables(os.getpid())
    with pytest.raises(StateCorruptError):
        _ = read_variables(2**22 + 1)
