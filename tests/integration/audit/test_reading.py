"""The record for people and for other programs: stories, searches, formats."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from orchestrator.audit.chain import digest
from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.log import AuditLog
from orchestrator.audit.query import Query, select
from orchestrator.audit.record import CallRecord
from orchestrator.audit.story import describe, runs, story
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName

NOON = datetime(2027, 1, 15, 12, 0, 0, 250_000, tzinfo=UTC)
EVIL = '=HYPERLINK("x")|a=b\\c\r\n\x1b[2J\u202e'


class NoonClock:
    """A clock that stands."""

    def now(self) -> datetime:
        """Tell the wall time."""
        return NOON

    def monotonic(self) -> float:
        """Tell seconds."""
        return 0.0


def call(event: str, request: str, run: str, tool: str, **more: object) -> CallRecord:
    """Make a record of a call."""
    record = CallRecord(
        "decision" if event == "decision" else "intent" if event == "intent" else "outcome",
        request,
        RoleName("treasury"),
        AgentName("alice"),
        method="tools/call",
        tool=tool,
        kind="WRITE",
        run=run,
        session=run,
        client="cli/1.0",
    )
    for name, value in more.items():
        setattr(record, name, value)
    return record


@pytest.fixture
def record(home: Path) -> Path:
    """Write two runs, one with an approval."""
    log = AuditLog(home / "audit", home / "audit.key", NoonClock(), "1")
    log.record(call("outcome", "r1", "s1", "get_price", category="ok", kind="READ", status=200))
    log.record(
        call(
            "decision", "r2", "s1", "send", category="flow", code="approval.required", approval="a1"
        )
    )
    log.note("approval.approved", {"approval": "a1", "by": "bob", "reason": EVIL})
    log.record(call("outcome", "r3", "s2", "get_price", category="tool_error", status=200))
    log.note("token.issued", {"token": "t9", "role": "executor", "agent": "carol"})
    log.record(call("intent", "r4", "s1", "send", approval="a1", resources={"to": EVIL}))
    log.record(
        call(
            "outcome",
            "r4",
            "s1",
            "send",
            category="ok",
            approval="a1",
            status=200,
            duration_us=1500,
        )
    )
    log.close()
    return home / "audit"


def test_a_run_is_told_in_its_order(record: Path) -> None:
    """Calls, what was refused, what a person decided about it, and how it ended."""
    steps = story(record, "s1")
    assert [step.event for step in steps] == [
        "outcome",
        "decision",
        "approval.approved",
        "intent",
        "outcome",
    ]
    assert [step.is_bad for step in steps] == [False, True, False, False, False]
    assert steps[1].words == "send: refused, approval.required, approval a1"
    assert steps[4].words == "send: ok, approval a1, 1.5 ms"
    assert "by=bob" in steps[2].words
    assert [step.line["request"] for step in story(record, "r3")] == ["r3"]
    assert story(record, "nobody") == story(record, "") == []


def test_runs_are_listed_the_latest_first(record: Path) -> None:
    """Each with who, how much, and what was refused or failed."""
    first, second = runs(record)
    assert (first.run, first.calls, first.refused, first.failed) == ("s1", 2, 1, 0)
    assert (first.agent, first.role, first.client) == ("alice", "treasury", "cli/1.0")
    assert first.tools == ["get_price", "send"]
    assert (second.run, second.calls, second.failed) == ("s2", 1, 1)
    assert [one.run for one in runs(record, limit=1)] == ["s1"]
    assert runs(record, role="executor") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(tool="get_price"), ["r1", "r3"]),
        (Query(tool="get_price", outcome="ok"), ["r1"]),
        (Query(code="approval"), ["r2"]),
        (Query(code="approval.required", agent="alice"), ["r2"]),
        (Query(run="s2"), ["r3"]),
        (Query(text="GET_PRICE"), ["r1", "r3"]),
        (Query(role="executor"), [None]),
        (Query(event="token"), [None]),
        (Query(since="2027-01-15T12:00:00.250000Z", tool="send"), ["r2", "r4", "r4"]),
        (Query(since="2027-01-16"), []),
        (Query(until="2027-01-15T12:00:00.249999Z"), []),
    ],
)
def test_searches(record: Path, query: Query, found: list[str | None]) -> None:
    """Lines are found by what they tell."""
    assert [told.get("request") for _, told in select(record, query)] == found


def render(record: Path, name: str) -> list[bytes]:
    """Write the record in a format."""
    form = FORMATS[name]
    return [form.render(line, told) for line, told in select(record, Query())]


def test_jsonl_is_the_record_itself(record: Path) -> None:
    """Every byte is there."""
    assert render(record, "jsonl") == (record / "00000001.jsonl").read_bytes().splitlines()


def test_csv_is_a_table_that_runs_nothing(record: Path) -> None:
    """A real reader reads it, and no cell begins like a formula."""
    form = FORMATS["csv"]
    text = form.head + b"".join(row + form.end for row in render(record, "csv"))
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    assert [row["seq"] for row in rows] == [str(number + 1) for number in range(len(rows))]
    approved = next(row for row in rows if row["event"] == "approval.approved")
    assert approved["reason"] == "'" + EVIL
    assert {row["tool"] for row in rows} == {"", "get_price", "send"}
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def parse_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Read an event as the format is defined: escapes first, then keys and values."""
    parts, part, rest = [""], 0, iter(line)
    for letter in rest:
        if letter == "\\" and part < 7:
            parts[-1] += next(rest)
        elif letter == "|" and part < 7:
            parts.append("")
            part += 1
        else:
            parts[-1] += letter
    values: dict[str, str] = {}
    key, text, word, rest = "", "", "", iter(parts.pop() + " =")
    for letter in rest:
        if letter == "\\":
            word += {"n": "\n", "r": "\r"}.get(after := next(rest), after)
        elif letter == "=":
            if key:
                values[key] = text.rstrip(" ")
            key, text, word = word.strip(" "), "", ""
        elif letter == " ":
            text, word = text + word + " ", ""
        else:
            word += letter
    return parts, values


