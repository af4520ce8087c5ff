"""Incidents: one command for the day on which a role does what it must not, gone on after a crash.

Refusing comes first, in memory; then each step is on disk before the next one begins. A step of
the start that fails is told and the next one is taken; a step of the close that fails stops it.
"""

import secrets
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.control.incident_steps import Done, Steps, missing
from orchestrator.errors import AgentsError, IncidentUnknownError, NotRunningError, RotationError
from orchestrator.model.incident import CLOSE_STEPS, START_STEPS, Incident, IncidentStep, StepName
from orchestrator.model.names import RoleName
from orchestrator.model.notes import NoteFields, Notes

if TYPE_CHECKING:
    # It brings SQLAlchemy, which the daemon loads beside its first instances' start.
    from orchestrator.guards.cases import IncidentStore

RETRY_SECONDS: Final = 1.0
_UNDER_WAY: Final = frozenset({"opening", "closing"})


@final
class Incidents:
    """Starts and closes incidents. Belongs to the event loop; `run` does the work."""

    def __init__(  # noqa: PLR0913  what it brings together
        self,
        known: Iterable[Incident],
        *,
        steps: Steps,
        store: "IncidentStore",
        notes: Notes,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        """Prepare.

        Args:
            known: Incidents as an earlier daemon left them, the oldest first.
            steps: Takes single steps.
            store: Where incidents are kept.
            notes: Where people's decisions are told.
            clock: Where time comes from.
            log: Structured log.
        """
        self._known = {one.id: one for one in known}
        self._steps = steps
        self._store = store
        self._notes = notes
        self._clock = clock
        self._log = log
        self._group: TaskGroup | None = None
        self._running = anyio.Event()
        self._busy: set[str] = set()
        self._news = anyio.Event()
        # What stopped a close, by incident; and what is not on disk, or not in the record.
        self._trouble: dict[str, AgentsError] = {}
        self._unwritten: set[str] = set()
        self._untold: list[tuple[str, NoteFields]] = []

    def all(self) -> tuple[Incident, ...]:
        """Tell all incidents, the newest first."""
        return tuple(reversed(self._known.values()))

    def get(self, incident_id: str) -> Incident:
        """Tell one incident.

        Raises:
            IncidentUnknownError: There is none with this id.
        """
        incident = self._known.get(incident_id)
        if incident is None:
            raise IncidentUnknownError(
                f"there is no incident {incident_id}", hint="`agents incident list` tells them."
            )
        return incident

    def require_none(self, role: RoleName) -> None:
        """Refuse to open a role again behind an incident's back.

        Raises:
            RotationError: One is open.
        """
        incident = self._open_at(role)
        if incident is not None:
            raise RotationError(
                f"role {role} is held by incident {incident.id}",
                hint=f"`agents incident close {incident.id}` comes first.",
            )

    async def run(self) -> None:
        """Go on with what an earlier daemon left, and work until cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            for incident in tuple(self._known.values()):
                if incident.state in _UNDER_WAY:
                    self._begin(incident.id)
            self._running.set()
            await self._keep()

    async def start(
        self, role: RoleName, applied: Collection[RoleName], *, reason: str, by: str
    ) -> AsyncGenerator[Incident]:
        """Start an incident, and tell it after each step; one that is open already is told.

        Raises:
            NotRunningError: The role is not applied.
        """
        if role not in applied:
            raise NotRunningError(
                f"role {role} is not running here; nothing was done",
                hint=f"Running: {', '.join(applied) or 'none'}.",
            )
        incident = self._open_at(role)
        # One that is being closed is no help any more.
        if incident is None or incident.state == "closing":
            now = self._clock.now()
            incident = Incident(
                id=f"inc-{now:%Y%m%d}-{secrets.token_hex(3)}",
                role=role,
                state="opening",
                reason=reason,
                by=by,
                started_at=now,
            )
            self._known[incident.id] = incident
            self._steps.hold_now(incident)
            self._begin(incident.id)
        async for one in self._follow(incident.id):
            yield one

    async def close(self, incident_id: str, *, reason: str, by: str) -> AsyncGenerator[Incident]:
        """Undo what may be undone, and tell the incident after each step.

        Raises:
            IncidentUnknownError: There is none with this id, or it is closed already, or its start
                is still under way.
            AgentsError: A step could not be taken; what was done before it stays done.
        """
        incident = self.get(incident_id)
        if incident.state in {"opening", "closed"}:
            what = "is closed already" if incident.state == "closed" else "has not begun whole yet"
            raise IncidentUnknownError(f"incident {incident_id} {what}")
        if incident.state == "open":
            fields = {"incident": incident.id, "role": incident.role, "by": by, "reason": reason}
            await self._notes.tell("incident.closing", {k: v for k, v in fields.items() if v})
            closing = incident.model_copy(
                update={
                    "state": "closing",
                    "close_reason": reason,
                    "closed_by": by,
                    "closed_at": self._clock.now(),
                }
            )
            await anyio.to_thread.run_sync(self._store.put, closing)
            self._known[incident.id] = closing
        _ = self._trouble.pop(incident_id, None)
        self._begin(incident_id)
        async for one in self._follow(incident_id):
            yield one
        trouble = self._trouble.get(incident_id)
        if trouble is not None:
            raise trouble

    def notes(self) -> tuple[str, ...]:
        """Tell what a person should know, in sentences."""
        found = [one for one in self._known.values() if one.state != "closed"]
        told = [f"incident {one.id} at {one.role} is {one.state}: {one.reason}" for one in found]
        if self._unwritten or self._untold:
            told.append("An incident is NOT on disk: free space; the daemon goes on trying")
        return tuple(told)

    def _open_at(self, role: RoleName) -> Incident | None:
        """Tell the incident of a role that is not closed, the newest if there are two."""
        found = (one for one in self.all() if one.role == role and one.state != "closed")
        return next(found, None)

    def _begin(self, incident_id: str) -> None:
        if self._group is not None and incident_id not in self._busy:
            self._busy.add(incident_id)
            self._group.start_soon(self._drive, incident_id)

    async def _follow(self, incident_id: str) -> AsyncGenerator[Incident]:
        """Give an incident now and at each change, until nothing is under way."""
        await self._running.wait()
        self._begin(incident_id)  # what was asked for before `run`
        last = None
        while True:
            news, incident = self._news, self._known[incident_id]
            if incident != last:
                yield incident
            last = incident
            if incident_id not in self._busy:
                return
            await news.wait()

    async def _drive(self, incident_id: str) -> None:
        try:
            if not self._known[incident_id].steps:
                await self._write(incident_id)
                await self._tell("incident.started", self._known[incident_id])
            while self._known[incident_id].state in _UNDER_WAY:
                await self._advance(incident_id)
        except AgentsError as error:
            self._trouble[incident_id] = error
        finally:
            self._busy.discard(incident_id)
            self._change()

    async def _advance(self, incident_id: str) -> None:
        """Take the next step, or be done.

        Raises:
            AgentsError: A step of the close could not be taken.
        """
        incident = self._known[incident_id]
        is_closing = incident.state == "closing"
        name = missing(incident, CLOSE_STEPS if is_closing else START_STEPS)
        if name is None:
            state = "closed" if is_closing else "open"
            self._known[incident_id] = incident.model_copy(update={"state": state})
            await self._write(incident_id)
            await self._tell("incident.closed" if is_closing else "incident.open", incident)
            return
        began = self._clock.monotonic()
        done = await self._take(incident, name)
        step = IncidentStep(
            name=name,
            at=self._clock.now(),
            took_ms=round((self._clock.monotonic() - began) * 1000, 3),
            ok=done.ok,
            note=done.note,
            facts=done.facts,
        )
        incident = self._known[incident_id]
        field = "close_steps" if is_closing else "steps"
        taken = (*(incident.close_steps if is_closing else incident.steps), step)
        remaining = tuple(dict.fromkeys((*incident.remaining, *done.remaining)))
        self._known[incident_id] = incident.model_copy(
            update={field: taken, "remaining": remaining}
        )
        self._log.info("incident step", incident=incident_id, step=name, ok=done.ok)
        await self._write(incident_id)
        self._change()

    async def _take(self, incident: Incident, name: StepName) -> Done:
        try:
            return await self._steps.by_name[name](incident)
        except AgentsError as error:
            if incident.state == "closing":
                raise
            return Done(ok=False, note=str(error))
        except Exception as error:  # noqa: BLE001  the steps that are left matter more
            self._log.exception("an incident's step failed", incident=incident.id, step=name)
            words = f"unexpected {type(error).__name__}; see the daemon's log"
            if incident.state == "closing":
                raise AgentsError(f"{name}: {words}") from None
            return Done(ok=False, note=words)

    async def _write(self, incident_id: str) -> None:
        """Keep an incident; where it cannot be kept, that is tried again, and told."""
        incident = self._known[incident_id].model_copy(update={"durable": True})
        try:
            await anyio.to_thread.run_sync(self._store.put, incident)
        except AgentsError as error:
            if incident.state == "closing":
                raise
            self._log.error("an incident is not on disk", detail=str(error))
            self._unwritten.add(incident_id)
            self._known[incident_id] = incident.model_copy(update={"durable": False})
        else:
            self._unwritten.discard(incident_id)
            self._known[incident_id] = incident

    async def _tell(self, event: str, incident: Incident) -> None:
        fields = {"incident": incident.id, "role": incident.role, "by": incident.by}
        fields["reason"] = incident.reason
        if event == "incident.closed":
            fields |= {"by": incident.closed_by, "reason": incident.close_reason}
        told = {name: text for name, text in fields.items() if text}
        try:
            await self._notes.tell(event, told)
        except AgentsError:
            self._untold.append((event, told))

    async def _keep(self) -> None:
        """Write and tell what could not be before."""
        while True:
            for incident_id in tuple(self._unwritten):
                await self._write(incident_id)
            while self._untold:
                with suppress(AgentsError):
                    await self._notes.tell(*self._untold[0])
                    del self._untold[0]
                    continue
                break
            await anyio.sleep(RETRY_SECONDS)

    def _change(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()
