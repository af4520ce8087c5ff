"""Tokens in a rotation: pending, retiring, and the proof of their end."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast, final

import pytest
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.database import SCHEMA, Database
from orchestrator.errors import (
    RotationError,
    StateCorruptError,
    TokenError,
    TokenExpiredError,
    TokenUnknownError,
)
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

AGENT, ROLE = AgentName("claude"), RoleName("treasury")
DAY = timedelta(days=1)
OLD_TABLE = """CREATE TABLE tokens (
    id VARCHAR(12) NOT NULL PRIMARY KEY, agent VARCHAR(64) NOT NULL, role VARCHAR(32) NOT NULL,
    digest BLOB NOT NULL UNIQUE, state VARCHAR(16) NOT NULL, created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL, revoked_at BIGINT, revoked_by VARCHAR(64), reason VARCHAR(500),
    last_used_at BIGINT)"""


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


@final
class Office:
    """A desk with all that belongs to it."""

    def __init__(self, folder: Path) -> None:
        """Open it."""
        self.clock = Hands()
        self.store = TokenStore(folder / "state" / "agents.db", self.clock)
        self.open()

    def open(self) -> None:
        """Open it as a daemon that starts."""
        self.index = TokenIndex(self.clock)
        self.desk = TokenDesk(self.store, self.index, self.clock, Path("tokens"))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Give a desk."""
    made = Office(tmp_path)
    yield made
    made.store.close()


def test_a_pending_token_is_usable(office: Office) -> None:
    """The new token of a rotation works as soon as its agent has it, beside the old one."""
    old, old_text = office.desk.issue(AGENT, ROLE, DAY)
    new, new_text = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    assert (new.state, new.rotation_id) == ("pending", "r" * 12)
    for _ in range(2):
        for record, text in ((old, old_text), (new, new_text)):
            header = f"Bearer {text.get_secret_value()}".encode()
            assert office.index.verify_header(header, ROLE).token_id == record.id
        office.open()
    assert office.desk.of_rotation("r" * 12) == (new,)


def test_no_third_token_by_a_rotation(office: Office) -> None:
    """At most two tokens of an agent and role are usable while one is replaced."""
    for _ in range(2):
        _ = office.desk.issue(AGENT, ROLE, DAY)
    with pytest.raises(RotationError, match="two usable tokens"):
        _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    office.clock.time += DAY
    _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)


def test_a_retiring_token_ends_in_time(office: Office) -> None:
    """It works until its moment and not longer, whoever is awake, and never past its own end."""
    old, text = office.desk.issue(AGENT, ROLE, DAY)
    new, _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    retire_at = office.clock.now() + timedelta(hours=1)
    header = f"Bearer {text.get_secret_value()}".encode()
    _ = office.index.verify_header(header, ROLE)
    office.desk.overlap(new.id, old.id, retire_at)
    office.desk.overlap(new.id, old.id, retire_at + DAY)
    assert office.index.verify_header(header, ROLE).expires_at == retire_at
    office.clock.time += timedelta(minutes=59)
    _ = office.index.verify_header(header, ROLE)
    office.clock.time += timedelta(minutes=1)
    for _ in range(2):
        with pytest.raises(TokenError):
            _ = office.index.verify_header(header, ROLE)
        office.open()
    states = {one.id: one.state for one in office.desk.list()}
    assert states == {old.id: "expired", new.id: "active"}


def test_retiring_never_prolongs(office: Office) -> None:
    """An overlap longer than the old token's life ends with the token."""
    old, _ = office.desk.issue(AGENT, ROLE, DAY)
    new, _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    office.desk.overlap(new.id, old.id, office.clock.now() + 30 * DAY)
    office.clock.time += DAY
    with pytest.raises(TokenExpiredError):
        _ = office.index.look_by_id(old.id, ROLE)


