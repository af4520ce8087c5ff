"""Engines for containers of the tests' own, which may be stopped, killed and filled up."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, final

import pytest

LONGEST: Final = 60
OURS: Final = "bmt-engine"
CGROUPS: Final = Path("/sys/fs/cgroup")
BALLAST: Final = 16 * 2**20


@final
class OwnEngine:
    """An engine whose files are in memory; its containers have no network."""

    def __init__(self, place: Path, size: str, options: tuple[str, ...]) -> None:
        """Make its place.

        Args:
            place: A directory for its socket and its files.
            size: How much fits into it.
            options: More words for dockerd.
        """
        self.place = place
        self.socket = place / "sock"
        # Names its cgroup: with it what a killed engine left is found.
        self.name = f"{OURS}-{os.getpid()}-{secrets.token_hex(3)}"
        self._options = options
        self._running: subprocess.Popen[bytes] | None = None
        words = ["mount", "-t", "tmpfs", "-o", f"mode=0755,size={size}", OURS, str(place)]
        _ = subprocess.run(words, check=True)

    def start(self) -> None:
        """Start it, and return when it answers."""
        log = self.place.with_suffix(".log")
        with log.open("ab") as output:
            self._running = running = subprocess.Popen(
                [
                    # An engine without a bridge removes the bridge of the one that has one.
                    "unshare", "--net",
                    "dockerd", f"--host=unix://{self.socket}", f"--data-root={self.place / 'data'}",
                    f"--exec-root={self.place / 'exec'}", f"--pidfile={self.place / 'pid'}",
                    f"--cgroup-parent=/{self.name}", "--bridge=none", "--iptables=false",
                    "--ip6tables=false", "--ip-forward=false", *self._options,
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + LONGEST
        while self.ask("version", check=False).returncode:
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a program that another one started says nothing when it is ready

    def end(self, number: int) -> None:
        """End it by a signal, and return when it is gone."""
        assert self._running is not None
        self._running.send_signal(number)
        _ = self._running.wait(LONGEST)

    def ask(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Ask it by the engine's own client."""
        return subprocess.run(
            ["docker", f"--host=unix://{self.socket}", *words],
            check=check, capture_output=True, text=True, timeout=LONGEST,
        )  # fmt: skip

    def load(self, image: str) -> None:
        """Give it an image of the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            _ = subprocess.run(
                ["docker", f"--host=unix://{self.socket}", "load"],
                stdin=saved.stdout, check=True, capture_output=True, timeout=LONGEST,
            )  # fmt: skip

    def containers(self) -> list[str]:
        """Tell the ids of all containers, whether they run or not."""
        return self.ask("ps", "-aq", "--no-trunc").stdout.split()

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.place / "ballast").open("wb") as ballast:
            for size in (BALLAST, 4096, 1):
                with suppress(OSError):
                    while True:
                        _ = os.write(ballast.fileno(), bytes(size))

    def empty(self) -> None:
        """Make room again."""
        (self.place / "ballast").unlink()

    def remove(self) -> None:
        """End it with all that it started, and remove what it left."""
        if self._running is not None and self._running.poll() is None:
            self.end(signal.SIGKILL)
        self._kill()
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        mine = [each for each in points if each == str(self.place) or f"{self.place}/" in each]
        for each in reversed(mine):
            _ = subprocess.run(["umount", "-l", each], check=False)
        for path in sorted(CGROUPS.glob(f"**/{self.name}/**/"), reverse=True):
            _rmdir(path)

    def _kill(self) -> None:
        """Kill its containers, and its helpers that outlived it."""
        left = True
        deadline = time.monotonic() + LONGEST
        while left:
            assert time.monotonic() < deadline, "it does not end"
            left = False
            for entry in Path("/proc").iterdir():
                with suppress(OSError, ValueError):
                    command = (entry / "cmdline").read_text(errors="replace")
                    groups = (entry / "cgroup").read_text()
                    if f"/{self.name}" in groups or f"{self.place}/" in command:
                        os.kill(int(entry.name), signal.SIGKILL)
                        left = True


def _rmdir(path: Path) -> None:
    """Remove a cgroup as soon as the kernel lets go of it."""
    for _ in range(100):
        try:
            return path.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.05)
    return None


RunEngine = Callable[..., AbstractContextManager[OwnEngine]]


@contextmanager
def _run_engine(*options: str, size: str = "1g") -> Generator[OwnEngine]:
    place = Path(tempfile.mkdtemp(prefix="bm-", dir="/var/tmp"))
    engine = OwnEngine(place, size, options)
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()
        shutil.rmtree(place, ignore_errors=True)
        place.with_suffix(".log").unlink(missing_ok=True)


@pytest.fixture
def run_engine(box: str) -> RunEngine:
    """Run an engine that a test may do anything to; skips without root or the engine's program."""
    assert box  # there is an engine, and an image to take from it
    for reason, met in (
        ("only root runs an engine of its own", os.geteuid() == 0),
        ("there is no dockerd (scripts/dev-services)", shutil.which("dockerd") is not None),
    ):
        if not met:
            if os.environ.get("BANDMASTER_TEST_ALL"):
                pytest.fail(reason)
            pytest.skip(reason)
    return _run_engine
