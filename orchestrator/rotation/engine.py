"""Rotations: planned, worked on, looked at, and decided on by people."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final, final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from pydantic import SecretStr

from orchestrator.errors import (
    AgentsError,
    LockHeldError,
    RotationBusyError,
    RotationError,
    RotationUnknownError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, State
from orchestrator.rotation import agent as agents
from orchestrator.rotation import upstream
from orchestrator.rotation.calendar import Calendar
from orchestrator.rotation.decisions import Decisions
from orchestrator.rotation.drive import Driver, Tools, Worker
from orchestrator.rotation.emergency import Emergency
from orchestrator.rotation.known import Parts, Turn
from orchestrator.rotation.planner import Planner
from orchestrator.rotation.ports import Credential
from orchestrator.rotation.proof import Prover
from orchestrator.rotation.schedule import Due, next_look
from orchestrator.rotation.states import is_inside, place
from orchestrator.rotation.timing import Elapsed
from orchestrator.rotation.vouching import Vouching
from orchestrator.rotation.world import World
from orchestrator.tokens.record import USABLE

# The daemon has enough to do when it starts.
FIRST_LOOK: Final = timedelta(minutes=2)
_SWEEP: Final = timedelta(minutes=5)


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
            rule=lambda role: None if (rule := world.rule(role)) is None else rule.upstream,
            clock=world.clock,
            fingerprint_key=world.fingerprint_key or os.urandom(32),
        )
        self._upstream = upstream.UpstreamDriver(parts, self._turn, elapsed, prover)
        self._agents = agents.AgentDriver(
            agents.Parts(
                desk=world.desk,
                index=world.index,
                deliverer=world.deliverer,
                rule=lambda role: None if (rule := world.rule(role)) is None else rule.agent,
                streams_open=world.streams_open,
                changing=world.changing,
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
            closures=world.closures,
            desk=world.desk,
            worker=self._worker,
            prover=prover,
            tell=world.tell,
            sleep=self._sleep,
        )
        self._vouching = Vouching(parts, world.tell)
        self._planner = Planner(world, self._calendar, self._drive, self.follow)

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
            group.start_soon(self._finish_emergencies)
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
        return await self._planner.plan(role, purpose, agent, reason=reason, by=by)

    async def tick(self, by: str) -> tuple[Rotation, ...]:
        """Begin what is due; only reads when nothing is."""
        return await self._planner.tick(by)

    async def first(self, role: RoleName) -> None:
        """Make sure that a role that is about to start has an upstream credential that lives.

        Raises:
            RotationError: It cannot be made, or a person has to.
        """
        await self._running.wait()
        await self._planner.first(role)

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

    async def vouch(self, receipt_id: str, by: str) -> JsonObject | None:
        """Take a person's word that they ended what a `revoke_all` did not see dead.

        Returns:
            Its receipt as it is now; None if there is none with this id.

        Raises:
            RotationUnknownError: Nothing of it waits for a word.
            RotationError: An issuer still accepts one of them.
        """
        return await self._vouching.vouch(receipt_id, by)

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

    async def reopen(self, role: RoleName, by: str) -> bool:
        """Let a role run again, with fresh credentials; tells whether it was closed.

        Raises:
            RotationError: It is not applied.
        """
        rule = self._world.rule(role)
        if rule is None:
            raise RotationUnknownError(f"role {role} is not applied here")
        if self._emergency.under_way(role):
            raise RotationError(
                f"`agents revoke-all` of role {role} is not carried out to its end yet",
                hint="`agents status` tells what it waits for; then reopen once more.",
            )
        was_closed = self._world.desk.is_closed(role)
        # A second time finishes what an error kept the first one from.
        await self._world.instances.reopen(role)
        self._world.desk.reopen(role)
        await anyio.to_thread.run_sync(self._world.desk.keep_workstation_tokens, [role])
        records = await anyio.to_thread.run_sync(self._world.desk.list)
        served = {one.agent for one in records if one.role == role and one.state in USABLE}
        for agent in rule.agent.deliver:
            if agent not in served:
                with suppress(RotationBusyError):
                    _ = await self.plan(role, "agent", agent, reason="reopened", by=by)
        return was_closed

    # How it works.

    def _drive(self, rotation: Rotation) -> Rotation:
        if self._group is not None and rotation.state is not State.HELD:
            self._group.start_soon(self._worker.drive, rotation.id)
        return rotation

    async def _finish_emergencies(self) -> None:
        try:
            await self._emergency.keep()
        except LockHeldError:
            self._worker.fenced.set()

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
                self._world.alarm(str(error))
            except Exception as error:  # noqa: BLE001  it must not take all rotations along
                self._world.alarm(f"unexpected {type(error).__name__}")
            self._agents.drop_untaken()
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        if self._world.pause is None:
            await anyio.sleep(seconds)
        else:
            await self._world.pause(seconds, anyio.Event())