def test_cef_survives_whatever_an_agent_writes(record: Path) -> None:
    """Header and extension are read back; no control character is left."""
    events = [line.decode() for line in render(record, "cef")]
    assert all(line.isprintable() for line in events)
    read = [parse_cef(line) for line in events]
    assert all(len(head) == 7 and head[:3] == ["CEF:0", *["Bandmaster"] * 2] for head, _ in read)
    head, values = next(one for one in read if one[0][4] == "intent")
    assert head[5] == "send"
    assert head[6] == "3"
    assert values["suser"] == "alice"
    assert values["rt"] == str(int(NOON.timestamp() * 1000))
    assert values["flexString2"] == "to=" + EVIL.replace("\x1b", "\\u001b").replace(
        "\u202e", "\\u202e"
    )
    assert (values["cs5"], values["cs5Label"]) == ("a1", "approval")


def test_ocsf_events_have_what_the_class_requires(record: Path) -> None:
    """Every event is an API activity with actor, operation and source; the rest is kept."""
    lines = (record / "00000001.jsonl").read_bytes().splitlines()
    for line, text in zip(lines, render(record, "ocsf"), strict=True):
        event = cast("JsonObject", json.loads(text))
        told = cast("JsonObject", json.loads(line))
        assert (event["class_uid"], event["category_uid"]) == (6003, 6)
        activity = cast("int", event["activity_id"])
        assert activity in {1, 2, 3, 4, 99}
        assert event["type_uid"] == 600300 + activity
        assert event["time"] == int(NOON.timestamp() * 1000)
        assert event["severity_id"] in range(1, 6)
        assert event["status_id"] in {1, 2, 99}
        metadata = cast("JsonObject", event["metadata"])
        assert metadata["version"] == "1.6.0"
        assert metadata["uid"] == digest(line)
        assert cast("JsonObject", metadata["product"])["vendor_name"] == "Bandmaster"
        assert cast("JsonObject", event["api"])["operation"]
        assert cast("JsonObject", event["src_endpoint"])["name"]
        assert event["actor"]
        unmapped = cast("JsonObject", event["unmapped"])
        assert all(unmapped[name] == told[name] for name in ("prev", "v"))
    refused = cast("JsonObject", json.loads(render(record, "ocsf")[3]))
    assert (refused["status"], refused["status_code"]) == ("Failure", "approval.required")


def test_every_event_has_words() -> None:
    """Also one that nobody knows, and one with nothing in it."""
    assert describe({"event": "omitted", "count": 3, "code": "x"}) == "3 more refused, x"
    assert describe({"event": "gap", "count": 3}) == "3 without a line"
    assert describe({"event": "stream", "method": "GET"}) == "GET: listens"
    assert describe({"event": "new.thing", "a": 1, "prev": "0"}) == "new.thing a=1"
    assert describe({}) == ""
