"""A call is made once an approval, and never without; people decide what they were shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.approvals.desk import MOST_PENDING
from orchestrator.approvals.people import Person
from orchestrator.approvals.store import KEEP, KEEP_CONTENT
from orchestrator.errors import (
    ApprovalChangedError,
    ApprovalClosedError,
    ApprovalDeniedError,
    ApprovalRequiredError,
    ApprovalTakenError,
    ApprovalUnknownError,
    ApproverError,
    ArgumentsRefusedError,
    BusyError,
    RecordUnavailableError,
    StateUnwritableError,
)

if TYPE_CHECKING:
    from orchestrator.model.approval import Wish
    from tests.unit.approvals.conftest import World


async def ask(world: World, wish: Wish) -> ApprovalRequiredError:
    """Make a call that has to wait for people."""
    with pytest.raises(ApprovalRequiredError) as refused:
        _ = await world.desk.admit(wish)
    return refused.value


async def test_a_call_waits_once_however_often_it_comes(world: World) -> None:
    """The same call has one approval; its agent is told what a person does, and to repeat it."""
    first = await ask(world, world.wish())
    second = await ask(world, world.wish())

    assert first.approval == second.approval
    assert "nothing was done" in str(first)
    assert f"agents approvals approve {first.approval}" in str(first.required_action)
    assert "exactly this call again" in str(first.required_action)
    assert len(world.store.every(None, None, 10, world.clock.now())) == 1


async def test_equal_calls_at_the_same_time_have_one_approval(world: World) -> None:
    """Two calls that come together wait for the same yes."""
    names: list[str] = []

    async def one() -> None:
        names.append((await ask(world, world.wish())).approval)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
    assert len(set(names)) == 1


async def test_an_approved_call_goes_through_once(world: World) -> None:
    """What was approved is used up by one call; the next one waits for a yes of its own."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)

    held = await world.desk.admit(world.wish())
    await held.spend("r-2")
    held.release()

    again = await ask(world, world.wish())
    assert again.approval != name
    assert f"{name} was used" in str(again)
    used = world.find(name)
    assert (used.state, used.used_by) == ("used", "r-2")


async def test_two_calls_do_not_share_an_approval(world: World) -> None:
    """While a call holds an approval, an equal one is refused; what was not used is there again."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)
    held = await world.desk.admit(world.wish())

    with pytest.raises(ApprovalTakenError):
        _ = await world.desk.admit(world.wish())
    held.release()

    other = await world.desk.admit(world.wish())
    assert other.id == name
    await other.spend("r-3")
    with pytest.raises(ApprovalTakenError):
        await held.spend("r-2")


async def test_other_arguments_agents_tools_and_policies_are_other_calls(world: World) -> None:
    """An approval is for one agent's call of one tool with these arguments under this policy."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)

    others = [
        world.wish("2"),
        world.wish(agent="other"),
        world.wish(tool="burn"),
        world.wish_under(world.wish(), "p2"),
    ]
    asked = [await ask(world, other) for other in others]

    assert len({name, *(one.approval for one in asked)}) == len(others) + 1
    assert "under an earlier policy" in str(asked[-1])
    assert world.find(name).state == "approved"


@pytest.mark.parametrize("is_approved", [True, False])
async def test_time_ends_an_approval(world: World, is_approved: bool) -> None:
    """What waited too long, for people or for its call, counts no more."""
    name = (await ask(world, world.wish(lasts=timedelta(minutes=15)))).approval
    if is_approved:
        _ = await world.decide(name)
    world.clock.pass_by(timedelta(minutes=15))

    assert (await ask(world, world.wish())).approval != name
    assert world.find(name).state == "expired"
    with pytest.raises(ApprovalClosedError, match="is expired"):
        _ = await world.decide(name)
    assert world.store.tidy(world.clock.now()) == (name,)


async def test_time_ends_an_approval_that_is_held(world: World) -> None:
    """A call that waited for its instance until the approval's time was over is not made."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)
    held = await world.desk.admit(world.wish())
    world.clock.pass_by(timedelta(hours=2))

    with pytest.raises(ApprovalTakenError):
        await held.spend("r-2")


async def test_a_denial_is_told_to_the_agent(world: World) -> None:
    """A denied call stays denied as long as it could have waited, with the person's reason."""
    name = (await ask(world, world.wish())).approval
    digest = world.find(name).digest
    _ = await world.desk.decide(name, "deny", digest, Person("alice"), reason="not this month")

    with pytest.raises(ApprovalDeniedError, match="not this month"):
        _ = await world.desk.admit(world.wish())
    with pytest.raises(ApprovalClosedError, match="is denied"):
        _ = await world.decide(name)
    world.clock.pass_by(timedelta(hours=2))
    _ = await ask(world, world.wish())


