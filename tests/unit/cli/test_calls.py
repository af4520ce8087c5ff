"""`agents calls`: the record, for people and for programs."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from orchestrator.cli.calls import calls
from orchestrator.errors import NotRunningError, SettingsError

Captured = pytest.CaptureFixture[str]
Line = dict[str, str | int]


def call(number: int, role: str = "treasury", **fields: str | int) -> Line:
    """Make a line about a call that ended `number` minutes ago."""
    moment = datetime.now(UTC) - timedelta(minutes=number)
    return {
        "event": "outcome",
        "seq": 1000 - number,
        "time": moment.isoformat(timespec="microseconds")[:-6] + "Z",
        "agent": "alice",
        "role": role,
        "method": "tools/call",
        "tool": "get_price",
        "outcome": "ok",
        "status": 200,
        "duration_us": 1234,
        "request": f"request-{number}",
        **fields,
    }


Record = Callable[..., None]


@pytest.fixture
def record(project: Path) -> Record:
    """Give the way to write a segment of the record."""
    directory = project / ".agents" / "audit"
    directory.mkdir(parents=True)

    def write(*lines: Line, segment: int = 1) -> None:
        with (directory / f"{segment:08}.jsonl").open("a") as file:
            _ = file.write("".join(json.dumps(line) + "\n" for line in lines))

    return write


def show(
    project: Path,
    role: str | None = None,
    *,
    lines: int | None = None,
    age: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the record."""
    calls(project, role, lines=lines, age=age, follows=False, as_json=as_json)


def requests(captured: Captured) -> list[str]:
    """Tell which requests were printed."""
    return [line.split()[-1] for line in captured.readouterr().out.splitlines()[1:]]


def test_a_table_for_people(project: Path, record: Record, capsys: Captured) -> None:
    """Time, agent, role, tool, outcome, milliseconds and request id, one line a request."""
    refused = {"event": "decision", "outcome": "auth", "code": "token.unknown", "status": 401}
    record(
        {"event": "start", "seq": 1, "time": "2026-01-01T00:00:00.000000Z"},
        call(5, event="intent", outcome=""),
        call(4),
        call(3, tool="", method="tools/list", duration_us=9),
        {key: value for key, value in call(2, "?", **refused).items() if key != "agent"},
        {**call(1), "event": "omitted", "count": 90, "code": "token.unknown"},
        {"event": "gap", "seq": 1001, "time": "2026-01-01T00:00:00.000000Z", "count": 3},
    )
    show(project)
    head, *rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert [cell.strip() for cell in head if cell] == [
        *("TIME (UTC)", "AGENT", "ROLE", "TOOL", "OUTCOME", "MS", "REQUEST")
    ]
    assert [row[1:] for row in rows] == [
        ["alice", "treasury", "get_price", "ok", "1.2", "request-4"],
        ["alice", "treasury", "tools/list", "ok", "0.0", "request-3"],
        ["-", "?", "get_price", "token.unknown", "1.2", "request-2"],
        ["alice", "treasury", "get_price", "90 more token.unknown", "1.2", "request-1"],
        ["-", "-", "-", "3 not recorded", "-", "-"],
    ]


def test_lines_for_programs(project: Path, record: Record, capsys: Captured) -> None:
    """With `--json` each line is as it is in the record, intents included."""
    lines = [call(2, event="intent"), call(1)]
    record(*lines)
    show(project, as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines


def test_the_last_ones(project: Path, record: Record, capsys: Captured) -> None:
    """Fifty by default, or as many as were asked for; of one role, or of all."""
    for segment in range(1, 5):
        record(
            *(call(100 * (5 - segment) - n, ("treasury", "executor")[n % 2]) for n in range(40)),
            segment=segment,
        )
    show(project)
    assert requests(capsys) == [f"request-{n}" for n in (*range(170, 160, -1), *range(100, 60, -1))]
    show(project, "executor", lines=3)
    assert requests(capsys) == ["request-65", "request-63", "request-61"]
    show(project, lines=0)
    assert requests(capsys) == []
    show(project, "monitoring")
    assert requests(capsys) == []


def test_since_a_moment(project: Path, record: Record, capsys: Captured) -> None:
    """All that were so long ago, and no more than the last ones if a number is given."""
    for segment in range(1, 5):
        record(*(call(10 * (5 - segment) - n) for n in range(10)), segment=segment)
    show(project, age="15m30s")
    assert requests(capsys) == [f"request-{n}" for n in range(15, 0, -1)]
    show(project, age="1d", lines=2)
    assert requests(capsys) == ["request-2", "request-1"]


@pytest.mark.usefixtures("record")
def test_what_cannot_be_asked(project: Path) -> None:
    """What is wrong with a question is told: no record, no time, no role."""
    with pytest.raises(NotRunningError, match="nothing is recorded"):
        show(project)
    with pytest.raises(SettingsError, match="--since: a duration"):
        show(project, age="yesterday")
    with pytest.raises(SettingsError, match="no name of a role"):
        show(project, "../treasury")


def test_a_terminal_is_not_commanded(project: Path, record: Record, capsys: Captured) -> None:
    """Whatever a tool is called, it cannot steer the terminal or forge a line."""
    record(call(1, tool="\x1b[2Jforged\nline\u202e"))
    for as_json in (False, True):
        show(project, as_json=as_json)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.fixture
def follow(project: Path) -> Generator[Callable[[], IO[str]]]:
    """Return the function that follows the record as a process, and gives its output."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> IO[str]:
        words = ("calls", "treasury", "--follow", "-n", "1", "-C", str(project))
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process.stdout

    yield start
    for process in processes:
        process.kill()
        _ = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_following(record: Record, follow: Callable[[], IO[str]]) -> None:
    """What is recorded later is shown as it comes, once, also from the next segment."""
    record(call(9), call(8))
    output = follow()
    assert "TIME" in output.readline()
    assert output.readline().split()[-1] == "request-8"
    record(call(7, "executor"), call(6))
    assert output.readline().split()[-1] == "request-6"
    record(call(5), segment=2)
    assert output.readline().split()[-1] == "request-5"
