"""A real engine with real programs, in a directory with a short path."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import final

import anyio
import pytest

from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Restart
from orchestrator.model.server import Probe, Stop
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.engine import Engine, EngineFiles
from orchestrator.runtimes.identity import look_up
from orchestrator.runtimes.supervisord import SupervisordRuntime

SERVERS = Path(__file__).parents[2] / "servers"
PYTHON = sys.executable


@pytest.fixture
def directory() -> Generator[Path]:
    """Make a directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@final
class Project:
    """An engine, its runtime and its workloads."""

    def __init__(self, root: Path) -> None:
        """Keep the places."""
        self.root = root
        self.files = EngineFiles(run=root / "run", logs=root / "logs")
        self.engine = Engine(self.files)
        self.runtime = SupervisordRuntime(self.files)

    def spec(
        self,
        *program: str,
        role: str = "reader",
        generation: int = 1,
        grace: float = 2.0,
        env: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
    ) -> WorkloadSpec:
        """Describe a workload that runs one of `tests/servers`."""
        script, *arguments = program
        return WorkloadSpec.model_validate(
            {
                "role": RoleName(role),
                "server": ServerName("test"),
                "generation": generation,
                "bands": ("read",),
                "mode": "agent",
                "argv": (PYTHON, "-I", "-S", str(SERVERS / script), *arguments),
                "directory": str(self.root),
                "env": {"PATH": os.defpath, **(env or {})},
                "secrets": secrets or {},
                "tools": {},
                "known": frozenset(),
                "cut": False,
                "era": "auto",
                "restart": Restart(),
                "probe": Probe(),
                "stop": Stop(grace=timedelta(seconds=grace)),
            }
        )


@pytest.fixture
async def project(directory: Path) -> AsyncGenerator[Project]:
    """Give a project without a running engine, and leave nothing running after it."""
    made = Project(directory)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(Exception):
                with anyio.fail_after(30):
                    await made.engine.shutdown(timedelta(seconds=1))
            for pid in left_over(directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def running(project: Project) -> Project:
    """Give a project whose engine runs, without a control plane."""
    with anyio.fail_after(30):
        _ = await project.engine.start(None, {})
    return project


def left_over(directory: Path) -> list[int]:
    """Find live processes that name a directory in their arguments."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture
def processes() -> Callable[[Path], list[int]]:
    """Give the function that finds live processes of a directory."""
    return left_over


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Give the function that tells whether a process still runs."""

    def check(pid: int) -> bool:
        facts = look_up(pid)
        return facts is not None and facts.state not in {"Z", "X"}

    return check


@pytest.fixture
def stdio(directory: Path) -> Generator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a function that starts a program of `tests/servers` on FIFOs in the directory."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: str, isolated: bool = True) -> subprocess.Popen[bytes]:
        for name in ("in", "out"):
            if not (directory / name).exists():
                os.mkfifo(directory / name, 0o600)
        inlet = os.open(directory / "in", os.O_RDWR)
        outlet = os.open(directory / "out", os.O_RDWR)
        flags = ("-I", "-S") if isolated else ("-I",)
        process = subprocess.Popen(
            [PYTHON, *flags, str(SERVERS / script), *arguments], stdin=inlet, stdout=outlet
        )
        os.close(inlet)
        os.close(outlet)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        _ = process.wait(30)
