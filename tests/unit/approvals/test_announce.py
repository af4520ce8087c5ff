"""Whoever has to approve a call is told, with a link where there is somebody to open it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

import pytest
from typing_extensions import override

from orchestrator.approvals.announce import GONE_SECONDS, LONGEST_RECEIPT, Announcer, Listeners
from orchestrator.approvals.links import Links
from orchestrator.clock import Clock
from orchestrator.model.approval import Approval, Asked
from orchestrator.model.message import Delivery, Link, Notifier
from orchestrator.model.names import AgentName, RoleName, ToolName

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 11, 5, 12, tzinfo=UTC)
Given = Sequence[Link] | Callable[[str], Sequence[Link]]


@final
class Watch(Clock):
    """Time that a test owns."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.passed = 0.0

    @override
    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    @override
    def monotonic(self) -> float:
        return self.passed


@final
class Listener(Notifier):
    """Keeps what was told."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.told: list[tuple[str, str, str]] = []
        self.links: dict[str, Sequence[Link]] = {}

    @override
    def send(
        self, topic: str, title: str, text: str, links: Given = (), *, owner: str = ""
    ) -> None:
        self.told.append((title, text, owner))
        assert topic == "approval.required"
        for target in ("ops", "alice"):
            self.links[target] = links(target) if callable(links) else links

    @override
    async def deliver(
        self,
        topic: str,
        title: str,
        text: str,
        links: Given = (),
        *,
        owner: str = "",
        grace: float = 10.0,
    ) -> tuple[Delivery, ...]:
        raise AssertionError("nobody waits for people")


def waiting(receipt: str = "Pays 5 to bob", quorum: int = 1) -> Approval:
    """Make a call that waits."""
    return Approval(
        id="ap-1",
        asked=Asked(RoleName("payer"), AgentName("bot"), ToolName("pay"), "0" * 64, "abcdefabcdef"),
        kind="DESTRUCTIVE",
        rule="approval.destructive",
        state="pending",
        arguments={"to": "bob"},
        receipt=receipt,
        warnings=("the fee is not known",),
        digest="1" * 64,
        quorum=quorum,
        lasts_seconds=900,
        created_at=START,
        expires_at=START + timedelta(minutes=15),
        request_id="r",
    )


@pytest.fixture
def watch() -> Watch:
    """Own time."""
    return Watch()


@pytest.fixture
def links(tmp_path: Path, watch: Watch) -> Links:
    """Make links."""
    return Links(tmp_path / "key", watch.now)


@pytest.fixture
def listener() -> Listener:
    """Listen."""
    return Listener()


@pytest.fixture
def announcer(listener: Listener, links: Links, watch: Watch) -> Announcer:
    """Tell the listener."""
    known = Listeners(lambda role: f"{role}@example.com", {"alice": "alice", "ops": ""}.__getitem__)
    return Announcer(listener, links, known, watch)


def test_people_are_told_what_waits(announcer: Announcer, listener: Listener) -> None:
    """What will happen, who asks, until when, what could not be read; and no link by itself."""
    announcer.tell(waiting(quorum=2))
    [(title, text, owner)] = listener.told
    assert title == "pay at payer waits for approval"
    assert owner == "payer@example.com"
    for words in ("Pays 5 to bob", "! the fee is not known", "bot asks", "12:15 UTC", "2 people"):
        assert words in text
    assert "agents approvals show ap-1" in text
    assert listener.links == {"ops": (), "alice": ()}


def test_a_console_that_is_there_gets_links_of_their_own(
    announcer: Announcer, listener: Listener, links: Links
) -> None:
    """One a target, none like another; only an approver's own target has their name in it."""
    announcer.note_console("https://approve.example.com")
    announcer.tell(waiting())
    read = {
        target: links.read(given[0].url.removeprefix("https://approve.example.com/l/"))
        for target, given in listener.links.items()
    }
    assert {one.approval for one in read.values()} == {"ap-1"}
    assert (read["ops"].approver, read["alice"].approver) == ("", "alice")
    assert read["ops"].number != read["alice"].number
    assert read["ops"].expires_at == START + timedelta(minutes=15)


def test_a_console_that_went_away_gets_none(
    announcer: Announcer, listener: Listener, watch: Watch
) -> None:
    """It said so, or was silent for too long."""
    announcer.note_console("https://approve.example.com")
    watch.passed = GONE_SECONDS + 1
    announcer.tell(waiting())
    assert listener.links["ops"] == ()
    announcer.note_console("https://approve.example.com")
    announcer.note_console("")
    announcer.tell(waiting())
    assert listener.links["ops"] == ()


def test_a_message_without_a_key_goes_out_all_the_same(
    listener: Listener, tmp_path: Path, watch: Watch
) -> None:
    """Without a link."""
    _ = (tmp_path / "key").write_bytes(b"short")
    announcer = Announcer(
        listener,
        Links(tmp_path / "key", watch.now),
        Listeners(lambda _: "", lambda _: ""),
        watch,
    )
    announcer.note_console("https://approve.example.com")
    announcer.tell(waiting())
    assert (len(listener.told), listener.links["ops"]) == (1, ())


def test_a_long_receipt_is_cut_and_says_so(announcer: Announcer, listener: Listener) -> None:
    """Nobody decides by half of it without knowing."""
    announcer.tell(waiting("x" * (LONGEST_RECEIPT + 1)))
    assert "look at it whole before you decide" in listener.told[0][1]
