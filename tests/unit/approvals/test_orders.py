"""What the control socket is told about approvals, grants and approvers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, cast, final

import anyio
import pytest
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.approvals.links import Links
from orchestrator.approvals.orders import ApprovalOrders, Policies
from orchestrator.approvals.people import People
from orchestrator.approvals.roster import Roster
from orchestrator.errors import (
    ApprovalRequiredError,
    ApprovalUnknownError,
    ApproverError,
    LinkRefusedError,
    SettingsError,
)
from orchestrator.model.admin_governance import (
    ApprovalDecideRequest,
    ApprovalRequest,
    ApprovalsRequest,
    ApproverAddRequest,
    ApproverLoginRequest,
    ApproverRemoveRequest,
    ApproversRequest,
    GrantEndRequest,
    GrantRequest,
    GrantsRequest,
    LinkRequest,
)
from orchestrator.model.approval import Demand
from orchestrator.model.names import AgentName, RoleName, ToolName

if TYPE_CHECKING:
    from orchestrator.model.approval import Wish
    from orchestrator.model.base import JsonObject
    from tests.unit.approvals.conftest import World

HOUR = timedelta(hours=1)
ROLE = RoleName("treasury")
PAY = ToolName("pay")
WORDS = SecretStr("correct horse battery")


@final
class OnePolicy(Policies):
    """One role whose tools need some people."""

    def __init__(self, world: World, quorum: int = 1) -> None:
        """Ask for so many people."""
        self._world = world
        self.asked = Demand("approval.destructive", quorum, HOUR)

    @override
    def revision(self, role: RoleName) -> str | None:
        return self._world.policy if role == ROLE else None

    @override
    def demand(self, role: RoleName, tool: ToolName) -> Demand | None:
        return self.asked if (role, tool) == (ROLE, PAY) else None

    @override
    def demands(self) -> list[tuple[RoleName, ToolName, Demand]]:
        return [(ROLE, PAY, self.asked)]


@final
class Office:
    """Orders over a world."""

    def __init__(self, world: World, quorum: int = 1) -> None:
        """Open them."""
        self.world = world
        self.links = Links(world.root / "keys" / "links.key", world.clock.now)
        self.orders = ApprovalOrders(
            desk=world.desk,
            people=People(Roster(world.database), world.clock, world.notes, "operator:root"),
            links=self.links,
            policies=OnePolicy(world, quorum),
            clock=world.clock,
            notes=world.notes,
        )

    async def ask(self, wish: Wish) -> str:
        """Make a call that has to wait."""
        with pytest.raises(ApprovalRequiredError) as refused:
            _ = await self.world.desk.admit(wish)
        return refused.value.approval

    async def show(self, name: str) -> JsonObject:
        """Look at an approval."""
        return cast("JsonObject", await self.orders.answer(ApprovalRequest(id=name)))

    async def decide(self, name: str, link: str = "", ticket: str = "") -> JsonObject:
        """Say yes."""
        digest = str((await self.show(name))["digest"])
        request = ApprovalDecideRequest(
            id=name,
            decision="approve",
            digest=digest,
            link=SecretStr(link),
            ticket=SecretStr(ticket),
        )
        return cast("JsonObject", await self.orders.answer(request))

    async def name_one(self, name: str, ticket: str = "", roles: tuple[str, ...] = ()) -> str:
        """Name an approver, and let them in; gives the ticket."""
        request = ApproverAddRequest(
            name=AgentName(name),
            passphrase=WORDS,
            roles=tuple(map(RoleName, roles)),
            ticket=SecretStr(ticket),
        )
        _ = await self.orders.answer(request)
        login = ApproverLoginRequest(name=AgentName(name), passphrase=WORDS)
        return str(cast("JsonObject", await self.orders.answer(login))["ticket"])

    async def grant(self, **more: object) -> JsonObject:
        """Approve beforehand."""
        asked = {"role": ROLE, "tool": PAY, "lasts": "1h", "reason": "x", **more}
        request = GrantRequest.model_validate(asked)
        return cast("JsonObject", await self.orders.answer(request))


async def test_an_approval_is_told_with_its_difference(world: World) -> None:
    """What waits is shown beside the last call that was approved, field by field."""
    office = Office(world)
    first = await office.ask(world.wish("1", receipt="Pay {arguments.amount}."))
    assert (await office.show(first))["diff"] is None
    decided = await office.decide(first)
    assert (decided["state"], decided["missing"]) == ("approved", 0)
    world.clock.pass_by(timedelta(minutes=1))
    second = await office.ask(world.wish("2", receipt="Pay {arguments.amount}."))

    shown = await office.show(second)
    diff = cast("JsonObject", shown["diff"])
    assert diff["against"] == first
    assert diff["arguments"] == [
        {"place": "amount", "before": "1", "after": "2", "kind": "changed"}
    ]
    assert "- Pay 1." in cast("list[str]", diff["receipt"])
    assert "+ Pay 2." in cast("list[str]", diff["receipt"])
    listed = cast("list[JsonObject]", await office.orders.answer(ApprovalsRequest()))
    assert [one["id"] for one in listed] == [second, first]
    (waiting,) = cast(
        "list[JsonObject]", await office.orders.answer(ApprovalsRequest(state="pending"))
    )
    assert waiting["id"] == second


async def test_a_link_decides_once_and_for_its_own_approval(world: World) -> None:
    """An approver's own link needs no passphrase; forged, foreign and used ones are recorded."""
    office = Office(world)
    _ = await office.name_one("alice")
    name, other = await office.ask(world.wish("1")), await office.ask(world.wish("2"))
    link = office.links.make(name, world.clock.now() + HOUR, approver="alice")

    told = await office.orders.answer(LinkRequest(link=SecretStr(link)))
    assert cast("JsonObject", told)["approver"] == "alice"
    with pytest.raises(ApproverError, match="another approval"):
        _ = await office.decide(other, link)
    with pytest.raises(LinkRefusedError, match="not made here"):
        _ = await office.decide(name, f"{link.partition('.')[0]}.{'A' * 43}")
    done = await office.decide(name, link)
    assert done["state"] == "approved"
    (vote,) = cast("list[JsonObject]", done["votes"])
    assert (vote["by"], vote["channel"]) == ("alice", "link")
    with pytest.raises(LinkRefusedError, match="used already"):
        _ = await office.decide(other, link)
    assert world.notes.events().count("approval.refused") == 3


