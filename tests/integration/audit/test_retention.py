"""Old files go, and a signed line says so before."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from orchestrator.audit.keys import load_signer
from orchestrator.audit.log import AuditLog
from orchestrator.audit.reader import parse
from orchestrator.audit.record import CallRecord
from orchestrator.audit.retire import find_old, remove
from orchestrator.audit.verify import Report, verify
from orchestrator.journal import segments
from orchestrator.model.audit import Audit
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


class DayClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Stand still."""
        self.moment = NOON

    def now(self) -> datetime:
        """Tell the wall time."""
        return self.moment

    def monotonic(self) -> float:
        """Tell seconds that only grow."""
        return self.moment.timestamp()


def look(home: Path) -> Report:
    """Verify the record."""
    public = load_signer(home / "audit.key").public
    return verify(home / "audit", {public.id: public})


def lines(home: Path) -> list[JsonObject]:
    """Read all lines."""
    whole = b"".join(path.read_bytes() for path in segments(home / "audit")).splitlines()
    return [told for line in whole if (told := parse(line)) is not None]


def open_log(home: Path, clock: DayClock, keep: timedelta | None) -> AuditLog:
    """Open a record that is kept for so long."""
    rule = Audit(keep=keep)
    return AuditLog(home / "audit", home / "audit.key", clock, "1", lambda: rule)


def write_days(home: Path, days: int) -> DayClock:
    """Write a record of some days, a file each."""
    clock = DayClock()
    log = open_log(home, clock, None)
    for day in range(days):
        clock.moment = NOON + timedelta(days=day)
        log.record(CallRecord("outcome", f"r{day}", RoleName("treasury"), status=200))
    log.close()
    return clock


async def keep(log: AuditLog, home: Path, files: int) -> None:
    """Let the record look after itself until there are so few files."""
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(log.keep)
            while len(segments(home / "audit")) > files:  # noqa: ASYNC110 - files
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()


async def test_old_files_are_removed_behind_a_tombstone(home: Path) -> None:
    """What is older than it has to be kept goes, and the rest verifies from there on."""
    clock = write_days(home, 5)
    log = open_log(home, clock, timedelta(days=1, hours=12))
    await keep(log, home, 3)
    log.close()
    after = lines(home)
    report = look(home)
    assert report.count == 0
    assert (report.first, report.removed) == (after[0]["seq"], report.first - 1)
    stones = [line for line in after if line["event"] == "tombstone"]
    assert [stones[0]["first"], stones[-1]["last"]] == [1, report.removed]
    assert len(stones) == 2
    assert all(line["request"] in {"r2", "r3", "r4"} for line in after if "request" in line)


async def test_without_a_rule_nothing_is_removed(home: Path) -> None:
    """Files stay for ever, whatever their age."""
    clock = write_days(home, 3)
    clock.moment += timedelta(days=5000)
    log = open_log(home, clock, None)
    assert log._writer is not None
    await log._retire(log._writer)
    log.close()
    assert len(segments(home / "audit")) == 4
    assert look(home).count == 0


async def test_removal_that_was_cut_off_is_no_fault(home: Path) -> None:
    """A machine that dies between tombstone and removal leaves a record that verifies."""
    clock = write_days(home, 5)
    log = open_log(home, clock, None)
    old = find_old(home / "audit", "2027-01-18")
    assert [one.path.name for one in old] == ["00000001.jsonl", "00000002.jsonl"]
    assert log._writer is not None
    for one in old:
        log._writer.write(one.tombstone("age"), is_signed=True)
    log.close()
    assert look(home).count == 0
    remove(old[:1])
    assert look(home).count == 0
    remove(old)  # once more
    assert look(home).count == 0


async def test_a_beginning_without_its_tombstone_is_a_fault(home: Path) -> None:
    """Whoever removes a file without a signed line is found out, also beside one that has it."""
    clock = write_days(home, 5)
    log = open_log(home, clock, timedelta(days=2, hours=12))
    await keep(log, home, 4)
    log.close()
    assert look(home).count == 0
    segments(home / "audit")[0].unlink()
    (fault,) = look(home).faults
    assert "what was before it is missing" in fault.what


@pytest.mark.parametrize("spoilt", [b"rubbish\n", b'{"seq":"x","time":7}\n'])
def test_a_file_that_cannot_be_read_stays(home: Path, spoilt: bytes) -> None:
    """And with it all behind it, as somebody may want to look at it."""
    _ = write_days(home, 3)
    with segments(home / "audit")[0].open("ab") as file:
        _ = file.write(spoilt)
    assert find_old(home / "audit", "2099") == []
