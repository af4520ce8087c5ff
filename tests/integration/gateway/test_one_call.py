"""One approval lets one call happen, whatever an agent and a server do in the middle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast, final

import anyio
import pytest
from typing_extensions import override

from orchestrator.approvals.desk import ApprovalDesk
from orchestrator.approvals.people import Person
from orchestrator.approvals.store import ApprovalStore
from orchestrator.clock import SystemClock
from orchestrator.database import Database
from orchestrator.model.guards import Hold
from orchestrator.model.names import RoleName
from orchestrator.model.notes import NoteFields, Notes
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject

ABLE: JsonObject = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}
ROOTS: list[Json] = ["ask", "roots/list", {}]
WORD: list[Json] = ["word", "done"]
CANCELLED = "notifications/cancelled"


@final
class QuietNotes(Notes):
    """Keeps nothing."""

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        """Keep nothing."""


@final
class Office:
    """A desk for approvals that knows the policies of a gateway."""

    def __init__(self, root: Path) -> None:
        """Open it."""
        self.database = Database(root / "agents.db")
        self.desk = ApprovalDesk(
            ApprovalStore(self.database), SystemClock(), QuietNotes(), self.revision
        )
        self.rig: Rig | None = None

    def revision(self, role: RoleName) -> str | None:
        """Tell the policy of a role."""
        assert self.rig is not None
        place = self.rig.gateway._table.places().get(role)
        return None if place is None else place.policy.revision

    async def approve(self, result: JsonObject) -> str:
        """Say yes to a call that was refused."""
        name = str(refusal(result)["approvalId"])
        approval = await self.desk.find(name)
        _ = await self.desk.decide(name, "approve", approval.digest, Person("alice"))
        return name


@pytest.fixture
def office() -> Generator[Office]:
    """Open a desk."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    made = Office(root)
    yield made
    made.desk.close()
    made.database.close()
    shutil.rmtree(root)


def policy(**more: Json) -> RolePolicy:
    """Ask people about destructive tools."""
    return RolePolicy.model_validate({"approval": ["destructive"], **more}, strict=False)


def refusal(result: JsonObject, code: str = "approval.required") -> JsonObject:
    """Read what a refused call tells the model."""
    assert result.get("isError") is True, result
    told = cast("JsonObject", result["structuredContent"])
    assert told["code"] == code, told
    return told


async def test_a_call_that_waits_for_its_caller_is_not_begun_again(
    open_rig: OpenRig, office: Office
) -> None:
    """An answer without the state that it belongs to is another call, which needs its own yes."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("legacy", policy=policy(asks=["roots"]))
        async with rig.caller("modern", capabilities=ABLE) as caller:
            _ = await office.approve(await caller.play(ROOTS, tool="destroy"))
            asked = await caller.play(ROOTS, tool="destroy")
            assert asked["resultType"] == "input_required"
            # The first call is at the server still.
            _ = refusal(await caller.play(ROOTS, tool="destroy", inputResponses={}))
            assert len(instance.calls()) == 1


async def test_an_approved_read_is_not_repeated(open_rig: OpenRig, office: Office) -> None:
    """What is lost with its instance is not made by the next one under the same approval."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        rule = policy(approval=["look"])
        first = await rig.talker("modern", policy=rule)
        second = await rig.start("talker.py")
        crash: list[Json] = ["crash", str(rig.home / "crashed")]
        answers: list[JsonObject] = []
        async with rig.caller("modern") as caller:
            _ = await office.approve(await caller.play(crash))
            params: JsonObject = {"name": "look", "arguments": {"steps": [crash]}}

            async def call() -> None:
                answers.append(await caller.ask("tools/call", params))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rig.until(lambda: first.process.poll() is not None)
                rig.lose(first, generation=1)
                rig.publish("treasury", second, generation=2, policy=rule)
        assert len(first.calls()) + len(second.calls()) == 1
    _ = refusal(cast("JsonObject", answers[0]["result"]), "upstream.outcome_unknown")


