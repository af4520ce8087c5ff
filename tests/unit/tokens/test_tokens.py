"""Tokens: their format, where they are kept, and how they are checked."""

import re
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    SettingsError,
    StateCorruptError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
)
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.mint import FORMAT, digest, mint, read_id
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.store import TokenStore, Word
from orchestrator.tokens.verify import Principal, TokenIndex

AGENT, ROLE = AgentName("claude"), RoleName("treasury")
DAY = timedelta(days=1)


@final
class Hands(Clock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.time = datetime(2026, 11, 20, 12, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        """Tell where the hands are."""
        return self.time

    @override
    def monotonic(self) -> float:
        """Tell the same in seconds."""
        return self.time.timestamp()


@pytest.fixture
def clock() -> Hands:
    """Give a clock."""
    return Hands()


@pytest.fixture
def store(tmp_path: Path, clock: Hands) -> Iterator[TokenStore]:
    """Give an empty store."""
    opened = TokenStore(tmp_path / "state" / "agents.db", clock)
    yield opened
    opened.close()


def test_format() -> None:
    """A token is what scanners look for, and tells its id."""
    minted = mint()
    text = minted.text.get_secret_value()
    assert len(text) == 66
    assert re.fullmatch(FORMAT, text)
    assert read_id(text) == minted.id
    assert digest(text) == minted.digest
    assert text not in repr(minted)
    assert mint().text != minted.text


@given(st.integers(0, 65), st.sampled_from("0aZ_-"))
def test_typing_errors_are_seen(place: int, letter: str) -> None:
    """A token with one wrong character is none."""
    text = mint().text.get_secret_value()
    wrong = text[:place] + letter + text[place + 1 :]
    assert wrong == text or read_id(wrong) is None


def test_store_keeps_no_text(store: TokenStore, tmp_path: Path) -> None:
    """What is issued can be listed and checked, and its text is in no file."""
    record, text = store.issue(AGENT, ROLE, 30 * DAY)
    assert store.list() == store.load_usable() == (record,)
    assert record.digest == digest(text.get_secret_value())
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert text.get_secret_value().encode() not in content
        assert text.get_secret_value().rpartition("_")[2].encode() not in content
    assert text.get_secret_value() not in repr(record)


def test_store_survives_a_restart(store: TokenStore, tmp_path: Path, clock: Hands) -> None:
    """A second process reads what the first one wrote."""
    record, _ = store.issue(AGENT, ROLE, DAY)
    again = TokenStore(tmp_path / "state" / "agents.db", clock)
    assert again.list() == (record,)
    again.close()


@pytest.mark.parametrize("ttl", [timedelta(0), -DAY, 90 * DAY + timedelta(microseconds=1)])
def test_life_is_bounded(store: TokenStore, ttl: timedelta) -> None:
    """No token lives longer than 90 days, or not at all."""
    with pytest.raises(SettingsError):
        _ = store.issue(AGENT, ROLE, ttl)
    _ = store.issue(AGENT, ROLE, 90 * DAY)


def test_revocation_is_final(store: TokenStore, clock: Hands) -> None:
    """A revoked token stays in the list and opens nothing; the first revocation counts."""
    record, _ = store.issue(AGENT, ROLE, DAY)
    store.revoke({record.id: Word(clock.now(), "owner", "lost")})
    revoked = store.get(record.id)
    assert revoked is not None
    assert (revoked.state, revoked.revoked_at) == ("revoked", clock.now())
    clock.time += DAY
    store.revoke(
        {record.id: Word(clock.now(), "", ""), TokenId("nobody"): Word(clock.now(), "", "")}
    )
    assert store.list() == (revoked,)
    assert store.load_usable() == ()


def test_expiry_is_told(store: TokenStore, clock: Hands) -> None:
    """A token past its time is listed as expired."""
    _ = store.issue(AGENT, ROLE, DAY)
    clock.time += DAY
    assert [record.state for record in store.list()] == ["expired"]
    assert store.load_usable() == ()


def test_use_is_kept(store: TokenStore, clock: Hands) -> None:
    """When a token was last used is kept."""
    record, _ = store.issue(AGENT, ROLE, DAY)
    store.note_use({})
    store.note_use({record.id: clock.now()})
    assert store.list()[0].last_used_at == clock.now()


def test_foreign_file_is_not_overwritten(tmp_path: Path, clock: Hands) -> None:
    """A file that is no database is an error, and stays what it was."""
    path = tmp_path / "state" / "agents.db"
    path.parent.mkdir(0o700)
    _ = path.write_bytes(b"something else" * 1000)
    with pytest.raises(StateCorruptError):
        _ = TokenStore(path, clock)
    assert path.read_bytes() == b"something else" * 1000


def issue(index: TokenIndex, clock: Hands, role: RoleName = ROLE) -> tuple[TokenRecord, str]:
    """Make a token that the index knows."""
    minted = mint()
    record = TokenRecord(
        minted.id, AGENT, role, minted.digest, "active", clock.now(), clock.now() + DAY
    )
    index.add(record)
    return record, minted.text.get_secret_value()


def test_principal_is_the_agent(clock: Hands) -> None:
    """A good token tells agent, role, id and end."""
    index = TokenIndex(clock)
    record, text = issue(index, clock)
    assert index.verify(text, ROLE) == Principal(AGENT, ROLE, record.id, record.expires_at)


def test_bad_tokens(clock: Hands) -> None:
    """Unknown, foreign, forged, expired and revoked tokens are refused, each for its reason."""
    index = TokenIndex(clock)
    record, text = issue(index, clock)
    forged = mint().text.get_secret_value()
    for wrong in ("", "x", forged, text + "x", text[:-1]):
        with pytest.raises(TokenUnknownError):
            _ = index.verify(wrong, ROLE)
    with pytest.raises(TokenUnknownError):
        _ = index.verify(text, RoleName("monitoring"))
    planted = TokenRecord(
        record.id, AGENT, ROLE, digest(forged), "active", clock.now(), clock.now() + DAY
    )
    index.load([planted])
    with pytest.raises(TokenUnknownError):
        _ = index.verify(text, ROLE)
    revoked = TokenRecord(
        record.id, AGENT, ROLE, record.digest, "revoked", clock.now(), clock.now() + DAY
    )
    index.load([revoked])
    with pytest.raises(TokenRevokedError):
        _ = index.verify(text, ROLE)
    clock.time += DAY
    with pytest.raises(TokenExpiredError):
        _ = index.verify(text, ROLE)


def test_ends_are_told(clock: Hands) -> None:
    """Whoever listens hears of every token that stops being usable, once."""
    index, told = TokenIndex(clock), list[TokenId]()
    index.on_closed = told.append
    first, _ = issue(index, clock)
    second, text = issue(index, clock)
    index.load([second])
    assert told == [first.id]
    index.remove(second.id)
    index.remove(second.id)
    assert told == [first.id, second.id]
    with pytest.raises(TokenUnknownError):
        _ = index.verify(text, ROLE)


def test_use_is_told_once_a_minute(clock: Hands) -> None:
    """However often a token is used, its use is reported at most once a minute."""
    index = TokenIndex(clock)
    record, text = issue(index, clock)
    for _ in range(5):
        _ = index.verify(text, ROLE)
    assert index.take_used() == {record.id: clock.now()}
    clock.time += timedelta(seconds=59)
    _ = index.verify(text, ROLE)
    assert index.take_used() == {}
    clock.time += timedelta(seconds=1)
    _ = index.verify(text, ROLE)
    assert index.take_used() == {record.id: clock.now()}


@final
class Meanwhile(Clock):
    """A clock at which something happens whenever it is looked at, as in another thread."""

    def __init__(self, time: datetime, act: Callable[[], None]) -> None:
        """Keep what happens."""
        self._time = time
        self._act = act

    @override
    def now(self) -> datetime:
        """Tell the time, after which something happened."""
        self._act()
        return self._time

    @override
    def monotonic(self) -> float:
        """Tell the same in seconds."""
        return self._time.timestamp()


def test_a_token_that_ends_while_it_is_read_is_refused(clock: Hands) -> None:
    """A revocation by another thread in the middle of a first look is a refusal, no failure."""
    token = mint()
    record = TokenRecord(
        token.id, AGENT, ROLE, token.digest, "active", clock.time, clock.time + DAY
    )
    index = TokenIndex(Meanwhile(clock.time, lambda: index.remove(token.id)))
    index.load([record])
    header = f"Bearer {token.text.get_secret_value()}".encode()
    with pytest.raises(TokenRevokedError):
        _ = index.verify_header(header, ROLE)
    with pytest.raises(TokenUnknownError):
        _ = index.verify_header(header, ROLE)
