"""Links to approvals: ours, in time, once; anything else opens nothing."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from orchestrator.approvals.links import Links
from orchestrator.errors import LinkRefusedError, StateCorruptError

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 11, 5, 12, tzinfo=UTC)
END = START + timedelta(minutes=15)


class Watch:
    """Time that a test owns."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now = START

    def __call__(self) -> datetime:
        """Tell it."""
        return self.now


def why(links: Links, text: str) -> str:
    """Tell why a link is refused."""
    with pytest.raises(LinkRefusedError) as caught:
        _ = links.read(text)
    return caught.value.why


def test_a_link_says_what_it_was_made_for(tmp_path: Path) -> None:
    """Also to another process with the same key; and it fits into a path."""
    place = tmp_path / "keys" / "links.key"
    text = Links(place, Watch()).make("ap-1", END, approver="alice@example.com")
    link = Links(place, Watch()).read(text)
    assert (link.approval, link.approver, link.expires_at) == ("ap-1", "alice@example.com", END)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_two_links_are_never_alike(tmp_path: Path) -> None:
    """One that was used says nothing of the other."""
    links = Links(tmp_path / "key", Watch())
    first, second = (links.make("ap-1", END) for _ in range(2))
    links.spend(links.read(first))
    assert why(links, first) == "replayed"
    assert links.read(second).approval == "ap-1"


def test_two_decisions_at_the_same_time_need_two_links(tmp_path: Path) -> None:
    """Both have read the link before one of them uses it."""
    links = Links(tmp_path / "key", Watch())
    text = links.make("ap-1", END)
    first, second = links.read(text), links.read(text)
    links.spend(first)
    with pytest.raises(LinkRefusedError) as caught:
        links.spend(second)
    assert caught.value.why == "replayed"


def test_a_link_ends_with_its_time(tmp_path: Path) -> None:
    """To the second."""
    watch = Watch()
    links = Links(tmp_path / "key", watch)
    text = links.make("ap-1", END)
    watch.now = END - timedelta(seconds=1)
    assert links.read(text).approval == "ap-1"
    watch.now = END
    assert why(links, text) == "expired"


def test_every_change_of_a_link_is_seen(tmp_path: Path) -> None:
    """Whichever letter is another one, left out, or put in."""
    links = Links(tmp_path / "key", Watch())
    text = links.make("ap-1", END, approver="bob")
    said, _, signature = text.partition(".")
    for place in range(len(text)):
        for letter in "Aq-.":
            if letter != text[place]:
                changed = text[:place] + letter + text[place + 1 :]
                # The last letter of either part has bits that stand for nothing.
                if place in {len(said) - 1, len(text) - 1}:
                    continue
                assert why(links, changed) == "forged"
        assert why(links, text[:place]) == "forged"
    other = Links(tmp_path / "other", Watch()).make("ap-1", END, approver="bob")
    assert why(links, other) == "forged"
    assert why(links, f"{other.partition('.')[0]}.{signature}") == "forged"
    for rubbish in ("", ".", "a", "\u202e.x", "a.b.c", "A" * 10_000 + ".A"):
        assert why(links, rubbish) == "forged"


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    """Nothing is signed with half a key."""
    _ = (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(StateCorruptError, match="holds no key"):
        _ = Links(tmp_path / "key", Watch()).make("ap-1", END)