def test_an_overlap_is_taken_back(office: Office) -> None:
    """The old token counts again, without an end of its own, and the new one is pending."""
    old, _ = office.desk.issue(AGENT, ROLE, DAY)
    new, _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    office.desk.overlap(new.id, old.id, office.clock.now() + timedelta(hours=1))
    office.desk.undo_overlap(new.id, old.id)
    assert office.desk.get(old.id) == old
    assert office.desk.get(new.id) == new
    office.clock.time += timedelta(hours=2)
    assert office.index.look_by_id(old.id, ROLE).token_id == old.id


def test_use_is_seen_each_time_it_is_asked_for(office: Office) -> None:
    """However soon the next use comes after the question, it is seen."""
    record, text = office.desk.issue(AGENT, ROLE, DAY)
    assert not office.index.was_used(record.id)
    for _ in range(3):
        _ = office.index.verify(text.get_secret_value(), ROLE)
        assert office.index.was_used(record.id)
        assert not office.index.was_used(record.id)
    assert not office.index.was_used(TokenId("nobody"))


def test_a_revocation_has_a_receipt(office: Office) -> None:
    """It tells when the token was first refused, and what was cut and is left."""
    record, text = office.desk.issue(AGENT, ROLE, DAY)
    streams = {record.id: 2}
    office.desk.count_open = lambda token_id: streams.get(token_id, 0)
    office.index.on_closed = lambda token_id: void(streams.pop(token_id))
    done = office.desk.revoke_with_receipt(record.id, by="ann", reason="lost")
    told = done.describe()
    assert (told["calls_cut"], told["streams_left"]) == (2, 0)
    assert told["refused_at"] is not None
    assert 0 <= done.refused_after < 0.5
    with pytest.raises(TokenUnknownError):
        _ = office.index.verify(text.get_secret_value(), ROLE)
    assert text.get_secret_value() not in str(told)


@pytest.mark.parametrize("step", ["overlap", "undo_overlap"])
def test_a_rotation_brings_no_revoked_token_back(
    office: Office, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is revoked while a rotation changes it stays refused, whoever comes last."""
    old, text = office.desk.issue(AGENT, ROLE, DAY)
    new, _ = office.desk.issue(AGENT, ROLE, DAY, rotation="r" * 12)
    change = cast("Callable[..., tuple[TokenRecord, ...]]", getattr(office.store, step))

    def change_and_revoke(*given: object) -> tuple[TokenRecord, ...]:
        records = change(*given)
        _ = office.desk.revoke(old.id, "leaked")
        return records

    monkeypatch.setattr(office.store, step, change_and_revoke)
    if step == "overlap":
        office.desk.overlap(new.id, old.id, office.clock.now() + timedelta(hours=1))
    else:
        office.desk.undo_overlap(new.id, old.id)
    with pytest.raises(TokenUnknownError):
        _ = office.index.verify(text.get_secret_value(), ROLE)


def void(_: object) -> None:
    """Want nothing of a value."""


def test_an_older_database_is_taken_over(tmp_path: Path) -> None:
    """Tokens of an older version stay; what its table did not have is added."""
    path = tmp_path / "agents.db"
    tmp_path.chmod(0o700)
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute(OLD_TABLE)
        _ = connection.execute(
            "INSERT INTO tokens VALUES ('id', 'claude', 'treasury', x'00', 'active', 0, 1, "
            "NULL, NULL, NULL, NULL)"
        )
        connection.commit()
    for _ in range(2):
        store = TokenStore(path, Hands())
        (record,) = store.list()
        assert (record.id, record.retire_at, record.rotation_id) == ("id", None, "")
        store.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is an error that says so, and is not changed."""
    path = tmp_path / "agents.db"
    tmp_path.chmod(0o700)
    with closing(sqlite3.connect(path)) as connection:
        _ = connection.execute(f"PRAGMA user_version={SCHEMA + 1}")
        _ = connection.execute("CREATE TABLE future (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(StateCorruptError, match="newer version"):
        _ = Database(path)
    assert path.read_bytes() == before
