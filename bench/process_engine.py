"""Measures the process engine: start, respawn after SIGKILL, launch, channel.

Run: `python bench/process_engine.py [ROUNDS]`; needs nothing but the project's own environment.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio

from orchestrator.model.role import Restart
from orchestrator.model.server import Probe, Stop
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.engine import Engine, EngineFiles
from orchestrator.runtimes.supervisord import SupervisordRuntime

PROGRAM = Path(__file__).parents[1] / "tests" / "servers" / "program.py"

WORKLOADS = 20


def show(what: str, seconds: Sequence[float]) -> None:
    """Print median, 99th percentile and worst, in milliseconds."""
    ordered = sorted(value * 1000 for value in seconds)
    last = len(ordered) - 1
    p50, p99 = ordered[last // 2], ordered[round(last * 0.99)]
    print(f"{what:44} p50 {p50:7.2f}  p99 {p99:7.2f}  max {ordered[-1]:7.2f} ms  n={len(ordered)}")


def a_spec(root: Path, *program: str, role: str = "bench") -> WorkloadSpec:
    """Describe a workload."""
    return WorkloadSpec.model_validate(
        {
            "role": role,
            "server": "test",
            "bands": ("read",),
            "mode": "agent",
            "argv": program,
            "directory": str(root),
            "env": {"PATH": os.defpath},
            "secrets": {},
            "tools": {},
            "known": frozenset(),
            "cut": False,
            "era": "auto",
            "restart": Restart(),
            "probe": Probe(),
            "stop": Stop(grace=timedelta(seconds=2)),
        }
    )


async def starts(root: Path, rounds: int) -> None:
    """Start and end engines."""
    up: list[float] = []
    down: list[float] = []
    for number in range(rounds):
        place = root / f"e{number}"
        engine = Engine(EngineFiles(run=place / "run", logs=place / "logs"))
        begun = time.perf_counter()
        _ = await engine.start(None, {})
        up.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await engine.shutdown(timedelta(seconds=2))
        down.append(time.perf_counter() - begun)
    show("engine: cold start until getState answers", up)
    show("engine: shutdown, nothing running", down)


@dataclass
class Times:
    """What was measured, in seconds."""

    told: list[float] = field(default_factory=list)
    seated: list[float] = field(default_factory=list)
    launched: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


async def respawns(root: Path, rounds: int) -> None:
    """Kill servers in turn, each older than a second, and look for exit, next seat and launch."""
    files = EngineFiles(run=root / "run", logs=root / "logs")
    engine, runtime = Engine(files), SupervisordRuntime(files)
    _ = await engine.start(None, {})
    specs = [
        a_spec(root, "/bin/sleep", "600", role=f"bench{number}") for number in range(WORKLOADS)
    ]
    times = Times()
    pids: dict[str, int] = {}
    try:
        for spec in specs:
            await runtime.start(spec)
            pids[spec.name] = (await runtime.launch(spec, {})).pid
        async with aclosing(runtime.exits()) as feed:
            _ = await anext(feed)
            for number in range(rounds):
                if number % WORKLOADS == 0:
                    await anyio.sleep(
                        1.2
                    )  # until all of them are older than the engine's startsecs
                spec = specs[number % WORKLOADS]
                socket = files.seat(spec.name) / "seat.sock"
                begun = time.perf_counter()
                os.kill(pids[spec.name], signal.SIGKILL)
                _ = await anext(feed)
                times.told.append(time.perf_counter() - begun)
                if number % 2:
                    pids[spec.name] = (await runtime.launch(spec, {})).pid
                    times.whole.append(time.perf_counter() - begun)
                    continue
                while not socket.exists():  # noqa: ASYNC110 - another process makes it
                    await anyio.sleep(0.0005)
                times.seated.append(time.perf_counter() - begun)
                await anyio.sleep(0.03)  # until the seat has imported what the launch needs
                begun = time.perf_counter()
                pids[spec.name] = (await runtime.launch(spec, {})).pid
                times.launched.append(time.perf_counter() - begun)
    finally:
        await engine.shutdown(timedelta(seconds=2))
    show("SIGKILL until the exit is told", times.told)
    show("SIGKILL until the next seat is there", times.seated)
    show("launch of a waiting seat, until its execve", times.launched)
    show("SIGKILL until the next server's execve", times.whole)


async def channel(root: Path) -> None:
    """Send one long line and many short ones through an echo."""
    files = EngineFiles(run=root / "run", logs=root / "logs")
    engine, runtime = Engine(files), SupervisordRuntime(files)
    _ = await engine.start(None, {})
    try:
        spec = a_spec(root, "/bin/cat")
        await runtime.start(spec)
        process = await runtime.launch(spec, {})
        with Channel(process.directory) as pipe:
            line = b"x" * 20 * 1024 * 1024
            begun = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                _ = tasks.start_soon(pipe.send, line)
                _ = await pipe.receive()
            took = time.perf_counter() - begun
            print(f"{'channel: a line of 20 MiB there and back':44} {took * 1000:.1f} ms")
            begun = time.perf_counter()
            for _ in range(10_000):
                await pipe.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
                _ = await pipe.receive()
            took = time.perf_counter() - begun
            print(f"{'channel: a short line there and back':44} {took * 100:.1f} us each")
    finally:
        await engine.shutdown(timedelta(seconds=2))


async def main(rounds: int) -> None:
    """Run all."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        await starts(root, max(5, rounds // 10))
        await respawns(root, rounds)
        await channel(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 200)
