"""What the control plane tells the record."""

import threading
from pathlib import Path

import anyio
import pytest

from orchestrator.audit.chronicle import LONGEST_TEXT, MOST_WAITING, Chronicle
from orchestrator.audit.log import AuditLog
from orchestrator.audit.reader import parse
from orchestrator.clock import SystemClock
from orchestrator.errors import RecordUnavailableError
from orchestrator.journal import segments
from orchestrator.model.base import JsonObject


def open_log(home: Path) -> AuditLog:
    """Open the record."""
    return AuditLog(home / "audit", home / "audit.key", SystemClock(), "1")


def read(home: Path, *events: str) -> list[JsonObject]:
    """Read the lines of some events."""
    lines = b"".join(path.read_bytes() for path in segments(home / "audit")).splitlines()
    told = [parse(line) for line in lines]
    return [line for line in told if line is not None and line["event"] in events]


async def test_what_is_told_is_on_disk(home: Path) -> None:
    """A decision has its line when `tell` returns, with all its fields."""
    chronicle, log = Chronicle(SystemClock()), open_log(home)
    chronicle.open(log)
    await chronicle.tell("approval.approved", {"approval": "a1", "by": "alice", "count": 2})
    (line,) = read(home, "approval.approved")
    assert (line["approval"], line["by"], line["count"]) == ("a1", "alice", 2)
    assert "at" not in line
    assert log._writer is not None
    assert log._writer.journal._durable == log._writer.journal._appended
    log.close()


async def test_a_decision_waits_for_the_record(home: Path) -> None:
    """Whoever decides before the record is open waits; what was mentioned comes first."""
    chronicle = Chronicle(SystemClock())
    chronicle.mention("instance.launched", {"role": "treasury", "pid": 7})
    done = anyio.Event()

    async def decide() -> None:
        await chronicle.tell("freeze", {"by": "alice"})
        done.set()

    log = open_log(home)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(decide)
            await anyio.lowlevel.checkpoint()
            assert not done.is_set()
            chronicle.open(log)
            await done.wait()
    log.close()
    first, second = read(home, "instance.launched", "freeze")
    assert first["event"] == "instance.launched"
    # It happened before the record could tell.
    assert str(first["at"]) <= str(first["time"])
    assert "at" not in second


async def test_other_threads_may_mention(home: Path) -> None:
    """What a thread mentions is written by the record's own loop, each once."""
    chronicle, log = Chronicle(SystemClock()), open_log(home)
    chronicle.open(log)

    def work() -> None:
        for number in range(50):
            chronicle.mention("token.issued", {"token": f"t{number}"})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    with anyio.fail_after(30):
        while len(read(home, "token.issued")) < 200:  # noqa: ASYNC110 - a file
            await anyio.sleep(0.01)
    log.close()
    assert len(read(home, "token.issued")) == 200


async def test_no_secret_and_no_novel(home: Path) -> None:
    """Texts are cut, and one that looks like a secret is not kept."""
    chronicle, log = Chronicle(SystemClock()), open_log(home)
    chronicle.open(log)
    key = "sk-live-0123456789abcdef0123"
    await chronicle.tell("note", {"reason": "x" * 10_000, "by": key, "wish": "\x1b[2J\n"})
    log.close()
    (line,) = read(home, "note")
    assert len(str(line["reason"])) == LONGEST_TEXT
    assert line["by"] == "?"
    assert line["wish"] == "\x1b[2J\n"  # JSON escapes it; commands do not print it
    assert key.encode() not in segments(home / "audit")[0].read_bytes()


async def test_the_record_names_its_own_fields(home: Path) -> None:
    """Nobody can give a line another number, time or signature."""
    chronicle, log = Chronicle(SystemClock()), open_log(home)
    chronicle.open(log)
    for name in ("event", "seq", "time", "prev", "key", "signature", "v"):
        with pytest.raises(ValueError, match="itself"):
            await chronicle.tell("note", {name: "x"})
    log.close()


async def test_a_closed_record_refuses_decisions_and_stops_nothing_else(home: Path) -> None:
    """What a person decides is refused, what merely happens is let be."""
    chronicle, log = Chronicle(SystemClock()), open_log(home)
    chronicle.open(log)
    log.close()
    chronicle.mention("instance.ended", {"role": "treasury"})
    with pytest.raises(RecordUnavailableError, match="closed"):
        await chronicle.tell("freeze", {"by": "alice"})


async def test_there_is_an_end_to_what_waits(home: Path) -> None:
    """What is beyond it is counted, and the count is told."""
    chronicle = Chronicle(SystemClock())
    for number in range(MOST_WAITING + 7):
        chronicle.mention("instance.launched", {"pid": number})
    log = open_log(home)
    chronicle.open(log)
    log.admit()
    log.close()
    assert len(read(home, "instance.launched")) == MOST_WAITING
    assert [line["count"] for line in read(home, "gap")] == [7]
