"""Crashes leave no core file: real ones, where the shell allows core files of any size."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
CANARY: Final = "canary-of-a-core-5f1e9d"
ROLE: Final = """\
role: ann
server: scripted
bands: full
justification: A test of core files.
owner: tests
secrets: {KEY: "env:KEY", TOLD: {command: ["{project}/tell"]}}
"""
SERVER: Final = """\
server: scripted
description: A server that does as it is told.
owner: tests
source: tests/servers
launch:
  command: ["{python}", -I, -S, "{project}/scripted.py"]
  accepts: {KEY: A secret., TOLD: Another one.}
bands: {names: [read]}
tools: {echo: {band: read, class: READ}}
era: legacy
"""
# A program that tells a secret, and crashes or hangs with it if a file says so.
TELL: Final = f"""\
#!{sys.executable} -IS
import os, signal, sys, time
value = "".join(["{CANARY[:9]}", "{CANARY[9:]}"])
if os.path.exists("crash"):
    os.kill(os.getpid(), signal.SIGSEGV)
if os.path.exists("hang"):
    with open("hang", "w") as file:
        print(os.getpid(), file=file)
    time.sleep(60)
print(value)
"""


@pytest.fixture(autouse=True)
def cores_are_allowed() -> Generator[None]:
    """Allow core files of any size, as a developer's shell may; skip where the machine does not."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine writes no core files")
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.fixture
def crashing(bare: Project) -> Project:
    """Make a project whose role has two secrets."""
    _ = bare.write("scripted.py", (SERVERS / "scripted.py").read_text())
    _ = bare.write("roles/servers/scripted.yaml", SERVER)
    _ = bare.write("roles/ann.yaml", ROLE)
    bare.write("tell", TELL).chmod(0o700)
    bare.env["KEY"] = CANARY
    return bare


def cores(place: Path) -> list[Path]:
    """Tell the core files below a place, whatever the machine calls them."""
    return [
        path
        for path in place.rglob("*core*")
        if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"
    ]


def crash(process: subprocess.Popen[bytes]) -> bool:
    """Crash a child of ours; tells whether the kernel dumped it, wherever that went."""
    process.send_signal(signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    process.returncode = -signal.SIGSEGV
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    return os.WCOREDUMP(status)


def start(project: Project, *words: str) -> subprocess.Popen[bytes]:
    """Start `agents` in a project, to be crashed."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        [AGENTS, *words],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
    )


def test_the_hunt_finds() -> None:
    """A program that takes no care is dumped: without that the other tests would show nothing."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as place:
        process = subprocess.Popen(
            [sys.executable, "-ISc", "import time; print(flush=True); time.sleep(60)"],
            cwd=place,
            env={"KEY": CANARY},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        was_dumped = crash(process)
        if not was_dumped:
            pytest.skip("this machine writes no core files")
        # Where else they go is the machine's own affair: the kernel's word is enough.
        found = cores(Path(place))
        assert not found or CANARY.encode() in found[0].read_bytes()


def test_what_runs(crashing: Project) -> None:
    """Server, daemon and engine crash with secrets in them, and leave no core file."""
    _ = crashing.agents("up", "-d")
    pids = {"server": crashing.pid("ann"), "daemon": crashing.daemon_pid()}
    pids["engine"] = crashing.engine_pid()
    assert CANARY in Path(f"/proc/{pids['server']}/environ").read_text()
    places = {Path(f"/proc/{pid}/cwd").resolve() for pid in pids.values()} | {crashing.root}
    for pid in pids.values():
        ends = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSEGV)
        assert select.select([ends], [], [], 30)[0]
        os.close(ends)
    assert not [core for place in places for core in cores(place)]


def test_programs_that_tell_secrets(crashing: Project) -> None:
    """A program that a command runs crashes, and leaves no core file in the project."""
    _ = crashing.write("crash", "")
    told = crashing.agents("secrets", "check", check=3)
    assert "was ended by signal 11" in told.stderr
    _ = crashing.agents("up", "-d", check=3)
    assert not cores(crashing.root)


def unread(descriptor: int) -> int:
    """Tell how many bytes in a pipe nobody has read yet."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def test_commands_that_know_secrets(crashing: Project) -> None:
    """`secrets check` and `rotate provide` crash with a value in memory, and are not dumped."""
    hang = crashing.write("hang", "")
    process = start(crashing, "secrets", "check")
    crashing.wait(lambda: bool(hang.read_text()))
    assert not crash(process)
    os.kill(int(hang.read_text()), signal.SIGKILL)
    process = start(crashing, "rotate", "provide", "0123456789ab")
    assert process.stdin is not None
    pipe = process.stdin.fileno()
    _ = os.write(pipe, CANARY.encode())
    crashing.wait(lambda: unread(pipe) == 0)
    assert not crash(process)
    assert not cores(crashing.root)
