"""Workloads on a real engine, with real programs."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - what is watched here is /proc and small files,
# and nothing else runs in this loop

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import RuntimeUnavailableError, WorkloadStartError
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit
from orchestrator.runtimes.base import FeedGap
from orchestrator.runtimes.identity import boot_id, is_alive, look_up
from orchestrator.runtimes.supervisord import SupervisordRuntime

if TYPE_CHECKING:
    from tests.integration.runtimes.conftest import Project

CANARY = f"canary-{secrets.token_hex(6)}"
SOON = timedelta(seconds=2)


async def until(check: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that another process does."""
    with anyio.fail_after(seconds):
        while not check():
            await anyio.sleep(0.005)


async def read_pids(path: Path) -> list[int]:
    """Wait for a program's list of pids."""
    await until(path.exists)
    return cast("list[int]", json.loads(path.read_text()))


async def test_seat_launch_server(running: "Project") -> None:
    """A started workload waits; launched, it is the server, under the same pid."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        status = (await running.runtime.observe())[spec.name]
        assert (status.state, status.waiting) == (EngineState.RUNNING, True)
        process = await running.runtime.launch(spec, {})
        assert process.pid == status.pid
        assert is_alive(process.pid, process.started, process.boot_id)
        assert process.boot_id == boot_id()
        assert sorted(path.name for path in Path(process.directory).iterdir()) == ["in", "out"]
        # A new object, as after a restart of the control plane, sees the same.
        status = (await SupervisordRuntime(running.files).observe())[spec.name]
        assert (status.pid, status.waiting) == (process.pid, False)


async def test_start_is_idempotent(running: "Project") -> None:
    """Starting what runs changes nothing; starting what was stopped behind our back starts it."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        await running.runtime.start(spec)
        status = (await running.runtime.observe())[spec.name]
        assert (status.pid, status.waiting) == (process.pid, False)
        _ = await running.runtime._rpc.call("supervisor.stopProcess", spec.name)
        assert (await running.runtime.observe())[spec.name].state is EngineState.STOPPED
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})


async def test_a_changed_program_is_replaced(running: "Project") -> None:
    """Starting with another grace has the engine take the workload up anew."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        await running.runtime.start(running.spec("program.py", "silent", grace=7))
        status = (await running.runtime.observe())[spec.name]
    assert status.pid != process.pid
    assert "stopwaitsecs=7" in (running.files.programs / f"{spec.name}.conf").read_text()


async def test_what_runs_is_not_launched_again(running: "Project") -> None:
    """Launching a workload that became its server already is an error at once."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        with pytest.raises(WorkloadStartError, match="runs already"):
            _ = await running.runtime.launch(spec, {})


async def test_a_missing_secret_stops_the_launch(running: "Project") -> None:
    """Without a value for every secret nothing is sent; the names are told."""
    spec = running.spec("program.py", "silent", secrets={"API_KEY": "env:API_KEY"})
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        with pytest.raises(WorkloadStartError, match="API_KEY"):
            _ = await running.runtime.launch(spec, {})
        assert (await running.runtime.observe())[spec.name].waiting


async def test_unknown_workload_is_not_launched(running: "Project") -> None:
    """A workload that was never started cannot be launched."""
    with anyio.fail_after(30), pytest.raises(WorkloadStartError, match="does not know"):
        _ = await running.runtime.launch(running.spec("program.py", "silent"), {})