async def test_a_quorum_counts_different_people(world: World) -> None:
    """Two yeses of one person are one; with the second person's the call may be made."""
    name = (await ask(world, world.wish(quorum=2))).approval
    _ = await world.decide(name)

    with pytest.raises(ApproverError, match="already"):
        _ = await world.decide(name)
    assert (await ask(world, world.wish(quorum=2))).approval == name
    assert (await world.decide(name, person=Person("bob"))).state == "approved"
    assert (await world.desk.admit(world.wish(quorum=2))).id == name


async def test_one_no_is_enough(world: World) -> None:
    """Whatever others said, a denial ends it."""
    name = (await ask(world, world.wish(quorum=2))).approval
    _ = await world.decide(name)
    _ = await world.decide(name, "deny", Person("bob"))

    with pytest.raises(ApprovalDeniedError):
        _ = await world.desk.admit(world.wish(quorum=2))


async def test_nobody_approves_for_themselves_under_another_name(world: World) -> None:
    """The subject of the asking agent is the same person, whatever the agent is called."""
    wish = replace(world.wish(), subject="sub-17")
    name = (await ask(world, wish)).approval

    with pytest.raises(ApproverError, match="nobody approves"):
        _ = await world.decide(name, person=Person("carol", subject="sub-17"))
    assert (await world.decide(name, person=Person("dora", subject="sub-18"))).state == "approved"


@pytest.mark.parametrize(
    ("person", "why"),
    [
        (Person("bot"), "nobody approves what they asked for"),
        (Person("carol", subject="bot"), "nobody approves what they asked for"),
        (Person("dave", roles=("support",)), "other roles"),  # pyright: ignore[reportArgumentType]
    ],
)
async def test_who_may_not_is_refused_and_recorded(world: World, person: Person, why: str) -> None:
    """Whoever asked, under any name, and whoever is there for other roles, decides nothing."""
    name = (await ask(world, world.wish())).approval

    with pytest.raises(ApproverError, match=why):
        _ = await world.decide(name, person=person)
    event, fields = world.notes.told[-1]
    assert (event, fields["by"], fields["code"]) == (
        "approval.refused",
        person.name,
        "approval.approver",
    )
    assert world.find(name).state == "pending"


async def test_what_was_not_shown_is_not_decided(world: World) -> None:
    """Another digest, an unknown name and an older policy are refused, and recorded."""
    name = (await ask(world, world.wish())).approval

    with pytest.raises(ApprovalChangedError):
        _ = await world.decide(name, digest="0" * 64)
    with pytest.raises(ApprovalUnknownError):
        _ = await world.desk.decide("ap-0000000000", "approve", "", Person("alice"))
    world.policy = "p2"
    with pytest.raises(ApprovalClosedError, match="another policy"):
        _ = await world.decide(name)
    assert world.notes.events() == ["approval.refused"] * 3
    assert world.find(name).votes == ()


async def test_a_decision_that_cannot_be_recorded_does_not_count(world: World) -> None:
    """Without its line in the record a yes has no effect."""
    name = (await ask(world, world.wish())).approval
    world.notes.is_full = True

    with pytest.raises(RecordUnavailableError):
        _ = await world.decide(name)
    assert world.find(name).state == "pending"


async def test_a_decision_is_recorded_with_what_it_is_about(world: World) -> None:
    """The line names who said what about which call of whom."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)

    event, fields = world.notes.told[-1]
    assert event == "approval.approved"
    assert fields == {
        "approval": name,
        "by": "alice",
        "role": "treasury",
        "agent": "bot",
        "tool": "pay",
        "arguments_sha256": "sha of 1",
        "policy": "p1",
        "reason": "",
        "channel": "socket",
        "missing": 0,
    }


async def test_a_crash_before_the_call_leaves_the_approval(world: World) -> None:
    """What was approved and not used is there after a restart, and what was used is not."""
    first = (await ask(world, world.wish("1"))).approval
    second = (await ask(world, world.wish("2"))).approval
    for name in (first, second):
        _ = await world.decide(name)
    _ = await world.desk.admit(world.wish("1"))
    held = await world.desk.admit(world.wish("2"))
    await held.spend("r-2")

    world.crash()

    assert (await world.desk.admit(world.wish("1"))).id == first
    assert (await ask(world, world.wish("2"))).approval != second


async def test_what_cannot_be_written_is_not_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call whose approval cannot be used up, or asked for, ends with a record that is down."""
    name = (await ask(world, world.wish())).approval
    _ = await world.decide(name)
    held = await world.desk.admit(world.wish())

    def fail(*_: object) -> bool:
        raise StateUnwritableError("full")

    monkeypatch.setattr(world.store, "use", fail)
    monkeypatch.setattr(world.store, "answering", fail)
    with pytest.raises(RecordUnavailableError):
        await held.spend("r-2")
    with pytest.raises(RecordUnavailableError):
        _ = await world.desk.admit(world.wish("3"))


