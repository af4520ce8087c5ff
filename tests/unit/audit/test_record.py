"""The lines of the record as data."""

import hashlib
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.audit.record import CallEvent, CallRecord, hash_arguments, seal
from orchestrator.audit.sieve import Sieve
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.protocol.canonical import canonical
from orchestrator.protocol.jsonrpc import decode


def whole() -> CallRecord:
    """Make a record in which nothing is empty."""
    return CallRecord(
        event="outcome",
        request_id="r1",
        role=RoleName("treasury"),
        agent=AgentName("alice"),
        token_id=TokenId("t1"),
        session="s1",
        method="tools/call",
        tool="send",
        kind="DESTRUCTIVE",
        category="upstream",
        code="upstream.timeout",
        status=200,
        duration_us=5,
        policy="0123456789ab",
        rule="sums",
        attempt=1,
        workload="treasury.wallet.g1",
        pid=7,
        arguments_sha256="00",
        trace_id="ff",
        client="cli/1.0",
        run="s2",
        approval="a1",
        resources={"to": "0x1"},
        summary={"to": "text(3)"},
    )


def test_every_field_has_its_place_in_the_line() -> None:
    """Nothing that a record tells is left out."""
    record = whole()
    kept = [getattr(record, field.name) for field in fields(record)]
    assert all(kept)
    assert sorted(map(str, record.fields().values())) == sorted(map(str, kept))


def test_every_field_is_explained() -> None:
    """Each field of a line, and each event, has its place in the reference."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "record.md").read_text()
    events = get_args(CallEvent)
    for name in (*whole().fields(), *events, "v", "seq", "time", "count", "since", "torn_bytes"):
        assert f"`{name}`" in page, name


def test_what_has_nothing_to_tell_is_left_out() -> None:
    """A line about a stranger is short."""
    record = CallRecord("decision", "r1", RoleName("?"), category="auth", code="token", status=401)
    assert record.fields() == {
        "event": "decision",
        "request": "r1",
        "role": "?",
        "outcome": "auth",
        "code": "token",
        "status": 401,
        "duration_us": 0,
    }


def test_a_line_is_canonical_json() -> None:
    """Whoever reads it and writes it again canonically gets the same bytes."""
    line = seal(
        {**whole().fields(), "time": datetime.now(UTC), "seq": 1, "tool": "\x1b[2J\n\u2028"}
    )
    assert canonical(decode(line)) == line
    assert b"\n" not in line


@pytest.mark.parametrize("arguments", [None, {}])
def test_no_arguments_are_empty_ones(arguments: JsonObject | None) -> None:
    """A server cannot tell them apart, nor can the record."""
    assert hash_arguments(arguments) == hashlib.sha256(b"{}").hexdigest()


def test_arguments_have_one_hash_whatever_their_order() -> None:
    """What was called can be proved from the arguments alone."""
    expected = hashlib.sha256(b'{"amount":1000000000000000000001,"to":"0x1"}').hexdigest()
    assert hash_arguments({"to": "0x1", "amount": 10**21 + 1}) == expected
    assert hash_arguments({"amount": 10**21 + 1, "to": "0x1"}) == expected
    assert hash_arguments({"amount": 10**21, "to": "0x1"}) != expected


def test_strangers_are_alike_whatever_role_they_name() -> None:
    """Who proved to be nobody cannot get round the bound with many names."""
    records = [
        CallRecord("decision", "r", RoleName(name), code="token.unknown", status=401)
        for name in ("a", "b")
    ]
    assert records[0].likeness() == records[1].likeness()
    first, second = whole(), whole()
    second.tool = "other"
    assert first.likeness() != second.likeness()


def test_names_that_nobody_knows_make_no_difference() -> None:
    """An agent cannot get round the bound with tools and methods that it made up."""
    unknown = [whole(), whole()]
    for number, one in enumerate(unknown):
        one.kind, one.tool = None, f"made-up-{number}"
    assert unknown[0].likeness() == unknown[1].likeness()
    for number, one in enumerate(unknown):
        one.policy, one.method = "", f"made/up{number}"
    assert unknown[0].likeness() == unknown[1].likeness()


def test_like_lines_of_a_second_are_counted() -> None:
    """The first ones of each kind pass; how many did not is told when the second is over."""
    sieve: Sieve[str] = Sieve(2)
    assert [sieve.passes("a", f"a{turn}", 10.0) for turn in range(5)] == [True] * 2 + [False] * 3
    assert sieve.passes("b", "b0", 10.9)
    assert sieve.turn(10.99) == []
    assert sieve.turn(11.0) == [(3, "a0")]
    assert sieve.turn(99.0) == []
    assert sieve.passes("a", "a9", 99.0)
    assert not sieve.turn(100.0)
