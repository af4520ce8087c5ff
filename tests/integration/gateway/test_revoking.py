"""How soon a revoked token is refused, and what it has open is ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from orchestrator.model.names import TokenId

if TYPE_CHECKING:
    from integration.gateway.conftest import OpenRig

    from orchestrator.model.base import JsonObject


async def test_a_revoked_token_ends_within_a_second(open_rig: OpenRig) -> None:
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
                begun = time.monotonic()
                rig.tokens.remove(name)
                body, _ = caller.write("ping")
                assert (await caller.post(body)).status_code == 401
                refused = time.monotonic() - begun
                assert await talk.next() is None
                await rig.until(lambda: statuses)
                cut = time.monotonic() - begun
            assert statuses == [401]
            assert (refused < 0.5, cut < 1) == (True, True)
            await rig.until(lambda: rig.gateway.open_of(name) == 0)
            _ = await other.play(["word", "on"])
