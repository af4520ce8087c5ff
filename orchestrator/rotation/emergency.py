"""Ends every credential of some roles at once, with a receipt, and lets them begin again."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final, final

import anyio
import anyio.to_thread

from orchestrator.errors import AgentsError, SecretNotFoundError, StateUnwritableError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Rotation, UpstreamRotation
from orchestrator.rotation.drive import Worker
from orchestrator.rotation.events import Event, Tell
from orchestrator.rotation.known import Parts
from orchestrator.rotation.ports import Credential, Instances
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.receipt import Proof, describe
from orchestrator.rotation.states import Hold, Stage, stopped
from orchestrator.rotation.store import Version
from orchestrator.tokens.desk import Revocation, TokenDesk
from orchestrator.tokens.record import USABLE

# How long an emergency waits for issuers; what is not dead by then is seen to later.
PROBE_SECONDS: Final = 30.0
# How late an issuer may still do what nobody waits for.
_LATE: Final = timedelta(days=1)


@final
class Emergency:
    """Tokens first, then processes, then what the processes had."""

    def __init__(  # noqa: PLR0913  what it ends
        self,
        *,
        parts: Parts,
        desk: TokenDesk,
        worker: Worker,
        prover: Prover,
        tell: Tell,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            parts: The upstream side.
            desk: The agents' side.
            worker: Works on rotations, which are stopped.
            prover: Sees credentials end.
            tell: Is told what happens.
            sleep: Waits between two looks.
        """
        self._parts = parts
        self._instances: Instances = parts.instances
        self._desk = desk
        self._worker = worker
        self._prover = prover
        self._tell = tell
        self._sleep = sleep

    async def revoke_all(self, roles: Sequence[RoleName], *, reason: str, by: str) -> JsonObject:
        """End everything of some roles, and keep them down.

        Returns:
            The receipt, which is kept as well.
        """
        clock, store = self._parts.clock, self._parts.store
        began, requested_at = clock.monotonic(), clock.now()
        receipt_id = secrets.token_hex(6)
        closed: dict[str, Json] = {}
        upstream: list[Json] = []
        try:
            try:
                tokens = await self._revoke_tokens(roles, reason, by)
            finally:
                # Not even a full disk leaves a process running. And before rotations are stopped:
                # one of them may be at a store that does not answer.
                async with anyio.create_task_group() as group:
                    for role in roles:
                        group.start_soon(self._close, role, reason, closed)
            unfinished = await anyio.to_thread.run_sync(store.unfinished)
            mine = [one for one in unfinished if one.role in roles]
            for rotation in mine:
                await self._worker.stop(rotation.id)
            # What a rotation issued in the moment before it was stopped.
            tokens += await self._revoke_tokens(roles, reason, by)
        except StateUnwritableError as error:
            raise StateUnwritableError(
                f"{error}; tokens are refused and processes ended, but only until the next start, "
                "and no upstream credential was revoked",
                hint="Make room on the disk, and revoke once more.",
            ) from error
        for rotation in mine:
            await self._end_rotation(rotation, receipt_id)
        async with anyio.create_task_group() as group:
            for version in await anyio.to_thread.run_sync(store.alive):
                if version.role in roles:
                    # No role has a current one any more: whatever starts gets a fresh one.
                    await self._set_stage(version, "previous")
                    group.start_soon(self._end_version, version, upstream)
        cuts = [cut for cut in closed.values() if isinstance(cut, int)]
        receipt: JsonObject = {
            "id": receipt_id,
            "roles": [*roles],
            "requested_at": requested_at.isoformat(),
            "requested_by": by,
            "reason": reason,
            "tokens": [one.describe() for one in tokens],
            "processes": closed,
            "calls_cut": sum(one.cut for one in tokens) + sum(cuts),
            "streams_left": sum(one.left for one in tokens),
            "upstream": upstream,
            "took_ms": round((clock.monotonic() - began) * 1000, 3),
        }
        await anyio.to_thread.run_sync(store.keep_receipt, receipt_id, receipt)
        return receipt

    async def sweep(self) -> None:
        """Look once more for credentials that nobody uses and that were not seen dead."""
        store = self._parts.store
        busy = {(one.role, one.old) for one in await anyio.to_thread.run_sync(store.unfinished)}
        busy |= {(one.role, one.new) for one in await anyio.to_thread.run_sync(store.unfinished)}
        for version in await anyio.to_thread.run_sync(store.alive):
            if version.stage != "current" and (version.role, version.version) not in busy:
                with anyio.move_on_after(PROBE_SECONDS):
                    await self._end_version(version, [])
        since = self._parts.clock.now() - _LATE
        for version in await anyio.to_thread.run_sync(store.doubtful, since):
            with suppress(AgentsError), anyio.move_on_after(PROBE_SECONDS):
                await self._end_late(version)

    async def _revoke_tokens(
        self, roles: Sequence[RoleName], reason: str, by: str
    ) -> tuple[Revocation, ...]:
        records = await anyio.to_thread.run_sync(self._desk.list)
        ids = [one.id for one in records if one.role in roles and one.state in USABLE]
        revoke = partial(self._desk.revoke_many, ids, by=by, reason=reason)
        done = await anyio.to_thread.run_sync(revoke)
        for one in done:
            self._tell(
                Event(
                    "token.revoked",
                    one.requested_at,
                    role=one.record.role,
                    agent=one.record.agent,
                    credential=one.record.id,
                    actor=by,
                    result=reason,
                    latency=one.refused_after,
                )
            )
        return done

    async def _close(self, role: RoleName, reason: str, closed: dict[str, Json]) -> None:
        try:
            closed[role] = await self._instances.close(role, reason)
        except AgentsError as error:
            closed[role] = str(error)

    async def _end_rotation(self, rotation: Rotation, receipt_id: str) -> None:
        async with self._worker.lock(rotation.id):
            now = self._parts.clock.now()
            before = await anyio.to_thread.run_sync(self._parts.store.get, rotation.id)
            after = stopped(before, {**(before.receipt or {}), "emergency": receipt_id}, now)
            _ = await self._worker.write(before, after, alarm=True)

    async def _end_version(self, version: Version, told: list[Json]) -> None:
        """End a credential without regard for who uses it, and write down what was seen."""
        clock = self._parts.clock
        give_up = clock.monotonic() + PROBE_SECONDS
        name: JsonObject = {"role": version.role, "version": version.version}
        try:
            issuer = self._parts.issuers(version.issuer)
            credential = await self._text(version)
            if not credential and version.issued_at is None and issuer.capabilities.lists:
                # Nobody knows whether it was made.
                found = await issuer.list(version.version)
                if version.version not in found:
                    await self._set_stage(version, "gone")
                    return
            rule = self._parts.rule(version.role) or UpstreamRotation()
            # Without overlap it ended when the next one was made, and one end may be everybody's.
            is_implied = not issuer.capabilities.overlap and await self._is_followed(version)
            while True:
                seen = await self._prover.end(
                    issuer, version, credential, None, rule.prove_within, is_implied=is_implied
                )
                if isinstance(seen, Proof):
                    await self._parts.vault(version.role).drop(version.role, version.version)
                    await self._set_stage(version, "gone")
                    told.append({**name, **describe(seen)})
                    return
                if isinstance(seen, Hold):
                    told.append({**name, "proved": False, "note": seen.why})
                    return
                if clock.monotonic() >= give_up:
                    told.append({**name, "proved": False, "note": "it is looked at again"})
                    return
                await self._sleep(seen.seconds)
        except AgentsError as error:
            told.append({**name, "proved": False, "note": str(error)})
        except Exception as error:  # noqa: BLE001  one issuer must not keep the others from it
            told.append({**name, "proved": False, "note": f"unexpected {type(error).__name__}"})

    async def _is_followed(self, version: Version) -> bool:
        """Tell whether its issuer made another one for the role, which is current."""
        current = await anyio.to_thread.run_sync(self._parts.store.current, version.role)
        return current is not None and current.issuer == version.issuer

    async def _end_late(self, version: Version) -> None:
        """End what an issuer made long after it was asked, when nobody waited any more."""
        issuer = self._parts.issuers(version.issuer)
        if not issuer.capabilities.lists or not issuer.capabilities.overlap:
            return
        found = await issuer.list(version.version)
        if version.version in found:
            _ = await issuer.revoke(version.version, found[version.version])

    async def _text(self, version: Version) -> Credential | None:
        try:
            return await self._parts.vault(version.role).get(version.role, version.version)
        except SecretNotFoundError:
            return None

    async def _set_stage(self, version: Version, stage: Stage) -> None:
        stages: dict[str, Stage] = {version.version: stage}
        await anyio.to_thread.run_sync(self._parts.store.set_stages, version.role, stages)
