"""Begins rotations: those that are asked for, those that are due, and a role's first one."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import final

import anyio.to_thread

from orchestrator.errors import RotationError, RotationUnknownError
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.rotation import Purpose, Rotation, State
from orchestrator.rotation.calendar import Calendar
from orchestrator.rotation.events import event_of
from orchestrator.rotation.world import World
from orchestrator.tokens.record import USABLE


@final
class Planner:
    """Writes rotations down, then has them worked on."""

    def __init__(
        self,
        world: World,
        calendar: Calendar,
        drive: Callable[[Rotation], Rotation],
        follow: Callable[[str], AsyncGenerator[Rotation]],
    ) -> None:
        """Prepare.

        Args:
            world: What it works with.
            calendar: Tells what is due.
            drive: Has a rotation worked on.
            follow: Gives a rotation at each of its changes, until it is finished or held.
        """
        self._world = world
        self._calendar = calendar
        self._drive = drive
        self._follow = follow

    async def plan(
        self, role: RoleName, purpose: Purpose, agent: str = "", *, reason: str, by: str
    ) -> Rotation:
        """Begin to replace a credential; on disk before this returns.

        Raises:
            RotationBusyError: That is under way.
            RotationError: It cannot be replaced.
        """
        self._world.desk.require_open(role)
        # First of all: a token that is being replaced is one of two.
        await anyio.to_thread.run_sync(self._world.store.require_free, role, purpose, agent)
        if purpose == "agent":
            old = await self._token_of(role, agent)
        else:
            current = await anyio.to_thread.run_sync(self._world.store.current, role)
            old = "" if current is None else current.version
        return await self._begin(role, purpose, agent, old, reason=reason, by=by)

    async def tick(self, by: str) -> tuple[Rotation, ...]:
        """Begin what is due; only reads when nothing is."""
        choice = await self._calendar.choose()
        if choice.problem:
            self._world.alarm(choice.problem)
        begun: list[Rotation] = []
        for one in choice.wanted:
            plan = partial(self.plan, one.role, one.purpose, one.agent, reason="due", by=by)
            try:
                begun.append(await plan())
            except RotationError as error:
                self._world.alarm(f"{one.agent or one.role}: {error}", one.role)
        return tuple(begun)

    async def first(self, role: RoleName) -> None:
        """Make sure that a role that is about to start has an upstream credential that lives.

        Raises:
            RotationError: It cannot be made, or a person has to.
        """
        current = await anyio.to_thread.run_sync(self._world.store.current, role)
        now = self._world.clock.now()
        if current is not None and (current.expires_at is None or now < current.expires_at):
            return
        found = await anyio.to_thread.run_sync(self._world.store.unfinished)
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
        async with aclosing(self._follow(rotation.id)) as changes:
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

    async def _begin(  # noqa: PLR0913  facts of one row
        self, role: RoleName, purpose: Purpose, agent: str, old: str, *, reason: str, by: str
    ) -> Rotation:
        rule = self._world.rule(role)
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
        await anyio.to_thread.run_sync(self._world.store.plan, rotation)
        self._world.tell(event_of("rotation.planned", rotation, now, result=reason))
        return self._drive(rotation)

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
