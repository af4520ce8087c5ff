"""How soon a revoked token is refused, and what it has open is ended."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord

if TYPE_CHECKING:
    from integration.gateway.conftest import MovedClock, OpenRig

    from orchestrator.model.base import JsonObject


async def test_what_changes_something_outlives_a_token_that_was_replaced(
    open_rig: OpenRig, moved_clock: MovedClock
) -> None:
    """When the overlap ends new calls are refused and reads are cut; what acts ends by itself."""
    minted, now = mint(), moved_clock.now()
    record = TokenRecord(
        id=minted.id,
        agent=AgentName("agent"),
        role=RoleName("treasury"),
        digest=minted.digest,
        state="retiring",
        created_at=now,
        expires_at=now + timedelta(days=1),
        retire_at=now + timedelta(hours=1),
    )
    async with open_rig(clock=moved_clock) as rig:
        instance = await rig.talker("modern")
        rig.tokens.add(record)
        token = minted.text.get_secret_value()
        statuses: dict[str, int] = {}
        async with rig.caller("legacy", token=token) as caller, anyio.create_task_group() as group:

            async def make(tool: str) -> None:
                call: JsonObject = {"name": tool, "arguments": {"steps": [["hold"]]}}
                body, _ = caller.write("tools/call", call)
                statuses[tool] = (await caller.post(body)).status_code

            group.start_soon(make, "look")
            group.start_soon(make, "destroy")
            await rig.until(lambda: len(instance.calls()) == 2)
            assert rig.gateway.changing(record.id) == 1
            moved_clock.ahead = timedelta(hours=1)
            await rig.until(lambda: statuses)
            body, _ = caller.write("ping")
            assert (await caller.post(body)).status_code == 401
            assert statuses == {"look": 401}
            assert rig.gateway.changing(record.id) == 1
            rig.tokens.remove(record.id)
            await rig.until(lambda: len(statuses) == 2)
            assert statuses["destroy"] == 401
            assert rig.gateway.changing(record.id) == 0


async def test_a_revoked_token_ends(open_rig: OpenRig) -> None:
    """Its next request is refused at once; calls and streams end, those of others go on."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        token = rig.token()
        name = TokenId(token.split("_")[1])
        call: JsonObject = {"name": "destroy", "arguments": {"steps": [["hold"]]}}
        statuses: list[int] = []
        async with (
            rig.caller("legacy", token=token) as caller,
            rig.caller("modern", "other") as other,
            anyio.create_task_group() as group,
        ):

            async def make() -> None:
                body, _ = caller.write("tools/call", call)
                statuses.append((await caller.post(body)).status_code)

            group.start_soon(make)
            await rig.until(instance.calls)
            async with caller.listen() as talk:
                await rig.until(lambda: rig.gateway.open_of(name) == 2)
                rig.tokens.remove(name)
                body, _ = caller.write("ping")
                assert (await caller.post(body)).status_code == 401
                # Neither would end by itself.
                assert await talk.next() is None
                await rig.until(lambda: statuses)
            assert statuses == [401]
            await rig.until(lambda: rig.gateway.open_of(name) == 0)
            _ = await other.play(["word", "on"])
