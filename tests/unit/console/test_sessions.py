"""Codes open one session, once; sessions end when nobody does anything."""

from __future__ import annotations

from orchestrator.console.sessions import (
    CODE_SECONDS,
    IDLE_SECONDS,
    LONGEST_SECONDS,
    MOST_SESSIONS,
    TICKET_CODE,
    Sessions,
)
from orchestrator.errors import ApproverError


class Watch:
    """Time that a test owns."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell it."""
        return self.now


def test_a_code_opens_one_session_once() -> None:
    """The second time it is told apart from a guess, also when its session has ended."""
    sessions = Sessions(Watch())
    code = sessions.make_code()
    text, refusal = sessions.open(code)
    assert refusal is None
    assert sessions.find(text, is_person=True) is not None
    assert sessions.open(code) == ("", "replayed")
    sessions.close(text)
    assert sessions.open(code) == ("", "replayed")
    assert sessions.open("guess") == ("", "unknown")
    assert sessions.open("") == ("", "unknown")
    assert sessions.open("\udc80") == ("", "unknown")


def test_a_code_is_good_for_ten_minutes() -> None:
    """Later it opens nothing, and stays so."""
    watch = Watch()
    sessions = Sessions(watch)
    code = sessions.make_code()
    watch.now += CODE_SECONDS + 1
    assert sessions.open(code) == ("", "expired")
    assert sessions.open(code) == ("", "expired")


def test_a_session_ends_when_nobody_does_anything() -> None:
    """What a page asks for by itself keeps nobody logged in."""
    watch = Watch()
    sessions = Sessions(watch)
    text, _ = sessions.open(sessions.make_code())
    for _ in range(3):
        watch.now += IDLE_SECONDS - 1
        assert sessions.find(text, is_person=True) is not None
    for _ in range(2):
        watch.now += IDLE_SECONDS / 2
        assert sessions.find(text, is_person=False) is not None
    watch.now += 1
    assert sessions.find(text, is_person=False) is None
    assert sessions.find(text, is_person=True) is None


def test_a_session_ends_after_a_day_of_work() -> None:
    """However busy it is."""
    watch = Watch()
    sessions = Sessions(watch)
    text, _ = sessions.open(sessions.make_code())
    end = watch.now + LONGEST_SECONDS
    while watch.now + IDLE_SECONDS / 2 < end:
        watch.now += IDLE_SECONDS / 2
        assert sessions.find(text, is_person=True) is not None
    watch.now = end + 1
    assert sessions.find(text, is_person=True) is None


def test_sessions_are_bounded() -> None:
    """The one that was idle longest makes room."""
    watch = Watch()
    sessions = Sessions(watch)
    texts: list[str] = []
    for _ in range(MOST_SESSIONS + 1):
        watch.now += 1
        texts.append(sessions.open(sessions.make_code())[0])
    assert sessions.find(texts[0], is_person=True) is None
    assert sessions.find(texts[1], is_person=True) is not None


def test_whoever_is_no_approver_any_more_is_asked_again() -> None:
    """The daemon says so by its code, which is the one that is looked for."""
    assert ApproverError.code == TICKET_CODE
    sessions = Sessions(Watch())
    session = sessions.find(sessions.open(sessions.make_code())[0], is_person=True)
    assert session is not None
    session.approver = "alice"
    session.forget_approver_if("approval.closed")
    assert session.approver == "alice"
    session.forget_approver_if(TICKET_CODE)
    assert session.approver == ""
