"""The operator decides as long as nobody else is named; then approvers who prove who they are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from orchestrator.approvals.people import IDLE_SECONDS, People
from orchestrator.approvals.roster import Roster
from orchestrator.errors import (
    ApprovalRequiredError,
    ApproverError,
    RecordUnavailableError,
    SettingsError,
)
from orchestrator.model.approval import Approver
from orchestrator.model.names import AgentName, RoleName

if TYPE_CHECKING:
    from tests.unit.approvals.conftest import World

RIGHT = SecretStr("correct horse battery")
WRONG = SecretStr("incorrect horse battery")
NOBODY = SecretStr("")


def open_people(world: World) -> People:
    """Open who may approve, as a fresh process does."""
    return People(Roster(world.database), world.clock, world.notes, "operator:root")


async def add(people: People, world: World, name: str, **more: str) -> None:
    """Name an approver."""
    new = Approver(AgentName(name), more.get("subject", ""), (), world.clock.now(), "operator:root")
    await people.add(new, RIGHT)


async def test_the_operator_decides_until_somebody_is_named(world: World) -> None:
    """From the first approver on a ticket is asked for, and again when the last one is gone."""
    people = open_people(world)
    assert people.who(NOBODY).name == "operator:root"

    await add(people, world, "alice", subject="sub-1")
    with pytest.raises(ApproverError, match="approvers are named"):
        _ = people.who(NOBODY)
    ticket = SecretStr(await people.log_in(AgentName("alice"), RIGHT))
    person = people.who(ticket)
    assert (person.name, person.subject) == ("alice", "sub-1")

    _ = await people.remove(AgentName("alice"), "alice")
    with pytest.raises(ApproverError):
        _ = people.who(ticket)
    assert people.who(NOBODY).name == "operator:root"
    assert world.notes.events() == ["approver.added", "approver.login", "approver.removed"]


async def test_approvers_are_there_after_a_restart(world: World) -> None:
    """Names and passphrases are kept, tickets are not, and no passphrase is on disk."""
    people = open_people(world)
    await add(people, world, "alice")
    ticket = SecretStr(await people.log_in(AgentName("alice"), RIGHT))

    again = open_people(world)

    assert [one.name for one in again.every()] == ["alice"]
    with pytest.raises(ApproverError, match="login is over"):
        _ = again.who(ticket)
    assert await again.log_in(AgentName("alice"), RIGHT)
    for path in world.root.iterdir():
        assert RIGHT.get_secret_value().encode() not in path.read_bytes()


async def test_a_ticket_lasts_as_long_as_it_is_used(world: World) -> None:
    """A quarter of an hour without a word ends it, whatever was before."""
    people = open_people(world)
    await add(people, world, "alice")
    ticket = SecretStr(await people.log_in(AgentName("alice"), RIGHT))
    for _ in range(4):
        world.clock.pass_by(timedelta(seconds=IDLE_SECONDS - 1))
        assert people.who(ticket).name == "alice"
    world.clock.pass_by(timedelta(seconds=IDLE_SECONDS))

    with pytest.raises(ApproverError, match="login is over"):
        _ = people.who(ticket)
    with pytest.raises(ApproverError):
        _ = people.who(SecretStr("made up"))


async def test_wrong_passphrases_are_slowed_down_and_recorded(world: World) -> None:
    """After a few, even the right one has to wait; each try is in the record."""
    people = open_people(world)
    await add(people, world, "alice")
    for _ in range(3):
        with pytest.raises(ApproverError, match="no approver of this name"):
            _ = await people.log_in(AgentName("alice"), WRONG)

    with pytest.raises(ApproverError, match="too many") as refused:
        _ = await people.log_in(AgentName("alice"), RIGHT)
    assert str(refused.value.hint).startswith("Try again in ")
    assert world.notes.events()[1:] == ["approver.refused"] * 4
    world.clock.pass_by(timedelta(seconds=3))
    assert await people.log_in(AgentName("alice"), RIGHT)


async def test_who_does_not_exist_is_refused_alike(world: World) -> None:
    """Nobody learns from the answer who is an approver."""
    people = open_people(world)
    await add(people, world, "alice")
    said: set[str] = set()
    for name in ("alice", "nobody"):
        with pytest.raises(ApproverError) as refused:
            _ = await people.log_in(AgentName(name), WRONG)
        said.add(str(refused.value))
    assert len(said) == 1


@pytest.mark.parametrize("text", ["", "short", "x" * 2_000])
async def test_passphrases_have_a_length(world: World, text: str) -> None:
    """Too short ones are refused, and the words do not hold them."""
    people = open_people(world)
    new = Approver(AgentName("alice"), "", (RoleName("a"),), world.clock.now(), "x")
    with pytest.raises(SettingsError, match="at least 12") as refused:
        await people.add(new, SecretStr(text))
    assert not text or text not in str(refused.value)
    assert people.every() == []


async def test_a_name_is_one_person(world: World) -> None:
    """Nobody takes over an approver by naming them again."""
    people = open_people(world)
    await add(people, world, "alice")
    with pytest.raises(SettingsError, match="already"):
        await add(people, world, "alice")
    with pytest.raises(ApproverError, match="no approver bob"):
        _ = await people.remove(AgentName("bob"), "alice")


async def test_what_cannot_be_recorded_is_not_done(world: World) -> None:
    """Nobody is named, removed or let in without a line in the record."""
    people = open_people(world)
    await add(people, world, "alice")
    world.notes.is_full = True
    with pytest.raises(RecordUnavailableError):
        await add(people, world, "bob")
    with pytest.raises(RecordUnavailableError):
        _ = await people.remove(AgentName("alice"), "alice")
    with pytest.raises(RecordUnavailableError):
        _ = await people.log_in(AgentName("alice"), RIGHT)
    assert [one.name for one in open_people(world).every()] == ["alice"]


async def test_a_name_is_one_person_however_it_is_written(world: World) -> None:
    """Capitals make no second person, neither for a quorum nor for who asked."""
    people = open_people(world)
    await add(people, world, "alice", subject="Sub-1")
    with pytest.raises(SettingsError, match="already"):
        await add(people, world, "Alice")
    person = people.named("alice")
    for agent in ("ALICE", "sub-1"):
        with pytest.raises(ApprovalRequiredError) as asked:
            _ = await world.desk.admit(world.wish(agent, agent=agent))
        with pytest.raises(ApproverError, match="asked for it"):
            _ = await world.decide(asked.value.approval, person=person)


async def test_made_up_names_are_tried_together(world: World) -> None:
    """Whoever tries names that nobody has waits, and frees no approver from waiting."""
    people = open_people(world)
    await add(people, world, "alice")
    for _ in range(3):
        with pytest.raises(ApproverError, match="no approver of this name"):
            _ = await people.log_in(AgentName("alice"), WRONG)
    for number in range(3):
        with pytest.raises(ApproverError, match="no approver of this name"):
            _ = await people.log_in(AgentName(f"n{number}"), WRONG)
    for name in ("n4", "alice"):
        with pytest.raises(ApproverError, match="too many"):
            _ = await people.log_in(AgentName(name), RIGHT)