async def test_failed_execution_is_the_error(running: "Project") -> None:
    """A program that is not there is told by its kernel reason, and the seat comes back."""
    spec = running.spec("program.py", "silent").model_copy(update={"argv": ("/nowhere/server",)})
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        async with aclosing(running.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            with pytest.raises(WorkloadStartError, match="No such file"):
                _ = await running.runtime.launch(spec, {})
            ended = await anext(feed)
        assert isinstance(ended, WorkloadExit)
        assert ended.code == 127
        await comes_back(running, spec.name, ended.pid)


async def comes_back(project: "Project", name: WorkloadName, old: int) -> None:
    """Wait until a new seat of a workload waits."""
    with anyio.fail_after(30):
        while True:
            status = (await project.runtime.observe())[name]
            if status.pid not in {0, old} and status.waiting:
                return
            await anyio.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGSEGV, -11), (signal.SIGTERM, -15)],
)
async def test_exit_is_told_exactly(running: "Project", number: int, code: int) -> None:
    """A death by signal is told with that signal, and a new seat waits."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        async with aclosing(running.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            os.kill(process.pid, number)
            ended = await anext(feed)
        assert isinstance(ended, WorkloadExit)
        assert ended == WorkloadExit(
            name=spec.name, pid=process.pid, code=code, peak_kb=ended.peak_kb
        )
        assert ended.peak_kb > 1000
        await comes_back(running, spec.name, process.pid)


async def test_exits_are_told_at_once(running: "Project") -> None:
    """Deaths are told when they happen, and not a second or two later in the engine's next turn."""
    spec = running.spec("program.py", "silent")
    waited = 0.0
    with anyio.fail_after(60):
        await running.runtime.start(spec)
        async with aclosing(running.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            # All of them together, as one may meet a busy moment of the machine.
            for _ in range(10):
                process = await running.runtime.launch(spec, {})
                killed = anyio.current_time()
                os.kill(process.pid, signal.SIGKILL)
                _ = await anext(feed)
                waited += anyio.current_time() - killed
    assert waited < 4


async def test_exit_code_is_told(running: "Project") -> None:
    """A server that ends by itself is told with its exit code, and quick ends are no delay."""
    spec = running.spec("program.py", "exit", "3")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        async with aclosing(running.runtime.exits()) as feed:
            _ = await anext(feed)
            pids: set[int] = set()
            for _ in range(5):  # the engine alone would wait 1, 2, 3, ... seconds in between
                process = await running.runtime.launch(spec, {})
                ended = await anext(feed)
                assert isinstance(ended, WorkloadExit)
                assert (ended.pid, ended.code) == (process.pid, 3)
                pids.add(ended.pid)
    assert len(pids) == 5


async def test_without_a_launch_nothing_runs(running: "Project") -> None:
    """After a crash the seat waits for as long as nobody launches: that is how backoff is held."""
    spec = running.spec("program.py", "exit", "1")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        await comes_back(running, spec.name, process.pid)
        seat = (await running.runtime.observe())[spec.name]
        with anyio.move_on_after(1.5):
            async with aclosing(running.runtime.exits()) as feed:
                assert isinstance(await anext(feed), FeedGap)
                pytest.fail(f"something ended: {await anext(feed)}")
        assert (await running.runtime.observe())[spec.name] == seat


async def test_stop_kills_what_ignores_it(running: "Project", alive: Callable[[int], bool]) -> None:
    """A server that ignores SIGTERM, and its children, are gone when stop returns."""
    family = running.root / "family.json"
    spec = running.spec("program.py", "family", str(family), grace=600)
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        pids = await read_pids(family)
        begun = anyio.current_time()
        await running.runtime.stop(spec.name, timedelta(seconds=0.5))
        assert 0.4 < anyio.current_time() - begun < 60
        assert await running.runtime.observe() == {}
        await running.runtime.stop(spec.name, SOON)  # it is stopped already
    await until(lambda: not any(alive(pid) for pid in pids))
    assert not running.files.seat(spec.name).exists()
    assert not running.files.fence(spec.name).exists()
    assert list(running.files.programs.iterdir()) == []


async def test_stop_of_a_polite_server_is_quick(running: "Project") -> None:
    """A server that ends at SIGTERM is not waited for any longer."""
    spec = running.spec("program.py", "silent", grace=600)
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        await running.runtime.stop(spec.name, timedelta(seconds=600))


async def test_signal_reaches_the_group(running: "Project", alive: Callable[[int], bool]) -> None:
    """A signal goes to the whole process group; to an unknown workload it goes nowhere."""
    family = running.root / "family.json"
    spec = running.spec("program.py", "family", str(family))
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        pids = await read_pids(family)
        await running.runtime.signal(spec.name, signal.SIGKILL)
        await running.runtime.signal(WorkloadName("nobody.test.g1"), signal.SIGKILL)
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_killed_server_leaves_no_grandchild(
    running: "Project", alive: Callable[[int], bool]
) -> None:
    """Children that ignore SIGTERM end with their server, killed by the engine's plugin."""
    family = running.root / "family.json"
    spec = running.spec("program.py", "family", str(family))
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        pids = await read_pids(family)
        assert pids[0] == process.pid
        os.kill(process.pid, signal.SIGKILL)
    await until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("how", ["stop", "kill", "crash"])
async def test_nothing_gets_away(
    running: "Project", alive: Callable[[int], bool], how: str
) -> None:
    """What forked twice and went into a session of its own ends with its server, and none else."""
    family, other = running.root / "family.json", running.root / "other.json"
    spec = running.spec("program.py", "escape", str(family))
    kept = running.spec("program.py", "escape", str(other), role="keeper")
    with anyio.fail_after(30):
        for each in (spec, kept):
            await running.runtime.start(each)
        process = await running.runtime.launch(spec, {})
        _ = await running.runtime.launch(kept, {})
        pids, others = await read_pids(family), await read_pids(other)
        assert all(map(alive, pids))
        match how:
            case "stop":
                await running.runtime.stop(spec.name, SOON)
                assert not any(map(alive, pids))
            case "kill":
                await running.runtime.signal(spec.name, signal.SIGKILL)
            case _:
                os.kill(process.pid, signal.SIGSEGV)
    await until(lambda: not any(map(alive, pids)))
    assert all(map(alive, others))


@pytest.mark.parametrize("how", ["seat", "sweep"])
async def test_nothing_gets_away_without_an_engine(
    running: "Project", alive: Callable[[int], bool], how: str
) -> None:
    """The same where the engine was killed: the next seat, or the sweep, ends all of it."""
    family = running.root / "family.json"
    spec = running.spec("program.py", "escape", str(family))
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        pids = await read_pids(family)
        engine = await running.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        while await running.engine.find() is not None:
            await anyio.sleep(0.01)
        assert all(map(alive, pids))
        if how == "sweep":
            (running.files.programs / f"{spec.name}.conf").unlink()
        _ = await running.engine.start(None, {})
        if how == "sweep":
            assert await running.runtime.sweep(()) == (spec.name,)
        # Killed, which takes a moment where the machine has other things to do.
        await until(lambda: not any(map(alive, pids)))


async def test_killed_engine_leaves_exactly_one_instance(
    running: "Project", alive: Callable[[int], bool], processes: Callable[[Path], list[int]]
) -> None:
    """The next engine's seat replaces the orphan and its children; nothing runs twice."""
    family = running.root / "family.json"
    spec = running.spec("program.py", "family-polite", str(family))
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        _ = await running.runtime.launch(spec, {})
        pids = await read_pids(family)
        engine = await running.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        while await running.engine.find() is not None:
            await anyio.sleep(0.01)
        assert all(alive(pid) for pid in pids)  # the server serves on meanwhile
        with pytest.raises(RuntimeUnavailableError):
            _ = await running.runtime.observe()
        family.unlink()
        _ = await running.engine.start(None, {})
        process = await running.runtime.launch(spec, {})
        again = await read_pids(family)
    assert again[0] == process.pid
    assert not any(alive(pid) for pid in pids)
    named = [pid for pid in processes(running.root) if str(family) in arguments(pid)]
    assert named == [process.pid]


def arguments(pid: int) -> str:
    """Read a process's arguments."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


async def test_sweep_ends_what_nobody_wants(
    running: "Project", alive: Callable[[int], bool]
) -> None:
    """Orphans of a killed engine that no seat will replace are ended by the sweep."""
    spec = running.spec("program.py", "silent")
    kept = running.spec("program.py", "silent", role="keeper")
    with anyio.fail_after(30):
        for each in (spec, kept):
            await running.runtime.start(each)
        orphan = await running.runtime.launch(spec, {})
        wanted = await running.runtime.launch(kept, {})
        assert await running.runtime.sweep(()) == ()
        engine = await running.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        for path in running.files.programs.iterdir():
            path.unlink()
        while await running.engine.find() is not None:
            await anyio.sleep(0.01)
        _ = await running.engine.start(None, {})
        assert await running.runtime.sweep({kept.name}) == (spec.name,)
        assert not alive(orphan.pid)
        assert alive(wanted.pid)
        assert await running.runtime.sweep(()) == (kept.name,)
        assert await running.runtime.sweep(()) == ()


async def test_impostor_gets_nothing(running: "Project") -> None:
    """A process of the same user that listens in the seat's place is sent no secret."""
    spec = running.spec("program.py", "silent", secrets={"API_KEY": "env:API_KEY"})
    code = (
        "import os, socket, sys, threading\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "os.unlink(sys.argv[1])\n"
        "s.bind(sys.argv[1]); s.listen(); print('there', flush=True)\n"
        "heard = open(sys.argv[2], 'ab', buffering=0)\n"
        "while True:\n"
        "  peer, _ = s.accept(); heard.write(peer.recv(9999)); peer.close()\n"
    )
    path, heard = running.files.seat(spec.name) / "seat.sock", running.root / "heard"
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        await until(path.exists)
        impostor = subprocess.Popen(
            (sys.executable, "-I", "-c", code, str(path), str(heard)), stdout=subprocess.PIPE
        )
        try:
            assert impostor.stdout is not None
            assert impostor.stdout.readline() == b"there\n"
            with pytest.raises(WorkloadStartError, match="not the engine's"):
                _ = await running.runtime.launch(spec, {SecretName("API_KEY"): SecretStr(CANARY)})
        finally:
            impostor.kill()
            _ = impostor.wait(30)
            if impostor.stdout is not None:
                impostor.stdout.close()
    assert heard.read_bytes() == b""


async def test_secret_is_in_the_server_only(running: "Project") -> None:
    """A secret is in its server's environment, and in no other process, file or log."""
    spec = running.spec("program.py", "silent", secrets={"API_KEY": "env:API_KEY"})
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {SecretName("API_KEY"): SecretStr(CANARY)})
        environ = Path(f"/proc/{process.pid}/environ")
        await until(lambda: CANARY.encode() in environ.read_bytes())
    assert [pid for pid, text in everywhere("environ") if CANARY in text] == [process.pid]
    assert [pid for pid, text in everywhere("cmdline") if CANARY in text] == []
    for path in running.root.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def everywhere(name: str) -> list[tuple[int, str]]:
    """Read one file of every process."""
    found: list[tuple[int, str]] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / name).read_bytes().decode(errors="replace")
            except OSError:
                continue
            found.append((int(entry.name), text))
    return found


