"""Rotations of real processes on a real database, killed and gone on with."""

import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import rmtree
from typing import cast

import pytest

PROGRAM = Path(__file__).parents[2] / "servers" / "rotator.py"
POINTS = (
    "rotation.planned",
    "rotation.minting",
    "before mint",
    "after mint",
    "before put",
    "after put",
    "rotation.staged",
    "before ready",
    "after ready",
    "rotation.verified",
    "rotation.promoted",
    "promote",
    "before switch",
    "after switch",
    "rotation.switched",
    "drain",
    "rotation.drained",
    "rotation.revoke_requested",
    "before revoke",
    "after revoke",
    "before drop",
    "after drop",
    "rotation.done",
)
SECONDS = 60


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a short directory."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    rmtree(path)


def rotate(folder: Path, point: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    argv = [sys.executable, str(PROGRAM), str(folder), *([point] if point else [])]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS)


def check(folder: Path) -> None:
    """Look at what has to be there when a rotation is over: one credential, everywhere."""
    with closing(sqlite3.connect(folder / "state" / "agents.db")) as connection:
        query = "SELECT version FROM versions WHERE stage != 'gone'"
        ((current,),) = cast("list[tuple[str]]", connection.execute(query).fetchall())
        assert connection.execute("SELECT * FROM rotations WHERE is_open").fetchall() == []
    assert [path.name for path in (folder / "issuer").iterdir()] == [current]
    kept = [path.name for path in (folder / "vault").iterdir() if path.name[0] != "."]
    assert kept == [current]
    assert (folder / "serving").read_text() == current
    text = (folder / "issuer" / current).read_bytes()
    for path in (folder / "state").iterdir():
        assert text not in path.read_bytes()


def test_killed_at_each_point(folder: Path) -> None:
    """One rotation is killed at every named point, one after the other, and comes to its end."""
    assert rotate(folder).stdout.splitlines()[-1].startswith("done")
    check(folder)
    for point in POINTS:
        killed = rotate(folder, point)
        assert killed.returncode == -9, (point, killed.stdout, killed.stderr)
    check(folder)


def test_killed_at_random(folder: Path) -> None:
    """Killed again and again at any moment, in the end there is one live credential."""
    chance = random.Random(7)  # noqa: S311  the same moments each time
    assert rotate(folder).returncode == 0
    for _ in range(12):
        argv = [sys.executable, str(PROGRAM), str(folder)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # From its first word on: before that, nothing is done.
            assert process.stdout.readline()
            time.sleep(chance.uniform(0, 0.15))
            process.kill()
    done = rotate(folder)
    assert done.returncode == 0, done.stderr
    check(folder)


def test_two_at_once(folder: Path) -> None:
    """A second process takes the database over; the first one stops, and changes nothing more."""
    assert rotate(folder).returncode == 0
    argv = [sys.executable, str(PROGRAM), str(folder)]
    both = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    give_up = time.monotonic() + SECONDS
    while all(process.poll() is None for process in both) and time.monotonic() < give_up:
        time.sleep(0.05)
    for process in both:
        process.kill()
        _ = process.communicate()
    done = rotate(folder)
    assert done.returncode == 0, done.stderr
    check(folder)
