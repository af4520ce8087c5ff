"""Further processes of a role: of the caller's era, and of the caller alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.names import RoleName
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.gateway.conftest import Instance, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.rules import Sharing
    from orchestrator.model.snapshot import Era, TargetRef

BOTH: frozenset[Era] = frozenset({"legacy", "modern"})
TREASURY = RoleName("treasury")
READS = RolePolicy(resources=("demo://a",))


def other(era: Era) -> Era:
    """Tell the other era."""
    return "legacy" if era == "modern" else "modern"


@dataclass(slots=True)
class Control:
    """Starts what the gateway asks for, or refuses it, as the control plane does."""

    rig: Rig
    is_refusing: bool = False
    is_deaf: bool = False
    wanted: list[tuple[str, Era, str]] = field(default_factory=list)
    asked: set[tuple[Era, str]] = field(default_factory=set)
    lanes: dict[tuple[Era, str], Instance] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    def want(self, role: RoleName, era: Era, owner: str) -> None:
        """Take a wish; it may come many times."""
        if (era, owner) not in self.asked:
            self.asked.add((era, owner))
            self.wanted.append((role, era, owner))
            self._news.set()

    async def run(self) -> None:
        """Do what is wished."""
        done = 0
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            for _, era, owner in self.wanted[done:]:
                done += 1
                if not self.is_deaf:
                    await self._start(era, owner)

    async def _start(self, era: Era, owner: str) -> None:
        route = self.rig.routes[TREASURY]
        if self.is_refusing:
            refused: Mapping[tuple[Era, str], str] = {**route.refused, (era, owner): "no"}
            self.rig.routes[TREASURY] = replace(route, refused=refused)
        else:
            lane = await self.rig.start("talker.py", era)
            name = f"treasury.tools.l{len(self.wanted)}"
            self.lanes[era, owner] = lane
            lanes: tuple[TargetRef, ...] = (*route.lanes, lane.ref(name, owner))
            self.rig.routes[TREASURY] = replace(route, lanes=lanes)
        self.rig.swap()


def steps_of(instance: Instance) -> list[Json]:
    """Read which words the calls that an instance got were about."""
    found: list[Json] = []
    for params in instance.calls():
        (step,) = cast("list[list[Json]]", cast("JsonObject", params["arguments"])["steps"])
        found.append(step[1])
    return found


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_caller_gets_a_process_of_its_era(open_rig: OpenRig, era: Era) -> None:
    """The first caller of an era waits for one; whoever speaks the other era does not."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        primary = await rig.talker(other(era), mirrors=BOTH)
        group.start_soon(control.run)
        async with rig.caller(era) as caller, rig.caller(other(era)) as quick:
            _ = await quick.play(["word", "quick"])
            assert not control.wanted
            _ = await caller.play(["word", "mirrored"])
            _ = await caller.play(["word", "again"])
            _ = await quick.play(["word", "still"])
        assert control.wanted == [("treasury", era, "")]
        assert steps_of(control.lanes[era, ""]) == ["mirrored", "again"]
        assert steps_of(primary) == ["quick", "still"]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_where_there_is_none_the_other_era_does(open_rig: OpenRig, era: Era) -> None:
    """A server that does not speak the caller's era, or could not be started in it, is bridged."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig, is_refusing=True)
        rig.gateway.on_wanted = control.want
        primary = await rig.talker(other(era))
        group.start_soon(control.run)
        async with rig.caller(era) as caller:
            _ = await caller.play(["word", "no mirror"])
            assert not control.wanted
            rig.publish("treasury", primary, mirrors=BOTH)
            _ = await caller.play(["word", "refused"])
            assert control.wanted == [("treasury", era, "")]
        assert steps_of(primary) == ["no mirror", "refused"]
        group.cancel_scope.cancel()


async def test_a_process_that_is_long_in_coming_is_not_waited_for(open_rig: OpenRig) -> None:
    """When patience ends the other era's process does, rather than none."""
    async with open_rig(GatewaySettings(target_patience_seconds=0.2)) as rig:
        control = Control(rig, is_deaf=True)
        rig.gateway.on_wanted = control.want
        primary = await rig.talker("modern", mirrors=BOTH)
        async with rig.caller("legacy") as caller:
            _ = await caller.play(["word", "late"])
        assert steps_of(primary) == ["late"]
        assert control.wanted == [("treasury", "legacy", "")]


async def test_the_role_s_own_process_is_waited_for(open_rig: OpenRig) -> None:
    """While the role's own process is replaced no further one is asked for in its place."""
    async with open_rig() as rig:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        first = await rig.talker("legacy", mirrors=BOTH)
        rig.lose(first)
        rig.publish("treasury", None, waits=True, mirrors=BOTH)
        second = await rig.start("talker.py", "legacy")
        async with rig.caller("legacy") as caller, anyio.create_task_group() as group:
            group.start_soon(lambda: caller.play(["word", "waits"]))
            await rig.until(lambda: rig.gateway._table._waiting)
            rig.publish("treasury", second, generation=2, mirrors=BOTH)
        assert steps_of(second) == ["waits"]
        assert not control.wanted


