"""Looks for signs of life of one process that is alive to the engine."""

from enum import Enum, auto
from typing import final

import anyio

from orchestrator.clock import Clock
from orchestrator.control.dataplane import DataPlane
from orchestrator.control.lifecycle import Silence, after_silence
from orchestrator.errors import UpstreamError
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.identity import look_up, processor_seconds


class Sign(Enum):
    """What a look found."""

    ALIVE = auto()
    SILENT = auto()
    LOST = auto()  # the gateway does not reach it any more
    WEDGED = auto()


@final
class Vigil:
    """Remembers how long a process has been silent."""

    def __init__(self, spec: WorkloadSpec, pid: int, plane: DataPlane, clock: Clock) -> None:
        """Begin; the process is taken for alive."""
        self._spec = spec
        self._pid = pid
        self._plane = plane
        self._clock = clock
        self._silence = Silence(worked=processor_seconds(pid))

    @property
    def misses(self) -> int:
        """Missing signs in a row."""
        return self._silence.misses

    async def look(self) -> Sign:
        """Look once; a quiet process is asked, which may take the probe's patience."""
        probe, pulse = self._spec.probe, self._plane.pulse(self._spec.name)
        if (
            pulse is not None
            and self._clock.monotonic() - pulse.heard < probe.every.total_seconds()
        ):
            return self._alive()
        asked = self._clock.monotonic()
        with anyio.move_on_after(probe.patience.total_seconds()):
            try:
                await self._plane.ping(self._spec.name)
            except UpstreamError:
                return Sign.LOST
            return self._alive()
        # Where it was this process that had no turn, its answer may be here all the same.
        pulse = self._plane.pulse(self._spec.name)
        if pulse is None or pulse.heard >= asked:
            return self._alive()
        self._silence, wedged = after_silence(
            self._silence,
            pulse,
            probe,
            now=self._clock.monotonic(),
            worked=processor_seconds(self._pid),
            waits=_waits_for_its_turn(self._pid),
        )
        return Sign.WEDGED if wedged else Sign.SILENT

    def _alive(self) -> Sign:
        self._silence = Silence(worked=processor_seconds(self._pid))
        return Sign.ALIVE


def _waits_for_its_turn(pid: int) -> bool:
    """Tell whether a process would go on if only the machine gave it a processor."""
    facts = look_up(pid)
    return facts is not None and facts.state == "R"
