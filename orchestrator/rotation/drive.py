"""Works on rotations: takes steps, writes each down, waits, tries again."""

import errno
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, Protocol, final

import anyio
import anyio.to_thread
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError, LockHeldError, StateUnwritableError
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, State
from orchestrator.rotation.events import Event, Tell, event_of
from orchestrator.rotation.known import Turn
from orchestrator.rotation.states import (
    EVENTS,
    Hold,
    Move,
    Outcome,
    Wait,
    held,
    is_inside,
    moved,
    undo_of,
)
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.timing import Elapsed, until

# How often a step is tried before the rotation is taken back, where it still can be.
PATIENCE: Final = 5
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 600.0
_SHORTEST_PAUSE: Final = 0.01
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class Driver(Protocol):
    """Knows the steps for one of the two credentials."""

    async def step(self, rotation: Rotation) -> Outcome:
        """Take the next step; a step may be taken again."""
        ...

    async def can_undo(self, rotation: Rotation) -> bool:
        """Tell whether the old credential still works."""
        ...

    async def doubt(self, rotation: Rotation) -> str:
        """Tell what a person has to find out before a rotation is given up; empty if nothing."""
        ...

    def note_resumed(self, rotation: Rotation) -> None:
        """A person lets the rotation go on."""
        ...

    def forget(self, rotation: Rotation) -> None:
        """Forget a rotation that is over."""
        ...


async def pause_for(seconds: float, wake: anyio.Event) -> None:
    """Wait for a time, or until something changed."""
    with anyio.move_on_after(seconds):
        await wake.wait()


