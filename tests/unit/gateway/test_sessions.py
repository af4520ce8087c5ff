"""Sessions that are kept by their callers: what the gateway keeps, and for how long."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SessionRequiredError, SessionUnknownError
from orchestrator.gateway.seal import Seal
from orchestrator.gateway.sessions import LIFE, Session, Sessions
from orchestrator.model.names import AgentName, RoleName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.model.base import Json, JsonObject

SEAL = Seal(bytes(32))
ROLE, AGENT = RoleName("r"), AgentName("a")
VERSION = "2025-11-25"


class MovedClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """Tell the wall time."""
        return self.time

    def monotonic(self) -> float:
        """Tell the seconds."""
        return self.time.timestamp()


class Journal:
    """Keeps lines."""

    def __init__(self) -> None:
        """Start empty."""
        self.lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        """Keep one."""
        self.lines.append(line)

    def compact(self, lines: Iterable[bytes]) -> None:
        """Keep these in place of all before."""
        self.lines = [*lines]


def find(sessions: Sessions, session: Session) -> Session:
    """Find a session by its id alone."""
    return sessions.find(session.id.encode(), ROLE, AGENT)


def test_a_session_is_known_by_its_id_alone() -> None:
    """A gateway that never saw it finds all its facts in it."""
    clock = MovedClock()
    able: JsonObject = {"capabilities": {"elicitation": {"form": {}}, "tasks": {}}}
    session = Sessions(SEAL, clock).open(ROLE, AGENT, able, VERSION)
    found = find(Sessions(SEAL, clock), session)
    assert (found.key, found.version, found.capabilities) == (
        session.key,
        VERSION,
        {"elicitation": {"form": {}}},
    )
    assert (found.level, found.uris) == ("", set())
    for role, agent in (("r", "b"), ("s", "a")):
        with pytest.raises(SessionUnknownError):
            _ = Sessions(SEAL, clock).find(session.id.encode(), RoleName(role), AgentName(agent))
    with pytest.raises(SessionRequiredError):
        _ = Sessions(SEAL, clock).find(None, ROLE, AGENT)


def test_a_session_has_an_end() -> None:
    """It lives as long as ended ones are remembered, and not longer."""
    clock = MovedClock()
    sessions = Sessions(SEAL, clock)
    session = sessions.open(ROLE, AGENT, {}, VERSION)
    clock.time += LIFE - timedelta(seconds=1)
    assert find(sessions, session) is session
    clock.time += timedelta(seconds=2)
    for knower in (sessions, Sessions(SEAL, clock)):
        with pytest.raises(SessionUnknownError):
            _ = find(knower, session)


def test_what_changed_is_found_again() -> None:
    """Level, subscriptions and ends are in the journal, which is cut to what still counts."""
    clock, journal = MovedClock(), Journal()
    sessions = Sessions(SEAL, clock, journal)
    kept, ended, plain = (sessions.open(ROLE, AGENT, {}, VERSION) for _ in range(3))
    for uri in ("a", "b"):
        kept.uris.add(uri)
        sessions.change(kept)
    kept.level = "error"
    sessions.change(kept)
    ended.level = "debug"
    sessions.change(ended)
    sessions.end(ended)
    second = Sessions(SEAL, clock)
    rest = second.restore([*journal.lines, b"", b'{"k": "x', b"null", b'{"k": 1}'])
    assert len(rest) == 2
    third = Sessions(SEAL, clock)
    assert third.restore(rest) == rest
    for knower in (sessions, second, third):
        found = find(knower, kept)
        assert (found.level, found.uris) == ("error", {"a", "b"})
        assert find(knower, plain).level == ""
        with pytest.raises(SessionUnknownError):
            _ = find(knower, ended)
    clock.time += LIFE + timedelta(seconds=1)
    assert Sessions(SEAL, clock).restore(rest) == []


def test_a_day_s_churn_leaves_no_trace() -> None:
    """Sessions that come and go, ended or just left, cost no memory in the end."""
    clock = MovedClock()
    sessions = Sessions(SEAL, clock)

    def churn(count: int) -> None:
        for number in range(count):
            session = sessions.open(ROLE, AGENT, {}, VERSION)
            session.uris.add("demo://x")
            sessions.change(session)
            if number % 2:
                sessions.end(session)

    churn(22_000)  # all that is kept is full
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        churn(22_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What was there is replaced by as much; only what came newly is seen here.
    assert after - before < 12_000_000
    assert len(sessions._at_hand) <= 4096
    assert len(sessions._ended) <= 10_000
    assert len(sessions._changed) <= 10_000


VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.dictionaries(st.text(max_size=40), inner, max_size=5),
    max_leaves=8,
)
NAMES = st.sampled_from(["elicitation", "sampling", "roots", "tasks"]) | st.text(max_size=5)


@given(st.dictionaries(NAMES, VALUES) | VALUES)
def test_whatever_a_client_declares_makes_a_short_id(declared: Json) -> None:
    """Only known capabilities and their parts' names stay, so an id fits into a header."""
    session = Sessions(SEAL, MovedClock()).open(ROLE, AGENT, {"capabilities": declared}, VERSION)
    assert len(session.id) < 2500
    assert set(session.capabilities) <= {"elicitation", "sampling", "roots"}
    for told in session.capabilities.values():
        assert isinstance(told, dict)
        assert all(part == {} for part in told.values())


def test_a_client_that_declares_without_end_can_open_a_session() -> None:
    """More parts than anything has do not make an id that is too long to be shown."""
    many: JsonObject = {name: {f"part{n}": {} for n in range(9_000)} for name in ("roots", "x")}
    sessions = Sessions(SEAL, MovedClock())
    session = sessions.open(ROLE, AGENT, {"capabilities": many}, VERSION)
    assert find(Sessions(SEAL, MovedClock()), session).key == session.key


def test_the_role_s_server_is_asked_for_the_least_level() -> None:
    """One session that wants all gets all, whatever the others of the role want."""
    sessions = Sessions(SEAL, MovedClock())
    assert sessions.lowest_level(ROLE) == ""
    for level, lowest in (("error", "error"), ("debug", "debug"), ("info", "debug")):
        session = sessions.open(ROLE, AGENT, {}, VERSION)
        session.level = level
        sessions.change(session)
        assert sessions.lowest_level(ROLE) == lowest
    assert sessions.lowest_level(RoleName("other")) == ""


def test_what_is_written_down_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that changes without end fills no disk, and is known as it is now."""
    monkeypatch.setattr("orchestrator.gateway.sessions._MANY_BYTES", 10_000)
    journal = Journal()
    sessions = Sessions(SEAL, MovedClock(), journal)
    session = sessions.open(ROLE, AGENT, {}, VERSION)
    other = sessions.open(ROLE, AGENT, {}, VERSION)
    sessions.end(other)
    for number in range(5_000):
        session.level = ("error", "debug")[number % 2]
        sessions.change(session)
    assert sum(map(len, journal.lines)) < 20_000
    again = Sessions(SEAL, MovedClock())
    _ = again.restore(journal.lines)
    assert find(again, session).level == "debug"
    with pytest.raises(SessionUnknownError):
        _ = find(again, other)