async def test_a_link_that_is_nobodys_asks_who_it_is(world: World) -> None:
    """Where a link names no approver, who follows it proves to be one."""
    office = Office(world)
    ticket = await office.name_one("alice")
    name = await office.ask(world.wish("1"))
    link = office.links.make(name, world.clock.now() + HOUR)

    with pytest.raises(ApproverError, match="one of them has to decide"):
        _ = await office.decide(name, link)
    assert (await office.decide(name, link, ticket))["state"] == "approved"


async def test_a_link_is_used_once_by_two_who_come_together(world: World) -> None:
    """Two people have to approve, and both follow one link: one of them needs another."""
    office = Office(world, quorum=2)
    alice = await office.name_one("alice")
    bob = await office.name_one("bob", alice)
    name = await office.ask(world.wish("1", quorum=2))
    link = office.links.make(name, world.clock.now() + HOUR)
    refused: list[str] = []

    async def follow(ticket: str) -> None:
        try:
            _ = await office.decide(name, link, ticket)
        except LinkRefusedError as error:
            refused.append(error.why)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(follow, alice)
            group.start_soon(follow, bob)
    assert refused == ["replayed"]
    assert (await office.show(name))["state"] == "pending"
    assert world.notes.events().count("approval.refused") == 1


async def test_a_link_ends_with_its_approver(world: World) -> None:
    """Who is no approver any more is shown no call, either."""
    office = Office(world)
    alice = await office.name_one("alice")
    bob = await office.name_one("bob", alice)
    name = await office.ask(world.wish("1"))
    link = LinkRequest(
        link=SecretStr(office.links.make(name, world.clock.now() + HOUR, approver="alice"))
    )
    _ = await office.orders.answer(link)
    removal = ApproverRemoveRequest(name=AgentName("alice"), ticket=SecretStr(bob))
    _ = await office.orders.answer(removal)
    with pytest.raises(ApproverError, match="no approver"):
        _ = await office.orders.answer(link)


async def test_approvers_name_approvers(world: World) -> None:
    """The first one is the operator's to name; the next ones are not."""
    office = Office(world)
    told = cast("JsonObject", await office.orders.answer(ApproversRequest()))
    assert told["operator"] == "operator:root"
    ticket = await office.name_one("alice")

    with pytest.raises(ApproverError):
        _ = await office.name_one("bob")
    _ = await office.name_one("bob", ticket)
    told = cast("JsonObject", await office.orders.answer(ApproversRequest()))
    assert told["operator"] is None
    listed = cast("list[JsonObject]", told["approvers"])
    assert [(one["name"], one["added_by"]) for one in listed] == [
        ("alice", "operator:root"),
        ("bob", "alice"),
    ]


async def test_a_grant_is_counted_and_ended(world: World) -> None:
    """So many calls of any arguments go through, by one agent, until somebody ends it."""
    office = Office(world)
    given = await office.grant(calls=2, agent="bot")
    for amount in ("1", "2"):
        held = await world.desk.admit(world.wish(amount))
        assert held.id == given["id"]
        await held.spend("r")
    _ = await office.ask(world.wish("3"))
    other = await office.grant()
    held = await world.desk.admit(world.wish("3"))
    request = GrantEndRequest(id=str(other["id"]))
    assert cast("JsonObject", await office.orders.answer(request))["state"] == "ended"

    with pytest.raises(Exception, match="is used by an equal call, or was used up"):
        await held.spend("r")
    with pytest.raises(ApprovalUnknownError):
        _ = await office.orders.answer(request)
    listed = cast("list[JsonObject]", await office.orders.answer(GrantsRequest()))
    assert sorted(str(one["state"]) for one in listed) == ["ended", "used up"]