def back_off(tries: int, chance: float) -> float:
    """Tell the seconds before another try.

    Args:
        tries: How often it failed, from 1.
        chance: Between 0 and 1: those that failed together do not come back together.
    """
    return chance * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What work on rotations needs.

    Attributes:
        store: Where they are.
        drivers: Who knows the steps, by purpose.
        turn: Whose turn it is among upstream credentials.
        elapsed: Tells how long a rotation has been somewhere.
        clock: Where time comes from.
        tell: Is told what happens.
        log: Structured log.
        pause: Waits.
        chance: A number between 0 and 1.
    """

    store: RotationStore
    drivers: Mapping[Purpose, Driver]
    turn: Turn
    elapsed: Elapsed
    clock: Clock
    tell: Tell
    log: FilteringBoundLogger
    pause: Callable[[float, anyio.Event], Awaitable[None]] = pause_for
    chance: Callable[[], float] = random.random


@final
class Worker:
    """Works on rotations, each in a task of its own.

    Attributes:
        news: Is set at the next change of any rotation, and replaced.
        fenced: Is set when somebody else took the database over.
    """

    def __init__(self, tools: Tools) -> None:
        """Prepare."""
        self.news: anyio.Event = anyio.Event()
        self.fenced: anyio.Event = anyio.Event()
        self._tools = tools
        tools.turn.on_free = self.wake
        self._locks: dict[str, anyio.Lock] = {}
        self._wakes: dict[str, anyio.Event] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._ends: dict[str, anyio.Event] = {}
        # Failures that could not even be written down.
        self._stumbles: dict[str, int] = {}

    async def drive(self, rotation_id: str) -> None:
        """Work on a rotation until it is finished, is held, or is stopped here."""
        if rotation_id in self._scopes:
            self.wake(rotation_id)
            return
        end = self._ends[rotation_id] = anyio.Event()
        try:
            with anyio.CancelScope() as scope:
                self._scopes[rotation_id] = scope
                await self._work(rotation_id)
        except LockHeldError as error:
            self._tools.log.warning("another process works on the rotations", detail=str(error))
            self.fenced.set()
        finally:
            del self._scopes[rotation_id]
            _ = self._wakes.pop(rotation_id, None)
            end.set()

    def wake(self, rotation_id: str) -> None:
        """Have a rotation looked at now."""
        self._wakes.pop(rotation_id, anyio.Event()).set()

    async def stop(self, rotation_id: str) -> None:
        """End the work on a rotation, wherever it is."""
        scope = self._scopes.get(rotation_id)
        if scope is not None:
            scope.cancel()
            await self._ends[rotation_id].wait()

    def lock(self, rotation_id: str) -> anyio.Lock:
        """Give the lock of a rotation: whoever changes it has it."""
        return self._locks.setdefault(rotation_id, anyio.Lock())

    async def write(
        self,
        before: Rotation,
        after: Rotation,
        move: Move | Hold | None = None,
        *,
        name: str = "",
        alarm: bool = False,
    ) -> Rotation:
        """Write a change down, then tell it.

        Args:
            before: What the rotation was.
            after: What it is.
            move: What else changes with it.
            name: What happened; by default, the name of the new state.
            alarm: Whether a person should look.
        """
        tools = self._tools
        write = partial(
            tools.store.write,
            before,
            after,
            stages={} if move is None else move.stages,
            asks=move.asks if isinstance(move, Move) else None,
        )
        await anyio.to_thread.run_sync(write)
        _ = self._stumbles.pop(after.id, None)
        (tools.turn.take if is_inside(after) else tools.turn.give_back)(after.id)
        if after.state in FINISHED:
            tools.drivers[after.purpose].forget(before)
            tools.elapsed.forget(after.id)
        result = after.held_for if after.state is State.HELD else ""
        if isinstance(move, Move):
            result = move.error
        told = event_of(
            f"rotation.{name or EVENTS[after.state]}",
            after,
            tools.clock.now(),
            before=before.state,
            result=result,
            latency=(tools.clock.now() - before.changed_at).total_seconds(),
            alarm=alarm,
        )
        tools.tell(told)
        if after.state is State.DONE and after.old:
            self._tell_death(after, told)
        self._tell_news()
        return after

    def _tell_death(self, rotation: Rotation, done: Event) -> None:
        proof = (rotation.receipt or {}).get("proof")
        seen = isinstance(proof, dict) and proof.get("proved") is True
        name = "rotation.proved_dead" if seen else "rotation.not_proved"
        self._tools.tell(replace(done, name=name, credential=rotation.old))

    def _tell_news(self) -> None:
        self.news, before = anyio.Event(), self.news
        before.set()

    async def _work(self, rotation_id: str) -> None:
        store = self._tools.store
        while True:
            # What wakes from here on is about the state that is read now, or a later one.
            wake = self._wakes[rotation_id] = anyio.Event()
            async with self.lock(rotation_id):
                try:
                    rotation = await anyio.to_thread.run_sync(store.get, rotation_id)
                except StateUnwritableError:
                    seconds = self._stumble(rotation_id)
                else:
                    if rotation.state in FINISHED or rotation.state is State.HELD:
                        return
                    seconds = until(rotation.not_before, self._tools.clock, LONGEST_PAUSE)
                    if not seconds:
                        seconds = await self._step(rotation)
            if seconds:
                await self._tools.pause(seconds, wake)

    async def _step(self, rotation: Rotation) -> float:
        """Take a step; tells the seconds to wait before the next one."""
        tools = self._tools
        try:
            outcome = await tools.drivers[rotation.purpose].step(rotation)
            return await self._write_down(rotation, outcome)
        except LockHeldError:
            raise
        except StateUnwritableError as error:
            return self._wait_for_room(rotation, str(error))
        except AgentsError as error:
            return await self._failed(rotation, str(error))
        except OSError as error:
            problem = error.strerror or "a file cannot be used"
            if error.errno in _NO_ROOM:
                return self._wait_for_room(rotation, problem)
            return await self._failed(rotation, problem)
        except Exception as error:  # noqa: BLE001  one rotation must not take the others along
            # Neither its text nor its traceback: a library may have put a credential there.
            kind = type(error).__name__
            tools.log.warning("rotation failed unexpectedly", rotation=rotation.id, kind=kind)
            return await self._failed(rotation, f"something unexpected went wrong ({kind})")

    async def _write_down(self, rotation: Rotation, outcome: Outcome) -> float:
        now = self._tools.clock.now()
        match outcome:
            case Wait(seconds):
                # What is left of a time may be less than a clock can show.
                return max(seconds, _SHORTEST_PAUSE)
            case Hold(why):
                after = held(rotation, why, now)
                _ = await self.write(rotation, after, outcome, alarm=True)
            case Move(alarm=alarm):
                after = moved(rotation, outcome, now)
                _ = await self.write(rotation, after, outcome, alarm=alarm)
        return 0.0

    async def _failed(self, rotation: Rotation, problem: str) -> float:
        """Write a failure down, and take the rotation back if it failed too often."""
        tools, now = self._tools, self._tools.clock.now()
        tries = rotation.tries + 1
        try:
            undo = undo_of(rotation)
            driver = tools.drivers[rotation.purpose]
            if tries >= PATIENCE and undo is not None and await driver.can_undo(rotation):
                if doubt := await driver.doubt(rotation):
                    after = held(rotation, doubt, now).model_copy(update={"error": problem})
                    _ = await self.write(rotation, after, alarm=True)
                    return 0.0
                move = Move(undo, error=problem, alarm=True)
                _ = await self.write(rotation, moved(rotation, move, now), move, alarm=True)
                return 0.0
            seconds = back_off(tries, tools.chance())
            after = rotation.model_copy(
                update={
                    "error": problem,
                    "tries": tries,
                    "not_before": now + timedelta(seconds=seconds),
                    "changed_at": now,
                }
            )
            alarm = tries % PATIENCE == 0
            move = Move(rotation.state, error=problem)
            _ = await self.write(rotation, after, move, name="tried", alarm=alarm)
        except StateUnwritableError:
            return self._stumble(rotation.id)
        return seconds

    def _wait_for_room(self, rotation: Rotation, problem: str) -> float:
        """Leave the state as it is: it is no fault of the rotation."""
        self._tools.log.warning("rotation waits", rotation=rotation.id, detail=problem)
        return self._stumble(rotation.id)

    def _stumble(self, rotation_id: str) -> float:
        tries = self._stumbles[rotation_id] = self._stumbles.get(rotation_id, 0) + 1
        return max(back_off(tries, self._tools.chance()), 0.1)