async def test_feed_ends_with_the_engine(running: "Project") -> None:
    """When the engine dies the feed says so instead of going silent."""
    with anyio.fail_after(30):
        async with aclosing(running.runtime.exits()) as feed:
            assert isinstance(await anext(feed), FeedGap)
            engine = await running.engine.find()
            assert engine is not None
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(RuntimeUnavailableError):
                _ = await anext(feed)


async def test_many_exits_at_once(running: "Project") -> None:
    """When all workloads die in the same moment each is told once, and each seat comes back."""
    specs = [running.spec("program.py", "silent", role=f"role{number}") for number in range(12)]
    with anyio.fail_after(40):
        pids: dict[str, int] = {}
        for spec in specs:
            await running.runtime.start(spec)
        for spec in specs:
            pids[spec.name] = (await running.runtime.launch(spec, {})).pid
        async with aclosing(running.runtime.exits()) as feed:
            _ = await anext(feed)
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            told: dict[str, int] = {}
            while len(told) < len(specs):
                ended = await anext(feed)
                assert isinstance(ended, WorkloadExit)
                assert ended.name not in told
                told[ended.name] = ended.pid
        assert told == pids
        for spec in specs:
            _ = await running.runtime.launch(spec, {})


async def test_dead_socket_in_the_seat_is_no_seat(running: "Project") -> None:
    """A socket that nobody listens on is tried again until the seat is there, in bounded time."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        path = running.files.seat(spec.name) / "seat.sock"
        await until(path.exists)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with pytest.raises(WorkloadStartError, match="no seat of"):
            _ = await running.runtime.launch(spec, {})


async def test_terminated_engine_stops_all_side_by_side(
    running: "Project", alive: Callable[[int], bool]
) -> None:
    """An engine that is told to end does not wait for one stubborn workload after the other."""
    specs = [running.spec("program.py", "stubborn", role=f"r{n}", grace=3) for n in range(6)]
    with anyio.fail_after(30):
        for spec in specs:
            await running.runtime.start(spec)
        pids = [(await running.runtime.launch(spec, {})).pid for spec in specs]
        await until(lambda: all(map(ignores_the_end, pids)))
        engine = await running.engine.find()
        assert engine is not None
        begun = anyio.current_time()
        os.kill(engine, signal.SIGTERM)
        await until(lambda: not any(alive(pid) for pid in [*pids, engine]))
        assert anyio.current_time() - begun < 15  # one after the other, they would take 18


def ignores_the_end(pid: int) -> bool:
    """Tell whether a process ignores SIGTERM by now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = next(line.split()[1] for line in lines if line.startswith("SigIgn:"))
    return bool(int(ignored, 16) & 1 << (signal.SIGTERM - 1))


async def test_a_seat_that_fails_by_itself_is_slowed_down(running: "Project") -> None:
    """A seat that cannot wait is started again at once a few times, then every five seconds."""
    spec = running.spec("program.py", "silent")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        seat = running.files.seat(spec.name)
        seat.chmod(0o755)
        async with aclosing(running.runtime.exits()) as feed:
            _ = await anext(feed)
            status = (await running.runtime.observe())[spec.name]
            os.kill(status.pid, signal.SIGKILL)
            codes: list[int | None] = []
            with anyio.move_on_after(3):
                while True:
                    ended = await anext(feed)
                    assert isinstance(ended, WorkloadExit)
                    codes.append(ended.code)
        assert codes[0] == -9
        assert set(codes[1:]) == {78}
        assert len(codes) <= 12
        await running.runtime.stop(spec.name, SOON)


def test_identity_of_nothing() -> None:
    """No process is no process: not before this boot, not with another start time."""
    facts = look_up(os.getpid())
    assert facts is not None
    assert is_alive(os.getpid(), facts.started, boot_id())
    assert not is_alive(os.getpid(), facts.started + 1, boot_id())
    assert not is_alive(os.getpid(), facts.started, "another")
    assert look_up(2**22 + 1) is None
