"""A process that is killed while it writes loses nothing that it was told to be on disk."""

import random
import subprocess
import sys
from pathlib import Path
from typing import IO, cast

from orchestrator.audit.keys import load_signer
from orchestrator.audit.verify import Report, verify
from orchestrator.journal import Journal, segments

PROGRAM = """
import asyncio, os, random, sys
from pathlib import Path
from orchestrator.journal import Journal

async def write(journal, numbers):
    for number in numbers:
        length = random.choice((10, 500, 5_000, 100_000, 1_000_000))
        journal.append(b"%d " % number + b"x" * length)
        await journal.durable()
        os.write(1, b"%d\\n" % number)

async def main():
    journal = Journal(Path(sys.argv[1]), segment_bytes=4_000_000)
    numbers = iter(range(len(journal.load()) + 1, 10**9))
    await asyncio.gather(*(write(journal, numbers) for _ in range(4)))

asyncio.run(main())
"""
KILLS = 8


def test_a_killed_writer_loses_no_durable_line(home: Path) -> None:
    """After each of many kills the journal opens, without a hole, up to the last durable line."""
    chance = random.Random(4711)  # noqa: S311 - when to kill is no secret
    durable, torn = 0, 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home / "j")], stdout=subprocess.PIPE
        )
        told = cast("IO[bytes]", process.stdout)
        for _ in range(chance.randrange(1, 60)):
            durable = max(durable, int(told.readline()))
        process.kill()
        # What it told before it died counts, too.
        durable = max(durable, *map(int, told.read().split()), 0)
        told.close()
        _ = process.wait(30)

        journal = Journal(home / "j")
        torn += journal.torn_bytes
        found = [int(line.split()[0]) for line in journal.load()]
        journal.close()
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= durable
    aside = sum(path.stat().st_size for path in (home / "j").glob("*.torn"))
    assert aside >= torn
    assert len(segments(home / "j")) > 1


RECORD = """
import asyncio, os, sys
from pathlib import Path
from orchestrator.audit import writer
from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.clock import SystemClock

writer.CHECKPOINT_LINES, writer.SEGMENT_BYTES = 7, 20_000

async def main():
    home = Path(sys.argv[1])
    log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "1")
    keeping = asyncio.create_task(log.keep())
    for number in range(10**9):
        log.record(CallRecord("outcome", f"r{number}", "treasury", "alice", status=200))
        if number % 5 == 0:
            await log.intend(CallRecord("intent", f"r{number}", "treasury", "alice"))
            os.write(1, b"%d\\n" % number)

asyncio.run(main())
"""


def test_a_record_whose_writer_is_killed_is_no_changed_one(home: Path) -> None:
    """After each of many kills it verifies, and so does what the next run adds."""
    chance = random.Random(4712)  # noqa: S311 - when to kill is no secret
    report = Report()
    for turn in range(1, KILLS + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", RECORD, str(home)], stdout=subprocess.PIPE
        )
        told = cast("IO[bytes]", process.stdout)
        for _ in range(chance.randrange(1, 120)):
            _ = told.readline()
        process.kill()
        told.close()
        _ = process.wait(30)
        public = load_signer(home / "audit.key").public
        report = verify(home / "audit", {public.id: public})
        assert report.faults == []
        assert report.signed >= turn
    assert report.files > 1
