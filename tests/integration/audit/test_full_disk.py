"""A disk that really is full: a small one of memory, in a mount namespace of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

SCRIPT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
BEGIN = """
import asyncio, json, os, sys
from pathlib import Path
from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.clock import SystemClock
from orchestrator.errors import RecordUnavailableError, StateUnwritableError
from orchestrator.journal import Journal

home = Path(sys.argv[1])
told = {}

def fill():
    with (home / "filler").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass

def refused(work, *arguments):
    try:
        work(*arguments)
    except (RecordUnavailableError, StateUnwritableError) as error:
        return error.code
    return "done"

def line(event, number):
    # Not to be refused as too much alike.
    return CallRecord(event, f"r{number}", "treasury", "alice", status=200)
"""
JOURNAL = (
    BEGIN
    + """
journal = Journal(home / "j")
journal.append(b"a" * 4000)
fill()
told["line"] = refused(journal.append, b"b" * 40_000)
told["size"] = (home / "j" / "00000001.jsonl").stat().st_size
(home / "filler").unlink()
told["later"] = refused(journal.append, b"c")
told["lines"] = [line.decode()[:1] for line in journal.load()]
print(json.dumps(told))
"""
)
AUDIT = (
    BEGIN
    + """
async def main():
    log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "1")
    log.admit()
    fill()
    # Its page has room for some lines more.
    number = 0
    while refused(log.intend, line("intent", number)) == "done":
        number += 1
    told["admitted"] = refused(log.admit)
    told["intent"] = refused(log.intend, line("intent", "x"))
    told["outcomes"] = sum(refused(log.record, line("outcome", n)) == "done" for n in range(2000))
    told["then admitted"] = [refused(log.admit) for _ in range(3)]
    told["then intent"] = refused(log.intend, line("intent", "y"))
    (home / "filler").unlink()
    told["freed"] = [refused(log.admit), refused(log.record, line("outcome", "last"))]
    await log.intend(line("intent", "last"))
    log.close()
    lines = [json.loads(line) for line in (home / "audit" / "00000001.jsonl").open()]
    told["numbers"] = [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    told["gap"] = [line["count"] for line in lines if line["event"] == "gap"]
    told["written"] = len([line for line in lines if line["event"] == "outcome"])

asyncio.run(main())
print(json.dumps(told))
"""
)
FROM_THE_START = (
    BEGIN
    + """
(home / "audit").mkdir(mode=0o700)
fill()
log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "1")
told["full"] = [refused(log.admit), refused(log.record, line("outcome", 1))]
(home / "filler").unlink()
told["freed"] = [refused(log.admit), refused(log.record, line("outcome", 2))]
log.close()
lines = [json.loads(line) for line in (home / "audit" / "00000001.jsonl").open()]
told["events"] = [line["event"] for line in lines]
print(json.dumps(told))
"""
)


def run(home: Path, size: str, program: str) -> dict[str, object]:
    """Run a program with the directory on a disk of this size."""
    place = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*place, "true"], check=False).returncode:
        pytest.skip("no mount namespace for this user")
    done = subprocess.run(
        [
            *place,
            "sh",
            "-c",
            SCRIPT,
            "sh",
            size,
            str(home),
            sys.executable,
            "-c",
            program,
            str(home),
        ],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return cast("dict[str, object]", json.loads(done.stdout))


def test_a_line_without_room_leaves_nothing(home: Path) -> None:
    """What was written of it is cut off again; the journal goes on when there is room."""
    told = run(home, "256k", JOURNAL)
    assert told == {"line": "state.unwritable", "size": 4001, "later": "done", "lines": ["a", "c"]}


def test_what_was_let_in_is_recorded_to_its_end(home: Path) -> None:
    """On a full disk nothing new is let in, calls under way find room, and it ends by itself."""
    told = run(home, "4m", AUDIT)
    assert told == {
        "admitted": "done",
        "intent": "audit.unavailable",
        "outcomes": 2000,
        "then admitted": ["audit.unavailable"] * 3,
        "then intent": "audit.unavailable",
        "freed": ["done", "done"],
        "numbers": True,
        "gap": [3],
        "written": 2001,
    }


def test_a_disk_that_is_full_from_the_start(home: Path) -> None:
    """The record opens as soon as there is room, and tells how many requests it missed."""
    assert run(home, "4m", FROM_THE_START) == {
        "full": ["audit.unavailable", "audit.unavailable"],
        "freed": ["done", "done"],
        "events": ["start", "checkpoint", "gap", "outcome", "stop", "checkpoint"],
    }
