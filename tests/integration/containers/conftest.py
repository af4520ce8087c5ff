"""A real engine for containers, our images, and what is removed after a test."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT: Final = Path(__file__).resolve().parents[3]
NAMES: Final = ("bandmaster", "bandmaster-wallet")
LONGEST: Final = 180
BUILD_LONGEST: Final = 580
Object = dict[str, object]


@final
class Engine:
    """The engine, asked by its own client."""

    def try_(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run the client, whatever comes of it."""
        return subprocess.run(
            ["docker", *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )

    def run(self, *words: str, text: str = "") -> str:
        """Run the client; it has to succeed."""
        done = self.try_(*words, text=text)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def inspect(self, name: str) -> Object:
        """Tell everything about a container, image or network."""
        return cast("list[Object]", json.loads(self.run("inspect", name)))[0]

    def wait_healthy(self, container: str) -> None:
        """Wait until a container finds itself well."""
        end = time.monotonic() + LONGEST
        while (state := self._health(container)) != "healthy":
            assert state == "starting", f"{state}: {self.try_('logs', container)}"
            assert time.monotonic() < end, f"{container} is not healthy in time"
            time.sleep(0.05)  # bounded; the engine tells nobody

    def _health(self, container: str) -> str:
        words = ("inspect", "-f", "{{.State.Running}} {{.State.Health.Status}}", container)
        running, _, health = self.run(*words).partition(" ")
        return health if running == "true" else "ended"


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Give the engine; skips without one."""
    found = Engine()
    try:
        is_there = found.try_("version").returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        is_there = False
    if not is_there:
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not started an engine for containers")
        pytest.skip("no engine for containers runs (scripts/dev-services)")
    return found


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """Build our images, which does next to nothing when nothing changed; tell their names."""
    del engine
    done = subprocess.run(
        [str(ROOT / "scripts" / "images"), "test"],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return {name: f"{name}:test" for name in NAMES}


@pytest.fixture
def hardened() -> tuple[str, ...]:
    """Tell the options with which containers are run."""
    return (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=16m",
        "--memory=256m",
        "--memory-swap=256m",
        "--pids-limit=64",
    )


@pytest.fixture
def prefix(engine: Engine) -> Generator[str]:
    """Give a name that begins those of all that a test makes; they are removed after it."""
    name = f"bmt-{os.getpid()}-{secrets.token_hex(3)}"
    yield name
    for each in engine.run("ps", "-aq", f"--filter=name=^{name}").split():
        _ = engine.try_("rm", "--force", "--volumes", each)
    for each in engine.run("network", "ls", "-q", f"--filter=name=^{name}").split():
        _ = engine.try_("network", "rm", each)
    for each in engine.run("images", "-q", f"{name}*").split():
        _ = engine.try_("rmi", "--force", each)
