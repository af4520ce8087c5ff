"""Ends every credential of some roles at once, with a receipt, and lets them begin again."""

import secrets
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, final

import anyio
import anyio.to_thread

from orchestrator.errors import AgentsError, SecretNotFoundError, StateUnwritableError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, TokenId
from orchestrator.model.rotation import Closure, Rotation, UpstreamRotation
from orchestrator.rotation.drive import Worker
from orchestrator.rotation.events import Event, Tell
from orchestrator.rotation.known import Parts
from orchestrator.rotation.ports import Closures, Credential, Instances
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.receipt import Proof, describe
from orchestrator.rotation.states import Hold, Stage, stopped
from orchestrator.rotation.store import Version
from orchestrator.tokens.desk import Revocation, TokenDesk

# How long an emergency waits for issuers; what is not dead by then is seen to later.
PROBE_SECONDS: Final = 30.0
# How often it is tried to write what did not fit on the disk.
RETRY_SECONDS: Final = 1.0
# How late an issuer may still do what nobody waits for.
_LATE: Final = timedelta(days=1)


@final
class Emergency:
    """Tokens first, then processes, then what the processes had."""

    def __init__(  # noqa: PLR0913  what it ends
        self,
        *,
        parts: Parts,
        closures: Closures,
        desk: TokenDesk,
        worker: Worker,
        prover: Prover,
        tell: Tell,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            parts: The upstream side.
            closures: Keeps orders until they are carried out.
            desk: The agents' side.
            worker: Works on rotations, which are stopped.
            prover: Sees credentials end.
            tell: Is told what happens.
            sleep: Waits between two looks.
        """
        self._parts = parts
        self._instances: Instances = parts.instances
        self._closures = closures
        self._desk = desk
        self._worker = worker
        self._prover = prover
        self._tell = tell
        self._sleep = sleep
        # Orders that are being carried out, and whether there may be others.
        self._busy: set[str] = set()
        self._undone = anyio.Event()

    async def revoke_all(self, roles: Sequence[RoleName], *, reason: str, by: str) -> JsonObject:
        """End everything of some roles, and keep them down.

        Returns:
            The receipt, which is kept as well. Where it says that it is not durable, all of it
            holds, and what could not be written is tried again until it is.
        """
        closure = Closure(
            id=secrets.token_hex(6),
            roles=tuple(roles),
            reason=reason,
            requested_by=by,
            requested_at=self._parts.clock.now(),
        )
        return await self._carry_out(closure, ())

    async def keep(self) -> None:
        """Finish what a full disk, or the end of an earlier process, left undone; until cancelled.

        Raises:
            LockHeldError: Another engine took the database over.
        """
        while True:
            undone = self._undone = anyio.Event()
            for closure in self._closures.unfinished_closures():
                if closure.id not in self._busy:
                    with suppress(StateUnwritableError):
                        await self._finish(closure)
            if self._closures.unfinished_closures():
                await self._sleep(RETRY_SECONDS)
            else:
                await undone.wait()

    def under_way(self, role: RoleName) -> bool:
        """Tell whether an order to end everything of a role is not carried out to its end."""
        return any(role in one.roles for one in self._closures.unfinished_closures())

    async def _finish(self, closure: Closure) -> None:
        receipts = await anyio.to_thread.run_sync(self._parts.store.receipts)
        if any(one["id"] == closure.id for one in receipts):
            self._forget(closure)
            return
        # Its receipt tells of those, too, that were ended before.
        records = await anyio.to_thread.run_sync(self._desk.list)
        ended = [
            one.id
            for one in records
            if one.role in closure.roles
            and one.revoked_at is not None
            and one.revoked_at >= closure.requested_at
        ]
        _ = await self._carry_out(closure, ended)

    def _forget(self, closure: Closure) -> None:
        self._closures.catch_up()
        self._closures.finish_closure(closure)

    async def _carry_out(self, closure: Closure, ended: Sequence[TokenId]) -> JsonObject:
        """Do all of it, again or for the first time; each part may be done already.

        Args:
            closure: The order.
            ended: Tokens that were ended by an earlier try.
        """
        self._busy.add(closure.id)
        try:
            return await self._end_all(closure, ended)
        finally:
            self._busy.discard(closure.id)
            if closure in self._closures.unfinished_closures():
                self._undone.set()

    async def _end_all(self, closure: Closure, ended: Sequence[TokenId]) -> JsonObject:
        clock, store = self._parts.clock, self._parts.store
        began = clock.monotonic()
        closed: dict[str, JsonObject] = {}
        unwritten: list[StateUnwritableError] = []

        # In memory first, without a pause: neither a full disk nor a slow one leaves a token open.
        for role in closure.roles:
            self._desk.close(role)
        with _noting(unwritten):
            self._closures.begin_closure(closure)
        try:
            tokens = await self._revoke_tokens(closure, ended)
        finally:
            # Not even a full disk leaves a process running. And before rotations are stopped:
            # one of them may be at a store that does not answer.
            async with anyio.create_task_group() as group:
                for role in closure.roles:
                    group.start_soon(self._close, role, closure.reason, closed)
        upstream: list[Json] = []
        with _noting(unwritten):
            unfinished = await anyio.to_thread.run_sync(store.unfinished)
            for rotation in unfinished:
                if rotation.role in closure.roles:
                    await self._worker.stop(rotation.id)
                    with _noting(unwritten):
                        await self._end_rotation(rotation, closure.id)
        # What a rotation issued in the moment before it was stopped.
        tokens += await self._revoke_tokens(closure, ())
        with _noting(unwritten):
            upstream = await self._end_upstream(closure.roles, unwritten)
        receipt: JsonObject = {
            "id": closure.id,
            "roles": [*closure.roles],
            "requested_at": closure.requested_at.isoformat(),
            "requested_by": closure.requested_by,
            "reason": closure.reason,
            "durable": True,
            "tokens": [one.describe() for one in tokens],
            "processes": dict[str, Json](closed),
            "calls_cut": sum(one.cut for one in tokens) + sum(_cut(one) for one in closed.values()),
            "streams_left": sum(one.left for one in tokens),
            "upstream": upstream,
            "took_ms": round((clock.monotonic() - began) * 1000, 3),
        }
        if not unwritten and not self._desk.unwritten:
            with _noting(unwritten):
                await anyio.to_thread.run_sync(store.keep_receipt, closure.id, receipt)
                self._forget(closure)
                return receipt
        return {**receipt, "durable": False}

    async def _end_upstream(
        self, roles: Sequence[RoleName], unwritten: list[StateUnwritableError]
    ) -> list[Json]:
        versions = await anyio.to_thread.run_sync(self._parts.store.alive)
        mine = [version for version in versions if version.role in roles]
        for version in mine:
            # No role has a current one any more: whatever starts gets a fresh one.
            with _noting(unwritten):
                await self._set_stage(version, "previous")
        told: list[Json] = []
        async with anyio.create_task_group() as group:
            for version in mine:
                group.start_soon(self._end_version, version, told)
        return told

    async def sweep(self) -> None:
        """Look once more for credentials that nobody uses and that were not seen dead."""
        store = self._parts.store
        for version in await anyio.to_thread.run_sync(store.idle):
            with anyio.move_on_after(PROBE_SECONDS):
                await self._end_version(version, [])
        since = self._parts.clock.now() - _LATE
        for version in await anyio.to_thread.run_sync(store.doubtful, since):
            with suppress(AgentsError), anyio.move_on_after(PROBE_SECONDS):
                await self._end_late(version)

    async def _revoke_tokens(
        self, closure: Closure, ended: Sequence[TokenId]
    ) -> tuple[Revocation, ...]:
        by, reason = closure.requested_by, closure.reason
        ids = [*ended, *self._desk.of_roles(closure.roles)]
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

    async def _close(self, role: RoleName, reason: str, closed: dict[str, JsonObject]) -> None:
        try:
            cut = await self._instances.close(role, reason)
        except AgentsError as error:
            closed[role] = {"ended": False, "calls_cut": 0, "note": str(error)}
        else:
            left = ", ".join(self._instances.using(role))
            note = f"not seen to end: {left}" if left else ""
            closed[role] = {"ended": not left, "calls_cut": cut, "note": note}

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


@contextmanager
def _noting(unwritten: list[StateUnwritableError]) -> Generator[None]:
    """Go on without the rest of the block where something cannot be written, and note that."""
    try:
        yield
    except StateUnwritableError as error:
        unwritten.append(error)


def _cut(closed: JsonObject) -> int:
    cut = closed["calls_cut"]
    return cut if isinstance(cut, int) else 0
