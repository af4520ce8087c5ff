"""What a client's session is remembered by."""

from __future__ import annotations

import pytest

from orchestrator.model.base import JsonObject
from orchestrator.shim.notes import Notes

OPENING: JsonObject = {"protocolVersion": "2025-11-25", "capabilities": {}}
OFFERED: JsonObject = {
    "protocolVersion": "2025-11-25",
    "capabilities": {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": False},
        "resources": {"subscribe": True},
        "logging": {},
    },
}


@pytest.fixture
def notes() -> Notes:
    """Give the notes on an opened session."""
    found = Notes()
    found.open(OPENING, OFFERED)
    return found


def test_a_session_is_told_again_what_changed_it(notes: Notes) -> None:
    """The last level, and the subscriptions that are left; nothing else."""
    notes.note("logging/setLevel", {"level": "debug"})
    notes.note("logging/setLevel", {"level": "error"})
    for uri in ("demo://a", "demo://b", "demo://a"):
        notes.note("resources/subscribe", {"uri": uri})
    notes.note("resources/unsubscribe", {"uri": "demo://b"})
    notes.note("resources/unsubscribe", {"uri": "demo://never"})
    notes.note("resources/subscribe", {"uri": 7})
    notes.note("tools/call", {"name": "t", "uri": "demo://c"})
    assert notes.opening == OPENING
    assert notes.changes() == [
        ("logging/setLevel", {"level": "error"}),
        ("resources/subscribe", {"uri": "demo://a"}),
    ]


def test_missed_news_are_those_that_were_offered(notes: Notes) -> None:
    """Lists whose changes the server tells, and subscribed resources."""
    notes.note("resources/subscribe", {"uri": "demo://a"})
    tools: JsonObject = {"method": "notifications/tools/list_changed", "params": {}}
    updated: JsonObject = {
        "method": "notifications/resources/updated",
        "params": {"uri": "demo://a"},
    }
    assert notes.missed() == [{"jsonrpc": "2.0", **tools}, {"jsonrpc": "2.0", **updated}]


def test_a_successor_speaks_the_same_revision(notes: Notes) -> None:
    """Another one is of no use to the client; lists that come or go have changed."""
    assert not notes.take_over({**OFFERED, "protocolVersion": "2025-06-18"})
    assert not notes.take_over({})
    fewer: JsonObject = {"capabilities": {"prompts": {"listChanged": True}, "tools": 7}}
    assert notes.take_over({**OFFERED, **fewer})
    methods = [message["method"] for message in notes.missed()]
    assert methods == [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
    ]


def test_a_new_session_begins_empty(notes: Notes) -> None:
    """Nothing of the one before is left."""
    notes.is_begun = True
    notes.note("logging/setLevel", {"level": "debug"})
    notes.note("resources/subscribe", {"uri": "demo://a"})
    notes.open({}, {"protocolVersion": "2025-06-18", "capabilities": []})
    assert (notes.opening, notes.is_begun, notes.changes(), notes.missed()) == ({}, False, [], [])
