"""The writer of the record on a real disk."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from orchestrator.audit.log import MOST_ALIKE, AuditLog
from orchestrator.audit.reader import end, follow, newest_first, parse, since
from orchestrator.audit.record import CallRecord
from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import StateCorruptError
from orchestrator.journal import segments
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName


class StillClock:
    """A clock that a test moves."""

    def __init__(self, moment: datetime) -> None:
        """Stand still at this moment."""
        self.moment = moment

    def now(self) -> datetime:
        """Tell the wall time."""
        return self.moment

    def monotonic(self) -> float:
        """Tell seconds that only grow."""
        return self.moment.timestamp()


NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


def open_log(home: Path, clock: Clock | None = None) -> AuditLog:
    """Open the record."""
    return AuditLog(home / "audit", home / "audit.key", clock or SystemClock(), "1.2.3")


def outcome(request: str = "r1", agent: str | None = "alice") -> CallRecord:
    """Make a record of a call."""
    name = None if agent is None else AgentName(agent)
    return CallRecord(
        "outcome", request, RoleName("treasury"), name, category="ok", status=200, duration_us=7
    )


def refusal(code: str, role: str = "treasury", agent: str | None = None) -> CallRecord:
    """Make a record of a refusal."""
    name = None if agent is None else AgentName(agent)
    return CallRecord("decision", "r1", RoleName(role), name, code=code, status=401)


def read(home: Path) -> list[JsonObject]:
    """Read all lines but the checkpoints."""
    return [line for line in read_all(home) if line["event"] != "checkpoint"]


def read_all(home: Path) -> list[JsonObject]:
    """Read all lines."""
    lines = b"".join(path.read_bytes() for path in segments(home / "audit")).splitlines()
    told = [parse(line) for line in lines]
    return [line for line in told if line is not None]


async def test_numbers_only_grow(home: Path) -> None:
    """Lines are numbered without a hole, in one run and in the next."""
    for _ in range(3):
        log = open_log(home)
        for _ in range(5):
            log.admit()
            log.record(outcome())
        log.close()
    told = read_all(home)
    run = ["start", "checkpoint", *["outcome"] * 5, "stop", "checkpoint"]
    assert [line["event"] for line in told] == run * 3
    assert [line["seq"] for line in told] == list(range(1, len(told) + 1))
    assert all(line["v"] == 2 for line in told)
    assert told[0]["version"] == "1.2.3"


async def test_a_crash_shows_and_numbers_go_on(home: Path) -> None:
    """After a crash `stop` is missing, what was left of a line is counted, and nothing reused."""
    log = open_log(home)
    log.record(outcome("before"))
    with (home / "audit" / "00000001.jsonl").open("ab") as file:
        _ = file.write(b'{"event":"outcome","seq":3,')
    again = open_log(home)
    again.record(outcome("after"))
    again.close()
    told = read(home)
    assert [line["event"] for line in told] == ["start", "outcome", "start", "outcome", "stop"]
    assert [line["seq"] for line in told] == [1, 3, 4, 6, 7]
    assert told[2]["torn_bytes"] == 27
    assert (home / "audit" / "00000001.torn").read_bytes() == b'{"event":"outcome","seq":3,\n'


async def test_lines_that_cannot_be_read_stay_and_are_passed_over(home: Path) -> None:
    """A damaged last line takes nothing with it; a record of nothing else is left alone."""
    log = open_log(home)
    log.close()
    with (home / "audit" / "00000001.jsonl").open("ab") as file:
        _ = file.write(b"\0\0\0\n[]\n")
    again = open_log(home)
    again.close()
    assert [line["seq"] for line in read_all(home)] == list(range(1, 9))
    _ = (home / "audit" / "00000001.jsonl").write_bytes(b"rubbish\n")
    with pytest.raises(StateCorruptError, match="cannot be read"):
        _ = open_log(home)
    assert (home / "audit" / "00000001.jsonl").read_bytes() == b"rubbish\n"


async def test_an_intent_is_on_disk_when_its_future_is_done(home: Path) -> None:
    """All who announce a call at the same time are answered, each with its own line."""
    log = open_log(home)

    async def intend(request: int) -> None:
        await log.intend(CallRecord("intent", f"r{request}", RoleName("treasury")))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for request in range(50):
                group.start_soon(intend, request)
    log.close()
    found = {str(line["request"]) for line in read(home) if line["event"] == "intent"}
    assert found == {f"r{request}" for request in range(50)}


async def test_a_flood_of_strangers_is_counted(home: Path) -> None:
    """A thousand failed authentications in a second are some lines and their number."""
    clock = StillClock(NOON)
    log = open_log(home, clock)
    for turn in range(1000):
        log.record(refusal("token.unknown", f"role-{turn}"))
    for _ in range(MOST_ALIKE + 1):
        log.record(refusal("policy.unknown_tool", agent="alice"))
    log.record(outcome())
    clock.moment += timedelta(seconds=1)
    log.record(refusal("token.unknown"))
    log.close()
    told = read(home)
    strangers = [line for line in told if line.get("code") == "token.unknown"]
    assert [line["event"] for line in strangers].count("decision") == MOST_ALIKE + 1
    (omitted,) = [line for line in strangers if line["event"] == "omitted"]
    assert omitted["count"] == 1000 - MOST_ALIKE
    assert "role" not in omitted
    (known,) = [line for line in told if line["event"] == "omitted" and line is not omitted]
    assert (known["agent"], known["role"], known["count"]) == ("alice", "treasury", 1)
    assert [line["event"] for line in told].count("outcome") == 1


async def test_a_flood_at_the_consoles_port_is_counted(home: Path) -> None:
    """Guesses and forged links by the thousand are some lines; a replay among them has its own."""
    clock = StillClock(NOON)
    log = open_log(home, clock)
    for _ in range(1000):
        log.note("console.login_refused", {"by": "uid:1"})
        log.note("approval.refused", {"code": "approval.link", "why": "forged"})
    log.note("approval.refused", {"code": "approval.link", "why": "replayed"})
    log.note("approval.approved", {"by": "alice"})
    clock.moment += timedelta(seconds=1)
    log.note("console.login_refused", {"by": "uid:1"})
    log.close()
    told = read(home)
    assert [line["event"] for line in told].count("console.login_refused") == MOST_ALIKE + 1
    why = [line["why"] for line in told if line["event"] == "approval.refused"]
    assert why == ["forged"] * MOST_ALIKE + ["replayed"]
    assert [line["event"] for line in told].count("approval.approved") == 1
    omitted = {line["code"]: line["count"] for line in told if line["event"] == "omitted"}
    left_out = 1000 - MOST_ALIKE
    assert omitted == {"console.login_refused": left_out, "approval.refused": left_out}


async def test_what_was_left_out_is_told_without_another_request(home: Path) -> None:
    """A flood that ends leaves its count behind within seconds."""
    log = open_log(home)
    for _ in range(MOST_ALIKE + 5):
        log.record(refusal("token.unknown"))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(log.keep)
            while not any(line["event"] == "omitted" for line in read(home)):  # noqa: ASYNC110 - a file
                await anyio.sleep(0.05)
            group.cancel_scope.cancel()
    log.close()
    assert [line["count"] for line in read(home) if line["event"] == "omitted"] == [5]


@pytest.mark.parametrize("fraction", [0, 1, 250_000])
async def test_times_sort_as_text(home: Path, fraction: int) -> None:
    """Every time has its six digits, zero included."""
    log = open_log(home, StillClock(NOON.replace(microsecond=fraction)))
    log.close()
    assert [line["time"] for line in read(home)] == [f"2027-01-15T12:00:00.{fraction:06}Z"] * 2


async def test_the_newest_come_first_across_segments(home: Path) -> None:
    """Reading backwards gives every whole line once, however files and blocks divide them."""
    directory = home / "j"
    directory.mkdir()
    lines = [b"%d " % number + b"x" * (number * 37 % 70_000) for number in range(60)]
    for number, part in enumerate((lines[:1], lines[1:30], [], lines[30:]), 1):
        whole = b"".join(line + b"\n" for line in part)
        _ = (directory / f"{number:08}.jsonl").write_bytes(whole)
    with (directory / "00000004.jsonl").open("ab") as file:
        _ = file.write(b"not whole yet")
    assert list(newest_first(directory)) == lines[::-1]
    assert list(newest_first(home / "nothing")) == []


async def test_reading_from_a_moment_on(home: Path) -> None:
    """Whole segments that end before it are not read; of the rest, what is not older is told."""
    directory = home / "j"
    directory.mkdir()
    for segment in range(4):
        text = "".join(f'{{"time":"00:{10 * segment + each:02}"}}\n' for each in range(9))
        _ = (directory / f"{segment + 1:08}.jsonl").write_text(text)
    found = list(since(directory, "00:15"))
    assert found[0] == b'{"time":"00:15"}'
    assert len(found) == 4 + 9 + 9
    assert list(since(directory, "00:99")) == []
    assert len(list(since(directory, ""))) == 4 * 9


def test_following_misses_nothing_at_the_border_of_segments(home: Path) -> None:
    """Lines are told as they come, whole, and in the next segment when there is one."""
    directory = home / "j"
    directory.mkdir()
    first = directory / "00000001.jsonl"
    _ = first.write_bytes(b"old\nhalf")
    place = end(directory)
    assert place == (first, 4)
    lines = follow(directory, place)
    with first.open("ab") as file:
        _ = file.write(b" a line\nnext\n")
    assert next(lines) == b"half a line"
    _ = (directory / "00000002.jsonl").write_bytes(b"")
    _ = (directory / "00000003.jsonl").write_bytes(b"third\n")
    assert next(lines) == b"next"
    assert next(lines) == b"third"
    first.unlink()
    with (directory / "00000003.jsonl").open("ab") as file:
        _ = file.write(b"more\n")
    assert next(lines) == b"more"


async def test_a_line_costs_little(home: Path) -> None:
    """A record is written in microseconds; a hundred times the budget is a mistake."""
    log = open_log(home)
    entry = outcome()
    begun = time.process_time()
    for _ in range(2000):
        log.admit()
        log.record(entry)
        await asyncio.sleep(0)
    assert time.process_time() - begun < 2000 * 500e-6
    log.close()