async def test_an_approved_read_is_made_under_its_own_policy_alone(
    open_rig: OpenRig, office: Office
) -> None:
    """One that waited for its instance is not made when the role has another policy by then."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy(approval=["look"]))
        answers: list[JsonObject] = []
        async with rig.caller("modern") as caller:
            _ = await office.approve(await caller.play(WORD))
            rig.publish("treasury", None, waits=True, policy=policy(approval=["look"]))

            async def call() -> None:
                answers.append(await caller.play(WORD))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rig.until(lambda: rig.gateway._table._waiting)
                changed = policy(approval=["look"], prompts=["greet"])
                rig.publish("treasury", instance, generation=2, policy=changed)
        _ = refusal(answers[0], "approval.taken")
        assert instance.calls() == []


@pytest.mark.parametrize(
    ("seen", "sent"),
    [
        (123456789012345670000, 1.2345678901234567e20),
        (1, 1.0),
        (0, -0.0),
    ],
)
async def test_a_server_gets_the_numbers_that_were_approved(
    open_rig: OpenRig, office: Office, seen: int, sent: float
) -> None:
    """Numbers that have one name are sent as one: a server may read them in different ways."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            _ = await office.approve(await caller.play(["word", seen], tool="destroy"))
            _ = await caller.play(["word", sent], tool="destroy")
        (heard,) = instance.calls()
    (step,) = cast("list[list[Json]]", cast("JsonObject", heard["arguments"])["steps"])
    assert (step[1], type(step[1])) == (seen, int)


async def test_an_answer_does_not_pass_a_freeze(open_rig: OpenRig) -> None:
    """What a server waits for, to go on, is not given to it while the role is frozen."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=RolePolicy(asks=("roots",)))
        async with (
            rig.caller("legacy", capabilities=ABLE) as caller,
            caller.act(ROOTS, tool="destroy") as talk,
        ):
            asked = await talk.need()
            rig.gateway.guards.load([Hold(kind="frozen", role=RoleName("treasury"))])
            await caller.answer(asked, {"roots": [{"uri": "file:///go-on"}]})
            _ = await talk.rest()
        heard = [one for one in instance.received() if "method" not in one]
    assert not any("result" in one for one in heard), heard


@pytest.mark.parametrize(
    "later", [{"approval": ["destructive"]}, {"shadow": {"until": "2999-12-31"}}]
)
async def test_a_call_that_waits_is_not_made_past_a_new_rule(
    open_rig: OpenRig, office: Office, later: JsonObject
) -> None:
    """A role that asks people, or works in shadow, from now on makes nothing that came before."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern")
        answers: list[JsonObject] = []
        async with rig.caller("modern") as caller:
            rig.publish("treasury", None, waits=True)

            async def call() -> None:
                params: JsonObject = {"name": "destroy", "arguments": {"steps": [WORD]}}
                answers.append(await caller.ask("tools/call", params))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rig.until(lambda: rig.gateway._table._waiting)
                changed = RolePolicy.model_validate(later, strict=False)
                rig.publish("treasury", instance, generation=2, policy=changed)
        assert instance.calls() == []


async def test_a_call_that_waits_is_not_made_past_a_new_shadow(open_rig: OpenRig) -> None:
    """It was let in before, and its instance comes back when the role works in shadow."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        async with rig.caller("modern") as caller:
            rig.publish("treasury", None, waits=True)

            async def call() -> None:
                params: JsonObject = {"name": "change", "arguments": {"steps": [WORD]}}
                _ = await caller.ask("tools/call", params)

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rig.until(lambda: rig.gateway._table._waiting)
                rig.gateway.guards.load([Hold(kind="shadow", role=RoleName("treasury"))])
                rig.publish("treasury", instance)
        assert instance.calls() == []


async def test_a_parked_call_is_cancelled_before_its_question_is(open_rig: OpenRig) -> None:
    """A server does not take the end of a question for leave to go on with a frozen call."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=RolePolicy(asks=("roots",)))
        async with rig.caller("modern", capabilities=ABLE) as caller:
            asked = await caller.play(ROOTS, tool="destroy")
            rig.gateway.guards.load([Hold(kind="frozen", role=RoleName("treasury"))])
            answer: JsonObject = {
                "requestState": asked["requestState"],
                "inputResponses": {"q1": {"roots": []}},
            }
            _ = refusal(await caller.play(ROOTS, tool="destroy", **answer), "role.frozen")
            rig.gateway.guards.load([])
            rig.gateway._parking.close()
            await rig.until(lambda: instance.received("notifications/cancelled"))
        heard = instance.received()
    ends = [one for one in heard if "error" in one or one.get("method") == CANCELLED]
    assert ends[0].get("method") == CANCELLED, ends