@pytest.mark.parametrize("sharing", ["per-agent", "per-session"])
async def test_an_owner_s_process_is_its_own(open_rig: OpenRig, sharing: Sharing) -> None:
    """Each agent, or each session, has its process, which nobody else's calls get to."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        primary = await rig.talker("modern", sharing=sharing, mirrors=BOTH)
        group.start_soon(control.run)
        async with (
            rig.caller("legacy", "one") as one,
            rig.caller("legacy", "one") as again,
            rig.caller("legacy", "two") as two,
            rig.caller("modern", "one") as modern,
        ):
            for word, caller in (("a", one), ("b", again), ("c", two), ("d", modern)):
                _ = await caller.play(["word", word])
                _ = await caller.play(["word", word * 2])
        assert not primary.calls()
        words = {key: steps_of(lane) for key, lane in control.lanes.items()}
        keys = list(dict.fromkeys(r.session for r in rig.recorder.records if r.session))
        if sharing == "per-agent":
            assert words == {
                ("legacy", "one"): ["a", "aa", "b", "bb"],
                ("legacy", "two"): ["c", "cc"],
                ("modern", "one"): ["d", "dd"],
            }
        else:
            assert len(keys) == 3
            assert words == {
                ("legacy", keys[0]): ["a", "aa"],
                ("legacy", keys[1]): ["b", "bb"],
                ("legacy", keys[2]): ["c", "cc"],
                ("modern", "one"): ["d", "dd"],
            }
        group.cancel_scope.cancel()


async def test_an_owner_s_server_of_one_era_is_bridged(open_rig: OpenRig) -> None:
    """Where only one era can be had, the owner's process is of that era."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        modern: frozenset[Era] = frozenset({"modern"})
        _ = await rig.talker("modern", sharing="per-agent", mirrors=modern)
        group.start_soon(control.run)
        async with rig.caller("legacy", "one") as caller:
            _ = await caller.play(["word", "bridged"])
        assert control.wanted == [("treasury", "modern", "one")]
        assert steps_of(control.lanes["modern", "one"]) == ["bridged"]
        group.cancel_scope.cancel()


async def test_an_owner_without_a_process_is_told(open_rig: OpenRig) -> None:
    """A refused process of one's own is told at once, and never replaced by somebody else's."""
    patient = GatewaySettings(target_patience_seconds=600)
    async with open_rig(patient) as rig, anyio.create_task_group() as group:
        control = Control(rig, is_refusing=True)
        rig.gateway.on_wanted = control.want
        primary = await rig.talker("legacy", sharing="per-agent", mirrors=BOTH)
        group.start_soon(control.run)
        async with rig.caller("legacy", "one") as caller:
            with anyio.fail_after(30):
                result = await caller.play(["word", "refused"])
        told = cast("JsonObject", result["structuredContent"])
        assert told["code"] == "upstream.unavailable"
        assert not primary.calls()
        group.cancel_scope.cancel()


async def test_a_session_s_process_speaks_to_its_session(open_rig: OpenRig) -> None:
    """What an instance of one session says beside calls comes on that session's stream alone."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        _ = await rig.talker("legacy", sharing="per-session", mirrors=BOTH, policy=READS)
        group.start_soon(control.run)
        async with (
            rig.caller("legacy", "one") as one,
            rig.caller("legacy", "two") as two,
        ):
            for caller in (one, two):
                _ = await caller.play(["word", ""])
            mine, theirs = control.lanes.values()
            async with one.listen() as talk, two.listen() as other_talk:
                for caller in (one, two):
                    _ = await caller.ask("resources/subscribe", {"uri": "demo://a"})
                await rig.touch(mine, "demo://a")
                assert (await talk.need())["params"] == {"uri": "demo://a"}
                await rig.say(mine, "notifications/message", {"level": "info", "data": "mine"})
                assert (await talk.need())["params"] == {"level": "info", "data": "mine"}
                await rig.touch(theirs, "demo://a")
                assert (await other_talk.need())["params"] == {"uri": "demo://a"}
            ended: list[str] = []
            rig.gateway.on_unwanted = lambda _, owner: ended.append(owner)
            assert (await one.http.delete(one.url)).status_code == 200
            assert [("legacy", owner) for owner in ended] == [next(iter(control.lanes))]
        group.cancel_scope.cancel()


async def test_a_process_that_is_not_named_any_more_drains(open_rig: OpenRig) -> None:
    """A reaped lane finishes its calls, and the next call gets another one."""
    async with open_rig() as rig, anyio.create_task_group() as group:
        control = Control(rig)
        rig.gateway.on_wanted = control.want
        _ = await rig.talker("modern", mirrors=BOTH, policy=RolePolicy(asks=("roots",)))
        group.start_soon(control.run)
        able: JsonObject = {"roots": {}}
        async with (
            rig.caller("legacy", capabilities=able) as caller,
            caller.act(["ask", "roots/list", {}]) as talk,
        ):
            question = await talk.need()
            reaped = control.lanes.pop(("legacy", ""))
            control.asked.clear()
            rig.routes[TREASURY] = replace(rig.routes[TREASURY], lanes=())
            rig.swap()
            _ = await caller.play(["word", "new"])
            await caller.answer(question, {"roots": []})
            assert "result" in (await talk.rest())[-1]
        assert steps_of(control.lanes["legacy", ""]) == ["new"]
        assert len(reaped.calls()) == 1
        group.cancel_scope.cancel()
