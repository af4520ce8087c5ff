"""Containers that were seen running, known by their process; so also without the engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from orchestrator.model.names import WorkloadName
from orchestrator.model.workload import WorkloadExit
from orchestrator.runtimes.docker_engine import Engine
from orchestrator.runtimes.docker_events import Died
from orchestrator.runtimes.identity import boot_id, is_alive, look_up


@dataclass(frozen=True, slots=True)
class Running:
    """A container that was seen running.

    Attributes:
        container: Its id.
        pid: Its first process, as this machine counts.
        started: That process's start, so that no other one is taken for it.
    """

    container: str
    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """Whether that process still runs."""
        return is_alive(self.pid, self.started, boot_id())


@final
class Register:
    """All of them, by workload and by id."""

    def __init__(self, engine: Engine) -> None:
        """Know of none yet."""
        self._engine = engine
        self._running: dict[WorkloadName, Running] = {}
        self._ids: dict[str, tuple[WorkloadName, Running]] = {}

    def knows(self, name: WorkloadName) -> bool:
        """Tell whether a workload's container was seen, and not stopped since."""
        return name in self._running

    def known(self, name: WorkloadName) -> Running | None:
        """Tell a workload's container, if its process still runs."""
        running = self._running.get(name)
        return running if running is not None and running.is_alive else None

    def alive(self) -> Mapping[WorkloadName, Running]:
        """Tell all whose process still runs."""
        return {name: running for name, running in self._running.items() if running.is_alive}

    async def look(self, name: WorkloadName, container: str) -> Running | None:
        """Tell the process of a running container; None if it does not run any more."""
        known = self.known(name)
        if known is not None and known.container == container:
            return known
        found = await self._engine.ask(lambda client: client.find(container))
        facts = look_up(found.state.pid) if found is not None and found.state.pid else None
        if found is None or facts is None or not found.state.running:
            return None
        running = Running(container, found.state.pid, facts.started)
        self._running[name] = running
        self._ids[container] = (name, running)
        return running

    def forget(self, name: WorkloadName) -> None:
        """Forget a workload that was stopped; its end is still told."""
        _ = self._running.pop(name, None)

    def forget_ended(self) -> None:
        """Forget ids of those that ended while nobody could tell."""
        for each in [one for one, its in self._ids.items() if not its[1].is_alive]:
            del self._ids[each]

    def end_of(self, died: Died) -> WorkloadExit | None:
        """Tell whose end the engine's news is; None if it is nobody's that was seen."""
        known = self._ids.pop(died.container, None)
        if known is None:
            return None
        name, running = known
        return WorkloadExit(name=name, pid=running.pid, code=died.code, cause=died.cause)
