"""When credentials are replaced."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clock import SystemClock
from orchestrator.model.auth import Auth
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.rotation import AgentRotation, Rotation, RotationRule, State
from orchestrator.rotation import schedule
from orchestrator.rotation.calendar import Calendar
from orchestrator.rotation.schedule import Due
from orchestrator.rotation.store import RotationStore
from orchestrator.tokens.desk import WORKSTATION, TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis adds the zone


@given(st.text(max_size=40), MOMENTS)
def test_day_80_to_88_of_90(key: str, issued_at: datetime) -> None:
    """A credential of 90 days is replaced on day 80 to 88, at the same moment whoever asks."""
    end = schedule.ends_at(issued_at, 90 * DAY, None)
    moment = schedule.due_at(key, issued_at, end)
    assert issued_at + 80 * DAY <= moment <= issued_at + 88 * DAY
    assert moment == schedule.due_at(key, issued_at, end)


@given(
    MOMENTS,
    st.timedeltas(timedelta(minutes=1), timedelta(days=3650)),
    st.none() | st.timedeltas(timedelta(minutes=1), timedelta(days=3650)),
)
def test_scaled_and_before_the_real_end(
    issued_at: datetime, every: timedelta, life: timedelta | None
) -> None:
    """Other intervals are scaled, no credential grows older than 90 days, a real end counts."""
    expires_at = None if life is None else issued_at + life
    end = schedule.ends_at(issued_at, every, expires_at)
    assert end <= issued_at + min(every, 90 * DAY)
    assert expires_at is None or end <= expires_at
    moment, span = schedule.due_at("role/agent", issued_at, end), end - issued_at
    assert issued_at + span * (79.99 / 90) <= moment <= issued_at + span * (88.01 / 90)


def test_credentials_of_one_day_are_spread() -> None:
    """What was issued at once is not replaced at once."""
    end = START + 90 * DAY
    moments = {schedule.due_at(f"role-{number}", START, end) for number in range(50)}
    assert len(moments) == 50
    assert max(moments) - min(moments) > 5 * DAY


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (15 * DAY, None),
        (14 * DAY, "14d"),
        (7 * DAY, "7d"),
        (3 * DAY, "3d"),
        (DAY, "1d"),
        (timedelta(0), "overdue"),
        (-DAY, "overdue"),
    ],
)
def test_warnings(left: timedelta, expected: str | None) -> None:
    """The end of a credential is told at 14, 7, 3 and 1 days, and afterwards."""
    end = START + 90 * DAY
    assert schedule.warning(START, end, end - left) == expected


def test_short_lives_warn_late() -> None:
    """A lease of an hour is not always near its end."""
    end = START + timedelta(hours=1)
    assert schedule.warning(START, end, START) is None
    assert schedule.warning(START, end, end) == "overdue"


@given(st.timedeltas(-1000 * DAY, 1000 * DAY), st.booleans())
def test_a_gap_of_more_than_a_week_is_a_jump(gap: timedelta, restarted: bool) -> None:
    """A clock that leaps by more than 7 days under a running engine is not believed."""
    now = START + gap
    started_at = START + timedelta(seconds=1) if restarted else START - DAY
    assert schedule.is_jump(START, now, started_at) == (gap > 7 * DAY and not restarted)
    assert not schedule.is_jump(None, now, started_at)


@given(st.lists(st.timedeltas(-DAY, 30 * DAY), max_size=5))
def test_the_next_look_is_never_late(offsets: list[timedelta]) -> None:
    """Due times are looked at when the first one comes, at least every hour, and not at once."""
    dues = tuple(_due(START + offset, START) for offset in offsets)
    wait = schedule.next_look(dues, START)
    assert timedelta(seconds=1) <= wait <= timedelta(hours=1)
    for due in dues:
        assert due.is_due or wait <= max(due.due_at - START, timedelta(seconds=1))


def test_what_is_being_replaced_is_not_looked_at_every_second() -> None:
    """A rotation of something due that is held for days does not keep the engine busy."""
    due = replace(_due(START - DAY, START), is_due=False)
    assert schedule.next_look((due,), START) == timedelta(hours=1)


def _due(moment: datetime, now: datetime) -> Due:
    return Due(
        role=RoleName("treasury"),
        purpose="upstream",
        agent="",
        credential="x",
        issued_at=now - DAY,
        expires_at=None,
        due_at=moment,
        is_due=moment <= now,
        warning=None,
        by_hand=False,
        note="",
        ends_at=now + 30 * DAY,
    )


async def test_a_jump_replaces_nothing(tmp_path: Path) -> None:
    """After a leap of the clock everything seems due; nothing is begun, for a day."""
    with time_machine.travel(START, tick=False) as traveller:
        clock, role = SystemClock(), RoleName("treasury")
        tokens = TokenStore(tmp_path / "state" / "agents.db", clock)
        store = RotationStore(tokens.database, clock)
        desk = TokenDesk(tokens, TokenIndex(clock), clock, tmp_path / "tokens")
        _ = desk.issue(WORKSTATION, role, 90 * DAY)
        _ = desk.issue(AgentName("claude"), role, 90 * DAY)
        calendar = Calendar(store, desk, lambda: [(role, RotationRule())], clock)
        await calendar.note_tick()
        assert (await calendar.choose()).wanted == ()
        traveller.move_to(START + 89 * DAY)
        choice = await calendar.choose()
        assert choice.wanted == ()
        assert choice.problem
        await calendar.note_tick()
        traveller.move_to(START + 89 * DAY + timedelta(hours=23))
        assert (await calendar.choose()).problem
        assert any("clock" in note for note in await calendar.notes())
        traveller.move_to(START + 89.5 * DAY)
        # Set back: believed again, and then nothing is due.
        traveller.move_to(START + DAY)
        choice = await calendar.choose()
        assert (choice.wanted, choice.problem) == ((), "")
        # A machine that was off is no leap: what is due is begun, but for what goes by hand.
        late = Calendar(store, desk, lambda: [(role, RotationRule())], clock)
        traveller.move_to(START + 89 * DAY)
        late = Calendar(store, desk, lambda: [(role, RotationRule())], clock)
        store.note_fact("clock_jump", None)
        wanted = (await late.choose()).wanted
        assert [one.agent for one in wanted] == [WORKSTATION]
        tokens.close()


async def test_who_gets_tokens_elsewhere_is_never_due(tmp_path: Path) -> None:
    """With an identity provider nobody replaces what agents were issued before."""
    clock, role = SystemClock(), RoleName("treasury")
    tokens = TokenStore(tmp_path / "state" / "agents.db", clock)
    desk = TokenDesk(tokens, TokenIndex(clock), clock, tmp_path / "tokens")
    for agent in (WORKSTATION, AgentName("claude")):
        _ = desk.issue(agent, role, 90 * DAY)
    desk.attend(Auth.model_construct(mode="oauth"))
    store = RotationStore(tokens.database, clock)
    calendar = Calendar(store, desk, lambda: [(role, RotationRule())], clock)
    assert [due.agent for due in await calendar.due()] == [WORKSTATION]
    tokens.close()


async def test_a_credential_that_no_role_has_is_told(tmp_path: Path) -> None:
    """When its role is gone it is listed and never begun, and there is a way to end it."""
    clock, role = SystemClock(), RoleName("treasury")
    tokens = TokenStore(tmp_path / "state" / "agents.db", clock)
    desk = TokenDesk(tokens, TokenIndex(clock), clock, tmp_path / "tokens")
    store = RotationStore(tokens.database, clock)
    rotation = Rotation(
        id="0" * 12, role=role, purpose="upstream", state=State.PLANNED, created_at=START,
        changed_at=START,
    )  # fmt: skip
    store.plan(rotation)
    done = rotation.model_copy(update={"state": State.DONE, "new": "v1"})
    store.write(rotation, done, stages={"v1": "current"}, asks="keys")
    calendar = Calendar(store, desk, tuple, clock)
    (due,) = await calendar.due()
    assert (due.credential, due.is_due) == ("v1", False)
    assert (await calendar.choose()).wanted == ()
    assert "`agents revoke-all treasury` ends it" in str(await calendar.notes())
    tokens.close()


async def test_nothing_due_writes_nothing(tmp_path: Path) -> None:
    """A look at due times changes no byte of the database."""
    clock, role = SystemClock(), RoleName("treasury")
    tokens = TokenStore(tmp_path / "state" / "agents.db", clock)
    store = RotationStore(tokens.database, clock)
    desk = TokenDesk(tokens, TokenIndex(clock), clock, tmp_path / "tokens")
    _ = desk.issue(WORKSTATION, role, 90 * DAY)
    rule = RotationRule(agent=AgentRotation(every=30 * DAY))
    calendar = Calendar(store, desk, lambda: [(role, rule)], clock)
    before = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    (due,) = await calendar.due()
    assert due.ends_at == due.issued_at + 30 * DAY
    assert (await calendar.choose()).wanted == ()
    assert await calendar.notes() == ()
    after = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    assert {
        path.name: hash(content)
        for path, content in before.items()
        if not path.name.endswith("-shm")
    } == {
        path.name: hash(content)
        for path, content in after.items()
        if not path.name.endswith("-shm")
    }
    tokens.close()