async def test_an_agent_has_so_much_waiting_and_no_more(world: World) -> None:
    """One agent cannot fill the list; others still ask."""
    for number in range(MOST_PENDING):
        _ = await ask(world, world.wish(str(number)))

    with pytest.raises(BusyError):
        _ = await world.desk.admit(world.wish("more"))
    _ = await ask(world, world.wish("0"))
    _ = await ask(world, world.wish(agent="other"))


async def test_nobody_is_asked_to_read_megabytes(world: World) -> None:
    """Arguments that no person could look at are refused, and nothing of them is kept."""
    with pytest.raises(ArgumentsRefusedError, match="64 KiB"):
        _ = await world.desk.admit(world.wish("x" * 10_000_000))
    assert world.store.every(None, None, 10, world.clock.now()) == []


async def test_who_asks_first_is_told_to_others_once(world: World) -> None:
    """Whoever tells people of new calls hears of each once."""
    heard: list[str] = []
    world.desk.on_asked = lambda approval: heard.append(approval.id)

    name = (await ask(world, world.wish())).approval
    _ = await ask(world, world.wish())

    assert heard == [name]


async def test_contents_are_forgotten_but_for_the_last_approved(world: World) -> None:
    """A week after its end a call's content is gone, but for what the next is shown beside."""
    names: list[str] = []
    for amount in ("1", "2"):
        names.append((await ask(world, world.wish(amount))).approval)
        _ = await world.decide(names[-1])
        world.clock.pass_by(timedelta(minutes=1))
        held = await world.desk.admit(world.wish(amount))
        await held.spend("r")
    denied = (await ask(world, world.wish("3"))).approval
    _ = await world.decide(denied, "deny")

    world.clock.pass_by(KEEP_CONTENT + timedelta(hours=3))
    _ = world.store.tidy(world.clock.now())

    kept = [world.find(name).arguments is not None for name in (*names, denied)]
    assert kept == [False, True, False]
    world.clock.pass_by(KEEP)
    _ = world.store.tidy(world.clock.now())
    assert world.store.find(names[0], world.clock.now()) is None


async def test_a_diff_is_against_the_last_approved_of_the_tool(world: World) -> None:
    """What a call is shown beside was approved before it, of the same tool and role."""
    first = (await ask(world, world.wish("1"))).approval
    assert await world.desk.last_approved(world.find(first)) is None
    _ = await world.decide(first)
    world.clock.pass_by(timedelta(minutes=1))
    _ = await ask(world, world.wish("2", tool="burn"))
    second = (await ask(world, world.wish("2"))).approval

    last = await world.desk.last_approved(world.find(second))
    assert last is not None
    assert last.id == first
    assert await world.desk.last_approved(world.find(first)) is None


async def test_who_approved_may_take_it_back(world: World) -> None:
    """As long as others are missing, a no of the same person ends it."""
    name = (await ask(world, world.wish(quorum=2))).approval
    _ = await world.decide(name, person=Person("alice"))
    after = await world.decide(name, "deny", person=Person("alice"))
    assert (after.state, [vote.decision for vote in after.votes]) == ("denied", ["deny"])


async def test_people_behind_one_agent_ask_for_themselves(world: World) -> None:
    """Where several people use one client, what was approved for one is not another's."""
    ann, ben = (replace(world.wish(), subject=name) for name in ("ann", "ben"))
    first, second = await ask(world, ann), await ask(world, ben)
    assert first.approval != second.approval
    with pytest.raises(ApproverError, match="asked for it"):
        _ = await world.decide(second.approval, person=Person("b", "ben"))
    _ = await world.decide(first.approval, person=Person("b", "ben"))
    assert (await ask(world, ben)).approval == second.approval
    assert (await world.desk.admit(ann)).id == first.approval
