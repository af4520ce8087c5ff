"""Calls that people have to approve, at a real gateway in front of a real server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import suppress
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
from orchestrator.errors import StateUnwritableError
from orchestrator.model.notes import NoteFields, Notes
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, Instance, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.names import RoleName
    from orchestrator.model.snapshot import Era

DEMAND: JsonObject = {"approval": ["destructive"]}
ALICE = Person("alice")
STEPS: list[Json] = [["word", "done"]]
ROOTS: JsonObject = {"method": "roots/list", "params": {}}
REQUIRE: list[Json] = ["require", {"k": ROOTS}]
ABLE: JsonObject = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}


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
        self.store = ApprovalStore(self.database)
        self.desk = ApprovalDesk(self.store, SystemClock(), QuietNotes(), self.revision)
        self.rig: Rig | None = None

    def revision(self, role: RoleName) -> str | None:
        """Tell the policy of a role."""
        assert self.rig is not None
        place = self.rig.gateway._table.places().get(role)
        return None if place is None else place.policy.revision

    async def approve(self, reply: JsonObject) -> str:
        """Say yes to a call that was refused."""
        name = str(refusal(reply)["approvalId"])
        approval = await self.desk.find(name)
        _ = await self.desk.decide(name, "approve", approval.digest, ALICE)
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
    return RolePolicy.model_validate({**DEMAND, **more}, strict=False)


def refusal(result: JsonObject, code: str = "approval.required") -> JsonObject:
    """Read what a refused call tells the model."""
    assert result["isError"] is True, result
    told = cast("JsonObject", result["structuredContent"])
    assert (told["category"], told["code"]) == ("flow", code)
    return told


async def call(caller: Caller, steps: list[Json] = STEPS, **more: Json) -> JsonObject:
    """Call the destructive tool, and read its result."""
    return await caller.play(*cast("list[list[Json]]", steps), tool="destroy", **more)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_an_approved_call_is_made_once(open_rig: OpenRig, office: Office, era: Era) -> None:
    """The instance hears of a call once, after a person said yes, in either era."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker(era, policy=policy())
        async with rig.caller(era) as caller:
            asked = await call(caller)
            assert instance.calls() == []
            name = await office.approve(asked)
            assert (await call(caller)).get("isError") is not True
            again = refusal(await call(caller))
        assert len(instance.calls()) == 1
        assert again["approvalId"] != name
        used = await office.desk.find(name)
        record = rig.recorder.records
    intents = [entry for entry in record if entry.event == "intent"]
    assert (used.state, used.used_by) == ("used", intents[0].request_id)
    decisions = [entry for entry in record if entry.event == "decision"]
    assert {(one.code, one.rule) for one in decisions} == {
        ("approval.required", "approval.destructive")
    }


async def test_other_tools_ask_nobody(open_rig: OpenRig, office: Office) -> None:
    """What the role does not name is called as ever."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        _ = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            for tool in ("look", "change"):
                assert (await caller.play(*STEPS, tool=tool)).get("isError") is not True  # pyright: ignore[reportArgumentType]
    assert await office.desk.every(None, None, 10) == []


async def test_changed_arguments_are_another_call(open_rig: OpenRig, office: Office) -> None:
    """What was approved with some arguments is not made with others."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            _ = await office.approve(await call(caller))
            _ = refusal(await call(caller, [["word", "else"]]))
        async with rig.caller("modern", "other") as other:
            _ = refusal(await call(other))
        assert instance.calls() == []


async def test_equal_calls_at_once_are_made_once(open_rig: OpenRig, office: Office) -> None:
    """Of many equal calls at the same time one has the approval."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        results: list[JsonObject] = []
        async with rig.caller("modern") as caller:
            _ = await office.approve(await call(caller))

            async def one() -> None:
                results.append(await call(caller))

            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(one)
        assert len(instance.calls()) == 1
    assert sum(result.get("isError") is not True for result in results) == 1


async def test_another_policy_ends_an_approval(open_rig: OpenRig, office: Office) -> None:
    """What was approved under one policy is not made under the next."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            name = await office.approve(await call(caller))
            rig.publish("treasury", instance, policy=policy(prompts=["greet"]))
            told = refusal(await call(caller))
        assert instance.calls() == []
    assert f"{name} was asked for under an earlier policy" in str(told["message"])