async def test_a_grant_is_for_what_it_says(world: World) -> None:
    """Another agent, tool, policy or time is not in it, and neither is who gave it."""
    office = Office(world)
    ticket = await office.name_one("alice")
    _ = await office.grant(agent="bot", ticket=ticket)
    _ = await office.ask(world.wish(agent="other"))
    _ = await office.ask(world.wish(tool="burn"))
    _ = await office.ask(world.wish_under(world.wish(), "p2"))
    _ = await office.grant(ticket=ticket)
    assert (await world.desk.admit(world.wish(agent="other"))).id.startswith("gr-")
    _ = await office.ask(world.wish(agent="alice"))
    world.clock.pass_by(HOUR)
    _ = await office.ask(world.wish("9"))


async def test_what_cannot_be_granted(world: World) -> None:
    """No role, no tool, too long, for oneself, for other roles, or past a quorum."""
    office = Office(world)
    for more in ({"role": "other"}, {"tool": "look"}, {"lasts": "8d"}):
        with pytest.raises(SettingsError):
            _ = await office.grant(**more)
    ticket = await office.name_one("alice")
    support = await office.name_one("bob", ticket, ("support",))
    for more in ({"agent": "alice", "ticket": ticket}, {"ticket": support}, {}):
        with pytest.raises(ApproverError):
            _ = await office.grant(**more)
    strict = Office(world, quorum=2)
    ticket = str(
        cast(
            "JsonObject",
            await strict.orders.answer(
                ApproverLoginRequest(name=AgentName("alice"), passphrase=WORDS)
            ),
        )["ticket"]
    )
    with pytest.raises(ApproverError, match="2 people"):
        _ = await strict.grant(ticket=ticket)


async def test_too_few_people_are_told(world: World) -> None:
    """A quorum that nobody can reach is said where an operator looks."""
    office = Office(world, quorum=2)
    assert office.orders.shortages() == [
        "treasury wants 2 people to approve pay, and 1 may: `agents approvers add NAME`"
    ]
    ticket = await office.name_one("alice")
    _ = await office.name_one("bob", ticket, ("support",))
    assert len(office.orders.shortages()) == 1
    _ = await office.name_one("carol", ticket, ("treasury",))
    assert office.orders.shortages() == []


async def test_who_has_no_say_any_more_is_not_counted(world: World) -> None:
    """A removed approver's yes, and their grants, end with them; the operator's with the first."""
    office = Office(world, quorum=2)
    name = await office.ask(world.wish(quorum=2))
    assert (await office.decide(name))["missing"] == 1
    alice = await office.name_one("alice")
    assert (await office.show(name))["missing"] == 2
    carol = await office.name_one("carol", alice)
    _ = await office.decide(name, ticket=carol)
    _ = await office.orders.answer(
        ApproverRemoveRequest(name=AgentName("carol"), ticket=SecretStr(alice))
    )
    after = await office.decide(name, ticket=alice)
    assert (after["state"], after["missing"]) == ("pending", 1)


async def test_a_grant_ends_with_its_giver(world: World) -> None:
    """Whoever removes an approver ends what they approved beforehand."""
    office = Office(world)
    alice = await office.name_one("alice")
    carol = await office.name_one("carol", alice)
    grant = await office.grant(ticket=carol)
    _ = await office.orders.answer(
        ApproverRemoveRequest(name=AgentName("carol"), ticket=SecretStr(alice))
    )
    (told,) = cast("list[JsonObject]", await office.orders.answer(GrantsRequest()))
    assert (told["id"], told["state"], told["ended_by"]) == (grant["id"], "ended", "alice")


async def test_who_decides_about_one_role_names_nobody_for_others(world: World) -> None:
    """Nor do they remove anybody who decides about more, until the operator decides again."""
    office = Office(world)
    alice = await office.name_one("alice")
    bob = await office.name_one("bob", alice, roles=("executor",))
    for roles in ((), ("treasury",), ("executor", "treasury")):
        with pytest.raises(ApproverError, match="about executor alone"):
            _ = await office.name_one("eve", bob, roles)
    with pytest.raises(ApproverError, match="about executor alone"):
        _ = await office.orders.answer(
            ApproverRemoveRequest(name=AgentName("alice"), ticket=SecretStr(bob))
        )
    _ = await office.name_one("carol", bob, ("executor",))
