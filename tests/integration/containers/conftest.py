"""A real engine for containers, our images, and names that nobody else has."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ROOT: Final = Path(__file__).resolve().parents[3]
NAMES: Final = ("bandmaster", "bandmaster-wallet")
LONGEST: Final = 300
# Longer where every package has to be fetched.
BUILD_LONGEST: Final = 1200
OURS: Final = "bmt"
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
        """Return when a container finds itself well; fail when it ends before that."""
        # The engine keeps few past events: what was before them is in the container's state.
        with subprocess.Popen(
            ["timeout", str(LONGEST), "docker", "events", "--since", "1h",
             "--format", "{{.Action}}", "--filter", f"container={container}"],
            stdout=subprocess.PIPE, text=True,
        ) as events:  # fmt: skip
            assert events.stdout is not None
            now = self.run("inspect", "-f", "{{.State.Health.Status}}", container)
            seen = [f"health_status: {now}"]
            while seen[-1] not in {"health_status: healthy", "die", ""}:
                seen.append(cast("str", events.stdout.readline()).strip())
            events.kill()
        assert seen[-1] == "health_status: healthy", f"{seen} {self.try_('logs', container)}"

    def remove(self, mine: Callable[[str], bool]) -> None:
        """Remove what carries a name of somebody's; another run may do so at the same moment."""
        for listing, removal in (
            (("ps", "-a", "--format", "{{.Names}}"), ("rm", "-f", "-v")),
            (("network", "ls", "--format", "{{.Name}}"), ("network", "rm")),
            (("volume", "ls", "--format", "{{.Name}}"), ("volume", "rm", "-f")),
            (("image", "ls", "--format", "{{.Repository}}:{{.Tag}}"), ("image", "rm")),
        ):
            names = [name for name in self.run(*listing).split() if mine(name)]
            if names:
                _ = self.try_(*removal, *names)

    def sweep(self) -> None:
        """Remove what killed runs left behind."""
        self.remove(is_left_behind)


def is_left_behind(name: str) -> bool:
    """Tell whether a name is of a test run that has ended: it says whose process it was."""
    parts = name.split("-")
    return (
        len(parts) > 1
        and parts[0] == OURS
        and parts[1].isdecimal()
        and not Path(f"/proc/{parts[1]}").exists()
    )


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Give the engine, rid of what killed runs left behind; skips without one."""
    found = Engine()
    answer = found.try_("version") if shutil.which("docker") else None
    if answer is None or answer.returncode != 0:
        reason = "no engine for containers runs (scripts/dev-services)"
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail(f"{reason}: {answer.stderr if answer else 'there is no docker program'}")
        pytest.skip(reason)
    found.sweep()
    return found


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """Build our images, which does next to nothing when nothing changed; tell their ids."""
    # The script takes one builder at a time, so workers wait for the first of them.
    done = subprocess.run(
        [str(ROOT / "scripts" / "images"), "test"],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return {name: engine.run("inspect", "-f", "{{.Id}}", f"{name}:test") for name in NAMES}


@pytest.fixture
def hardened() -> tuple[str, ...]:
    """Tell the options with which containers are run."""
    return (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777",
        "--memory=256m",
        "--memory-swap=256m",
        "--pids-limit=64",
    )


@pytest.fixture
def prefix(engine: Engine) -> Generator[str]:
    """Give a name that begins those of all that a test makes; they are removed after it."""
    name = f"{OURS}-{os.getpid()}-{secrets.token_hex(3)}"
    yield name
    engine.remove(lambda each: each.startswith(name))
    assert name not in engine.run("ps", "-a", "--format", "{{.Names}}")