async def test_a_policy_that_changes_while_a_call_waits(open_rig: OpenRig, office: Office) -> None:
    """A call that waited for its instance under one policy is not made under another."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        results: list[JsonObject] = []
        async with rig.caller("modern") as caller:
            name = await office.approve(await call(caller))
            rig.publish("treasury", None, waits=True, policy=policy())

            async def one() -> None:
                results.append(await call(caller))

            async with anyio.create_task_group() as group:
                group.start_soon(one)
                await rig.until(lambda: rig.gateway._table._waiting)
                changed = policy(prompts=["greet"])
                rig.publish("treasury", instance, generation=2, policy=changed)
        _ = refusal(results[0], "approval.taken")
        assert instance.calls() == []
        assert (await office.desk.find(name)).state == "approved"


async def test_a_read_tool_can_need_approval(open_rig: OpenRig, office: Office) -> None:
    """Its approval is used up before the call goes on, as nothing announces it."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy(approval=["look"]))
        async with rig.caller("modern") as caller:
            name = await office.approve(await caller.play(*STEPS))  # pyright: ignore[reportArgumentType]
            _ = await caller.play(*STEPS)  # pyright: ignore[reportArgumentType]
            _ = refusal(await caller.play(*STEPS))  # pyright: ignore[reportArgumentType]
        assert len(instance.calls()) == 1
    assert (await office.desk.find(name)).state == "used"


async def test_a_call_that_got_nowhere_keeps_its_approval(
    open_rig: OpenRig, office: Office
) -> None:
    """Where no instance took the call, the same approval lets the next one through."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            name = await office.approve(await call(caller))
            rig.publish("treasury", None, policy=policy())
            failed = await call(caller)
            told = cast("JsonObject", failed["structuredContent"])
            assert told["code"] == "upstream.unavailable"
            rig.publish("treasury", instance, generation=2, policy=policy())
            assert (await call(caller)).get("isError") is not True
    assert (await office.desk.find(name)).state == "used"


async def test_what_cannot_be_used_up_is_not_made(
    open_rig: OpenRig, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk an approved call is refused, and the instance hears nothing."""

    def fail(*_: object) -> bool:
        raise StateUnwritableError("the disk is full")

    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            _ = await office.approve(await call(caller))
            monkeypatch.setattr(office.store, "use", fail)
            refused = await call(caller)
        assert instance.calls() == []
    assert cast("JsonObject", refused["structuredContent"])["code"] == "audit.unavailable"


async def test_without_a_desk_nothing_is_made(open_rig: OpenRig) -> None:
    """A gateway that knows of no approvals refuses what needs one."""
    async with open_rig() as rig:
        instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            refused = await call(caller)
        assert instance.calls() == []
    assert cast("JsonObject", refused["structuredContent"])["code"] == "audit.unavailable"


async def test_a_call_that_is_asked_about_goes_on(open_rig: OpenRig, office: Office) -> None:
    """What a server asks in the middle is answered under the same approval, and only then."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy(asks=["roots"]))
        async with rig.caller("modern", capabilities=ABLE) as caller:
            name = await office.approve(await call(caller, [REQUIRE]))
            asked = await call(caller, [REQUIRE])
            assert asked["resultType"] == "input_required"
            answer: JsonObject = {
                "requestState": asked["requestState"],
                "inputResponses": {"k": {"roots": []}},
            }
            done = await call(caller, [REQUIRE], **answer)
            assert (done["resultType"], done.get("isError")) == ("complete", None)
            params: JsonObject = {"name": "destroy", "arguments": {"steps": [REQUIRE]}, **answer}
            again = await caller.ask("tools/call", params)
        assert "error" in again
        assert len(instance.calls()) == 2
    intents = [entry for entry in rig.recorder.records if entry.event == "intent"]
    assert len(intents) == 2
    assert (await office.desk.find(name)).state == "used"


async def test_answers_that_nobody_asked_for_are_left_out(
    open_rig: OpenRig, office: Office
) -> None:
    """What an agent adds beside the arguments, and nobody saw, does not reach the server."""
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance = await rig.talker("modern", policy=policy(asks=["roots"]))
        async with rig.caller("modern", capabilities=ABLE) as caller:
            _ = await office.approve(await call(caller))
            params: JsonObject = {"name": "destroy", "arguments": {"steps": STEPS}}
            sent: JsonObject = {**params, "inputResponses": {"k": {"roots": []}}}
            done = await caller.ask(
                "tools/call", sent, {"example.com/more": "hidden", "traceparent": "00"}
            )
        assert "result" in done
        (heard,) = instance.calls()
    assert "inputResponses" not in heard
    meta = cast("JsonObject", heard["_meta"])
    assert "example.com/more" not in meta
    assert meta["traceparent"] == "00"


async def test_a_call_that_its_caller_leaves(open_rig: OpenRig, office: Office) -> None:
    """A caller that hangs up while its call is with the instance has used its approval."""
    hold: list[Json] = [["hold"]]
    async with open_rig(gatekeeper=office.desk) as rig:
        office.rig = rig
        instance: Instance = await rig.talker("modern", policy=policy())
        async with rig.caller("modern") as caller:
            name = await office.approve(await call(caller, hold))
            with suppress(TimeoutError):
                async with anyio.create_task_group() as group:
                    group.start_soon(call, caller, hold)
                    await rig.until(instance.calls)
                    group.cancel_scope.cancel()
            _ = refusal(await call(caller, hold))
        assert len(instance.calls()) == 1
    assert (await office.desk.find(name)).state == "used"
