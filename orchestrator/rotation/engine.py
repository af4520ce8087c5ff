"""Rotations: planned, worked on, looked at, and decided on by people."""

import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias, final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from pydantic import SecretStr, TypeAdapter
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError, LockHeldError, RotationError, RotationUnknownError
from orchestrator.model.base import HIDE_INPUT, JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, RotationRule, State
from orchestrator.rotation import agent as agents
from orchestrator.rotation import upstream
from orchestrator.rotation.calendar import Calendar, Roles
from orchestrator.rotation.decisions import Decisions
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.drive import Driver, Tools, Worker
from orchestrator.rotation.emergency import Emergency
from orchestrator.rotation.events import Event, Tell, event_of
from orchestrator.rotation.known import Parts, Turn
from orchestrator.rotation.ports import Credential, Instances, Issuer, Vault
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.schedule import Due, next_look
from orchestrator.rotation.states import is_inside, place
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.timing import Elapsed
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.record import USABLE
from orchestrator.tokens.verify import TokenIndex

# The daemon has enough to do when it starts.
FIRST_LOOK: Final = timedelta(minutes=2)
_SWEEP: Final = timedelta(minutes=5)
_PARTS: Final[TypeAdapter[dict[str, str]]] = TypeAdapter(dict[str, str], config=HIDE_INPUT)
Pause: TypeAlias = Callable[[float, anyio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the engine works with.

    Attributes:
        store: Rotations, in the project's database.
        desk: Tokens of agents.
        index: What the gateway asks of tokens.
        issuers: Who makes upstream credentials, by name.
        vault: Where a role's are kept.
        instances: The processes of roles.
        roles: The roles that are applied and their rules, from the least to the most power.
        deliverer: Brings tokens to agents.
        streams_open: Tells how many requests and streams of a token are open.
        clock: Where time comes from.
        tell: Is told what happens.
        log: Structured log.
        fingerprint_key: Makes fingerprints of credentials; a new one each time without it.
        pause: Waits for a time, or until an event; the usual way without it.
    """

    store: RotationStore
    desk: TokenDesk
    index: TokenIndex
    issuers: Callable[[str], Issuer]
    vault: Callable[[RoleName], Vault]
    instances: Instances
    roles: Roles
    deliverer: Deliverer
    streams_open: Callable[[TokenId], int]
    clock: Clock
    tell: Tell
    log: FilteringBoundLogger
    fingerprint_key: bytes | None = None
    pause: Pause | None = None


@final
class Engine:
    """Replaces credentials, and sees the old ones dead."""

    def __init__(self, world: World) -> None:
        """Prepare; nothing is worked on before `run`."""
        self._world = world
        self._store = world.store
        self._group: TaskGroup | None = None
        self._running = anyio.Event()
        self._turn = Turn()
        elapsed, prover = Elapsed(world.clock), Prover(world.clock)
        parts = Parts(
            store=world.store,
            issuers=world.issuers,
            vault=world.vault,
            instances=world.instances,
            rule=lambda role: None if (rule := self._rule(role)) is None else rule.upstream,
            clock=world.clock,
            fingerprint_key=world.fingerprint_key or os.urandom(32),
        )
        self._upstream = upstream.UpstreamDriver(parts, self._turn, elapsed, prover)
        self._agents = agents.AgentDriver(
            agents.Parts(
                desk=world.desk,
                index=world.index,
                deliverer=world.deliverer,
                rule=lambda role: None if (rule := self._rule(role)) is None else rule.agent,
                streams_open=world.streams_open,
                clock=world.clock,
                tell=world.tell,
            ),
            elapsed,
        )
        self._drivers: Mapping[Purpose, Driver] = {
            "agent": self._agents,
            "upstream": self._upstream,
        }
        tools = Tools(
            store=world.store,
            drivers=self._drivers,
            turn=self._turn,
            elapsed=elapsed,
            clock=world.clock,
            tell=world.tell,
            log=world.log,
        )
        self._worker = Worker(tools if world.pause is None else replace(tools, pause=world.pause))
        self._decisions = Decisions(
            self._worker, self._upstream, self._drivers, world.store, world.clock
        )
        self._calendar = Calendar(world.store, world.desk, world.roles, world.clock)
        self._emergency = Emergency(
            parts=parts,
            desk=world.desk,
            worker=self._worker,
            prover=prover,
            tell=world.tell,
            sleep=self._sleep,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work on rotations, and begin what is due, until cancelled.

        Raises:
            LockHeldError: Another engine took the database over.
            StateUnwritableError: The database cannot be used at the start.
        """
        unfinished = await self.recover()
        async with anyio.create_task_group() as group:
            self._group = group
            for rotation in unfinished:
                _ = self._drive(rotation)
            self._running.set()
            task_status.started()
            group.start_soon(self._look_after)
            await self._worker.fenced.wait()
            raise LockHeldError("another process works on the rotations of this project")

    async def recover(self) -> tuple[Rotation, ...]:
        """Take the database over, and tell what an earlier engine left unfinished.

        Raises:
            StateUnwritableError: The database cannot be used.
        """
        await anyio.to_thread.run_sync(self._store.take_over)
        unfinished = await anyio.to_thread.run_sync(self._store.unfinished)
        for rotation in unfinished:
            if is_inside(rotation) and place(rotation) is not State.MINTING:
                _ = self._turn.take(rotation.id)
        return unfinished

    async def drive(self, rotation_id: str) -> None:
        """Work on one rotation until it is finished or held."""
        await self._worker.drive(rotation_id)

    # What happened and what comes.

    async def rotations(self, role: RoleName | None = None) -> tuple[Rotation, ...]:
        """Tell all rotations, or those of one role, the oldest first."""
        return await anyio.to_thread.run_sync(self._store.all, role)

    async def get(self, rotation_id: str) -> Rotation:
        """Tell one rotation.

        Raises:
            RotationUnknownError: There is none with this id.
        """
        return await anyio.to_thread.run_sync(self._store.get, rotation_id)

    async def follow(self, rotation_id: str) -> AsyncGenerator[Rotation]:
        """Give a rotation as it is, then again at each change, until it is finished or held.

        Raises:
            RotationUnknownError: There is none with this id.
        """
        last = None
        while True:
            news = self._worker.news
            rotation = await self.get(rotation_id)
            if rotation != last:
                yield rotation
            if rotation.state in FINISHED or rotation.state is State.HELD:
                return
            last = rotation
            await news.wait()

    async def wait(self, rotation_id: str) -> Rotation:
        """Wait until a rotation is finished or held.

        Raises:
            RotationUnknownError: There is none with this id.
        """
        while True:
            news = self._worker.news
            rotation = await self.get(rotation_id)
            if rotation.state in FINISHED or rotation.state is State.HELD:
                return rotation
            await news.wait()

    async def due(self) -> tuple[Due, ...]:
        """Tell every current credential, and when it is replaced."""
        return await self._calendar.due()

    async def notes(self) -> tuple[str, ...]:
        """Tell what a person should know, in sentences."""
        return await self._calendar.notes()

    async def credential(self, role: RoleName, version: str = "") -> tuple[str, Credential]:
        """Give an upstream credential.

        Args:
            role: Whose.
            version: Which; the current one if empty.

        Raises:
            RotationError: There is none yet.
            SecretError: It cannot be read.
        """
        if not version:
            current = await anyio.to_thread.run_sync(self._store.current, role)
            if current is None:
                raise RotationError(
                    f"role {role} has no credential yet",
                    hint=f"`agents rotate status {role}` tells what is missing.",
                )
            version = current.version
        return version, await self._world.vault(role).get(role, version)

    def take(self, rotation_id: str) -> SecretStr | None:
        """Give the new token of an agent that gets it by hand, once."""
        return self._agents.take(rotation_id)

    # What begins.

    async def plan(
        self, role: RoleName, purpose: Purpose, agent: str = "", *, reason: str, by: str
    ) -> Rotation:
        """Begin to replace a credential; on disk before this returns.

        Raises:
            RotationBusyError: That is under way.
            RotationError: It cannot be replaced.
        """
        # First of all: a token that is being replaced is one of two.
        await anyio.to_thread.run_sync(self._store.require_free, role, purpose, agent)
        if purpose == "agent":
            old = await self._token_of(role, agent)
        else:
            current = await anyio.to_thread.run_sync(self._store.current, role)
            old = "" if current is None else current.version
        return await self._begin(role, purpose, agent, old, reason=reason, by=by)

    async def _begin(  # noqa: PLR0913  facts of one row
        self, role: RoleName, purpose: Purpose, agent: str, old: str, *, reason: str, by: str
    ) -> Rotation:
        rule = self._rule(role)
        if rule is None:
            raise RotationUnknownError(f"role {role} is not applied here")
        if purpose == "upstream" and (rule.upstream is None or rule.upstream.issuer is None):
            raise RotationUnknownError(
                f"role {role} has no upstream credential of an issuer",
                hint="`rotation: {upstream: {issuer: NAME}}` in its role file.",
            )
        now = self._world.clock.now()
        rotation = Rotation(
            id=secrets.token_hex(6),
            role=role,
            purpose=purpose,
            agent=agent,
            state=State.PLANNED,
            old=old,
            reason=reason,
            requested_by=by,
            created_at=now,
            changed_at=now,
            moments={State.PLANNED: now},
        )
        await anyio.to_thread.run_sync(self._store.plan, rotation)
        self._world.tell(event_of("rotation.planned", rotation, now, result=reason))
        return self._drive(rotation)

    async def tick(self, by: str) -> tuple[Rotation, ...]:
        """Begin what is due; only reads when nothing is."""
        choice = await self._calendar.choose()
        if choice.problem:
            self._alarm("rotation.tick", choice.problem)
        begun: list[Rotation] = []
        for one in choice.wanted:
            plan = partial(self.plan, one.role, one.purpose, one.agent, reason="due", by=by)
            try:
                begun.append(await plan())
            except RotationError as error:
                self._alarm("rotation.tick", f"{one.agent or one.role}: {error}", one.role)
        return tuple(begun)

    async def first(self, role: RoleName) -> None:
        """Make sure that a role that is about to start has an upstream credential that lives.

        Raises:
            RotationError: It cannot be made, or a person has to.
        """
        await self._running.wait()
        current = await anyio.to_thread.run_sync(self._store.current, role)
        now = self._world.clock.now()
        if current is not None and (current.expires_at is None or now < current.expires_at):
            return
        found = await anyio.to_thread.run_sync(self._store.unfinished)
        mine = [one for one in found if (one.role, one.purpose) == (role, "upstream")]
        if mine and mine[0].old and mine[0].state is not State.HELD:
            # It may need what waits for this: whoever has a change's turn must not wait for it.
            raise RotationError(
                f"the credential of {role} has ended; rotation {mine[0].id} replaces it",
                hint=f"`agents rotate status {mine[0].id}` tells how far it is.",
            )
        # As if there were none: no instance works with one that has ended.
        rotation = (
            mine[0] if mine else await self._begin(role, "upstream", "", "", reason="first", by="")
        )
        async with aclosing(self.follow(rotation.id)) as changes:
            async for rotation in changes:
                if rotation.tries > 1 and rotation.state is not State.HELD:
                    # It goes on; meanwhile the role says what is wrong.
                    raise RotationError(
                        f"role {role} waits for its first credential: {rotation.error}",
                        hint=f"`agents rotate resume {rotation.id}` tries at once.",
                    )
        if rotation.state is State.HELD:
            raise RotationError(
                f"role {role} waits for its first credential: {rotation.held_for}",
                hint=f"`agents rotate status {rotation.id}`",
            )
        if rotation.state is State.FAILED:
            raise RotationError(f"the first credential of {role} was not made: {rotation.error}")

    # What people decide.

    async def resume(self, rotation_id: str, by: str) -> Rotation:
        """Let a held rotation go on; one that waits for its next try is tried now.

        Raises:
            RotationUnknownError: There is none that could go on.
        """
        return self._drive(await self._decisions.go_on(rotation_id, by))

    async def approve_revoke(self, rotation_id: str, by: str) -> Rotation:
        """Take a person's word that they ended a credential.

        Raises:
            RotationUnknownError: No rotation waits for that.
        """
        return self._drive(await self._decisions.approve(rotation_id, by))

    async def abort(self, rotation_id: str, by: str) -> Rotation:
        """Take a rotation back.

        Raises:
            RotationUnknownError: It is too late for that.
        """
        return self._drive(await self._decisions.abort(rotation_id, by))

    async def provide(self, rotation_id: str, value: SecretStr, by: str) -> Rotation:
        """Take a credential that a person made.

        Raises:
            RotationUnknownError: No rotation waits for one.
            SecretError: It cannot be kept.
        """
        return self._drive(await self._decisions.provide(rotation_id, value, by))

    async def revoke_all(self, roles: Sequence[RoleName], *, reason: str, by: str) -> JsonObject:
        """End every credential of some roles at once, and keep them down.

        Returns:
            The receipt.
        """
        return await self._emergency.revoke_all(roles, reason=reason, by=by)

    async def reopen(self, role: RoleName, by: str) -> None:
        """Let a role run again, with fresh credentials.

        Raises:
            RotationError: It is not applied.
        """
        rule = self._rule(role)
        if rule is None:
            raise RotationUnknownError(f"role {role} is not applied here")
        await self._world.instances.reopen(role)
        await anyio.to_thread.run_sync(self._world.desk.keep_workstation_tokens, [role])
        records = await anyio.to_thread.run_sync(self._world.desk.list)
        served = {one.agent for one in records if one.role == role and one.state in USABLE}
        for agent in rule.agent.deliver:
            if agent not in served:
                _ = await self.plan(role, "agent", agent, reason="reopened", by=by)

    # How it works.

    def _rule(self, role: RoleName) -> RotationRule | None:
        return dict(self._world.roles()).get(role)

    def _drive(self, rotation: Rotation) -> Rotation:
        if self._group is not None and rotation.state is not State.HELD:
            self._group.start_soon(self._worker.drive, rotation.id)
        return rotation

    async def _token_of(self, role: RoleName, agent: str) -> TokenId:
        """Tell the token that a rotation ends; empty if the agent has none."""
        _ = AgentName(agent)
        records = await anyio.to_thread.run_sync(self._world.desk.list)
        mine = [one for one in records if (one.role, one.agent) == (role, agent)]
        usable = [one.id for one in mine if one.state in USABLE]
        if len(usable) > 1:
            raise RotationError(
                f"agent {agent} has {len(usable)} usable tokens for role {role}",
                hint="Revoke all but the one that it uses: `agents token list`.",
            )
        return usable[0] if usable else TokenId("")

    async def _look_after(self) -> None:
        """Begin what is due, now and then, and end what was left over."""
        await self._sleep(FIRST_LOOK.total_seconds())
        while True:
            seconds = _SWEEP.total_seconds()
            try:
                _ = await self.tick("schedule")
                await self._calendar.note_tick()
                await self._emergency.sweep()
                wait = next_look(await self.due(), self._world.clock.now())
                seconds = min(wait.total_seconds(), 3600.0)
            except LockHeldError:
                self._worker.fenced.set()
            except AgentsError as error:
                self._alarm("rotation.tick", str(error))
            except Exception as error:  # noqa: BLE001  it must not take all rotations along
                self._alarm("rotation.tick", f"unexpected {type(error).__name__}")
            self._agents.drop_untaken()
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        if self._world.pause is None:
            await anyio.sleep(seconds)
        else:
            await self._world.pause(seconds, anyio.Event())

    def _alarm(self, name: str, result: str, role: str = "") -> None:
        now = self._world.clock.now()
        self._world.tell(Event(name, now, role=role, result=result, alarm=True))
